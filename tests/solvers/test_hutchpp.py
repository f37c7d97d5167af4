"""Hutch++ against the exact trace, against its own formula written out, and against Hutchinson's spread."""

import pytest
import torch

from advect.errors import ConfigError, UnknownNameError
from advect.solvers import RK4, Adaptive, Chunked, ExactDivergence, HutchinsonDivergence, JacobianNorm
from advect.solvers.divergence import TraceEstimator
from advect.solvers.hutchpp import HutchPlusPlusDivergence, orthonormal

EVENTS = [(), (3,), (2, 3)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def network(event):
    size = torch.Size(event).numel()
    first, second = rows(7, size, seed=1) / 2, rows(size, 7, seed=2) / 2

    def field(t, x, condition=None):
        return (torch.tanh(x.reshape(len(x), size) @ first.T + torch.as_tensor(t).reshape(-1, 1)) @ second.T).reshape(
            x.shape
        )

    return field


def jacobian_of(field, t, row):
    size = row.numel()
    return torch.autograd.functional.jacobian(lambda x: field(t, x.unsqueeze(0)), row).reshape(size, size)


def linear(matrix):
    return lambda t, x, condition=None: (x.flatten(1) @ matrix.T).reshape(x.shape)


def estimates(field, x, divergence, seed=0):
    """Traces ``(rows, probes)`` and squared norms."""
    with torch.no_grad():
        return divergence.with_jacobian_norm(field, 0.3, x, None, divergence.probes(x, seeded(seed)))[1:]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("probes", [1, 2, 5])
def test_it_is_the_papers_formula(event, probes):
    """tr QᵀJᵀQ + gᵀPJᵀPg with Q from the QR of JᵀS, in dense matrices, for each g; likewise the norm."""
    field, x, divergence = network(event), rows(4, *event), HutchPlusPlusDivergence(probes)
    drawn = divergence.probes(x, seeded())
    assert drawn.shape == (4, probes, 2, *event)
    with torch.no_grad():
        velocity, traces, squared = divergence.with_jacobian_norm(field, 0.3, x, None, drawn)
    assert torch.equal(velocity, field(0.3, x))
    for row in range(4):
        j = jacobian_of(field, 0.3, x[row])
        sketch, rest = drawn[row].reshape(probes, 2, -1).unbind(1)
        q = torch.linalg.qr(j.T @ sketch.T).Q
        p = torch.eye(len(j), dtype=torch.float64) - q @ q.T
        expected = torch.stack([(q.T @ j.T @ q).trace() + g @ p @ j.T @ p @ g for g in rest])
        torch.testing.assert_close(traces[row], expected, rtol=0, atol=1e-11)
        norm = (j.T @ q).square().sum() + torch.stack([(j.T @ p @ g).square().sum() for g in rest]).mean()
        torch.testing.assert_close(squared[row], norm, rtol=0, atol=1e-11)


@pytest.mark.parametrize("event", EVENTS)
def test_exact_with_as_many_probes_as_dimensions(event):
    """Also the norm, each single column, and for one probe more than there are dimensions."""
    field, x = network(event), rows(4, *event)
    size = torch.Size(event).numel()
    _, exact, norm = ExactDivergence().with_jacobian_norm(field, 0.3, x)
    for probes in (size, size + 1):
        traces, squared = estimates(field, x, HutchPlusPlusDivergence(probes))
        torch.testing.assert_close(traces, exact.expand(-1, probes), rtol=0, atol=1e-12)
        torch.testing.assert_close(squared, norm, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_exact_from_the_rank_on(rank):
    """A Jacobian of low rank in many dimensions: exact with that many probes, and with more, which have no direction
    of their own (rank 0: the zero field of an untrained network)."""
    matrix = rows(20, rank, seed=1) @ rows(rank, 20, seed=2)
    x = rows(5, 20)
    for probes in (max(rank, 1), rank + 2):
        traces, _ = estimates(linear(matrix), x, HutchPlusPlusDivergence(probes))
        torch.testing.assert_close(traces, matrix.trace().expand(5, probes), rtol=0, atol=1e-11)
    if rank > 1:
        short, _ = estimates(linear(matrix), x, HutchPlusPlusDivergence(rank - 1))
        assert (short - matrix.trace()).abs().max() > 1e-3


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_unbiased_with_an_honest_standard_error(distribution):
    """Trap L3, two-sided: 4000 rows with probes of their own average to the trace; the spread over the probes of a row
    is, on average, the variance of its estimate."""
    matrix, k, n = rows(12, 12, seed=1), 3, 4000
    traces, squared = estimates(linear(matrix), rows(n, 12), HutchPlusPlusDivergence(k, distribution))
    estimate = traces.mean(1)
    assert abs(estimate.mean() - matrix.trace()) < 4 * estimate.std() / n**0.5
    assert estimate.std() > 1  # so the line above says something
    # Given Q the columns are independent with mean tr J: E[var/k] is the variance. Both are means over 4000 rows with a
    # relative error near √(2/4000) = 2.2 % each (heavier tails double it): a tenth is three errors.
    assert (traces.var(1) / k).mean() == pytest.approx(float(estimate.var()), rel=0.1)
    assert abs(squared.mean() - matrix.square().sum()) < 4 * squared.std() / n**0.5


def test_less_spread_than_hutchinson_at_equal_cost():
    """A positive matrix with a decaying spectrum: the same backward passes, a fraction of the error (theorem 1)."""
    basis = torch.linalg.qr(rows(30, 30, seed=3)).Q
    matrix = (basis * torch.arange(1, 31, dtype=torch.float64) ** -2.0) @ basis.T
    x = rows(400, 30)
    ours = estimates(linear(matrix), x, HutchPlusPlusDivergence(4))[0].mean(1) - matrix.trace()
    theirs = estimates(linear(matrix), x, HutchinsonDivergence(12, "gaussian"))[0].mean(1) - matrix.trace()
    assert ours.square().mean().sqrt() < theirs.square().mean().sqrt() / 5


def test_the_gradient_is_unbiased_and_exact_with_full_probes():
    """Q is held: the mean over rows with probes of their own is the gradient of the trace, in weights and in x."""
    n, d = 4000, 5
    weight, x = (rows(d, d, seed=1) / 2).requires_grad_(), rows(1, d)
    field = lambda t, x, c=None: torch.tanh(x @ weight) * x.sum(1, keepdim=True)  # noqa: E731
    point = x.clone().requires_grad_()
    exact = torch.autograd.grad(ExactDivergence()(field, 0.0, point)[1].sum(), (point, weight))

    many = x.expand(n, d).clone().requires_grad_()
    divergence = HutchPlusPlusDivergence(2)
    _, traces = divergence(field, 0.0, many, None, divergence.probes(many, seeded()))
    per_row = torch.autograd.grad(traces.mean(1).sum(), many, retain_graph=True)[0]
    assert ((per_row.mean(0) - exact[0][0]).abs() < 4 * per_row.std(0) / n**0.5).all()
    groups = [torch.autograd.grad(part.mean(1).mean(), weight, retain_graph=True)[0] for part in traces.chunk(20)]
    groups = torch.stack(groups)  # the spread of the means of 200 rows gives the error of their mean
    assert ((groups.mean(0) - exact[1]).abs() < 5 * groups.std(0) / 20**0.5).all()

    full = HutchPlusPlusDivergence(d)
    _, traces = full(field, 0.0, point, None, full.probes(point, seeded()))
    found = torch.autograd.grad(traces.mean(1).sum(), (point, weight))
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_a_low_rank_gives_finite_gradients():
    """Where the sketch has dependent columns the orthogonalisation has no derivative; it is not asked for one."""
    weight = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)  # the Jacobian of an untrained network
    divergence, x = HutchPlusPlusDivergence(3), rows(5, 4)
    _, traces = divergence(lambda t, x, c=None: x @ weight, 0.0, x, None, divergence.probes(x, seeded()))
    (gradient,) = torch.autograd.grad(traces.mean(1).sum(), weight)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("solver", [RK4(8), Adaptive(rtol=1e-8, atol=1e-8)])
def test_log_determinant_of_a_solve(solver):
    """Rotation and stretch in closed form, t tr A; the standard error covers a miss, and vanishes with full probes."""
    matrix = rows(6, 6, seed=1) / 3
    x = rows(40, 6)
    truth = float(matrix.trace())
    few = solver(linear(matrix), x, 0.0, 1.0, divergence=HutchPlusPlusDivergence(3), generator=seeded())
    scores = (few.log_abs_det - truth) / few.log_abs_det_error
    # Student's t with 2 degrees of freedom: 40 draws stay within 40 errors but for one case in fifty; the median of its
    # size is 0.82.
    assert scores.abs().median() < 2
    assert few.log_abs_det_error.median() > 1e-3
    full = solver(linear(matrix), x, 0.0, 1.0, divergence=HutchPlusPlusDivergence(6), generator=seeded())
    torch.testing.assert_close(full.log_abs_det, torch.full((40,), truth, dtype=torch.float64), rtol=0, atol=1e-7)
    assert full.log_abs_det_error.max() < 1e-7
    one = solver(linear(matrix), x, 0.0, 1.0, divergence=HutchPlusPlusDivergence(1), generator=seeded())
    assert one.log_abs_det_error.isnan().all()  # one probe has no spread


def test_the_integrand_is_smooth():
    """Trap L1: probes fixed per solve, so step control needs no more evaluations than an exact trace, near enough."""
    field = network((6,))
    counted = lambda divergence: Adaptive(rtol=1e-6, atol=1e-6)(  # noqa: E731
        field, rows(20, 6), 0.0, 1.0, divergence=divergence, generator=seeded()
    ).nfe.double()
    assert (counted(HutchPlusPlusDivergence(2)) <= 3 * counted(ExactDivergence())).all()


def test_chunks_and_passengers():
    """Probes drawn once for all chunks; the norm of the Jacobian rides along."""
    field, x = network((4,)), rows(7, 4)
    whole, parts = (
        solver(field, x, divergence=HutchPlusPlusDivergence(2), generator=seeded(), along=(JacobianNorm(),))
        for solver in (RK4(4), Chunked(RK4(4), 3))
    )
    torch.testing.assert_close(whole.log_abs_det, parts.log_abs_det, rtol=0, atol=1e-13)
    torch.testing.assert_close(whole.along, parts.along, rtol=0, atol=1e-13)
    exact = RK4(4)(field, x, divergence=ExactDivergence(), along=(JacobianNorm(),))
    full = RK4(4)(field, x, divergence=HutchPlusPlusDivergence(4), generator=seeded(), along=(JacobianNorm(),))
    torch.testing.assert_close(full.along, exact.along, rtol=0, atol=1e-11)


def test_no_graph_without_gradients():
    weight = (rows(3, 3) / 2).requires_grad_()
    divergence, x = HutchPlusPlusDivergence(2), rows(5, 3)
    with torch.no_grad():
        velocity, traces = divergence(
            lambda t, x, c=None: torch.tanh(x @ weight), 0.0, x, None, divergence.probes(x, seeded())
        )
    assert velocity.grad_fn is None
    assert traces.grad_fn is None


def test_the_basis_is_orthonormal_whatever_the_columns():
    columns = rows(6, 5, 3)
    columns[1, :, 2] = columns[1, :, 0]
    columns[2] = 0
    basis = orthonormal(columns)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(3, dtype=torch.float64).expand(6, 3, 3), rtol=0, atol=1e-14)
    torch.testing.assert_close(basis @ basis.mT @ columns, columns, rtol=0, atol=1e-13)
    assert orthonormal(columns[:, :2]).shape == (6, 2, 2)
    assert orthonormal(columns.bfloat16()).dtype == torch.bfloat16


def test_settings_are_checked():
    assert isinstance(HutchPlusPlusDivergence(), TraceEstimator)
    for probes in (0, -1, True):
        with pytest.raises(ConfigError, match="probes"):
            HutchPlusPlusDivergence(probes)
    with pytest.raises(UnknownNameError, match="rademacher"):
        HutchPlusPlusDivergence(1, "rademachr")
    with pytest.raises(ConfigError, match="generator"):
        HutchPlusPlusDivergence().probes(rows(2, 2))
    with pytest.raises(ConfigError, match="probes"):
        HutchPlusPlusDivergence()(network((2,)), 0.0, rows(2, 2), None, None)
    x = rows(1000, 3).float()
    drawn = HutchPlusPlusDivergence(2).probes(x, seeded())
    assert drawn.dtype == torch.float32
    assert set(drawn[:, :, 1].unique().tolist()) == {-1.0, 1.0}
    assert drawn[:, :, 0].unique().numel() > 5000
