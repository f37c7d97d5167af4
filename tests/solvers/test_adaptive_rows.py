"""Rows are independent, finished rows cost nothing, and each cause of failure has its own status."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advect.errors import SolverError
from advect.records import Status
from advect.solvers import (
    RK4,
    Adaptive,
    Chunked,
    ExactDivergence,
    HutchinsonDivergence,
    describe,
    raise_if_failed,
    status_counts,
)
from advect.solvers.status import REASONS
from advect.typing import expand_time

METHODS = ("tsit5", "dopri5", "bosh3")


def van_der_pol(t, x, condition):
    """Stiffness per row: the condition is μ."""
    mu = condition[:, 0]
    return torch.stack([x[:, 1], mu * (1 - x[:, 0] ** 2) * x[:, 1] - x[:, 0]], dim=1)


def rows(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", METHODS)
def test_easy_rows_do_not_pay_for_a_stiff_neighbour(method):
    """trap S1, S2: the same NFE, state and log-determinant as without it."""
    easy, stiff = rows(15, 2), torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    mu = torch.full((16, 1), 1.0, dtype=torch.float64)
    mu[7] = 300.0
    mixed = torch.cat([easy[:7], stiff, easy[7:]])
    keep = torch.tensor([i for i in range(16) if i != 7])
    solver, calls = Adaptive(method, 1e-6, 1e-6), []

    def counting(t, x, condition):
        calls.append(x.shape[0])
        return van_der_pol(t, x, condition)

    together = solver(counting, mixed, 0.0, 2.0, condition=mu, divergence=ExactDivergence())
    alone = solver(van_der_pol, easy, 0.0, 2.0, condition=mu[keep], divergence=ExactDivergence())
    assert torch.equal(together.nfe[keep], alone.nfe)
    assert int(together.nfe[7]) > 3 * int(alone.nfe.max())
    torch.testing.assert_close(together.state[keep], alone.state, rtol=0, atol=1e-10)
    torch.testing.assert_close(together.log_abs_det[keep], alone.log_abs_det, rtol=0, atol=1e-10)
    # Once the easy rows have arrived the stiff one is evaluated alone.
    assert sum(calls) == int(together.nfe.sum())
    assert calls[-1] == 1


@settings(max_examples=10)
@given(order=st.permutations(list(range(6))), size=st.integers(1, 6))
def test_a_row_alone_equals_a_row_in_any_batch(order, size):
    """trap S1: permuted, subsetted batches give each row the same end, cost and probes-free log-determinant."""
    x, mu = rows(6, 2), torch.tensor([[0.1], [1.0], [3.0], [10.0], [20.0], [30.0]], dtype=torch.float64)
    solver, times = Adaptive("tsit5", 1e-5, 1e-5), torch.tensor([0.2, 0.9], dtype=torch.float64)
    whole = solver(van_der_pol, x, times=times, condition=mu, divergence=ExactDivergence())
    pick = torch.tensor(order[:size])
    part = solver(van_der_pol, x[pick], times=times, condition=mu[pick], divergence=ExactDivergence())
    assert torch.equal(part.nfe, whole.nfe[pick])
    torch.testing.assert_close(part.state, whole.state[pick], rtol=0, atol=1e-10)
    torch.testing.assert_close(part.states, whole.states[:, pick], rtol=0, atol=1e-10)
    torch.testing.assert_close(part.log_abs_det, whole.log_abs_det[pick], rtol=0, atol=1e-10)


def test_float32_rows_agree_to_ten_tolerances():
    x, mu = rows(6, 2, dtype=torch.float32), torch.tensor([[0.1], [1.0], [3.0], [10.0], [20.0], [30.0]])
    solver = Adaptive("tsit5", 1e-5, 1e-5)
    whole = solver(van_der_pol, x, condition=mu)
    for i in range(6):
        alone = solver(van_der_pol, x[i : i + 1], condition=mu[i : i + 1])
        torch.testing.assert_close(alone.state[0], whole.state[i], rtol=1e-4, atol=1e-4)


def test_probes_follow_their_rows():
    """The stochastic trace of a row is that of its own probe, whoever has left the batch before."""
    rate = torch.tensor([[1.0], [-50.0], [2.0], [0.0]], dtype=torch.float64)
    matrix = rows(3, 3, seed=2)
    field = lambda t, x, c: c * (x @ matrix.T) / 5  # noqa: E731
    divergence = HutchinsonDivergence(2)
    result = Adaptive(rtol=1e-9, atol=1e-9)(
        field, rows(4, 3), condition=rate, divergence=divergence, generator=torch.Generator().manual_seed(3)
    )
    probes = divergence.probes(rows(4, 3), torch.Generator().manual_seed(3))
    traces = torch.einsum("bpi,ij,bpj->bp", probes, matrix, probes) * rate / 5
    torch.testing.assert_close(result.log_abs_det, traces.mean(1), rtol=0, atol=1e-10)
    torch.testing.assert_close(result.log_abs_det_error, traces.std(1) / 2**0.5, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("t0", "t1"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.1), (0.3, 0.30000001)])
def test_the_last_step_lands_on_the_end(method, t0, t1):
    """The end time is met exactly, with no hair's breadth of a step left over."""
    seen = []

    def field(t, x, condition=None):
        seen.append(t.clone())
        return torch.cos(10 * x + expand_time(t, x))

    result = Adaptive(method)(field, rows(5, 1), t0, t1)
    assert result.status.eq(0).all()
    assert float(seen[-1][0]) == t1
    assert torch.cat(seen).clamp(min(t0, t1), max(t0, t1)).equal(torch.cat(seen))


