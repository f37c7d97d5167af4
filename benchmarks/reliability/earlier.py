"""Run folders that earlier states of the code wrote, and what their models said when they were written.

`tests/run/earlier` holds one folder per kind below one per format. None of them is ever written again: a new kind or a
new format is a new folder, made by ``python -m benchmarks.reliability.earlier FOLDER``.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import ROOT
from benchmarks.reliability import jobs

HOME = ROOT / "tests" / "run" / "earlier"
EXPECTED = "expected.json"
DRAWN = 4
# Weights are float32, solvers adaptive at 1e-5, and another version of torch may sum in another order.
RTOL, ATOL = 1e-3, 1e-3


def folders() -> list[Path]:
    """All kept folders, by format and name."""
    return sorted(path.parent for path in HOME.glob(f"*/*/{EXPECTED}"))


def opened(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A cell: every kept folder opened, or continued, and compared."""
    entries = []
    for folder in folders():
        faults = differences(folder)
        entries.append(
            {
                "format": folder.parent.name,
                "folder": folder.name,
                "kind": expected(folder)["kind"],
                "outcome": "; ".join(faults) or "opens, and says what it said",
            }
        )
    return {"folders": entries}


def expected(folder: Path) -> dict[str, Any]:
    """What was recorded beside a kept folder."""
    return json.loads((folder / EXPECTED).read_text(encoding="utf-8"))


def differences(folder: Path) -> list[str]:
    """What the model in a folder says differently from what was recorded; an unfinished run is finished first."""
    then = expected(folder)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(folder, Path(scratch) / "kept"))
        if "continue" in then:
            jobs.inside(lambda: jobs.train_again(then["continue"]), copy)
        now = said(copy, then["rows"], then["at"])
    return [f"{name} differs" for name, old in then["said"].items() if not _close(old, now.get(name))]


def _close(then: Any, now: Any) -> bool:
    """Equal, numbers up to rounding; a draw in float32 is as exact as the numbers of its column are large."""
    if isinstance(then, dict) and isinstance(now, dict):
        return then.keys() == now.keys() and all(_close(then[name], now[name]) for name in then)
    if isinstance(then, list) and isinstance(now, list):
        numbers = all(isinstance(value, int | float) for value in [*then, *now])
        if numbers and len(then) == len(now):
            size = max((abs(value) for value in then), default=0.0)
            return bool(np.allclose(then, now, rtol=RTOL, atol=ATOL * max(size, 1.0), equal_nan=True))
        return len(then) == len(now) and all(_close(*pair) for pair in zip(then, now, strict=True))
    return then == now


def said(folder: Path, rows: str, at: str | None) -> dict[str, Any]:
    """What the model in ``folder/run`` says of rows in a file beside it, and what it draws."""
    from advect.data import read_like
    from advect.errors import UnsupportedError
    from advect.workflows.generate import generate
    from advect.workflows.open import open_run
    from advect.workflows.score import score

    artefact = open_run(folder / jobs.RUN)
    drawn = generate(artefact, DRAWN, seed=1, at=() if at is None else (at,)).table
    answer: dict[str, Any] = {"samples": {n: c.tolist() for n, c in zip(drawn.names, drawn.columns, strict=True)}}
    try:
        table = read_like(str(folder / rows), artefact.schema)
        answer["log_prob"] = score(artefact, table, seed=2).estimate.value.tolist()
    except UnsupportedError as error:
        answer["log_prob"] = error.what
    return answer


KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "layers": ("spline layers", "points.csv", {"method": "nsf", "options": {"layers": 2}}),
    "affine": (
        "affine couplings with GELU, from before it was an option",
        "points.csv",
        {"method": "realnvp", "options": {"layers": 2}},
    ),
    "ode": ("flow matching", "points.csv", {"method": "i-cfm"}),
    "diffusion": ("variance preserving diffusion", "points.csv", {"method": "vp"}),
    "likelihood": ("ODE trained by its likelihood", "points.csv", {"method": "cnf"}),
    "table": ("numbers, words, truth values, gaps", "houses.csv", {"method": "ot-cfm"}),
    "conditional": ("a condition", "houses.csv", {"method": "i-cfm", "condition": ("place",)}),
    "times": ("snapshots at three times", "days.csv", {"method": "ot-cfm", "time_key": "day"}),
    "cells": ("AnnData with times", "cells.h5ad", {"method": "ot-cfm", "time_key": "day", "key": "X_pca"}),
    "vae": ("variational autoencoder", "points.csv", {"method": "vae"}),
    "gan": ("generator and discriminator", "points.csv", {"method": "gan"}),
    "unfinished": ("an interrupted training, continued", "points.csv", {"method": "ot-cfm"}),
    # That of advect-1 was interrupted as a training by two processes: its checkpoint is in two parts.
    "unfinished-parts": (
        "an interrupted training with its checkpoint in parts, continued",
        "points.csv",
        {"method": "ot-cfm", "training": {"shard": True}},
    ),
}
STEPS, STOPPED = 30, 17
AT = {"times": "1.5", "cells": "1.5"}


def write(home: Path) -> None:
    """Train one small model of every kind and record what it says; folders that are there are left alone."""
    for name, (kind, rows, asked) in KINDS.items():
        folder = home / name
        if (folder / EXPECTED).exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        jobs.write_rows(folder / rows)
        request = asked | {"data": rows, "steps": STEPS}
        stop = STOPPED if name.startswith("unfinished") else None
        jobs.inside(lambda request=request, stop=stop: jobs.train_again(request, stop_after=stop), folder)
        facts: dict[str, Any] = {"kind": kind, "rows": rows, "at": AT.get(name)}
        if name.startswith("unfinished"):
            facts["continue"] = request
            with tempfile.TemporaryDirectory() as scratch:
                copy = Path(shutil.copytree(folder, Path(scratch) / "kept"))
                jobs.inside(lambda request=request: jobs.train_again(request), copy)
                facts["said"] = said(copy, rows, None)
        else:
            facts["said"] = said(folder, rows, AT.get(name))
            shutil.rmtree(folder / jobs.RUN / "checkpoint")  # twice the size of the model, and never looked at again
        (folder / jobs.RUN / ".lock").unlink()
        (folder / EXPECTED).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        print(name, facts["kind"])


if __name__ == "__main__":
    write(Path(sys.argv[1]))
