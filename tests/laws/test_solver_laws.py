"""Every solver × every law."""

import math

import pytest
import torch

from advect.errors import ConfigError, ShapeError, UnknownNameError
from advect.records import Status
from advect.solvers import (
    RK4,
    SOLVERS,
    Adams3,
    Adaptive,
    Chunked,
    Euler,
    ExactDivergence,
    HutchinsonDivergence,
    make_solver,
)
from advect.solvers.along import board
from advect.typing import Divergence, Solver, expand_time

# Those that need a schedule have laws of their own, see tests/solvers/test_affine_solvers.py.
NAMES = [name for name, entry in SOLVERS.items() if not (entry.affine or entry.scored)]
FIXED = [name for name in NAMES if not SOLVERS[name].adaptive]
ADAPTIVE = [name for name in NAMES if SOLVERS[name].adaptive]


def build(name, steps=8, tolerance=1e-6) -> Solver:
    return make_solver(name, tolerance=tolerance) if SOLVERS[name].adaptive else make_solver(name, steps=steps)


class Counting:
    """A field that remembers how many rows it was asked for, and at which times."""

    def __init__(self, field):
        self.field, self.calls, self.rows, self.times = field, 0, 0, []

    def __call__(self, t, x, condition=None):
        self.calls += 1
        self.rows += x.shape[0]
        self.times.extend(torch.as_tensor(t).reshape(-1).tolist())
        return self.field(t, x, condition)


def swirl(t, x, condition=None):
    """Smooth, non-linear, time-dependent, any event rank."""
    return torch.sin(2 * x + expand_time(t, x)) - 0.5 * x


def rows(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("event", [(), (3,), (2, 3), (3, 2, 2), (1, 2, 2, 2)])
def test_any_event_rank(name, event):
    """Each coordinate of `swirl` moves alone, so every shape must agree with the flat batch."""
    x = rows(4, *event)
    result = build(name, tolerance=1e-8)(swirl, x)
    flat = build(name, tolerance=1e-8)(swirl, x.reshape(-1))
    assert result.state.shape == x.shape
    assert result.nfe.shape == (4,)
    # Fixed steps are the same steps; adaptive ones differ by a few tolerances.
    torch.testing.assert_close(result.state.reshape(-1), flat.state, rtol=0, atol=1e-13 if name in FIXED else 1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("event", [(), (3,), (2, 2)])
def test_empty_batch(name, event):
    result = build(name)(
        swirl, rows(0, *event), times=torch.tensor([0.0, 0.5]), divergence=ExactDivergence(), condition=rows(0, 2)
    )
    assert result.state.shape == (0, *event)
    assert result.states.shape == (2, 0, *event)
    assert result.nfe.shape == result.status.shape == result.log_abs_det.shape == (0,)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0), (0.2, 0.7), (0.7, -0.3), (-2.0, 3.0)])
def test_constant_field_moves_by_the_interval(name, t0, t1):
    """trap M8, S13: half-open grids over the given interval, both directions."""
    x = rows(3, 2)
    result = build(name, steps=7)(lambda t, x, c=None: torch.ones_like(x), x, t0, t1)
    # Sums of seven rounded steps: a few units in the last place of numbers below 10.
    torch.testing.assert_close(result.state, x + (t1 - t0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_no_interval_no_move(name):
    x = rows(3, 2)
    result = build(name)(swirl, x, 0.5, 0.5, times=torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert torch.equal(result.state, x)
    assert torch.equal(result.states, torch.stack([x, x]))
    assert result.nfe.tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("divergence", [None, ExactDivergence(), HutchinsonDivergence(2)])
def test_reported_evaluations_are_the_counted_ones(name, divergence):
    """trap S9: NFE counts evaluations of the field, row by row."""
    field = Counting(swirl)
    result = build(name)(field, rows(5, 2), divergence=divergence, generator=torch.Generator().manual_seed(0))
    assert int(result.nfe.sum()) == field.rows
    assert len(field.times) > 0


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_requested_evaluations(name, steps):
    """trap S7: the steps asked for are the steps taken."""
    field = Counting(swirl)
    result = make_solver(name, steps=steps)(field, rows(2, 2))
    expected = SOLVERS[name].evaluations * steps + (name == "adams3")
    assert field.calls == expected
    assert result.nfe.tolist() == [expected] * 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0), (0.5, 1.0), (0.9, 0.3), (0.1, 0.7)])