def undefined(t, x, c=None):
    return 1 + 0 * torch.sqrt(0.7 - x)


def explosive(t, x, c=None):
    return x * x


def stiff(t, x, c=None):
    return -1e15 * (x - torch.cos(expand_time(t, x)))


def mildly_stiff(t, x, c=None):
    return -1e5 * (x - torch.cos(expand_time(t, x)))


def oscillating(t, x, c=None):
    return 1e4 * torch.cos(1e4 * expand_time(t, x)) + 0 * x


CAUSES = [
    (undefined, 0.0, 1.0, 0.7, Status.NAN_FIELD),
    (undefined, 0.9, 1.0, 0.0, Status.NAN_FIELD),
    (explosive, 2.0, 1.0, 0.5, Status.BLOW_UP),
    (lambda t, x, c=None: x**11, 1.2, 1.0, 1 / (10 * 1.2**10), Status.BLOW_UP),
    (lambda t, x, c=None: 1 / (0.5 - expand_time(t, x)) + 0 * x, 0.0, 1.0, 0.5, Status.BLOW_UP),
    (lambda t, x, c=None: 50 * x, 1e150, 1.0, None, Status.BLOW_UP),
    (stiff, 5.0, 1.0, 0.0, Status.STIFF),
    (mildly_stiff, 5.0, 1.0, None, Status.STIFF),
    (oscillating, 0.0, 1.0, None, Status.STEP_LIMIT),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("field", "start", "end", "when", "status"), CAUSES)
def test_each_cause_has_its_status(method, field, start, end, when, status):
    """trap S3, S4: NaN field, blow-up, stiffness and the step limit are four statuses, each with its time."""
    x = torch.tensor([[start], [start]], dtype=torch.float64)
    result = Adaptive(method, max_steps=1000)(field, x, 0.0, end)
    assert result.status.tolist() == [int(status)] * 2
    assert torch.isnan(result.state).all()
    if when is not None:
        assert float(result.failed_at[0]) == pytest.approx(when, abs=1e-4)
    else:
        assert 0.0 <= float(result.failed_at[0]) <= 1.0
    (first, second) = describe(result)
    assert first.startswith(f"row 0 stopped at t = {float(result.failed_at[0]):.4g}: ")
    assert all(part in first for part in REASONS[status])
    assert second.startswith("row 1 ")


@pytest.mark.parametrize("method", METHODS)
def test_causes_side_by_side(method):
    """Rows that fail in different ways in one batch, among rows that do not; the evaluations are still counted."""
    kind = torch.tensor([0, 1, 2, 3, 0, 4], dtype=torch.float64)
    x = torch.tensor([0.1, 0.0, 2.0, 0.5, -0.4, 0.0], dtype=torch.float64)
    calls = []

    def field(t, x, kind):
        calls.append(len(x))
        choices = [torch.sin(x), undefined(t, x), explosive(t, x), mildly_stiff(t, x), oscillating(t, x)]
        return torch.stack(choices).gather(0, kind.long().unsqueeze(0)).squeeze(0)

    times = torch.tensor([0.1, 0.25, 0.9], dtype=torch.float64)
    result = Adaptive(method, max_steps=1000)(field, x, condition=kind, times=times)
    expected = [Status.OK, Status.NAN_FIELD, Status.BLOW_UP, Status.STIFF, Status.OK, Status.STEP_LIMIT]
    assert result.status.tolist() == [int(s) for s in expected]
    assert int(result.nfe.sum()) == sum(calls)
    alone = Adaptive(method, max_steps=1000)(lambda t, x, c=None: torch.sin(x), x[[0, 4]])
    torch.testing.assert_close(result.state[[0, 4]], alone.state, rtol=0, atol=1e-12)
    # What was reached before the failure is kept at the requested times: y' = y² from 2 is 2/(1 - 2t).
    assert float(result.states[1, 2]) == pytest.approx(4.0, rel=1e-3)
    assert torch.isnan(result.states[2, 2])
    counts = status_counts(result)
    assert counts[Status.OK] == 2
    assert sum(counts.values()) == 6


