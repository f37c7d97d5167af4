"""Weights fitted to one field: better than weights of theory on it, and a solver like any other."""

import pytest
import torch
from torch import Tensor

from advect.errors import ConfigError, UnsupportedError
from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.networks import MLP
from advect.records import Status
from advect.solvers import Adams3, Adaptive, Chunked, ExactDivergence, FittedMultistep, KineticEnergy, fit_multistep

F64 = torch.float64
FINE = Adaptive(rtol=1e-10, atol=1e-10)


def field(t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
    """Two modes that pull rows apart while everything turns."""
    t = t.reshape(-1, 1)
    return 2 * t * torch.tanh(3 * x) - x * (1 - t) + torch.sin(3 * t) * x.roll(1, 1)


def rows(count: int = 128, seed: int = 0) -> Tensor:
    return torch.randn((count, 2), generator=torch.Generator().manual_seed(seed), dtype=F64)


def rms(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


@pytest.fixture(scope="module")
def fitted() -> FittedMultistep:
    return fit_multistep(field, rows(), 6)


def test_on_other_rows_it_is_nearer_than_adams_at_equal_evaluations(fitted: FittedMultistep) -> None:
    x = rows(200, seed=1)
    exact = FINE(field, x).state
    ours, adams = fitted(field, x), Adams3(6)(field, x)
    assert torch.equal(ours.nfe, adams.nfe)
    assert int(ours.nfe[0]) == 7
    assert rms(ours.state, exact) < rms(adams.state, exact) / 3
    assert rms(ours.state, exact) < 2 * fitted.error  # other rows of the same law


def test_moving_the_times_helps(fitted: FittedMultistep) -> None:
    still = fit_multistep(field, rows(), 6, move_times=False)
    assert still.grid is not None
    assert list(still.grid) == pytest.approx([round(i * 64 / 6) / 64 for i in range(7)])
    assert fitted.error < still.error


def test_a_linear_field_is_solved_to_the_reference() -> None:
    # x' = -x: one exponential is a multiple of the state, so every step is in the span of its columns.
    solver = fit_multistep(lambda t, x, c: -x, rows(), 2)
    found = solver(lambda t, x, c: -x, rows(9, seed=2)).state
    torch.testing.assert_close(found, rows(9, seed=2) * torch.exp(torch.tensor(-1.0, dtype=F64)), atol=1e-5, rtol=1e-5)


def test_backwards_and_with_conditions() -> None:
    def given(t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        assert condition is not None
        return field(t, x) * (1 + condition)

    condition = torch.linspace(0, 0.5, 128, dtype=F64).unsqueeze(1)
    solver = fit_multistep(given, rows(), 6, 1.0, 0.2, condition=condition)
    exact = FINE(given, rows(), 1.0, 0.2, condition=condition).state
    assert rms(solver(given, rows(), 1.0, 0.2, condition=condition).state, exact) == pytest.approx(
        solver.error, rel=0.01
    )
    with pytest.raises(ConfigError, match="fitted between"):
        solver(given, rows(), 0.0, 1.0, condition=condition)


def test_rows_chunks_and_times(fitted: FittedMultistep) -> None:
    x = rows(11, seed=3)
    whole = fitted(field, x, times=torch.tensor([0.0, 0.35, 1.0]))
    torch.testing.assert_close(Chunked(fitted, 3)(field, x).state, whole.state, rtol=1e-13, atol=1e-13)
    assert whole.states is not None
    assert torch.equal(whole.states[0], x)
    assert torch.equal(whole.states[2], whole.state)
    exact = FINE(field, x, 0.0, 0.35).state
    assert rms(whole.states[1], exact) < 0.02  # a cubic over a step of about 1/6: h⁴/384 of the fourth derivative
    x[4] = torch.nan
    failed = fitted(field, x)
    assert int(failed.status[4]) == Status.BLOW_UP
    torch.testing.assert_close(failed.state[:4], whole.state[:4], rtol=1e-13, atol=1e-13)


def test_pictures_and_gradients() -> None:
    def square(t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return field(t, x.flatten(1)).reshape(x.shape)

    z = rows(64).reshape(64, 1, 2, 1)
    solver = fit_multistep(square, z, 4, move_times=False)
    start = z[:5].clone().requires_grad_()
    solver(square, start).state.square().sum().backward()
    exact = z[:5].clone().requires_grad_()
    FINE(square, exact).state.square().sum().backward()
    assert start.grad is not None
    assert exact.grad is not None
    assert rms(start.grad, exact.grad) < 0.1 * float(exact.grad.square().mean().sqrt())


def test_a_flow_samples_with_it_and_refuses_it_for_densities(fitted: FittedMultistep) -> None:
    network = MLP((2,), width=16, activation="silu", generator=torch.Generator().manual_seed(0))
    flow = Flow(StandardNormal((2,)), ContinuousMap(VelocityField(network), event_shape=(2,)))
    assert flow.ode is not None
    solver = fit_multistep(flow.ode.field, rows().float(), 3)
    with torch.no_grad():
        z = rows(50, seed=4).float()
        exact = flow.with_options(solver=Adaptive(rtol=1e-6, atol=1e-6)).decode(z).value
        assert rms(flow.with_options(solver=solver).decode(z).value, exact) < 2 * solver.error + 1e-6
    for extra in ({"divergence": ExactDivergence()}, {"along": (KineticEnergy(),)}):
        with pytest.raises(UnsupportedError, match="nothing else"):
            fitted(field, rows(), **extra)  # type: ignore[arg-type]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="at most 64"):
        fit_multistep(field, rows(), 65)
    with pytest.raises(ConfigError, match="no row"):
        fit_multistep(field, rows(3) * torch.nan, 4)
    with pytest.raises(ConfigError, match="pairs of weights"):
        FittedMultistep(4)
