"""The same numbers as without, in less memory: measured as the bytes that are alive, not as what the code says."""

import gc
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from advect.errors import ConfigError, SolverError
from advect.networks import MLP
from advect.records import Status
from advect.solvers import (
    RK4,
    Adams3,
    Adaptive,
    Chunked,
    Euler,
    ExactDivergence,
    HutchinsonDivergence,
    JacobianNorm,
    KineticEnergy,
    Midpoint,
)
from advect.solvers.checkpointed import Checkpointed
from advect.solvers.hutchpp import HutchPlusPlusDivergence

DIVERGENCES = {
    "analytic": ExactDivergence(),
    "Hutchinson": HutchinsonDivergence(2),
    "Hutch++": HutchPlusPlusDivergence(1),
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def network(condition=2, features=3, width=6):
    return MLP((features,), condition, width=width, depth=2, activation="tanh", generator=seeded(3)).double()


def everything(solver, field, x, condition, divergence, parameters, second=False):
    """State, log-determinant, passengers and states on the way; gradients of all of them together, and again."""
    solution = solver(
        field,
        x,
        1.0,
        0.0,
        condition=condition,
        divergence=divergence,
        generator=seeded(),
        along=(KineticEnergy(), JacobianNorm()),
        times=torch.tensor([0.9, 0.5, 0.37, 0.0], dtype=torch.float64),
    )
    values = (solution.state, solution.log_abs_det, solution.along, solution.states)
    weights = [rows(*v.shape, seed=7 + i) for i, v in enumerate(values)]
    loss = sum((v * w).sum() for v, w in zip(values, weights, strict=True))
    first = torch.autograd.grad(loss, parameters, create_graph=second)
    again = ()
    if second:
        again = torch.autograd.grad(sum(g.square().sum() for g in first), parameters, allow_unused=True)
    return [*values, *first, *(g for g in again if g is not None)]


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("solver", [Euler(7), Midpoint(6), RK4(grid=(0.0, 0.1, 0.4, 0.5, 0.9, 1.0)), Adams3(7)])
def test_the_same_numbers(name, solver):
    """Values to the last bit, gradients of rows, condition and every parameter to the rounding of sums; one segment,
    √steps, one per step."""
    field = network()
    x, condition = rows(4, 3).requires_grad_(), rows(4, 2, seed=1).requires_grad_()
    parameters = [x, condition, *field.parameters()]
    plain = everything(solver, field, x, condition, DIVERGENCES[name], parameters)
    for segments in (1, None, 100):
        ours = everything(Checkpointed(solver, segments), field, x, condition, DIVERGENCES[name], parameters)
        assert all(torch.equal(a, b) for a, b in zip(ours[:4], plain[:4], strict=True))
        for a, b in zip(ours[4:], plain[4:], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)
    assert all(g.abs().max() > 0 for g in plain)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_same_second_derivatives(name):
    field = network()
    x, condition = rows(4, 3).requires_grad_(), rows(4, 2, seed=1).requires_grad_()
    parameters = [x, condition, *field.parameters()]
    plain = everything(Midpoint(5), field, x, condition, DIVERGENCES[name], parameters, second=True)
    ours = everything(Checkpointed(Midpoint(5)), field, x, condition, DIVERGENCES[name], parameters, second=True)
    assert len(ours) > 4 + len(parameters)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gradients_against_finite_differences():
    """Independent of the plain solver: a closed-over tensor, which is no parameter of any module."""
    weight, x = (rows(2, 2, seed=1) / 2).requires_grad_(), rows(2, 2).requires_grad_()

    def end(x, weight):
        hidden = weight * 1.5  # and no leaf either
        solution = Checkpointed(Midpoint(3))(
            lambda t, y, c=None: torch.tanh(y @ hidden), x, divergence=ExactDivergence(), along=(KineticEnergy(),)
        )
        return solution.state, solution.log_abs_det, solution.along

    assert torch.autograd.gradcheck(end, (x, weight))


def test_rows_without_gradient_and_frozen_fields():
    field = network(0)
    data = rows(4, 3)
    for x, parameters in ((data, list(field.parameters())), (data.clone().requires_grad_(), None)):
        wanted = parameters or [x]
        found = []
        for solver in (RK4(5), Checkpointed(RK4(5))):
            solution = solver(field.requires_grad_(parameters is not None), x, divergence=ExactDivergence())
            loss = solution.state.square().sum() + solution.log_abs_det.sum()
            found.append(torch.autograd.grad(loss, wanted, allow_unused=True))
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True) if a is not None)
    assert all(p.grad is None for p in field.parameters())


