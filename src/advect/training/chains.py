"""Batches of rows on smooth curves through all snapshots.

Rows of every snapshot are drawn and neighbours are paired as in `snapshots`; following the pairs from the last time to
the first makes chains x_0, …, x_K. Through each goes the natural cubic spline at the times of the snapshots (second
derivative 0 at both ends), and a batch holds of each chain one piece, drawn at random: two rows, where they stand, and
the slopes of the spline there.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Generator, Tensor

from advect.records import Batch
from advect.training.batches import Epochs, Phase, untimed
from advect.training.seeding import mix
from advect.training.snapshots import Snapshots


def spline_slopes(positions: Sequence[float]) -> np.ndarray:
    """The matrix that takes values at the knots ``(knots,)`` to the slopes of their natural cubic spline there."""
    knots = np.asarray(positions, dtype=np.float64)
    if len(knots) == 2:  # a line
        return np.array([[-1.0, 1.0], [-1.0, 1.0]]) / (knots[1] - knots[0])
    return CubicSpline(knots, np.eye(len(knots)), bc_type="natural")(knots, 1)


class ChainBatches:
    """Batches of pieces of splines; the same verbs as `Batches`.

    Args:
        snapshots: The rows.
        batch_size: Chains per batch, and rows of every snapshot.
        seed: Of the shuffling.
    """

    def __init__(self, snapshots: Snapshots, batch_size: int, seed: int) -> None:
        self.snapshots, self.batch_size = snapshots, batch_size
        self.epochs = [Epochs(rows.num_rows, batch_size, mix(seed, k)) for k, rows in enumerate(snapshots.rows)]
        self.slopes = torch.from_numpy(spline_slopes(snapshots.positions))
        self.report: dict[str, float] = {}

    def draw(self, step: int, generator: Generator, phase: Phase = untimed) -> Batch:
        """Rows of every snapshot, chained by the couplings, and a piece of each chain."""
        each = zip(self.snapshots.rows, self.epochs, strict=True)
        with phase("data"):
            rows = torch.stack([rows.draw(epochs.rows(step), generator) for rows, epochs in each], 1)
        with phase("coupling"):
            return self._pieces(*self._chained(rows, generator), generator)

    def step_seconds(self, seconds: float) -> float:
        """Nothing is prepared beside the loop."""
        return seconds

    def _pieces(self, chains: Tensor, weight: Tensor | None, generator: Generator) -> Batch:
        """One piece of each chain, drawn at random."""
        places = torch.tensor(self.snapshots.positions, dtype=chains.dtype, device=chains.device)
        slopes = torch.einsum("kj,bj...->bk...", self.slopes.to(chains), chains)
        count, pieces = len(chains), len(self.snapshots.couplings)
        piece = torch.randint(pieces, (count,), generator=generator, device=generator.device).to(chains.device)
        row = torch.arange(count, device=chains.device)
        length = (places[piece + 1] - places[piece]).reshape(-1, *([1] * (chains.ndim - 2)))
        return Batch(
            x1=chains[row, piece + 1],
            x0=chains[row, piece],
            weight=weight,
            interval=torch.stack([places[piece], places[piece + 1]], 1),
            slopes=torch.stack([length * slopes[row, piece], length * slopes[row, piece + 1]], 1),
        )

    def _chained(self, rows: Tensor, generator: Generator) -> tuple[Tensor, Tensor | None]:
        """Chains ``(batch, snapshots, *event)`` and their weights, from the last snapshot back to the first."""
        chain, weight = rows[:, -1:], None
        reports: list[dict[str, float]] = []
        for k in reversed(range(len(self.snapshots.couplings))):
            pairs = self.snapshots.couplings[k].draw(rows[:, k], chain[:, 0], generator=generator)
            reports.append(dict(pairs.report))
            chain = torch.cat([rows[pairs.index0, k].unsqueeze(1), chain[pairs.index1]], 1)
            weight = None if weight is None else weight[pairs.index1]
            if pairs.weight is not None:
                weight = pairs.weight if weight is None else weight * pairs.weight
        names = {name for report in reports for name in report}
        self.report = {name: float(np.mean([report.get(name, 0.0) for report in reports])) for name in sorted(names)}
        return chain, weight
