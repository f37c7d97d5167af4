"""How a training looks while it goes: what was understood, a live line, phases and notes."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from advect.cli.console import duration, is_terminal, say, width

if TYPE_CHECKING:
    from advect.progress import Progress
    from advect.records import Finding
    from advect.workflows.preflight import Preflight

SHOWN_PROCESSES = 4
_OVERWRITE = "\r\x1b[2K"


class TerminalListener:
    """Shows a training on standard error; on a terminal as one live line, elsewhere a line every tenth of the way.

    Args:
        quiet: Show notes only.
        on_phase: Told the name of every phase as it begins.
    """

    def __init__(self, *, quiet: bool = False, on_phase: Callable[[str], None] = lambda _: None) -> None:
        self.quiet, self.on_phase = quiet, on_phase
        self._live = is_terminal()
        self._line_is_open = False
        self._tenth = 0

    def note(self, text: str) -> None:
        """A sentence."""
        self._end_line()
        say(text)

    def phase(self, name: str) -> None:
        """A new phase."""
        self._end_line()
        if not self.quiet and name != "training":
            say(f"{name} …")
        if name == "training":
            self._tenth = 0  # of several trainings each has its own lines
        self.on_phase(name)

    def preflight(self, preflight: "Preflight") -> None:
        """What is about to happen."""
        if not self.quiet:
            show_preflight(preflight, say)

    def progress(self, progress: "Progress") -> None:
        """The live line."""
        if self.quiet:
            return
        text = progress_line(progress)
        if self._live:
            room = width() - 1  # a line that wraps could not be written over
            while len(text) > room and ", " in text:
                text = text.rpartition(", ")[0]
            sys.stderr.write(_OVERWRITE + text[:room])
            sys.stderr.flush()
            self._line_is_open = True
            return
        tenth = 10 * progress.step // max(progress.steps, 1)
        if tenth > self._tenth or progress.step == progress.steps:
            self._tenth = tenth
            say(text)

    def close(self) -> None:
        """Nothing more will come: end the live line."""
        self._end_line()

    def _end_line(self) -> None:
        if self._line_is_open:
            sys.stderr.write("\n")
            self._line_is_open = False


def progress_line(progress: "Progress") -> str:
    """``step 1200/5000  loss 0.412  310 steps/s (79k rows/s)  12 s left  network 61%, coupling 22%  480 MB``.

    Rows are those that all processes together train on. Of several, each one's shares are shown: ``network 61/58%``;
    memory is that of this one.
    """
    shares = sorted(progress.shares.items(), key=lambda item: -item[1])
    where = ", ".join(f"{name} {_of_each(progress, name)}" for name, share in shares[:3] if share >= 0.05)
    left = "done" if progress.step == progress.steps else f"{_coarse(progress.seconds_left)} left"
    rate = f"{_short(progress.rate)} steps/s"
    rate += f" ({_short(progress.rows_per_second)} rows/s)" if progress.rows_per_second > 0 else ""
    left += f"  {progress.skipped} skipped" if progress.skipped else ""
    if progress.product_share == progress.product_share:
        where = f"{progress.product_share:.0%} of the device's products  {where}"
    if progress.memory == progress.memory:
        where += "  " * bool(where) + _bytes(progress.memory)
    return f"step {progress.step}/{progress.steps}  loss {progress.loss:.4g}  {rate}  {left}  {where}"


def _of_each(progress: "Progress", phase: str) -> str:
    """The share of a phase; of several processes that of each, or of the least and the most of many."""
    each = [shares.get(phase, 0.0) for shares in progress.processes] or [progress.shares[phase]]
    if len(each) > SHOWN_PROCESSES:
        return f"{min(each):.0%}…{max(each):.0%}"
    return "/".join(f"{100 * share:.0f}" for share in each) + "%"


def _short(rate: float) -> str:
    return f"{rate / 1000:.0f}k" if rate >= 10_000 else f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


def _bytes(number: float) -> str:
    return f"{number / 1e9:.2g} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def _coarse(seconds: float) -> str:
    return "under 1 s" if seconds < 1 else duration(seconds)


def show_preflight(preflight: "Preflight", line: Callable[[str], None]) -> None:
    """The preflight in lines."""
    line(preflight.data)
    for finding in preflight.findings:
        line(f"  {finding_line(finding)}")
    line(preflight.model)
    if preflight.seconds != preflight.seconds:  # NaN: a step takes all processes
        line(f"{preflight.steps} steps, by processes that share the weights")
        return
    line(
        f"{preflight.steps} steps at {preflight.seconds_per_step * 1000:.2g} ms: "
        f"about {duration(preflight.seconds)} of training"
    )


def finding_line(finding: "Finding") -> str:
    """``total_bedrooms, missing: 207 gaps → an indicator column``."""
    return f"{finding.where}, {finding.kind}: {finding.message} → {finding.action}"
