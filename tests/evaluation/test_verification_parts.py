"""`verify` of maps and solvers: ours pass, and each broken law is found by its own name with a fitting remedy."""

import math

import numpy as np
import pytest
import torch

import advect
from advect.errors import ConfigError, ShapeError
from advect.evaluation.verification.solvers import KnownField, known_end
from advect.flows.architectures.autoregressive import maf
from advect.flows.architectures.continuous import cnf
from advect.flows.architectures.coupling import nsf, realnvp
from advect.flows.architectures.lowrank import planar
from advect.flows.architectures.residual import residual
from advect.records import Solution, Status
from advect.solvers import RK4, Adams3, Adaptive, Euler, Heun, Midpoint
from advect.transforms import Bijection, Box, Simplex, mapped


@pytest.mark.parametrize("make", [nsf, realnvp, maf, planar, residual, cnf])
def test_maps_of_ours_pass(make) -> None:
    generator = torch.Generator().manual_seed(0)
    flow = make(3, generator=generator)
    with torch.no_grad():  # away from the identity
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    before = [parameter.clone() for parameter in flow.parameters()]
    found = advect.verify(flow)
    assert found.passed, found
    assert found["log-determinant of encode"].status in ("pass", "note")
    assert all(torch.equal(a, b) for a, b in zip(before, flow.parameters(), strict=True))
    assert next(flow.parameters()).dtype == torch.float32  # a copy was tried


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nsf", "i-cfm"])
def test_a_trained_flow_is_a_map_too(method) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 2)) * [1.0, 3.0]
    model = advect.fit(rows, method=method, steps=10, seed=0)
    found = advect.verify(model)
    assert found.passed, found
    assert {found[f"log-determinant of {way}"].status for way in ("encode", "decode")} <= {"pass", "note"}


def test_bounded_maps_are_tried_on_their_own_domain() -> None:
    assert advect.verify(Box(torch.zeros(2), torch.ones(2))).passed
    rows = np.random.default_rng(0).uniform(0.1, 0.9, size=(40, 2))
    assert advect.verify(Box(torch.zeros(2), torch.ones(2)), data=rows).passed

    assert advect.verify(Simplex(3)).passed


def test_rows_too_wide_for_a_jacobian_keep_the_other_laws() -> None:
    found = advect.verify(Pairs(), event_shape=(300,))
    assert found["log-determinant of encode"].status == "skipped"
    assert found["round trip"].status == "pass"


class Stretch(Bijection):
    """z = s·x with the right answers; subclasses break one."""

    def __init__(self) -> None:
        super().__init__((3,))
        self.scale = torch.nn.Parameter(torch.tensor([2.0, 0.5, 3.0]))

    def log_det(self, x):
        return self.scale.log().sum().expand(len(x))

    def _encode(self, x, condition, log_det, generator):
        return mapped(self.scale * x, self.log_det(x) if log_det else None)

    def _decode(self, z, condition, log_det, generator):
        return mapped(z / self.scale, -self.log_det(z) if log_det else None)


class WrongSign(Stretch):
    def _decode(self, z, condition, log_det, generator):
        return mapped(z / self.scale, self.log_det(z) if log_det else None)


class Shifted(Stretch):
    def log_det(self, x):
        return super().log_det(x) + 0.25 + 0 * x[:, 0]


class NoReturn(Stretch):
    def _decode(self, z, condition, log_det, generator):
        return mapped(z / self.scale + 0.1, -self.log_det(z) if log_det else None)


class OfTheBatch(Stretch):
    def _encode(self, x, condition, log_det, generator):
        return mapped(self.scale * x + x.mean(), self.log_det(x) if log_det else None)


class Other(Stretch):
    def _encode(self, x, condition, log_det, generator):
        return mapped(self.scale * x + (0.0 if log_det else 0.1), self.log_det(x) if log_det else None)


@pytest.mark.parametrize(
    ("map", "law", "fix"),
    [
        (WrongSign, "log-determinant of decode", "change its sign"),
        (NoReturn, "round trip", "exact inverse"),
        (OfTheBatch, "rows are independent", "statistic of the batch"),
        (Other, "without log-determinant", "Skip only"),
    ],
)
def test_a_broken_map_is_found_by_its_law(map, law, fix) -> None:
    assert advect.verify(Stretch()).passed
    found = advect.verify(map())
    assert law in [check.law for check in found.failures], found
    assert fix in found[law].fix


def test_a_missing_constant_is_named_with_its_size() -> None:
    assert "off by 0.25" in advect.verify(Shifted())["log-determinant of encode"].fix


class Pairs:
    """No class of ours: encode and decode return pairs."""

    def encode(self, x):
        return x.sinh(), x.cosh().log().sum(1)

    def decode(self, z):
        return z.asinh(), -0.5 * z.square().log1p().sum(1)


def test_a_map_need_not_be_a_class_of_ours() -> None:
    found = advect.verify(Pairs(), event_shape=(2,))
    assert found.passed
    assert found["without log-determinant"].status == "skipped"
    assert found.event_shape == (2,)


class BothWrong(Pairs):
    """Opposite signs, as a test of the round trip would have it, and both wrong."""

    def encode(self, x):
        return x.sinh(), x.cosh().log().mean(1)

    def decode(self, z):
        return z.asinh(), -0.5 * z.square().log1p().mean(1)


