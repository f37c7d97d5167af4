"""Mass is carried, never made; and the field that carries it is not unique."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from advect.flows import EmpiricalField
from advect.paths import Linear
from advect.solvers import Adaptive
from advect.typing import expand_time
from figures.ink import Ink, dots, panels, plane, ways

ALT = (
    "Left: a density over one coordinate splits into three peaks as t goes from 0 to 1, with paths of points along "
    "it. Middle and right: the same Gaussian cloud contracts along straight lines, and along spirals."
)
DATA = (-2.0, 1.0, 2.6)
END, SHRINK, TURN = 0.93, 0.35, 2.6


@dataclass(frozen=True)
class Found:
    """A density in time with its paths, and two ways to the same clouds.

    Attributes:
        times: ``(times,)``.
        places: ``(places,)``.
        density: ``(places, times)``.
        paths: ``(times, rows)``, at quantiles of the source.
        clouds: Two arrays ``(times, rows, 2)``.
        violated: Largest |∂ log p/∂t + u·∂ log p/∂x + ∂u/∂x| at random points.
        spreads: Standard deviation at the end, of each cloud.
    """

    times: np.ndarray
    places: np.ndarray
    density: np.ndarray
    paths: np.ndarray
    clouds: list[np.ndarray]
    violated: float
    spreads: list[float]


def turning(speed: float) -> object:
    """A contraction to a spread of `SHRINK` at t = 1, plus a rotation that leaves every centred Gaussian as it is."""

    def field(t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        spread = 1 - (1 - SHRINK) * expand_time(t, x)
        return -(1 - SHRINK) / spread * x + speed * torch.stack([-x[:, 1], x[:, 0]], 1)

    return field


def compute() -> Found:
    """Everything in closed form or by the adaptive solver at 1e-8."""
    tight = Adaptive(rtol=1e-8, atol=1e-8)
    exact = EmpiricalField(torch.tensor(DATA, dtype=torch.float64)[:, None], Linear())
    times = torch.linspace(0, END, 160, dtype=torch.float64)
    places = torch.linspace(-3.3, 3.9, 300, dtype=torch.float64)
    density = torch.stack([exact.log_density(float(t), places[:, None]).exp() for t in times], 1)
    quantiles = torch.special.ndtri(torch.linspace(0.03, 0.97, 22, dtype=torch.float64))
    paths = tight(exact, quantiles[:, None], 0.0, END, times=times).states[..., 0]
    generator = torch.Generator().manual_seed(0)
    x = 1.5 * torch.randn(400, 1, generator=generator, dtype=torch.float64)
    t = (0.9 * torch.rand(400, generator=generator, dtype=torch.float64)).requires_grad_()
    (change,) = torch.autograd.grad(exact.log_density(t, x).sum(), t)
    with torch.no_grad():
        carried = (exact(t, x) * exact.score(t, x)).sum(1) + exact.divergence(t, x)
    cloud = torch.randn(900, 2, generator=generator, dtype=torch.float64)
    knots = torch.linspace(0, 1, 40, dtype=torch.float64)
    clouds = [tight(turning(speed), cloud, 0.0, 1.0, times=knots).states.numpy() for speed in (0.0, TURN)]
    return Found(
        times.numpy(),
        places.numpy(),
        density.numpy(),
        paths.numpy(),
        clouds,
        float((change + carried).abs().max()),
        [float(states[-1].std()) for states in clouds],
    )


def draw(found: Found, ink: Ink) -> Figure:
    """Density and paths to the left, two fields for one density to the right."""
    figure, axes = panels(ink, 1, 3, 2.9, width_ratios=(1.5, 1, 1))
    left = axes[0, 0]
    left.pcolormesh(
        found.times, found.places, np.minimum(found.density, 0.75), cmap=ink.ramp, shading="gouraud", rasterized=True
    )
    left.plot(found.times, found.paths, color=ink.model, lw=0.8)
    left.set(xlabel="t", ylabel="x", title="p(t, x) and paths of dx/dt = u(t, x)")
    for panel, states, title in zip(axes[0, 1:], found.clouds, ("u: straight in", "u + w: the same p"), strict=True):
        dots(panel, states[0], ink.faint, 3, 0.7)
        dots(panel, states[-1], ink.data, 3, 0.9)
        ways(panel, states[:, :28], ink.model, 0.9, 0.9)
        plane(panel, title, 2.9)
    return figure


def caption(found: Found) -> str:
    """What it shows, with what was checked."""
    return (
        "Left: the density of three data points blurred by the linear path, and points it carries; between two paths "
        f"the mass stays what it is. The continuity equation holds to {found.violated:.0e} at 400 random places. "
        "Right: a Gaussian (grey) contracts (blue) along straight lines, and along spirals: w is a rotation, div(p "
        f"w) = 0, and every density on the way is the same (spread at the end {found.spreads[0]:.3f} and "
        f"{found.spreads[1]:.3f})."
    )
