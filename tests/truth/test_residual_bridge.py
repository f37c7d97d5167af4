"""From blocks to a flow: N residual blocks of size 1/N are Euler's method for an ODE (the bridge of the notes).

    x_{k+1} = x_k + u(x_k, k/N)/N   →   dx/dt = u(x, t),      Σ_k log det(I + ∂u/N)   →   ∫ tr ∂u dt,   at rate 1/N.

The notes' x = z + u(z) is `decode`; i-ResNets build `encode` that way, with time running from the data. Both readings
are checked, each in the explicit and in the solved direction, against an adaptive solution at 1e-11.
"""

import math

import pytest
import torch
from torch import nn

from advect.flows.continuous import ContinuousMap
from advect.solvers import Adaptive, ExactDivergence
from advect.transforms import Compose
from advect.transforms.inverse import Inverse
from advect.transforms.residual import Residual
from advect.typing import expand_time

LIPSCHITZ = 2.0  # of the field below: |∂u/∂x| ≤ 0.8 + 0.6 + 0.5


class Swirl(nn.Module):
    """A smooth field whose Jacobian is neither symmetric nor constant, in space or time, and whose trace varies."""

    def forward(self, t, x, condition=None):
        t = expand_time(t, x)
        a, b = x[:, :1], x[:, 1:]
        first = 0.8 * torch.sin(b + 2 * t) + 0.6 * torch.tanh(a)
        second = -0.5 * torch.cos(1.5 * a) * (1 + t) / 1.5 + 0.5 * torch.sin(b)
        return torch.cat([first, second], dim=1)


class Slice(nn.Module):
    """One block: a multiple of the field at one time."""

    def __init__(self, time: float, size: float) -> None:
        super().__init__()
        self.field, self.time, self.size = Swirl(), time, size

    def forward(self, x):
        return self.size * self.field(self.time, x)


def blocks(reading: str, count: int) -> Compose:
    """N blocks in the order of `encode`, from the data at t = 1 to the source at t = 0."""
    bound = LIPSCHITZ / count
    steps = reversed(range(count))
    if reading == "decode":  # the notes: data from source, x + u(x, k/N)/N
        return Compose(*(Inverse(Residual(Slice(k / count, 1 / count), (2,), lipschitz=bound)) for k in steps))
    # The i-ResNet: source from data, x − u(x, (k + 1)/N)/N.
    return Compose(*(Residual(Slice((k + 1) / count, -1 / count), (2,), lipschitz=bound) for k in steps))


def test_the_bound_on_the_field_holds():
    """Else the blocks would not be known to be invertible."""
    x = 3 * torch.randn(500, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    for t in (0.0, 0.5, 1.0):
        sums = Swirl()(t, x).sum(0)
        jacobian = torch.stack([torch.autograd.grad(s, x, retain_graph=True)[0] for s in sums], 1)
        assert 1 < float(torch.linalg.matrix_norm(jacobian, 2).max()) < LIPSCHITZ


@pytest.mark.parametrize("reading", ["decode", "encode"])
@pytest.mark.parametrize("direction", ["decode", "encode"])
def test_blocks_converge_to_the_flow_at_rate_one_over_n(reading, direction):
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ode = ContinuousMap(
        Swirl(),
        event_shape=(2,),
        likelihood_solver=Adaptive(rtol=1e-11, atol=1e-11),
        divergence=ExactDivergence(),
    )
    with torch.no_grad():
        truth = getattr(ode, direction)(x)
        counts, found = [12, 24, 48], []
        for count in counts:
            found.append(getattr(blocks(reading, count), direction)(x))
    assert all(bool((f.status == 0).all()) for f in found)
    for part in ("value", "log_abs_det_jacobian"):
        exact = getattr(truth, part)
        results = [getattr(f, part) for f in found]
        errors = [float((r - exact).abs().mean()) for r in results]
        # The next term of the error is of order 1/N²: at these N it bends the slope by a few per cent.
        slopes = [math.log2(errors[i] / errors[i + 1]) for i in range(2)]
        assert slopes[-1] == pytest.approx(1, abs=0.1), slopes
        assert errors[-1] > 1e-3  # there is something to converge
        # Without its first-order term, 2 f(2N) − f(N), the error is of second order: small, and falling by four.
        second = [float((2 * results[i + 1] - results[i] - exact).abs().mean()) for i in range(2)]
        assert second[-1] < errors[-1] / 10
        assert math.log2(second[0] / second[1]) == pytest.approx(2, abs=0.3)
