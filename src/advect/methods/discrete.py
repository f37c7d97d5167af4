"""The recipe of discrete flows: invertible layers fitted by maximum likelihood.

The first layer is the affine map that turns the training rows' Gaussian fit into the source, so that an untrained model
*is* that fit: every later step is a gain over it, and badly conditioned columns cost no training time.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from advect.errors import ConfigError, unknown_name
from advect.flows import Flow, StandardNormal
from advect.methods.blueprint import Blueprint, Parts
from advect.methods.option import Options
from advect.objectives import MaximumLikelihood
from advect.transforms import Bijection, Compose, Flattened, LULinear, whitening
from advect.typing import Base, Coupling, Objective

GRADIENT_CLIP = 5.0  # of a loss in nats per row
WHITENING_LIMIT = 1024  # coordinates; its matrix has their square
NETWORKS = {
    "auto": "sized by the coordinates and rows of the data",
    "mlp-2x64": "the networks inside the layers, hidden layers × width; any two numbers",
}
_PATTERN = re.compile(r"mlp-(\d+)x(\d+)")


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
class DiscreteLikelihood:
    """See `methods.recipe.Recipe`.

    Attributes:
        vector: The architecture on vectors, or None for one that takes pictures only.
        picture: The architecture on pictures; where there is none they are flattened.
        width: Of the networks inside the layers, for ``auto``.
        depth: Their hidden layers, for ``auto``.
    """

    vector: VectorAssembly | None
    picture: PictureAssembly | None = None
    width: int = 64
    depth: int = 2
    any_source: bool = False
    has_tractable_density: bool = True
    training: Mapping[str, Any] = field(default_factory=lambda: {"gradient_clip": GRADIENT_CLIP})
    settings: Mapping[str, Any] = field(
        default_factory=lambda: {
            "condition_dropout": 0.0,
            "solver": None,
            "steps": None,
            "likelihood_solver": None,
            "likelihood_tolerance": None,
        }
    )

    def ends(self, options: Options) -> tuple[str, ...]:
        """What the two sides are."""
        return (
            "`encode` takes data to a standard normal through a chain of invertible layers, `decode` takes it back; "
            "the log-likelihood needs no solver. An untrained model is the Gaussian fit of the training rows.",
            "Likelihood needs a source with a density, so the source is a standard normal; `--source` is refused.",
        )

    def resolve_network(self, name: str, *, event_shape: tuple[int, ...], num_rows: int | None = None) -> str:
        """``mlp-DEPTHxWIDTH``; ``auto`` widens with the rows, down to 32 below a thousand of them."""
        return resolve_mlp(name, depth=self.depth, width=self.width, num_rows=num_rows)

    def refusal(self, blueprint: Blueprint, parts: Parts, source: Base | None) -> str | None:
        """Likelihood needs a source with a density, and layers have no path, coupling or velocity."""
        if source is not None:
            return (
                f"{blueprint.method} is trained by likelihood, which needs a source with a density: it works from a "
                "standard-normal source only"
            )
        given = [name for name, part in vars(parts).items() if part is not None]
        if given:
            return f"{blueprint.method} is made of discrete layers and takes no {given[0]} of your own"
        return None

    def objective(self, blueprint: Blueprint, parts: Parts) -> Objective:
        """Minus the log-likelihood of a row."""
        return MaximumLikelihood()

    def coupling(self, blueprint: Blueprint, parts: Parts) -> Coupling | None:
        """None: likelihood looks at data rows only."""
        return None

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
        return Flow(StandardNormal(shape), map)

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


def gaussian_start(features: int, latent: Tensor | None) -> LULinear:
    """The affine map from the Gaussian fit of ``latent`` to the source; its bare form when weights will be loaded."""
    if latent is None:
        return LULinear(features)
    return whitening(latent.reshape(len(latent), features)).float()


def resolve_mlp(name: str, *, depth: int, width: int, num_rows: int | None) -> str:
    """A checked ``mlp-DEPTHxWIDTH``; ``auto`` takes the sizes given, narrower (down to 32) below a thousand rows."""
    if name != "auto":
        sizes_of(name)
        return name
    rows = 10**6 if num_rows is None else num_rows
    while rows < 1000 and width > 32:
        width, rows = width // 2, rows * 4
    return f"mlp-{depth}x{width}"


def sizes_of(name: str) -> tuple[int, int]:
    """Depth and width of a network's name.

    Raises:
        UnknownNameError: A name of another kind.
        ConfigError: A size of zero.
    """
    found = _PATTERN.fullmatch(name)
    if not found:
        raise unknown_name("network", name, NETWORKS, where="network")
    depth, width = int(found[1]), int(found[2])
    if not (depth and width):
        raise ConfigError(f"The network {name!r} has a size of zero", where="network", remedy="Use at least 1x1.")
    return depth, width
