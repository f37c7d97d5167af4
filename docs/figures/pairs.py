"""Which source row goes with which data row, and what that does to the paths."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from advect.couplings import Assignment, Entropic, Independent
from advect.evaluation import straightness
from figures.ink import Ink, dots, panels, plane, ways
from figures.trained import rows_of, trained

ALT = (
    "Top: lines between 110 noise points and data points, tangled for independent pairs, combed for optimal "
    "transport, nearly combed for the entropic plan. Bottom: the paths of the three trained models; those of "
    "independent pairs bend, the others are nearly straight."
)
METHODS = ("i-cfm", "ot-cfm", "sb-cfm")
COUPLINGS = (Independent(), Assignment(), Entropic.for_bridge(0.5))
STEPS, BATCH = 700, 110


@dataclass(frozen=True)
class Found:
    """Pairs of one batch, and paths of trained models.

    Attributes:
        pairs: For each coupling ``(pairs, 2, 2)``: source and data row.
        cost: Mean squared length of each coupling's pairs.
        paths: For each method ``(times, rows, 2)``.
        bend: Mean straightness of those, zero for straight lines at constant speed.
    """

    pairs: list[np.ndarray]
    cost: list[float]
    paths: list[np.ndarray]
    bend: list[float]


def compute() -> Found:
    """Draw pairs from one batch, train three models."""
    generator = torch.Generator().manual_seed(4)
    rows = rows_of("moons")
    centre, scale = rows.mean(0), rows.std()
    x1 = torch.tensor((rows[:BATCH] - centre) / scale)
    x0 = torch.randn(BATCH, 2, generator=generator, dtype=torch.float64)
    drawn = [coupling.draw(x0, x1, generator=generator) for coupling in COUPLINGS]
    pairs = [torch.stack([x0[pair.index0], x1[pair.index1]], 1) for pair in drawn]
    times, paths, bend = torch.linspace(0, 1, 41), [], []
    for method in METHODS:
        states = (torch.tensor(model_of(method).trajectory(500, times)) - torch.tensor(centre)) / scale
        paths.append(states[:, :70].numpy())
        bend.append(float(straightness(states, times).mean()))
    cost = [float((pair[:, 1] - pair[:, 0]).square().sum(1).mean()) for pair in pairs]
    return Found([pair.numpy() for pair in pairs], cost, paths, bend)


def model_of(method: str) -> object:
    """The trained model of a column; the bridge with half the noise of its default."""
    return trained("moons", method, STEPS, **({"sigma": 0.5} if method == "sb-cfm" else {}))


def draw(found: Found, ink: Ink) -> Figure:
    """A column a coupling."""
    figure, axes = panels(ink, 2, 3, 5.0)
    names = ("independent (i-cfm)", "optimal transport (ot-cfm)", "entropic (sb-cfm)")
    for column, name in enumerate(names):
        above, below = axes[:, column]
        above.add_collection(LineCollection(list(found.pairs[column]), colors=ink.model, linewidths=0.7, alpha=0.75))
        dots(above, found.pairs[column][:, 0], ink.text, 7, 0.9)
        dots(above, found.pairs[column][:, 1], ink.data, 11, 0.95)
        plane(above, name, 2.6)
        dots(below, found.paths[column][0], ink.text, 7, 0.9)
        ways(below, found.paths[column], ink.model, 0.9, 0.85)
        dots(below, found.paths[column][-1], ink.data, 11, 0.95)
        plane(below, f"paths, straightness {found.bend[column]:.3f}", 2.6)
    return figure


def caption(found: Found) -> str:
    """What it shows, with the figures."""
    cost = ", ".join(f"{value:.2f}" for value in found.cost)
    return (
        f"Above: {BATCH} pairs of one batch, noise (small) and data (blue); mean squared length {cost}. Below: paths "
        f"of models trained on such pairs for {STEPS} steps. Straightness is the mean path energy above that of "
        "straight lines: 0 is straight at constant speed. Conditional paths cross above; paths of an ODE cannot, and "
        "have to bend instead."
    )
