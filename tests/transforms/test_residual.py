"""Residual blocks: inverses with a bound, log-determinants without bias, gradients against brute force."""

import math

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from advect.errors import ConfigError, ShapeError
from advect.flows.architectures.residual import residual
from advect.networks.lipschitz_network import LipschitzNetwork, lipschitz_convolutions, lipschitz_mlp
from advect.records import Status
from advect.transforms.inverse import Inverse
from advect.transforms.residual import Residual
from advect.transforms.residual_trace import ExactLogDet, RouletteLogDet, SeriesLogDet

FLOAT64 = torch.float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(*shape, seed=3, dtype=FLOAT64):
    return torch.randn(*shape, generator=seeded(seed), dtype=FLOAT64).to(dtype)


class Linear(nn.Module):
    """g(x) = A x, with the log-determinant known and products of many vectors at once."""

    def __init__(self, matrix):
        super().__init__()
        self.matrix = nn.Parameter(torch.as_tensor(matrix, dtype=FLOAT64))
        self.lipschitz = float(torch.linalg.matrix_norm(self.matrix.detach(), 2))

    def bind(self, condition):
        return self

    def forward(self, x):
        return x @ self.matrix.T

    def linearise(self, x):
        return self(x), lambda v: (v @ self.matrix).expand(len(x), *v.shape[1:])


def contraction(size, norm, seed=1):
    drawn = rows(size, size, seed=seed)
    return norm * drawn / torch.linalg.matrix_norm(drawn, 2)


def curved(features, lipschitz=0.97, condition_features=0, seed=1, **options):
    """A block that bends strongly and uses up its constant: W₃ = −(W₂ W₁)ᵀ, so slopes go from 0.03 to 1."""
    network = lipschitz_mlp(
        features, condition_features, width=16, lipschitz=lipschitz, zero=False, generator=seeded(seed)
    ).double()
    first, second, third = network.layers
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=seeded(seed + 1)), alpha=0.02)
        first.bias.uniform_(-1, 1, generator=seeded(seed + 2))
        for activation in network.activations:
            activation.sharpness.fill_(6.0)
        third.weight.copy_(-(second.weight @ first.weight).T)
    condition_shape = (condition_features,) if condition_features else None
    return Residual(network, (features,), condition_shape=condition_shape, **options).eval()


def jacobian(call, x):
    """∂ value/∂x of one row, by autograd, as a matrix."""
    size = x.numel()
    return torch.autograd.functional.jacobian(
        lambda flat: call(flat.reshape(1, *x.shape)).value.reshape(size), x.reshape(size)
    )


# The inverse


@pytest.mark.parametrize("features", [1, 3])
def test_both_log_dets_are_those_of_autograd_at_the_data_side(features):
    """Trap T1: solve first, then evaluate; on a strongly curved block the two sides differ by far."""
    block = curved(features)
    z = 2 * rows(6, features)
    drawn = block.decode(z)
    scored = block.encode(drawn.value)
    for row in range(len(z)):
        there, back = jacobian(block.encode, drawn.value[row].detach()), jacobian(block.decode, z[row])
        assert float(scored.log_abs_det_jacobian[row].detach()) == pytest.approx(float(there.slogdet()[1]), abs=1e-9)
        assert float(drawn.log_abs_det_jacobian[row].detach()) == pytest.approx(float(back.slogdet()[1]), abs=1e-9)
    at_the_output = -block.encode(z).log_abs_det_jacobian  # what the trap computes
    assert float((at_the_output - drawn.log_abs_det_jacobian).detach().abs().max()) > 0.05


