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
        coordinates, units, each = network.levels.sizes, network.unit_sizes, network.num_parameters
        self._network, self._level = network, 0
        self._shapes = [(size, each, rows) for size in coordinates]

        # A constant one, as an input of every layer, makes biases weights; the condition is known from the start.
        one = bias.new_ones(1, rows)
        given = one if condition is None else torch.cat([one, condition.T.to(bias.dtype)])
        self._known = [_Known(given, coordinates), *(_Known(one, units) for _ in network.layers)]
        self._last = self._known[-1] if network.layers else _Known(one, ())
        *hidden, out = ordered_weights(network)
        self._weights = [weight.split(units) for weight in hidden]
        self._out = out.split([size * each for size in coordinates])
        self._compute()

    def parameters(self) -> Tensor:
        """``(coordinates of this level, rows, num_parameters)`` in the dtype of the network."""
        return self._last.times(self._out[self._level]).view(self._shapes[self._level]).transpose(1, 2)

    def push(self, values: Tensor) -> None:
        """Take the values ``(coordinates of this level, rows)``, and go to the next level."""
        self._known[0].append(self._network.seen(values))
        self._level += 1
        if self._level < len(self._out):
            self._compute()

    def _compute(self) -> None:
        """The hidden units that can be computed from this level on, in every layer."""
        if not self._network.unit_sizes[self._level]:
            return
        for below, weights, units in zip(self._known, self._weights, self._known[1:], strict=False):
            units.append(self._network.activation(below.times(weights[self._level])))


def ordered_weights(network: "MaskedMLP") -> list[Tensor]:
    """The masked weights of every layer as a walk meets them, each with its bias as the first column.

    Of the first layer the condition comes next, then the coordinates by level. The last matrix is that of the output:
    the parameters of one coordinate side by side, and the coordinates by level.
    """
    bias = network.output_bias
    order = torch.tensor(network.levels.order, device=bias.device)
    found: list[Tensor] = []
    for index, (layer, weight) in enumerate(zip(network.layers, network.hidden_weights(), strict=True)):
        parts = [layer.bias.unsqueeze(1), weight]
        if not index:
            parts[1:] = [weight[:, network.features :], weight.index_select(1, order)]
        found.append(torch.cat(parts, dim=1))
    out, weight = bias.unsqueeze(-1), network.weight_of_output()
    out = out if weight is None else torch.cat([out, weight], dim=2)
    found.append(out.transpose(0, 1).index_select(0, order).flatten(0, 1))
    return found


class _Known:
    """A matrix found block by block: in place among zeros, or as a growing copy where a graph must stay."""

    def __init__(self, given: Tensor, sizes: tuple[int, ...]) -> None:
        self._graph = torch.is_grad_enabled()
        self._all = given
        if not self._graph:
            self._all = torch.cat([given, given.new_zeros(sum(sizes), given.shape[1])])
            self._blocks = iter(self._all[len(given) :].split([size for size in sizes if size]))

    def append(self, block: Tensor) -> None:
        if self._graph:
            self._all = torch.cat([self._all, block])
        else:
            next(self._blocks).copy_(block)

    def times(self, weight: Tensor) -> Tensor:
        """``weight`` times all that is known; the weights of what is not known yet are zero."""
        return torch.mm(weight[:, : len(self._all)] if self._graph else weight, self._all)
