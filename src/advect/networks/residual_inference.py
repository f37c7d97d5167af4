"""The residual network without a graph, for solvers, which ask it thousands of times for one answer.

In one compiled call where there is one (`residual_pass`), with the weights packed once; elsewhere as it is. Asked for
another dtype the products are those of autocast, while time, state and all sums of a solver stay as they are.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advect.networks.perceptron import rows_of

if TYPE_CHECKING:
    from advect.networks.residual import ResidualMLP


class ResidualInference:
    """``pass(t, x, condition) -> (batch, *event)`` with the weights the network has now.

    Args:
        network: Whose velocity is asked for.
        dtype: Of the products; None for that of the network.
    """

    def __init__(self, network: "ResidualMLP", dtype: torch.dtype | None = None) -> None:
        weight = network.output.get_parameter("weight")
        self._network = network
        self._rounded = None if dtype in (None, weight.dtype) else dtype
        self._quick = None if self._rounded else network.quick()

    def __call__(self, t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Velocity; shapes as for the network."""
        if self._quick is not None:
            time, flat, given = self._network.flatten(t, x, condition)
            # Weights have no gradient here, but points may: a divergence by autograd asks for theirs.
            parts = (flat, time, given)
            if not torch.is_grad_enabled() or not any(part is not None and part.requires_grad for part in parts):
                found = self._quick(rows_of(flat, self._network.time(time), given))
                if found is not None:
                    return found.reshape(x.shape)
        precision: AbstractContextManager = nullcontext()
        if self._rounded is not None:
            precision = torch.autocast(x.device.type, self._rounded)
        with precision:
            return self._network(t, x, condition).to(x.dtype)
