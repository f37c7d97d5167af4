"""The constructor: from a row and plain settings to a flow and its objective, for `fit` and `load` alike."""

from torch import Tensor

from advect.errors import ConfigError
from advect.flows import Flow
from advect.methods.blueprint import Blueprint, Built, Parts
from advect.methods.table import get_method
from advect.transforms import Compose
from advect.typing import Base, Bijection


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
        seed: Of the initial weights.
        source: Another base than the standard normal.
        latent: ``(rows, *event)`` training rows in latent coordinates, to fit the Gaussian start; None when weights
            will be loaded.
        parts: The user's own objects.

    Raises:
        ConfigError: The method cannot use this source or these parts.
    """
    parts = Parts() if parts is None else parts
    recipe = get_method(blueprint.method).recipe
    refused = recipe.refusal(blueprint, parts, source)
    if refused is not None:
        raise ConfigError(refused, where="source" if source is not None else "parts", remedy=_REMEDY)
    core = recipe.flow(blueprint, seed=seed, source=source, latent=latent, parts=parts)
    return Built(core, recipe.objective(blueprint, parts), recipe.coupling(blueprint, parts))


_REMEDY = "Use i-cfm, ot-cfm or sb-cfm for a source, path, coupling or network of your own."


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
    recipe = get_method(blueprint.method).recipe
    return recipe.flow(blueprint, seed=seed, source=source, latent=latent, parts=parts)


def full_flow(core: Flow, *before: Bijection) -> Flow:
    """The flow in the user's coordinates: preprocessing first, then the core's map."""
    return Flow(core.base, Compose(*before, core.map))