@pytest.mark.parametrize("slope", [-0.9, -0.98, -0.99, 0.99])
@pytest.mark.parametrize("tolerance", [1e-5, 1e-10])
def test_linear_blocks_reach_the_tolerance(slope, tolerance):
    """Trap S15: the error of the inverse, not its last step, is below the tolerance."""
    block = Residual(Linear(slope * torch.eye(3, dtype=FLOAT64)), (3,), tolerance=tolerance)
    z = rows(20, 3)
    found = block.decode(z)
    exact = z / (1 + slope)
    error = (found.value - exact).norm(dim=1) / exact.norm(dim=1).clamp(min=1.0)
    assert found.status.eq(0).all()
    # Rounding of the residual, magnified by 1/(1 − L).
    assert float(error.detach().max()) <= tolerance + 100 * 2e-16
    assert int(found.nfe.max()) < 10
    torch.testing.assert_close(found.log_abs_det_jacobian, torch.full((20,), -3 * math.log1p(slope), dtype=FLOAT64))


def test_failure_is_reported_and_does_not_spread():
    """Traps S15, S5: too few iterations, and rows that are no numbers; the others are as if alone."""
    block = curved(3, max_iterations=2, tolerance=1e-10)
    z = rows(4, 3)
    hopeless = block.decode(z)
    assert hopeless.status.eq(int(Status.NOT_CONVERGED)).all()
    assert hopeless.value.isnan().all()
    assert hopeless.log_abs_det_jacobian.isnan().all()
    root = block.root(z)
    assert bool((root.residual > 0).all())
    assert root.iterations.tolist() == [2] * 4

    block.max_iterations = 500
    z[1, 0] = math.nan
    z[2, 1] = math.inf
    found = block.decode(z)
    assert found.status.tolist() == [0, 7, 7, 0]
    assert int(found.nfe.max()) < 100
    assert found.value[[1, 2]].isnan().all()
    torch.testing.assert_close(found.value[[0, 3]], block.decode(z[[0, 3]]).value, rtol=1e-9, atol=1e-9)
    gradients = torch.autograd.grad(
        found.value[[0, 3]].sum() + found.log_abs_det_jacobian[[0, 3]].sum(), list(block.parameters())
    )
    assert all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize("scale", [1.0, 8.0, 1e4])
def test_single_precision_needs_no_luck(scale):
    """Trap S15: at L = 0.97 the bound is 32 residuals, and in float32 those have rounding in them."""
    block = curved(20, lipschitz=0.97).float()
    x = scale * rows(500, 20, dtype=torch.float32)
    with torch.no_grad():
        found = block.decode(block.encode(x, log_det=False).value)
    assert found.status.eq(0).all()
    error = (found.value - x).norm(dim=1) / x.norm(dim=1).clamp(min=1.0)
    # ε^0.7, or 8 ε L/(1 − L), plus the rounding of z itself magnified by 1/(1 − L).
    assert float(error.max()) < 5e-5


def test_the_inverse_has_the_gradient_of_the_implicit_function():
    """Trap S17: value and log-determinant, in the rows, the condition and the weights, by finite differences."""
    block = curved(2, condition_features=1, tolerance=1e-14)
    z, condition = rows(3, 2).requires_grad_(), rows(3, 1, seed=5).requires_grad_()
    weight = block.network.layers[1].weight

    def call(z, condition, weight):
        block.network.layers[1].weight.data = weight.detach()
        found = block.decode(z, condition)
        return found.value, found.log_abs_det_jacobian

    # The weight is the module's own parameter, so that gradcheck can vary it in place.
    assert torch.autograd.gradcheck(
        lambda z, c: call(z, c, weight), (z, condition), eps=1e-5, atol=1e-6, nondet_tol=1e-12
    )
    mix, along = rows(3, 2, seed=6), rows(*weight.shape, seed=7)
    value, log_det = call(z, condition, weight)
    (gradient,) = torch.autograd.grad((value * mix).sum() + (log_det * mix[:, 0]).sum(), weight)
    start, results = weight.detach().clone(), []
    for step in (1e-5, -1e-5):
        value, log_det = call(z, condition, start + step * along)
        results.append(float(((value * mix).sum() + (log_det * mix[:, 0]).sum()).detach()))
    assert float((gradient * along).sum()) == pytest.approx((results[0] - results[1]) / 2e-5, rel=1e-5)


