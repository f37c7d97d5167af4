"""Simulation-free score and flow matching: one loss for both drifts of a bridge.

    L = E [ w(t) |v_θ(t, x) − u_t(x|z)|² + c · λ(t)² |s_θ(t, x) − ∇ log p_t(x|z)|² ]       (Tong et al. 2307.03672)

Its minimisers are the velocity and the score of the marginal p_t, whatever the weights.

λ. The paper weights what its network says, the drift ½σ²s, by λ = 2σ_t/σ² to make the target ε of unit size. Ours says
the score, for which the same choice is λ = σ_t = σ√(t(1−t)): λ·∇ log p_t(x|z) = −ε. It vanishes at both ends, where the
conditional score has no value: the loss of a row drawn there is 0, as a point mass has nothing to tell.

w. The paper takes w = 1, but |u_t|² has the mean |x1 − x0|² + d σ²(1−2t)²/(4t(1−t)), whose integral diverges at both
ends, and its gradient's variance with it. As for `sb-cfm` w = t(1−t) unless another is given.
"""

from dataclasses import dataclass
from typing import cast

import torch

from advect.errors import ConfigError
from advect.objectives.matching import VelocityMatching, mean_event, on_interval
from advect.paths import BrownianBridge
from advect.records import Drawn
from advect.typing import Field, Scalars, expand_time


@dataclass(frozen=True)
class BridgeMatching(VelocityMatching):
    """The regression of ``flow.velocity`` and ``flow.marginal_score`` on those of a Brownian bridge.

    Args:
        path: The bridge. Its x0 is that of both targets: one record carries point, velocity and score.
        times: See `VelocityMatching`.
        weight: w(t) of the velocity's term; None for the bridge's own t(1−t).
        condition_dropout: See `VelocityMatching`; a row's condition is dropped for both terms or for neither.
        score_weight: c above, more than 0.
    """

    score_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.path, BrownianBridge):
            raise ConfigError(
                f"{type(self.path).__name__} is no Brownian bridge", where="bridge matching", remedy="Give one."
            )
        if not 0 < self.score_weight < float("inf"):
            raise ConfigError(
                f"score_weight is {self.score_weight}", where="bridge matching", remedy="Take a finite number above 0."
            )

    def loss(self, flow: torch.nn.Module, drawn: Drawn) -> Scalars:
        """Loss ``(batch,)``: both terms averaged over the event.

        Args:
            flow: A module with ``velocity(t, x, condition)`` and ``marginal_score(t, x, condition)``.
            drawn: As `draw` gives it.
        """
        bridge, condition = drawn.bridge, drawn.condition
        assert bridge.score is not None
        time, length = on_interval(bridge.t, drawn.interval)
        velocity = cast(Field, flow.velocity)(time, bridge.x, condition)  # a module's attributes have no types
        velocity = expand_time(length, bridge.x) * velocity
        score = cast(Field, flow.marginal_score)(time, bridge.x, condition)  # a density knows no speed of time
        spread = expand_time(cast(BrownianBridge, self.path).spread(bridge.t), bridge.x)
        of_velocity = mean_event((velocity - bridge.velocity).square()) * self.time_weight(bridge.t)
        return of_velocity + self.score_weight * mean_event((spread * (score - bridge.score)).square())
