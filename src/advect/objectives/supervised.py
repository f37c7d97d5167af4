"""Losses of networks that are no flows: what else is trained by the one loop."""

from dataclasses import dataclass

from torch import Generator, Tensor, nn
from torch.nn import functional

from advect.records import Batch


@dataclass(frozen=True)
class CrossEntropy:
    """−log of the probability of each row's class; the batch's condition holds the class, one-hot."""

    def __call__(self, flow: nn.Module, batch: Batch, *, generator: Generator | None = None) -> Tensor:
        """Loss ``(batch,)`` in nats."""
        assert batch.condition is not None
        return functional.cross_entropy(flow(batch.x1), batch.condition, reduction="none")