def test_trained_and_loaded_flows_stay_invertible():
    """Trap T7: large steps, the norms of the last step stale; training mode, evaluation, and a loaded copy."""
    flow = residual(2, layers=3, width=16, generator=seeded())
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.05)
    x = rows(128, 2, dtype=torch.float32).tanh()
    for _ in range(30):
        code = flow.encode(x)
        loss = (0.5 * code.value.square().sum(1) - code.log_abs_det_jacobian).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    loaded = residual(2, layers=3, width=16, generator=seeded(5))
    loaded.load_state_dict(load(save(flow.state_dict())))
    assert any((n.layers[1].weight.norm() > 3) for n in flow.modules() if isinstance(n, LipschitzNetwork))
    with torch.no_grad():
        for module in (flow, flow.eval(), loaded.eval()):
            back = module.decode(module.encode(x).value)
            assert back.status.eq(0).all()
            torch.testing.assert_close(back.value, x, rtol=1e-4, atol=1e-4)
        assert torch.equal(flow.encode(x).value, loaded.encode(x).value)


# Log-determinants


@pytest.mark.parametrize("probability", [None, 0.5])
@pytest.mark.parametrize("training", [True, False])
def test_roulette_on_a_scalar(probability, training):
    """Trap T3: g = x/2. Value log 1.5 and gradient 1/1.5, each without bias, by their own standard errors."""
    estimator = RouletteLogDet(1, probability, probes=4000)
    block = Residual(Linear([[0.5]]), (1,), log_det=estimator, evaluation_log_det=estimator).train(training)
    values, gradients, generator = [], [], seeded(1)
    for _ in range(40):
        found = block.encode(torch.ones(1, 1, dtype=FLOAT64), generator=generator)
        values.append(found)
        gradients.append(torch.autograd.grad(found.log_abs_det_jacobian.sum(), block.network.matrix)[0].squeeze())
    value = torch.stack([v.log_abs_det_jacobian.detach().squeeze() for v in values])
    gradient = torch.stack(gradients)
    for found, truth in ((value, math.log(1.5)), (gradient, 1 / 1.5)):
        error = float(found.std()) / 40**0.5
        assert 0 < error < 3e-3
        assert abs(float(found.mean()) - truth) < 4 * error
    # The error reported for one call is the spread between calls.
    reported = torch.stack([v.standard_error.squeeze() for v in values])
    assert float(reported.mean()) == pytest.approx(float(value.std()), rel=0.4)


@pytest.mark.parametrize("estimator", [RouletteLogDet(2, probes=100), SeriesLogDet(100)], ids=["roulette", "series"])
def test_estimates_on_a_matrix_are_unbiased(estimator):
    """Traps L3, T3: against slogdet and its gradient (I + A)⁻ᵀ, two-sided; A is far from symmetric."""
    linear = Linear(contraction(5, 0.9))
    truth = torch.eye(5, dtype=FLOAT64) + linear.matrix.detach()
    block = Residual(linear, (5,), log_det=estimator)
    values, errors, gradients, generator = [], [], [], seeded(2)
    for _ in range(150):
        found = block.encode(torch.zeros(1, 5, dtype=FLOAT64), generator=generator)
        values.append(found.log_abs_det_jacobian.detach())
        errors.append(found.standard_error)
        gradients.append(torch.autograd.grad(found.log_abs_det_jacobian.sum(), linear.matrix)[0])
    value = torch.cat(values)
    assert abs(float(value.mean() - truth.slogdet()[1])) < 4 * float(value.std()) / 150**0.5 + 1e-4
    assert float(torch.cat(errors).mean()) == pytest.approx(float(value.std()), rel=0.25)
    gradient = torch.stack(gradients)
    score = (gradient.mean(0) - torch.linalg.inv(truth).T) / (gradient.std(0) / 150**0.5)
    # 25 entries: the largest of as many normal scores is above 4.5 once in 6000 times.
    assert float(score.abs().max()) < 4.5
    assert float(gradient.std()) > 0


