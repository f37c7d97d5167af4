"""The table of `benchmarks.pairing_2d`, made from its result files and those of `transport_2d`."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from advect.evaluation import normalised_path_energy
from advect.files import write_text
from benchmarks.beat_rule import METRICS, WHOLE, Record, noise_of, told_by_task, verdict
from benchmarks.cells import ROOT, read_records
from benchmarks.plane_train import made_on, mean_and_sd
from benchmarks.transport_2d_plan import known

TASKS = ("moons", "8gaussians", "scurve", "moons-8gaussians")
_SHARED = {"i-cfm": "i-cfm", "fm": "fm", "ot-cfm": "batch"}
_ORDER = ("i-cfm", "fm", "batch", "sb-cfm", "pool", "whole", "semidiscrete", "2-rf")
_NO_START = {"moons-8gaussians": ("fm", "semidiscrete")}  # rows that start from noise alone
HEAD = (
    "| task | pairing | seeds | steps | NPE | NPE, plan | W2 (floor) | W2, one step | preparation | training "
    "| NPE against OT-CFM | W2 against OT-CFM |",
    "|" + " --- |" * 12,
)


def rows_of(records: Sequence[Record], shared: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """Records by task and pairing, those of `transport_2d` among them."""
    rows: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        rows.setdefault((record["settings"]["task"], record["settings"]["pairing"]), []).append(record)
    for record in shared:
        rows.setdefault((record["settings"]["task"], _SHARED[record["settings"]["method"]]), []).append(record)
    return rows


def write_table(path: Path, records: Sequence[Record]) -> None:
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
        "are there. A row **beats** OT-CFM where its mean lies below OT-CFM's by two standard errors (SE) of that and "
        "by more than the noise: of NPE the sd of W2² over the test sets of the seeds, divided by W2²; of W2 the sd of "
        "its floor, the distance of two test sets. Differences within the noise decide nothing.",
        "",
        "## Task by task",
        "",
        *_by_task(rows),
        "",
        "## Row by row",
        "",
        *HEAD,
    ]
    for task in TASKS:
        for pairing in _ORDER:
            own = rows.get((task, pairing), [])
            if own:
                every = [record for (other, _), row in rows.items() if other == task for record in row]
                lines.append(_line(task, pairing, own, rows.get((task, "batch"), []), every))
    if records:
        lines += ["", made_on([*records, *shared], (3 * 8 + 6) * WHOLE)]
    write_text(path, "\n".join(lines) + "\n")


def _by_task(rows: Mapping[tuple[str, str], Sequence[Record]]) -> list[str]:
    lines = []
    for task in TASKS:
        own = {pairing: row for (other, pairing), row in rows.items() if other == task}
        lines += told_by_task(task, own, [name for name in _ORDER if name not in _NO_START.get(task, ())])
    return lines


def _line(task: str, pairing: str, own: Sequence[Record], batch: Sequence[Record], every: Sequence[Record]) -> str:
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
        f"{len(own)} of {WHOLE}",
        "/".join(sorted({str(r["settings"]["steps"]) for r in own})),
        mean_and_sd(npe),
        mean_and_sd(against_plan) if against_plan else "–",
        mean_and_sd([f["w2"] for f in figures]) + f" ({mean_and_sd([f['w2_floor'] for f in figures])})",
        mean_and_sd(one_step) if one_step else "–",
        f"{statistics.fmean(preparation):.0f} s" if preparation else "–",
        f"{statistics.fmean(f['training_cpu_seconds'] for f in figures):.0f} s",
    ]
    for metric in METRICS:
        values = ([r["figures"][metric] for r in row] for row in (own, batch))
        cells.append("" if pairing == "batch" else verdict(*values, noise_of(every, metric)))
    return "| " + " | ".join(cells) + " |"
