"""Densities in the plane: how far is each method from a density that is known exactly?

    KL(p | q) = E_p [log p(x) − log q(x)],    in nats, on 10,000 fresh rows of p, with its standard error

for `8gaussians`, `checkerboard`, `rings` (closed forms, `advect.data.toys`) and `spiral` (`log_density` below, by
quadrature along the arm). Every method trains for the same time on 20,000 rows. Results hold the learned density on a
grid and, for some discrete flows, points on their way through the layers: the figures are drawn from the results.

Run ``python -m benchmarks.density_2d``; what is finished is not run again.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advect.data.toys import TOYS
from advect.flows import Flow
from advect.methods import METHODS, Blueprint, build, full_flow, get_method, resolve_options
from advect.training import generator_for
from advect.transforms import Standardise
from benchmarks.cells import REFUSED, ROOT, Cell, answer, command_line, read_records
from benchmarks.density_2d_table import write_figures, write_table
from benchmarks.density_train import CLOCKS, Contender, score, train, training_settings
from benchmarks.packed import pack, unpack

TASKS = ("8gaussians", "checkerboard", "rings", "spiral")
PICTURES = ("glow",)  # methods that want pictures, not points
NO_DENSITY = ("gan",)  # it has none to compare
LAYERED = ("realnvp", "nsf")  # whose points are followed through the layers
SEEDS = (0,)
SECONDS = 30.0
COMMAND = "python -m benchmarks.density_2d"
RESULTS = ROOT / "benchmarks" / "results" / "density_2d"

WINDOW = {"8gaussians": 8.0, "checkerboard": 4.5, "rings": 4.0, "spiral": 4.5}  # half the side of the pictures
GRID = 100
GRID_STEP, LEAST_LOG = 0.05, -14.0  # of the log-density in the pictures, nats
POINTS, POINT_STEP = 800, 0.01
PLANE_STREAM = 1810  # apart from the streams of the training loop

SPIRAL_STD = 0.1
PANELS, NODES = 256, 8  # of the quadrature: a panel is 1.5 standard deviations of the noise where the arm is fastest


@cache
def spiral_rule() -> tuple[Tensor, Tensor]:
    """Centres ``(nodes, 2)`` along the arm and the logarithm of their weights: composite Gauss–Legendre in s = √u."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    s = torch.from_numpy(((np.arange(PANELS)[:, None] + (nodes + 1) / 2) / PANELS).ravel())
    weight = torch.from_numpy(np.tile(weights / 2, PANELS) / PANELS) * 2 * s  # u uniform: s has density 2s
    return torch.stack([4 * s * (3 * math.pi * s).cos(), 4 * s * (3 * math.pi * s).sin()], 1), weight.log()


def spiral_log_density(x: Tensor) -> Tensor:
    """∫₀¹ 2s N(x; 4s (cos 3πs, sin 3πs), 0.1² I) ds, the law of `toys.spiral`, to about 1e-9 nats near the arm."""
    centres, log_weight = spiral_rule()
    parts = []
    for rows in x.double().split(1000):
        squares = (rows[:, None] - centres).square().sum(-1)
        parts.append(torch.logsumexp(log_weight - squares / (2 * SPIRAL_STD**2), 1))
    return torch.cat(parts) - math.log(2 * math.pi * SPIRAL_STD**2)


def log_density(task: str, x: Tensor) -> Tensor:
    """The exact log-density in nats, −∞ outside the support."""
    return spiral_log_density(x) if task == "spiral" else TOYS[task].log_density(x)


def grid_of(task: str) -> Tensor:
    """``(GRID², 2)`` centres of the cells of the picture, row by row from below."""
    half = WINDOW[task]
    axis = (torch.arange(GRID, dtype=torch.float64) + 0.5) / GRID * 2 * half - half
    return torch.cartesian_prod(axis, axis)[:, [1, 0]]


def names() -> tuple[str, ...]:
    """All methods that learn a density of points, in the order of the table of methods."""
    return tuple(name for name in METHODS if name not in (*PICTURES, *NO_DENSITY))


def settings_of(task: str, method: str, seed: int, seconds: float, clock: str = "wall") -> dict[str, Any]:
    """Everything that decides a cell's figures.

    Raises:
        UnknownNameError: There is no such method.
    """
    row = get_method(method)
    return {
        "task": task,
        "method": method,
        "seed": seed,
        "seconds": seconds,
        "clock": clock,
        "target": TOYS[task].title,
        "train_rows": 20_000,
        "validation_rows": 4_096,
        "test_rows": 10_000,
        "network": "auto",
        "options": resolve_options(row, {}),
        "blueprint": dict(row.recipe.settings),
        "training": training_settings(row.recipe.training),
    }


