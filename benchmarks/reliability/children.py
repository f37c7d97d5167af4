"""advect in a process of its own that starts at once and may be killed at any moment.

The child is forked from a process that has imported advect, so that hundreds of runs do not wait for hundreds of
imports. To the system it is a process like any other: its locks, files and memory go when it is killed.
"""

import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 300.0  # seconds after which a child counts as stuck
_TICK = 0.005


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        code: Its exit code; minus the signal that ended it.
        seconds: How long it ran.
        cpu_seconds: Of the processor.
        said: What it wrote to its standard output and error.
    """

    code: int
    seconds: float
    cpu_seconds: float
    said: str

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.code == -signal.SIGKILL


class Child:
    """A forked process that does some work in a folder.

    Args:
        work: What it does; what it returns is its exit code.
        folder: Where it does it.
    """

    def __init__(self, work: Callable[[], int | None], folder: Path) -> None:
        self.started, self.said = time.monotonic(), b""
        sys.stdout.flush()
        sys.stderr.flush()
        self._ear, mouth = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._ear)
            _be(work, folder, mouth)
        os.close(mouth)
        os.set_blocking(self._ear, False)

    def wait(self, kill_after: float | None = None) -> Ended:
        """Wait until it has ended; after so many seconds it is killed.

        Raises:
            TimeoutError: It did not end by itself.
        """
        deadline = self.started + (PATIENCE if kill_after is None else kill_after)
        while (found := os.wait4(self.pid, os.WNOHANG))[0] == 0:
            self.listen()
            if time.monotonic() >= deadline:
                os.kill(self.pid, signal.SIGKILL)
                found = os.wait4(self.pid, 0)
                if kill_after is None:
                    raise TimeoutError(f"the child did not end in {PATIENCE:.0f} s: {self.listen()[-2000:]}")
                break
            time.sleep(_TICK)
        seconds, used = time.monotonic() - self.started, found[2].ru_utime + found[2].ru_stime
        said = self.listen()
        os.close(self._ear)
        return Ended(os.waitstatus_to_exitcode(found[1]), seconds, used, said)

    def listen(self) -> str:
        """What it has said until now."""
        try:
            while piece := os.read(self._ear, 1 << 16):
                self.said += piece
        except BlockingIOError:
            pass
        return self.said.decode("utf-8", errors="replace")


def _be(work: Callable[[], int | None], folder: Path, mouth: int) -> None:
    """The child's whole life; never returns."""
    code = 99
    try:
        os.dup2(mouth, 1)
        os.dup2(mouth, 2)
        os.close(mouth)
        sys.stdout = os.fdopen(1, "w", closefd=False)  # not those of a test runner
        sys.stderr = os.fdopen(2, "w", closefd=False)
        os.chdir(folder)
        code = work() or 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def command(*lines: str) -> Callable[[], int]:
    """The work of giving one or more commands of advect, until one fails."""

    def work() -> int:
        from advect.cli.app import run

        for line in lines:
            arguments = shlex.split(line)
            if code := run(arguments):
                return code
        return 0

    return work


def run(lines: Sequence[str], folder: Path) -> Ended:
    """Commands in a child that nobody disturbs.

    Raises:
        RuntimeError: One failed.
    """
    ended = Child(command(*lines), folder).wait()
    if ended.code != 0:
        raise RuntimeError(f"{'; '.join(lines)} ended with {ended.code}: {ended.said[-2000:]}")
    return ended
