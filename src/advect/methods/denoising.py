"""The recipe of diffusion: an ODE whose network is trained to undo noise along a schedule.

It is flow matching along the schedule's path with a Gaussian source, seen from the other side: the network may predict
noise, x1, score, velocity or EDM's output, the loss is weighed accordingly, and the flow that comes out is an ODE like
any other (the probability-flow ODE of Song et al. 2011.13456, equation 13).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from advect.flows import Flow, GaussianBaseline, IsotropicNormal
from advect.methods.blueprint import Blueprint, Parts
from advect.methods.matching import regressed_flow
from advect.methods.option import Options
from advect.networks import resolve_network
from advect.objectives import Denoising as DenoisingLoss
from advect.objectives import TimeSampler, make_weight
from advect.paths import AffinePath, AffineSchedule
from advect.transforms.bijection import Likelihood
from advect.typing import Base, Coupling, Objective


@dataclass(frozen=True)
class Denoising:
    """See `methods.recipe.Recipe`.

    Attributes:
        make_schedule: α and σ from the options.
        make_times: How training times are drawn, from the schedule that `make_schedule` made.
    """

    make_schedule: Callable[[Options], AffineSchedule]
    make_times: Callable[[Any], TimeSampler]
    training: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    any_source = False
    has_tractable_density = False
    likelihood: Likelihood = field(default="exact", init=False)
    has_ode = True
    pictures_only = False

    def ends(self, options: Options) -> tuple[str, ...]:
        """Where the schedule starts and ends."""
        schedule = self.make_schedule(options)
        return (
            f"With the default options the path starts at `{schedule.start()}` and ends at `{schedule.end()}`. "
            "Sampling starts from a normal with the standard deviation of the noise there; what the path still holds "
            "of the data at its start is the mismatch of that start law, and the preflight prints how much it is. What "
            "is left of the noise at the end belongs to the model.",
            "The source is noise by definition, so it must be a standard normal; `--source` is refused.",
        )

    def resolve_network(self, name: str, *, event_shape: tuple[int, ...], num_rows: int | None = None) -> str:
        """See `networks.resolve_network`."""
        return resolve_network(name, event_shape=event_shape, num_rows=num_rows)

    def refusal(self, blueprint: Blueprint, parts: Parts, source: Base | None) -> str | None:
        """The source is the noise, and the path is the schedule's."""
        if source is not None:
            return f"{blueprint.method} learns to remove Gaussian noise: no other rows can be its source"
        given = [name for name in ("path", "coupling") if getattr(parts, name) is not None]
        return f"{blueprint.method} follows its own schedule and takes no {given[0]} of your own" if given else None

    def objective(self, blueprint: Blueprint, parts: Parts) -> Objective:
        """The weighted squared error of what the network predicts."""
        options = blueprint.options
        schedule = self.make_schedule(options)
        return DenoisingLoss(
            AffinePath(schedule),
            options["predict"],
            self.make_times(schedule),
            make_weight(options["weighting"] or options["predict"]),
            blueprint.condition_dropout,
        )

    def coupling(self, blueprint: Blueprint, parts: Parts) -> Coupling | None:
        """None: the noise is drawn by the loss."""
        return None

    def flow(
        self, blueprint: Blueprint, *, seed: int, source: Base | None, latent: Tensor | None, parts: Parts
    ) -> Flow:
        """An ODE with a network on top of a Gaussian start, from noise of the schedule's own size."""
        schedule, shape = self.make_schedule(blueprint.options), blueprint.event_shape
        baseline = None
        if blueprint.baseline:
            fitted = latent is not None
            baseline = GaussianBaseline.fit(latent, schedule) if fitted else GaussianBaseline.standard(shape, schedule)
        return regressed_flow(
            blueprint,
            parts,
            seed=seed,
            base=IsotropicNormal(shape, schedule.start().source),
            baseline=baseline,
            schedule=schedule,
            has_score=True,
            parameterisation=blueprint.options["predict"],
            scale_input=True,
        )
