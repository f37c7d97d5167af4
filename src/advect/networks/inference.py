"""The plain network without a graph: the same numbers in fewer passes over memory.

`MLP.forward` is the reading version; this one is for solvers, which ask a network thousands of times for one answer. A
time that all rows share goes into the first layer's bias in place of a column of every row, and activations are taken
in place, which autograd could not undo. In float32 the two agree to rounding.

Asked for another dtype, all layers compute in it, while time, state and all sums of a solver stay as they are. In
bfloat16 that is faster by as much as the processor's products in it are; the velocity is then off by about 2⁻⁸ of its
size, so it is for samples and never for a log-density. Asked for none, a network in float32 has the products that
torch's setting for them allows (`perceptron.allowed`).
"""

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advect.networks.perceptron import allowed, given_as, rows_of
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
        weight = network.output.get_parameter("weight")
        self._dtype = weight.dtype if dtype is None else dtype
        known = given_as(self._dtype) == weight.dtype
        plain = plain_linears([*network.hidden, network.output]) if known else None
        # What was asked for by name is taken as it is.
        precision = allowed(self._dtype) if dtype is None else self._dtype
        self._quick = None if plain is None else Quick(plain, network.activation.function, precision)
        if self._quick is None:
            _ = self._layers, self._of_time  # the weights of now

    @cached_property
    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        """Weight, turned, and bias of every layer, for torch's operations."""
        layers = (*self._network.hidden, self._network.output)
        pairs = ((layer.get_parameter("weight"), layer.get_parameter("bias")) for layer in layers)
        return [(w.detach().to(self._dtype).T, b.detach().to(self._dtype)) for w, b in pairs]

    @cached_property
    def _of_time(self) -> tuple[Tensor, Tensor]:
        """The first layer's weight for the features of the time, turned, and its bias, in the network's dtype."""
        first = self._network.hidden[0]
        weight, bias = first.get_parameter("weight").detach(), first.get_parameter("bias").detach()
        return weight[:, self._network.features :].T, bias

    def __call__(self, t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Velocity; shapes as for the network."""
        time, flat, condition = self._network.flatten(t, x, condition)
        # Weights have no gradient here, but points may: a divergence by autograd asks for theirs.
        followed = torch.is_grad_enabled() and any(
            part is not None and part.requires_grad for part in (flat, time, condition)
        )
        if self._quick is not None and not followed:
            found = self._quick(rows_of(flat, self._network.time(time), condition))
            if found is not None:
                return found.reshape(x.shape)
        (first, bias), *inner, (last, shift) = self._layers
        if len(time) == 1 and condition is None:
            of_time, start = self._of_time
            start = torch.addmm(start, self._network.time(time), of_time)
            h = torch.addmm(start.to(self._dtype), flat.to(self._dtype), first[: self._network.features])
        else:
            h = torch.addmm(bias, self._network.inputs(time, flat, condition).to(self._dtype), first)
        act = self._network.activation.in_place
        h = act(h)
        for weight, bias in inner:
            h = act(torch.addmm(bias, h, weight))
        return torch.addmm(shift, h, last).to(x.dtype).reshape(x.shape)