@pytest.mark.parametrize("tolerance", [1.0, 1e-2, 1e-5, 1e-9])
def test_the_rest_of_the_series_is_within_its_bound(tolerance):
    """With all unit vectors the traces are exact, so the whole error is the rest that was left out."""
    block = curved(4, evaluation_log_det=SeriesLogDet(None, tolerance))
    x = rows(50, 4)
    with torch.no_grad():
        found = block.encode(x)
        bound = block.network.bind()
        truth = ExactLogDet()(bound.linearise(x)[1], x, bound.lipschitz, None).value
        error = (found.log_abs_det_jacobian - truth).abs()
        assert bool((error <= found.standard_error + 1e-14).all())
        assert bool((found.standard_error <= tolerance).all())
        few = SeriesLogDet(None, tolerance, max_terms=2)(bound.linearise(x)[1], x, bound.lipschitz, None)
        assert few.terms <= 2
        assert bool(((few.value - truth).abs() <= few.remainder).all())
        if tolerance < 1e-2:
            assert bool((few.remainder > tolerance).any())  # said, not hidden


def test_weights_of_rows_reach_the_gradient_as_they_are():
    """Trap T6: unequal weights, the memory-saving gradient against the plain one; to rounding with exact traces."""
    x, weights = rows(4, 3), torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=FLOAT64)
    gradients = []
    for estimator in (ExactLogDet(), SeriesLogDet(None, 1e-12)):
        block = curved(3, evaluation_log_det=estimator)
        loss = (block.encode(x).log_abs_det_jacobian * weights).sum()
        parts = torch.autograd.grad(loss, [*block.parameters()], allow_unused=True)
        gradients.append(torch.cat([p.flatten() for p in parts if p is not None]))
    plain, saving = gradients
    assert float(plain.norm()) > 1
    cosine = float(plain @ saving / (plain.norm() * saving.norm()))
    assert cosine == pytest.approx(1, abs=1e-10)
    torch.testing.assert_close(saving, plain, rtol=1e-8, atol=1e-9)


def test_the_value_is_the_likelihood_whatever_serves_the_gradient():
    """Trap L9: g = x/2, the Neumann surrogate is 1/3 and the log-determinant log 1.5, with and without a graph."""
    for estimator in (SeriesLogDet(None, 1e-12), RouletteLogDet(2, probes=8)):
        block = Residual(Linear([[0.5]]), (1,), log_det=estimator)
        x = rows(3, 1)
        with_graph = block.encode(x, generator=seeded(4)).log_abs_det_jacobian
        with torch.no_grad():
            without = block.encode(x, generator=seeded(4)).log_abs_det_jacobian
        assert with_graph.requires_grad
        assert torch.equal(with_graph.detach(), without)
        assert float((without - 1 / 3).abs().min()) > 0.02
    torch.testing.assert_close(
        Residual(Linear([[0.5]]), (1,), log_det=SeriesLogDet(None, 1e-12)).encode(x).log_abs_det_jacobian.detach(),
        torch.full((3,), math.log(1.5), dtype=FLOAT64),
    )


