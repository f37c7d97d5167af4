"""Every transform × every law. A new transform joins by one line in `REGISTRY`.

Inputs are made by decoding standard normals, so they lie in the support; every check of a log-determinant is against
autograd's full Jacobian, never against the other direction (trap T16).
"""

import math
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load, save

from advect.errors import DataError, ShapeError
from advect.records import Coordinate
from advect.transforms import (
    Asinh,
    Bijection,
    Columnwise,
    Compose,
    Cumulative,
    Standardise,
    empty_preprocess,
    fit_preprocess,
)

FLOAT64 = torch.float64
EVENT_OF_ANY = (3,)  # for maps that take rows of any shape


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=FLOAT64)


UNEVEN = [numbers(0.7, 0.2, 0.05, 0.05), numbers(0.5, 0.5), numbers(1.0, 2.0, 3.0, 4.0, 1e-4)]
MIXED = [
    Coordinate("a", 0, "value", "standardise"),
    Coordinate("b", 1, "value", "cumulative", 3),
    Coordinate("c", 2, "value", "asinh"),
    Coordinate("d", 3, "value", "cumulative", 2),
    Coordinate("e", 4, "value", "pixel"),
    Coordinate("f", 5, "value", "pixel"),
]
MIXED_PROBABILITIES = {1: numbers(0.6, 0.3, 0.1), 3: numbers(0.9, 0.1)}


def mixed_values() -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(200, 6, dtype=FLOAT64, generator=g)
    x[:, 1] = torch.rand(200, dtype=FLOAT64, generator=g) * 3
    x[:, 2] = 5 + torch.sinh(2 * x[:, 2])
    x[:, 3] = torch.rand(200, dtype=FLOAT64, generator=g) * 2
    x[:, 4:] = 128 + 60 * x[:, 4:]
    return x


REGISTRY: dict[str, Callable[[], Bijection]] = {
    "identity": lambda: Compose(),
    "standardise": lambda: Standardise(numbers(1.0, -2.0, 3.0), numbers(0.5, 2.0, 30.0)),
    "standardise-scalar-event": lambda: Standardise(numbers(3.0)[0], numbers(2.0)[0]),
    "standardise-picture": lambda: Standardise(numbers(128.0)[0], numbers(64.0)[0], (2, 3, 2)),
    "standardise-rows": lambda: Standardise(numbers(1.0, 2.0), numbers(3.0, 4.0).reshape(2, 1), (2, 2)),
    "asinh": lambda: Asinh(numbers(1.0, -5.0), numbers(0.1, 4.0)),
    "asinh-shared": lambda: Asinh(numbers(1.0)[0], numbers(3.0)[0], (2, 2)),
    "cumulative": lambda: Cumulative(UNEVEN),
    "cumulative-one-level": lambda: Cumulative([numbers(1.0)]),
    "compose": lambda: Compose(
        Asinh(numbers(1.0, 2.0), numbers(2.0, 0.5)), Standardise(numbers(0.5, 0), numbers(2, 3))
    ),
    "columnwise": lambda: Columnwise(
        [((2, 0), Cumulative(UNEVEN[:2])), ((1, 3), Asinh(numbers(0.0, 1.0), numbers(1.0, 2.0)))], (2, 2)
    ),
    "columnwise-plain": lambda: Columnwise([((0, 1), Standardise(numbers(0.0, 1.0), numbers(1.0, 2.0)))], (2, 1)),
    "preprocess": lambda: fit_preprocess(mixed_values(), MIXED, MIXED_PROBABILITIES),
    "preprocess-empty": lambda: empty_preprocess(MIXED, (2, 3)).double(),
    "one-standardise": lambda: Standardise(numbers(1.0), numbers(2.5)),
    "one-asinh": lambda: Asinh(numbers(-1.0), numbers(0.3)),
    "one-cumulative": lambda: Cumulative(UNEVEN[2:]),
}

everything = pytest.mark.parametrize("name", REGISTRY)
both_directions = pytest.mark.parametrize("direction", ["encode", "decode"])


def event_of(bijection: Bijection) -> tuple[int, ...]:
    return EVENT_OF_ANY if bijection.event_shape is None else bijection.event_shape


def condition_for(bijection: Bijection, rows: int, dtype: torch.dtype = FLOAT64) -> torch.Tensor | None:
    if not isinstance(bijection.condition_shape, tuple):
        return None
    return torch.randn(rows, *bijection.condition_shape, dtype=dtype, generator=torch.Generator().manual_seed(7))


