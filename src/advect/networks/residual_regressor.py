"""The gradient of a squared error through the residual network, without a graph.

With the names of `residual`: a block takes h to h + W₂ q with p = silu(h), u = W₁ p, a = (1 + g) u + s, q = silu(a),
where gain g and shift s are parts of m = M silu(e). From the gradient D by what leaves a block,

    ∂a = W₂ᵀD ∘ silu′(a),   ∂g = ∂a ∘ u,   ∂s = ∂a,   ∂u = ∂a ∘ (1 + g),   ∂h = D + W₁ᵀ∂u ∘ silu′(h),

and those of the weights are products of these with q, p and silu(e), as in `regressor`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from advect.networks.kernels import kernels_of
from advect.networks.layers import ACTIVATIONS
from advect.networks.regressor import Regressor
from advect.records import Regression


class ResidualRegressor(Regressor):
    """For `residual.ResidualMLP`.

    Args:
        layers: Of time, condition (where ``conditioned``), modulation, input; of each block the inner, the outer;
            output.
        conditioned: Whether there is a layer of the condition.
        time: Features of the times, without parameters.
        gradients: See `typing.RegressionNetwork.regressor`.
        precision: See there.
    """

    def __init__(
        self,
        layers: list[nn.Linear],
        time: nn.Module,
        gradients: Mapping[nn.Parameter, Tensor],
        precision: torch.dtype,
        *,
        conditioned: bool,
    ) -> None:
        super().__init__(layers, gradients, precision)
        self.time = time
        self._silu = kernels_of(ACTIVATIONS["silu"])
        first, *rest = self.layers
        self._of_time, self._of_condition = first, rest.pop(0) if conditioned else None
        self._modulation, self._input, *blocks, self._output = rest
        self._blocks = list(zip(blocks[::2], blocks[1::2], strict=True))

    def make_room(self, rows: int) -> None:
        """All that is computed on the way, and the gradients by it."""
        width, narrow = len(self._input.weight), len(self._of_time.weight)
        count = len(self._blocks)

        def rooms(number: int) -> list[Tensor]:
            return [self.room(width, rows=rows) for _ in range(number)]

        self._x = self.room(self._input.weight.shape[1], rows=rows)
        self._features = self.room(self._of_time.weight.shape[1], rows=rows)
        self._e, self._lit, self._by_e, self._added = (self.room(narrow, rows=rows) for _ in range(4))
        self._m, self._by_m = (self.room(2 * count * width, rows=rows) for _ in range(2))
        self._gains, self._shifts = self._m.chunk(2 * count, 1)[::2], self._m.chunk(2 * count, 1)[1::2]
        self._by_gains, self._by_shifts = self._by_m.chunk(2 * count, 1)[::2], self._by_m.chunk(2 * count, 1)[1::2]
        self._h, self._p = rooms(count + 1), rooms(count + 1)
        self._u, self._a, self._q = rooms(count), rooms(count), rooms(count)
        self._by_h, self._inside = rooms(2)
        self._said = self.room(len(self._output.weight), rows=rows)

    def forward(self, regression: Regression) -> Tensor:
        """What the network says, ``(rows, numbers)``."""
        self._of_time.forward(self._features.copy_(self.time(regression.t)), self._e)
        if self._of_condition is not None and regression.condition is not None:
            self._condition = regression.condition.flatten(1).to(self._e.dtype)
            self._e.add_(self._of_condition.forward(self._condition, self._added))
        self._silu.forward(self._e, out=self._lit)
        self._modulation.forward(self._lit, self._m)
        self._input.forward(self._x.copy_(regression.x.flatten(1)), self._h[0])
        for i, (inner, outer) in enumerate(self._blocks):
            u, a = self._u[i], self._a[i]
            self._silu.forward(self._h[i], out=self._p[i])
            inner.forward(self._p[i], u)
            torch.add(u, self._shifts[i], out=a).addcmul_(u, self._gains[i])
            self._silu.forward(a, out=self._q[i])
            outer.forward(self._q[i], self._h[i + 1]).add_(self._h[i])
        self._silu.forward(self._h[-1], out=self._p[-1])
        return self._output.forward(self._p[-1], self._said)

    def backward(self, gradient: Tensor) -> None:
        """From the output to the input, then what came together by the modulation."""
        self._output.backward(gradient, self._p[-1])
        by_h = torch.mm(gradient, self._output.weight, out=self._by_h)
        self._silu.backward(by_h, self._h[-1])
        for i in range(len(self._blocks) - 1, -1, -1):
            inner, outer = self._blocks[i]
            outer.backward(by_h, self._q[i])
            by_a = torch.mm(by_h, outer.weight, out=self._inside)
            self._silu.backward(by_a, self._a[i])
            self._by_shifts[i].copy_(by_a)
            torch.mul(by_a, self._u[i], out=self._by_gains[i])
            by_u = by_a.addcmul_(by_a, self._gains[i])
            inner.backward(by_u, self._p[i])
            by_p = torch.mm(by_u, inner.weight, out=self._q[i])  # whose numbers are not needed any more
            self._silu.backward(by_p, self._h[i])
            by_h.add_(by_p)
        self._input.backward(by_h, self._x)
        self._modulation.backward(self._by_m, self._lit)
        by_e = torch.mm(self._by_m, self._modulation.weight, out=self._by_e)
        self._silu.backward(by_e, self._e)
        self._of_time.backward(by_e, self._features)
        if self._of_condition is not None:
            self._of_condition.backward(by_e, self._condition)
