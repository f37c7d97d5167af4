"""What the recipes of maximum likelihood share: no path, no coupling, and a start at the Gaussian fit.

The first layer on vectors is the affine map that turns the training rows' Gaussian fit into the source, so that
training starts where that fit stands.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from advect.errors import ConfigError, unknown_name
from advect.methods.blueprint import Blueprint, Parts
from advect.transforms import LULinear, whitening
from advect.transforms.bijection import Likelihood as Known
from advect.typing import Base, Coupling

GRADIENT_CLIP = 5.0  # of a loss in nats per row
WHITENING_LIMIT = 1024  # coordinates; the matrix of the first layer has their square
SOURCE = "Likelihood needs a source with a density, so the source is a standard normal; `--source` is refused."
NETWORKS = {
    "auto": "sized by the rows of the data",
    "mlp-2x64": "hidden layers × width; any two numbers",
}
_PATTERN = re.compile(r"mlp-(\d+)x(\d+)")


@dataclass(frozen=True)
class Likelihood:
    """The common part of a recipe, see `methods.recipe.Recipe`.

    Attributes:
        width: Of the networks, for ``auto``.
        depth: Their hidden layers, for ``auto``.
        own_parts: What a user may give in place of the row's own.
        likelihood: See `methods.recipe.Recipe`.
    """

    width: int = field(default=64, kw_only=True)
    depth: int = field(default=2, kw_only=True)
    training: Mapping[str, Any] = field(default_factory=lambda: {"gradient_clip": GRADIENT_CLIP}, kw_only=True)
    settings: Mapping[str, Any] = field(default_factory=lambda: {"condition_dropout": 0.0}, kw_only=True)
    own_parts: tuple[str, ...] = field(default=(), kw_only=True)

    any_source = False
    has_tractable_density = True
    likelihood: Known = field(default="exact", kw_only=True)

    def resolve_network(self, name: str, *, event_shape: tuple[int, ...], num_rows: int | None = None) -> str:
        """A checked ``mlp-DEPTHxWIDTH``; ``auto`` takes the sizes above, narrower (to 32) below a thousand rows."""
        if name != "auto":
            sizes_of(name)
            return name
        width, rows = self.width, 10**6 if num_rows is None else num_rows
        while rows < 1000 and width > 32:
            width, rows = width // 2, rows * 4
        return f"mlp-{self.depth}x{width}"

    def refusal(self, blueprint: Blueprint, parts: Parts, source: Base | None) -> str | None:
        """Likelihood needs a source with a density, and follows no path between coupled ends."""
        if source is not None:
            return (
                f"{blueprint.method} is trained by likelihood, which needs a source with a density: it works from a "
                "standard-normal source only"
            )
        given = [name for name, part in vars(parts).items() if part is not None and name not in self.own_parts]
        return f"{blueprint.method} is trained by likelihood and takes no {given[0]} of your own" if given else None

    def coupling(self, blueprint: Blueprint, parts: Parts) -> Coupling | None:
        """None: likelihood looks at data rows only."""
        return None


def gaussian_start(features: int, latent: Tensor | None) -> LULinear:
    """The affine map from the Gaussian fit of ``latent`` to the source; its bare form when weights will be loaded."""
    if latent is None:
        return LULinear(features)
    return whitening(latent.reshape(len(latent), features)).float()


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
