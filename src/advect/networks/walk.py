"""A masked network evaluated coordinate by coordinate, each hidden unit once.

To invert an autoregressive map, parameters of a coordinate are needed as soon as those before it are known. A walk
keeps all that has been computed. At each level it gives the parameters of the coordinates of that level, takes their
values, and computes the units for which these were the last thing missing. Over all levels that is the work of one
pass, in small pieces; what remains is the cost of calling operations, so there are as few as possible: all slices are
cut at the start.

Values lie transposed, units × rows: a piece is then one contiguous block.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from advect.networks.masked import MaskedMLP


class Walk:
    """One walk over the levels of a masked network: call `parameters`, then `push`, once per level.

    Args:
        network: The network.
        rows: Number of rows.
        condition: ``(rows, condition)`` or None.
    """

    def __init__(self, network: "MaskedMLP", rows: int, condition: Tensor | None = None) -> None:
        bias = network.output_bias
        order = torch.tensor(network.levels.order, device=bias.device)
        coordinates, units, each = network.levels.sizes, network.unit_sizes, network.num_parameters
        self._network, self._rows, self._level = network, rows, 0
        self._x = _Known(coordinates, rows, bias)
        self._units = [_Known(units, rows, bias) for _ in network.hidden]

        weights = network.hidden_weights()
        biases = [layer.get_parameter("bias").unsqueeze(1) for layer in network.hidden]
        if weights and condition is not None:
            biases[0] = torch.addmm(biases[0], weights[0][:, network.features :], network.seen(condition).T)
        if weights:
            weights[0] = weights[0].index_select(1, order)
        self._weights, self._biases = [w.split(units) for w in weights], [b.split(units) for b in biases]

        out = network.weight_of_output()
        pieces = [each * size for size in coordinates]
        self._out = None if out is None else out.transpose(0, 1).index_select(0, order).flatten(0, 1).split(pieces)
        self._out_biases = bias.T.index_select(0, order).reshape(-1, 1).split(pieces)
        self._compute()

    def parameters(self) -> Tensor:
        """``(coordinates of this level, rows, num_parameters)`` in the dtype of the network."""
        bias = self._out_biases[self._level]
        if self._out is None:
            out = bias.expand(-1, self._rows)
        else:
            out = self._units[-1].product(self._out[self._level], bias)
        return out.unflatten(0, (-1, self._network.num_parameters)).transpose(1, 2)

    def push(self, values: Tensor) -> None:
        """Take the values ``(coordinates of this level, rows)``, and go to the next level."""
        self._x.append(self._network.seen(values))
        self._level += 1
        if self._level < len(self._out_biases):
            self._compute()

    def _compute(self) -> None:
        """The hidden units that can be computed from this level on, in every layer."""
        if not self._network.unit_sizes[self._level]:
            return
        below = self._x
        for units, weights, biases in zip(self._units, self._weights, self._biases, strict=True):
            sums = below.product(weights[self._level], biases[self._level])
            units.append(self._network.activation(sums))
            below = units


class _Known:
    """A matrix found block by block: in place among zeros, or as a growing copy where a graph must stay."""

    def __init__(self, sizes: tuple[int, ...], rows: int, like: Tensor) -> None:
        self._graph = torch.is_grad_enabled()
        self._all = like.new_zeros(0 if self._graph else sum(sizes), rows)
        self._blocks = iter(() if self._graph else self._all.split([size for size in sizes if size]))

    def append(self, block: Tensor) -> None:
        if self._graph:
            self._all = torch.cat([self._all, block])
        else:
            next(self._blocks).copy_(block)

    def product(self, weight: Tensor, bias: Tensor) -> Tensor:
        """``weight`` times all that is known, plus ``bias``; the weights of what is not known yet are zero."""
        return torch.addmm(bias, weight[:, : len(self._all)] if self._graph else weight, self._all)
