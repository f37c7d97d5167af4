"""The table of methods: the only place with names, and the only constructor.

A row says which path, coupling, objective and baseline a name stands for, with the words that explain it. `fit` and
`load` build through the same rows; `advect methods` and `advect explain` print them. After `build` only objects travel.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from advect.couplings import Assignment, Classwise, Entropic, Independent
from advect.errors import ConfigError, unknown_name
from advect.flows import (
    ContinuousMap,
    Flow,
    GaussianBaseline,
    OptimalGaussianBaseline,
    StandardNormal,
    VelocityField,
)
from advect.networks import make_network
from advect.objectives import VelocityMatching, make_times
from advect.paths import AffinePath, BrownianBridge, Linear, Lipman, LipmanPath
from advect.solvers import make_solver
from advect.transforms import Compose
from advect.typing import Base, Bijection, Coupling, Objective, Path, Schedule

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Option:
    """A setting that a method accepts.

    Attributes:
        default: Its value when nothing is said; its type is the type that is accepted.
        meaning: One sentence.
        minimum: Smallest allowed value of a number.
        exclusive: Whether the minimum itself is refused.
    """

    default: Any
    meaning: str
    minimum: float = 0.0
    exclusive: bool = False


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: What users write.
        title: The field's name for it.
        map: The kind of map.
        couples: The coupling in words.
        path: The path in symbols.
        objective: The objective in words.
        equation: What is minimised.
        paper: Where it comes from.
        cost: What it costs.
        avoid: When not to use it.
        make_path: Builds the conditional path from the options.
        make_coupling: Builds the coupling from the options.
        make_baseline: Builds the Gaussian velocity an untrained model starts from, fitted to latent rows, or in the
            form into which weights are loaded when there are none.
        options: Settings of its own.
        any_source: Whether the source may be something other than a standard normal.
    """

    name: str
    title: str
    map: str
    couples: str
    path: str
    objective: str
    equation: str
    paper: str
    cost: str
    avoid: str
    make_path: Callable[[Options], Path]
    make_coupling: Callable[[Options], Coupling]
    make_baseline: Callable[[Options, tuple[int, ...], Tensor | None], nn.Module]
    options: Mapping[str, Option] = field(default_factory=dict)
    any_source: bool = True


_TIMES = Option("uniform", "Density of the training times: uniform, logit-normal or stratified.")
_SIGMA = Option(0.0, "Constant standard deviation of the path around the straight line, in standardised units.")


def _linear(options: Options) -> Path:
    return AffinePath(Linear(), sigma=options["sigma"])


def _independent_start(schedule: Schedule, shape: tuple[int, ...], latent: Tensor | None) -> nn.Module:
    """The marginal velocity to a Gaussian fit when source and data rows are paired at random."""
    return GaussianBaseline.standard(shape, schedule) if latent is None else GaussianBaseline.fit(latent, schedule)


def _optimal_start(shape: tuple[int, ...], latent: Tensor | None) -> nn.Module:
    """The velocity of the optimal map to a Gaussian fit."""
    return OptimalGaussianBaseline.standard(shape) if latent is None else OptimalGaussianBaseline.fit(latent)