def graph_size(tensor):
    pending, seen = [tensor.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            pending += [child for child, _ in node.next_functions]
    return len(seen)


def test_the_graph_does_not_grow_with_the_terms():
    """The point of the Neumann gradient (Chen et al. 2019, section 3.2): memory is that of one product."""
    sizes = []
    for tolerance in (1.0, 1e-12):
        block = curved(9, evaluation_log_det=SeriesLogDet(2, tolerance))
        found = block.encode(rows(3, 9), generator=seeded())
        sizes.append(graph_size(found.log_abs_det_jacobian))
    assert sizes[0] == sizes[1]


def test_defaults_by_size_and_mode():
    """Exact where small, an honest error where not; training mode and evaluation each by its rule."""
    for features, exact_training, exact_evaluation in ((8, True, True), (9, False, True), (65, False, False)):
        block = Residual(lipschitz_mlp(features, width=8, zero=False, generator=seeded()), (features,))
        x = rows(2, features, dtype=torch.float32)
        for training, exact in ((True, exact_training), (False, exact_evaluation)):
            block.train(training)
            assert (block.encode(x, generator=seeded()).standard_error is None) == exact
            if not exact:
                with pytest.raises(ConfigError, match="generator"):
                    block.encode(x)
                assert block.encode(x, log_det=False).log_abs_det_jacobian is None


def test_estimates_repeat_with_the_seed_and_spread_without():
    """Trap L2: two seeds differ, by about the error that is printed; one seed does not."""
    network = lipschitz_mlp(70, width=32, zero=False, generator=seeded()).double()
    block = Residual(network, (70,)).eval()
    x = rows(200, 70)
    with torch.no_grad():
        first, again, other = (block.encode(x, generator=seeded(s)) for s in (1, 1, 2))
        bound = network.bind()
        truth = ExactLogDet()(bound.linearise(x)[1], x, bound.lipschitz, None).value
    assert torch.equal(first.log_abs_det_jacobian, again.log_abs_det_jacobian)
    assert not torch.equal(first.log_abs_det_jacobian, other.log_abs_det_jacobian)
    score = (first.log_abs_det_jacobian - truth) / first.standard_error
    # Student's t with 7 degrees of freedom has deviation 1.18; 200 rows.
    assert 0.9 < float(score.std()) < 1.6
    assert abs(float(score.mean())) < 4 * 1.18 / 200**0.5


def test_log_dets_of_pictures():
    """Any rank: 96 numbers, the series with its error against autograd's whole Jacobian; and the way back."""
    network = lipschitz_convolutions((2, 8, 6), channels=8, zero=False, generator=seeded()).double()
    block = Residual(network, (2, 8, 6)).eval()
    x = rows(3, 2, 8, 6)
    with torch.no_grad():
        found = block.encode(x, generator=seeded(1))
        back = block.decode(found.value, generator=seeded(1))
    assert found.standard_error.shape == (3,)
    for row in range(3):
        truth = float(jacobian(lambda r: block.encode(r, log_det=False), x[row]).slogdet()[1])
        assert abs(float(found.log_abs_det_jacobian[row]) - truth) < 5 * float(found.standard_error[row])
        assert float(found.standard_error[row]) < 0.2 * abs(truth) + 1
    torch.testing.assert_close(back.value, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(back.log_abs_det_jacobian, -found.log_abs_det_jacobian, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "estimator",
    [ExactLogDet(), SeriesLogDet(2), SeriesLogDet(None), RouletteLogDet(), RouletteLogDet(probes=3)],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_every_estimator_on_any_batch(estimator, batch):
    """Trap T20: shapes; and trap T2: every parameter that the log-determinant depends on has a gradient."""
    block = curved(3, log_det=estimator, evaluation_log_det=estimator)
    for training in (True, False):
        for found in (block.train(training).encode(rows(batch, 3), generator=seeded()),):
            assert found.log_abs_det_jacobian.shape == (batch,)
            gradients = torch.autograd.grad(
                found.log_abs_det_jacobian.sum(), [layer.weight for layer in block.network.layers]
            )
            assert all(bool((g != 0).any()) == (batch > 0) for g in gradients)
        assert block.decode(rows(batch, 3), generator=seeded()).log_abs_det_jacobian.shape == (batch,)


# Networks


def test_any_module_by_autograd_agrees_with_the_closed_form():
    """The same function as a plain module: value, log-determinant and gradients, with a condition."""
    ours = curved(3, condition_features=2)

    class Plain(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.inner = network

        def forward(self, x, condition):
            return self.inner(x, condition)

    plain = Residual(Plain(ours.network), (3,), condition_shape=(2,), lipschitz=0.97).eval()
    x, condition = rows(5, 3).requires_grad_(), rows(5, 2, seed=4)
    results = []
    for block in (ours, plain):
        found = block.encode(x, condition)
        loss = found.value.square().sum() + (found.log_abs_det_jacobian * rows(5)).sum()
        back = block.decode(x, condition)
        loss = loss + back.value.sum() + back.log_abs_det_jacobian.sum()
        results.append((found.log_abs_det_jacobian, torch.autograd.grad(loss, [x, *block.parameters()])))
        with torch.inference_mode():
            bare = block.encode(x * 1.0, condition * 1.0)
        torch.testing.assert_close(bare.log_abs_det_jacobian, found.log_abs_det_jacobian.detach())
    torch.testing.assert_close(results[0], results[1], rtol=1e-8, atol=1e-8)


def test_a_module_that_ignores_rows_is_a_shift():
    class Constant(nn.Module):
        lipschitz = 0.0

        def forward(self, x):
            return torch.ones_like(x)

    found = Residual(Constant(), (2,)).encode(rows(3, 2))
    torch.testing.assert_close(found.value, rows(3, 2) + 1)
    assert torch.equal(found.log_abs_det_jacobian, torch.zeros(3, dtype=FLOAT64))


def test_the_condition_is_used():
    """Trap T19: in both directions, also for a single coordinate; and the log-determinant depends on it."""
    for features in (1, 3):
        flow = residual(features, 2, layers=2, width=8, generator=seeded())
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=seeded(2)), alpha=0.3)
        flow.eval()
        x, condition = rows(4, features, dtype=torch.float32), rows(4, 2, seed=5, dtype=torch.float32)
        for call in (flow.encode, flow.decode):
            with torch.no_grad():
                here, there = call(x, condition), call(x, condition + 1)
            assert float((here.value - there.value).abs().min()) > 1e-3
            assert float((here.log_abs_det_jacobian - there.log_abs_det_jacobian).abs().min()) > 1e-4
        with pytest.raises(ShapeError):
            flow.encode(x)
        with pytest.raises(ShapeError):
            residual(features).encode(x, condition)


def test_precision_of_rows_and_network():
    """The network runs in its own precision, rows keep theirs."""
    exact = curved(3)
    single = curved(3).float()
    x = rows(5, 3)
    found = single.encode(x)
    assert found.value.dtype == found.log_abs_det_jacobian.dtype == FLOAT64
    torch.testing.assert_close(found.value, exact.encode(x).value, rtol=1e-5, atol=1e-5)
    back = single.decode(found.value)
    assert back.status.eq(0).all()
    torch.testing.assert_close(back.value, x, rtol=1e-4, atol=1e-4)


def test_a_fresh_flow_is_the_identity_of_the_sizes_asked():
    """Traps T5, T14: zero last layers; evaluation first changes nothing."""
    flow = residual(3, layers=4, depth=1, width=8, generator=seeded()).eval()
    x = rows(5, 3, dtype=torch.float32)
    found = flow.encode(x)
    torch.testing.assert_close(found.value, x)
    torch.testing.assert_close(found.log_abs_det_jacobian, torch.zeros(5))
    networks = [m for m in flow.modules() if isinstance(m, LipschitzNetwork)]
    assert len(networks) == 4
    assert all(len(n.layers) == 2 for n in networks)
    assert torch.equal(Inverse(flow).decode(x).value, found.value)


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="Lipschitz"):
        Residual(nn.Linear(2, 2), (2,))
    with pytest.raises(ConfigError, match="Lipschitz"):
        Residual(nn.Linear(2, 2), (2,), lipschitz=1.0)
    with pytest.raises(ShapeError, match="returned"):
        Residual(nn.Linear(2, 3), (2,), lipschitz=0.5).encode(torch.zeros(4, 2))
    with pytest.raises(ConfigError):
        SeriesLogDet(0)
    with pytest.raises(ConfigError):
        RouletteLogDet(exact_terms=0)
    with pytest.raises(ConfigError):
        RouletteLogDet(continue_probability=1.0)
    with pytest.raises(ConfigError, match="layers"):
        residual(2, layers=0)
