"""Log-determinants at Gauss nodes: against closed forms, against the trace on board, and row by row."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from advect.errors import ConfigError
from advect.networks import MLP
from advect.records import Status
from advect.solvers import (
    Adams3,
    Adams3Quadrature,
    Adaptive,
    Chunked,
    ExactDivergence,
    HutchinsonDivergence,
    JacobianNorm,
    KineticEnergy,
    quadrature,
)
from advect.solvers.quadrature import gauss_nodes

F64 = torch.float64


def field(t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
    """tanh, coordinate by coordinate, turning with time: its trace depends on the state."""
    t = t.reshape(-1, 1)
    return torch.tanh(x) * (1 + t) + torch.sin(3 * t) * x.roll(1, 1)


def rows(count: int = 5, d: int = 3) -> Tensor:
    return torch.randn((count, d), generator=torch.Generator().manual_seed(0), dtype=F64)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.2)])
@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_nodes_integrate_polynomials_of_twice_their_number(nodes: int, ends: tuple[float, float]) -> None:
    t0, t1 = ends
    times, weights = gauss_nodes(nodes, t0, t1)
    assert list(times) == sorted(times, reverse=t1 < t0)
    for power in range(2 * nodes):
        exact = (t1 ** (power + 1) - t0 ** (power + 1)) / (power + 1)
        # Sums of numbers of order one in double precision.
        assert sum(w * t**power for t, w in zip(times, weights, strict=True)) == pytest.approx(exact, abs=1e-13)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)])
def test_a_linear_field_has_its_trace_as_log_determinant(ends: tuple[float, float]) -> None:
    matrix = torch.randn((3, 3), generator=torch.Generator().manual_seed(1), dtype=F64)
    solution = Adams3Quadrature(8)(
        lambda t, x, c: float(t) ** 3 * (x @ matrix.T), rows(), *ends, divergence=ExactDivergence()
    )
    exact = (ends[1] ** 4 - ends[0] ** 4) / 4 * torch.trace(matrix)  # a cubic: exact with two nodes
    torch.testing.assert_close(solution.log_abs_det, exact.expand(5), atol=1e-12, rtol=1e-12)
    assert solution.log_abs_det_error is not None
    assert not solution.log_abs_det_error.any()


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)])
def test_halving_the_steps_divides_the_error_by_eight(ends: tuple[float, float]) -> None:
    fine = Adaptive(rtol=1e-11, atol=1e-11)(field, rows(), *ends, divergence=ExactDivergence()).log_abs_det
    errors = []
    for steps in (12, 24, 48):
        found = Adams3Quadrature(steps)(field, rows(), *ends, divergence=ExactDivergence()).log_abs_det
        errors.append(float((found - fine).abs().max()))
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert min(orders) > 2.6  # order 3, up to the next term


def test_states_are_those_of_the_solver_without_passengers() -> None:
    times = torch.tensor([0.0, 0.3, 1.0])
    ours = Adams3Quadrature(9)(field, rows(), times=times, divergence=ExactDivergence())
    plain = Adams3(9)(field, rows(), times=times)
    assert torch.equal(ours.state, plain.state)
    assert ours.states is not None
    assert plain.states is not None
    assert torch.equal(ours.states, plain.states)
    assert torch.equal(ours.nfe, plain.nfe + 3)
    assert Adams3Quadrature(9)(field, rows()).log_abs_det is None


def test_what_rides_along_agrees_with_the_solver_that_carries_it() -> None:
    energies = (KineticEnergy(), JacobianNorm())
    fine = Adaptive(rtol=1e-10, atol=1e-10)(field, rows(), divergence=ExactDivergence(), along=energies)
    ours = Adams3Quadrature(96)(field, rows(), divergence=ExactDivergence(), along=energies)
    torch.testing.assert_close(ours.along, fine.along, rtol=1e-5, atol=1e-5)  # h³ ≈ 1e-6


def test_probes_are_drawn_once_and_tell_the_spread() -> None:
    probing = HutchinsonDivergence(4)
    ours = Adams3Quadrature(48)(field, rows(), divergence=probing, generator=torch.Generator().manual_seed(3))
    carried = Adams3(48)(field, rows(), divergence=probing, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours.log_abs_det, carried.log_abs_det, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.log_abs_det_error, carried.log_abs_det_error, rtol=1e-3, atol=1e-4)


def test_a_row_that_fails_leaves_the_others_as_they_are() -> None:
    x = rows()
    x[2] = torch.nan
    found = Adams3Quadrature(12)(field, x, divergence=ExactDivergence())
    alone = Adams3Quadrature(12)(field, x[[0, 1, 3, 4]], divergence=ExactDivergence())
    assert found.log_abs_det is not None
    assert found.log_abs_det[2].isnan()
    assert int(found.status[2]) == Status.BLOW_UP
    torch.testing.assert_close(found.log_abs_det[[0, 1, 3, 4]], alone.log_abs_det, rtol=1e-14, atol=1e-14)


def test_a_trace_that_is_not_a_number_fails_its_row() -> None:
    class Field:
        def __call__(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
            return torch.zeros_like(x)

        def divergence(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
            return torch.where(x[:, 0] > 0, torch.nan, 0.0)

    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    found = Adams3Quadrature(6)(Field(), x, divergence=ExactDivergence())
    assert found.status.tolist() == [int(Status.NAN_FIELD), int(Status.OK)]
    assert found.state[0].isnan().all()
    assert 0 < float(found.failed_at[0]) < 0.5
    assert found.failed_at[1].isnan()


def test_chunks_and_the_end_of_no_time() -> None:
    whole = Adams3Quadrature(6)(field, rows(), divergence=ExactDivergence())
    parts = Chunked(Adams3Quadrature(6), 2)(field, rows(), divergence=ExactDivergence())
    torch.testing.assert_close(whole.log_abs_det, parts.log_abs_det, rtol=1e-14, atol=1e-14)
    still = Adams3Quadrature(6)(field, rows(), 0.5, 0.5, divergence=ExactDivergence())
    assert still.log_abs_det is not None
    assert not still.log_abs_det.any()


def test_gradients_are_those_of_the_trace_on_board() -> None:
    network = MLP((2,), width=8, depth=2, activation="tanh", generator=torch.Generator().manual_seed(0)).double()
    found = []
    for solver in (Adams3Quadrature(64), Adaptive(rtol=1e-9, atol=1e-9)):
        network.zero_grad()
        solution = solver(network, rows(4, 2), 1.0, 0.0, divergence=ExactDivergence())
        assert solution.log_abs_det is not None
        (solution.log_abs_det.sum() + solution.state.sum()).backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)  # h³ ≈ 4e-6 times the field's derivatives


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="between"):
        Adams3Quadrature(6, between=0)
    with pytest.raises(ConfigError):
        Adams3Quadrature(0)


class Offering:
    """A field with a divergence of its own, which is lost for rows of a high condition late in time."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return field(t, x)

    def velocity_and_divergence(self, t: Tensor, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        trace = ((1 - torch.tanh(x).square()) * (1 + t.reshape(-1, 1))).sum(1) * condition[:, 0]
        return field(t, x), torch.where((condition[:, 0] > 2) & (t > 0.5), torch.nan, trace)


def test_nodes_together_say_what_they_say_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    condition = torch.arange(5, dtype=F64).reshape(5, 1)
    found, calls = [], []
    for most in (10**6, 0):
        monkeypatch.setattr(quadrature, "TOGETHER", most)
        offering = Offering()
        solver = Adams3Quadrature(9)
        found.append(
            solver(offering, rows(), condition=condition, divergence=ExactDivergence(), along=(KineticEnergy(),))
        )
        calls.append(offering.calls)
    assert calls == [1, 3]
    together, apart = found
    assert together.status.tolist() == apart.status.tolist() == [0, 0, 0, *[int(Status.NAN_FIELD)] * 2]
    for name in ("failed_at", "nfe", "log_abs_det", "along", "state"):
        torch.testing.assert_close(
            getattr(together, name), getattr(apart, name), equal_nan=True, rtol=1e-14, atol=1e-14
        )
