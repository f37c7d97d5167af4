"""The command. `advect --help` must stay quick: a verb's own imports happen when the verb runs."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from advect.cli.codes import INTERRUPTED

__all__ = ["main"]

# Turns that a thread of OpenMP waits awake for its neighbours before it sleeps. The usual 300,000 are quickest on an
# idle machine; where other work has the cores, a waiting thread takes the turn of the one it waits for: a step of a
# network of 3 × 256 units took 1200 ms instead of 66 on two busy cores. It changes no result.
BUSY_SPINS = "1000"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave with its exit code.

    From the first moment Ctrl-C and SIGTERM end it with one line and 130; `train` then takes them over for as long as
    there is a state worth keeping.
    """
    try:
        signal.signal(signal.SIGTERM, _terminate)
        _share_the_cores()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal without σ shows a question mark, not a traceback
        from advect.cli.app import run

        code = run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write("error: Interrupted. What was written before stays.\n")
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`advect data | head -1`): nobody is left to tell, and nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _share_the_cores() -> None:
    """On a busy machine threads wait asleep; to be said before torch is loaded, and never against the user's word."""
    if (
        hasattr(os, "getloadavg")
        and os.getloadavg()[0] > 0.5 * (os.cpu_count() or 1)
        and "OMP_WAIT_POLICY" not in os.environ
    ):
        os.environ.setdefault("GOMP_SPINCOUNT", BUSY_SPINS)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
