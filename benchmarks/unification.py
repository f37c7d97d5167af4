"""One network, every path and prediction: what is left of the difference between diffusion and flow matching.

{velocity, x1, noise, score, EDM's output} × {linear, cosine, VP}, one network, the same steps, in two weightings: the
prediction's own plain squared error, and flow matching's weight exp(−λ/2) for all. By `objectives.snr` every loss is
½∫ w(λ) E|ΔE|² dλ; under the common weight all cells minimise one objective in D, so what differs is parameterisation
and optimisation. So that cells can be compared, all are measured by the same figures:

    gap   E|D̂(x, t) − D(x, t)|² for t on a grid of λ, D the exact E[x1|x] of the eight Gaussians
    KL    from the exact density, by the ODE's likelihood
    W2    of samples by a fine solve, beside its floor

Run ``python -m benchmarks.unification``; what is finished is not run again.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advect.data.toys import TOYS
from advect.files import write_text
from advect.flows import Flow
from advect.paths import convert
from advect.solvers import make_solver
from benchmarks.cells import ROOT, Cell, answer, command_line
from benchmarks.plane_train import Rows, distance, likelihood, made_on, mean_and_sd, sampled, trained

PATHS = {"linear": "rf", "cosine": "cosine", "vp": "vp"}
PREDICTIONS = ("velocity", "x1", "noise", "score", "edm")
WEIGHTINGS = ("own", "common")
SEEDS = (0, 1, 2)
STEPS = 10_000
LAMBDAS = (-6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0)
COMMAND = "python -m benchmarks.unification"
RESULTS = ROOT / "benchmarks" / "results" / "unification"


def settings_of(path: str, prediction: str, weighting: str, seed: int, steps: int) -> dict[str, Any]:
    """Everything that decides a cell's figures."""
    weight = prediction if weighting == "own" else "flow-matching"
    return {
        "task": "8gaussians",
        "target": TOYS["8gaussians"].title,
        "path": path,
        "method": PATHS[path],
        "prediction": prediction,
        "weighting": weighting,
        "options": {"predict": prediction, "weighting": weight},
        "network": "mlp-3x128",
        "baseline": False,
        "seed": seed,
        "steps": steps,
        "batch_size": 256,
        "learning_rate": 1e-3,
        "train_rows": 20_000,
        "validation_rows": 4_096,
        "test_rows": 6_000,
        "w2_rows": 2_000,
        "likelihood_rows": 2_000,
        "tolerance": 1e-5,
        "sampling": "dopri5 at 1e-5",
    }


def plan(seeds: Sequence[int], steps: int) -> list[Cell]:
    """The cells, seed by seed."""
    return [
        Cell(
            name=f"{path}-{prediction}-{weighting}-{seed}",
            work="benchmarks.unification:run_cell",
            settings=settings_of(path, prediction, weighting, seed, steps),
            command=f"{COMMAND} --seeds {seed} --steps {steps}",
        )
        for seed in seeds
        for weighting in WEIGHTINGS
        for path in PATHS
        for prediction in PREDICTIONS
    ]


def exact_denoiser(x: Tensor, alpha: Tensor, sigma: Tensor, rows: Rows) -> Tensor:
    """E[x1|x] of the standardised eight Gaussians: components of diagonal covariance s², s the inverse scale."""
    angle = torch.arange(8, dtype=torch.float64) * (torch.pi / 4)
    centres = (5 * torch.stack([angle.cos(), angle.sin()], 1) - rows.shift) / rows.scale
    variance = (1 / rows.scale).square()
    total = alpha**2 * variance + sigma**2
    off = x.unsqueeze(1) - alpha * centres
    weight = (-0.5 * (off.square() / total).sum(2)).softmax(1)
    inside = centres + alpha * variance / total * off
    return (weight.unsqueeze(2) * inside).sum(1)