def inputs(bijection: Bijection, direction: str, rows: int = 5, dtype: torch.dtype = FLOAT64) -> torch.Tensor:
    """Rows in the domain of ``direction``."""
    z = torch.randn(rows, *event_of(bijection), dtype=FLOAT64, generator=torch.Generator().manual_seed(3)).to(dtype)
    return z if direction == "decode" else bijection.decode(z, condition_for(bijection, rows, dtype)).value.detach()


@everything
@both_directions
def test_log_det_is_autograds(name, direction):
    """Trap T16: each direction against the full Jacobian by itself, not the one against the other."""
    bijection = REGISTRY[name]()
    x = inputs(bijection, direction)
    condition = condition_for(bijection, len(x))
    found = getattr(bijection, direction)(x, condition)
    for row in range(len(x)):
        given = None if condition is None else condition[row : row + 1]

        def one(flat, given=given, shape=x.shape[1:]):
            return getattr(bijection, direction)(flat.reshape(1, *shape), given).value.reshape(-1)

        jacobian = torch.autograd.functional.jacobian(one, x[row].reshape(-1))
        truth = torch.linalg.slogdet(jacobian).logabsdet
        # Products of a few closed-form slopes; the normal quantile carries about 1e-13 relative.
        torch.testing.assert_close(found.log_abs_det_jacobian[row], truth, rtol=1e-9, atol=1e-9)


