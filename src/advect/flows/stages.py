"""Rows on their way through the layers of a discrete flow, as `Flow.trajectory` shows them on their way through an ODE.

Decoding applies the layers one after another; the state after each, carried through whatever preprocessing is still to
come, is a cloud in the units of the data that turns from the source into the data.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advect.errors import ConfigError
from advect.flows.flow import Flow
from advect.transforms import Flattened
from advect.transforms.compose import members
from advect.typing import Bijection


def layers(flow: Flow) -> tuple[Bijection, ...]:
    """The maps of a flow in the order of `encode`, with nested chains opened."""
    return tuple(_opened(flow.map))


@torch.no_grad()
def stages(
    flow: Flow,
    source: Float[Tensor, "batch *event"],
    condition: Tensor | None = None,
    *,
    preprocessing: int = 0,
) -> Float[Tensor, "stages batch *event"]:
    """The state of source rows after each layer of `decode`, in the units of the data.

    Args:
        flow: Any flow.
        source: ``(batch, *event)`` rows of the source.
        condition: ``(batch, *condition)`` or None.
        preprocessing: How many of the first layers (in the order of `encode`) are scaling: they are applied to every
            state, and are no stage of their own.

    Returns:
        ``(layers − preprocessing + 1, batch, *event)``: the source itself first, the data last.

    Raises:
        ConfigError: More layers of preprocessing than there are layers.
    """
    members = layers(flow)
    if not 0 <= preprocessing <= len(members):
        raise ConfigError(f"{preprocessing} of {len(members)} layers cannot be preprocessing", where="stages")
    before, rest = members[:preprocessing], members[preprocessing:]
    states = [source]
    for member in reversed(rest):
        states.append(_decoded(member, states[-1], condition))
    return torch.stack([_through(before, state, condition) for state in states])


def _opened(map: Bijection) -> Iterator[Bijection]:
    """As `members`, also inside maps of flattened rows."""
    for member in members(map):
        if isinstance(member, Flattened):
            yield from (Flattened(inner, member.event_shape or ()) for inner in members(member.inner))
        else:
            yield member


def _through(before: Sequence[Bijection], state: Tensor, condition: Tensor | None) -> Tensor:
    for member in reversed(before):
        state = _decoded(member, state, condition)
    return state


def _decoded(member: Bijection, state: Tensor, condition: Tensor | None) -> Tensor:
    given = None if getattr(member, "condition_shape", "any") is None else condition
    return member.decode(state, given, log_det=False).value
