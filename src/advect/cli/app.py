"""The verbs of ``advect`` and the one place where an error becomes a message and an exit code.

Exit codes: 0 done, 1 a check failed, 2 refused input or usage, 130 interrupted (128 + SIGINT).
"""

import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError

from advect.cli import evaluate, explain, look, report, sample, score, train, transport
from advect.cli.console import say_error
from advect.errors import AdvectError

DONE, CHECK_FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130

app = App(
    name="advect",
    help="Flow-based generative models: learn a distribution from samples, draw new ones, score rows, move populations.",
    version=lambda: version("advect"),
    help_format="plaintext",
)
for verb in (
    train.train,
    sample.sample,
    score.score,
    transport.transport,
    evaluate.evaluate,
    report.report,
    look.methods,
    look.data,
    explain.explain,
    look.doctor,
):
    app.command(verb)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code; every refusal is one message on standard error."""
    try:
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        return result if isinstance(result, int) else DONE
    except CycloptsError as error:
        say_error(f"{error} See `advect --help`.")
        return REFUSED
    except AdvectError as error:
        say_error(error.message)
        return REFUSED
    except KeyboardInterrupt:
        say_error("Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away; there is nobody left to tell
        return DONE
