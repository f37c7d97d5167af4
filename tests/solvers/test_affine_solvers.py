"""Every solver of affine paths × every law of solvers: shapes, cost, failing rows, dtypes, gradients, randomness."""

import pytest
import torch

from advect.errors import ConfigError, ShapeError, UnsupportedError
from advect.paths import Linear, Trigonometric, VariancePreserving
from advect.records import Status
from advect.solvers import (
    SOLVERS,
    Adams3,
    Adaptive,
    Checkpointed,
    Chunked,
    ExactDivergence,
    Heun,
    KineticEnergy,
    make_solver,
)
from advect.solvers.grid import Grid
from advect.typing import Solver, expand_time
from tests.solvers.affine_truth import AFFINE, DETERMINISTIC, GaussianField, rows
from tests.truth.exact_fields import MixtureField

NAMES = list(AFFINE)
every_solver = pytest.mark.parametrize("name", NAMES)


def build(name, steps=8, schedule=None):
    return AFFINE[name](steps, schedule=schedule or Trigonometric())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def swirl(t, x, condition=None):
    """Smooth, not linear, any event rank; each coordinate moves alone."""
    return torch.sin(2 * x + expand_time(t, x)) - 0.5 * x


@every_solver
@pytest.mark.parametrize("event", [(), (3,), (2, 3), (1, 2, 2, 2)])
def test_any_event_rank(name, event):
    x = rows(4, *event)
    result = build(name)(swirl, x, generator=seeded())
    flat = build(name)(swirl, x.reshape(4, -1), generator=seeded())
    assert result.state.shape == x.shape
    torch.testing.assert_close(result.state.reshape(4, -1), flat.state, rtol=0, atol=1e-13)


@every_solver
def test_empty_batch_and_no_interval(name):
    times = torch.tensor([0.0, 0.5], dtype=torch.float64)
    result = build(name)(swirl, rows(0, 3), times=times, condition=rows(0, 2))
    assert result.state.shape == (0, 3)
    assert result.states.shape == (2, 0, 3)
    x = rows(2, 3)
    still = build(name)(swirl, x, 0.5, 0.5, times=times[1:])
    assert torch.equal(still.state, x)
    assert still.nfe.tolist() == [0, 0]


@every_solver
def test_reported_evaluations_are_the_counted_ones(name):
    """trap S9, row by row, and inside the interval (S8), whatever the churn."""
    seen, count = [], []

    def field(t, x, condition=None):
        seen.append(float(t))
        count.append(len(x))
        return swirl(t, x)

    for t0, t1 in ((0.0, 1.0), (0.2, 0.7)):
        result = build(name)(field, rows(5, 2), t0, t1, generator=seeded())
        assert int(result.nfe.sum()) == sum(count)
        assert min(seen) >= t0
        assert max(seen) <= t1
        seen.clear()
        count.clear()


@every_solver
def test_rates_do_not_travel(name):
    """A likelihood needs the velocity's own solvers, and so does a quantity along the way."""
    for extra in ({"divergence": ExactDivergence()}, {"along": (KineticEnergy(),)}):
        with pytest.raises(UnsupportedError, match=r"moves the state alone.*'dopri5'"):
            build(name)(swirl, rows(2, 2), **extra)


@pytest.mark.parametrize("name", ["sde", "churn"])
def test_noise_goes_towards_data_only(name):
    with pytest.raises(UnsupportedError, match=r"adds noise.*Encode with a deterministic"):
        build(name)(swirl, rows(2, 2), 1.0, 0.0)


@every_solver
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_result_dtype_is_input_dtype(name, dtype):
    """trap S14: the field sees the dtype of the rows; half precision is summed in float32."""
    seen = set()
    field = GaussianField(VariancePreserving())

    def watched(t, x, condition=None):
        seen.update({t.dtype, x.dtype})
        return field(t.double(), x.double()).to(x.dtype)

    x = field.start(40)
    solver = build(name, 16, VariancePreserving())
    result = solver(watched, x.to(dtype), times=torch.tensor([0.5], dtype=torch.float64), generator=seeded())
    assert seen == {dtype}
    assert result.state.dtype == result.states.dtype == dtype
    assert torch.isfinite(result.state).all()
    if name in DETERMINISTIC:
        exact = solver(field, x).state
        # bfloat16: 9 bits of mantissa in x, t and v, and v is steep near the data of this schedule.
        bound = {torch.float64: 1e-13, torch.float32: 2e-5, torch.bfloat16: 0.2}[dtype]
        assert float((result.state.double() - exact).abs().mean()) < bound


