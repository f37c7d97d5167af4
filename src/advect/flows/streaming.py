"""Moments of a softmax over many data rows, in blocks of data rows and chunks of query rows.

Given x the data row y_i has weight w_i ∝ p_i exp(ℓ_i),

    ℓ_i = (α⟨x − αc, y_i − c⟩ − α²|y_i − c|²/2)/σ²,

the part of −|x − αy_i|²/2σ² that depends on i (c is any centre). One pass over the blocks keeps the running maximum of
the exponents and the sums of w_i, w_i (y_i − c) and w_i |y_i − c|² relative to it, so that nothing overflows and memory
is a chunk times a block, whatever the numbers of rows. Exponents come from one matrix product with the columns
(y_i − c, |y_i − c|², log p_i), sums from another with (y_i − c, |y_i − c|², 1).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

NUMBERS_AT_ONCE = 2**22  # of the matrix between a chunk and a block: 32 MB in float64
KEPT_NUMBERS = 2**23  # of prepared data rows that are kept for the next call: 64 MB


class Moments(NamedTuple):
    """What is known of the data behind each query row.

    Attributes:
        mean: ``(rows, width)`` E[y − c].
        variance: ``(rows, 1)`` E|y − E y|².
        log_sum: ``(rows, 1)`` log Σ p_i exp(ℓ_i).
    """

    mean: Tensor
    variance: Tensor
    log_sum: Tensor


class PreparedRows:
    """Data rows as the columns of the two matrix products, in float64, block by block.

    Args:
        data: ``(rows, width)`` in any floating dtype; it is read anew at every call unless small enough to be kept.
        centre: ``(width,)`` c.
        log_weights: ``(rows,)`` log p_i.
        block_rows: Data rows in a block.
    """

    def __init__(self, data: Tensor, centre: Tensor, log_weights: Tensor, block_rows: int) -> None:
        self.data, self.centre, self.log_weights, self.block_rows = data, centre.double(), log_weights, block_rows
        self._kept: list[Tensor] | None = None

    def blocks(self) -> Iterator[Tensor]:
        """``(block, width + 3)`` with the columns y − c, |y − c|², log p and 1."""
        if self._kept is None and self.data.numel() <= KEPT_NUMBERS:
            self._kept = list(self._made())
        yield from self._made() if self._kept is None else self._kept

    def _made(self) -> Iterator[Tensor]:
        pairs = zip(self.data.split(self.block_rows), self.log_weights.split(self.block_rows), strict=True)
        for block, logs in pairs:
            rows = block.double() - self.centre
            ones = torch.ones(len(rows), 1, dtype=rows.dtype, device=rows.device)
            yield torch.cat([rows, rows.square().sum(1, True), logs[:, None], ones], 1)


def softmax_moments(prepared: PreparedRows, offset: Tensor, alpha: Tensor, precision: Tensor) -> Moments:
    """Mean, total variance and log-sum for query rows.

    The variance is a difference of two sums: its rounding error is about 1e-16 |y − c|².

    Args:
        prepared: The data rows.
        offset: ``(rows, width)`` x − αc in float64.
        alpha: ``(rows, 1)``.
        precision: ``(rows, 1)`` 1/σ².
    """
    chunk = max(1, NUMBERS_AT_ONCE // prepared.block_rows)
    pull = precision * alpha
    queries = torch.cat([pull * offset, -0.5 * pull * alpha, torch.ones_like(alpha)], 1)
    parts = [_chunk_moments(prepared, part) for part in queries.split(chunk)]
    return Moments(*(torch.cat(column) for column in zip(*parts, strict=True))) if len(parts) != 1 else parts[0]


def _chunk_moments(prepared: PreparedRows, queries: Tensor) -> Moments:
    width = queries.shape[1] - 2
    top = queries.new_full((len(queries), 1), -torch.inf)
    sums = queries.new_zeros(len(queries), width + 3)
    for block in prepared.blocks():
        logits = queries @ block[:, :-1].T
        # A shift of the exponents cancels between sums and their total, so it needs no gradient.
        higher = torch.maximum(top, logits.detach().amax(1, keepdim=True))
        weights = logits.sub_(higher).exp_() if not logits.requires_grad else (logits - higher).exp()
        sums = sums * (top - higher).exp() + weights @ block  # the column of log p rides along, for want of a copy
        top = higher
    total = sums[:, -1:]
    mean, second = sums[:, :width] / total, sums[:, width : width + 1] / total
    variance = (second - mean.square().sum(1, True)).clamp(min=0)
    return Moments(mean, variance, top + total.log())