@torch.no_grad()
def gaps(flow: Flow, rows: Rows, seed: int) -> list[float]:
    """Mean |D̂ − D|² per coordinate at each λ of `LAMBDAS`."""
    field = flow.split_at_ode("gap")[1].field
    schedule, found = field.schedule, []
    x1 = rows.test.double()
    noise = torch.randn(x1.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for value in LAMBDAS:
        t = schedule.time_of_log_snr(torch.full((len(x1),), value, dtype=torch.float64))
        alpha, sigma = schedule.alpha(t)[0], schedule.sigma(t)[0]
        x = alpha * x1 + sigma * noise
        said = convert(field(t.float(), x.float()).double(), "velocity", "x1", t, x, schedule)
        found.append(float((said - exact_denoiser(x, alpha, sigma, rows)).square().mean()))
    return found


def run_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One cell: draw, train, compare with the truth."""
    torch.set_num_threads(1)
    rows = Rows(settings)
    flow, figures = trained(settings, rows)
    samples, evaluations = sampled(flow, make_solver("dopri5", tolerance=1e-5), settings["test_rows"], settings["seed"])
    floor = distance(rows.again, rows.test, settings["w2_rows"])
    return figures | {
        **distance(samples, rows.test[: len(samples)], settings["w2_rows"]),
        "w2_floor": floor["w2"],
        "evaluations": evaluations,
        "lost_samples": settings["test_rows"] - len(samples),
        **likelihood(flow, rows, settings["likelihood_rows"], settings["tolerance"]),
        "lambdas": list(LAMBDAS),
        "gaps": gaps(flow, rows, settings["seed"]),
    }


def write_table(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """The table, from the results alone."""
    lines = [
        "# One network, every path and prediction",
        "",
        f"Written by `{COMMAND}`; do not edit. Eight Gaussians, MLP 3 × 128 (SELU), no Gaussian start, AdamW with a "
        "cosine to zero, averaged weights; figures in standardised units, KL and log-likelihood in nats. `own`: the "
        "plain squared error of the prediction; `common`: the weight exp(−λ/2) of flow matching for every prediction. "
        "gap: mean squared error of E[x1|x] against the exact one, at log-SNR λ. Mean ± sd over the seeds that are "
        "there.",
        "",
        "| weight | path | predicts | seeds | steps | KL | W2 (floor) | dopri5 evaluations | "
        + " | ".join(f"gap at {v:g}" for v in LAMBDAS)
        + " |",
        "|" + " --- |" * (8 + len(LAMBDAS)),
    ]
    for weighting in WEIGHTINGS:
        for name in PATHS:
            for prediction in PREDICTIONS:
                wanted = (weighting, name, prediction)
                keys = ("weighting", "path", "prediction")
                own = [r for r in records if tuple(r["settings"][k] for k in keys) == wanted]
                if not own:
                    continue
                figures = [r["figures"] for r in own]
                cells = [
                    weighting,
                    name,
                    prediction,
                    str(len(own)),
                    "/".join(sorted({str(r["settings"]["steps"]) for r in own})),
                    mean_and_sd([f["kl"] for f in figures]),
                    mean_and_sd([f["w2"] for f in figures]) + f" ({mean_and_sd([f['w2_floor'] for f in figures])})",
                    mean_and_sd([f["evaluations"] for f in figures], 0),
                    *(f"{sum(f['gaps'][i] for f in figures) / len(figures):.2g}" for i in range(len(LAMBDAS))),
                ]
                lines.append("| " + " | ".join(cells) + " |")
    whole = len(PATHS) * len(PREDICTIONS) * len(WEIGHTINGS) * len(SEEDS)
    lines += ["", made_on(records, whole)] if records else []
    write_text(path, "\n".join(lines) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a cell failed, 2 where the request is refused."""
    parser = command_line(COMMAND, __doc__, RESULTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"optimiser steps; the protocol has {STEPS}")
    given = parser.parse_args(arguments)
    return answer(given, plan(given.seeds, given.steps), write_table)


if __name__ == "__main__":
    sys.exit(main())
