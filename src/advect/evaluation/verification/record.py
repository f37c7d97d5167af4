"""What a verification says: one record per law, with size, place, tolerance and the likely fix."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

PASS, NOTE, FAIL, SKIPPED = "pass", "note", "fail", "skipped"


@dataclass(frozen=True)
class Check:
    """One law and how a path, a map or a solver stands to it.

    Attributes:
        law: Its name.
        status: ``pass``; ``note`` (it holds, and something should be known); ``fail``; ``skipped`` (could not be
            asked).
        message: What was found, in a sentence.
        value: By how much, in the unit that ``reason`` names; None where nothing was measured.
        error: Standard error of ``value``; None where no chance is involved.
        tolerance: The largest ``value`` that is accepted.
        reason: What ``value`` is and where the tolerance comes from.
        t: Time of the worst place.
        x: Coordinates of the worst place.
        fix: The likely remedy of a failure.
    """

    law: str
    status: str
    message: str
    value: float | None = None
    error: float | None = None
    tolerance: float | None = None
    reason: str = ""
    t: float | None = None
    x: tuple[float, ...] | None = None
    fix: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the law is broken."""
        return self.status == FAIL

    @property
    def size(self) -> str:
        """By how much, with its error and its tolerance, as text; empty where nothing was measured."""
        if self.value is None:
            return ""
        error = "" if self.error is None else f" ± {self.error:.1g}"
        return f"{self.value:.3g}{error}" + ("" if self.tolerance is None else f" (≤ {self.tolerance:.3g})")

    @property
    def place(self) -> str:
        """Where, as text; empty where the law has no place."""
        time = "" if self.t is None else f"t = {self.t:.6g}"
        if self.x is None:
            return time
        shown = ", ".join(f"{value:.3g}" for value in self.x[:_SHOWN]) + (", …" if len(self.x) > _SHOWN else "")
        return f"{time}, x = ({shown})" if time else f"x = ({shown})"


_SHOWN = 4


@dataclass(frozen=True)
class Verification:
    """All laws of one path, map or solver.

    Attributes:
        name: What was verified.
        checks: One record per law.
        rows: Pairs of rows behind every average; of maps and solvers the rows they were tried on.
        event_shape: Shape of one row.
        seed: Of every draw.
    """

    name: str
    checks: tuple[Check, ...]
    rows: int
    event_shape: tuple[int, ...]
    seed: int

    @property
    def passed(self) -> bool:
        """Whether no law is broken."""
        return not any(check.failed for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The laws that are broken."""
        return tuple(check for check in self.checks if check.failed)

    def __getitem__(self, law: str) -> Check:
        """The check of one law, by its name."""
        return {check.law: check for check in self.checks}[law]

    def plain(self) -> Mapping[str, Any]:
        """Values for JSON."""
        return {
            "name": self.name,
            "passed": self.passed,
            "rows": self.rows,
            "event_shape": list(self.event_shape),
            "seed": self.seed,
            "checks": [asdict(check) | {"x": None if check.x is None else list(check.x)} for check in self.checks],
        }

    def __str__(self) -> str:
        width = max((len(check.law) for check in self.checks), default=0)
        lines = [f"{self.name}: {'every law holds' if self.passed else 'broken'}"]
        for check in self.checks:
            lines.append(f"  {check.status:<7}  {check.law:<{width}}  {check.message}")
            if check.failed:
                where = [text for text in (check.place, check.size) if text]
                lines += [f"  {'':<7}  {'':<{width}}  {text}" for text in ("; ".join(where), check.fix) if text]
        return "\n".join(lines)
