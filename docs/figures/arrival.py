"""x1 − x taken for a velocity: one Euler step hides what a hundred show."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from advect.paths import ConstantPull, PullField, linear
from advect.solvers import Euler
from figures.ink import Ink, dots, panels, plane
from figures.trained import rows_of

ALT = (
    "Four panels. With one Euler step of x1 minus x the points lie exactly on the eight-cluster data; with two and a "
    "hundred steps they are shrunk and blurred towards the source. With the right velocity they lie on the data."
)
STEPS = (1, 2, 100)


@dataclass(frozen=True)
class Found:
    """Where the points end.

    Attributes:
        data: ``(rows, 2)``, each the target of one source row.
        ends: For each of `STEPS`, ``(rows, 2)``.
        right: The same with (x1 − x)/(1 − t), 100 steps.
        left: The share of x0 that is left, for each of `STEPS`.
    """

    data: np.ndarray
    ends: list[np.ndarray]
    right: np.ndarray
    left: list[float]


def compute() -> Found:
    """Every source row runs to a data row of its own."""
    x1 = torch.tensor(rows_of("8gaussians", 1500))
    x0 = 2 * torch.randn(len(x1), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    field = PullField(ConstantPull(), x1)
    ends = [Euler(steps=steps)(field, x0).state for steps in STEPS]
    left = [float(((end - x1).norm(dim=1) / (x0 - x1).norm(dim=1)).mean()) for end in ends]
    path = linear()

    def straight(t: torch.Tensor | float, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
        return path.velocity(t, x, x0, x1)

    return Found(x1.numpy(), [end.numpy() for end in ends], Euler(steps=100)(straight, x0).state.numpy(), left)


def draw(found: Found, ink: Ink) -> Figure:
    """Three numbers of steps, and the right field."""
    figure, axes = panels(ink, 1, 4, 2.3)
    half = 1.25 * np.abs(found.data).max()
    titles = [f"x1 − x, {steps} step{'s' if steps > 1 else ''}" for steps in STEPS] + ["(x1 − x)/(1 − t), 100"]
    for panel, ends, title in zip(axes[0], [*found.ends, found.right], titles, strict=True):
        dots(panel, found.data, ink.faint, 5, 0.5)
        dots(panel, ends, ink.data if title.startswith("(") else ink.model, 2.2, 0.8)
        plane(panel, title, half)
    return figure


def caption(found: Found) -> str:
    """What it shows, with the measured shares."""
    shares = ", ".join(f"{left:.3f}" for left in found.left)
    return (
        "Source points drawn to data points of their own (grey) by dx/dt = x1 − x. With 1, 2 and 100 Euler steps the "
        f"share of x0 that is left is {shares}; (1 − 1/n)ⁿ tends to 1/e = {np.exp(-1):.3f}. The single step looks "
        "perfect because it is so wrong. The velocity of the straight path, right, arrives."
    )
