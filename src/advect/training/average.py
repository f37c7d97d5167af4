"""Averaged weights: an exponential moving average that forgets its start.

The decay at step s is min(decay, (1 + s)/(10 + s)), so that the first averages follow the weights closely instead of
remembering the initialisation for 1/(1 - decay) steps.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from advect.training.flat import Flat


class WeightAverage:
    """An exponential moving average of a module's trainable parameters.

    Args:
        module: Whose parameters are averaged; its buffers are not.
        decay: Weight of the past per step; 1 keeps the start values, 0 copies the weights.
        values: Where those parameters lie in one buffer, that buffer.
    """

    def __init__(self, module: nn.Module, decay: float, values: Flat | None = None) -> None:
        self.decay = decay
        self.names = [name for name, p in module.named_parameters() if p.requires_grad]
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self._values, self._flat = values, None if values is None else Flat(self.parameters)
        self.shadow = [torch.empty_like(p) for p in self.parameters] if self._flat is None else self._flat.parts
        with torch.no_grad():
            torch._foreach_copy_(self.shadow, [p.detach() for p in self.parameters])

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step ``step`` (counted from 1)."""
        if self._flat is not None and self._values is not None:
            self._flat.whole.lerp_(self._values.whole, self.share(step))
        else:
            torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], self.share(step))

    def share(self, step: int) -> float:
        """How far the average goes towards the weights after step ``step`` (counted from 1)."""
        return 1.0 - (self.decay if self.decay in (0.0, 1.0) else min(self.decay, (1 + step) / (10 + step)))

    def lies_beside(self, values: Flat) -> bool:
        """Whether this is an average of what lies in ``values``, in one buffer laid out alike."""
        return self._flat is not None and self._values is values

    @property
    def whole(self) -> Tensor:
        """That buffer."""
        assert self._flat is not None
        return self._flat.whole

    @torch.no_grad()
    def copy_to_module(self) -> None:
        """Put the averaged weights into the module for good."""
        torch._foreach_copy_([p.detach() for p in self.parameters], self.shadow)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the averaged weights inside the block; the trained ones return after it."""
        kept = [p.detach().clone() for p in self.parameters]
        self.copy_to_module()
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_([p.detach() for p in self.parameters], kept)

    def tensors(self) -> dict[str, Tensor]:
        """The averages by parameter name."""
        return dict(zip(self.names, self.shadow, strict=True))

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        for name, shadow in zip(self.names, self.shadow, strict=True):
            shadow.copy_(tensors[name])