@every_solver
def test_float32_near_singular_ends(name):
    """trap P10: finite and right to single precision with α = 0 at the start and σ = 0 at the end."""
    field = GaussianField(Linear())
    x = field.start(50)
    solver = build(name, 300, Linear())
    single = solver(lambda t, x, c=None: field(t.double(), x.double()).float(), x.float(), generator=seeded())
    assert torch.isfinite(single.state).all()
    if name in DETERMINISTIC:
        assert float((single.state.double() - solver(field, x).state).abs().max()) < 3e-4


@every_solver
def test_a_failed_row_leaves_its_neighbours_alone(name):
    """trap S5: NaN with a reason and a time; the others, their noise included, as if the row had never failed."""
    good, bad = rows(3, 2), torch.tensor([[9.0, 9.0]], dtype=torch.float64)
    weight = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)

    def field(t, x, condition=None):
        # The field is undefined for the second row from t = 0.3 on.
        undefined = (condition > 0) & (expand_time(t, x) > 0.3)
        return weight * torch.sin(x) + 0 * torch.sqrt(torch.where(undefined, -1.0, 1.0) + 0 * x)

    x, mark = torch.cat([good[:1], bad, good[1:]]), torch.tensor([[0.0], [1.0], [0.0], [0.0]], dtype=torch.float64)
    times = torch.tensor([0.0, 0.55, 1.0], dtype=torch.float64)
    solver, keep = build(name), torch.tensor([0, 2, 3])
    mixed = solver(field, x, condition=mark, times=times, generator=seeded())
    whole = solver(field, x, condition=0 * mark, times=times, generator=seeded())
    assert mixed.status.tolist() == [0, int(Status.NAN_FIELD), 0, 0]
    # The first evaluation beyond: half-way of a first step that replaces all noise, at the latest.
    assert 0.3 < float(mixed.failed_at[1]) <= 0.5
    assert torch.isnan(mixed.state[1]).all()
    torch.testing.assert_close(mixed.state[keep], whole.state[keep], rtol=0, atol=1e-13)
    torch.testing.assert_close(mixed.states[:, keep], whole.states[:, keep], rtol=0, atol=1e-13)
    (gradient,) = torch.autograd.grad(mixed.state[keep].sum(), weight)
    (reference,) = torch.autograd.grad(whole.state[keep].sum(), weight)
    torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-12)
    broken = solver(swirl, torch.tensor([[1.0], [torch.inf]], dtype=torch.float64), generator=seeded())
    assert broken.status.tolist() == [0, int(Status.BLOW_UP)]
    assert broken.nfe[1] == 0


@every_solver
def test_rows_are_independent(name):
    """Each row as if alone: for deterministic solvers in any batch, with noise in the same place of the batch."""
    x, other = rows(6, 2), rows(6, 2, seed=1)
    whole = build(name)(swirl, x, generator=seeded())
    changed = build(name)(swirl, torch.cat([x[:3], other[3:]]), generator=seeded())
    torch.testing.assert_close(changed.state[:3], whole.state[:3], rtol=0, atol=1e-13)
    if name in DETERMINISTIC:
        pick = torch.tensor([4, 1])
        torch.testing.assert_close(build(name)(swirl, x[pick]).state, whole.state[pick], rtol=0, atol=1e-13)
        chunks = Chunked(build(name), rows=4)(swirl, x)
        torch.testing.assert_close(chunks.state, whole.state, rtol=0, atol=1e-13)


@every_solver
def test_times_change_nothing_and_all_come_back(name):
    """trap M10: repeated and end times; the end state, the cost and the noise are those of a solve without them."""
    x, times = rows(5, 2), torch.tensor([0.0, 0.0, 0.1, 1 / 3, 0.5, 0.77, 1.0, 1.0], dtype=torch.float64)
    plain = build(name)(swirl, x, generator=seeded())
    dense = build(name)(swirl, x, times=times, generator=seeded())
    assert torch.equal(plain.state, dense.state)
    assert torch.equal(plain.nfe, dense.nfe)
    assert torch.equal(dense.states[:2], torch.stack([x, x]))
    assert torch.equal(dense.states[-2:], torch.stack([dense.state, dense.state]))
    assert torch.isfinite(dense.states).all()
    for wrong, error in ((torch.tensor([0.6, 0.5]), ConfigError), (torch.tensor([[0.5]]), ShapeError)):
        with pytest.raises(error):
            build(name)(swirl, x, times=wrong)


