"""N residual blocks become an ODE: end point and log-determinant converge at rate 1/N."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from advect.solvers import Adaptive, Euler, ExactDivergence
from figures.ink import Ink, panels, plane

ALT = (
    "Left: polygons of 3, 6 and 12 residual blocks approach a smooth curve. Right: on logarithmic axes the errors of "
    "end point and log-determinant fall on lines of slope minus one."
)
SHOWN = (3, 6, 12)
COUNTS = (2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Found:
    """Polygons, the curve, and errors.

    Attributes:
        polygons: ``(blocks + 1, rows, 2)`` for each number of blocks shown.
        curve: ``(times, rows, 2)``.
        ends: Largest distance of an end point to the ODE's, for each of `COUNTS`.
        volumes: Largest error of the log-determinant, likewise.
    """

    polygons: list[np.ndarray]
    curve: np.ndarray
    ends: np.ndarray
    volumes: np.ndarray


def field(t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
    """A swirl with a contraction that varies."""
    return 1.9 * torch.stack([torch.sin(x[:, 1] + 0.5), -torch.sin(x[:, 0])], 1) - 0.35 * x


def blocks(x: Tensor, count: int) -> tuple[list[Tensor], Tensor]:
    """States after each block x + u(x)/count, and the log-determinant of all, by autograd."""
    states, log_det = [x], torch.zeros(len(x), dtype=x.dtype)
    for _ in range(count):
        jacobian = torch.func.vmap(torch.func.jacrev(lambda row: row + field(0, row[None])[0] / count))(states[-1])
        log_det = log_det + torch.linalg.slogdet(jacobian).logabsdet
        states.append(states[-1] + field(0, states[-1]) / count)
    return states, log_det


def compute() -> Found:
    """Compare with the adaptive solver at 1e-11."""
    start = torch.tensor([[-1.9, 1.2], [-1.7, -0.9], [0.2, 1.9], [1.6, 0.4], [0.5, -1.8]], dtype=torch.float64)
    exact = Adaptive(rtol=1e-11, atol=1e-11)(field, start, divergence=ExactDivergence())
    times = torch.linspace(0, 1, 60, dtype=torch.float64)
    curve = Adaptive(rtol=1e-9, atol=1e-9)(field, start, 0.0, 1.0, times=times).states
    runs = {count: blocks(start, count) for count in sorted({*SHOWN, *COUNTS})}
    assert torch.allclose(runs[8][0][-1], Euler(steps=8)(field, start).state)  # blocks are Euler steps
    ends = [(runs[n][0][-1] - exact.state).norm(dim=1).max().item() for n in COUNTS]
    volumes = [(runs[n][1] - exact.log_abs_det).abs().max().item() for n in COUNTS]
    return Found([torch.stack(runs[n][0]).numpy() for n in SHOWN], curve.numpy(), np.array(ends), np.array(volumes))


def draw(found: Found, ink: Ink) -> Figure:
    """Polygons to the left, errors to the right."""
    figure, axes = panels(ink, 1, 2, 3.0, width_ratios=(1.0, 1.1))
    left, right = axes[0]
    colours = (ink.model, ink.other, ink.data)
    for polygon, count, colour in zip(found.polygons, SHOWN, colours, strict=True):
        for row in range(polygon.shape[1]):
            left.plot(
                *polygon[:, row].T,
                color=colour,
                lw=1.1,
                marker="o",
                ms=2.4,
                label=f"{count} blocks" if row == 0 else None,
            )
    for row in range(found.curve.shape[1]):
        left.plot(*found.curve[:, row].T, color=ink.text, lw=1.4, label="ODE" if row == 0 else None)
        left.plot(*found.curve[0, row], "o", color=ink.text, ms=4.5)
    plane(left, "x ← x + u(x)/N, N times")
    left.margins(0.08)
    left.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.4)
    for values, colour, name in ((found.volumes, ink.model, "log-determinant"), (found.ends, ink.data, "end point")):
        right.loglog(COUNTS, values, "o-", color=colour, lw=1.3, ms=4, label=name)
    right.loglog(COUNTS, 0.5 * found.ends[-1] * COUNTS[-1] / np.array(COUNTS), "--", color=ink.faint, label="1/N")
    right.set(xlabel="number of blocks N", title="largest error against the ODE")
    right.legend()
    return figure


def caption(found: Found) -> str:
    """What it shows, with the measured rates."""
    rates = [np.polyfit(np.log(COUNTS[-4:]), np.log(values[-4:]), 1)[0] for values in (found.ends, found.volumes)]
    return (
        "Left: five points through 3, 6 and 12 residual blocks, and along the ODE dx/dt = u(x). Right: errors for up "
        f"to {COUNTS[-1]} blocks. Measured over the last four: the end point converges like N^(−{-rates[0]:.2f}), the "
        f"log-determinant like N^(−{-rates[1]:.2f})."
    )
