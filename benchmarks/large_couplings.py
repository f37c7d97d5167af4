"""A hundred thousand points: time, memory and cost of a pairing of whole sets, beside bounds no pairing can fall below.

A standard normal is paired one to one with as many points of eight Gaussians (radius 2, standard deviation 0.3; in
more than two dimensions the other coordinates are normal with 0.3) by `advect.couplings.solve_bijection`, at d = 2,
16 and 50. Beside its cost stand the cost of independent pairs, of exact plans between batches of 256, the cheap lower
bound, and where a k-d tree can find it (d ≤ 8) the dual bound; at 4,000 points also the exact assignment. Run
``python -m benchmarks.large_couplings``.
"""

import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advect.couplings import Assignment, dual_bound, lower_bound, solve_bijection
from advect.couplings.cost import COSTS
from advect.files import write_text
from advect.training import generator_for
from benchmarks.cells import ROOT, Cell, answer, command_line
from benchmarks.plane_train import made_on

DIMENSIONS, ROWS = (2, 16, 50), (4_000, 20_000, 100_000)
COMMAND = "python -m benchmarks.large_couplings"
RESULTS = ROOT / "benchmarks" / "results" / "large_couplings"
TREE_DIMENSIONS, EXACT_ROWS, BATCH = 8, 4_000, 256


def settings_of(rows: int, dim: int) -> dict[str, Any]:
    """Everything that decides a cell's figures."""
    return {"seed": 0, "rows": rows, "dim": dim, "target": "8 Gaussians, radius 2, sd 0.3", "batch": BATCH}


def plan(rows: Sequence[int], dimensions: Sequence[int]) -> list[Cell]:
    """The cells, small ones first."""
    return [
        Cell(
            name=f"{count}-{dim}",
            work="benchmarks.large_couplings:run_cell",
            settings=settings_of(count, dim),
            command=f"{COMMAND} --rows {count} --dimensions {dim}",
        )
        for count in rows
        for dim in dimensions
    ]


def draw_sets(settings: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Both sets in float64."""
    generator = generator_for(settings["seed"], settings["rows"], settings["dim"])
    shape = (settings["rows"], settings["dim"])
    source = torch.randn(shape, generator=generator, dtype=torch.float64)
    data = 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    angle = torch.randint(8, (settings["rows"],), generator=generator) * (math.pi / 4)
    data[:, 0] += 2 * angle.cos()
    data[:, 1] += 2 * angle.sin()
    return source, data


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One cell: pair, then bound."""
    torch.set_num_threads(1)
    source, data = draw_sets(settings)
    before, started, clock = _peak_mib(), time.process_time(), time.perf_counter()
    found = solve_bijection(source, data, COSTS["squared"], generator=generator_for(1))
    figures: dict[str, Any] = {
        "cpu_seconds": time.process_time() - started,
        "wall_seconds": time.perf_counter() - clock,
        "memory_mib": _peak_mib() - before,
        "sweeps": found.sweeps,
        "cost": found.mean_cost,
        "independent": float((source - data).square().sum(1).mean()),
        "lower_bound": lower_bound(source, data, generator=generator_for(2)),
    }
    parts = zip(source[: 40 * BATCH].split(BATCH), data[: 40 * BATCH].split(BATCH), strict=True)
    batches = [Assignment().draw(x0, x1).report["mean_cost"] for x0, x1 in parts if len(x0) == BATCH]
    figures["batches"] = sum(batches) / len(batches)
    if settings["dim"] <= TREE_DIMENSIONS:
        figures["dual_bound"] = dual_bound(source, data, found.index0)
    if settings["rows"] <= EXACT_ROWS:
        exact = Assignment(exact_rows=EXACT_ROWS)
        started = time.process_time()
        figures["exact"] = exact.draw(source, data).report["mean_cost"]
        figures["exact_cpu_seconds"] = time.process_time() - started
    return figures


def write_table(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """The table, from the results alone."""
    lines = [
        "# Pairing whole sets",
        "",
        f"Written by `{COMMAND}`; do not edit. A standard normal to eight Gaussians, squared distance, one thread. "
        "Cost of the pairing by local repairs, beside independent pairs, exact plans of batches of 256, the exact "
        "assignment of the same rows, and lower bounds: the cheap one (means, covariances, projections) and the dual "
        "one. Memory: growth of the process's peak.",
        "",
        "| rows | d | processor | clock | memory | cost | batches | independent | exact | dual bound | cheap bound |",
        "|" + " --- |" * 11,
    ]
    for record in sorted(records, key=lambda r: (r["settings"]["rows"], r["settings"]["dim"])):
        f, s = record["figures"], record["settings"]
        exact = f"{f['exact']:.4f} in {f['exact_cpu_seconds']:.1f} s" if "exact" in f else "–"
        dual = f"{f['dual_bound']:.4f}" if "dual_bound" in f else "–"
        cells = (
            f"{s['rows']:,}",
            str(s["dim"]),
            f"{f['cpu_seconds']:.1f} s",
            f"{f['wall_seconds']:.1f} s",
            f"{f['memory_mib']:.0f} MiB",
            f"{f['cost']:.4f}",
            f"{f['batches']:.3f}",
            f"{f['independent']:.3f}",
            exact,
            dual,
            f"{f['lower_bound']:.4f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", made_on(records, len(ROWS) * len(DIMENSIONS))] if records else []
    write_text(path, "\n".join(lines) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a cell failed, 2 where the request is refused."""
    parser = command_line(COMMAND, __doc__, RESULTS)
    parser.add_argument("--rows", nargs="+", type=int, default=ROWS)
    parser.add_argument("--dimensions", nargs="+", type=int, default=DIMENSIONS)
    given = parser.parse_args(arguments)
    return answer(given, plan(given.rows, given.dimensions), write_table)


if __name__ == "__main__":
    sys.exit(main())
