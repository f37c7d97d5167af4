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
from advect.training.snapshots import Picked, Snapshots, drawn_beside, pair


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
        self.coupling = snapshots.couplings[-1]  # that there is one
        self.report: dict[str, float] = {}

    @property
    def num_rows(self) -> int:
        """Of the last snapshot."""
        return self.snapshots.rows[-1].num_rows

    def draw(self, step: int, generator: Generator, phase: Phase = untimed, *, steps: int = 1) -> Batch:
        """Rows of every snapshot, chained by the couplings, and a piece of each chain; of several steps together."""
        with phase("data"):
            index = [torch.cat([epochs.rows(step + i) for i in range(steps)]) for epochs in self.epochs]
            each = zip(self.snapshots.rows, index, strict=True)
            if self.snapshots.rows[-1].condition is None:
                drawn = [Picked.of(rows, chosen, generator) for rows, chosen in each]
            else:  # those before are drawn beside the rows that a chain has
                drawn = [Picked.of(self.snapshots.rows[-1], index[-1], generator)]
        with phase("coupling"):
            return self._pieces(*self._chained(drawn, index, generator), generator)

    def step_seconds(self, seconds: float) -> float:
        """Nothing is prepared beside the loop."""
        return seconds

    def _pieces(self, chains: Tensor, weight: Tensor | None, condition: Tensor | None, generator: Generator) -> Batch:
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
            condition=condition,
            weight=weight,
            interval=torch.stack([places[piece], places[piece + 1]], 1),
            slopes=torch.stack([length * slopes[row, piece], length * slopes[row, piece + 1]], 1),
        )

    def _chained(
        self, drawn: list[Picked], index: list[Tensor], generator: Generator
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Chains ``(batch, snapshots, *event)``, their weights and conditions, from the last snapshot to the first."""
        chain, weight, end = drawn[-1].x.unsqueeze(1), None, drawn[-1]
        condition = end.condition
        reports: list[dict[str, float]] = []
        for k in reversed(range(len(self.snapshots.couplings))):
            coupling, alike = self.snapshots.couplings[k], condition is not None
            early = drawn_beside(end, self.snapshots.rows[k], index[k], coupling, generator) if alike else drawn[k]
            pairs = pair(coupling, early, end, generator)
            reports.append(dict(pairs.report))
            early = early.some(pairs.index0)
            chain = torch.cat([early.x.unsqueeze(1), chain[pairs.index1]], 1)
            condition = None if condition is None else condition[pairs.index1]
            weight = None if weight is None else weight[pairs.index1]
            if pairs.weight is not None:
                weight = pairs.weight if weight is None else weight * pairs.weight
            end = early
        names = {name for report in reports for name in report}
        self.report = {name: float(np.mean([report.get(name, 0.0) for report in reports])) for name in sorted(names)}
        return chain, weight, condition
