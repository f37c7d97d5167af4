"""The picture to keep: a cloud becomes a cat."""

import numpy as np
import torch
from matplotlib.figure import Figure

from advect.flows import empirical_flow
from advect.paths import Linear
from figures.ink import Ink, dots, panels, plane
from figures.trained import rows_of

ALT = "Four panels: a round cloud of points contracts step by step into the silhouette of a sitting cat."
TIMES = (0.0, 0.5, 0.8, 0.98)
POINTS = 8000


def compute() -> np.ndarray:
    """Source rows on their way, ``(times, rows, 2)``."""
    cat = rows_of("cat", POINTS)
    scaled = (cat - cat.mean(0)) / cat.std()
    flow = empirical_flow(torch.tensor(scaled), Linear(), end=TIMES[-1])
    generator = torch.Generator().manual_seed(0)
    return flow.trajectory(3500, torch.tensor(TIMES, dtype=torch.float64), generator=generator).numpy()


def draw(states: np.ndarray, ink: Ink) -> Figure:
    """A panel a time; a point keeps the colour of its height in the cat."""
    figure, axes = panels(ink, 1, len(TIMES), 2.6)
    for panel, time, points in zip(axes[0], TIMES, states, strict=True):
        plane(panel, f"t = {time:g}", 2.3)
        panel.set_ylim(-2.6, 2.6)
        dots(panel, points, states[-1, :, 1], 2.0, 0.8, cmap=ink.hues)
    return figure


def caption(states: np.ndarray) -> str:
    """What it shows."""
    return (
        f"A cloud becomes a cat: {states.shape[1]} points of a standard normal follow the flow-matching field of "
        f"{POINTS} points of the drawing `examples/cat.png`. A point keeps its colour. This field is known exactly, "
        "as a sum over the points; a network learns it from pairs of a noise point and a data point, and then "
        "generates new ones."
    )
