"""What the network of a run says on the way from source to data, in each of its words.

On an affine path x_t = α x1 + σ x0 the velocity, the expected data row E[x1|x_t] and the expected source row E[x0|x_t]
are affine functions of one another (`paths.convert`). So is the score ∇ log p_t(x_t) = −E[x0|x_t]/σ where the source is
a standard normal drawn independently of the data. So every network that was trained to say one of them says all. A
bridge's field knows a velocity and a score of its own, other fields their velocity alone.

All four are computed in the coordinates of the ODE and shown in the units of the data. Velocity and score are
directions and go through the derivative of the preprocessing; the score so is the direction in which the density of
the standardised rows rises fastest. The two expectations are places and go through the preprocessing itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advect.errors import ConfigError
from advect.flows import Flow
from advect.paths import convert
from advect.run import Artefact
from advect.training import generator_for
from advect.transforms import Compose
from advect.typing import Schedule
from advect.workflows.generate import SolverChoice, condition_vectors
from advect.workflows.motion import refuse_a_jump, visible
from advect.workflows.streams import SAMPLE

VIEWS = ("velocity", "score", "x1", "noise")
PLACES = ("x1", "noise")  # the others are directions
_STREAM = 4  # below SAMPLE: the rows are those of `motion`
# At the ends a conversion may divide by a weight that vanishes: it is made so far inside, in time.
EDGE = 5e-3

_NOT_AFFINE = "it is read off the velocity on an affine path α(t)·x1 + σ(t)·x0, and this model was not trained on one"
_NO_SCORE = (
    "the score is known where the source is a normal distribution paired at random with the data (fm, i-cfm and rf "
    "without --source, the diffusion rows), and to sf2m"
)


@dataclass(frozen=True)
class Predictions:
    """What is said at some times.

    Attributes:
        times: ``(frames,)`` from 0 to 1.
        states: ``(frames, rows, *event)``: rows on their way, in the coordinates and units of the data.
        points: ``(frames, points, *event)``: where the directions are evaluated; the rows, or a grid.
        says: By view: directions ``(frames, points, *event)``, places ``(frames, rows, *event)``.
        missing: By view: why it is not there.
        rescheduled: Whether the times are those of the linear schedule, not the model's own (`motion.visible`).
    """

    times: np.ndarray
    states: np.ndarray
    points: np.ndarray
    says: Mapping[str, np.ndarray]
    missing: Mapping[str, str]
    rescheduled: bool


@torch.no_grad()
def predictions(
    artefact: Artefact,
    *,
    rows: int,
    frames: int,
    grid: np.ndarray | None = None,
    condition: Any = None,
    guidance: float = 0.0,
    seed: int = 0,
) -> Predictions:
    """Follow source rows to the data and ask the network on the way.

    Args:
        artefact: The model.
        rows: How many.
        frames: Times, both ends among them; at least 2.
        grid: ``(points, *event)`` in the coordinates and units of the data at which directions are wanted at every
            time; None for the rows themselves.
        condition: As in `generate`; with a grid one value for all rows.
        guidance: Weight of classifier-free guidance.
        seed: Of the draw.

    Raises:
        ConfigError: Fewer than two frames or no rows.
        UnsupportedError: The model has no ODE.
    """
    if rows < 1 or frames < 2:
        raise ConfigError(f"{frames} frames of {rows} rows show nothing that moves", remedy="Ask for 2 frames, 1 row.")
    refuse_a_jump(artefact, "the network", "Look at a flow, such as one of i-cfm, ot-cfm or nsf.")
    asked = replace(artefact, flow=SolverChoice(guidance=guidance).applied(artefact))
    asked.flow.split_at_ode("the network")
    generator = generator_for(seed, SAMPLE, _STREAM)
    given = condition_vectors(artefact, rows, condition, generator)
    flow = visible(asked.flow)
    eye = _Eye(flow, artefact)
    times = torch.linspace(0.0, 1.0, frames)
    inner = eye.ways(flow.base.sample(rows, given, generator=generator), times, given)
    missing = _missing(eye.field)
    under = given if grid is None or given is None else given[:1].expand(len(grid), *given.shape[1:])
    fixed = None if grid is None else eye.inside(grid, under)
    says: dict[str, list[np.ndarray]] = {view: [] for view in VIEWS if view not in missing}
    points = []
    for time, z in zip(times, inner, strict=True):
        where = z if fixed is None else fixed
        points.append(eye.place(where, under))
        for view in says:
            if view in PLACES:
                says[view].append(eye.place(eye.says(view, float(time), z, given), given))
            else:
                along = eye.says(view, float(time), where, under)
                says[view].append(eye.direction(where, along, under))
    return Predictions(
        times.double().numpy(),
        np.stack([eye.place(z, given) for z in inner]),
        np.stack(points),
        {view: np.stack(found) for view, found in says.items()},
        missing,
        flow is not asked.flow,
    )


def _missing(field: Any) -> dict[str, str]:
    """Why a view is not there, by view."""
    missing = {}
    if getattr(field, "schedule", None) is None:
        missing |= {"x1": _NOT_AFFINE, "noise": _NOT_AFFINE}
    own = getattr(field, "score", None) is not None
    if not own and not (getattr(field, "has_score", False) and "noise" not in missing):
        missing["score"] = _NO_SCORE
    return missing


class _Eye:
    """The ODE of a flow, and the way between its coordinates and those of the data."""

    def __init__(self, flow: Flow, artefact: Artefact) -> None:
        self.before, self.ode, self.after = flow.split_at_ode("the network")
        self.field: Any = self.ode.field
        self.codec = artefact.codec
        self._last: tuple[float, Tensor, Tensor] | None = None  # time, points, velocity

    def ways(self, source: Tensor, times: Tensor, condition: Tensor | None) -> Tensor:
        """``(frames, rows, *event)`` states of the ODE."""
        start = self.after.decode(source, _taken(self.after, condition), log_det=False).value
        return self.ode.trajectory(start, times, condition)

    def inside(self, x: np.ndarray, condition: Tensor | None) -> Tensor:
        """Points in the units of the data to the coordinates of the ODE."""
        far = self.codec.in_units(np.zeros((1, *self.codec.event_shape)))
        rows = torch.as_tensor(x - far).reshape(-1, *self.codec.event_shape)
        return self.before.encode(rows, _taken(self.before, condition), log_det=False).value

    def place(self, z: Tensor, condition: Tensor | None) -> np.ndarray:
        """The other way."""
        return self.codec.in_units(self._out(z, condition).double().cpu().numpy())

    def direction(self, z: Tensor, along: Tensor, condition: Tensor | None) -> np.ndarray:
        """A direction at a point, through the derivative of the way out."""
        moved = torch.func.jvp(lambda at: self._out(at, condition), (z,), (along,))[1]
        return moved.double().cpu().numpy()

    def says(self, view: str, time: float, z: Tensor, condition: Tensor | None) -> Tensor:
        """One of `VIEWS` at some points, in the coordinates of the ODE."""
        if view == "score" and getattr(self.field, "score", None) is not None:
            return self.field.score(time, z, condition)
        first, last = self.ode.interval
        time = min(max(time, first), last)
        if view == "velocity":
            return self._velocity(time, z, condition)
        time = min(max(time, EDGE), 1.0 - EDGE)
        schedule: Schedule = self.field.schedule
        velocity = self._velocity(time, z, condition)
        at = torch.full((len(z),), time, dtype=torch.float64)
        return convert(velocity.double(), "velocity", view, at, z.double(), schedule).to(z.dtype)

    def _velocity(self, time: float, z: Tensor, condition: Tensor | None) -> Tensor:
        """The field's, which several views in a row ask for at the same points."""
        if self._last is None or self._last[0] != time or self._last[1] is not z:
            self._last = time, z, self.field(time, z, condition)
        return self._last[2]

    def _out(self, z: Tensor, condition: Tensor | None) -> Tensor:
        return self.before.decode(z, _taken(self.before, condition), log_det=False).value


def _taken(map: Compose, condition: Tensor | None) -> Tensor | None:
    return None if map.condition_shape is None else condition
