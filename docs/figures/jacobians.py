"""Jacobians of four kinds of layer, as they are: where the zeros stand is why the determinant is cheap."""

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from advect.flows.architectures.autoregressive import maf
from advect.flows.architectures.coupling import realnvp
from advect.flows.architectures.lowrank import planar
from advect.flows.architectures.residual import residual
from advect.transforms import Autoregressive, Coupling, Planar, Residual
from advect.transforms.compose import members
from figures.ink import Ink, panels

ALT = (
    "Four 8 by 8 matrices: the coupling layer's is the identity with one filled corner block and a diagonal; the "
    "autoregressive one is lower triangular; the low-rank one minus the identity has proportional rows; the residual "
    "one is full."
)
FEATURES = 8
KINDS = (
    ("coupling", Coupling, lambda g: realnvp(FEATURES, layers=2, mixing="none", generator=g)),
    ("autoregressive", Autoregressive, lambda g: maf(FEATURES, layers=1, generator=g)),
    ("low rank", Planar, lambda g: planar(FEATURES, layers=2, generator=g)),
    ("residual", Residual, lambda g: residual(FEATURES, layers=2, generator=g)),
)


def compute() -> list[np.ndarray]:
    """∂z/∂x of one layer of each kind at a random point, parameters shaken out of the identity; float64."""
    found = []
    for _, kind, make in KINDS:
        generator = torch.Generator().manual_seed(3)
        layer = next(part for part in members(make(generator)) if isinstance(part, kind)).double()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter += 0.6 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        x = torch.randn(1, FEATURES, generator=generator, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda x, f=layer: f.encode(x, log_det=False).value, x)
        found.append(jacobian[0, :, 0].numpy())
    return found


def draw(found: list[np.ndarray], ink: Ink) -> Figure:
    """A panel a kind; exact zeros are left empty."""
    figure, axes = panels(ink, 1, len(KINDS), 2.2)
    shades = LinearSegmentedColormap.from_list("signs", [ink.model, ink.nothing, ink.data])
    for panel, (name, *_), jacobian in zip(axes[0], KINDS, found, strict=True):
        shown = np.ma.masked_equal(jacobian, 0.0)
        largest = np.abs(jacobian[~np.eye(FEATURES, dtype=bool)]).max()
        panel.imshow(shown, cmap=shades, vmin=-largest, vmax=largest)
        panel.set(title=name, xticks=[], yticks=[])
        panel.spines[:].set(visible=True, color=ink.faint)
        panel.set_xticks(np.arange(FEATURES + 1) - 0.5, minor=True)
        panel.set_yticks(np.arange(FEATURES + 1) - 0.5, minor=True)
        panel.tick_params(which="minor", length=0)
    return figure


def caption(found: list[np.ndarray]) -> str:
    """What it shows, with the shares of exact zeros."""
    zeros = [f"{name} {np.mean(jacobian == 0):.0%}" for (name, *_), jacobian in zip(KINDS, found, strict=True)]
    return (
        f"∂z/∂x of one layer of each kind in {FEATURES} coordinates, by automatic differentiation. Blue is positive, "
        f"orange negative; empty cells are exact zeros ({', '.join(zeros)}). Triangular matrices give the product of "
        "the diagonal; the low-rank one is the identity plus one column times one row; the residual one has no "
        "structure, and its determinant is estimated."
    )
