"""The mean loss of a batch as a sum of shares, each of some of its rows.

A share is what fits into memory at once, or what one of several processes does. All draws are made for the whole batch
first where the objective allows it (`DrawingObjective`), so the sum is the same however the rows are shared out.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import Generator, Tensor, nn

from advect.objectives import regression_loss
from advect.records import Batch, Drawn, Regression, take
from advect.training.seeding import TRAINING, generator_for
from advect.training.workers import Workers
from advect.typing import DrawingObjective, Objective


def share_losses(
    objective: Objective,
    flow: nn.Module,
    batch: Batch,
    generator: Generator,
    pieces: list[slice],
    precision: AbstractContextManager,
) -> Iterator[Tensor]:
    """One scalar per piece; over all rows of the batch they add up to its weighted mean loss.

    Args:
        objective: Loss per row. One that draws and is no `DrawingObjective` draws for every piece anew.
        flow: What is trained.
        batch: All rows.
        generator: Of the draws.
        pieces: Rows of each share.
        precision: The arithmetic of the losses; entered once for each.
    """
    rows = batch.x1.shape[0]
    drawn = batch.drawn
    if drawn is None and isinstance(objective, DrawingObjective):
        drawn = objective.draw(batch, generator=generator)
    for piece in pieces:
        with precision:
            if drawn is not None:
                loss = _of_drawn(objective, flow, drawn, piece)
            else:
                own = generator_for(generator.initial_seed(), TRAINING, piece.start)
                loss = objective(flow, take(batch, piece), generator=own)
            if batch.weight is None:
                share = loss.sum() / rows
            else:
                share = (loss * batch.weight[piece]).sum() / total_weight(batch.weight, loss.dtype)
        yield share


def mean_loss(objective: Objective, flow: nn.Module, batch: Batch, generator: Generator) -> Tensor:
    """The weighted mean loss of all rows; where all have weight zero it is zero, not 0/0."""
    loss = row_losses(objective, flow, batch, generator)
    if batch.weight is not None:
        return (loss * batch.weight).sum() / total_weight(batch.weight, loss.dtype)
    return loss.mean()


def row_losses(objective: Objective, flow: nn.Module, batch: Batch, generator: Generator) -> Tensor:
    """Loss ``(batch,)``, of what was drawn ahead where something was."""
    if batch.drawn is None:
        return objective(flow, batch, generator=generator)
    return _of_drawn(objective, flow, batch.drawn, slice(None))


def _of_drawn(objective: Objective, flow: nn.Module, drawn: Drawn | Regression, rows: slice) -> Tensor:
    if isinstance(drawn, Regression):
        return regression_loss(take(drawn, rows))
    assert isinstance(objective, DrawingObjective)
    return objective.loss(flow, take(drawn, rows))


def total_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum of the rows' weights; not zero, so that the loss of a batch whose rows all weigh nothing is 0 and not 0/0."""
    return weight.sum().clamp(min=torch.finfo(dtype).tiny)


def pieces_of(num_rows: int, workers: Workers, most: int) -> list[slice]:
    """The rows of this process, at most ``most`` at a time (0: all)."""
    own = workers.own(num_rows)
    length = most or max(1, own.stop - own.start)
    return [slice(start, min(start + length, own.stop)) for start in range(own.start, own.stop, length)]