@everything
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # float32 carries 6e-8 per operation; a slope of up to 1e3 (a cell of probability 1e-4 far out) enlarges it.
    [(torch.float64, 1e-10), (torch.float32, 3e-4)],
)
def test_round_trip_and_opposite_log_dets(name, dtype, tolerance):
    """Traps T16, T17: both orders, with the condition where there is one; the log-determinants cancel."""
    bijection = REGISTRY[name]()
    for first, second in (("encode", "decode"), ("decode", "encode")):
        x = inputs(bijection, first, rows=20, dtype=dtype)
        condition = condition_for(bijection, len(x), dtype)
        there = getattr(bijection, first)(x, condition)
        back = getattr(bijection, second)(there.value, condition)
        torch.testing.assert_close(back.value, x, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(
            there.log_abs_det_jacobian, -back.log_abs_det_jacobian, rtol=tolerance, atol=tolerance
        )
        assert (there.status == 0).all()
        assert (back.status == 0).all()


@everything
@both_directions
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_are_finite_far_out_and_on_edges(name, direction, dtype):
    """Trap T9: at ±1e6, at 0 and exactly on the edges of cells, for the value and the log-determinant."""
    bijection = REGISTRY[name]()
    points = torch.tensor([-1e6, -1.0, -0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 1e6], dtype=dtype)
    event = event_of(bijection)
    x = points.reshape(-1, *([1] * len(event))).expand(-1, *event).clone().requires_grad_()
    out = getattr(bijection, direction)(x, condition_for(bijection, len(x), dtype))
    assert torch.isfinite(out.value).all()
    assert torch.isfinite(out.log_abs_det_jacobian).all()
    (gradient,) = torch.autograd.grad(out.value.sum() + out.log_abs_det_jacobian.sum(), x)
    assert torch.isfinite(gradient).all()


@everything
@both_directions
@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_shapes_and_dtypes(name, direction, rows, dtype):
    """Traps T20, T10: log-det and status always (batch,), in the dtype of the rows, for batches of 0 and 1 too."""
    bijection = REGISTRY[name]()
    x = inputs(bijection, direction, rows, dtype)
    out = getattr(bijection, direction)(x, condition_for(bijection, rows, dtype))
    assert out.value.shape == x.shape
    assert out.log_abs_det_jacobian.shape == out.status.shape == (rows,)
    assert out.value.dtype == out.log_abs_det_jacobian.dtype == dtype
    assert out.status.dtype == torch.int8
    assert out.value.device == out.log_abs_det_jacobian.device == out.status.device == x.device


@everything
@both_directions
def test_moving_the_map_to_float32_keeps_the_dtype_of_the_rows(name, direction):
    bijection = REGISTRY[name]().float()
    exact = REGISTRY[name]()
    x = inputs(exact, direction)
    out = getattr(bijection, direction)(x, condition_for(bijection, len(x)))
    assert out.value.dtype == out.log_abs_det_jacobian.dtype == FLOAT64
    # Buffers rounded to float32: 6e-8 relative, times slopes of up to 1e3.
    torch.testing.assert_close(
        out.value, getattr(exact, direction)(x, condition_for(exact, len(x))).value, rtol=3e-4, atol=3e-4
    )


@everything
@both_directions
def test_a_row_does_not_depend_on_its_neighbours(name, direction):
    bijection = REGISTRY[name]()
    x = inputs(bijection, direction, rows=6)
    condition = condition_for(bijection, len(x))
    together = getattr(bijection, direction)(x, condition)
    alone = getattr(bijection, direction)(x[2:3], None if condition is None else condition[2:3])
    torch.testing.assert_close(alone.value[0], together.value[2], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(alone.log_abs_det_jacobian[0], together.log_abs_det_jacobian[2], rtol=1e-12, atol=1e-12)


@everything
@both_directions
def test_without_log_det_the_value_is_the_same(name, direction):
    bijection = REGISTRY[name]()
    x = inputs(bijection, direction)
    condition = condition_for(bijection, len(x))
    bare = getattr(bijection, direction)(x, condition, log_det=False)
    assert bare.log_abs_det_jacobian is None
    assert torch.equal(bare.value, getattr(bijection, direction)(x, condition).value)


@everything
def test_save_and_load_give_the_same_map(name):
    bijection, other = REGISTRY[name](), REGISTRY[name]()
    for tensor in (*other.parameters(), *other.buffers()):
        if tensor.is_floating_point():
            tensor.data.mul_(1.5).add_(0.1)
    state = bijection.state_dict()
    other.load_state_dict(load(save(state)) if state else state)
    x = inputs(bijection, "encode")
    condition = condition_for(bijection, len(x))
    ours, theirs = bijection.encode(x, condition), other.encode(x, condition)
    assert torch.equal(ours.value, theirs.value)
    assert torch.equal(ours.log_abs_det_jacobian, theirs.log_abs_det_jacobian)


@everything
@both_directions
def test_wrong_shapes_and_dtypes_are_refused(name, direction):
    bijection = REGISTRY[name]()
    call = getattr(bijection, direction)
    event = event_of(bijection)
    if bijection.event_shape is not None:
        with pytest.raises(ShapeError, match="expected"):
            call(torch.zeros(2, *event, 5, dtype=FLOAT64), condition_for(bijection, 2))
    with pytest.raises(DataError, match="dtype"):
        call(torch.zeros(2, *event, dtype=torch.long), condition_for(bijection, 2))


@everything
@both_directions
def test_a_condition_is_used_or_refused(name, direction):
    """Trap T19: a condition is never silently ignored."""
    bijection = REGISTRY[name]()
    x = inputs(bijection, direction)
    call = getattr(bijection, direction)
    if bijection.condition_shape is None:
        with pytest.raises(ShapeError, match="expected none"):
            call(x, torch.zeros(len(x), 2, dtype=FLOAT64))
        return
    condition = condition_for(bijection, len(x))
    assert not torch.equal(call(x, condition).value, call(x, condition + 1).value)
    with pytest.raises(ShapeError):
        call(x, None)


@pytest.mark.parametrize("name", [n for n, build in REGISTRY.items() if math.prod(event_of(build())) == 1])
def test_density_integrates_to_one(name):
    """The normal density pulled to the data side integrates to one, by the midpoint rule on data quantiles.

    Nodes x_i = decode(z_i) on a fine uniform grid of z: the sum of p(x at cell middles) · (x_{i+1} − x_i) is a Riemann
    sum of the density over x; its error falls with the square of the grid step (away from the few kinks at edges).
    """
    bijection = REGISTRY[name]()
    event = event_of(bijection)
    nodes = torch.linspace(-8.0, 8.0, 20001, dtype=FLOAT64)
    x = bijection.decode(nodes.reshape(-1, *event)).value.reshape(-1)
    middles = (x[1:] + x[:-1]) / 2
    out = bijection.encode(middles.reshape(-1, *event))
    log_base = -0.5 * out.value.reshape(-1) ** 2 - 0.5 * math.log(2 * math.pi)
    density = (log_base + out.log_abs_det_jacobian).exp()
    # Step 8e-4: truncation (8e-4)²; a kink costs at most one interval, 8e-4 of mass times the jump in slope.
    assert abs((density * x.diff()).sum().item() - 1) < 1e-3
