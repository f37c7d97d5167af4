"""Autoregressive maps over a masked network whose inside is not ours to walk."""

import torch
from torch import Generator, Tensor, nn

from advect.networks.dependence import find_levels
from advect.records import Mapped
from advect.transforms.bijection import Bijection, mapped
from advect.transforms.monotone import Monotone


class PassByPass(Bijection):
    """z_i = τ(x_i; θ_i) with θ from a masked network; `decode` asks the whole network once for each level.

    `transforms.Autoregressive` computes each hidden unit once instead, for which it must know the units of its
    network; this one knows no more than which output may look at which input.

    Args:
        function: What moves each coordinate; closed in both directions.
        network: ``network(x, condition) -> (batch, features · function.num_parameters)``, coordinate by coordinate.
        adjacency: ``(features, features)`` booleans, [i, j] where output i looks at input j; without cycles.
        condition_features: Numbers in one condition, 0 for none.

    Raises:
        ConfigError: An adjacency with a cycle: the map has no inverse that could be found so.
    """

    def __init__(self, function: Monotone, network: nn.Module, adjacency: Tensor, condition_features: int = 0) -> None:
        features = len(adjacency)
        super().__init__((features,), (condition_features,) if condition_features else None)
        self.function, self.network = function, network
        levels = find_levels(adjacency.cpu())
        self._levels = [list(level) for level in torch.tensor(levels.order).split(list(levels.sizes))]

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        moved = self.function(x, self._ask(x, condition))
        return mapped(moved.value, moved.log_slope.sum(1) if log_det else None)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        x, total = torch.zeros_like(z), z.new_zeros(len(z))
        for level in self._levels:
            parameters = self._ask(x, condition)
            moved = self.function.inverse(z[:, level], parameters[:, level])
            # What is not known yet stays zero: a masked weight would make NaN of an infinite guess.
            x = x.index_copy(1, torch.tensor(level, device=z.device), moved.value)
            total = total + moved.log_slope.sum(1)
        return mapped(x, total if log_det else None)

    def _ask(self, x: Tensor, condition: Tensor | None) -> Tensor:
        return self.network(x, condition).reshape(len(x), x.shape[1], self.function.num_parameters)
