"""The recipe of discrete flows: invertible layers fitted by maximum likelihood."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from advect.errors import ConfigError
from advect.flows import Flow, StandardNormal
from advect.methods.blueprint import Blueprint, Parts
from advect.methods.likelihood import SOURCE, WHITENING_LIMIT, Likelihood, gaussian_start, sizes_of
from advect.methods.option import Options
from advect.objectives import MaximumLikelihood
from advect.transforms import Bijection, Compose, Flattened
from advect.typing import Base, Objective

_VECTOR_START = (
    "On vectors the first layer is the affine map to the Gaussian fit of the training rows, where training starts."
)
_PICTURE_START = "On pictures, whose layers are convolutions, there is no such layer."

# The settings of a model in which nothing is guided and nothing solved.
NO_ODE: Mapping[str, Any] = {
    "condition_dropout": 0.0,
    "solver": None,
    "steps": None,
    "likelihood_solver": None,
    "likelihood_tolerance": None,
}


@dataclass(frozen=True)
class VectorAssembly:
    """A named architecture on vectors.

    Attributes:
        build: ``build(features, condition_features, depth=…, width=…, generator=…, **options) -> Bijection``.
        options: The options of the row that it takes.
    """

    build: Callable[..., Bijection]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class PictureAssembly:
    """A named architecture on pictures.

    Attributes:
        build: ``build(event_shape, condition_features, width=…, generator=…, **options) -> Bijection``.
        options: The options of the row that it takes.
    """

    build: Callable[..., Bijection]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class DiscreteLikelihood(Likelihood):
    """See `methods.recipe.Recipe`.

    Attributes:
        vector: The architecture on vectors, or None for one that takes pictures only.
        picture: The architecture on pictures; where there is none they are flattened.
    """

    vector: VectorAssembly | None
    picture: PictureAssembly | None = None
    settings: Mapping[str, Any] = field(default_factory=lambda: NO_ODE, kw_only=True)

    has_ode = False

    @property
    def pictures_only(self) -> bool:
        """Whether there is no architecture on vectors."""
        return self.vector is None

    def ends(self, options: Options) -> tuple[str, ...]:
        """What the two sides are."""
        starts = [_VECTOR_START] * (self.vector is not None) + [_PICTURE_START] * (self.picture is not None)
        return (
            "`encode` takes data to a standard normal through a chain of invertible layers, `decode` takes it back; "
            f"the log-likelihood needs no solver. {' '.join(starts)}",
            SOURCE,
        )

    def objective(self, blueprint: Blueprint, parts: Parts) -> Objective:
        """Minus the log-likelihood of a row."""
        return MaximumLikelihood()

    def flow(
        self, blueprint: Blueprint, *, seed: int, source: Base | None, latent: Tensor | None, parts: Parts
    ) -> Flow:
        """The architecture behind an affine map to the Gaussian fit."""
        for name in ("condition_dropout", "likelihood_solver"):
            if getattr(blueprint, name):
                raise ConfigError(
                    f"{name} is {getattr(blueprint, name)!r}, and {blueprint.method} has no ODE to guide or to solve",
                    where=name,
                    remedy="Leave it out.",
                )
        shape = blueprint.event_shape
        generator = torch.Generator().manual_seed(seed)
        picture = self.picture is not None and len(shape) == 3
        map = self._picture(blueprint, generator) if picture else self._vector(blueprint, generator, latent)
        return Flow(StandardNormal(shape if map.source_shape is None else map.source_shape), map, event_shape=shape)

    def _picture(self, blueprint: Blueprint, generator: Generator) -> Bijection:
        assert self.picture is not None
        _, width = sizes_of(blueprint.network)
        options = {name: blueprint.options[name] for name in self.picture.options}
        return self.picture.build(
            blueprint.event_shape, blueprint.condition_features, width=width, generator=generator, **options
        )

    def _vector(self, blueprint: Blueprint, generator: Generator, latent: Tensor | None) -> Bijection:
        """The architecture on flattened rows, behind the Gaussian start."""
        if self.vector is None:
            raise ConfigError(
                f"{blueprint.method} works on pictures, and rows here have the shape {blueprint.event_shape}",
                where="method",
                remedy="Use realnvp or nsf.",
            )
        shape, features = blueprint.event_shape, math.prod(blueprint.event_shape)
        depth, width = sizes_of(blueprint.network)
        map = self.vector.build(
            features,
            blueprint.condition_features,
            depth=depth,
            width=width,
            generator=generator,
            **{name: blueprint.options[name] for name in self.vector.options},
        )
        if blueprint.baseline and features <= WHITENING_LIMIT:
            map = Compose(gaussian_start(features, latent), map)
        return map if shape == (features,) else Flattened(map, shape)
