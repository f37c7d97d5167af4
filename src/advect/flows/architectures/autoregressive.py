"""Flows of autoregressive layers: each coordinate is moved as those before it say, and the order turns between layers.

`maf` (Papamakarios et al. 2017, arXiv 1705.07057) shifts and scales, `iaf` (Kingma et al. 2016, arXiv 1606.04934) is
the same map the other way round, `nsf_ar` (Durkan et al. 2019, arXiv 1906.04032) bends by splines, `umnn` (Wehenkel &
Louppe 2019, arXiv 1908.05164) by integrals of positive networks.

A single coordinate has none before it: its parameters come from the condition, or are learned. Because a shift and a
scale would leave it a Gaussian, `maf` and `iaf` bend it by a spline as `nsf_ar` does.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
from torch import Generator, Tensor

from advect.errors import unknown_name
from advect.networks.dependence import chain, check_adjacency
from advect.networks.field import check_sizes
from advect.networks.masked import MaskedMLP
from advect.transforms.autoregressive import Autoregressive
from advect.transforms.bijection import Bijection
from advect.transforms.compose import Compose
from advect.transforms.integral import MonotoneIntegral
from advect.transforms.inverse import Inverse
from advect.transforms.monotone import Monotone
from advect.transforms.scale import Scale
from advect.transforms.spline import RationalQuadraticSpline

ORDERS = ("reversed", "random")


def maf(
    features: int,
    condition_features: int = 0,
    *,
    layers: int = 5,
    order: str = "reversed",
    adjacency: Tensor | None = None,
    bins: int = 16,
    bound: float = 5.0,
    log_scale_bound: float = 3.0,
    depth: int = 2,
    width: int = 64,
    generator: Generator | None = None,
) -> Bijection:
    """Shifts and scales; density in one pass per layer, sampling coordinate by coordinate.

    Args:
        features: Coordinates of a row.
        condition_features: Numbers in one condition, 0 for none.
        layers: Number of layers.
        order: ``reversed``: every second layer takes the coordinates from the last to the first. ``random``: of each
            two layers the first draws an order, the second reverses it.
        adjacency: ``(features, features)`` booleans in the place of an order, the same in all layers: [i, j] if output
            i may look at input j; without cycles.
        bins: Bins of the spline that a single coordinate gets.
        bound: Half the box of that spline.
        log_scale_bound: Largest log-scale of one layer, in nats.
        depth: Hidden layers of each network.
        width: Units in each.
        generator: Draws orders and initial weights.
    """
    size = _Size(features, condition_features, depth, width, generator)
    if features == 1:
        return Compose(*size.single(bins, bound, log_scale_bound))
    return Compose(*size.layers(lambda: Scale(log_scale_bound), layers, order, adjacency))


def iaf(
    features: int,
    condition_features: int = 0,
    *,
    layers: int = 5,
    order: str = "reversed",
    adjacency: Tensor | None = None,
    bins: int = 16,
    bound: float = 5.0,
    log_scale_bound: float = 3.0,
    depth: int = 2,
    width: int = 64,
    generator: Generator | None = None,
) -> Bijection:
    """`maf` turned round: sampling in one pass per layer, density coordinate by coordinate; arguments as there."""
    size = _Size(features, condition_features, depth, width, generator)
    if features == 1:
        return Compose(*map(Inverse, size.single(bins, bound, log_scale_bound)))
    return Compose(*map(Inverse, size.layers(lambda: Scale(log_scale_bound), layers, order, adjacency)))


def nsf_ar(
    features: int,
    condition_features: int = 0,
    *,
    layers: int = 5,
    order: str = "reversed",
    adjacency: Tensor | None = None,
    bins: int = 8,
    bound: float = 5.0,
    log_scale_bound: float = 3.0,
    depth: int = 2,
    width: int = 64,
    generator: Generator | None = None,
) -> Bijection:
    """Rational-quadratic splines of ``bins`` bins on [−bound, bound]; with a condition, a shift and scale first.

    A condition may move rows by more than a spline should have to; other arguments as for `maf`.
    """
    size = _Size(features, condition_features, depth, width, generator)
    if features == 1:
        return Compose(*size.single(2 * bins, bound, log_scale_bound))
    bent = size.layers(lambda: RationalQuadraticSpline(bins, bound), layers, order, adjacency)
    placed = size.layers(lambda: Scale(log_scale_bound), 1, order, adjacency) if condition_features else []
    return Compose(*placed, *bent)


def umnn(
    features: int,
    condition_features: int = 0,
    *,
    layers: int = 3,
    order: str = "reversed",
    adjacency: Tensor | None = None,
    embedding: int = 16,
    units: int = 16,
    bound: float = 4.0,
    depth: int = 2,
    width: int = 64,
    generator: Generator | None = None,
) -> Bijection:
    """Integrals of positive networks of ``units`` hidden units, each shaped by ``embedding`` numbers.

    The slope varies on [−bound, bound]; the inverse is numeric. Other arguments as for `maf`.
    """
    size = _Size(features, condition_features, depth, width, generator)
    return Compose(
        *size.layers(
            lambda: MonotoneIntegral(embedding, units, bound=bound, generator=generator), layers, order, adjacency
        )
    )


@dataclass(frozen=True)
class _Size:
    """What every layer of one flow has in common."""

    features: int
    condition_features: int
    depth: int
    width: int
    generator: Generator | None

    def layer(self, function: Monotone, adjacency: Tensor) -> Autoregressive:
        network = MaskedMLP(
            adjacency,
            function.num_parameters,
            self.condition_features,
            depth=self.depth,
            width=self.width,
            generator=self.generator,
        )
        return Autoregressive(function, network)

    def layers(
        self, function: Callable[[], Monotone], layers: int, order: str, adjacency: Tensor | None
    ) -> list[Autoregressive]:
        check_sizes("autoregressive flow", layers=layers)
        if order not in ORDERS:
            raise unknown_name("order", order, ORDERS)
        patterns = self.orders(order) if adjacency is None else repeat(check_adjacency(adjacency, self.features))
        return [self.layer(function(), next(patterns)) for _ in range(layers)]

    def single(self, bins: int, bound: float, log_scale_bound: float) -> list[Autoregressive]:
        """One coordinate: placed and scaled, then bent."""
        alone = chain([0])
        functions: list[Monotone] = [Scale(log_scale_bound), RationalQuadraticSpline(bins, bound)]
        return [self.layer(function, alone) for function in functions]

    def orders(self, order: str) -> Iterator[Tensor]:
        """One adjacency per layer, without end."""
        while True:
            given = torch.arange(self.features)
            if order == "random":
                given = torch.randperm(self.features, generator=self.generator)
            yield chain(given.tolist())
            yield chain(given.flip(0).tolist())