@every_solver
def test_gradients_against_finite_differences(name):
    """Gradients in rows and parameters; the noise is the same in every solve from the same seed."""
    x, a = rows(2, 2).requires_grad_(), (0.5 * rows(2, 2, seed=1)).requires_grad_()

    def solved(x, a):
        field = lambda t, x, c=None: torch.tanh(x @ a) + expand_time(t, x)  # noqa: E731
        times = torch.tensor([0.6], dtype=torch.float64)
        result = build(name, 4)(field, x, times=times, generator=seeded())
        return result.state, result.states

    assert torch.autograd.gradcheck(solved, (x, a))


@every_solver
def test_checkpointed_gradients_are_the_same(name):
    """A segment that is run again meets the same noise."""
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    field = lambda t, x, c=None: torch.sin(weight * x)  # noqa: E731
    x = rows(4, 2)
    plain = build(name)(field, x, generator=seeded())
    saving = Checkpointed(build(name), segments=3)(field, x, generator=seeded())
    assert torch.equal(plain.state, saving.state)
    (expected,) = torch.autograd.grad(plain.state.square().sum(), weight)
    (found,) = torch.autograd.grad(saving.state.square().sum(), weight)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["sde", "churn"])
def test_all_noise_comes_from_the_generator(name):
    """trap L2, M2: same seed, same numbers; another one, others; torch's own state stays where it is."""
    x, before = rows(4, 2), torch.get_rng_state()
    first, again, other = (build(name)(swirl, x, generator=seeded(seed)).state for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())
    # Without one, torch's own: repeatable by its seed.
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = build(name)(swirl, x).state
        torch.manual_seed(3)
        assert torch.equal(build(name)(swirl, x).state, first)
    # One generator that goes on gives fresh noise.
    going_on = seeded()
    assert not torch.equal(*(build(name)(swirl, x, generator=going_on).state for _ in range(2)))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_solvers_draw_nothing(name):
    generator = seeded()
    before = generator.get_state()
    build(name)(swirl, rows(2, 2), generator=generator)
    assert torch.equal(generator.get_state(), before)


@every_solver
def test_steps_are_pure(name):
    """trap M2: the same step twice is the same step, after others and on another solver's grid in between."""
    solver = build(name, 6)
    system = make_system(solver)
    grid, y = Grid(tuple(n / 6 for n in range(7))), rows(3, 2)
    first = solver.step(system, grid, 0, y, ())
    second = solver.step(system, grid, 1, first.y, first.carry)
    solver(swirl, y, 0.1, 0.8, generator=seeded(7))
    assert torch.equal(solver.step(system, grid, 1, first.y, first.carry).y, second.y)
    assert torch.equal(solver.step(system, grid, 0, y, ()).y, first.y)
    assert torch.equal(y, rows(3, 2))


def make_system(solver):
    from advect.solvers.along import board

    system, y = board(swirl, rows(3, 2), None, None, None, ())
    return solver.prepared(system, y, seeded())


def test_the_rows_of_the_table_solve():
    """Every row that needs a schedule, built by name; protocols hold."""
    field = GaussianField(Linear())
    for name, entry in SOLVERS.items():
        if not entry.affine:
            continue
        solver = make_solver(name, steps=30, schedule=Linear())
        assert isinstance(solver, Solver)
        result = solver(field, field.start(20), generator=seeded())
        assert result.status.tolist() == [0] * 20
        # One more at the start, one less at either end; SDEs look twice where most noise is replaced, at both ends.
        assert abs(int(result.nfe[0]) - 30 * entry.evaluations) <= 5


@pytest.mark.parametrize("solver", [Heun, Adams3], ids=lambda s: s.__name__)
def test_steps_may_crowd_where_the_path_stiffens(solver):
    """trap M11: on clusters of spread 0.05 the straight path's velocity stiffens near t = 1; a grid with its steps
    there, even in log-SNR, has less error with as many evaluations than even steps (Euler gains nothing by it)."""
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], dtype=torch.float64)
    weights, stds = torch.full((3,), 1 / 3, dtype=torch.float64), torch.full((3,), 0.05, dtype=torch.float64)
    field = MixtureField(weights, means, stds, Linear())
    start = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = Adaptive("tsit5", rtol=1e-10, atol=1e-10)(field, start).state
    crowded = (0.0, *torch.sigmoid(torch.linspace(-2, 4, 23, dtype=torch.float64)).tolist(), 1.0)
    even, warped = (
        float((solve(field, start).state - exact).abs().mean()) for solve in (solver(24), solver(grid=crowded))
    )
    assert warped < 0.6 * even
