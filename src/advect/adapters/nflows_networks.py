"""The networks inside nflows' layers, as plain modules of the same weights. See `adapters.nflows`.

Dropout is left out: a copy answers as the original does in evaluation mode.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advect.adapters.plain import comes_from, dense, refused


class Residuals(nn.Module):
    """nflows' `ResidualNet`: ``network(x, condition) -> (batch, outputs)``, the condition gating every block.

        h = W [x, c] + b;   h ← h + r,   r = A₂ a(A₁ a(h)),  with a condition  r ← glu([r, C c])

    Args:
        origin: The network.
        order: Which of its outputs comes where; None leaves them.
    """

    def __init__(self, origin: Any, order: Tensor | None = None) -> None:
        super().__init__()
        self.first, self.last = dense(origin.initial_layer), dense(origin.final_layer)
        self.blocks = nn.ModuleList(_Block(block) for block in origin.blocks)
        contexts = [block.context_layer for block in origin.blocks if hasattr(block, "context_layer")]
        self.contexts = nn.ModuleList(dense(layer) for layer in contexts)
        if order is not None:
            for parameter in self.last.parameters():
                parameter.data = parameter.data[order]

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """``(batch, outputs)``."""
        dtype = self.first.weight.dtype
        if condition is None:
            h = self.first(x.to(dtype))
            for block in self.blocks:
                h = h + block(h)
        else:
            c = condition.to(dtype)
            h = self.first(torch.cat([x.to(dtype), c], dim=1))
            for block, context in zip(self.blocks, self.contexts, strict=True):
                h = h + F.glu(torch.cat([block(h), context(c)], dim=1), dim=1)
        return self.last(h).to(x.dtype)


class MaskedResiduals(nn.Module):
    """nflows' `MADE`: ``network(x, condition) -> (batch, outputs)``, masked, plain or with residual blocks.

    The condition is added where nothing masks it: to the first layer, behind an activation, and inside each residual
    block. Blocks of a plain network do not see it.
    """

    def __init__(self, origin: Any) -> None:
        super().__init__()
        self.residual, self.activation = origin.use_residual_blocks, _activation(origin)
        self.first, self.last = dense(origin.initial_layer), dense(origin.final_layer)
        self.context = dense(origin.context_layer) if hasattr(origin, "context_layer") else None
        self.blocks = nn.ModuleList(_Block(block) for block in origin.blocks)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """``(batch, outputs)``."""
        dtype = self.first.weight.dtype
        h, c = self.first(x.to(dtype)), None
        if condition is not None and self.context is not None:
            c = condition.to(dtype)
            h = h + self.activation(self.context(c))
        if not self.residual:
            h = self.activation(h)
        for block in self.blocks:
            h = h + block(h, c) if self.residual else block(h)
        return self.last(h).to(x.dtype)


class _Block(nn.Module):
    """The inside of one block: a(A h), or A₂ a(A₁ a(h) + C c) where the sum of C c comes from a masked network."""

    def __init__(self, origin: Any) -> None:
        super().__init__()
        if getattr(origin, "use_batch_norm", False) or getattr(origin, "batch_norm", None) is not None:
            raise refused(origin, "Batch normalisation lets rows influence one another")
        self.activation = _activation(origin)
        layers = getattr(origin, "linear_layers", None)
        self.layers = nn.ModuleList(dense(layer) for layer in (layers or [origin.linear]))
        masked = comes_from(origin, "nflows", "MaskedResidualBlock") and hasattr(origin, "context_layer")
        self.context = dense(origin.context_layer) if masked else None

    def forward(self, h: Tensor, condition: Tensor | None = None) -> Tensor:
        if len(self.layers) == 1:
            return self.activation(self.layers[0](h))
        inner = self.layers[0](self.activation(h))
        if condition is not None and self.context is not None:
            inner = inner + self.context(condition)
        return self.layers[1](self.activation(inner))


def _activation(origin: Any) -> Callable[[Tensor], Tensor]:
    """The function itself: it holds no weights, and is torch's or the user's own."""
    if isinstance(origin.activation, nn.Module) and any(True for _ in origin.activation.parameters()):
        raise refused(origin.activation, "An activation with weights of its own")
    return origin.activation