def test_smallest_step_and_step_limit_are_options():
    """trap S4: a larger smallest step fails earlier, a larger limit gets further."""
    x = torch.zeros(1, 1, dtype=torch.float64)
    fine = Adaptive(max_steps=100_000)(oscillating, x, 0.0, 0.01)
    assert fine.status.tolist() == [0]
    coarse = Adaptive(min_step=0.1)(stiff, x + 5.0)
    assert coarse.status.tolist() == [int(Status.STIFF)]
    short, long = (Adaptive(max_steps=n)(oscillating, x).failed_at for n in (50, 500))
    assert float(long) > 5 * float(short)


def test_first_step_is_an_option_and_saves_the_estimate():
    x = rows(3, 2)
    field = lambda t, x, c=None: torch.zeros_like(x)  # noqa: E731
    assert Adaptive(first_step=1.0)(field, x).nfe.tolist() == [7, 7, 7]  # one step: first slope and six more


def test_sentences():
    """S4: four different sentences; the counts of what is not spelled out; raising on request."""
    assert len({REASONS[status] for status in (Status.NAN_FIELD, Status.BLOW_UP, Status.STIFF, Status.STEP_LIMIT)}) == 4
    assert set(REASONS) == set(Status) - {Status.OK}
    x = torch.tensor([0.1, 3.0, 3.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    result = Adaptive()(explosive, x)
    sentences = describe(result, limit=2)
    assert len(sentences) == 3
    assert sentences[0].startswith("row 1 stopped at t = 0.3333: the state or its velocity grows")
    assert sentences[2] == "and 3 more rows of 6 (3 × BLOW_UP)"
    with pytest.raises(SolverError, match="5 of 6 rows failed: row 1 stopped"):
        raise_if_failed(result)
    good = Adaptive()(explosive, x[:1])
    assert describe(good) == []
    raise_if_failed(good)
    assert status_counts(good) == {Status.OK: 1}


def test_chunks_of_failing_rows():
    x = torch.tensor([0.1, 3.0, 0.2, 4.0, 0.3], dtype=torch.float64)
    times = torch.tensor([0.1, 1.0], dtype=torch.float64)
    whole = Adaptive()(explosive, x, times=times)
    parts = Chunked(Adaptive(), rows=2)(explosive, x, times=times)
    torch.testing.assert_close(whole.state, parts.state, equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(whole.states, parts.states, equal_nan=True, rtol=0, atol=0)
    assert torch.equal(whole.status, parts.status)
    torch.testing.assert_close(whole.failed_at, parts.failed_at, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("solver", [Adaptive(), RK4(40)])
def test_shared_parameters_keep_their_gradient_when_a_row_fails_on_the_way(solver):
    """A row that dies in mid-flight leaves no NaN in the gradient of the weights it shared (trap S5)."""
    weight = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    field = lambda t, x, c=None: weight + 0 * torch.sqrt(0.7 - x)  # noqa: E731
    x = torch.tensor([[-3.0], [0.0], [-2.0]], dtype=torch.float64)
    result = solver(field, x)
    assert result.status.tolist() == [0, int(Status.NAN_FIELD), 0]
    (gradient,) = torch.autograd.grad(result.state[[0, 2]].sum(), weight)
    assert float(gradient) == pytest.approx(2.0, abs=1e-12)


def test_a_field_may_jump():
    """A step function in time: the error control shrinks to it, steps over and goes on."""
    field = lambda t, x, c=None: torch.where(expand_time(t, x) < 0.37, 1.0, -2.0) + 0 * x  # noqa: E731
    result = Adaptive(rtol=1e-8, atol=1e-8)(field, rows(2, 1))
    assert result.status.tolist() == [0, 0]
    # A jump J just after the first stage has an estimated error of |e_1| h J and a true one of up to c_2 h J, a
    # hundred times more; further steps of that kind add up.
    torch.testing.assert_close(result.state, rows(2, 1) + 0.37 - 2 * 0.63, rtol=0, atol=1e-5)
