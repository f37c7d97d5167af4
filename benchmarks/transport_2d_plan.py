"""What straight paths would cost in `benchmarks.transport_2d`: the exact plan from the normal to the test points.

NPE there compares the path energy with W2² between two samples, which is biased upwards and has noise of its own. From
the normal itself to the test points the plan is known to rounding (`couplings.exact_duals`), and its cost on the very
source points whose paths were measured shares their noise:

    NPE against the plan = |path energy − mean |x − T(x)|²| / mean |x − T(x)|²

Run ``python -m benchmarks.transport_2d_plan``; no network is needed, and `pairing_2d` shows the figure.
"""

import argparse
import json
from typing import Any

import numpy as np
import torch

from advect.couplings.cells import PowerCells
from advect.couplings.exact_duals import exact_duals
from advect.errors import AdvectError
from advect.files import write_text
from benchmarks.cells import ROOT
from benchmarks.transport_2d import SEEDS, STEPS, TASKS, draw_sets, settings_of

FILE = ROOT / "benchmarks" / "results" / "transport_2d_plan.json"


def plan_cost(task: str, seed: int) -> float:
    """Mean |x − T(x)|² over the source points of a cell, T the plan from the normal to its test points."""
    sets = draw_sets(settings_of(task, "ot-cfm", seed, STEPS))
    rows, source = sets.test.double().numpy(), sets.source.double().numpy()
    found = exact_duals(rows, np.full(len(rows), 1 / len(rows)))
    if found is None:
        raise AdvectError("Newton's method came to no end", where="transport_2d_plan")
    reached = rows[PowerCells(rows, found[0]).nearest(source)[1][:, 0]]
    return float(np.square(source - reached).sum(1).mean())


def known() -> dict[str, dict[str, float]]:
    """The costs there are, by task and seed."""
    found: Any = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    return found


def main() -> None:
    """The command; what is there is not computed again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for task in given.tasks:
        for seed in SEEDS:
            costs = known()
            if str(seed) not in costs.setdefault(task, {}):
                costs[task][str(seed)] = plan_cost(task, seed)
                write_text(FILE, json.dumps(costs, indent=2, sort_keys=True) + "\n")
                print(task, seed, costs[task][str(seed)], flush=True)


if __name__ == "__main__":
    main()
