"""The table of `benchmarks.pairing_2d`, made from its result files and those of `transport_2d`."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advect.evaluation import normalised_path_energy
from advect.files import write_text
from benchmarks.cells import ROOT, read_records
from benchmarks.plane_train import made_on, mean_and_sd
from benchmarks.transport_2d_plan import known

TASKS = ("moons", "8gaussians", "scurve", "moons-8gaussians")
_SHARED = {"i-cfm": "i-cfm", "fm": "fm", "ot-cfm": "batch"}
_ORDER = ("i-cfm", "fm", "batch", "sb-cfm", "pool", "whole", "semidiscrete", "2-rf")
_WHOLE = 5  # seeds of a whole row
# Relative standard deviation of W2² between fresh source and test sets of 10,000 points: the noise that every NPE has.
_NOISE = {"8gaussians": 0.0073, "moons": 0.0218}
HEAD = (
    "| task | pairing | seeds | steps | NPE | NPE, plan | W2 (floor) | W2, one step | preparation | training "
    "| against OT-CFM |",
    "|" + " --- |" * 11,
)


def rows_of(
    records: Sequence[Mapping[str, Any]], shared: Sequence[Mapping[str, Any]]
) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Records by task and pairing, those of `transport_2d` among them."""
    rows: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        rows.setdefault((record["settings"]["task"], record["settings"]["pairing"]), []).append(record)
    for record in shared:
        rows.setdefault((record["settings"]["task"], _SHARED[record["settings"]["method"]]), []).append(record)
    return rows


def verdict(task: str, own: Sequence[float], batch: Sequence[float]) -> str:
    """Whether the mean NPE beats that of OT-CFM: lower by two standard errors of the difference and by the noise that
    W2² between two fresh sets puts into every NPE."""
    if len(own) < 2 or len(batch) < 2:
        return "too few seeds"
    gain = statistics.fmean(batch) - statistics.fmean(own)
    error = math.sqrt(statistics.variance(own) / len(own) + statistics.variance(batch) / len(batch))
    noise = _NOISE.get(task, 0.0)
    if gain > max(2 * error, noise):
        return f"better by {gain:.3f} ± {error:.3f}"
    if -gain > max(2 * error, noise):
        return f"worse by {-gain:.3f} ± {error:.3f}"
    return f"not decided: {gain:+.3f} ± {error:.3f}" + (f", noise {noise:.3f}" if noise else "")


def write_table(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """The table, from the results alone."""
    shared = read_records(ROOT / "benchmarks" / "results" / "transport_2d")
    rows = rows_of(records, shared)
    lines = [
        "# What the pairing changes",
        "",
        "Written by `python -m benchmarks.pairing_2d`; do not edit. Rows by the protocol of "
        "[transport in the plane](transport_2d.md), whose cells are shown here too: 10,000 training and test points, "
        "MLP 3 × 64, batches of 256 (`i-cfm`, `fm`: 512), σ = 0.1 (`sb-cfm`: 1), Euler with 100 steps. NPE: path "
        "energy against W2² of the test sets; NPE, plan: against the cost of the exact plan from the normal to the "
        "test points on the same source points (`benchmarks.transport_2d_plan`). `batch` is OT-CFM. One step: a single "
        "Euler step in place of 100. Preparation: processor seconds before the first step; training: processor "
        "seconds, pools "
        "included. Mean ± sd over the seeds that "
        "are there. Against OT-CFM: the difference of the mean NPEs ± its standard error; decided where it exceeds "
        "twice that and the noise of NPE itself.",
        "",
        *HEAD,
    ]
    for task in TASKS:
        for pairing in _ORDER:
            own = rows.get((task, pairing), [])
            if own:
                lines.append(_line(task, pairing, own, rows.get((task, "batch"), [])))
    if records:
        lines += ["", made_on([*records, *shared], (3 * 8 + 6) * _WHOLE)]
    write_text(path, "\n".join(lines) + "\n")


def _line(task: str, pairing: str, own: Sequence[Mapping[str, Any]], batch: Sequence[Mapping[str, Any]]) -> str:
    figures = [r["figures"] for r in own]
    npe = [f["npe"] for f in figures]
    one_step = [f["w2_one_step"] for f in figures if "w2_one_step" in f]
    plans = known().get(task, {})
    against_plan = [
        normalised_path_energy(r["figures"]["path_energy"], plans[str(r["seed"])])
        for r in own
        if str(r["seed"]) in plans and "path_energy" in r["figures"]
    ]
    preparation = [f["preparation_cpu_seconds"] for f in figures if "preparation_cpu_seconds" in f]
    cells = [
        task,
        pairing,
        f"{len(own)} of {_WHOLE}",
        "/".join(sorted({str(r["settings"]["steps"]) for r in own})),
        mean_and_sd(npe),
        mean_and_sd(against_plan) if against_plan else "–",
        mean_and_sd([f["w2"] for f in figures]) + f" ({mean_and_sd([f['w2_floor'] for f in figures])})",
        mean_and_sd(one_step) if one_step else "–",
        f"{statistics.fmean(preparation):.0f} s" if preparation else "–",
        f"{statistics.fmean(f['training_cpu_seconds'] for f in figures):.0f} s",
        "" if pairing == "batch" else verdict(task, npe, [r["figures"]["npe"] for r in batch]),
    ]
    return "| " + " | ".join(cells) + " |"
