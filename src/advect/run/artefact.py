"""The model artefact: a flow with everything needed to speak the user's kind of data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from advect.couplings import Growth, load_growth
from advect.data.codec import Codec
from advect.data.condition import ConditionCodec
from advect.data.schema import schema_from_dict, schema_to_dict
from advect.errors import RunFolderError
from advect.flows import Flow
from advect.records import Schema
from advect.run.folder import MODEL, RunFolder
from advect.run.tensors import read_tensors, write_tensors

_GROWTH = "growth."  # beginning of the names of tensors that are no weights


@dataclass(frozen=True)
class Artefact:
    """A trained flow and its surroundings.

    Attributes:
        flow: From the coordinates of `codec` (user units) to the source.
        schema: What rows look like from outside.
        codec: Between rows and coordinates.
        condition: Between condition columns and the vector the flow takes; None for unconditional flows.
        config: The resolved settings, nested as in ``config.toml``.
        history: Lines of the training history.
        evaluation: Held-out figures, if they were computed.
        growth: Where the plan makes and loses mass: of each pair of neighbouring times, or from source to data; else
            empty.
    """

    flow: Flow
    schema: Schema
    codec: Codec
    condition: ConditionCodec | None
    config: Mapping
    history: tuple[Mapping, ...] = ()
    evaluation: Mapping = field(default_factory=dict)
    growth: tuple[Growth, ...] = ()


def write_artefact(folder: RunFolder, artefact: Artefact) -> None:
    """Write ``model.safetensors``: weights, and a card that rebuilds the model around them."""
    card: dict[str, object] = {
        "schema": schema_to_dict(artefact.schema),
        "codec": artefact.codec.to_dict(),
        "condition": artefact.condition.to_dict() if artefact.condition else None,
        "config": artefact.config,
    }
    tensors = dict(artefact.flow.state_dict())
    if artefact.growth:
        card["growth"] = [one.numbers() for one in artefact.growth]
        for place, one in enumerate(artefact.growth):
            tensors |= {f"{_GROWTH}{place}.{name}": tensor for name, tensor in one.tensors().items()}
    write_tensors(folder.destination(MODEL), tensors, card)


def read_card(
    folder: RunFolder,
) -> tuple[dict, Schema, Codec, ConditionCodec | None, dict, tuple[Growth, ...]]:
    """Weights, schema, codec, condition codec, configuration and growth of a finished run.

    Raises:
        RunFolderError: The run is unfinished or damaged.
    """
    folder.require_finished()
    tensors, card = read_tensors(folder.file(MODEL))
    try:
        condition = card["condition"]
        growth = _read_growth(tensors, card.get("growth", ()))
        return (
            {name: tensor for name, tensor in tensors.items() if not name.startswith(_GROWTH)},
            schema_from_dict(card["schema"]),
            Codec.from_dict(card["codec"]),
            None if condition is None else ConditionCodec.from_dict(condition),
            dict(card["config"]),
            growth,
        )
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise RunFolderError(
            f"the card of {MODEL} does not describe a model ({getattr(error, 'what', error)})",
            where=str(folder.path),
            remedy="The run folder is damaged, or was written by another version; restore it or train anew.",
        ) from error


def _read_growth(tensors: Mapping[str, Tensor], numbers: Sequence[Mapping]) -> tuple[Growth, ...]:
    found = []
    for place, one in enumerate(numbers):
        prefix = f"{_GROWTH}{place}."
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        found.append(load_growth(own, one))
    return tuple(found)
