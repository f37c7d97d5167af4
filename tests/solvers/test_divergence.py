"""The trace against brute force; any event rank; no graph that outlives the call."""

import gc

import pytest
import torch

from advect.errors import ConfigError, ShapeError, UnknownNameError
from advect.solvers import (
    RK4,
    Chunked,
    ExactDivergence,
    HutchinsonDivergence,
    JacobianNorm,
    KineticEnergy,
    Motion,
)
from advect.solvers.along import needs_jacobian

EVENTS = [(), (3,), (2, 3), (3, 4, 4)]


def rows(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(event):
    size = torch.Size(event).numel()
    first, second = rows(7, size, seed=1) / 2, rows(size, 7, seed=2) / 2

    def field(t, x, condition=None):
        return (torch.tanh(x.reshape(len(x), size) @ first.T + t) @ second.T).reshape(x.shape)

    return field


def brute(field, t, x):
    """Trace and squared norm of the Jacobian, row by row, through `torch.autograd.functional`."""
    size = x[0].numel()
    jacobians = [
        torch.autograd.functional.jacobian(lambda row: field(t, row.unsqueeze(0)), row).reshape(size, size) for row in x
    ]
    return torch.stack([j.trace() for j in jacobians]), torch.stack([j.square().sum() for j in jacobians])


@pytest.mark.parametrize("event", EVENTS)
def test_exact_trace(event):
    """trap L4: any event rank, images among them."""
    field, x = network(event), rows(4, *event)
    trace, squared = brute(field, 0.3, x)
    with torch.no_grad():
        velocity, found = ExactDivergence()(field, 0.3, x)
        _, again, norm = ExactDivergence().with_jacobian_norm(field, 0.3, x)
    torch.testing.assert_close(velocity, field(0.3, x), rtol=0, atol=0)
    torch.testing.assert_close(found, trace.unsqueeze(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(again, found, rtol=0, atol=0)
    torch.testing.assert_close(norm, squared, rtol=0, atol=1e-12)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_stochastic_trace_is_its_quadratic_form(event, distribution):
    """Each column is εᵀJε of its own probe, and many of them average to the trace (trap L3, two-sided)."""
    field, x = network(event), rows(1, *event)
    divergence = HutchinsonDivergence(4000, distribution)
    probes = divergence.probes(x, torch.Generator().manual_seed(1))
    assert probes.shape == (1, 4000, *event)
    size = x[0].numel()
    jacobian = torch.autograd.functional.jacobian(lambda row: field(0.3, row.unsqueeze(0)), x[0]).reshape(size, size)
    flat = probes.reshape(4000, size)
    with torch.no_grad():
        _, traces, squared = divergence.with_jacobian_norm(field, 0.3, x, None, probes)
    torch.testing.assert_close(traces[0], ((flat @ jacobian) * flat).sum(1), rtol=0, atol=1e-11)
    # Variance of one probe: 2‖s‖² for Gaussian probes, without the diagonal for signs (s symmetric part).
    symmetric = (jacobian + jacobian.T) / 2
    off = symmetric - torch.diag(symmetric.diagonal())
    variance = 2 * (off if distribution == "rademacher" else symmetric).square().sum()
    error = float((variance / 4000).sqrt())
    assert abs(float(traces.mean() - jacobian.trace())) < 4 * error + 1e-12
    assert float(squared) == pytest.approx(float(jacobian.square().sum()), rel=0.2)


def test_probes():
    x = rows(1000, 3).float()
    signs = HutchinsonDivergence(2).probes(x, torch.Generator().manual_seed(0))
    assert signs.dtype == torch.float32
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    normal = HutchinsonDivergence(2, "gaussian").probes(x, torch.Generator().manual_seed(0))
    # 6000 numbers: mean to 0.013, variance to 0.018; four standard errors.
    assert abs(float(normal.mean())) < 0.052
    assert abs(float(normal.var()) - 1) < 0.073
    assert ExactDivergence().probes(x) is None


def test_settings_are_checked():
    for probes in (0, -1, True):
        with pytest.raises(ConfigError, match="probes"):
            HutchinsonDivergence(probes)
    with pytest.raises(UnknownNameError, match="rademacher"):
        HutchinsonDivergence(1, "rademachr")
    with pytest.raises(ConfigError, match="generator"):
        HutchinsonDivergence().probes(rows(2, 2))
    with pytest.raises(ConfigError, match="probes"):
        HutchinsonDivergence()(network((2,)), 0.0, rows(2, 2), None, None)
    with pytest.raises(ShapeError, match="velocity"):
        ExactDivergence()(lambda t, x, c=None: x.sum(1, keepdim=True), 0.0, rows(2, 2))


@pytest.mark.parametrize("divergence", [ExactDivergence(), HutchinsonDivergence(2)])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_field_that_ignores_x_has_no_divergence(divergence, gradients):
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
    fields = [
        lambda t, x, c=None: torch.ones_like(x),
        lambda t, x, c=None: weight.expand_as(x) * 1.0,
        lambda t, x, c=None: torch.stack([x[:, 1], torch.ones_like(x[:, 1])], dim=1),
    ]
    x = rows(3, 2)
    probes = divergence.probes(x, torch.Generator().manual_seed(0))
    with torch.set_grad_enabled(gradients):
        for field in fields[:2]:
            _, traces = divergence(field, 0.0, x, None, probes)
            assert torch.equal(traces, torch.zeros_like(traces))
        if isinstance(divergence, ExactDivergence):
            assert torch.equal(divergence(fields[2], 0.0, x)[1], torch.zeros(3, 1, dtype=torch.float64))


def test_the_fields_own_divergence_is_used_and_equals_autograd():
    """The contract of `Field.divergence`: (batch,), equal to the trace of autograd."""

    class Radial:
        asked = 0

        def __call__(self, t, x, condition=None):
            return condition * x * x.square().sum(1, keepdim=True)

        def divergence(self, t, x, condition=None):
            self.asked += 1
            return condition[:, 0] * (x.shape[1] + 2) * x.square().sum(1)

    field, x, condition = Radial(), rows(4, 3), rows(4, 1, seed=5)
    _, offered = ExactDivergence()(field, 0.0, x, condition)
    assert field.asked == 1
    _, found, _ = ExactDivergence().with_jacobian_norm(field, 0.0, x, condition)
    torch.testing.assert_close(offered, found, rtol=0, atol=1e-12)


@pytest.mark.parametrize("divergence", [ExactDivergence(), HutchinsonDivergence(2)])
def test_the_trace_is_differentiable(divergence):
    """trap L7: in x and in parameters, second derivatives of the field included; against finite differences."""
    x, weight = rows(2, 2).requires_grad_(), (rows(2, 2, seed=1) / 2).requires_grad_()
    probes = divergence.probes(x, torch.Generator().manual_seed(0))

    def traces(x, weight):
        field = lambda t, x, c=None: torch.tanh(x @ weight)  # noqa: E731
        return divergence(field, 0.0, x, None, probes)[1]

    assert torch.autograd.gradcheck(traces, (x, weight))
    assert torch.autograd.gradcheck(lambda weight: traces(x.detach(), weight), (weight,))


@pytest.mark.parametrize("divergence", [ExactDivergence(), HutchinsonDivergence(2)])
def test_no_graph_is_left(divergence):
    """trap L4: after a solve under no_grad, or with nothing to differentiate, no tensor with a graph is alive."""
    weight = (rows(3, 3) / 2).requires_grad_()
    frozen = weight.detach()
    for parameter, context in ((weight, torch.no_grad()), (frozen, torch.enable_grad())):
        with context:
            solution = RK4(4)(
                lambda t, x, c=None, parameter=parameter: torch.tanh(x @ parameter),
                rows(5, 3),
                divergence=divergence,
                generator=torch.Generator().manual_seed(0),
            )
        gc.collect()
        assert solution.state.grad_fn is None
        assert solution.log_abs_det.grad_fn is None
        assert not any(type(o) is torch.Tensor and o.grad_fn is not None for o in gc.get_objects())


@pytest.mark.parametrize("divergence", [ExactDivergence(), HutchinsonDivergence(2)])
def test_no_graph_is_made_without_need(divergence):
    """trap L4: one evaluation under no_grad, or with nothing to differentiate, returns numbers without a graph, though
    the trace itself is taken by one; where weights are learned there is one.
    """
    weight, x = (rows(3, 3) / 2).requires_grad_(), rows(5, 3)
    probes = divergence.probes(x, torch.Generator().manual_seed(0))
    for parameter, gradients, wanted in ((weight, False, False), (weight.detach(), True, False), (weight, True, True)):
        field = lambda t, x, c=None, parameter=parameter: torch.tanh(x @ parameter)  # noqa: E731
        with torch.set_grad_enabled(gradients):
            plain = divergence(field, 0.3, x, None, probes)
            normed = divergence.with_jacobian_norm(field, 0.3, x, None, probes)
        assert [part.grad_fn is not None for part in (*plain, *normed)] == [wanted] * 5


def test_linear_images():
    """trap L4: (B, 3, 8, 8) under x' = a x: log|det| = 192 a."""
    result = RK4(4)(lambda t, x, c=None: 0.1 * x, rows(2, 3, 8, 8), divergence=ExactDivergence())
    expected = torch.full((2,), 19.2, dtype=torch.float64)
    torch.testing.assert_close(result.log_abs_det, expected, rtol=0, atol=1e-11)


def test_passengers_need_what_they_need():
    assert needs_jacobian(JacobianNorm())
    assert not needs_jacobian(KineticEnergy())
    with pytest.raises(ConfigError, match="Jacobian"):
        RK4(2)(network((2,)), rows(2, 2), along=(JacobianNorm(),))


def test_a_passenger_of_ones_own():
    """Any callable of the motion rides along: here the length of the path, and chunks carry it too."""

    class Length:
        def __call__(self, motion: Motion):
            return motion.velocity.flatten(1).norm(dim=1)

    x = rows(5, 2)
    field = lambda t, x, c=None: torch.full_like(x, 2.0)  # noqa: E731
    result = Chunked(RK4(4), 2)(field, x, 0.0, 0.5, along=(Length(), KineticEnergy()))
    torch.testing.assert_close(result.along[:, 0], torch.full((5,), 2**0.5, dtype=torch.float64))
    torch.testing.assert_close(result.along[:, 1], torch.full((5,), 4.0, dtype=torch.float64))


@pytest.mark.parametrize("divergence", [ExactDivergence(), HutchinsonDivergence(2)])
def test_regularised_loss_has_gradients(divergence):
    """A loss of log-determinant, kinetic energy and Jacobian norm, against finite differences in the weights."""
    weight = (rows(2, 2, seed=1) / 2).requires_grad_()

    def loss(weight):
        result = RK4(3)(
            lambda t, x, c=None: torch.tanh(x @ weight),
            rows(2, 2),
            divergence=divergence,
            along=(KineticEnergy(), JacobianNorm()),
            generator=torch.Generator().manual_seed(0),
        )
        return result.log_abs_det, result.along

    assert torch.autograd.gradcheck(loss, (weight,))
