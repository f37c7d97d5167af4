"""Is a conditional distribution as sure as it should be? Checked over many pairs of truth and observation.

Draw θ* from the prior and x from the simulator at θ*. If q(θ | x) is the posterior, then θ* is a draw from it like any
other, so

    rank of θ*_j among L draws θ_j ~ q(· | x)     is uniform on 0 … L           (Talts et al. 2018, 1804.06788, thm. 1)
    mass of {θ : q(θ | x) > q(θ* | x)}            is uniform on [0, 1]          (Hermans et al. 2022, 2110.06581)

The second is the mass of the smallest credible region that holds the truth: the share of pairs in which it is at most
c is the expected coverage of credible level c. Below c the posterior is overconfident, above it is wider than needed.

Both are necessary, not sufficient: the prior itself, whatever the observation, passes both.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from advect.errors import DataError, ShapeError


def sbc_ranks(
    draws: Float[Tensor, "draws ..."], truth: Float[Tensor, "..."], *, generator: Generator | None = None
) -> Int[Tensor, "..."]:
    """Rank of each true parameter among its posterior draws, from 0 to the number of draws.

    Args:
        draws: ``(draws, pairs, parameters)``.
        truth: ``(pairs, parameters)``, in whose shape the ranks come.
        generator: Breaks ties at random: whole numbers have some, and no other rule leaves ranks uniform.

    Raises:
        ShapeError: Draws whose shape is not that of the truth behind one axis more.
        DataError: A draw or a truth is NaN, or there are no draws.
    """
    _check(draws, truth)
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    place = generator.device if generator is not None else draws.device
    share = torch.rand(truth.shape, generator=generator, dtype=torch.float64, device=place).to(draws.device)
    return below + (share * (equal + 1)).floor().long()


def rank_uniformity(
    ranks: Int[Tensor, "pairs parameters"], num_draws: int, *, generator: Generator | None = None
) -> Float[Tensor, " parameters"]:
    """p-value of the Kolmogorov–Smirnov test that the ranks of each parameter are uniform on 0 … ``num_draws``.

    Ranks are whole numbers: each is spread evenly over its share of [0, 1] by ``generator``, so that the test is exact.

    Raises:
        DataError: A rank outside 0 … ``num_draws``, or none at all.
    """
    if not len(ranks) or int(ranks.min()) < 0 or int(ranks.max()) > num_draws:
        raise DataError(f"There are no ranks, or some outside 0 … {num_draws}", where="rank_uniformity")
    place = generator.device if generator is not None else ranks.device
    spread = torch.rand(ranks.shape, generator=generator, dtype=torch.float64, device=place).to(ranks.device)
    shares = ((ranks + spread) / (num_draws + 1)).cpu().numpy()
    return torch.tensor([_uniformity(column) for column in shares.T], dtype=torch.float64)


@dataclass(frozen=True)
class Coverage:
    """How often the truth lies in credible regions; all ``(levels,)``.

    Attributes:
        levels: Credible levels c.
        coverage: Share of pairs whose truth lies in the smallest region of mass c.
        standard_error: Of that share if the posterior were right: √(c (1 − c)/pairs).
        p_value: Of the Kolmogorov–Smirnov test over all levels.
    """

    levels: Float[Tensor, " levels"]
    coverage: Float[Tensor, " levels"]
    standard_error: Float[Tensor, " levels"]
    p_value: float

    @property
    def excess(self) -> float:
        """Mean of coverage − level: negative for overconfident posteriors, positive for too wide ones."""
        return float((self.coverage - self.levels).mean())


def expected_coverage(
    draw_log_probs: Float[Tensor, "draws ..."],
    truth_log_probs: Float[Tensor, " pairs"],
    levels: Float[Tensor, " levels"] | None = None,
    *,
    generator: Generator | None = None,
) -> Coverage:
    """Expected coverage of the credible regions of highest density.

    Args:
        draw_log_probs: ``(draws, pairs)`` log q(θ | x) of draws from q(· | x); any constant of x may be missing.
        truth_log_probs: log q(θ* | x), likewise. −∞, outside the support of q, lies in no region but the whole.
        levels: Credible levels, 0.05 … 0.95 by default.
        generator: Breaks ties, and spreads the estimated masses, which are multiples of one over the draws.

    Raises:
        ShapeError: Shapes that do not go together.
        DataError: A log-density is NaN, or there are no draws.
    """
    # Rank among *minus* the densities: how many draws are denser than the truth.
    ranks = sbc_ranks(-draw_log_probs, -truth_log_probs, generator=generator)
    num_draws, pairs = len(draw_log_probs), len(ranks)
    place = generator.device if generator is not None else ranks.device
    spread = torch.rand(pairs, generator=generator, dtype=torch.float64, device=place).to(ranks.device)
    mass = (ranks + spread) / (num_draws + 1)
    if levels is None:
        levels = torch.linspace(0.05, 0.95, 19)
    levels = levels.to(mass)
    return Coverage(
        levels,
        (mass.unsqueeze(0) <= levels.unsqueeze(1)).double().mean(1),
        (levels * (1 - levels)).sqrt() / math.sqrt(pairs),
        _uniformity(mass.cpu().numpy()),
    )


def _check(draws: Tensor, truth: Tensor) -> None:
    if draws.shape[1:] != truth.shape:
        raise ShapeError(
            f"Draws have shape {tuple(draws.shape)} and truths {tuple(truth.shape)}",
            where="calibration",
            remedy="Give draws one axis more, before the others.",
        )
    if not draws.numel():
        raise DataError("There are no draws", where="calibration")
    failed = int(draws.isnan().sum()), int(truth.isnan().sum())
    if any(failed):
        raise DataError(
            f"{failed[0]} of the draws and {failed[1]} of the truths are NaN",
            where="calibration",
            remedy="A rank among failed draws means nothing: find out why they failed.",
        )


def _uniformity(values: np.ndarray) -> float:
    """p-value of the Kolmogorov–Smirnov test against U[0, 1]."""
    from scipy.stats import kstest  # a second to import, and wanted by few

    return float(kstest(values, "uniform").pvalue)
