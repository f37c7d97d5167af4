"""The recipe of score and flow matching: a bridge whose velocity and score are both regressed, so that it is an ODE and
an SDE at once."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advect.flows import BridgeBaseline, BridgeField, ContinuousMap, Flow, StandardNormal
from advect.methods.blueprint import Blueprint, Parts
from advect.methods.matching import Matching, solvers_of
from advect.methods.option import Options
from advect.networks import TimedNetwork, make_network
from advect.objectives import BridgeMatching, make_times
from advect.paths import BrownianBridge
from advect.typing import Base, Objective


@dataclass(frozen=True)
class ScoreAndFlow(Matching):
    """See `methods.recipe.Recipe`; the path is a Brownian bridge of rate ``options["sigma"]``.

    A network each for velocity and score, of one size: neither can crowd out the other, a solve of the ODE evaluates
    the first alone, and its divergence stays analytic.
    """

    def ends(self, options: Options) -> tuple[str, ...]:
        """Where the path starts and ends, its source, and what its two drifts are for."""
        return (
            *super().ends(options),
            "The model is an ODE and an SDE with the same marginals. `advect sample`, `score` and `transport` solve "
            "the ODE; `advect sample --solver bridge-sde --steps 100` runs the SDE, with the bridge's own σ for its "
            "noise, or any other constant as `--noise`.",
        )

    def refusal(self, blueprint: Blueprint, parts: Parts, source: Base | None) -> str | None:
        """The score is that of the bridge, so there is no other path."""
        if blueprint.paired and parts.coupling is None:
            return f"{blueprint.method} learns the score of a bridge between its own pairs, and takes no others"
        if parts.path is not None:
            return f"{blueprint.method} learns the score of its own bridge and takes no path of your own"
        return super().refusal(blueprint, parts, source)

    def objective(self, blueprint: Blueprint, parts: Parts) -> Objective:
        """Regression of the velocity and of the score along the bridge."""
        options: Any = blueprint.options
        return BridgeMatching(
            BrownianBridge(sigma=options["sigma"]),
            times=make_times(options["times"]),
            condition_dropout=blueprint.condition_dropout,
            score_weight=options["score_weight"],
        )

    def flow(
        self, blueprint: Blueprint, *, seed: int, source: Base | None, latent: Tensor | None, parts: Parts
    ) -> Flow:
        """A field with two networks on top of a Gaussian bridge."""
        shape: tuple[int, ...] = blueprint.event_shape
        sigma = float(blueprint.options["sigma"])
        baseline = None
        # A Gaussian start presumes a Gaussian source and the row's own coupling.
        if blueprint.baseline and source is None and parts.coupling is None:
            baseline = self.make_baseline(blueprint.options, shape, latent).float()
            assert isinstance(baseline, BridgeBaseline)
        generator = torch.Generator().manual_seed(seed)
        networks = [self._network(blueprint, parts, generator) for _ in range(2)]
        if parts.network is not None:
            networks[1] = copy.deepcopy(parts.network)  # of the same make, with weights of its own
        elif baseline is not None:
            for network in networks:
                if isinstance(network, TimedNetwork):
                    network.start_at_zero()
        field = BridgeField(*networks, diffusion=sigma, baseline=baseline)
        base = source if source is not None else StandardNormal(shape)
        return Flow(base, ContinuousMap(field, event_shape=shape, **solvers_of(blueprint)))

    def _network(self, blueprint: Blueprint, parts: Parts, generator: torch.Generator) -> nn.Module:
        return parts.network or make_network(
            blueprint.network,
            event_shape=blueprint.event_shape,
            condition_features=blueprint.condition_features,
            generator=generator,
        )
