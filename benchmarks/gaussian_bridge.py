"""The Schrödinger bridge between two Gaussians: N(−0.1·1, I) to N(0.1·1, I), σ = 1, in 5, 20 and 50 dimensions.

The protocol of Tong et al. (SF2M, 2307.03672, Table 3): 10,000 training rows of either side, 20 steps, and the
Kullback–Leibler divergence of a Gaussian fitted to 10,000 samples from the exact marginal,

    mean (2t − 1)·0.1·1,    covariance ((1 − t)² + t² + t(1 − t)√(4 + σ⁴)) I,

at t = 1 and as the mean over the 21 times of the solve, beside its floor: what fitting a Gaussian to as many exact
draws costs, (d + d(d + 1)/2)/(2n). Three ways to be trained, both as an ODE (`euler`) and as an SDE (`bridge-sde`):

    rows     as published: from source rows, a network from scratch, entropic plans of the batch
    start    the default of `advect train`: from Gaussian noise (both ends shifted by 0.1), beginning at a Gaussian fit
    none     that Gaussian start alone, untrained: the closed form fitted to the training rows

Run ``python -m benchmarks.gaussian_bridge``; what is finished is not run again.
"""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advect.files import write_text
from advect.flows import EmpiricalBase, Flow
from advect.methods import Blueprint, build, get_method, resolve_options
from advect.run import MemorySink
from advect.solvers import make_solver, raise_if_failed
from advect.training import Batches, DataRows, Trainer, TrainingConfig, generator_for
from benchmarks.cells import ROOT, Cell, answer, command_line
from benchmarks.plane_train import made_on, mean_and_sd

DIMS, WAYS, SEEDS, STEPS = (5, 20, 50), ("rows", "start", "none"), (0, 1, 2), 2000
COMMAND = "python -m benchmarks.gaussian_bridge"
RESULTS = ROOT / "benchmarks" / "results" / "gaussian_bridge"
PUBLISHED = {5: (0.007, 0.006), 20: (0.029, 0.028), 50: (0.124, 0.258)}  # SF2M-Exact: t = 1, mean of 21 times
FACTOR = 2.0  # that a figure may be of the published one
STREAM = 2307
SOLVERS = {"ode": "euler", "sde": "bridge-sde"}


def settings_of(dim: int, way: str, seed: int, steps: int) -> dict[str, Any]:
    """Everything that decides a cell's figures."""
    return {
        "dim": dim,
        "way": way,
        "seed": seed,
        "steps": 0 if way == "none" else steps,
        "offset": 0.1,
        "sigma": 1.0,
        "rows": 10_000,
        "solver_steps": 20,
        "network": "mlp-3x64",
        "batch_size": 256,
        "learning_rate": 1e-3,
    }


def plan(dims: Sequence[int], ways: Sequence[str], seeds: Sequence[int], steps: int) -> list[Cell]:
    """The cells, seed by seed."""
    return [
        Cell(
            name=f"{dim}-{way}-{seed}",
            work="benchmarks.gaussian_bridge:run_cell",
            settings=settings_of(dim, way, seed, steps),
            command=f"{COMMAND} --dims {dim} --ways {way} --seeds {seed} --steps {steps}",
        )
        for seed in seeds
        for dim in dims
        for way in ways
    ]


def exact_marginal(t: float, offset: float, sigma: float) -> tuple[float, float]:
    """Mean and variance of every coordinate at time t."""
    return (2 * t - 1) * offset, (1 - t) ** 2 + t**2 + t * (1 - t) * math.sqrt(4 + sigma**4)


def fitted_divergence(x: Tensor, mean: float, variance: float) -> float:
    """KL(N(m̂, Ŝ) ‖ N(mean·1, variance·I)) in nats, of the Gaussian fitted to rows ``(rows, dim)``."""
    x = x.double()
    dim, moved = x.shape[1], x.mean(0) - mean
    covariance = torch.cov(x.T, correction=0)
    log_det = float(torch.linalg.slogdet(covariance)[1])
    inner = float(torch.trace(covariance) + moved @ moved) / variance
    return 0.5 * (inner - dim + dim * math.log(variance) - log_det)


def floor(dim: int, rows: int) -> float:
    """Expected divergence of a fit to exact draws, to first order in 1/rows."""
    return (dim + dim * (dim + 1) / 2) / (2 * rows)


def draws(settings: Mapping[str, Any], stream: int, mean: float) -> Tensor:
    """That many rows of N(mean·1, I)."""
    generator = generator_for(settings["seed"], STREAM, stream)
    return mean + torch.randn(settings["rows"], settings["dim"], generator=generator)