METHODS: dict[str, Method] = {
    row.name: row
    for row in (
        Method(
            name="fm",
            title="Flow matching (Lipman)",
            map="ODE",
            couples="independent, Gaussian source",
            path="p_t(x|x1) = N(t·x1, (1 − (1 − s)t)² I)",
            objective="velocity regression",
            equation="E‖v(t, x_t) − (x1 − (1 − s)x0)‖²  with  x_t = t·x1 + (1 − (1 − s)t)·x0",
            paper="Lipman et al. 2022, Flow Matching for Generative Modeling, eq. 20–23",
            cost="one network evaluation and its gradient per step",
            avoid="the source is not a standard normal, or samples must come from very few evaluations",
            make_path=lambda o: LipmanPath(sigma_min=o["sigma_min"]),
            make_coupling=lambda o: Independent(),
            make_baseline=lambda o, shape, latent: _independent_start(Lipman(o["sigma_min"]), shape, latent),
            options={"sigma_min": Option(1e-4, "Standard deviation s of the path at the data."), "times": _TIMES},
            any_source=False,
        ),
        Method(
            name="i-cfm",
            title="Independent conditional flow matching",
            map="ODE",
            couples="independent",
            path="p_t(x|x0,x1) = N((1 − t)x0 + t·x1, σ² I)",
            objective="velocity regression",
            equation="E‖v(t, x_t) − (x1 − x0)‖²",
            paper="Tong et al. 2023, Improving and Generalizing Flow-Based Generative Models, eq. 14–15",
            cost="one network evaluation and its gradient per step",
            avoid="samples must come from very few evaluations, or the map itself matters: its paths cross and bend",
            make_path=_linear,
            make_coupling=lambda o: Independent(),
            make_baseline=lambda o, shape, latent: _independent_start(Linear(), shape, latent),
            options={"sigma": _SIGMA, "times": _TIMES},
        ),
        Method(
            name="rf",
            title="Rectified flow (first)",
            map="ODE",
            couples="independent",
            path="x_t = (1 − t)x0 + t·x1",
            objective="velocity regression",
            equation="E‖v(t, x_t) − (x1 − x0)‖²",
            paper="Liu et al. 2022, Flow Straight and Fast, eq. 1",
            cost="one network evaluation and its gradient per step",
            avoid="as i-cfm, whose case σ = 0 it is",
            make_path=lambda o: AffinePath(Linear(), sigma=0.0),
            make_coupling=lambda o: Independent(),
            make_baseline=lambda o, shape, latent: _independent_start(Linear(), shape, latent),
            options={"times": _TIMES},
        ),
        Method(
            name="ot-cfm",
            title="Optimal-transport conditional flow matching",
            map="ODE",
            couples="optimal transport inside each batch, inside each class of a discrete condition",
            path="p_t(x|x0,x1) = N((1 − t)x0 + t·x1, σ² I)",
            objective="velocity regression",
            equation="E‖v(t, x_t) − (x1 − x0)‖²  with (x0, x1) from the batch's exact assignment on |x0 − x1|²",
            paper="Tong et al. 2023, Improving and Generalizing Flow-Based Generative Models, eq. 16–17",
            cost="as i-cfm, plus one exact assignment per step",
            avoid="the condition is continuous (the pairing is then independent and says so), or batches are huge",
            make_path=_linear,
            make_coupling=lambda o: Classwise(Assignment(replacement=o["replacement"])),
            make_baseline=lambda o, shape, latent: _optimal_start(shape, latent),
            options={
                "sigma": _SIGMA,
                "times": _TIMES,
                "replacement": Option(False, "Draw pairs from the plan with replacement, as published tables did."),
            },
        ),
        Method(
            name="sb-cfm",
            title="Schrödinger-bridge conditional flow matching",
            map="ODE",
            couples="entropic optimal transport with regulariser 2σ², inside each class of a discrete condition",
            path="p_t(x|x0,x1) = N((1 − t)x0 + t·x1, σ² t(1 − t) I)",
            objective="velocity regression, weighted by t(1 − t)",
            equation="E t(1 − t)‖v(t, x_t) − (1 − 2t)/(2t(1 − t))·(x_t − μ_t) − (x1 − x0)‖²",
            paper="Tong et al. 2023, Improving and Generalizing Flow-Based Generative Models, eq. 18–20",
            cost="as i-cfm, plus a log-domain Sinkhorn solve per step",
            avoid="σ is small against the data (the plan converges slowly), or sharp samples matter most",
            make_path=lambda o: BrownianBridge(sigma=o["sigma"]),
            make_coupling=lambda o: Classwise(Entropic.for_bridge(o["sigma"])),
            make_baseline=lambda o, shape, latent: _independent_start(Linear(), shape, latent),
            options={
                "sigma": Option(1.0, "Noise of the bridge, in standardised units.", exclusive=True),
                "times": _TIMES,
            },
        ),
    )
}


def get_method(name: str) -> Method:
    """The row called ``name``.

    Raises:
        UnknownNameError: There is none; the nearest name is offered.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS, where="method")
    return METHODS[name]


def resolve_options(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a method: the given ones checked, the rest by default.

    Raises:
        UnknownNameError: The method has no such option.
        ConfigError: A value has the wrong type or is out of range.
    """
    for name in given:
        if name not in method.options:
            raise unknown_name(f"option of {method.name}", name, method.options, where=name)
    return {name: _checked(name, option, given.get(name, option.default)) for name, option in method.options.items()}


def _checked(name: str, option: Option, value: Any) -> Any:
    expected = type(option.default)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, expected):
        raise ConfigError(f"{name} must be a {expected.__name__}, not {value!r}", where=name)
    if expected in (float, int):
        low = value <= option.minimum if option.exclusive else value < option.minimum
        if not value < float("inf") or low:
            bound = f"{'above' if option.exclusive else 'at least'} {option.minimum:g}"
            raise ConfigError(f"{name} must be {bound}, not {value}", where=name, remedy=option.meaning)
    return value


@dataclass(frozen=True)
class Parts:
    """Objects a user gives in place of a row's own.

    Attributes:
        path: Any object with the contract of a Path.
        coupling: Any object with the contract of a Coupling.
        network: Any module called as ``network(t, x, condition)``.
    """

    path: Path | None = None
    coupling: Coupling | None = None
    network: nn.Module | None = None


