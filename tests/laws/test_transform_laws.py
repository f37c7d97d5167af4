"""Every map × every law: discrete layers, residual blocks, ODEs and preprocessing alike.

A map joins by a line in `tests/laws/maps`, and is then under all of this. Inputs are made by decoding standard normals,
so they lie in the support; every check of a log-determinant is against autograd's full Jacobian, never against the
other direction (trap T16).
"""

import math

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from advect.errors import DataError, ShapeError
from advect.transforms import Bijection
from tests.laws.maps import REGISTRY, Case

FLOAT64 = torch.float64
EVENT_OF_ANY = (3,)  # for maps that take rows of any shape

everything = pytest.mark.parametrize("name", REGISTRY)
both_directions = pytest.mark.parametrize("direction", ["encode", "decode"])
both_dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


def built(name: str, dtype: torch.dtype = FLOAT64) -> Bijection:
    return REGISTRY[name].build().to(dtype).eval()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def event_of(bijection: Bijection) -> tuple[int, ...]:
    return EVENT_OF_ANY if bijection.event_shape is None else bijection.event_shape


def condition_for(bijection: Bijection, rows: int, dtype: torch.dtype = FLOAT64) -> Tensor | None:
    if not isinstance(bijection.condition_shape, tuple):
        return None
    return torch.randn(rows, *bijection.condition_shape, dtype=FLOAT64, generator=seeded(7)).to(dtype)


def inputs(bijection: Bijection, direction: str, rows: int = 5, dtype: torch.dtype = FLOAT64) -> Tensor:
    """Rows in the domain of ``direction``."""
    z = torch.randn(rows, *event_of(bijection), dtype=FLOAT64, generator=seeded(3)).to(dtype)
    if direction == "decode":
        return z
    return bijection.decode(z, condition_for(bijection, rows, dtype)).value.detach()


def call(bijection: Bijection, direction: str, x: Tensor, condition: Tensor | None, **options):
    """One direction with fixed draws, for maps that estimate their log-determinant."""
    return getattr(bijection, direction)(x, condition, generator=seeded(11), **options)


@everything
@both_directions
@both_dtypes
def test_log_det_is_autograds(name, direction, dtype):
    """Traps T1, T16: each direction against the full Jacobian by itself, not the one against the other."""
    case, bijection = REGISTRY[name], built(name, dtype)
    tolerance = case.log_det if dtype is FLOAT64 else case.round_trip_float32
    x = inputs(bijection, direction, rows=3, dtype=dtype)
    condition = condition_for(bijection, len(x), dtype)
    found = call(bijection, direction, x, condition)
    for row in range(len(x)):
        given = None if condition is None else condition[row : row + 1]

        def one(flat, given=given, shape=x.shape[1:]):
            return call(bijection, direction, flat.reshape(1, *shape), given, log_det=False).value.reshape(-1)

        jacobian = torch.autograd.functional.jacobian(one, x[row].reshape(-1))
        truth = torch.linalg.slogdet(jacobian.double()).logabsdet
        log_det = found.log_abs_det_jacobian[row].double()
        torch.testing.assert_close(log_det, truth, rtol=tolerance, atol=tolerance)