def test_a_mean_in_place_of_a_sum_is_named() -> None:
    found = advect.verify(BothWrong(), event_shape=(4,))
    assert [check.law for check in found.failures] == ["log-determinant of encode", "log-determinant of decode"]
    assert all("0.25 times the right one" in check.fix for check in found.failures)


class Hiding(Pairs):
    def encode(self, x):
        return torch.where(x > 0, x, math.nan), x.sum(1)


def test_values_that_are_missing_without_a_word() -> None:
    assert [check.law for check in advect.verify(Hiding()).failures] == ["finite"]


class Flat(Pairs):
    def encode(self, x):
        return x.sum(1), x.sum(1)


class Raising(Pairs):
    def decode(self, z):
        raise KeyError("no inverse")


def test_maps_that_cannot_be_asked() -> None:
    with pytest.raises(ShapeError, match="value of shape"):
        advect.verify(Flat())
    with pytest.raises(ConfigError, match="no inverse"):
        advect.verify(Raising())


def test_the_known_equation_is_solved_by_its_formula() -> None:
    x0 = torch.tensor([[-0.7, 0.3]], dtype=torch.float64)
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    x = x0 / (1 - x0 * torch.sin(2 * t) / 2)
    speed = [torch.autograd.grad(x[0, k], t, retain_graph=True)[0] for k in range(2)]
    assert torch.allclose(torch.stack(speed), KnownField()(0.4, x.detach())[0])
    assert torch.allclose(known_end(x.detach(), 0.4, 0.0), x0)


@pytest.mark.parametrize(
    ("solver", "order"), [(Euler(20), 1), (Midpoint(20), 2), (Heun(20), 2), (RK4(4), 4), (Adams3(20), 3)]
)
def test_solvers_of_ours_pass_with_their_order(solver, order) -> None:
    found = advect.verify(solver)
    assert found.passed, found
    seen = float(found["arrival"].message.rpartition("order ")[2])
    assert seen > order - 0.35  # steps are finite, and this equation is kind to some methods


@pytest.mark.parametrize("table", ["bosh3", "dopri5", "tsit5"])
def test_adaptive_solvers_of_ours_pass(table) -> None:
    assert advect.verify(Adaptive(table, rtol=1e-4, atol=1e-4)).passed


class Plain:
    """Euler's method, all laws kept; subclasses break one."""

    def __init__(self, steps: int = 40) -> None:
        self.steps = steps

    def time(self, now: float, h: float) -> float:
        return now

    def told(self, rows: int, made: int) -> torch.Tensor:
        return torch.full((rows,), made)

    def __call__(self, field, x, t0=0.0, t1=1.0, *, times=None, condition=None, divergence=None, generator=None):
        if divergence is not None or times is not None:
            raise NotImplementedError("neither a divergence nor times")
        h = self.length(t0, t1) / self.steps
        for k in range(self.steps):
            x = x + h * field(self.time(t0 + k * h, t0), x, condition)
        good = x.isfinite().all(1)
        return self.solution(x, self.told(len(x), self.steps), good)

    def length(self, t0, t1):
        return t1 - t0

    def solution(self, x, nfe, good):
        status = torch.where(good, int(Status.OK), int(Status.BLOW_UP)).to(torch.int8)
        return Solution(x, nfe, status, torch.full((len(x),), math.nan))


class Frozen(Plain):
    """Every slope at the first time: small steps do not mend it."""

    def time(self, now, first):
        return first


class Forward(Plain):
    def length(self, t0, t1):
        return abs(t1 - t0)


class Half(Plain):
    def told(self, rows, made):
        return torch.full((rows,), made // 2)


class Shared(Plain):
    """The step of all rows by the size of all rows."""

    def __call__(self, field, x, t0=0.0, t1=1.0, **more):
        finer = Plain(self.steps + len(x))
        return finer(field, x, t0, t1, **more)


class Silent(Plain):
    def solution(self, x, nfe, good):
        return super().solution(x, nfe, torch.ones_like(good))


class Untidy(Plain):
    def solution(self, x, nfe, good):
        return super().solution(x.nan_to_num(0.0), nfe, good)


@pytest.mark.parametrize(
    ("solver", "law"),
    [
        (Frozen, "arrival"),
        (Forward, "backwards"),
        (Half, "evaluations"),
        (Shared, "rows are independent"),
        (Silent, "failures are told"),
        (Untidy, "failures are told"),
    ],
)
def test_a_broken_solver_is_found_by_its_law(solver, law) -> None:
    assert advect.verify(Plain()).passed
    found = advect.verify(solver())
    assert law in [check.law for check in found.failures], found
    assert found[law].fix


def test_what_a_plain_solver_does_not_offer_is_skipped() -> None:
    found = advect.verify(Plain())
    assert {check.law for check in found.checks if check.status == "skipped"} == {"requested times", "log-determinant"}


def test_what_is_no_solver_is_refused() -> None:
    with pytest.raises(ConfigError, match="returns Tensor"):
        advect.verify(lambda field, x, t0, t1, **more: x)
    with pytest.raises(ConfigError, match="raised ZeroDivisionError"):
        advect.verify(lambda field, x, t0, t1, **more: 1 / 0)
    with pytest.raises(ConfigError, match="neither sample nor"):
        advect.verify(lambda field: None)
