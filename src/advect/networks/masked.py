"""A masked network: parameters for each coordinate from those it may look at, all in one pass.

Each hidden unit has a set of inputs it knows; a weight is kept only where what is known below is known above, and an
output hears the units that know no more than it may (MADE: Germain et al. 2015, arXiv 1502.03509, eqs. 8-9, there with
nested sets {1 … m}, "degrees"; any adjacency without cycles works alike). The sets are those of the outputs, so every
permitted dependence is there, and no other.

Rows arrive at unit scale, but the inverse feeds a coordinate's outlier to all later ones, and a network that grows
linearly would enlarge it each time, exponentially in the dimension. Inputs are therefore clipped ten standard
deviations out, and with them all parameters are bounded, whatever the row.

The units see steep inputs, silu(3 W h + b): at unit scale a unit of gain one is nearly linear, and Adam, whose steps
do not know the scale of a weight, takes several times as long to bend it.

A condition is known to every unit. Units that know *nothing but* the condition are kept: without them the first
coordinate, or the only one, would see it at most linearly or not at all.

The same network can be walked coordinate by coordinate: units are sorted by the level at which all they need is known,
so that a walk computes each of them once, and an inverse costs one pass instead of one per coordinate.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from advect.errors import unknown_name
from advect.networks.dependence import Levels, check_adjacency, find_levels, within
from advect.networks.field import check_sizes
from advect.networks.layers import ACTIVATIONS, linear
from advect.networks.walk import Walk

# No divergence is taken of this network, so kinks are allowed.
_FUNCTIONS = {"relu": F.relu} | {name: found.function for name, found in ACTIVATIONS.items()}


class MaskedMLP(nn.Module):
    """``network(x, condition) -> (batch, features, num_parameters)``, those of i functions of ``x[:, adjacency[i]]``.

    Args:
        adjacency: ``(features, features)`` booleans, [i, j] if output i may look at input j; without cycles. For an
            order see `networks.dependence.chain`.
        num_parameters: Numbers for each coordinate.
        condition_features: Numbers in one condition, 0 for none.
        width: Units in each hidden layer; raised to the number of different rows of the adjacency where it is less,
            for each needs a unit of its own.
        depth: Number of hidden layers.
        activation: ``relu``, or one of `networks.layers`: ``silu``, ``elu``, ``tanh``, ….
        gain: What the weights of hidden layers are multiplied by at use.
        reach: Inputs beyond ±reach count as ±reach; infinity to clip none. Conditions are taken as they are.
        generator: Draws the initial weights.

    The last layer starts at zero. Where no output may look at anything and there is no condition, there are no hidden
    layers, and the parameters are numbers that can be learnt.

    Raises `ConfigError` for sizes below one and for an adjacency with a cycle, which is named.
    """

    adjacency: Tensor
    input_mask: Tensor
    inner_mask: Tensor
    output_mask: Tensor

    def __init__(
        self,
        adjacency: Tensor,
        num_parameters: int,
        condition_features: int = 0,
        *,
        width: int = 64,
        depth: int = 2,
        activation: str = "silu",
        gain: float = 3.0,
        reach: float = 10.0,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        features = len(adjacency)
        check_sizes("MaskedMLP", features=features, num_parameters=num_parameters, width=width, depth=depth)
        self.features, self.num_parameters = features, num_parameters
        self.condition_features = condition_features
        if activation not in _FUNCTIONS:
            raise unknown_name("activation", activation, _FUNCTIONS)
        self.activation, self.gain, self.reach = _FUNCTIONS[activation], gain, reach
        adjacency = check_adjacency(adjacency, features).clone()
        self.register_buffer("adjacency", adjacency)
        sets = _known_sets(adjacency, find_levels(adjacency), bool(condition_features))
        self.width = max(width, len(sets)) if len(sets) else 0
        for name in ("input_mask", "inner_mask", "output_mask"):
            self.register_buffer(name, torch.empty(0), persistent=False)
        self._arrange()

        sizes = [features + condition_features, *[self.width] * depth] if self.width else []
        self.layers = [linear(a, b, generator=generator) for a, b in pairwise(sizes)]
        self.hidden = nn.ModuleList(self.layers)
        self.output_bias = nn.Parameter(torch.zeros(num_parameters, features))
        weight = nn.Parameter(torch.zeros(num_parameters, features, self.width)) if self.width else None
        self.register_parameter("output_weight", weight)
        self._start()

    def forward(
        self, x: Float[Tensor, "batch features"], condition: Float[Tensor, "batch condition"] | None = None
    ) -> Float[Tensor, "batch features parameters"]:
        """The parameters of every coordinate, in the dtype of ``x``; the network computes in its own.

        In memory rows come last, so that each parameter is one contiguous block: functions with many parameters run
        along points instead of along parameters.
        """
        h = self.seen(x)
        if condition is not None:
            h = torch.cat([h, condition.to(h.dtype)], dim=1)
        for weight, layer in zip(self.hidden_weights(), self.layers, strict=True):
            h = self.activation(F.linear(h, weight, layer.bias))
        bias, weight = self.output_bias.unsqueeze(-1), self.weight_of_output()
        if weight is None:
            out = bias.expand(-1, -1, len(x))
        else:
            out = torch.addmm(bias.flatten(0, 1), weight.flatten(0, 1), h.T).unflatten(0, bias.shape[:2])
        return out.permute(2, 1, 0).to(x.dtype)

    def walk(self, rows: int, condition: Float[Tensor, "batch condition"] | None = None) -> Walk:
        """The same parameters level by level, each hidden unit computed once; see `networks.walk`."""
        return Walk(self, rows, condition)

    def hidden_weights(self) -> list[Tensor]:
        """The masked weights of the hidden layers."""
        return [layer.weight * mask for layer, mask in zip(self.layers, self._hidden_masks(), strict=True)]

    def perturb(self, size: float, *, generator: Generator | None = None) -> None:
        """Redraw the last layer so that the parameters have a standard deviation of about ``size``.

        For tests and pictures that need a map which is not the identity.
        """
        with torch.no_grad():
            self.output_bias.normal_(0, size, generator=generator)
            if self.output_weight is not None:
                self.output_weight.normal_(0, size / self.width**0.5, generator=generator).mul_(self.output_mask)

    def _hidden_masks(self) -> list[Tensor]:
        return [self.inner_mask if index else self.input_mask for index in range(len(self.layers))]

    def weight_of_output(self) -> Tensor | None:
        """The masked weight of the output ``(num_parameters, features, width)``; None without hidden layers."""
        return None if self.output_weight is None else self.output_weight * self.output_mask

    def seen(self, x: Tensor) -> Tensor:
        """Inputs as the first layer sees them, in the dtype of the network."""
        return x.clamp(-self.reach, self.reach).to(self.output_bias.dtype)

    def _arrange(self) -> None:
        """Levels, units and masks from the adjacency; again after loading, for an order may have been drawn."""
        adjacency = self.adjacency.cpu()
        self.levels = find_levels(adjacency)
        sets = _known_sets(adjacency, self.levels, bool(self.condition_features))
        # As many units for each set as for any other, sorted as the sets are: by the level at which all is known.
        known = sets[torch.arange(self.width).remainder(max(1, len(sets))).sort().values]
        level = torch.tensor(self.levels.of)
        first = torch.where(known, level + 1, 0).amax(1)
        self.unit_sizes = tuple(torch.bincount(first, minlength=len(self.levels.sizes)).tolist())
        condition = known.new_ones(self.width, self.condition_features)
        self._set("input_mask", torch.cat([known, condition], dim=1) * self.gain)
        self._set("inner_mask", within(known, known) * self.gain)
        self._set("output_mask", within(known, adjacency))

    def _set(self, name: str, mask: Tensor) -> None:
        old = self.get_buffer(name)
        setattr(self, name, mask.to(old.device, old.dtype))

    @torch.no_grad()
    def _start(self) -> None:
        """Weights stored masked, and as large as a layer with the inputs that are left would have drawn them."""
        for layer, mask in zip(self.layers, self._hidden_masks(), strict=True):
            allowed = (mask != 0).to(mask.dtype)
            share = allowed.mean(1, keepdim=True).clamp(min=1 / allowed.shape[1])
            layer.weight.mul_(allowed / share.sqrt())
            layer.bias.mul_(self.gain)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, *rest: object, **more: object
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest, **more)
        self._arrange()


def _known_sets(adjacency: Tensor, levels: Levels, condition: bool) -> Tensor:
    """The sets of inputs that hidden units may know ``(sets, features)``, by level: the rows of the adjacency.

    Units that know no input are of use only where there is a condition.
    """
    sets = torch.unique(adjacency, dim=0)
    if not condition:
        sets = sets[sets.any(1)]
    if not len(sets):
        return sets
    level = torch.tensor(levels.of)
    return sets[torch.where(sets, level + 1, 0).amax(1).argsort(stable=True)]
