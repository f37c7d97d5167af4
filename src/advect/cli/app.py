"""The verbs of ``advect`` and the one place where an error becomes a message and an exit code."""

import os
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError

from advect.cli import (
    animate,
    compare,
    evaluate,
    explain,
    look,
    report,
    sample,
    score,
    studio,
    train,
    transport,
    velocity,
    verify,
)
from advect.cli.codes import DONE, FAULT, INTERRUPTED, REFUSED
from advect.cli.console import say_error
from advect.cli.usage import refusal
from advect.errors import AdvectError

app = App(
    name="advect",
    help="Flow-based generative models: learn a distribution, draw new samples, score rows, move populations.\n\n"
    "advect VERB --help tells more. To begin: advect train moons --steps 1000",
    version=lambda: version("advect"),
    help_format="plaintext",
    suppress_keyboard_interrupt=False,  # `run` answers it
)
VERBS = (
    train.train,
    sample.sample,
    score.score,
    transport.transport,
    velocity.velocity,
    evaluate.evaluate,
    compare.compare,
    report.report,
    animate.animate,
    studio.studio,
    verify.verify,
    look.methods,
    look.data,
    explain.explain,
    look.doctor,
)
for place, verb in enumerate(VERBS):
    app.command(verb, sort_key=place)
SHARED = ("train", "sample", "score", "evaluate")
"""Verbs that several processes do together; of all others torchrun's first process does everything."""


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code; every refusal is one paragraph on standard error."""
    if os.environ.get("RANK", "0") != "0" and not {*arguments[:1]} <= {*SHARED}:
        return DONE
    try:
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        return result if isinstance(result, int) else DONE
    except CycloptsError as error:
        if _first_to_speak():
            say_error(refusal(error, list(app)).message)
        return REFUSED
    except AdvectError as error:
        if _first_to_speak():
            say_error(error.message)
        return REFUSED
    except KeyboardInterrupt:
        if _first_to_speak():
            say_error("Interrupted. What was written before stays.")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        if not _first_to_speak():
            return REFUSED if _out_of_memory(error) else FAULT
        if _out_of_memory(error):
            say_error("There is not enough memory for this. Ask for fewer rows at once, or use a smaller network.")
            return REFUSED
        if os.environ.get("ADVECT_TRACEBACK"):
            raise
        say_error(
            f"Something went wrong inside advect that should not have ({type(error).__name__}: {error}). What was "
            "written before stays. Give the command again with ADVECT_TRACEBACK=1 to see where, and report it."
        )
        return FAULT


def _first_to_speak() -> bool:
    """Whether no other process that torchrun started has told of an error: several say the same thing once."""
    if os.environ.get("WORLD_SIZE", "1") in ("", "1"):
        return True
    from advect.training import first_to_speak

    return first_to_speak()


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch says so with a RuntimeError of its own words."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "allocate memory" in text or "out of memory" in text