def test_every_evaluation_is_inside_the_interval(name, t0, t1):
    """trap S8: the interval as given, both directions."""
    field = Counting(swirl)
    times = torch.linspace(t0, t1, 4, dtype=torch.float64)
    build(name)(field, rows(6, 2), t0, t1, times=times)
    assert min(field.times) >= min(t0, t1)
    assert max(field.times) <= max(t0, t1)
    assert t0 in field.times


@pytest.mark.parametrize("name", ["euler", "midpoint"])
def test_half_open_solvers_never_evaluate_the_end(name):
    field = Counting(swirl)
    make_solver(name, steps=5)(field, rows(2, 2), times=torch.linspace(0, 1, 7, dtype=torch.float64))
    assert max(field.times) < 1.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result_dtype_is_input_dtype(name, dtype):
    """trap S14: the stated dtype rule; the field sees that dtype too."""
    seen = set()

    def field(t, x, condition=None):
        seen.update({t.dtype, x.dtype})
        return swirl(t, x)

    times = torch.tensor([0.1, 0.9], dtype=torch.float64)
    result = build(name)(field, rows(3, 2, dtype=dtype), times=times, divergence=ExactDivergence())
    assert seen == {dtype}
    found = {result.state.dtype, result.states.dtype, result.log_abs_det.dtype, result.failed_at.dtype}
    assert found == {dtype}
    assert result.status.dtype == torch.int8
    assert result.nfe.dtype == torch.int64


@pytest.mark.parametrize("name", FIXED)
def test_bfloat16_works_with_fixed_steps(name):
    """trap S14: half precision in, half precision out, summed in float32."""
    x = rows(50, 3)
    exact = make_solver(name, steps=64)(swirl, x).state
    result = make_solver(name, steps=64)(swirl, x.bfloat16())
    assert result.state.dtype == torch.bfloat16
    # 8 bits of mantissa: inputs, slopes and the result are each rounded by 2^-9 relative. Summing in bfloat16
    # would lose most of the 64 increments of size 1/64.
    assert float((result.state.double() - exact).abs().max()) < 0.03


@pytest.mark.parametrize("name", ADAPTIVE)
def test_half_precision_is_refused_by_adaptive_steps(name):
    with pytest.raises(ConfigError, match="float32 or float64"):
        build(name)(swirl, rows(2, 2).bfloat16())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0)])
