"""The field of a bridge that has learnt both of its drifts: a velocity and a score, a network each.

    v = v_b + N(t, x),     ∇ log p_t = s_b + S(t, x)

with v_b and s_b those of a Gaussian bridge, or 0. The ODE of v, and for every g the SDE with drift v + ½ g² ∇ log p_t
forwards and −v + ½ g² ∇ log p_t backwards, have the same marginals (Tong et al. 2307.03672, section 2).

S is the score itself and not a noise to be divided by σ_t: the score of a bridge's marginals has limits at both ends
(∇ log of the source's and of the data's density), so nothing has a pole there, and no margin is kept.
"""

import math
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from advect.errors import ConfigError
from advect.flows.baseline import BridgeBaseline
from advect.flows.velocity import VelocityField


class BridgeField(VelocityField):
    """Velocity = baseline + network(t, x, condition), score = baseline's + score_network(t, x, condition).

    Everything a velocity field offers is that of the velocity; an ODE solve never evaluates the score network.

    Args:
        network: ``network(t, x, condition) -> (batch, *event)``.
        score_network: Likewise.
        diffusion: σ of the bridge, above 0.
        baseline: The Gaussian bridge to start from; None for none.

    Attributes:
        diffusion: σ, which `solvers.BridgeSDE` takes for g unless it is told another.

    Raises:
        ConfigError: ``diffusion`` is not a finite number above 0.
    """

    def __init__(
        self,
        network: nn.Module,
        score_network: nn.Module,
        *,
        diffusion: float,
        baseline: BridgeBaseline | None = None,
    ) -> None:
        if not 0 < diffusion < math.inf:
            raise ConfigError(f"diffusion is {diffusion}", where="BridgeField", remedy="Take a finite σ above 0.")
        super().__init__(network, baseline=baseline, schedule=None)
        self.score_network, self.diffusion, self.has_score = score_network, diffusion, True

    def score(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> Float[Tensor, "batch *event"]:
        """∇ log p_t(x) at ``t`` (scalar or ``(batch,)``) in [0, 1], both ends included."""
        learned = self.score_network(t, x, condition)
        return (
            learned if self.baseline is None else learned + cast(BridgeBaseline, self.baseline).score(t, x, condition)
        )

    def extra_repr(self) -> str:
        """The bridge, for ``print``."""
        return f"diffusion={self.diffusion:g}"
