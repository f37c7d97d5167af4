"""What a comparison leaves behind: ``compare.json`` for programs, ``compare.csv`` for a spreadsheet.

`compare.json` is there from the first moment on and says under which terms the folder was begun.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from advect.errors import RunFolderError
from advect.files import write_text
from advect.report.comparison.content import MethodRow, Ruler, Spread
from advect.run import CONFIG, differences
from advect.workflows.comparison.ground import Ground
from advect.workflows.comparison.request import CompareRequest
from advect.workflows.evaluate import finite

JSON, CSV, PAGE = "compare.json", "compare.csv", "compare.html"


def check_folder(request: CompareRequest, ground: Ground) -> None:
    """Refuse a folder that cannot be used under these terms; nothing is written.

    Raises:
        RunFolderError: It holds something else, or a comparison under other terms.
    """
    folder, where = request.out, str(request.out)
    if folder.exists() and not folder.is_dir():
        raise RunFolderError("this file is there already", where=where, remedy="Choose another name with --out.")
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    if CONFIG in names:
        raise RunFolderError("this is a run, no comparison", where=where, remedy="Choose another folder with --out.")
    if JSON in names:
        changed = differences(_known(read_terms(folder)), _known(_terms(request, ground)))
        if changed:
            raise RunFolderError(
                "a comparison under other terms is in this folder: " + "; ".join(changed),
                where=where,
                remedy="Give the old ones to continue it, or another --out.",
            )
        return
    if any(not name.startswith(".") for name in names):
        raise RunFolderError(
            "this folder is there already and holds no comparison", where=where, remedy="Choose another with --out."
        )


def claim_folder(request: CompareRequest, ground: Ground) -> None:
    """Write down the terms of a comparison that begins."""
    if not (request.out / JSON).exists():
        write_json(request.out, {"terms": _terms(request, ground)})


def _terms(request: CompareRequest, ground: Ground) -> dict[str, Any]:
    return dict(request.terms()) | {"sha256": ground.sha256}


def read_terms(folder: Path) -> Mapping[str, Any]:
    """The terms under which a comparison was begun.

    Raises:
        RunFolderError: The file is damaged.
    """
    try:
        return json.loads((folder / JSON).read_text(encoding="utf-8"))["terms"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{JSON} is damaged ({error})", where=str(folder), remedy="Choose another folder with --out."
        ) from error


def _known(terms: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in terms.items() if value is not None}


def as_json(
    request: CompareRequest,
    ground: Ground,
    rows: Sequence[MethodRow],
    verdict: Sequence[str],
    ruler: Ruler | None,
    state: str,
) -> dict[str, Any]:
    """Everything as plain values; a number that is not finite is None."""
    return finite(
        {
            "state": state,
            "data": ground.table.origin,
            "held_out_rows": len(ground.split.test),
            "training_rows": len(ground.split.train),
            "label": request.label,
            "methods": list(request.methods),
            "seeds": list(request.model_seeds),
            "verdict": list(verdict),
            "curve_floor": None if ruler is None else asdict(ruler),
            "rows": [asdict(row) for row in rows],
            "terms": _terms(request, ground),
        }
    )


def write_json(folder: Path, value: Mapping[str, Any]) -> Path:
    """Write ``compare.json``."""
    return write_text(folder / JSON, json.dumps(value, indent=1) + "\n")


def write_csv(folder: Path, rows: Sequence[MethodRow]) -> Path:
    """Write ``compare.csv``: a line per method, an empty cell where there is nothing."""
    lines = [flat(row) for row in rows]
    heads = list(dict.fromkeys(name for line in lines for name in line))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, heads, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return write_text(folder / CSV, stream.getvalue())


def flat(row: MethodRow) -> dict[str, Any]:
    """A row as named numbers and words."""
    line: dict[str, Any] = {"method": row.method, "seeds": len(row.runs), "seeds_asked": row.asked}
    line["parameters"] = row.parameters
    for name in ("steps", "rate", "training_seconds", "sampling_seconds", "nfe", "straightness"):
        line |= _spread(_COLUMNS.get(name, name), getattr(row, name))
    cell = row.likelihood
    if cell is not None:
        line |= _spread("log_likelihood", cell.value)
        for name in ("standard_error", "rows", "left_out", "difference", "difference_error", "rows_error"):
            line[f"log_likelihood_{name}"] = getattr(cell, name)
        line |= {"log_likelihood_label": cell.label, "log_likelihood_reason": cell.reason}
    for found in row.metrics:
        name = found.metric.name
        line |= {name: found.metric.value, f"{name}, spread": found.spread}
        line |= {f"{name}, {mark}": getattr(found.metric, mark) for mark in ("floor", "floor_error", "ceiling")}
    for point in row.curve:
        line[f"sliced Wasserstein-2 at {point.nfe:g} evaluations"] = point.error
    for prefix, record in (("closest", row.closest), ("synthetic", row.synthetic)):
        line |= {} if record is None else {f"{prefix}_{k}": v for k, v in asdict(record).items()}
    line |= {"best_run": row.best_run, "failures": " | ".join(row.failures)}
    return {name: "" if value is None or value != value else value for name, value in line.items()}


_COLUMNS = {"rate": "steps_per_second", "sampling_seconds": "seconds_per_1000_rows", "nfe": "evaluations"}


def _spread(name: str, spread: Spread | None) -> dict[str, Any]:
    return {name: None if spread is None else spread.mean, f"{name}, spread": None if spread is None else spread.spread}
