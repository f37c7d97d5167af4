"""Points after each layer of a trained coupling flow."""

import numpy as np
import torch
from matplotlib.figure import Figure

from advect.flows import stages
from advect.workflows.transport import preprocessing
from figures.ink import Ink, dots, panels, plane
from figures.trained import trained

ALT = "Eight panels: a round cloud, coloured by angle, is sheared layer by layer until it has the shape of two moons."


def compute() -> np.ndarray:
    """The state after each layer of `decode`, ``(stages, rows, 2)``, in the coordinates of the data."""
    model = trained("moons", "realnvp", 900, layers=6, mixing="none")
    before = len(preprocessing(model.artefact))
    source = model.flow.base.sample(2500, generator=torch.Generator().manual_seed(2))
    return stages(model.flow, source, preprocessing=before).double().numpy()


def draw(states: np.ndarray, ink: Ink) -> Figure:
    """A panel a stage, row by row."""
    columns = 4
    figure, axes = panels(ink, -(-len(states) // columns), columns, 3.9)
    centre = states[-1].mean(0)
    start = states[0] - states[0].mean(0)
    angle = np.arctan2(start[:, 1], start[:, 0])
    for panel in axes.flat[len(states) :]:
        panel.axis("off")
    for number, (panel, points) in enumerate(zip(axes.flat, states, strict=False)):
        title = "source" if number == 0 else f"coupling {number}" if number < len(states) - 1 else "data"
        plane(panel, title, 3.1, centre)
        dots(panel, points, angle, 2.0, 0.75, cmap=ink.wheel)
    return figure


def caption(states: np.ndarray) -> str:
    """What it shows."""
    return (
        f"`realnvp` without mixing on the moons, layer by layer: {len(states) - 2} couplings, then the Gaussian fit "
        "it began with. Each coupling moves the points along one axis only, by a shift and a scale that the other "
        "coordinate decides; the next takes the other axis. Colour: the angle at the start."
    )
