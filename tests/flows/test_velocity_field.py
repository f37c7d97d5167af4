"""Networks read as velocities: parameterisations, poles, divergences; and guidance."""

import pytest
import torch
from torch import Tensor, nn

from advect.errors import ConfigError, UnknownNameError
from advect.flows import ContinuousMap, EmpiricalField, GaussianBaseline, Guided, VelocityField
from advect.networks import MLP
from advect.paths import PREDICTIONS, convert
from advect.paths.schedule import Linear, Lipman, Trigonometric, VariancePreserving
from advect.solvers import RK4, Adams3, Adaptive, Euler, ExactDivergence

SCHEDULES = {"linear": Linear(), "trigonometric": Trigonometric(), "lipman": Lipman(0.01), "vp": VariancePreserving()}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


class Exact(nn.Module):
    """A 'network' that predicts exactly, for a Gaussian data law."""

    def __init__(self, what: str, truth: GaussianBaseline, minus: GaussianBaseline | None = None) -> None:
        super().__init__()
        self.what, self.truth, self.minus = what, truth, minus

    def forward(self, t, x: Tensor, condition: Tensor | None = None) -> Tensor:
        times = torch.as_tensor(t, dtype=x.dtype).expand(len(x))
        velocity = convert(self.truth(t, x), "velocity", self.what, times, x, self.truth.schedule)
        if self.minus is None:
            return velocity
        return velocity - convert(self.minus(t, x), "velocity", self.what, times, x, self.truth.schedule)


def truth(schedule) -> GaussianBaseline:
    return GaussianBaseline(normal(2), torch.tensor([[1.5, 0.4], [0.4, 0.3]], dtype=torch.float64), schedule)


