"""Rounds of a scaling iteration by products with one matrix (Schmitzer 2019, "Stabilized sparse scaling algorithms for
entropy regularized transport problems", 1610.06519).

A round needs log Σ_j e^(g_j − s_ij) for every i, and the same for every j. With e^(f̂_i + ĝ_j − s_ij) at hand for
duals f̂, ĝ of an earlier round, it is −f̂_i + log of a product of that matrix with e^(g − ĝ): a tenth of the time of
exponentials. They are taken anew where the duals have moved far; a row whose sum is lost among the smallest numbers is
summed in the log domain by itself.
"""

from jaxtyping import Float
from torch import Tensor

from advect.couplings.logarithms import exp_of, log_sum

_FAR = 100.0  # that a dual may move, in units of ε
_LEAST, _MOST = 1e-200, 1e200  # of sums that neither the floor of `exp_of` nor the range of a float64 has changed


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
