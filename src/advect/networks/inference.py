"""The plain network without a graph: the same numbers in fewer passes over memory.

`MLP.forward` is the reading version; this one is for solvers, which ask a network thousands of times for one answer. A
time that all rows share goes into the first layer's bias in place of a column of every row, and activations are taken
in place, which autograd could not undo. In float32 the two agree to rounding.

Asked for another dtype, all layers compute in it, while time, state and all sums of a solver stay as they are. In
bfloat16 that is faster by as much as the processor's products in it are; the velocity is then off by about 2⁻⁸ of its
size, so it is for samples and never for a log-density.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advect.networks.perceptron import rows_of
from advect.networks.perceptron_pass import Quick
from advect.networks.regressor import plain_linears

if TYPE_CHECKING:
    from advect.networks.mlp import MLP


class MLPInference:
    """``pass(t, x, condition) -> (batch, *event)`` with the weights the network has now.

    Args:
        network: Whose velocity is asked for.
        dtype: Of the layers; None for that of the network.
    """

    def __init__(self, network: "MLP", dtype: torch.dtype | None = None) -> None:
        self._network = network
        first, *inner = network.hidden
        weight, bias = first.get_parameter("weight").detach(), first.get_parameter("bias").detach()
        self._dtype = weight.dtype if dtype is None else dtype
        self._bias, self._of_time = bias, weight[:, network.features :].T
        self._of_rows = weight[:, : network.features].to(self._dtype).T
        layers = [(layer.get_parameter("weight"), layer.get_parameter("bias")) for layer in (*inner, network.output)]
        self._first = weight.to(self._dtype).T, bias.to(self._dtype)
        plain = plain_linears([*network.hidden, network.output]) if self._dtype == weight.dtype else None
        self._quick = None if plain is None else Quick(plain, network.activation.function)
        self._layers = [(w.detach().to(self._dtype).T, b.detach().to(self._dtype)) for w, b in layers]

    def __call__(self, t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Velocity; shapes as for the network."""
        time, flat, condition = self._network.flatten(t, x, condition)
        if self._quick is not None:
            found = self._quick(rows_of(flat, self._network.time(time), condition))
            if found is not None:
                return found.reshape(x.shape)
        if len(time) == 1 and condition is None:
            bias = torch.addmm(self._bias, self._network.time(time), self._of_time)
            h = torch.addmm(bias.to(self._dtype), flat.to(self._dtype), self._of_rows)
        else:
            weight, bias = self._first
            h = torch.addmm(bias, self._network.inputs(time, flat, condition).to(self._dtype), weight)
        act = self._network.activation.in_place
        h = act(h)
        *inner, (last, bias) = self._layers
        for weight, shift in inner:
            h = act(torch.addmm(shift, h, weight))
        return torch.addmm(bias, h, last).to(x.dtype).reshape(x.shape)