@everything
@both_dtypes
def test_round_trip_and_opposite_log_dets(name, dtype):
    """Traps T16, T17: both orders, with the condition where there is one; the log-determinants cancel."""
    case, bijection = REGISTRY[name], built(name, dtype)
    tolerance = case.round_trip if dtype is FLOAT64 else case.round_trip_float32
    for first, second in (("encode", "decode"), ("decode", "encode")):
        x = inputs(bijection, first, rows=20, dtype=dtype)
        condition = condition_for(bijection, len(x), dtype)
        there = call(bijection, first, x, condition)
        back = call(bijection, second, there.value, condition)
        torch.testing.assert_close(back.value, x, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(
            there.log_abs_det_jacobian, -back.log_abs_det_jacobian, rtol=tolerance, atol=tolerance
        )
        assert (there.status == 0).all()
        assert (back.status == 0).all()


@everything
@both_directions
@both_dtypes
def test_gradients_are_finite_far_out_and_on_edges(name, direction, dtype):
    """Traps T9, T13, L14: far out, at 0, on edges of cells and boxes, for the value and the log-determinant."""
    bijection, far = built(name, dtype), REGISTRY[name].extreme
    points = torch.tensor([-far, -1e3, -30.0, -1.0, -0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 30.0, 1e3, far], dtype=dtype)
    event = event_of(bijection)
    x = points.reshape(-1, *([1] * len(event))).expand(-1, *event).clone().requires_grad_()
    out = call(bijection, direction, x, condition_for(bijection, len(x), dtype))
    assert torch.isfinite(out.value).all()
    assert torch.isfinite(out.log_abs_det_jacobian).all()
    wanted = [x, *(p for p in bijection.parameters() if p.requires_grad)]
    loss = (out.value / far).sum() + out.log_abs_det_jacobian.sum()
    for gradient in torch.autograd.grad(loss, wanted, allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


@torch.no_grad()
def _central(loss, parameter: Tensor, along: Tensor, step: float) -> Tensor:
    """(L(θ + h·along) − L(θ − h·along)) / 2h; the parameter is put back bit for bit."""
    kept = parameter.clone()
    values = []
    for sign in (1, -1):
        parameter.copy_(kept + sign * step * along)
        values.append(loss())
    parameter.copy_(kept)
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("name", [name for name, case in REGISTRY.items() if case.smooth])
@both_directions
def test_gradients_of_value_and_log_det_reach_rows_condition_and_every_parameter(name, direction):
    """Trap T2: against central differences along a random direction of each tensor, in float64."""
    bijection = built(name)
    x = inputs(bijection, direction, rows=4)
    condition = condition_for(bijection, len(x))
    tensors = {key: p for key, p in bijection.named_parameters() if p.requires_grad}
    tensors |= {"rows": x.requires_grad_()} | ({} if condition is None else {"condition": condition.requires_grad_()})
    weights = torch.randn(x.shape, dtype=FLOAT64, generator=seeded(5))
    row_weights = torch.randn(len(x), dtype=FLOAT64, generator=seeded(6))  # unequal and of both signs: trap T6

    def loss() -> Tensor:
        out = call(bijection, direction, x, condition)
        return (out.value * weights).sum() + (out.log_abs_det_jacobian * row_weights).sum()

    gradients = torch.autograd.grad(loss(), list(tensors.values()), allow_unused=True)
    # Two central differences, combined to a truncation of step⁴; rounding about 1e-16/step = 1e-11. Where adaptive
    # steps leave an error in the log-determinant, differences have that over the step, so the step is longer.
    error = REGISTRY[name].log_det
    step, limit = (1e-5, 1e-5) if error <= 1e-9 else (1e-3, 100 * error / 1e-3)
    for (key, tensor), gradient in zip(tensors.items(), gradients, strict=True):
        assert gradient is not None, f"{key} has no gradient"
        along = torch.randn(tensor.shape, dtype=FLOAT64, generator=seeded(8))
        wide, narrow = (_central(loss, tensor, along, h) for h in (step, step / 2))
        difference = (4 * narrow - wide) / 3  # Richardson
        torch.testing.assert_close(
            (gradient * along).sum(), difference, rtol=limit, atol=limit, msg=lambda m, key=key: f"{key}: {m}"
        )


@everything
@both_directions
@pytest.mark.parametrize("rows", [0, 1, 3])
@both_dtypes
def test_shapes_and_dtypes(name, direction, rows, dtype):
    """Traps T20, T10: log-det and status always (batch,), in the dtype of the rows, for batches of 0 and 1 too."""
    bijection = built(name, dtype)
    x = inputs(bijection, direction, rows, dtype)
    out = call(bijection, direction, x, condition_for(bijection, rows, dtype))
    assert out.value.shape == x.shape
    assert out.log_abs_det_jacobian.shape == out.status.shape == (rows,)
    assert out.value.dtype == out.log_abs_det_jacobian.dtype == dtype
    assert out.status.dtype == torch.int8
    assert out.value.device == out.log_abs_det_jacobian.device == out.status.device == x.device


@pytest.mark.parametrize("name", [name for name, case in REGISTRY.items() if case.mixed])
@both_directions
def test_moving_the_map_to_float32_keeps_the_dtype_of_the_rows(name, direction):
    bijection, exact = built(name, torch.float32), built(name)
    x = inputs(exact, direction)
    out = call(bijection, direction, x, condition_for(bijection, len(x)))
    assert out.value.dtype == out.log_abs_det_jacobian.dtype == FLOAT64
    # Buffers rounded to float32: 6e-8 relative, times slopes of up to 1e3.
    truth = call(exact, direction, x, condition_for(exact, len(x))).value
    torch.testing.assert_close(out.value, truth, rtol=3e-4, atol=3e-4)


@everything
@both_directions
def test_a_row_does_not_depend_on_its_neighbours(name, direction):
    """Rows are independent: an adaptive or iterative part must not let a neighbour decide when a row is done."""
    bijection = built(name)
    x = inputs(bijection, direction, rows=6)
    condition = condition_for(bijection, len(x))
    together = call(bijection, direction, x, condition)
    alone = call(bijection, direction, x[2:3], None if condition is None else condition[2:3])
    torch.testing.assert_close(alone.value[0], together.value[2], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(alone.log_abs_det_jacobian[0], together.log_abs_det_jacobian[2], rtol=1e-10, atol=1e-10)


@everything
@both_directions
def test_without_log_det_the_value_is_the_same(name, direction):
    case, bijection = REGISTRY[name], built(name)
    x = inputs(bijection, direction)
    condition = condition_for(bijection, len(x))
    bare = call(bijection, direction, x, condition, log_det=False)
    assert bare.log_abs_det_jacobian is None
    # An adaptive solve takes other steps when the trace is on board; discrete maps give the same to rounding.
    full = call(bijection, direction, x, condition).value
    torch.testing.assert_close(bare.value, full, rtol=case.round_trip, atol=case.round_trip)


@everything
@both_dtypes
def test_save_and_load_give_the_same_map(name, dtype):
    """Traps T7, T14: everything that decides the map is in its state."""
    bijection, other = built(name, dtype), built(name, dtype)
    for tensor in (*other.parameters(), *other.buffers()):
        if tensor.is_floating_point():
            tensor.data.mul_(1.5).add_(0.1)
    state = bijection.state_dict()
    other.load_state_dict(load(save(state)) if state else state)
    x = inputs(bijection, "encode", dtype=dtype)
    condition = condition_for(bijection, len(x), dtype)
    ours, theirs = call(bijection, "encode", x, condition), call(other, "encode", x, condition)
    assert torch.equal(ours.value, theirs.value)
    assert torch.equal(ours.log_abs_det_jacobian, theirs.log_abs_det_jacobian)


@everything
@both_directions
def test_wrong_shapes_and_dtypes_are_refused(name, direction):
    bijection = built(name)
    verb = getattr(bijection, direction)
    event = event_of(bijection)
    if bijection.event_shape is not None:
        with pytest.raises(ShapeError, match="expected"):
            verb(torch.zeros(2, *event, 5, dtype=FLOAT64), condition_for(bijection, 2))
    with pytest.raises(DataError, match="dtype"):
        verb(torch.zeros(2, *event, dtype=torch.long), condition_for(bijection, 2))


@everything
@both_directions
@both_dtypes
def test_a_condition_is_used_or_refused(name, direction, dtype):
    """Trap T19: a condition is never silently ignored."""
    bijection = built(name, dtype)
    x = inputs(bijection, direction, dtype=dtype)
    verb = getattr(bijection, direction)
    if bijection.condition_shape is None:
        with pytest.raises(ShapeError, match="expected none"):
            verb(x, torch.zeros(len(x), 2, dtype=dtype))
        return
    condition = condition_for(bijection, len(x), dtype)
    if condition is None:
        return  # a map that leaves the check to its members
    moved = verb(x, condition + 1).value
    assert not torch.isclose(verb(x, condition).value, moved, rtol=1e-6, atol=1e-6).all()
    with pytest.raises(ShapeError):
        verb(x, None)


def _is_line(case: Case) -> bool:
    bijection = case.build()
    return math.prod(event_of(bijection)) == 1


@pytest.mark.parametrize("name", [name for name, case in REGISTRY.items() if _is_line(case)])
def test_density_integrates_to_one(name):
    """The normal density pulled to the data side integrates to one, by the midpoint rule on data quantiles.

    Nodes x_i = decode(z_i) on a fine uniform grid of z: the sum of p(x at cell middles) · (x_{i+1} − x_i) is a Riemann
    sum of the density over x; its error falls with the square of the grid step (away from the few kinks at edges).
    """
    bijection = built(name)
    event = event_of(bijection)
    nodes = torch.linspace(-8.0, 8.0, REGISTRY[name].nodes, dtype=FLOAT64)

    def same(condition: Tensor | None, rows: int) -> Tensor | None:
        return None if condition is None else condition.expand(rows, *condition.shape[1:])

    given = condition_for(bijection, 1)
    with torch.no_grad():
        x = bijection.decode(nodes.reshape(-1, *event), same(given, len(nodes))).value.reshape(-1)
        middles = (x[1:] + x[:-1]) / 2
        out = call(bijection, "encode", middles.reshape(-1, *event), same(given, len(middles)))
    log_base = -0.5 * out.value.reshape(-1) ** 2 - 0.5 * math.log(2 * math.pi)
    density = (log_base + out.log_abs_det_jacobian).exp()
    # Step 8e-4: truncation (8e-4)²; a kink costs at most one interval, 8e-4 of mass times the jump in slope. Smooth
    # maps whose inverse is numeric take fewer nodes: step 8e-3, truncation 6e-5.
    assert abs((density * x.diff()).sum().item() - 1) < 1e-3
