"""The recipe of flow matching: an ODE whose velocity is regressed on that of a path between coupled ends."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.methods.blueprint import Blueprint, Parts
from advect.methods.option import Options
from advect.networks import TimedNetwork, make_network, resolve_network
from advect.objectives import Denoising, VelocityMatching, make_times, make_weight
from advect.paths import AffinePath
from advect.solvers import make_solver
from advect.transforms.bijection import Likelihood
from advect.typing import Base, Coupling, Objective, Path, Schedule

_SOURCES = {
    True: "Any rows may take the place of Gaussian noise: `--source DATA`, in Python `advect.fit(X, source=rows)`.",
    False: "The path is conditioned on the data alone and its noise *is* the source, so the source must be a standard "
    "normal; `--source` is refused.",
}


@dataclass(frozen=True)
class Matching:
    """See `methods.recipe.Recipe`.

    Attributes:
        make_path: Builds the conditional path from the options.
        make_coupling: Builds the coupling from the options.
        make_baseline: Builds the Gaussian velocity an untrained model starts from, fitted to latent rows, or in the
            form into which weights are loaded when there are none.
        make_schedule: The schedule whose points the path draws, α x1 + σ x0 and nothing else; None where it draws
            others.
        independent: Whether the ends are drawn independently, so that a Gaussian source makes the field a score too.
        any_source: Whether the source may be something other than a standard normal.
    """

    make_path: Callable[[Options], Path]
    make_coupling: Callable[[Options], Coupling]
    make_baseline: Callable[[Options, tuple[int, ...], Tensor | None], nn.Module]
    make_schedule: Callable[[Options], Schedule | None] = lambda options: None
    independent: bool = False
    any_source: bool = True
    training: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    has_tractable_density = False
    likelihood: Likelihood = field(default="exact", init=False)
    has_ode = True
    pictures_only = False

    def ends(self, options: Options) -> tuple[str, ...]:
        """Where the path starts and ends, and whether any rows may be its source."""
        path: Any = self.make_path(options)
        return (
            f"With the default options the path starts at `{path.start()}` and ends at `{path.end()}`. "
            "What is left of x0 or of noise at the end belongs to the model: its samples carry it.",
            _SOURCES[self.any_source],
        )

    def resolve_network(self, name: str, *, event_shape: tuple[int, ...], num_rows: int | None = None) -> str:
        """See `networks.resolve_network`."""
        return resolve_network(name, event_shape=event_shape, num_rows=num_rows)

    def refusal(self, blueprint: Blueprint, parts: Parts, source: Base | None) -> str | None:
        """A path whose noise is its source takes no other source, and not every prediction fits every path."""
        path, prediction = self._path(blueprint, parts), blueprint.options.get("predict", "velocity")
        weighting = blueprint.options.get("weighting", "velocity")
        if not prediction == weighting == "velocity" and self._schedule(blueprint, parts) is None:
            if blueprint.piecewise:
                return (
                    f"predict={prediction}, weighting={weighting} need one path from source to data, and through "
                    "several times there is one between every two: only the velocity can be predicted, with its own "
                    "weight"
                )
            return (
                f"predict={prediction}, weighting={weighting} need points that are α x1 + σ x0 and nothing else, and "
                "this path adds noise of its own; with it only the velocity can be predicted, with its own weight"
            )
        if prediction == "score" and (source is not None or blueprint.paired):
            return "predict=score needs a standard-normal source, drawn apart from the data: no other score is known"
        if source is None or not getattr(path, "requires_gaussian_source", False):
            return None
        if parts.path is None:
            return (
                f"{blueprint.method} conditions on the data alone: its path takes the source rows for its noise, "
                "which is valid for a standard-normal source only"
            )
        return (
            f"The path {type(path).__name__} is conditioned on the data alone: it takes the source rows for its "
            "noise, which is valid for a standard-normal source only"
        )

    def objective(self, blueprint: Blueprint, parts: Parts) -> Objective:
        """Regression of the velocity along the path, or of what the network predicts in its place."""
        times = make_times(blueprint.options.get("times", "uniform"))
        path, dropout = self._path(blueprint, parts), blueprint.condition_dropout
        prediction = blueprint.options.get("predict", "velocity")
        weighting = blueprint.options.get("weighting", "velocity")
        if prediction == weighting == "velocity":
            return VelocityMatching(path, times=times, condition_dropout=dropout)
        schedule = self._schedule(blueprint, parts)
        assert schedule is not None  # refused before
        return Denoising(AffinePath(schedule), prediction, times, make_weight(weighting), dropout)

    def coupling(self, blueprint: Blueprint, parts: Parts) -> Coupling:
        """The row's coupling, or the user's."""
        return parts.coupling if parts.coupling is not None else self.make_coupling(blueprint.options)

    def flow(
        self, blueprint: Blueprint, *, seed: int, source: Base | None, latent: Tensor | None, parts: Parts
    ) -> Flow:
        """An ODE with a network on top of a Gaussian start."""
        # A Gaussian start presumes a Gaussian source and the row's own path and coupling.
        plain = source is None and parts.coupling is None and parts.path is None
        apart = self.independent and plain and not blueprint.paired
        shape = blueprint.event_shape
        return regressed_flow(
            blueprint,
            parts,
            seed=seed,
            base=source if source is not None else StandardNormal(shape),
            baseline=self.make_baseline(blueprint.options, shape, latent) if blueprint.baseline and plain else None,
            schedule=self._schedule(blueprint, parts),
            has_score=apart and self._schedule(blueprint, parts) is not None,
            parameterisation=blueprint.options.get("predict", "velocity"),
        )

    def _schedule(self, blueprint: Blueprint, parts: Parts) -> Schedule | None:
        return None if parts.path is not None or blueprint.piecewise else self.make_schedule(blueprint.options)

    def _path(self, blueprint: Blueprint, parts: Parts) -> Path:
        return parts.path if parts.path is not None else self.make_path(blueprint.options)


def regressed_flow(
    blueprint: Blueprint,
    parts: Parts,
    *,
    seed: int,
    base: Base,
    baseline: nn.Module | None,
    **reading: Any,
) -> Flow:
    """An ODE with a network on top of a Gaussian start.

    Args:
        blueprint: The settings.
        parts: The user's own objects, among them perhaps the network.
        seed: Of the weights.
        base: What stands at t = 0.
        baseline: The Gaussian velocity to start from, or None.
        reading: How the network's output becomes a velocity, see `VelocityField`.
    """
    network = parts.network or make_network(
        blueprint.network,
        event_shape=blueprint.event_shape,
        condition_features=blueprint.condition_features,
        generator=torch.Generator().manual_seed(seed),
    )
    if baseline is not None:
        baseline = baseline.float()
        if parts.network is None and isinstance(network, TimedNetwork):
            network.start_at_zero()
    field = VelocityField(network, baseline=baseline, **reading)
    solvers = solvers_of(blueprint, field.schedule)
    return Flow(base, ContinuousMap(field, event_shape=blueprint.event_shape, **solvers))


def solvers_of(blueprint: Blueprint, schedule: Schedule | None = None) -> dict[str, Any]:
    """The two solvers of an ODE map from the settings; ``schedule`` is that of an affine path."""
    assert blueprint.solver is not None
    assert blueprint.likelihood_solver is not None
    return {
        "solver": make_solver(
            blueprint.solver, steps=blueprint.steps, tolerance=blueprint.tolerance, schedule=schedule
        ),
        "likelihood_solver": make_solver(blueprint.likelihood_solver, tolerance=blueprint.likelihood_tolerance),
    }
