"""Reverse KL: both gradients against the closed form of Gaussians, and what the path gradient must not touch."""

import math

import pytest
import torch
from torch import nn

from advect.errors import ConfigError, ShapeError
from advect.flows import ContinuousMap, Flow, StandardNormal
from advect.flows.bases import ConditionalNormal, DiagonalNormal
from advect.flows.mixture import GaussianMixture
from advect.objectives.reverse import ReverseKL, log_prob_along_path
from advect.records import Batch
from advect.solvers import RK4
from advect.transforms import Compose
from advect.transforms.bijection import Bijection, mapped

FLOAT64 = torch.float64
MEAN = torch.tensor([0.5, -1.0], dtype=FLOAT64)
SCALE = torch.tensor([0.7, 1.5], dtype=FLOAT64)
LOG_Z = 1.7


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def target(x: torch.Tensor) -> torch.Tensor:
    """Z N(MEAN, diag SCALE²), with log Z = 1.7."""
    normal = -0.5 * ((x - MEAN) / SCALE).square() - SCALE.log() - 0.5 * math.log(2 * math.pi)
    return normal.sum(1) + LOG_Z


class Affine(Bijection):
    """x = shift + e^s z, learnable."""

    def __init__(self, shift: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__(tuple(shift.shape))
        self.shift, self.log_scale = nn.Parameter(shift.clone()), nn.Parameter(scale.log())

    def _encode(self, x, condition, log_det, generator):
        return mapped((x - self.shift) * (-self.log_scale).exp(), -self.log_scale.sum().expand(len(x)))

    def _decode(self, z, condition, log_det, generator):
        return mapped(self.shift + z * self.log_scale.exp(), self.log_scale.sum().expand(len(z)))


def affine_flow(shift=(0.0, 0.3), scale=(1.2, 0.8)) -> Flow:
    shift, scale = (torch.as_tensor(v, dtype=FLOAT64) for v in (shift, scale))
    return Flow(StandardNormal((2,)).double(), Affine(shift, scale))


def rows(count: int, condition: torch.Tensor | None = None) -> Batch:
    return Batch(torch.full((count, 2), math.nan, dtype=FLOAT64), condition=condition)  # only the count may be used


def exact_loss(flow: Flow) -> torch.Tensor:
    """KL(q ‖ p) − log Z of two diagonal Gaussians."""
    ratio = (flow.map.log_scale.exp() / SCALE).square()
    far = ((flow.map.shift - MEAN) / SCALE).square()
    return 0.5 * (ratio + far - 1 - ratio.log()).sum() - LOG_Z


@pytest.mark.parametrize("path_gradient", [True, False])
def test_loss_and_gradient_have_the_exact_mean(path_gradient):
    """Within five standard errors of the closed form, from twenty blocks of draws."""
    flow, objective = affine_flow(), ReverseKL(target, path_gradient)
    parameters = list(flow.parameters())
    truth = torch.autograd.grad(exact_loss(flow), parameters)
    losses, gradients = [], []
    for block in range(20):
        loss = objective(flow, rows(500), generator=seeded(block))
        assert loss.shape == (500,)
        losses.append(loss.detach())
        gradients.append(torch.cat(torch.autograd.grad(loss.mean(), parameters)))
    losses, gradients = torch.cat(losses), torch.stack(gradients)
    assert (losses.mean() - exact_loss(flow)).abs() < 5 * losses.std() / math.sqrt(len(losses))
    error = gradients.std(0) / math.sqrt(20)
    assert ((gradients.mean(0) - torch.cat(truth)).abs() < 5 * error).all()
    assert torch.cat(truth).abs().min() > 3 * error.max(), "nothing to see"


def test_both_estimators_have_one_value():
    flow = affine_flow()
    path, total = (ReverseKL(target, p)(flow, rows(50), generator=seeded()) for p in (True, False))
    torch.testing.assert_close(path, total, rtol=1e-12, atol=1e-12)


def test_at_the_optimum_every_draw_has_gradient_zero():
    """The path gradient draw by draw, the plain one on average only; the bound is tight."""
    flow = affine_flow(MEAN, SCALE)
    parameters = list(flow.parameters())
    for path_gradient, largest in ((True, 1e-12), (False, math.inf)):
        loss = ReverseKL(target, path_gradient)(flow, rows(30), generator=seeded())
        assert (loss + LOG_Z).abs().max() < 1e-12
        each = torch.stack([torch.cat(torch.autograd.grad(v, parameters, retain_graph=True)) for v in loss])
        assert each.abs().max() < largest
        assert path_gradient or each.abs().max() > 0.1


def test_path_gradient_is_that_of_a_frozen_copy():
    """Against the definition: log q of a second flow whose parameters are constants."""
    flow, frozen = affine_flow(), affine_flow().requires_grad_(False)
    parameters = list(flow.parameters())
    found = torch.autograd.grad(ReverseKL(target)(flow, rows(20), generator=seeded()).mean(), parameters)
    x = flow.sample(20, generator=seeded())
    expected = torch.autograd.grad((frozen.log_prob(x) - target(x)).mean(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("path_gradient", [True, False])
def test_flags_and_gradients_are_left_alone(path_gradient):
    """Trap L12: frozen parameters stay frozen, also when the target or the flow fails on the way."""
    flow = affine_flow()
    flow.map.shift.requires_grad_(False)
    before = [p.requires_grad for p in flow.parameters()]
    objective = ReverseKL(target, path_gradient)
    objective(flow, rows(8), generator=seeded()).mean().backward()
    assert [p.requires_grad for p in flow.parameters()] == before == [False, True]
    assert flow.map.shift.grad is None
    assert flow.map.log_scale.grad is not None

    def fails(x):
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        ReverseKL(fails, path_gradient)(flow, rows(8), generator=seeded())
    assert [p.requires_grad for p in flow.parameters()] == before


def test_a_call_leaves_no_gradients_behind():
    """The slope in x is taken inside the call: nothing may be added to the parameters before the caller asks."""
    flow = affine_flow()
    ReverseKL(target)(flow, rows(8), generator=seeded())
    assert all(p.grad is None for p in flow.parameters())


def test_without_gradients_and_with_no_rows():
    flow = affine_flow()
    with torch.no_grad():
        quiet = ReverseKL(target)(flow, rows(6), generator=seeded())
    assert not quiet.requires_grad
    torch.testing.assert_close(quiet, ReverseKL(target)(flow, rows(6), generator=seeded()).detach())
    assert ReverseKL(target)(flow, rows(0), generator=seeded()).shape == (0,)
    flow.requires_grad_(False)
    assert not ReverseKL(target)(flow, rows(6), generator=seeded()).requires_grad


def test_one_seed_one_loss_and_the_global_state_is_left_alone():
    flow, before = affine_flow(), torch.get_rng_state()
    first, again, other = (ReverseKL(target)(flow, rows(5), generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_learnable_bases_learn_by_both_estimators():
    """Mean and scale of the base, weights of a mixture: the two estimators agree, within five standard errors."""
    for build in (lambda: DiagonalNormal((2,), scale=0.8), lambda: GaussianMixture((2,), 3, generator=seeded(1))):
        base = build().double()
        with torch.no_grad():
            for index, parameter in enumerate(base.parameters()):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=seeded(index), dtype=FLOAT64))
        flow = Flow(base, Compose())
        parameters = list(flow.parameters())
        sides = []
        for path_gradient in (True, False):
            blocks = []
            for block in range(20):
                loss = ReverseKL(target, path_gradient)(flow, rows(400), generator=seeded(100 * path_gradient + block))
                gradient = torch.autograd.grad(loss.mean(), parameters)
                blocks.append(torch.cat([g.flatten() for g in gradient]))
            sides.append(torch.stack(blocks))
        error = ((sides[0].var(0) + sides[1].var(0)) / 20).sqrt()
        assert ((sides[0].mean(0) - sides[1].mean(0)).abs() < 5 * error).all()
        assert sides[0].mean(0).abs().max() > 10 * error.max(), "nothing to see"


def test_conditions_reach_flow_and_target():
    """One posterior per condition: p̃(x | c) = N(c, I). At the optimum the loss of every row is zero."""
    base = ConditionalNormal((2,), 2, width=4, generator=seeded()).double()
    flow = Flow(base, Compose())
    condition = torch.randn(7, 2, generator=seeded(1), dtype=FLOAT64)

    def posterior(x, c):
        return (-0.5 * (x - c).square()).sum(1) - math.log(2 * math.pi)

    loss = ReverseKL(posterior)(flow, rows(7, condition), generator=seeded())
    # A fresh base is N(0, I): log q − log p = c·(c/2 − x), up to the float32 in which its scale was set to one.
    x = flow.sample(7, condition, generator=seeded())
    torch.testing.assert_close(loss, (condition * (condition / 2 - x)).sum(1), rtol=1e-6, atol=1e-6)
    gradient = torch.autograd.grad(loss.sum(), base.output.bias)[0]
    torch.testing.assert_close(gradient[:2], -condition.sum(0), rtol=1e-6, atol=1e-6)


def test_an_ode_as_the_map():
    """Linear field v = a x: x = e^a z, log q known; both estimators against the closed form of the same draws."""

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(0.4, dtype=FLOAT64))

        def forward(self, t, x, condition=None):
            return self.rate * x

        def divergence(self, t, x, condition=None):
            return (2 * self.rate).expand(len(x))

    ode = ContinuousMap(Field(), solver=RK4(16), likelihood_solver=RK4(16), coarse=True)
    flow = Flow(StandardNormal((2,)).double(), ode)
    rate = flow.map.field.rate
    z = StandardNormal((2,)).double().sample(9, generator=seeded())
    for path_gradient in (True, False):
        loss = ReverseKL(target, path_gradient)(flow, rows(9), generator=seeded())
        x = rate.exp() * z
        held = rate.detach() if path_gradient else rate
        log_q = -0.5 * ((-held).exp() * x).square().sum(1) - 2 * held - math.log(2 * math.pi)
        expected = log_q - target(x)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
        found, exact = (torch.autograd.grad(v.sum(), rate)[0] for v in (loss, expected))
        torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-5)


def test_a_short_training_reaches_the_target():
    """Adam on the path gradient: the loss ends at −log Z to the last digits, because the noise dies out."""
    flow = affine_flow()
    optimiser = torch.optim.Adam(flow.parameters(), lr=0.1)
    for step in range(150):
        optimiser.zero_grad()
        ReverseKL(target)(flow, rows(64), generator=seeded(step)).mean().backward()
        optimiser.step()
    assert exact_loss(flow) + LOG_Z < 1e-5
    x = flow.sample(5, generator=seeded()).detach()
    assert log_prob_along_path(flow, x).requires_grad  # rows without a path: the ordinary log-density


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda x: target(x).sum(), ShapeError, "one number per row"),
        (lambda x: target(x).unsqueeze(1), ShapeError, r"expected a tensor \(4,\)"),
        (lambda x: 0.0, ShapeError, "type float"),
        (lambda x: target(x.detach()), ConfigError, "autograd"),
    ],
)
def test_targets_that_cannot_be_learned_are_refused(answer, error, message):
    for path_gradient in (True, False):
        with pytest.raises(error, match=message):
            ReverseKL(answer, path_gradient)(affine_flow(), rows(4), generator=seeded())