def train(settings: Mapping[str, Any]) -> tuple[Flow, float, float]:
    """The flow, what has to be subtracted from its rows, and processor seconds of training."""
    seed, offset = settings["seed"], settings["offset"]
    # Bridges do not see a common shift: from noise both ends are moved so that the source is centred.
    shift = 0.0 if settings["way"] == "rows" else offset
    x1, held = (draws(settings, stream, offset) + shift for stream in (0, 1))
    source = EmpiricalBase(draws(settings, 2, -offset)) if settings["way"] == "rows" else None
    method = get_method("sf2m")
    blueprint = Blueprint(
        method="sf2m",
        options=resolve_options(method, {"sigma": settings["sigma"]}),
        network=settings["network"],
        event_shape=(settings["dim"],),
    )
    built = build(replace(blueprint, **method.recipe.settings), seed=seed, source=source, latent=x1)
    if not settings["steps"]:
        return built.core.eval(), shift, 0.0
    config = TrainingConfig(
        steps=settings["steps"], batch_size=settings["batch_size"], learning_rate=settings["learning_rate"], seed=seed
    )

    def batches(x: Tensor, shuffle: int) -> Batches:
        rows = DataRows(draw=lambda index, generator: x[index], num_rows=len(x))
        return Batches(rows, config.batch_size, shuffle, built.core.base, built.coupling)

    trainer = Trainer(
        built.core, built.objective, batches(x1, seed), config, MemorySink(), validation=batches(held, seed + 1)
    )
    started = time.process_time()
    trainer.run()
    return built.core.eval(), shift, time.process_time() - started


@torch.no_grad()
def run_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One cell: train, solve both ways from fresh source rows, compare at every step."""
    torch.set_num_threads(1)
    with torch.enable_grad():
        flow, shift, seconds = train(settings)
    figures: dict[str, Any] = {"floor": floor(settings["dim"], settings["rows"]), "training_cpu_seconds": seconds}
    start = draws(settings, 3, -settings["offset"]) + shift
    times = torch.linspace(0, 1, settings["solver_steps"] + 1)
    assert flow.ode is not None
    for name, kind in SOLVERS.items():
        solver = make_solver(kind, steps=settings["solver_steps"])
        generator = generator_for(settings["seed"], STREAM, 4)
        solution = solver(flow.ode.field, start, times=times, generator=generator)
        raise_if_failed(solution)
        assert solution.states is not None
        divergences = [
            fitted_divergence(x - shift, *exact_marginal(float(t), settings["offset"], settings["sigma"]))
            for t, x in zip(times, solution.states, strict=True)
        ]
        figures[name] = {"end": divergences[-1], "mean": sum(divergences) / len(divergences), "all": divergences}
    return figures


def write_table(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """The table, from the results alone."""
    lines = [
        "# The Schrödinger bridge between two Gaussians",
        "",
        f"Written by `{COMMAND}`; do not edit. N(−0.1·1, I) → N(0.1·1, I), σ = 1, `sf2m`, 10,000 rows of either side, "
        "20 steps; KL in nats of a Gaussian fitted to 10,000 samples against the exact marginal. `rows`: from source "
        "rows, as published; `start`: from Gaussian noise with the Gaussian start of `advect train`; `none`: that "
        "start alone. "
        "Floor: what fitting a Gaussian to 10,000 exact draws costs. Limit: twice SF2M-Exact's figure (Tong et al. "
        "2307.03672, Table 3). Mean ± sd over the seeds that are there.",
        "",
        "| d | way | seeds | solver | KL at t = 1 | limit | KL, mean of 21 times | limit | floor | within | training |",
        "|" + " --- |" * 11,
    ]
    for dim in DIMS:
        for way in WAYS:
            own = [r for r in records if (r["settings"]["dim"], r["settings"]["way"]) == (dim, way)]
            lines += [_line(dim, way, name, own) for name in SOLVERS if own]
    lines += ["", made_on(records, len(DIMS) * len(WAYS) * len(SEEDS))] if records else []
    write_text(path, "\n".join(lines) + "\n")


def _line(dim: int, way: str, solver: str, own: Sequence[Mapping[str, Any]]) -> str:
    figures = [r["figures"] for r in own]
    ends, means = ([f[solver][name] for f in figures] for name in ("end", "mean"))
    limits = [FACTOR * published for published in PUBLISHED[dim]]
    passed = [sum(values) / len(values) <= limit for values, limit in zip((ends, means), limits, strict=True)]
    cells = [
        str(dim),
        way,
        f"{len(own)} of {len(SEEDS)}",
        solver.upper(),
        mean_and_sd(ends, 4),
        f"{limits[0]:.3f}",
        mean_and_sd(means, 4),
        f"{limits[1]:.3f}",
        f"{figures[0]['floor']:.4f}",
        "both" if all(passed) else "neither" if not any(passed) else "t = 1" if passed[0] else "mean",
        f"{sum(f['training_cpu_seconds'] for f in figures) / len(figures):.0f} s",
    ]
    return "| " + " | ".join(cells) + " |"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a cell failed, 2 where the request is refused."""
    parser = command_line(COMMAND, __doc__, RESULTS)
    parser.add_argument("--dims", nargs="+", type=int, choices=DIMS, default=DIMS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args(arguments)
    return answer(given, plan(given.dims, given.ways, given.seeds, given.steps), write_table)


if __name__ == "__main__":
    sys.exit(main())
