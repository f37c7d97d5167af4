"""What the command shows: results on standard output, everything else on standard error.

With ``--json`` standard output carries one JSON object and nothing more.
"""

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

if TYPE_CHECKING:
    from advect.records import Finding, Progress
    from advect.workflows.preflight import Preflight

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def say_error(message: str) -> None:
    """One paragraph on standard error."""
    err.print(f"[bold red]error:[/] {escape(message)}")


def say(text: str) -> None:
    """A line on standard error."""
    err.print(escape(text))


def show(text: str = "") -> None:
    """A line on standard output."""
    out.print(escape(text))


def show_json(value: Mapping[str, Any]) -> None:
    """One JSON object on standard output; numbers JSON does not know become null."""
    sys.stdout.write(json.dumps(_plain(value), ensure_ascii=False) + "\n")


def show_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on standard output; tab-separated where that is no terminal."""
    rows = list(rows)
    if not out.is_terminal:
        for row in [heads, *rows]:
            sys.stdout.write("\t".join(row) + "\n")
        return
    table = RichTable(*heads, title=title or None, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    out.print(table)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, str | int | bool) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    return float(value) if hasattr(value, "__float__") else str(value)


class TerminalListener:
    """Shows a training as it goes: preflight, a live line, phases and notes; quiet with ``--json``."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._live = err.is_terminal and not quiet
        self._last_line = 0

    def note(self, text: str) -> None:
        """A sentence."""
        self._end_line()
        say(text)

    def phase(self, name: str) -> None:
        """A new phase."""
        if not self.quiet and name not in ("training",):
            self._end_line()
            say(f"{name} …")

    def preflight(self, preflight: "Preflight") -> None:
        """What is about to happen."""
        if not self.quiet:
            show_preflight(preflight, say)

    def progress(self, progress: "Progress") -> None:
        """The live line; where there is no terminal, a line every tenth of the way."""
        if self.quiet:
            return
        text = progress_line(progress)
        if self._live:
            sys.stderr.write("\r\x1b[2K" + text)
            sys.stderr.flush()
            self._last_line = 1
            if progress.step == progress.steps:
                self._end_line()
            return
        tenth = 10 * progress.step // max(progress.steps, 1)
        if tenth > self._last_line or progress.step == progress.steps:
            self._last_line = tenth
            say(text)

    def _end_line(self) -> None:
        if self._live and self._last_line:
            sys.stderr.write("\n")
            self._last_line = 0


def progress_line(progress: "Progress") -> str:
    """``step 1200/5000  loss 0.412  310 steps/s  12 s left  network 61 %, coupling 22 %``."""
    shares = sorted(progress.shares.items(), key=lambda item: -item[1])
    where = ", ".join(f"{name} {share:.0%}" for name, share in shares[:3] if share >= 0.05)
    rate = f"{progress.rate:.0f}" if progress.rate >= 10 else f"{progress.rate:.2g}"
    return (
        f"step {progress.step}/{progress.steps}  loss {progress.loss:.4g}  {rate} steps/s  "
        f"{duration(progress.seconds_left)} left  {where}"
    )


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if not math.isfinite(seconds):
        return "unknown time"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def show_preflight(preflight: "Preflight", line: Callable[[str], None]) -> None:
    """The preflight in lines."""
    line(preflight.data)
    for finding in preflight.findings:
        line(f"  {finding_line(finding)}")
    line(preflight.model)
    line(
        f"{preflight.steps} steps at {preflight.seconds_per_step * 1000:.2g} ms: "
        f"about {duration(preflight.seconds)} of training"
    )


def finding_line(finding: "Finding") -> str:
    """``total_bedrooms, missing: 207 gaps → an indicator column``."""
    return f"{finding.where}, {finding.kind}: {finding.message} → {finding.action}"
