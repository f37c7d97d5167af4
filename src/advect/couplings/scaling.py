"""The scaling iteration of entropic plans, balanced and unbalanced, by products with one matrix (Schmitzer 2019,
"Stabilized sparse scaling algorithms for entropy regularized transport problems", 1610.06519).

Costs s are in units of the regularisation ε, and a plan is P_ij = exp(f_i + g_j − s_ij)/(n0 n1). A round needs
log Σ_j e^(g_j − s_ij) for every i, and the same for every j. With e^(f̂_i + ĝ_j − s_ij) at hand for duals f̂, ĝ of an
earlier round, it is −f̂_i + log of a product of that matrix with e^(g − ĝ): a tenth of the time of exponentials. They
are taken anew where the duals have moved far; a row whose sum is lost among the smallest numbers is summed in the log
domain by itself. Where there is a compiled file, the rounds are one call of it (`compiled_scaling`).
"""

import math

from jaxtyping import Float
from torch import Tensor

from advect.couplings import compiled_scaling
from advect.couplings.logarithms import exp_of, log_sum

_FAR = 100.0  # that a dual may move, in units of ε
_LEAST, _MOST = 1e-200, 1e200  # of sums that neither the floor of `exp_of` nor the range of a float64 has changed


def balanced(
    scaled: Float[Tensor, "source data"],
    late: Float[Tensor, " data"],
    *,
    target: float,
    most: int,
    few: int,
    patience: float,
) -> tuple[Float[Tensor, " data"], int]:
    """Rounds that keep all mass: Sinkhorn's.

    Args:
        scaled: Costs in units of ε, float64, finite.
        late: g to start from.
        target: Column error (total variation of the column sums from 1/n1, the rows being exact) at which to end.
        most: Rounds at most.
        few: Rounds after which they also end where the rate of the last one promises the target only after ``patience``
            more.
        patience: See there.

    Returns: g, with the column error of the last round if it was small enough, and the rounds.
    """
    if compiled_scaling.usable(scaled):
        return compiled_scaling.balanced(scaled, late, target=target, most=most, few=few, patience=patience)
    num0, num1 = scaled.shape
    sums, g, before = Scaling(scaled), late, math.inf
    for turn in range(1, most + 1):
        f = math.log(num1) - sums.rows(g)
        sums.follow(f, g)
        surplus = sums.columns(f) + g - math.log(num0)  # of the logarithm of each column's mass
        error = 0.5 * float(surplus.expm1().abs().mean())
        slow = turn > few and math.log(error / target) > patience * math.log(max(before / error, 1.0))
        if error <= target or slow:
            return g, turn
        g, before = g - surplus, error
    return g, most


def unbalanced(
    scaled: Float[Tensor, "source data"], reach: float, *, tolerance: float, most: int
) -> tuple[Float[Tensor, " source"], Float[Tensor, " data"], float, int]:
    """Rounds in which mass may be made and lost, at τ = ``reach`` ε.

    Args:
        scaled: Costs in units of ε, float64, finite.
        reach: τ/ε.
        tolerance: Largest change of f in the last round at which to end.
        most: Rounds at most.

    Returns: f, g, that change, and the rounds.
    """
    if compiled_scaling.usable(scaled):
        return compiled_scaling.unbalanced(scaled, reach, tolerance=tolerance, most=most)
    damped, (num0, num1) = reach / (reach + 1), scaled.shape
    f, g, change = scaled.new_zeros(num0), scaled.new_zeros(num1), math.inf
    sums, turn = Scaling(scaled), 0
    while turn < most and not change <= tolerance:
        turn += 1
        new_f = -damped * (sums.rows(g) - math.log(num1))
        g = -damped * (sums.columns(new_f) - math.log(num0))
        # The best common shift of both, in closed form (Séjourné et al. 2022, 2201.00730): without it plans that are
        # nearly balanced would take τ/ε rounds to find their mass.
        surplus = log_sum(-new_f / reach, 0) - math.log(num0)
        shift = reach / 2 * (surplus - log_sum(-g / reach, 0) + math.log(num1))
        new_f, g = new_f + shift, g - shift
        change = float((new_f - f).abs().max())
        f = new_f
        sums.follow(f, g)
    return f, g, change, turn


class Scaling:
    """The sums of a cost ``(source, data)`` in units of ε.

    Args:
        scaled: The costs, float64.
    """

    def __init__(self, scaled: Float[Tensor, "source data"]) -> None:
        self._scaled = scaled
        self._near: tuple[Tensor, Tensor] | None = None
        self._kernel = scaled

    def follow(self, f: Float[Tensor, " source"], g: Float[Tensor, " data"]) -> None:
        """Take the exponentials at these duals, where the last ones were taken far from there."""
        if self._near is None or any(
            float((dual - then).abs().max()) > _FAR for dual, then in zip((f, g), self._near, strict=True)
        ):
            self._near, self._kernel = (f, g), exp_of(f[:, None] + g - self._scaled)

    def rows(self, g: Float[Tensor, " data"]) -> Float[Tensor, " source"]:
        """log Σ_j e^(g_j − s_ij)."""
        if self._near is None:
            return log_sum(g - self._scaled, 1)
        f_then, g_then = self._near
        sums = self._kernel @ exp_of(g - g_then)
        found, lost = sums.log() - f_then, _lost(sums)
        if bool(lost.any()):
            found[lost] = log_sum(g - self._scaled[lost], 1)
        return found

    def columns(self, f: Float[Tensor, " source"]) -> Float[Tensor, " data"]:
        """log Σ_i e^(f_i − s_ij)."""
        if self._near is None:
            return log_sum(f[:, None] - self._scaled, 0)
        f_then, g_then = self._near
        sums = exp_of(f - f_then) @ self._kernel
        found, lost = sums.log() - g_then, _lost(sums)
        if bool(lost.any()):
            found[lost] = log_sum(f[:, None] - self._scaled[:, lost], 0)
        return found


def _lost(sums: Tensor) -> Tensor:
    return ~((sums > _LEAST) & (sums < _MOST))
