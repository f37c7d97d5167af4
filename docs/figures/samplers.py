"""One trained network, read as a velocity, as noise and as a score."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from advect.evaluation import sliced_wasserstein
from figures.ink import Ink, dots, panels, plane
from figures.pairs import model_of
from figures.trained import rows_of

ALT = (
    "Four panels with two moons each: samples by the velocity, by the noise prediction, by the score with fresh "
    "noise in every step, and real rows."
)
READINGS = (
    ("velocity: Euler, 60 steps", {"solver": "euler", "steps": 60}),
    ("noise: DDIM, 60 steps", {"solver": "ddim", "steps": 60}),
    ("score: SDE, 120 steps", {"solver": "sde", "steps": 120}),
)


@dataclass(frozen=True)
class Found:
    """Samples by each reading.

    Attributes:
        samples: ``(rows, 2)`` for each.
        distance: Sliced W2 of each to fresh rows, in standard deviations.
        floor: The same between two sets of fresh rows.
        apart: Largest distance between the Euler and the DDIM sample of one noise row, in standard deviations.
        real: ``(rows, 2)``.
    """

    samples: list[np.ndarray]
    distance: list[float]
    floor: float
    apart: float
    real: np.ndarray


def compute() -> Found:
    """Sample the `i-cfm` model of the moons three ways from one seed."""
    rows = rows_of("moons", 9000)
    scale, fresh, other = rows.std(), rows[4000:6500], rows[6500:9000]
    samples = [model_of("i-cfm").sample(2500, seed=2, **how) for _, how in READINGS]

    def far(points: np.ndarray) -> float:
        generator = torch.Generator().manual_seed(0)
        one, two = torch.tensor(points / scale), torch.tensor(fresh / scale)
        return float(sliced_wasserstein(one, two, generator=generator))

    apart = np.linalg.norm(samples[0] - samples[1], axis=1).max() / scale
    return Found(samples, [far(points) for points in samples], far(other), float(apart), other)


def draw(found: Found, ink: Ink) -> Figure:
    """A panel a reading, and real rows."""
    figure, axes = panels(ink, 1, 4, 1.75)
    half = 1.1 * np.abs(found.real - found.real.mean(0)).max()
    names = [name for name, _ in READINGS] + ["real rows"]
    colours = (ink.model, ink.model, ink.other, ink.data)
    for panel, name, points, colour in zip(axes[0], names, [*found.samples, found.real], colours, strict=True):
        dots(panel, points, colour, 2.0, 0.7)
        plane(panel, "", half, found.real.mean(0), 0.65)
        panel.set_title(name, fontsize=8.5)
    return figure


def caption(found: Found) -> str:
    """What it shows, with the figures."""
    return (
        "One `i-cfm` network, trained on velocities, read three ways. Euler's method on the velocity and DDIM on the "
        "noise prediction are the same steps on the linear path: from the same noise they end within "
        f"{found.apart:.0e} standard deviations of each other. The SDE uses the score and fresh noise, so its rows "
        "are others with the same law. Sliced W2 to fresh rows: "
        f"{', '.join(f'{value:.3f}' for value in found.distance)}; real rows {found.floor:.3f}."
    )