@pytest.mark.parametrize("with_baseline", [False, True])
@pytest.mark.parametrize("what", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_exact_predictions_give_the_exact_velocity(name, what, with_baseline):
    """Every parameterisation × schedule, with and without a baseline to be corrected."""
    schedule = SCHEDULES[name]
    exact = truth(schedule)
    baseline = GaussianBaseline(torch.zeros(2).double(), torch.eye(2).double(), schedule) if with_baseline else None
    field = VelocityField(
        Exact(what, exact, baseline), baseline=baseline, parameterisation=what, schedule=schedule, margin=1e-3
    )
    x = normal(20, 2)
    for t in (0.01, 0.5, 0.99, torch.linspace(0.01, 0.99, 20, dtype=torch.float64)):
        assert (field(t, x) - exact(t, x)).abs().max() < 1e-8
        times = torch.as_tensor(t, dtype=x.dtype).expand(20)
        prediction = convert(exact(t, x), "velocity", what, times, x, schedule)
        assert (field.predict(t, x) - prediction).abs().max() < 1e-8 * (1 + prediction.abs().max())


@pytest.mark.parametrize("what", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_ends_are_finite(name, what):
    """Traps P6 and P10: an inexact network gives a finite velocity at t = 0 and t = 1, float32 too."""
    network = MLP((2,), width=8, depth=1, generator=seeded())
    field = VelocityField(network, parameterisation=what, schedule=SCHEDULES[name])
    x = normal(6, 2).float()
    for t in (0.0, 1.0, torch.tensor([0.0, 1e-7, 0.5, 1 - 1e-3, 1 - 1e-7, 1.0])):
        assert torch.isfinite(field(t, x)).all()
        assert torch.isfinite(field.divergence(t, x)).all()
        assert torch.isfinite(field.predict(t, x)).all()


@pytest.mark.parametrize("what", PREDICTIONS)
def test_intervals_leave_out_only_the_poles(what):
    """The linear path has σ(1) = 0 and α(0) = 0; variance preserving with its cut has neither."""
    network = MLP((2,), width=8, depth=1, generator=seeded())
    low = 1e-3 if what in ("noise", "score") else 0.0
    high = 1 - 1e-3 if what in ("x1", "score", "displacement") else 1.0
    assert VelocityField(network, parameterisation=what).interval == (low, high)
    assert VelocityField(network, parameterisation=what, schedule=VariancePreserving()).interval == (0.0, 1.0)


class Recorder(nn.Module):
    """Writes down the times at which it is asked."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field, self.times = field, []

    def forward(self, t, x: Tensor, condition: Tensor | None = None) -> Tensor:
        self.times.append(torch.as_tensor(t).reshape(-1))
        return self.field(t, x, condition)


@pytest.mark.parametrize("solver", [Euler(steps=10), RK4(steps=5), Adams3(steps=10), Adaptive()])
@pytest.mark.parametrize("what", ["x1", "noise", "score", "displacement"])
def test_flows_stay_inside_the_interval(what, solver):
    """No solver of a flow evaluates the network nearer to a pole than the margin, in either direction."""
    network = Recorder(MLP((2,), width=8, depth=1, generator=seeded()).double())
    field = VelocityField(network, parameterisation=what, margin=0.02)
    ode = ContinuousMap(field, solver=solver, likelihood_solver=solver)
    ode.decode(normal(3, 2), log_det=False)
    ode.encode(normal(3, 2), log_det=False)
    times = torch.cat(network.times)
    low, high = field.interval
    assert times.min() >= low - 1e-12
    assert times.max() <= high + 1e-12
    assert times.min() < 0.1
    assert times.max() > 0.9


@pytest.mark.parametrize("scale_input", [False, True])
@pytest.mark.parametrize("with_baseline", [False, True])
@pytest.mark.parametrize("what", PREDICTIONS)
def test_divergence_equals_autograd(what, with_baseline, scale_input):
    """Baseline's trace + gain × network's, with input scaling."""
    baseline = truth(Linear()) if with_baseline else None
    network = MLP((2,), width=8, depth=2, activation="tanh", generator=seeded()).double()
    field = VelocityField(network, baseline=baseline, parameterisation=what, scale_input=scale_input, schedule=Linear())
    x, t = normal(5, 2), torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    brute = ExactDivergence()(lambda t, x, c=None: field(t, x, c), t, x, None, None)[1].squeeze(1)
    assert (field.divergence(t, x) - brute).abs().max() < 1e-10
    assert brute.abs().max() > 0.01


def test_divergence_is_offered_only_where_the_parts_offer_one():
    """So that the exact trace falls back to autograd."""

    class Own(nn.Module):
        def forward(self, t, x, condition=None):
            return torch.sin(x)

    network = MLP((2,), width=8, depth=1, generator=seeded())
    assert hasattr(VelocityField(network), "divergence")
    assert not hasattr(VelocityField(Own()), "divergence")
    assert not hasattr(VelocityField(network, baseline=Own()), "divergence")
    assert hasattr(Guided(VelocityField(network), 1.0), "divergence")
    assert not hasattr(Guided(VelocityField(Own()), 1.0), "divergence")
    x = normal(4, 2)
    assert (
        ExactDivergence()(VelocityField(Own()), 0.5, x, None, None)[1].squeeze(1) - x.cos().sum(1)
    ).abs().max() < 1e-12


def test_displacement_prediction_arrives_at_the_data():
    """x1 − x is no velocity (trap P11), but read as a parameterisation it reaches the data: one data point,
    and the exact denoiser of a set.
    What is left is the margin's share of x0."""
    data = normal(6, 2) * 3
    empirical = EmpiricalField(data, Linear())

    class Displacement(nn.Module):
        def forward(self, t, x, condition=None):
            return empirical.denoiser(t, x) - x

    ode = ContinuousMap(
        VelocityField(Displacement(), parameterisation="displacement", margin=1e-4),
        solver=Adaptive(rtol=1e-7, atol=1e-7),
    )
    moved = ode.decode(normal(50, 2, seed=1), log_det=False)
    assert torch.cdist(moved.value, data).amin(1).max() < 2e-3


def test_refusals():
    """Unknown names get the nearest one; margins are checked."""
    network = MLP((2,), width=8, depth=1, generator=seeded())
    with pytest.raises(UnknownNameError, match="Did you mean 'noise'"):
        VelocityField(network, parameterisation="nois")
    with pytest.raises(ConfigError, match="margin"):
        VelocityField(network, margin=0.0)


class Conditional(nn.Module):
    """Velocity c·x + t, and a count of the rows it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def forward(self, t, x: Tensor, condition: Tensor | None = None) -> Tensor:
        self.calls.append(len(x))
        return condition * x + torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1)

    def divergence(self, t, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return condition.squeeze(1) * x.shape[1]


def test_guidance_extrapolates():
    """(1 + w) v(c) − w v(0), in one call of twice the rows, and the same for the divergence."""
    field = Conditional()
    x, c, t = normal(4, 2), normal(4, 1, seed=1), torch.rand(4, generator=seeded(), dtype=torch.float64)
    guided = Guided(field, 1.5)
    exact = 2.5 * (c * x + t.unsqueeze(1)) - 1.5 * t.unsqueeze(1)
    assert (guided(t, x, c) - exact).abs().max() < 1e-12
    assert field.calls == [8]
    assert guided.evaluations == 2
    assert (guided.divergence(t, x, c) - 2.5 * 2 * c.squeeze(1)).abs().max() < 1e-12


def test_guidance_of_weight_zero_is_the_field_itself():
    """The same bits, one evaluation; weight −1 is the unconditional field."""
    field = Conditional()
    x, c = normal(4, 2), normal(4, 1, seed=1)
    assert torch.equal(Guided(field, 0.0)(0.3, x, c), field(0.3, x, c))
    assert field.calls == [4, 4]
    assert Guided(field, 0.0).evaluations == 1
    assert (Guided(field, -1.0)(0.3, x, c) - 0.3).abs().max() < 1e-12


def test_guidance_in_an_interval():
    """Outside it the conditional field, row by row."""
    guided = Guided(Conditional(), 2.0, interval=(0.25, 0.75))
    x, c = normal(4, 2), normal(4, 1, seed=1)
    t = torch.tensor([0.1, 0.3, 0.7, 0.9], dtype=torch.float64)
    gain = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64).unsqueeze(1)
    assert (guided(t, x, c) - (gain * c * x + t.unsqueeze(1))).abs().max() < 1e-12


def test_guided_evaluations_are_counted_twice():
    """Trap S9: NFE counts network evaluations."""
    ode = ContinuousMap(Conditional(), solver=Euler(steps=10))
    x, c = normal(3, 2), normal(3, 1, seed=1)
    assert ode.decode(x, c, log_det=False).nfe.tolist() == [10] * 3
    assert ode.with_options(guidance=1.0).decode(x, c, log_det=False).nfe.tolist() == [20] * 3
    twice = ode.with_options(guidance=1.0).with_options(guidance=3.0)
    assert twice.field.weight == 3.0
    assert twice.with_options(guidance=0.0).field is ode.field


def test_guidance_refusals():
    """No condition, no finite weight, no interval."""
    with pytest.raises(ConfigError, match="needs a condition"):
        Guided(Conditional(), 1.0)(0.5, normal(2, 2))
    with pytest.raises(ConfigError, match="not finite"):
        Guided(Conditional(), float("inf"))
    with pytest.raises(ConfigError, match="interval"):
        Guided(Conditional(), 1.0, interval=(0.9, 0.1))
