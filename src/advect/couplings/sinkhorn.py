"""Entropic optimal transport between two uniform samples, in log domain (Peyré & Cuturi 1803.00567, §4).

    minimise  Σ_ij P_ij C_ij + ε Σ_ij P_ij (log P_ij − 1)   with row sums 1/n0 and column sums 1/n1

The plan has the form P_ij = exp((f_i + g_j − C_ij)/ε). Eliminating f by its closed form leaves a smooth concave
function of g, the semi-dual, whose gradient is the column error 1/n1 − Σ_i P_ij and whose Hessian is
−(diag(P'1) − n0 P'P)/ε. Rows are therefore exact at every moment and one number, the column error, tells convergence.

Sinkhorn's iteration is the fixed-point form of the same problem: a round of it by products with one matrix (`scaling`)
takes a thirtieth of a Newton step on 256 rows, but thousands of rounds may be needed for small ε. Here ε falls by
factors of four from the scale of the costs. At each level rounds go on while their own rate promises the target soon;
where it does not, damped Newton steps with line search finish, some five of them whatever ε.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from advect.couplings.logarithms import exp_of
from advect.couplings.scaling import balanced

_SHRINK = 4.0  # of ε from level to level
_ROUNDS = 10  # Sinkhorn rounds that start each level, whatever their rate
_PATIENCE = 200  # rounds still to come, by their rate, from which on Newton steps are the shorter way
_MOST_ROUNDS = 500  # of a level: a rate may always promise an end that does not come
_ROUGH = 3e-2  # column error at which a level that is not the last is left
_ARMIJO = 1e-4  # share of the promised gain that a step must bring
_SMALLEST_STEP = 1e-9


@dataclass(frozen=True)
class EntropicPlan:
    """An entropic plan, by its column potential.

    Attributes:
        conditional: ``(source, data)``: the probability of each source row *given* the data row; columns sum to 1.
        column_error: Total variation between the plan's column sums and 1/n1 before that normalisation, which is
            then the error of the source distribution; row sums are exact.
        iterations: Evaluations of the plan that were spent.
        mean_cost: Σ P C.
    """

    conditional: Float[Tensor, "source data"]
    column_error: float
    iterations: int
    mean_cost: float


@dataclass(frozen=True)
class _Point:
    """The semi-dual at one potential."""

    potential: Float[Tensor, " data"]
    plan: Float[Tensor, "source data"]
    columns: Float[Tensor, " data"]
    value: float

    @property
    def gradient(self) -> Float[Tensor, " data"]:
        return 1 / len(self.columns) - self.columns

    @property
    def error(self) -> float:
        return 0.5 * float(self.gradient.abs().sum())


def _evaluate(cost: Float[Tensor, "source data"], epsilon: float, potential: Float[Tensor, " data"]) -> _Point:
    """The plan with exact rows that belongs to a column potential."""
    exponent = (potential - cost) / epsilon
    largest = exponent.amax(1, keepdim=True)
    plan = exp_of(exponent - largest)
    sums = plan.sum(1, keepdim=True)
    plan /= sums * len(cost)
    value = float(potential.mean() - epsilon * (largest + sums.log()).mean())
    return _Point(potential, plan, plan.sum(0), value)


def _newton_direction(point: _Point, epsilon: float) -> Float[Tensor, " data"]:
    """Ascent direction ε (diag(P'1) − n0 P'P + ridge)⁻¹ gradient.

    The matrix is a graph Laplacian: constant shifts of the potential are its kernel (filled by 1/n1² everywhere), and
    clusters of rows that hardly exchange mass make it nearly singular, so a ridge vanishing with the error is added.
    """
    num0, num1 = point.plan.shape
    curvature = torch.diag(point.columns) - num0 * point.plan.T @ point.plan + num1**-2
    ridge = 1e-3 * min(1.0, point.error) / num1
    while True:
        damped = curvature + ridge * torch.eye(num1, dtype=curvature.dtype, device=curvature.device)
        factor, info = torch.linalg.cholesky_ex(damped)
        if not int(info):
            return epsilon * torch.cholesky_solve(point.gradient[:, None], factor)[:, 0]
        ridge = max(10 * ridge, 1e-15 / num1)


def _newton_step(point: _Point, cost: Float[Tensor, "source data"], epsilon: float) -> tuple[_Point, int]:
    """One Newton step with backtracking on the semi-dual, and the evaluations it took."""
    direction = _newton_direction(point, epsilon)
    gain = float(direction @ point.gradient)
    rounding = 1e-14 * (abs(point.value) + float(cost.mean()))
    step, evaluations = 1.0, 0
    while True:
        trial = _evaluate(cost, epsilon, point.potential + step * direction)
        evaluations += 1
        if trial.value >= point.value + _ARMIJO * step * gain - rounding or step < _SMALLEST_STEP:
            return trial, evaluations
        step /= 4


def _climb(
    cost: Float[Tensor, "source data"], epsilon: float, potential: Float[Tensor, " data"], target: float, most: int
) -> tuple[_Point, int]:
    """Sinkhorn rounds, then Newton steps, until the column error is at most ``target`` or ``most`` of both are made."""
    start, rounds = potential / epsilon, min(most, _MOST_ROUNDS)
    late, iterations = balanced(cost / epsilon, start, target=target, most=rounds, few=_ROUNDS, patience=_PATIENCE)
    point = _evaluate(cost, epsilon, late * epsilon)
    while point.error > target and iterations < most:
        point, spent = _newton_step(point, cost, epsilon)
        iterations += spent
    return point, iterations


def solve_entropic(
    cost: Float[Tensor, "source data"], regularisation: float, *, max_iterations: int, tolerance: float
) -> EntropicPlan:
    """The entropic plan between uniform weights; its convergence is in the record, not checked here.

    Args:
        cost: float64, finite.
        regularisation: ε, in units of the cost.
        max_iterations: Evaluations of the plan after which the best so far is returned.
        tolerance: Total variation of the column sums from uniform at which the last level stops.
    """
    # A scale for the first level: the mean cost above the cheapest of its column.
    spread = float((cost - cost.amin(0)).mean())
    levels = [regularisation]
    while levels[-1] * _SHRINK < spread:
        levels.append(levels[-1] * _SHRINK)

    potential, iterations = cost.amin(0), 0
    for epsilon in reversed(levels[1:]):
        rough, spent = _climb(cost, epsilon, potential, max(tolerance, _ROUGH), max_iterations - iterations)
        potential, iterations = rough.potential, iterations + spent
    point, spent = _climb(cost, regularisation, potential, tolerance, max_iterations - iterations)
    iterations += spent
    return EntropicPlan(point.plan / point.columns, point.error, iterations, float((point.plan * cost).sum()))
