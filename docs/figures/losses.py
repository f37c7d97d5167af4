"""The loss that can be computed and the one that is meant: a constant apart all through a training."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from advect.flows import EmpiricalField
from advect.networks import MLP
from advect.paths import Linear, linear
from figures.ink import Ink, panels

ALT = (
    "Two falling curves, the conditional loss above the marginal one, at a constant distance; a dashed line marks "
    "the variance of the target."
)
STEPS, EVERY, BATCH = 900, 15, 256
LATEST = 0.95


@dataclass(frozen=True)
class Found:
    """Losses on fixed draws during one training.

    Attributes:
        steps: ``(points,)``.
        conditional: ‖v − u(x|z)‖², the one that is trained.
        marginal: ‖v − u(x)‖² with the exact field.
        variance: ‖u(x|z) − u(x)‖², which no network can remove.
    """

    steps: np.ndarray
    conditional: np.ndarray
    marginal: np.ndarray
    variance: float


def compute() -> Found:
    """Train on eight points, where the exact field is a short sum."""
    generator = torch.Generator().manual_seed(0)
    angles = torch.arange(8) * (2 * torch.pi / 8)
    data = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    exact, path = EmpiricalField(data.double(), Linear()), linear()

    def draw(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x1 = data[torch.randint(len(data), (rows,), generator=generator)]
        t = LATEST * torch.rand(rows, generator=generator)
        bridge = path.sample(t, torch.randn(rows, 2, generator=generator), x1)
        return bridge.t, bridge.x, bridge.velocity

    t, x, target = draw(20_000)
    with torch.no_grad():
        marginal = exact(t.double(), x.double()).float()
    network = MLP((2,), generator=generator)
    adam = torch.optim.Adam(network.parameters(), 2e-3)
    steps, losses = [], []
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            with torch.no_grad():
                said = network(t, x)
            losses.append([(said - goal).square().sum(1).mean().item() for goal in (target, marginal)])
            steps.append(step)
        time, point, velocity = draw(BATCH)
        loss = (network(time, point) - velocity).square().sum(1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    conditional, of_marginal = np.array(losses).T
    return Found(np.array(steps), conditional, of_marginal, float((target - marginal).square().sum(1).mean()))


def draw(found: Found, ink: Ink) -> Figure:
    """Both curves and the gap."""
    figure, axes = panels(ink, 1, 1, 2.7)
    panel = axes[0, 0]
    panel.plot(
        found.steps, found.conditional, color=ink.model, lw=1.8, label="conditional loss, trained: E‖v − u(x|z)‖²"
    )
    panel.plot(found.steps, found.marginal, color=ink.data, lw=1.8, label="marginal loss, meant: E‖v − u(x)‖²")
    panel.plot(found.steps, found.conditional - found.marginal, color=ink.other, lw=1.3, label="their difference")
    panel.axhline(found.variance, color=ink.text, lw=1.0, ls="--", label="E‖u(x|z) − u(x)‖²")
    panel.set(xlabel="step", ylim=(0, None), xlim=(0, STEPS))
    panel.legend(loc="upper right", ncols=2)
    panel.set_ylim(0, 1.25 * found.conditional.max())
    return figure


def caption(found: Found) -> str:
    """What it shows, with the figures."""
    difference = found.conditional - found.marginal
    return (
        f"A small network learns eight points; both losses on the same {20_000} fixed draws. The trained loss ends at "
        f"{found.conditional[-1]:.2f} and looks like failure; the loss that is meant ends at "
        f"{found.marginal[-1]:.2f}. The difference is {difference.min():.2f} to {difference.max():.2f} throughout, "
        f"the variance of the target {found.variance:.2f}."
    )
