"""The recipe of continuous flows trained by maximum likelihood: an ODE solved in every training step.

The rest is `methods.likelihood`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn

from advect.flows import Flow, StandardNormal
from advect.flows.architectures.continuous import likelihood_map
from advect.methods.blueprint import Blueprint, Parts
from advect.methods.likelihood import (
    GRADIENT_CLIP,
    SOURCE,
    WHITENING_LIMIT,
    Likelihood,
    gaussian_start,
    sizes_of,
)
from advect.methods.matching import solvers_of
from advect.methods.option import Options
from advect.transforms import Bijection, Compose, Flattened
from advect.typing import Base, Objective


@dataclass(frozen=True)
class ContinuousLikelihood(Likelihood):
    """See `methods.recipe.Recipe`.

    Attributes:
        make_field: ``make_field(event_shape, condition_features, depth=…, width=…, generator=…)``: the velocity.
        make_objective: The loss from the options.
    """

    make_field: Callable[..., nn.Module]
    make_objective: Callable[[Options], Objective]
    training: Mapping[str, Any] = field(
        default_factory=lambda: {"gradient_clip": GRADIENT_CLIP, "learning_rate": 5e-3}, kw_only=True
    )
    own_parts: tuple[str, ...] = field(default=("network",), kw_only=True)

    has_ode = True
    pictures_only = False

    def ends(self, options: Options) -> tuple[str, ...]:
        """What the two sides are."""
        return (
            "`encode` integrates data back to a standard normal at t = 0, `decode` integrates forward to t = 1. "
            "Training takes a few fixed steps of RK4; what is reported afterwards is an adaptive solve at 1e-5. The "
            "first layer is the affine map to the Gaussian fit of the training rows, where training starts.",
            SOURCE,
        )

    def objective(self, blueprint: Blueprint, parts: Parts) -> Objective:
        """Minus the log-likelihood of a row, with the row's penalties."""
        return self.make_objective(blueprint.options)

    def flow(
        self, blueprint: Blueprint, *, seed: int, source: Base | None, latent: Tensor | None, parts: Parts
    ) -> Flow:
        """The ODE behind an affine map to the Gaussian fit."""
        shape, features = blueprint.event_shape, math.prod(blueprint.event_shape)
        options = blueprint.options
        ode = likelihood_map(
            parts.network or self._field(blueprint, torch.Generator().manual_seed(seed)),
            shape,
            blueprint.condition_features,
            steps=options["training_steps"],
            trace=options["trace"],
            probes=options["probes"],
            checkpointed=options["checkpointed"],
        ).with_options(**solvers_of(blueprint))
        map: Bijection = ode
        if blueprint.baseline and features <= WHITENING_LIMIT:
            start = gaussian_start(features, latent)
            map = Compose(start if shape == (features,) else Flattened(start, shape), ode)
        return Flow(StandardNormal(shape), map)

    def _field(self, blueprint: Blueprint, generator: Generator) -> nn.Module:
        depth, width = sizes_of(blueprint.network)
        return self.make_field(
            blueprint.event_shape, blueprint.condition_features, depth=depth, width=width, generator=generator
        )
