"""Held-out log-likelihood on tables, patches and angles, for every family of flow beside those of zuko and nflows.

Every contender has the same rows, the same time on one thread and the same loop; see `density_data` for the rows,
`density_train` for the time, `density_peers` for the peers and their settings. Log-likelihoods are in nats, in the
units of the data, on at most 5,000 test rows, the same for all, and are kept row by row: the table compares pairs.

Run ``python -m benchmarks.density``; what is finished is not run again.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch

from advect.errors import AdvectError
from advect.flows import Flow
from advect.methods import METHODS, Blueprint, build, get_method, resolve_options
from advect.records import Estimate
from benchmarks.cells import ROOT, Cell, answer, command_line
from benchmarks.density_data import SETS, Rows, angles, load
from benchmarks.density_peers import PEERS, make_peer
from benchmarks.density_sanity import SANITY
from benchmarks.density_table import Layout, write_table
from benchmarks.density_train import CLOCKS, Contender, score, train, training_settings

OURS = ("realnvp", "maf", "nsf", "nsf-ar", "residual", "cnf", "i-cfm", "nsf-circular")
OPTIONAL = ("ot-cfm",)  # may be asked for; a whole table does without
MODELS = (*SANITY, *OURS, *PEERS)
PERIODIC = ("nsf-circular", *(name for name, peer in PEERS.items() if peer.periodic))
SEEDS = (0,)
SECONDS = 180.0
SCORING_SECONDS = 240.0
TEST_ROWS = 5_000
COMMAND = "python -m benchmarks.density"
RESULTS = ROOT / "benchmarks" / "results" / "density"


def fits(name: str, model: str) -> bool:
    """Whether the model can be asked for the set: densities of angles need angles."""
    return SETS[name].periodic or model not in PERIODIC


def available() -> tuple[str, ...]:
    """The models of a whole table, less those that this advect does not have."""
    circular_there = find_spec("advect.flows.architectures.circular") is not None
    return tuple(m for m in MODELS if m not in OURS or m in METHODS or (m == "nsf-circular" and circular_there))


def settings_of(name: str, model: str, seed: int, seconds: float, clock: str = "wall") -> dict[str, Any]:
    """Everything that decides a cell's figures; the code below reads its numbers from here.

    Raises:
        UnknownNameError: advect has no such method.
    """
    settings = {
        "set": name,
        "model": model,
        "seed": seed,
        "seconds": seconds,
        "clock": clock,
        "scoring_seconds": SCORING_SECONDS,
        "test_rows": TEST_ROWS,
    }
    if model in SANITY:
        return settings
    if model in PEERS:
        peer = PEERS[model]
        return settings | {"sizes": dict(peer.sizes), "training": training_settings(peer.training)}
    # The circular flow is an assembly without a row of its own in the table of methods; it trains as `nsf` does.
    method = get_method("nsf" if model == "nsf-circular" else model)
    settings |= {"training": training_settings(method.recipe.training)}
    if model == "nsf-circular":
        return settings
    return settings | {
        "network": "auto",
        "options": resolve_options(method, {}),
        "blueprint": dict(method.recipe.settings),
    }


def plan(
    sets: Sequence[str], models: Sequence[str], seeds: Sequence[int], seconds: float, clock: str = "wall"
) -> list[Cell]:
    """The cells of a run: seed by seed, and inside a seed set by set, sanity rows first."""
    extra = "" if clock == "wall" else f" --clock {clock}"
    order = (*SANITY, *OURS, *OPTIONAL, *PEERS)
    return [
        Cell(
            name=f"{name}-{model}-{seed}",
            work="benchmarks.density:run_cell",
            settings=settings_of(name, model, seed, seconds, clock),
            command=f"{COMMAND} --sets {name} --models {model} --seeds {seed} --seconds {seconds:g}{extra}",
        )
        for seed in seeds
        for name in SETS
        if name in sets
        for model in order
        if model in models and fits(name, model)
    ]


def ours(settings: Mapping[str, Any], rows: Rows) -> Contender:
    """An untrained flow of advect with what trains it."""
    if settings["model"] == "nsf-circular":
        return circular(settings, rows)
    recipe = get_method(settings["model"]).recipe
    shape = tuple(rows.train.shape[1:])
    network = recipe.resolve_network(settings["network"], event_shape=shape, num_rows=len(rows.train))
    plain = Blueprint(method=settings["model"], options=settings["options"], network=network, event_shape=shape)
    built = build(replace(plain, **settings["blueprint"]), seed=settings["seed"], latent=rows.train)
    base = None if built.coupling is None else built.core.base
    return Contender(
        built.core,
        built.objective,
        lambda x: scored(built.core, x, settings["seed"]),
        base,
        built.coupling,
        about={"network": network},
    )


def circular(settings: Mapping[str, Any], rows: Rows) -> Contender:
    """A spline flow on the torus: uniform base, angles in radians.

    Raises:
        AdvectError: This advect has none.
    """
    try:
        from advect.flows.architectures.circular import circular_base, circular_nsf
        from advect.objectives import MaximumLikelihood
    except ImportError as error:
        raise AdvectError("advect has no circular spline flow yet", where="nsf-circular") from error
    features = rows.train.shape[1]
    map = circular_nsf(features, generator=torch.Generator().manual_seed(settings["seed"]))
    flow = Flow(circular_base(features), map)
    return Contender(
        flow,
        MaximumLikelihood(),
        lambda x: scored(flow, angles(rows, x), settings["seed"]),
        change=lambda x: angles(rows, x),
        about={"network": "circular_nsf, defaults"},
    )


def scored(flow: Flow, x: torch.Tensor, seed: int) -> Estimate:
    """Log-density of rows; what a stochastic log-determinant draws is fixed."""
    return flow.score(x, generator=torch.Generator().manual_seed(seed))


def run_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One cell: read, train, score."""
    torch.set_num_threads(1)
    name, model, seed = settings["set"], settings["model"], settings["seed"]
    rows = load(name, settings["test_rows"])
    if model in SANITY:
        log_prob, figures = SANITY[model](rows, settings["seconds"], seed)
    else:
        if model in PEERS:
            change = (lambda x: angles(rows, x)) if model in PERIODIC else (lambda x: x)
            contender = make_peer(model, rows.train.shape[1], seed=seed, change=change)
        else:
            contender = ours(settings, rows)
        figures = train(contender, rows.train, rows.validation, settings, seed=seed) | dict(contender.about or {})
        contender.density.eval()
        log_prob = contender.log_prob
    # Contenders on the torus see radians, so nothing was scaled.
    log_det = 0.0 if model in PERIODIC else rows.log_det
    figures |= score(log_prob, rows.test, log_det, settings["scoring_seconds"])
    if model == "gaussian":
        every = log_prob(rows.every_test) + log_det
        figures |= {"every_test_rows": len(every), "every_test_mean": float(every.mean())}
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a cell failed, 2 where the request is refused."""
    parser = command_line(COMMAND, __doc__, RESULTS)
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--models", nargs="+", choices=(*MODELS, *OPTIONAL), help="default: all but ot-cfm")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="of the training; default: 0")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of training; anything but 180 is no result")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: processor time, on a busy machine")
    given = parser.parse_args(arguments)
    layout = Layout(
        sets={name: (entry.title, entry.units) for name, entry in SETS.items()},
        sanity=tuple(SANITY),
        ours=(*OURS, *OPTIONAL),
        peers=tuple(PEERS),
        wanted={name: tuple(m for m in available() if fits(name, m)) for name in SETS},
        seeds=SEEDS,
        seconds=SECONDS,
    )

    cells = plan(given.sets, given.models or available(), given.seeds, given.seconds, given.clock)
    return answer(given, cells, lambda path, records: write_table(path, records, layout))


if __name__ == "__main__":
    sys.exit(main())
