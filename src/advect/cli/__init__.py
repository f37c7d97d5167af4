"""The command. `advect --help` must stay quick: a verb's own imports happen when the verb runs."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from advect.cli.codes import INTERRUPTED

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave with its exit code.

    From the first moment Ctrl-C and SIGTERM end it with one line and 130; `train` then takes them over for as long as
    there is a state worth keeping.
    """
    try:
        signal.signal(signal.SIGTERM, _terminate)
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


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
