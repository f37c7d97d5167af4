"""Autoregressive maps: each coordinate moved by a monotone function whose parameters come from those before it.

    z_i = τ(x_i; θ_i),    θ_i = c(x_j : j before i),    log |det ∂z/∂x| = Σ_i log τ'(x_i; θ_i)

(Papamakarios et al. 2017, arXiv 1705.07057, eqs. 2-4; 2021, arXiv 1912.02762, eqs. 29-30). The Jacobian is triangular
in the order of the coordinates. `encode` is one parallel pass. `decode` needs x_j before θ_i and goes coordinate by
coordinate, but does the work of one pass only: the network is walked, each hidden unit computed once
(`networks.walk`), and the function of one coordinate inverted at a time.
"""

import torch
from torch import Generator, Tensor

from advect.errors import ConfigError
from advect.networks.masked import MaskedMLP
from advect.records import Mapped, Status
from advect.transforms.autoregressive_pass import inverted
from advect.transforms.bijection import Bijection, mapped
from advect.transforms.monotone import Monotone, Moved


class Autoregressive(Bijection):
    """A monotone function with parameters from a masked network; fast from data to source.

    Args:
        function: What moves each coordinate.
        network: Makes its parameters; its adjacency is the pattern of the Jacobian.

    A row in which a numeric inverse found no root is NaN and `Status.NOT_CONVERGED`.

    Raises `ConfigError` where the network makes another number of parameters than the function takes.
    """

    def __init__(self, function: Monotone, network: MaskedMLP) -> None:
        if function.num_parameters != network.num_parameters:
            raise ConfigError(
                f"The network makes {network.num_parameters} parameters for each coordinate, "
                f"{type(function).__name__} takes {function.num_parameters}",
                where="Autoregressive",
                remedy="Build the network with num_parameters=function.num_parameters.",
            )
        condition = (network.condition_features,) if network.condition_features else None
        super().__init__((network.features,), condition)
        self.function = function
        self.network = network

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        moved = self.function(x.T, self.network(x, condition).transpose(0, 1))  # coordinates first, as they lie
        return _record([moved], log_det)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        found = inverted(self.function, self.network, z, condition, log_det=log_det)
        return self.plain_decode(z, condition, log_det) if found is None else mapped(*found)

    def plain_decode(self, z: Tensor, condition: Tensor | None = None, log_det: bool = True) -> Mapped:
        """`decode` level by level, without the pass of `autoregressive_pass` that computes the same."""
        levels = self.network.levels
        order = torch.tensor(levels.order, device=z.device)
        wanted = z.T.index_select(0, order).split(levels.sizes)
        walk = self.network.walk(len(z), condition)
        found: list[Moved] = []
        for level in wanted:
            found.append(self.function.inverse(level, walk.parameters().to(z.dtype)))
            walk.push(_finite(found[-1]))
        return _record(found, log_det, order.argsort())


def _finite(moved: Moved) -> Tensor:
    """The values; 0 where none was found, for NaN must not reach weights that rows share."""
    return moved.value if moved.converged is None else torch.where(moved.converged, moved.value, 0.0)


def _record(parts: list[Moved], log_det: bool, places: Tensor | None = None) -> Mapped:
    """The record from coordinates first to rows first; rows in which some coordinate was not found are NaN."""
    value = torch.cat([_finite(p) for p in parts])
    value = (value if places is None else value.index_select(0, places)).T.contiguous()
    total = torch.cat([p.log_slope for p in parts]).sum(0) if log_det else None
    converged = [p.converged for p in parts if p.converged is not None]
    if not converged:
        return mapped(value, total)
    sure = torch.cat(converged).all(0)
    value = torch.where(sure.unsqueeze(1), value, torch.nan)
    total = None if total is None else torch.where(sure, total, torch.nan)
    return mapped(value, total, torch.where(sure, int(Status.OK), int(Status.NOT_CONVERGED)).to(torch.int8))
