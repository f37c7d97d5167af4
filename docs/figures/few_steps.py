"""What straight paths are good for: samples from few steps."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from advect.evaluation import sliced_wasserstein
from figures.ink import Ink, dots, panels, plane
from figures.pairs import model_of
from figures.trained import rows_of

ALT = (
    "Two rows of panels with samples from 1, 2, 4 and 16 Euler steps. Independent pairs give one lump after one step "
    "and two moons only after several; optimal transport pairs show two moons almost at once."
)
STEPS = (1, 2, 4, 16)
METHODS = ("i-cfm", "ot-cfm")


@dataclass(frozen=True)
class Found:
    """Samples and their distance to fresh rows.

    Attributes:
        samples: By method and steps, ``(rows, 2)``.
        distance: Sliced W2 to fresh rows, in standard deviations.
        floor: The same between two sets of fresh rows.
    """

    samples: dict[tuple[str, int], np.ndarray]
    distance: dict[tuple[str, int], float]
    floor: float


def compute() -> Found:
    """Sample the models of `figures.pairs` by Euler's method."""
    rows = rows_of("moons", 9000)
    scale, fresh, other = rows.std(), rows[4000:6000], rows[6000:8000]
    samples = {
        (method, steps): model_of(method).sample(2000, solver="euler", steps=steps, seed=1)
        for method in METHODS
        for steps in STEPS
    }
    distance = {key: far(points / scale, fresh / scale) for key, points in samples.items()}
    return Found(samples, distance, far(other / scale, fresh / scale))


def far(one: np.ndarray, other: np.ndarray) -> float:
    """Sliced W2, over the same directions every time."""
    generator = torch.Generator().manual_seed(0)
    return float(sliced_wasserstein(torch.tensor(one), torch.tensor(other), generator=generator))


def draw(found: Found, ink: Ink) -> Figure:
    """A row a method, a column a number of steps."""
    figure, axes = panels(ink, len(METHODS), len(STEPS), 3.1)
    rows = rows_of("moons")
    half = 1.15 * np.abs(rows - rows.mean(0)).max()
    for row, method in enumerate(METHODS):
        for panel, steps in zip(axes[row], STEPS, strict=True):
            dots(panel, found.samples[method, steps], ink.model if row == 0 else ink.data, 1.8, 0.7)
            plane(
                panel,
                f"{method}, {steps} step{'s' if steps > 1 else ''}: {found.distance[method, steps]:.2f}",
                half,
                rows.mean(0),
                0.65,
            )
    return figure


def caption(found: Found) -> str:
    """What it shows."""
    return (
        "Samples of the two models above from 1, 2, 4 and 16 Euler steps, one evaluation each; behind the colon "
        f"sliced W2 to fresh rows in standard deviations (floor, real rows against real rows: {found.floor:.2f}). "
        "After one step a field of independent pairs has only found the mean of the data."
    )
