"""Every refusal of the gallery on one page: `python -m benchmarks.reliability.gallery`.

The cases are those of the tests, run in the same folder of small files and quickly trained runs.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import advect
from advect.cli.app import run
from advect.errors import AdvectError
from tests.faces.gallery_cases import FILES, FOLDERS, USAGE, VERBS, Case
from tests.faces.gallery_more import CALLS, LIES, MACHINES, MORE_VERBS, TIMED, TIMED_TRAIN, TIMES, Call
from tests.faces.made_runs import QUICK, cloud, houses

PAGE = Path(__file__).parents[1] / "results" / "reliability" / "gallery.md"
SECTIONS = {
    "Files": [*FILES, *LIES],
    "Words of the command": [*USAGE, *MACHINES],
    "Times": TIMES,
    "Run folders": FOLDERS,
    "Verbs": [*VERBS, *MORE_VERBS],
}


def prepare(folder: Path) -> None:
    """Small data sets and four runs, in the current folder's words."""
    folder.mkdir(parents=True)
    houses(folder / "houses.csv")
    cloud(folder / "cloud.csv", 0)
    cloud(folder / "other.csv", 3)
    (folder / "timed.csv").write_text("day,x,y\n" + TIMED)
    (folder / "foreign").mkdir()
    (folder / "foreign/thesis.txt").write_text("years of work\n")
    with contextlib.chdir(folder):
        for command in (
            f"train houses.csv {QUICK} --out run",
            f"train houses.csv {QUICK} --condition place --out conditional",
            f"train cloud.csv {QUICK} --source other.csv --out moved",
            TIMED_TRAIN,
        ):
            code, said = spoken(command)
            if code:
                raise RuntimeError(said)


def spoken(command: str) -> tuple[int, str]:
    """Exit code and standard error of a command in this process."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        code = run(shlex.split(command))
    return code, errors.getvalue()


def message(case: Case, pristine: Path, work: Path) -> str:
    """The paragraph that a case ends with."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(pristine, work)
    with contextlib.chdir(work):
        if case.damage is not None:
            case.damage(work)
        code, said = spoken(case.command)
    found = re.search(r"^error: .*", said, re.MULTILINE)
    if code != 2 or found is None:
        raise RuntimeError(f"{case.name}: {said}")
    return found[0]


def answer(call: Call, model: advect.Model) -> str:
    """The message of a call from Python."""
    names = {"advect": advect, "np": np, "torch": torch, "model": model}
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            eval(call.code, names)
    except AdvectError as error:
        return f"{type(error).__name__}: {error.message}"
    raise RuntimeError(f"{call.name}: nothing was refused")


def lines(folder: Path) -> Iterator[str]:
    """The page."""
    count = sum(map(len, SECTIONS.values())) + len(CALLS)
    yield "# What is refused"
    yield ""
    yield f"Written by `python -m benchmarks.reliability.gallery`: {count} bad inputs and what is said to each."
    pristine, work = folder / "pristine", folder / "work"
    prepare(work)  # runs know the absolute path of their data
    shutil.copytree(work, pristine)
    for title, cases in SECTIONS.items():
        yield from ("", f"## {title}")
        for case in cases:
            yield from ("", f"**{case.name}**", "", "```text", f"$ advect {case.command}")
            yield from (message(case, pristine, work), "```")
    yield from ("", "## From Python")
    with contextlib.chdir(pristine), contextlib.redirect_stdout(io.StringIO()):
        model = advect.fit("cloud.csv", steps=20, network="mlp-1x8")
    with contextlib.chdir(pristine):
        for call in CALLS:
            yield from ("", f"**{call.name}**", "", "```text", f">>> {call.code}", answer(call, model), "```")


def main() -> int:
    """The command."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder).resolve()
        text = ("\n".join(lines(where)) + "\n").replace(f"{where}/work/", "")
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text)
    print(PAGE)
    return 0


if __name__ == "__main__":
    os.environ["COLUMNS"] = "10000"
    sys.exit(main())