def test_dense_times(name, t0, t1):
    """trap M10: all requested times come back, repeated and end times too, and the end state does not change."""
    x = rows(5, 2)
    times = t0 + (t1 - t0) * torch.tensor([0.0, 0.0, 0.1, 0.3, 0.3, 1 / 3, 0.77, 1.0, 1.0], dtype=torch.float64)
    plain = build(name, steps=40)(swirl, x, t0, t1)
    dense = build(name, steps=40)(swirl, x, t0, t1, times=times)
    assert torch.equal(plain.state, dense.state)
    assert torch.equal(plain.nfe, dense.nfe)
    assert torch.equal(dense.states[0], x)
    assert torch.equal(dense.states[1], x)
    assert torch.equal(dense.states[-1], dense.state)
    assert torch.equal(dense.states[-2], dense.state)
    truth = Adaptive("tsit5", 1e-11, 1e-11)
    tolerance = {"euler": 0.05, "midpoint": 2e-3, "heun": 2e-3, "adams3": 2e-3}.get(name, 1e-5)
    for index, t in enumerate(times.tolist()):
        reference = truth(swirl, x, t0, t).state
        torch.testing.assert_close(dense.states[index], reference, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_times_by_order_not_by_equality(name):
    """trap M10: a float32 0.7 is below the float64 end 0.7 and still is the end."""
    times = torch.tensor([0.35, 0.7], dtype=torch.float32)
    result = build(name)(swirl, rows(2, 2), 0.0, 0.7, times=times)
    assert torch.isfinite(result.states).all()
    torch.testing.assert_close(result.states[-1], result.state, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("times", "error"),
    [
        (torch.tensor([0.5, 1.5]), ConfigError),
        (torch.tensor([-0.1]), ConfigError),
        (torch.tensor([0.6, 0.5]), ConfigError),
        (torch.tensor([[0.5]]), ShapeError),
        (torch.tensor([math.nan]), ConfigError),
    ],
)
def test_bad_times_are_refused(name, times, error):
    with pytest.raises(error):
        build(name)(swirl, rows(2, 2), times=times)


@pytest.mark.parametrize("name", NAMES)
def test_condition_follows_its_row(name):
    """Rows with different rates end at different times of the walk; each keeps its own condition."""

    def field(t, x, condition):
        assert condition.shape[0] == x.shape[0]
        return condition * x

    x, rate = rows(6, 1), torch.tensor([0.0, -40.0, 1.0, 3.0, -0.5, 8.0], dtype=torch.float64).unsqueeze(1)
    solver = Adaptive(name, 1e-9, 1e-9) if name in ADAPTIVE else make_solver(name, steps=400)
    result = solver(field, x, 0.0, 0.25, condition=rate)
    error = (result.state / (x * torch.exp(0.25 * rate)) - 1).abs().max()
    # λ = -40, λT = 10, λh = 0.025: relative error λT λh/2 = 0.125 for Euler, λT (λh)²/6 = 1e-3 at order 2. Adaptive:
    # e^-10 leaves 4.5e-5 of x, so an absolute 1e-9 is relative 2e-5 per step.
    assert float(error) < (0.15 if name == "euler" else 3e-3)


@pytest.mark.parametrize("name", NAMES)
def test_no_graph_without_gradients(name):
    parameter = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        result = build(name)(lambda t, x, c=None: torch.sin(parameter * x), rows(3, 2), divergence=ExactDivergence())
    assert result.state.grad_fn is None
    assert result.log_abs_det.grad_fn is None
    # Gradients on, but nothing to differentiate: the graph the trace needs does not outlive the call.
    result = build(name)(swirl, rows(3, 2), divergence=ExactDivergence())
    assert result.state.grad_fn is None
    assert result.log_abs_det.grad_fn is None


@pytest.mark.parametrize("name", NAMES)
def test_inference_mode(name):
    with torch.inference_mode():
        x = rows(3, 2)
        inside = build(name)(swirl, x, divergence=ExactDivergence())
    outside = build(name)(swirl, rows(3, 2), divergence=ExactDivergence())
    torch.testing.assert_close(inside.log_abs_det.clone(), outside.log_abs_det, rtol=0, atol=1e-13)


def _solved(name, x, a, divergence=None):
    tolerance = 1e-8 if name == "bosh3" else 1e-12
    solver = Adaptive(name, tolerance, tolerance) if name in ADAPTIVE else make_solver(name, steps=4)
    field = lambda t, x, c=None: torch.tanh(x @ a) + expand_time(t, x)  # noqa: E731
    result = solver(field, x, 0.0, 0.3, divergence=divergence)
    return (result.state,) if divergence is None else (result.state, result.log_abs_det)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_against_finite_differences(name):
    """trap S12, S17, L7: direct gradients of state and log-determinant, in x and in parameters."""
    x, a = rows(2, 2).requires_grad_(), (0.5 * rows(2, 2, seed=1)).requires_grad_()
    # The steps' own dependence on x, which the gradient leaves out, is worth about the tolerance.
    assert torch.autograd.gradcheck(lambda x, a: _solved(name, x, a, ExactDivergence()), (x, a), atol=2e-5)


@pytest.mark.parametrize("name", ["euler", "rk4", "adams3", "bosh3", "tsit5"])
def test_second_derivatives(name):
    """trap S12: second derivatives exist and are right."""
    x, a = rows(1, 2).requires_grad_(), (0.5 * rows(2, 2, seed=1)).requires_grad_()
    solve = lambda x, a: _solved(name, x, a)  # noqa: E731
    assert torch.autograd.gradgradcheck(solve, (x, a), atol=5e-5, rtol=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_at_requested_times(name):
    x = rows(3, 2).requires_grad_()
    times = torch.tensor([0.25, 0.6], dtype=torch.float64)
    result = (
        make_solver(name, steps=40)(swirl, x, times=times) if name in FIXED else Adaptive(name)(swirl, x, times=times)
    )
    (gradient,) = torch.autograd.grad(result.states[1].sum(), x)
    (direct,) = torch.autograd.grad(Adaptive("tsit5", 1e-10, 1e-10)(swirl, x, 0.0, 0.6).state.sum(), x)
    torch.testing.assert_close(gradient, direct, rtol=0, atol={"euler": 0.1}.get(name, 3e-3))


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_row_leaves_its_neighbours_alone(name):
    """trap S5: NaN for the failed row, the others as in a solve without it, gradients of shared weights finite."""
    good, bad = rows(3, 2), torch.tensor([[3.0, 3.0]], dtype=torch.float64)
    weight = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)

    def field(t, x, condition=None):
        return weight * torch.sin(x) + 0 * torch.sqrt(2.9 - x)

    solver = build(name)
    with torch.no_grad():
        mixed = solver(field, torch.cat([good[:1], bad, good[1:]]), times=torch.tensor([0.0, 0.5, 1.0]))
        alone = solver(field, good)
    keep = torch.tensor([0, 2, 3])
    assert mixed.status.tolist() == [0, int(Status.NAN_FIELD), 0, 0]
    assert torch.isnan(mixed.state[1]).all()
    assert float(mixed.failed_at[1]) == 0.0
    assert torch.isnan(mixed.failed_at[keep]).all()
    torch.testing.assert_close(mixed.state[keep], alone.state, rtol=0, atol=1e-12)
    assert torch.equal(mixed.nfe[keep], alone.nfe)
    assert torch.isfinite(mixed.states[:, keep]).all()
    # With gradients: a NaN activation of the failed row must not reach the shared weight.
    with_gradient = solver(field, torch.cat([good[:1], bad, good[1:]]))
    (gradient,) = torch.autograd.grad(with_gradient.state[keep].sum(), weight)
    (reference,) = torch.autograd.grad(solver(field, good).state.sum(), weight)
    torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_are_not_finite_fail_at_the_start(name):
    x = torch.tensor([[1.0], [math.inf], [math.nan], [-1.0]], dtype=torch.float64)
    result = build(name)(swirl, x)
    assert result.status.tolist() == [0, int(Status.BLOW_UP), int(Status.BLOW_UP), 0]
    assert result.nfe[1:3].tolist() == [0, 0]
    assert result.failed_at[1:3].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", NAMES)
def test_wrong_shapes_are_refused(name):
    solver = build(name)
    with pytest.raises(ShapeError, match="velocity"):
        solver(lambda t, x, c=None: x.sum(1, keepdim=True), rows(4, 2))
    with pytest.raises(ShapeError, match="condition"):
        solver(swirl, rows(4, 2), condition=rows(3, 1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("divergence", [None, ExactDivergence(), HutchinsonDivergence(3)])
def test_chunks_change_nothing(name, divergence):
    """The probes are drawn once for the whole batch, so even the stochastic trace agrees."""
    x, condition = rows(7, 2), rows(7, 2, seed=3)
    field = lambda t, x, c: torch.sin(x + c)  # noqa: E731
    solver, times = build(name), torch.tensor([0.5, 1.0], dtype=torch.float64)

    def solve(solver):
        generator = torch.Generator().manual_seed(4)
        return solver(field, x, times=times, condition=condition, divergence=divergence, generator=generator)

    whole, parts = solve(solver), solve(Chunked(solver, rows=3))
    assert torch.equal(whole.nfe, parts.nfe)
    torch.testing.assert_close(whole.state, parts.state, rtol=0, atol=1e-13)
    torch.testing.assert_close(whole.states, parts.states, rtol=0, atol=1e-13)
    if divergence is not None:
        torch.testing.assert_close(whole.log_abs_det, parts.log_abs_det, rtol=0, atol=1e-13)
        torch.testing.assert_close(whole.log_abs_det_error, parts.log_abs_det_error, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_same_generator_same_numbers(name):
    """trap L2: the probes come from the generator and from nowhere else."""
    x, before = rows(4, 3), torch.get_rng_state()

    def solve(seed):
        generator = torch.Generator().manual_seed(seed)
        return build(name)(
            lambda t, x, c=None: torch.sin(x @ rows(3, 3, seed=9)),
            x,
            divergence=HutchinsonDivergence(4),
            generator=generator,
        )

    first, again, other = solve(0), solve(0), solve(1)
    assert torch.equal(first.log_abs_det, again.log_abs_det)
    assert not torch.equal(first.log_abs_det, other.log_abs_det)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("x", [torch.zeros(3, 2, dtype=torch.int64), torch.tensor(0.5)])
def test_only_batches_of_floats_are_integrated(x):
    with pytest.raises(ShapeError, match="floating-point rows"):
        board(swirl, x, None, None, None, ())


def test_steps_are_stated_in_one_way():
    """trap S6, S7: never one step by default, and contradictions are refused."""
    with pytest.raises(ConfigError, match="neither"):
        Euler()
    with pytest.raises(ConfigError, match="both"):
        RK4(steps=2, grid=torch.tensor([0.0, 1.0]))
    for steps in (0, -3, True):
        with pytest.raises(ConfigError, match="at least 1"):
            Adams3(steps)
    for grid in ([0.0], [0.0, 0.5], [0.1, 1.0], [0.0, 0.5, 0.5, 1.0], [0.0, 0.7, 0.2, 1.0], [0.0, math.nan, 1.0]):
        with pytest.raises(ConfigError, match="grid"):
            RK4(grid=torch.tensor(grid))
    assert RK4(grid=torch.tensor([0.0, 0.25, 1.0])) == RK4(grid=[0.0, 0.25, 1.0])


def test_tolerances_must_be_positive():
    for setting in (
        {"rtol": 0.0},
        {"atol": -1e-5},
        {"max_steps": 0},
        {"min_step": 0.0},
        {"log_det_tolerance": 0.0},
        {"rtol": math.nan},
        {"first_step": -1.0},
    ):
        with pytest.raises(ConfigError, match="positive"):
            Adaptive(**setting)
    with pytest.raises(UnknownNameError, match="dopri5"):
        Adaptive("dopri")
    with pytest.raises(ConfigError, match="at least 1"):
        Chunked(Euler(2), rows=0)


def test_the_table():
    for name, entry in SOLVERS.items():
        assert entry.name == name
    for name in NAMES:
        assert isinstance(build(name), Solver)
    assert make_solver("adams3") == Adams3(20)
    assert make_solver("tsit5") == Adaptive("tsit5", 1e-5, 1e-5)
    with pytest.raises(UnknownNameError, match="'dopri5'"):
        make_solver("dopri-5")
    with pytest.raises(ConfigError, match="tolerance"):
        make_solver("tsit5", steps=3)
    with pytest.raises(ConfigError, match="steps"):
        make_solver("rk4", tolerance=1e-5)
    with pytest.raises(ConfigError, match="how many"):
        make_solver("euler")
    with pytest.raises(ConfigError, match="positive"):
        make_solver("tsit5", tolerance=0.0)


def test_protocols_hold():
    solvers: list[Solver] = [build(name) for name in NAMES] + [Chunked(Euler(2))]
    divergences: list[Divergence] = [ExactDivergence(), HutchinsonDivergence()]
    for solver in solvers:
        for divergence in divergences:
            result = solver(swirl, rows(2, 2), divergence=divergence, generator=torch.Generator().manual_seed(0))
            assert result.log_abs_det is not None
