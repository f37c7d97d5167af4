"""The numbers of a layer, free or given by the condition.

A layer without a network on its input has plain parameters θ. Under a condition c they become θ + n(c), one set per
row, as in amortised inference (Rezende & Mohamed 2015, arXiv 1505.05770, §4.2; van den Berg et al. 2018, arXiv
1803.05649, §3.3). The last layer of n starts at zero, so a fresh layer is the same under every condition.
"""

from itertools import pairwise

from jaxtyping import Float
from torch import Generator, Tensor, nn

from advect.networks.layers import linear, zero_linear


class Amortised(nn.Module):
    """θ, or θ + n(condition).

    Args:
        start: ``(numbers,)`` θ at the start.
        condition_features: Numbers in one condition; 0 for none, and then there is no network.
        depth: Hidden layers of n.
        width: Units of each.
        generator: Draws the weights of n.
    """

    def __init__(
        self,
        start: Float[Tensor, " numbers"],
        condition_features: int = 0,
        *,
        depth: int = 2,
        width: int = 64,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.free = nn.Parameter(start.detach().clone())
        self.network = None
        if condition_features:
            sizes = [condition_features, *[width] * depth]
            layers = []
            for inputs, outputs in pairwise(sizes):
                layers += [linear(inputs, outputs, generator=generator), nn.SiLU()]
            self.network = nn.Sequential(*layers, zero_linear(sizes[-1], len(start)))

    def forward(self, condition: Tensor | None, like: Tensor) -> Float[Tensor, "rows numbers"]:
        """One set of numbers per row, or one row for all of them, in the dtype of ``like``."""
        free = self.free.to(like.dtype).unsqueeze(0)
        if self.network is None or condition is None:
            return free
        # The network runs in its own dtype: float64 rows do not turn its weights into float64 at every call.
        return free + self.network(condition.to(self.free.dtype)).to(like.dtype)


def condition_shape(condition_features: int) -> tuple[int] | None:
    """``(condition_features,)``, None for none."""
    return (condition_features,) if condition_features else None
