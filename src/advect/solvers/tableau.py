"""A Runge–Kutta method is a table.

Stage i evaluates k_i = f(t + c_i h, y + h Σ_j a_ij k_j); the step is y + h Σ_i b_i k_i and, between its ends,
y(t + θh) = y + h Σ_i b_i(θ) k_i with polynomials b_i whose order is at least that of the method minus one, so that
dense output costs no evaluation. Embedded pairs carry e = b − b̂: the local error is h Σ_i e_i k_i ~ h^(q+1), where
q is the order of the embedded method.

Sources: Dormand & Prince 1980 (RK5(4)7M); Shampine 1986 for its interpolant as in Hairer, Nørsett & Wanner
1993, II.6; Tsitouras 2011; Bogacki & Shampine 1989. The order conditions of every
table, dense weights included, are checked in the tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge–Kutta method.

    Attributes:
        name: The name in the solver table.
        order: Global order of convergence.
        c: Stage times as fractions of the step.
        a: Row i holds the weights of the i slopes before stage i.
        b: Weights of the step.
        dense: Row i holds the coefficients of θ, θ², … in b_i(θ).
        error: b − b̂ of the embedded method; empty where there is none.
        error_order: q, the order of the embedded method.
    """

    name: str
    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    dense: tuple[tuple[float, ...], ...]
    error: tuple[float, ...] = ()
    error_order: int = 0

    @property
    def stages(self) -> int:
        """Number of slopes in one step."""
        return len(self.b)

    def weights_at(self, fraction: Tensor) -> list[Tensor]:
        """b_i(θ) for ``fraction`` θ of any shape, one tensor per stage."""
        return [_horner(row, fraction) for row in self.dense]


def _horner(coefficients: Sequence[float], fraction: Tensor) -> Tensor:
    """Σ_j coefficients[j] θ^(j+1)."""
    value = fraction * 0
    for coefficient in reversed(coefficients):
        value = (value + coefficient) * fraction
    return value


def _free_interpolant(b: tuple[float, ...], bump: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """The C¹ quartic: the cubic Hermite polynomial through both ends plus θ²(1 − θ)² h Σ_i bump_i k_i.

    The slopes at the ends are the first and the last stage (first same as last).
    """
    rows = []
    for i, (weight, extra) in enumerate(zip(b, bump, strict=True)):
        first, last = float(i == 0), float(i == len(b) - 1)
        square = -2 * (first - weight) + (weight - last) + extra
        cube = (first - weight) - (weight - last) - 2 * extra
        rows.append((first, square, cube, extra))
    return tuple(rows)


def weighted(weights: Sequence[float | Tensor], slopes: Sequence[Tensor]) -> Tensor:
    """Σ_i weights_i slopes_i over the non-zero weights; numbers or tensors that broadcast."""
    total: Tensor | None = None
    for weight, slope in zip(weights, slopes, strict=True):
        if isinstance(weight, Tensor):
            total = weight * slope if total is None else total.addcmul_(weight, slope)
        elif weight != 0.0:
            total = slope * weight if total is None else total.add_(slope, alpha=weight)
    return slopes[0] * 0.0 if total is None else total


@lru_cache(maxsize=32)
def real_stability_limit(tableau: Tableau) -> float:
    """The largest s with |R(z)| ≤ 1 for all real z in [−s, 0], where R(z) = 1 + z bᵀ(I − zA)⁻¹ 1.

    An explicit method on y' = −λy is stable only up to h λ = s (2 for Euler, about 3.3 for Dormand–Prince).
    """
    size = tableau.stages
    matrix = np.zeros((size, size))
    for i, row in enumerate(tableau.a):
        matrix[i, : len(row)] = row
    coefficients, column = [1.0], np.ones(size)
    for _ in range(size):
        coefficients.append(float(np.dot(tableau.b, column)))
        column = matrix @ column
    z = -np.linspace(0.0, 50.0, 50_001)
    unstable = np.abs(np.polynomial.polynomial.polyval(z, coefficients)) > 1.0 + 1e-9
    return float(-z[max(int(np.argmax(unstable)) - 1, 0)])


EULER = Tableau("euler", 1, (0.0,), ((),), (1.0,), ((1.0,),))

MIDPOINT = Tableau("midpoint", 2, (0.0, 0.5), ((), (0.5,)), (0.0, 1.0), ((1.0, -1.0), (0.0, 1.0)))

HEUN = Tableau("heun", 2, (0.0, 1.0), ((), (1.0,)), (0.5, 0.5), ((1.0, -0.5), (0.0, 0.5)))

RK4_TABLE = Tableau(
    "rk4",
    4,
    (0.0, 0.5, 0.5, 1.0),
    ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    # Third order for every θ (Hairer et al. II.6): its local error h⁴ matches the global error of the method.
    ((1.0, -3 / 2, 2 / 3), (0.0, 1.0, -2 / 3), (0.0, 1.0, -2 / 3), (0.0, -1 / 2, 2 / 3)),
)

_BOSH3_B = (2 / 9, 1 / 3, 4 / 9, 0.0)

BOSH3 = Tableau(
    "bosh3",
    3,
    (0.0, 0.5, 0.75, 1.0),
    ((), (0.5,), (0.0, 0.75), (2 / 9, 1 / 3, 4 / 9)),
    _BOSH3_B,
    _free_interpolant(_BOSH3_B, (0.0, 0.0, 0.0, 0.0)),
    (2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
    2,
)

_DOPRI5_B = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0)

DOPRI5 = Tableau(
    "dopri5",
    5,
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        _DOPRI5_B[:6],
    ),
    _DOPRI5_B,
    _free_interpolant(
        _DOPRI5_B,
        (
            -12715105075 / 11282082432,
            0.0,
            87487479700 / 32700410799,
            -10690763975 / 1880347072,
            701980252875 / 199316789632,
            -1453857185 / 822651844,
            69997945 / 29380423,
        ),
    ),
    (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    4,
)

_TSIT5_B = (
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
    0.0,
)

TSIT5 = Tableau(
    "tsit5",
    5,
    (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    (
        (),
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (
            5.86145544294642,
            -12.92096931784711,
            8.159367898576159,
            -0.071584973281401,
            -0.028269050394068383,
        ),
        _TSIT5_B[:6],
    ),
    _TSIT5_B,
    _free_interpolant(
        _TSIT5_B,
        (
            -1.0530884977290216,
            0.1017,
            2.490627285651253,
            -16.548102889244902,
            47.37952196281928,
            -34.87065786149661,
            2.5,
        ),
    ),
    (
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    ),
    4,
)
