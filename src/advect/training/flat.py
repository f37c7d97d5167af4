"""Tensors one after another in one buffer, so that one call does for all of them what would take a call for each.

On a small network the optimiser, the average and the norm of the gradients cost a call per weight matrix and bias, and
next to no arithmetic. Laid out in one buffer they cost one each.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ALIGNED = 64
"""Bytes at whose multiples every tensor starts: a cache line. What lies between two tensors stays zero."""


class Flat:
    """Room for tensors of these shapes.

    Args:
        like: Tensors of one device and dtype.

    Attributes:
        whole: One vector of all of them and of the gaps between them, zeros at first.
        parts: The tensors, as views of it.
    """

    def __init__(self, like: Sequence[Tensor]) -> None:
        grain = ALIGNED // like[0].element_size()
        starts, end = [], 0
        for tensor in like:
            starts.append(end)
            end += -(-tensor.numel() // grain) * grain
        self.whole = torch.zeros(end, dtype=like[0].dtype, device=like[0].device)
        self.parts = [
            self.whole[start : start + tensor.numel()].view(tensor.shape)
            for start, tensor in zip(starts, like, strict=True)
        ]

    def holds(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these tensors, in this order, are the parts."""
        return len(tensors) == len(self.parts) and all(
            tensor.data_ptr() == part.data_ptr() and tensor.shape == part.shape
            for tensor, part in zip(tensors, self.parts, strict=True)
        )

    @torch.no_grad()
    def take_in(self, parameters: Sequence[nn.Parameter]) -> None:
        """Move the numbers of ``parameters`` here; each then is a part."""
        for parameter, part in zip(parameters, self.parts, strict=True):
            part.copy_(parameter)
            parameter.data = part


def can_be_flat(tensors: Sequence[Tensor]) -> bool:
    """Whether the tensors are of one device and floating dtype and each lies in its plain order."""
    kinds = {(tensor.device, tensor.dtype) for tensor in tensors}
    return len(kinds) == 1 and all(t.is_contiguous() and t.is_floating_point() for t in tensors)