@dataclass(frozen=True)
class Blueprint:
    """What the constructor needs to know: plain values, all of them in the run's configuration.

    Attributes:
        method: Name of the row.
        options: Its options, resolved.
        network: Name of the network.
        event_shape: Shape of one row in the flow's coordinates.
        condition_features: Width of the condition vector; 0 for none.
        condition_dropout: Share of rows trained without their condition, for guidance.
        baseline: Whether an untrained model returns a Gaussian fit.
        solver: Name of the sampling solver.
        steps: Its steps (fixed solvers).
        tolerance: Its tolerance (adaptive solvers).
        likelihood_solver: Name of the solver of likelihoods, encoding and transport.
        likelihood_tolerance: Its tolerance.
    """

    method: str
    options: Options
    network: str
    event_shape: tuple[int, ...]
    condition_features: int = 0
    condition_dropout: float = 0.1
    baseline: bool = True
    solver: str = "adams3"
    steps: int | None = 24
    tolerance: float | None = None
    likelihood_solver: str = "dopri5"
    likelihood_tolerance: float = 1e-5


@dataclass(frozen=True)
class Built:
    """What training needs.

    Attributes:
        core: The flow in latent coordinates: base and ODE, no preprocessing.
        objective: Its loss per row.
        coupling: Pairs source and data rows.
    """

    core: Flow
    objective: Objective
    coupling: Coupling


def build(
    blueprint: Blueprint,
    *,
    seed: int = 0,
    source: Base | None = None,
    latent: Tensor | None = None,
    parts: Parts | None = None,
) -> Built:
    """Make the flow and its objective.

    Args:
        blueprint: The settings.
        seed: Of the network's initial weights.
        source: Another base than the standard normal.
        latent: ``(rows, *event)`` training rows in latent coordinates, to fit the Gaussian baseline; None when weights
            will be loaded.
        parts: The user's own objects.

    Raises:
        ConfigError: The method needs a Gaussian source and another one is given.
    """
    parts = Parts() if parts is None else parts
    method = get_method(blueprint.method)
    if source is not None and not method.any_source and parts.path is None:
        raise ConfigError(
            f"{method.name} conditions on the data alone: its path {method.path} is valid for a standard-normal source "
            "only",
            where="source",
            remedy="Use i-cfm, ot-cfm or sb-cfm with --source.",
        )
    path = parts.path if parts.path is not None else method.make_path(blueprint.options)
    coupling = parts.coupling if parts.coupling is not None else method.make_coupling(blueprint.options)
    core = _flow(blueprint, method, seed, source, latent, parts)
    times = make_times(blueprint.options.get("times", "uniform"))
    dropout = blueprint.condition_dropout if blueprint.condition_features else 0.0
    objective = VelocityMatching(path, times=times, condition_dropout=dropout)
    return Built(core, objective, coupling)


def _flow(
    blueprint: Blueprint, method: Method, seed: int, source: Base | None, latent: Tensor | None, parts: Parts
) -> Flow:
    shape = blueprint.event_shape
    network = parts.network or make_network(
        blueprint.network,
        event_shape=shape,
        condition_features=blueprint.condition_features,
        generator=torch.Generator().manual_seed(seed),
    )
    # A Gaussian start presumes a Gaussian source and the row's own path and coupling.
    plain = source is None and parts.coupling is None and parts.path is None
    baseline = method.make_baseline(blueprint.options, shape, latent) if blueprint.baseline and plain else None
    if baseline is not None:
        baseline = baseline.float()
    ode = ContinuousMap(
        VelocityField(network, baseline=baseline),
        event_shape=shape,
        solver=make_solver(blueprint.solver, steps=blueprint.steps, tolerance=blueprint.tolerance),
        likelihood_solver=make_solver(blueprint.likelihood_solver, tolerance=blueprint.likelihood_tolerance),
    )
    return Flow(source if source is not None else StandardNormal(shape), ode)


def full_flow(core: Flow, *before: Bijection) -> Flow:
    """The flow in the user's coordinates: preprocessing first, then the core's map."""
    return Flow(core.base, Compose(*before, core.map))


def explanation(name: str) -> dict[str, Any]:
    """What `advect explain` says about a method, from the row that the code runs on.

    Raises:
        UnknownNameError: There is no such method.
    """
    method = get_method(name)
    options = {key: f"{option.meaning} Default {option.default!r}." for key, option in method.options.items()}
    return {
        "name": method.name,
        "title": method.title,
        "map": method.map,
        "coupling": method.couples,
        "path": method.path,
        "objective": method.objective,
        "equation": method.equation,
        "paper": method.paper,
        "cost": method.cost,
        "avoid when": method.avoid,
        "source": "any rows (--source)" if method.any_source else "a standard normal",
        "time": "t = 0 is the source, t = 1 the data",
        "options": options,
    }