def plan(
    tasks: Sequence[str], methods: Sequence[str], seeds: Sequence[int], seconds: float, clock: str = "wall"
) -> list[Cell]:
    """The cells of a run: method by method, so that every row of the table is soon whole."""
    extra = "" if clock == "wall" else f" --clock {clock}"
    return [
        Cell(
            name=f"{task}-{method}-{seed}",
            work="benchmarks.density_2d:run_cell",
            settings=settings_of(task, method, seed, seconds, clock),
            command=f"{COMMAND} --tasks {task} --methods {method} --seeds {seed} --seconds {seconds:g}{extra}",
        )
        for seed in seeds
        for method in methods
        for task in tasks
    ]


def draw(task: str, seed: int, stream: int, rows: int) -> Tensor:
    """Fresh float64 rows of the target."""
    return TOYS[task].sample(rows, generator_for(seed, PLANE_STREAM, stream))


def run_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One cell: draw, train, compare with the truth."""
    torch.set_num_threads(1)
    task, seed = settings["task"], settings["seed"]
    train_rows, validation, test = (
        draw(task, seed, i, settings[f"{name}_rows"]) for i, name in enumerate(("train", "validation", "test"))
    )
    scale = Standardise(train_rows.mean(0), train_rows.std(0))
    z_train, z_validation, z_test = (scale.encode(x).value.float() for x in (train_rows, validation, test))
    log_det = -float(scale.scale.log().sum())

    recipe = get_method(settings["method"]).recipe
    network = recipe.resolve_network(settings["network"], event_shape=(2,), num_rows=len(z_train))
    plain = Blueprint(method=settings["method"], options=settings["options"], network=network, event_shape=(2,))
    built = build(replace(plain, **settings["blueprint"]), seed=seed, latent=z_train)
    base = None if built.coupling is None else built.core.base

    def log_prob(x: Tensor) -> Tensor:
        return built.core.log_prob(x, generator=generator_for(seed, PLANE_STREAM, 3))

    contender = Contender(built.core, built.objective, log_prob, base, built.coupling)
    figures = train(contender, z_train, z_validation, settings, seed=seed)
    built.core.eval()
    figures |= {"network": network} | score(log_prob, z_test, log_det)
    with torch.no_grad():
        learned = log_prob(scale.encode(grid_of(task)).value.float()).double() + log_det
    figures |= divergence(task, test, figures.pop("log_prob"))
    figures["grid"] = pack(learned.clamp_min(LEAST_LOG).reshape(GRID, GRID).numpy(), GRID_STEP)
    if settings["method"] in LAYERED:
        figures["stages"] = pack(through_layers(built.core, scale, seed), POINT_STEP)
    return figures


def divergence(task: str, test: Tensor, packed: dict[str, Any]) -> dict[str, Any]:
    """KL of the truth from the model, over the rows that have a value."""
    truth = log_density(task, test)
    difference = truth - torch.from_numpy(unpack(packed))
    kept = difference[torch.isfinite(difference)]
    return {
        "kl": float(kept.mean()),
        "kl_error": float(kept.std()) / math.sqrt(len(kept)),
        "entropy": -float(truth.mean()),
    }


@torch.no_grad()
def through_layers(core: Flow, scale: Standardise, seed: int) -> np.ndarray:
    """``(stages, POINTS, 2)``: source points after each layer of decode, in the units of the data."""
    from advect.flows.stages import stages

    z = core.base.sample(POINTS, None, generator=generator_for(seed, PLANE_STREAM, 4))
    return stages(full_flow(core, scale.float()), z, preprocessing=1).double().numpy()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a cell failed, 2 where the request is refused."""
    parser = command_line(COMMAND, __doc__, RESULTS)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--methods", nargs="+", choices=names(), default=names(), metavar="METHOD", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="of draws and training; default: 0")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of training; the protocol has 30")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: processor time, on a busy machine")
    given = parser.parse_args(arguments)

    def tabulate(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
        write_table(path, records, tasks=TASKS, methods=names(), seeds=SEEDS, seconds=SECONDS)

    cells = plan(given.tasks, given.methods, given.seeds, given.seconds, given.clock)
    code = answer(given, cells, tabulate)
    if code != REFUSED:
        truths = {task: log_density(task, grid_of(task)).reshape(GRID, GRID).numpy() for task in TASKS}
        write_figures(given.out, read_records(given.out), truths, WINDOW, names())
    return code


if __name__ == "__main__":
    sys.exit(main())
