"""The velocity of a run in the plane as a record that its page can evaluate, checked before it goes there."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from advect.flows import Flow, VelocityField
from advect.flows.rescheduled import RescheduledField
from advect.networks import MLP, ResidualMLP
from advect.paths import clocking, coefficients
from advect.report.field import ACTIVATIONS, OuterMap, PlaneField, PlaneNetwork, TimeTables, trace, velocity
from advect.transforms import Compose
from advect.transforms.preprocess import Asinh, Columnwise
from advect.typing import Field
from advect.workflows.motion import FRAMES

MOST_WEIGHTS = 200_000  # a megabyte as text
# Steps between the frames, few first: those are taken with which the page agrees with the flow.
STEPS = tuple((FRAMES - 1) * k for k in (1, 2, 4))
# In the coordinates of the ODE, where the data have unit variance. Twice the steps change the ends of paths by no more
# than this (so they are wrong by a fifteenth of it, the method being of fourth order): a fifth of the page's promise of
# 1e-3, as it is made for points that are not checked.
AGREEMENT = 2e-4
SAME = 1e-5  # relative, of velocities in float64 of weights in float32
CHECKED = 16
CLOCK_MARGIN = 1e-9


@torch.no_grad()
def page_field(flow: Flow, states: np.ndarray, shift: np.ndarray) -> PlaneField | str:
    """The field of a flow in the plane, or why the page cannot have it.

    Args:
        flow: A flow with an ODE.
        states: ``(frames, rows, 2)`` in the units of the data, by which it is checked.
        shift: ``(2,)`` between the flow's coordinates and those units (`data.levels.ColumnCode.offset`).
    """
    before, ode, _ = flow.split_at_ode("page")
    field, clocked = ode.field, None
    if isinstance(field, RescheduledField):
        field, clocked = field.field, field
    network = field.network if isinstance(field, VelocityField) else field
    if not isinstance(network, MLP | ResidualMLP):
        return "the network is of a kind that this page does not know"
    if network.condition_features:
        return "the model is conditional"
    count = sum(p.numel() for p in network.parameters())
    if count > MOST_WEIGHTS:
        return f"the network has {count:,} weights, too many to put on a page"
    known = _network(network)
    if known is None:
        return "its activation is not one that this page knows"
    outer = _outer(before, shift)
    if outer is None:
        return "its columns are not scaled one by one"

    def on_grid(steps: int) -> PlaneField:
        return PlaneField(known, _tables(field, clocked, network, _grid(steps, ode.interval)), outer)

    made = on_grid(STEPS[0])
    if not (made.tables.finite and _is_the_field(made, ode.field)):
        return "it is not of a form that this page knows"
    for steps in STEPS:
        finer = on_grid(2 * steps)
        if _steps_are_enough(made, finer, states):
            return made
        made = finer
    return "evenly spaced steps follow its paths too loosely"


def _grid(steps: int, interval: tuple[float, float]) -> Tensor:
    """``steps`` even steps of [0, 1] cut to the interval, as the frames are, and the places half-way between."""
    ends = torch.linspace(0.0, 1.0, steps + 1, dtype=torch.float64).clamp(*interval)
    times = torch.empty(2 * steps + 1, dtype=torch.float64)
    times[::2], times[1::2] = ends, (ends[1:] + ends[:-1]) / 2
    return times


def _network(network: MLP | ResidualMLP) -> PlaneNetwork | None:
    """Kind, activation and weights; None for an activation that the page does not know."""
    if isinstance(network, MLP):
        name = next((n for n, f in ACTIVATIONS.items() if _same(f, network.activation.function)), None)
        parts: list[nn.Module] = [*network.hidden, network.output]
        kind = "mlp"
    else:
        name, kind = "silu", "residual"
        blocks = [part for pair in zip(network.inner, network.outer, strict=True) for part in pair]
        parts = [network.time_layer, network.modulation, network.input, *blocks, network.output]
    if name is None:
        return None
    pairs = tuple((_array(part.get_parameter("weight")), _bias(part)) for part in parts)
    return PlaneNetwork(kind, name, pairs)


def _same(ours: object, theirs: object) -> bool:
    """Whether two functions agree: the activations are told apart by what they do."""
    line = torch.linspace(-3, 3, 25, dtype=torch.float64)
    assert callable(ours)
    assert callable(theirs)
    return np.allclose(ours(line.numpy()), theirs(line).numpy(), atol=1e-12)


def _array(value: Tensor) -> np.ndarray:
    return value.detach().float().double().cpu().numpy()


def _bias(part: nn.Module) -> np.ndarray:
    bias = part.bias if isinstance(part, nn.Linear) else None
    return np.zeros(len(part.get_parameter("weight"))) if bias is None else _array(bias)


def _tables(field: Field, clocked: RescheduledField | None, network: MLP | ResidualMLP, times: Tensor) -> TimeTables:
    """What stands around the network at each time; the baseline, being affine, is read off three points."""
    rows = len(times)
    own, rate = times, torch.ones_like(times)
    size, growth = torch.ones_like(times), torch.zeros_like(times)
    if clocked is not None:
        schedules = clocked.retimed.from_schedule, clocked.retimed.to_schedule
        # At the very ends rounding decides whether the field's own clock still runs.
        first, last = clocked.interval
        clock = clocking(times.clamp(first + CLOCK_MARGIN, last - CLOCK_MARGIN), *schedules)
        own, rate, size, growth = clock.time, clock.time_derivative, clock.scale, clock.log_scale_derivative
    drift, slope = torch.zeros(rows, 2, dtype=torch.float64), torch.zeros(rows, 2, 2, dtype=torch.float64)
    gain, scale = torch.ones_like(times), torch.ones_like(times)
    eye = torch.eye(2, dtype=torch.float64)
    if isinstance(field, VelocityField):
        own = own.clamp(*field.interval)
        if field.baseline is not None:
            at = [field.baseline(own, point.expand(rows, 2)) for point in (torch.zeros_like(eye[0]), *eye)]
            drift = at[0].double()
            slope = torch.stack([at[1] - at[0], at[2] - at[0]], 2).double()
        schedule = field.schedule
        if field.parameterisation != "velocity" and schedule is not None:
            along, gain = coefficients(field.parameterisation, "velocity", own, schedule)
            if field.baseline is None:
                slope = along.reshape(-1, 1, 1) * eye
        if field.scale_input and schedule is not None:
            scale = (schedule.alpha(own) ** 2 + schedule.sigma(own) ** 2).rsqrt()
    weight = next(network.parameters())
    features = network.time(own.to(weight)).double()
    # On another clock the state is `size` times that of the field, and moves `rate` times as fast (`paths.retime`).
    slope = rate.reshape(-1, 1, 1) * slope + growth.reshape(-1, 1, 1) * eye
    drift = (rate * size).unsqueeze(1) * drift
    parts = (times, features, drift, slope, rate * size * gain, scale / size)
    return TimeTables(*(part.double().cpu().numpy() for part in parts))


def _outer(before: Compose, shift: np.ndarray) -> OuterMap | None:
    """The way from the ODE to the data as an affine map and a sinh where there is one; None where it is neither."""
    bend = _bends(before)
    probe = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-2.0, 0.7], [1.5, 2.5], [0.3, -3.0]]).double()
    true = before.decode(probe, log_det=False).value.double().numpy()
    u = OuterMap(np.eye(2), np.zeros(2), bend).from_data(true)
    made = OuterMap(np.stack([u[1] - u[0], u[2] - u[0]], 1), u[0], bend)
    if not np.isfinite(made.matrix).all() or np.linalg.det(made.matrix) == 0:
        return None
    # Single precision on the way costs 1e-7 of the largest number.
    if not np.abs(made.to_data(probe.numpy()) - true).max() <= 1e-5 * np.abs(true).max():
        return None
    bent = bend[:, 1] > 0
    moved = np.stack([np.where(bent, shift, 0.0), np.zeros(2)], 1)
    return OuterMap(made.matrix, made.offset + np.where(bent, 0.0, shift), bend + moved)


def _bends(before: Compose) -> np.ndarray:
    """Location and spread of the columns that are bent by a sinh, at their places; 0 elsewhere."""
    bend = np.zeros((2, 2))
    for columns in (module for module in before.modules() if isinstance(module, Columnwise)):
        for indices, member in columns.groups:
            for bent in (part for part in member.modules() if isinstance(part, Asinh)):
                bend[list(indices)] = np.stack([bent.location.double().cpu(), bent.scale.double().cpu()], 1)
    return bend


def _is_the_field(made: PlaneField, field: Field) -> bool:
    """Whether the tables give the field's own velocities, at points all over and at times inside the interval."""
    z = torch.randn(CHECKED, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert isinstance(field, nn.Module)
    exact = copy.deepcopy(field).double().cpu()
    for place in range(1, len(made.tables.times) - 1, len(made.tables.times) // 8):
        true = exact(float(made.tables.times[place]), z).numpy()
        if not np.abs(velocity(made, place, z.numpy()) - true).max() <= SAME * (1 + np.abs(true).max()):
            return False
    return True


def _steps_are_enough(made: PlaneField, finer: PlaneField, states: np.ndarray) -> bool:
    """Whether twice the steps end where these do, from both ends and from the middle."""
    for start, end in ((0.0, 1.0), (0.5, 1.0), (0.5, 0.0), (1.0, 0.0)):
        state = states[round(start * (len(states) - 1))]
        z = made.outer.from_data(state[np.isfinite(state).all(1)][:CHECKED])
        with np.errstate(over="ignore", invalid="ignore"):
            ends = [trace(one, z, *(round(at * one.steps) for at in (start, end)))[-1] for one in (made, finer)]
        if not (len(z) and np.abs(ends[0] - ends[1]).max() <= AGREEMENT * max(1.0, np.abs(ends[1]).max())):
            return False
    return True