def test_a_graph_can_be_used_twice():
    field, x = network(0), rows(4, 3)
    loss = Checkpointed(RK4(6))(field, x).state.square().sum()
    first = torch.autograd.grad(loss, list(field.parameters()), retain_graph=True)
    again = torch.autograd.grad(loss, list(field.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_rows_that_fail_on_the_way():
    """One NaN field half-way, one blow-up near the end: statuses, times, NFE and the others' gradients are the same."""
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def field(t, x, condition=None):
        undefined = (condition == 1) & (torch.as_tensor(t) > 0.5)
        growing = torch.where(condition == 2, x * x * x.abs(), weight * torch.sin(x))
        return torch.where(undefined, torch.nan, growing)

    x = torch.tensor([[0.3], [0.4], [40.0], [0.5]], dtype=torch.float64)
    condition = torch.tensor([[0.0], [1.0], [2.0], [0.0]], dtype=torch.float64)
    found = []
    for solver in (RK4(11), Checkpointed(RK4(11)), Checkpointed(RK4(11), 2)):
        solution = solver(field, x, condition=condition)
        good = solution.status == 0
        (gradient,) = torch.autograd.grad(solution.state[good].sum(), weight)
        found.append((solution.state, solution.status, solution.failed_at, solution.nfe, gradient))
    assert found[0][1].tolist() == [0, int(Status.NAN_FIELD), int(Status.BLOW_UP), 0]
    for ours in found[1:]:
        for a, b in zip(ours, found[0], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert torch.isfinite(found[0][4])


def test_chunks_and_no_gradients():
    field, x = network(0), rows(5, 3)
    plain = RK4(6)(field, x).state.square().sum()
    ours = Chunked(Checkpointed(RK4(6)), 2)(field, x).state.square().sum()
    parameters = list(field.parameters())
    for a, b in zip(torch.autograd.grad(ours, parameters), torch.autograd.grad(plain, parameters), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        solution, alone = Checkpointed(RK4(6))(field, x), RK4(6)(field, x)
    assert solution.state.grad_fn is None
    assert torch.equal(solution.state, alone.state)


class Alive(TorchDispatchMode):
    """Bytes of all storages made under it that are still there: now, and at most."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self.known:
                storage = tensor.untyped_storage()
                self.known[storage] = size = storage.nbytes()
                weakref.finalize(storage, self.gone, size)
                self.now += size
                self.most = max(self.most, self.now)
        return result

    def gone(self, size):
        self.now -= size


def peak(solver, divergence=None):
    """Most bytes alive in a forward and a backward pass of a field whose activations outweigh its state."""
    field, x = network(0, features=2, width=64), rows(64, 2)
    gc.collect()
    with Alive() as alive:
        solution = solver(field, x, divergence=divergence, generator=seeded())
        loss = solution.state.square().sum() + (0 if divergence is None else solution.log_abs_det.sum())
        forward = alive.now
        loss.backward()
    return alive.most, forward


@pytest.mark.parametrize("name", ["analytic", "Hutchinson"])
def test_memory_grows_with_the_root_of_the_steps(name):
    """Six times the steps: six times the memory without, about two and a half times with."""
    divergence = DIVERGENCES.get(name)
    (plain_few, _), (plain_many, _) = (peak(Midpoint(n), divergence) for n in (4, 25))
    (few, _), (many, held) = (peak(Checkpointed(Midpoint(n)), divergence) for n in (4, 25))
    assert plain_many > 5 * plain_few
    assert many < 3.5 * few
    assert many < plain_many / 2.5
    assert held < plain_many / 8  # between the passes: states at the starts of segments, no activations


def test_one_segment_per_step_holds_one_step():
    """The activations of one step however many there are; what grows is the state, which is small."""
    few, many = (peak(Checkpointed(Midpoint(n), n))[0] for n in (4, 16))
    assert many < 1.5 * few


def test_nothing_outlives_the_graph():
    """No cycle through the graph, which Python's collector could not see: all is freed at once, without collecting."""
    field, x = network(0), rows(4, 3)
    gc.collect()
    gc.disable()
    try:
        left = []
        for solver in (RK4(9), Checkpointed(RK4(9))):
            with Alive() as alive:
                solution = solver(field, x.clone().requires_grad_(), divergence=ExactDivergence())
                loss = solution.state.sum() + solution.log_abs_det.sum()
                torch.autograd.grad(loss, list(field.parameters()), retain_graph=True, allow_unused=True)
                held = alive.now
                del loss, solution
                left.append(alive.now)
        assert left[1] == left[0]  # the parameters, seen through their transposes
        assert held > 2 * left[1]
    finally:
        gc.enable()


def test_a_field_that_is_no_function_is_told():
    """Dropout, and parameters that moved before the gradient was taken."""
    noisy = seeded()
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def moody(t, x, condition=None):
        x = torch.sin(x * weight)
        return torch.sin(x) if torch.rand((), generator=noisy) < 0.5 else x

    with pytest.raises(SolverError, match="other things"):
        Checkpointed(Midpoint(16))(moody, rows(3, 2)).state.sum().backward()

    loss = Checkpointed(Midpoint(4))(lambda t, x, c=None: torch.sin(x * weight), rows(3, 2)).state.sum()
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(SolverError, match="changed in place"):
        loss.backward()


def test_mixed_precision_is_entered_again():
    field, x = network(0).float(), rows(4, 3).float()
    found = []
    for solver in (RK4(4), Checkpointed(RK4(4))):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = solver(field, x).state.float().square().sum()
        found.append(torch.autograd.grad(loss, list(field.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="no fixed steps"):
        Checkpointed(Adaptive())
    for segments in (0, -1, True):
        with pytest.raises(ConfigError, match="segments"):
            Checkpointed(RK4(4), segments)
