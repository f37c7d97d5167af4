"""Lipman's comparison in the plane: one network, five losses, on the checkerboard (Lipman et al. 2210.02747, table 1).

    ddpm        noise prediction on VP, plain squared error                       (their DDPM)
    score       score prediction on VP, weighted by σ²: |σŝ + ε|²                 (their SM)
    scoreflow   score prediction on VP, likelihood weighting: the variational bound (their SF)
    fm-vp       velocity regression on VP, its published clock                    (their FM, diffusion path)
    fm-ot       velocity regression on the OT path                                (their FM, OT path)

Two more rows, not theirs, take "predicts noise" and "weighted as noise" apart, so that a difference between ddpm and
fm-vp, which have the same path and the same minimiser, can be laid at one door or the other:

    noise-v     noise prediction on VP, its error weighted as a velocity's
    velocity-e  velocity prediction on VP, its error weighted as noise's

Figures, as there: likelihood by the ODE, beside the exact one; W2 of samples with its floor; evaluations of dopri5 at
1e-5; and W2 by the midpoint rule with 4, 8, 10 and 20 evaluations. Expected order: fm-ot best on all.

Run ``python -m benchmarks.five_losses``; what is finished is not run again.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from advect.data.toys import TOYS
from advect.files import write_text
from advect.solvers import Midpoint, make_solver
from benchmarks.cells import ROOT, Cell, answer, command_line
from benchmarks.plane_train import Rows, distance, likelihood, made_on, mean_and_sd, sampled, trained

LOSSES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ddpm": ("vp", {"predict": "noise", "weighting": "noise"}),
    "score": ("vp", {"predict": "score", "weighting": "noise"}),
    "scoreflow": ("vp", {"predict": "score", "weighting": "elbo"}),
    "fm-vp": ("vp", {"predict": "velocity", "weighting": "velocity"}),
    "fm-ot": ("fm", {"sigma_min": 1e-4}),
    "noise-v": ("vp", {"predict": "noise", "weighting": "velocity"}),
    "velocity-e": ("vp", {"predict": "velocity", "weighting": "noise"}),
}
SEEDS = (0, 1, 2)
STEPS = 10_000
FEW = (4, 8, 10, 20)
COMMAND = "python -m benchmarks.five_losses"
RESULTS = ROOT / "benchmarks" / "results" / "five_losses"


def settings_of(loss: str, seed: int, steps: int) -> dict[str, Any]:
    """Everything that decides a cell's figures."""
    method, options = LOSSES[loss]
    return {
        "task": "checkerboard",
        "target": TOYS["checkerboard"].title,
        "loss": loss,
        "method": method,
        "options": dict(options),
        "network": "mlp-5x512",
        "baseline": False,
        "seed": seed,
        "steps": steps,
        "batch_size": 256,
        "learning_rate": 5e-4,
        "train_rows": 50_000,
        "validation_rows": 4_096,
        "test_rows": 4_000,
        "w2_rows": 2_000,
        "likelihood_rows": 500,
        "tolerance": 1e-5,
        "few": list(FEW),
    }


def plan(losses: Sequence[str], seeds: Sequence[int], steps: int) -> list[Cell]:
    """The cells, seed by seed."""
    return [
        Cell(
            name=f"{loss}-{seed}",
            work="benchmarks.five_losses:run_cell",
            settings=settings_of(loss, seed, steps),
            command=f"{COMMAND} --losses {loss} --seeds {seed} --steps {steps}",
        )
        for seed in seeds
        for loss in losses
    ]


def run_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One cell: draw, train, sample, score."""
    torch.set_num_threads(1)
    rows, seed, count = Rows(settings), settings["seed"], settings["test_rows"]
    flow, figures = trained(settings, rows)
    fine, evaluations = sampled(flow, make_solver("dopri5", tolerance=settings["tolerance"]), count, seed)
    few = {}
    for budget in settings["few"]:
        samples, spent = sampled(flow, Midpoint(budget // 2), count, seed)
        few[str(budget)] = {"evaluations": spent, **distance(samples, rows.test[: len(samples)], settings["w2_rows"])}
    return figures | {
        **distance(fine, rows.test[: len(fine)], settings["w2_rows"]),
        "w2_floor": distance(rows.again, rows.test, settings["w2_rows"])["w2"],
        "evaluations": evaluations,
        "lost_samples": count - len(fine),
        "few": few,
        **likelihood(flow, rows, settings["likelihood_rows"], settings["tolerance"]),
    }


def write_table(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """The table, from the results alone."""
    lines = [
        "# Five losses, one network",
        "",
        f"Written by `{COMMAND}`; do not edit. Checkerboard, MLP 5 × 512 (SELU), no Gaussian start, AdamW with a "
        "cosine to zero, batches of 256, averaged weights of the best validation loss. NLL: minus the log-likelihood "
        "by the ODE (dopri5 at 1e-5), nats per row; the exact density gives log 32 = 3.466. W2 in standard deviations, "
        "beside its floor; evaluations: of dopri5 at 1e-5; then W2 by the midpoint rule. Mean ± sd over the seeds that "
        "are there.",
        "",
        "| loss | seeds | steps | NLL | W2 (floor) | evaluations | " + " | ".join(f"W2 at {n}" for n in FEW) + " |",
        "|" + " --- |" * (6 + len(FEW)),
    ]
    for loss in LOSSES:
        own = [r for r in records if r["settings"]["loss"] == loss]
        if not own:
            continue
        figures = [r["figures"] for r in own]
        cells = [
            loss,
            str(len(own)),
            "/".join(sorted({str(r["settings"]["steps"]) for r in own})),
            mean_and_sd([-f["log_prob"] for f in figures]),
            mean_and_sd([f["w2"] for f in figures]) + f" ({mean_and_sd([f['w2_floor'] for f in figures])})",
            mean_and_sd([f["evaluations"] for f in figures], 0),
            *(mean_and_sd([f["few"][str(n)]["w2"] for f in figures]) for n in FEW),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", made_on(records, len(LOSSES) * len(SEEDS))] if records else []
    write_text(path, "\n".join(lines) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a cell failed, 2 where the request is refused."""
    parser = command_line(COMMAND, __doc__, RESULTS)
    parser.add_argument("--losses", nargs="+", choices=tuple(LOSSES), default=tuple(LOSSES))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimiser steps; the protocol has {STEPS}")
    given = parser.parse_args(arguments)
    return answer(given, plan(given.losses, given.seeds, given.steps), write_table)


if __name__ == "__main__":
    sys.exit(main())
