"""Residual flows: blocks x + g(x) with contractions g, nothing masked and nothing split.

Each block is preceded by a shift and scale of every coordinate, as a contraction alone stretches by at most 1 + L
(i-ResNet: Behrmann et al. 2019, arXiv 1811.00995; Residual Flow: Chen et al. 2019, arXiv 1906.02735). Density is the
explicit direction; drawing solves a fixed point in each block.
"""

from torch import Generator

from advect.networks.field import check_sizes
from advect.networks.lipschitz_network import lipschitz_mlp
from advect.transforms.actnorm import ActNorm
from advect.transforms.bijection import Bijection
from advect.transforms.compose import Compose
from advect.transforms.coupling import Elementwise
from advect.transforms.residual import Residual
from advect.transforms.residual_trace import LogDetEstimator
from advect.transforms.scale import Scale


def residual(
    features: int,
    condition_features: int = 0,
    *,
    layers: int = 8,
    lipschitz: float = 0.97,
    activation: str = "lipswish",
    log_det: LogDetEstimator | None = None,
    evaluation_log_det: LogDetEstimator | None = None,
    log_scale_bound: float = 3.0,
    depth: int = 2,
    width: int = 64,
    generator: Generator | None = None,
) -> Bijection:
    """A residual flow on ``(batch, features)``.

    Args:
        features: Coordinates of a row.
        condition_features: Numbers in one condition, 0 for none. Rows are then first placed and scaled by what it says
            about them, and it enters every block.
        layers: Residual blocks.
        lipschitz: Bound on the Lipschitz constant of each g, below one.
        activation: ``lipswish``, or ``sine``, which bends more but repeats itself far out.
        log_det: Estimator in training; None for exact up to 8 features and an unbiased one above.
        evaluation_log_det: Estimator in evaluation; None for exact up to 64 features and a series with an error above.
        log_scale_bound: Largest log-scale that the condition gives, in nats.
        depth: Hidden layers of each g.
        width: Units in each.
        generator: Draws the initial weights.
    """
    check_sizes("residual flow", features=features, layers=layers)
    maps: list[Bijection] = []
    if condition_features:
        maps.append(
            Elementwise(
                Scale(log_scale_bound), features, condition_features, depth=depth, width=width, generator=generator
            )
        )
    for _ in range(layers):
        network = lipschitz_mlp(
            features,
            condition_features,
            depth=depth,
            width=width,
            lipschitz=lipschitz,
            activation=activation,
            generator=generator,
        )
        block = Residual(
            network,
            (features,),
            condition_shape=(condition_features,) if condition_features else None,
            log_det=log_det,
            evaluation_log_det=evaluation_log_det,
        )
        maps += [ActNorm(features), block]
    return Compose(*maps, ActNorm(features))
