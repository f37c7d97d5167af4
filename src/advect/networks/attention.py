"""Self-attention among tokens, softmax(q kᵀ/√d) v.

torch's fused attention computes it. On processors its way back in bfloat16 takes longer than that in float32, so there
it goes back in float32 from the bfloat16 numbers it was given: quicker by a fifth or more, and no less exact.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from advect import compiled

_forward: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_back: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)


def attention(tokens: Float[Tensor, "batch tokens 3 heads each"]) -> Float[Tensor, "batch tokens heads each"]:
    """What every token gathers from all of its row, by q, k and v, which lie side by side."""
    if (
        tokens.is_cpu
        and tokens.dtype == torch.bfloat16
        and type(tokens) is Tensor
        and tokens.requires_grad
        and torch.is_grad_enabled()
        and tokens.numel() > 0
        and not compiled.watched(autocast=False)
        and not (_forward is None or _back is None)
    ):
        return _Attention.apply(tokens)
    q, k, v = _parts(tokens)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _parts(tokens: Tensor) -> tuple[Tensor, ...]:
    """q, k and v ``(batch, heads, tokens, each)``."""
    return tokens.transpose(1, 3).unbind(2)


class _Attention(torch.autograd.Function):
    """In bfloat16 there and in float32 back; second derivatives go through plain operations."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor) -> Tensor:
        out, log_sums = _forward(*_parts(tokens))
        ctx.save_for_backward(tokens, out, log_sums)
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        tokens, out, log_sums = ctx.saved_tensors
        gradient = gradients[0].transpose(1, 2)
        if torch.is_grad_enabled():
            q, k, v = _parts(tokens)
            again = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v
            return torch.autograd.grad(again, tokens, gradient, create_graph=True)[0]
        wide = (part.float() for part in (gradient, *_parts(tokens), out))
        found = torch.empty_like(tokens)
        for part, by in zip(_parts(found), _back(*wide, log_sums, 0.0, False), strict=True):
            part.copy_(by)
        return found
