"""The constructor: from a row and plain settings to a flow and its objective, for `fit` and `load` alike."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advect.errors import ConfigError
from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.methods.row import Options
from advect.methods.table import get_method
from advect.networks import FieldNetwork, make_network
from advect.objectives import VelocityMatching, make_times
from advect.solvers import make_solver
from advect.transforms import Compose
from advect.typing import Base, Bijection, Coupling, Objective, Path


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
    path = parts.path if parts.path is not None else method.make_path(blueprint.options)
    if source is not None and getattr(path, "requires_gaussian_source", False):
        name = f"{method.name} conditions" if parts.path is None else f"The path {type(path).__name__} is conditioned"
        words = method.path if parts.path is None else "takes the source rows for its noise, which"
        raise ConfigError(
            f"{name} on the data alone: its path {words} is valid for a standard-normal source only",
            where="source",
            remedy="Use i-cfm, ot-cfm or sb-cfm with --source.",
        )
    coupling = parts.coupling if parts.coupling is not None else method.make_coupling(blueprint.options)
    core = build_flow(blueprint, seed=seed, source=source, latent=latent, parts=parts)
    times = make_times(blueprint.options.get("times", "uniform"))
    objective = VelocityMatching(path, times=times, condition_dropout=blueprint.condition_dropout)
    return Built(core, objective, coupling)


def build_flow(
    blueprint: Blueprint,
    *,
    seed: int = 0,
    source: Base | None = None,
    latent: Tensor | None = None,
    parts: Parts | None = None,
) -> Flow:
    """Make the flow alone, as for weights that are loaded: no path and no coupling are needed then.

    The arguments are those of `build`.
    """
    parts = Parts() if parts is None else parts
    method, shape = get_method(blueprint.method), blueprint.event_shape
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
        if parts.network is None and isinstance(network, FieldNetwork):
            network.start_at_zero()
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
