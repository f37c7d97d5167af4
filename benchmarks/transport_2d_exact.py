"""What a perfect network would get in `benchmarks.transport_2d`: NPE of Lipman's path under its exact marginal field.

The marginal field of the 10,000 training points is known in closed form (`advect.flows.EmpiricalField`), so its path
energy, and with it the normalised path energy, need no training:

    python -m benchmarks.transport_2d_exact --tasks moons

The figure stands beside the trained one of the same seed, to tell what is the network's from what is the method's.
"""

import argparse
import json
from pathlib import Path

import torch

from advect.evaluation import path_energy
from advect.flows import EmpiricalField
from advect.paths import Lipman
from advect.solvers import Euler
from benchmarks.transport_2d import RESULTS, SEEDS, SIGMA, STEPS, TASKS, draw_sets, settings_of

ROWS = 1500  # source rows; the standard error of the energy is printed
TABLE = RESULTS.with_name("transport_2d_exact.md")


@torch.no_grad()
def exact_energy(task: str, seed: int) -> tuple[float, float]:
    """Mean path energy under the exact field, by the Euler steps of the protocol, with its standard error."""
    sets = draw_sets(settings_of(task, "fm", seed, STEPS))
    field = EmpiricalField(sets.train.double(), Lipman(SIGMA["fm"]["sigma_min"]))
    times = torch.linspace(0, 1, 101, dtype=torch.float64)
    states = Euler(steps=100)(field, sets.source[:ROWS].double(), times=times).states
    assert states is not None
    energies = path_energy(states, times)
    return float(energies.mean()), float(energies.std() / ROWS**0.5)


def line(task: str, seed: int, trained: dict) -> str:
    energy, error = exact_energy(task, seed)
    distance = trained["w2_squared_source_test"]
    npe = abs(energy - distance) / distance
    return (
        f"| {task} | {seed} | {energy:.3f} ± {error:.3f} | {distance:.3f} | {npe:.3f} ± {error / distance:.3f} "
        f"| {trained['npe']:.3f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--out", type=Path, default=TABLE)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        "# Transport in the plane: fm with its exact field",
        "",
        f"Written by `python -m benchmarks.transport_2d_exact --tasks {' '.join(given.tasks)}`; do not edit. "
        f"No network: the marginal field of the training points, {ROWS} source rows, Euler with 100 steps. W2² between "
        "source and test points and the trained NPE are those of the same seed in [transport_2d](transport_2d.md).",
        "",
        "| N→ | seed | path energy | W2² source, test | NPE, exact field | NPE, trained |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for task in given.tasks:
        for seed in SEEDS:
            record = RESULTS / f"{task}-fm-{seed}.json"
            if record.exists():
                lines.append(line(task, seed, json.loads(record.read_text(encoding="utf-8"))["figures"]))
                print(lines[-1], flush=True)
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
