"""Rows of a model on their way from source to data, for pictures that move.

An ODE has a state at every time. A discrete flow has one after every layer; between them rows are shown moving
straight, which the layers do not say, so that an eye can follow. What is no flow has nothing between its two sides.

Schedules whose noise is far larger than the data (VE, EDM) would show a dot in a wide empty frame: such a model is
shown on the linear schedule, whose ends and pairs of ends are the same (`flows.rescheduled`).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advect.data import Timeline
from advect.errors import ConfigError, UnsupportedError, unknown_name
from advect.flows import Flow, on_schedule, stages
from advect.paths import Linear, end_weights
from advect.records import Table
from advect.run import Artefact
from advect.solvers import Adams3
from advect.training import generator_for
from advect.transforms.compose import members
from advect.workflows.generate import condition_vectors
from advect.workflows.held_out import flat_latent
from advect.workflows.snapshots import timeline_of
from advect.workflows.streams import SAMPLE
from advect.workflows.transport import preprocessing

FRAMES = 41  # where none are asked for: steps of 1/40
WIDE_SOURCE = 2.0  # noise so many times the data is shown on another schedule
_STREAM = 4  # below SAMPLE


@dataclass(frozen=True)
class Motion:
    """Rows on their way.

    Attributes:
        states: ``(frames, rows, *event)`` in the coordinates and units of the data.
        captions: A word on each frame: its time, or the layers that are behind.
        names: Name of each coordinate; empty for pictures.
        rescheduled: Whether the times are those of the linear schedule, not the model's own.
    """

    states: np.ndarray
    captions: tuple[str, ...]
    names: tuple[str, ...]
    rescheduled: bool = False


@torch.no_grad()
def motion(artefact: Artefact, *, rows: int, frames: int | None = None, condition: Any = None, seed: int = 0) -> Motion:
    """Draw source rows and follow them to the data.

    Args:
        artefact: The model.
        rows: How many.
        frames: How many states, source and data among them; at least 2. By default 41, or one for each layer where
            there are fewer.
        condition: As in `generate`.
        seed: Of the draw.

    Raises:
        ConfigError: Fewer than two frames or no rows.
        UnsupportedError: The model is no flow.
    """
    flow = artefact.flow
    if rows < 1 or (frames is not None and frames < 2):
        raise ConfigError(f"{frames} frames of {rows} rows show nothing that moves", remedy="Ask for 2 frames, 1 row.")
    refuse_a_jump(artefact, "animate", "Animate a flow, such as one of i-cfm, ot-cfm or nsf.")
    generator = generator_for(seed, SAMPLE, _STREAM)
    given = condition_vectors(artefact, rows, condition, generator)
    shown = visible(flow)
    if flow.ode is not None:
        times = torch.linspace(0.0, 1.0, frames or FRAMES)
        states = shown.trajectory(rows, times, given, generator=generator)
        captions = tuple(time_caption(timeline_of(artefact), float(time)) for time in times)
    else:
        stops = stops_of(artefact, flow.base.sample(rows, given, generator=generator), given)
        states, captions = _between(stops, frames or min(len(stops), FRAMES), len(stops) - 1)
    names = () if artefact.schema.image else tuple(c.name for c in artefact.codec.coordinates)
    return Motion(artefact.codec.in_units(states.double().cpu().numpy()), captions, names, shown is not flow)


def visible(flow: Flow) -> Flow:
    """The flow, or the same model on the linear schedule where its own starts from noise far wider than the data."""
    schedule = None if flow.ode is None else getattr(flow.ode.field, "schedule", None)
    if flow.ode is None or schedule is None or end_weights(schedule, 0.0).source <= WIDE_SOURCE:
        return flow
    try:
        return on_schedule(flow, Linear()).flow.with_options(solver=Adams3(FRAMES - 1))
    except UnsupportedError:  # layers behind the ODE
        return flow


def time_caption(timeline: Timeline | None, position: float) -> str:
    """A place on the axis of the flow, in the user's times where there are some."""
    if timeline is None:
        return f"t = {position:.2f}"
    digits = max(0, 2 - math.floor(math.log10(timeline.duration)))
    return timeline.phrase(round(timeline.time(position), digits))


def refuse_a_jump(artefact: Artefact, where: str, remedy: str) -> None:
    """Raise `UnsupportedError` for a model that is no flow: its rows are nowhere between source and data."""
    if artefact.flow.ode is None and getattr(artefact.flow.map, "likelihood", "exact") != "exact":
        raise UnsupportedError(
            f"{artefact.config['method']} draws its rows in one jump: there is nothing on the way to show",
            where=where,
            remedy=remedy,
        )


def stops_of(artefact: Artefact, source: Tensor, condition: Tensor | None) -> Tensor:
    """Source rows after each layer of a discrete flow, ``(layers + 1, rows, *event)`` in the units of the data."""
    before = sum(1 for part in preprocessing(artefact) for _ in members(part))
    return stages(artefact.flow, source, condition, preprocessing=before)


def _between(stops: Tensor, frames: int, count: int) -> tuple[Tensor, tuple[str, ...]]:
    """States at evenly spaced places along the layers, straight between them."""
    places = torch.linspace(0.0, len(stops) - 1.0, frames, dtype=torch.float64)
    low = places.floor().long().clamp(max=len(stops) - 2)
    share = (places - low).to(stops.dtype).reshape(-1, *([1] * (stops.ndim - 1)))
    states = stops[low] + share * (stops[low + 1] - stops[low])
    return states, tuple(f"layer {int(place.round())} of {count}" for place in places)


def chosen_columns(names: tuple[str, ...], asked: tuple[str, ...]) -> tuple[int, ...]:
    """Which coordinates are shown: those asked for, else the first two.

    Raises:
        UnknownNameError: No coordinate of this name.
        ConfigError: Not two of them.
    """
    for name in asked:
        if name not in names:
            raise unknown_name("column", name, names, where="--columns")
    if asked and len(asked) != 2:
        raise ConfigError(
            f"{len(asked)} {'column was' if len(asked) == 1 else 'columns were'} named",
            where="--columns",
            remedy="Name two: --columns a,b.",
        )
    return tuple(names.index(name) for name in asked) if asked else tuple(range(min(2, len(names))))


def real_points(artefact: Artefact, table: Table, columns: tuple[int, ...], *, rows: int, seed: int = 0) -> np.ndarray:
    """Some real rows at two coordinates, ``(rows, 2)``, in the units of the data, to be drawn behind."""
    generator = generator_for(seed, SAMPLE, _STREAM + 1)
    latent = flat_latent(artefact, table, generator)[:rows]
    value: Tensor = latent.reshape(len(latent), *artefact.codec.event_shape)
    for part in reversed(preprocessing(artefact)):
        value = part.decode(value, log_det=False).value
    placed = artefact.codec.in_units(value.double().cpu().numpy())
    return placed.reshape(len(value), -1)[:, list(columns)]
