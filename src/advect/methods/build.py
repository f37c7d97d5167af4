"""The constructor: from a row and plain settings to a flow and its objective, for `fit` and `load` alike."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from advect.errors import ConfigError, unknown_name
from advect.flows import Flow
from advect.methods.blueprint import Blueprint, Built, Parts
from advect.methods.option import Options
from advect.methods.table import get_method, resolve_options
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


def resolve_blueprint(
    method: str,
    options: Options,
    *,
    event_shape: tuple[int, ...],
    condition_features: int = 0,
    network: str = "auto",
    num_rows: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Blueprint:
    """The settings of a model from what was given, the rest by the row's defaults.

    Args:
        method: Name of the row.
        options: Settings of its own.
        event_shape: Shape of one row in the flow's coordinates.
        condition_features: Width of the condition vector.
        network: Name of the network; ``auto`` is the row's choice.
        num_rows: Training rows, for that choice; None counts as many.
        settings: Other fields of `Blueprint` by name.

    Raises:
        UnknownNameError: No such method, option, network or field.
        ConfigError: A value of the wrong type or out of range.
    """
    row = get_method(method)
    given = {**row.recipe.settings, **(settings or {})}
    for name in given:
        if name not in Blueprint.__dataclass_fields__:
            raise unknown_name("setting", name, Blueprint.__dataclass_fields__)
    plain = Blueprint(
        method=method,
        options=resolve_options(row, options),
        network=row.recipe.resolve_network(network, event_shape=event_shape, num_rows=num_rows),
        event_shape=event_shape,
        condition_features=condition_features,
    )
    return replace(plain, **given)


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
    # A stage that changes the shape of rows says what they are outside.
    ends = [(getattr(part, "event_shape", None), getattr(part, "source_shape", None)) for part in before]
    shape = next((event for event, source in ends if event is not None and event != source), core.event_shape)
    return Flow(core.base, Compose(*before, core.map), event_shape=shape)
