"""Diffusion and flow matching run along the same curves, written at another scale and read by another clock."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure

from advect.flows import EmpiricalField
from advect.paths import Linear, SmoothVariancePreserving, Trigonometric
from advect.solvers import Adaptive
from figures.ink import Ink, panels

ALT = (
    "Left: paths of six points under the linear, the cosine and the VP schedule differ. Right: drawn as x over alpha "
    "plus sigma against alpha over alpha plus sigma, the paths of the three schedules lie on one another."
)
DATA = (-1.6, 0.4, 1.9)
STARTS = (-1.7, -0.8, -0.25, 0.25, 0.9, 1.8)
SCHEDULES = {"linear (flow matching)": Linear(), "cosine": Trigonometric(), "VP": SmoothVariancePreserving()}
END = 0.985


@dataclass(frozen=True)
class Found:
    """Paths by schedule.

    Attributes:
        times: ``(times,)``.
        paths: ``(times, rows)`` for each schedule.
        clocks: α/(α + σ) at the times, for each.
        scales: α + σ, for each.
        apart: Largest distance between the straightened curves of the linear and the cosine schedule.
        apart_vp: The same for VP, which starts with some of the data in it.
    """

    times: np.ndarray
    paths: list[np.ndarray]
    clocks: list[np.ndarray]
    scales: list[np.ndarray]
    apart: float
    apart_vp: float


def compute() -> Found:
    """Exact fields of three data points, solved at 1e-9."""
    data = torch.tensor(DATA, dtype=torch.float64)[:, None]
    starts = torch.tensor(STARTS, dtype=torch.float64)[:, None]
    times = torch.linspace(0, END, 200, dtype=torch.float64)
    paths, clocks, scales = [], [], []
    for schedule in SCHEDULES.values():
        states = Adaptive(rtol=1e-9, atol=1e-9)(EmpiricalField(data, schedule), starts, 0.0, END, times=times).states
        alpha, sigma = schedule.alpha(times), schedule.sigma(times)
        paths.append(states[..., 0].numpy())
        clocks.append((alpha / (alpha + sigma)).numpy())
        scales.append((alpha + sigma).numpy())
    straight = [path / scale[:, None] for path, scale in zip(paths, scales, strict=True)]

    def apart(which: int) -> float:
        common = np.linspace(clocks[which][0], min(clocks[0][-1], clocks[which][-1]), 150)
        gaps = [
            np.abs(
                np.interp(common, clocks[0], straight[0][:, row])
                - np.interp(common, clocks[which], straight[which][:, row])
            )
            for row in range(len(STARTS))
        ]
        return float(np.max(gaps))

    return Found(times.numpy(), paths, clocks, scales, apart(1), apart(2))


def draw(found: Found, ink: Ink) -> Figure:
    """As each schedule writes them, and in common coordinates."""
    figure, axes = panels(ink, 1, 2, 2.9)
    left, right = axes[0]
    looks = ((ink.data, "-", 3.4), (ink.model, "-", 1.7), (ink.text, (0, (2, 2)), 1.1))
    for name, path, clock, scale, (colour, line, width) in zip(
        SCHEDULES, found.paths, found.clocks, found.scales, looks, strict=True
    ):
        left.plot(found.times, path, color=colour, ls=line, lw=1.4)
        right.plot(clock, path / scale[:, None], color=colour, ls=line, lw=width)
        right.plot([], [], color=colour, ls=line, lw=width, label=name)
    left.set(xlabel="t", title="x(t), as each schedule writes it", xlim=(0, 1))
    right.set(xlabel="α/(α + σ)", title="x/(α + σ), on a common clock", xlim=(0, 1))
    right.set_ylim(-1.9, 2.9)
    right.legend(loc="upper left", handlelength=2, ncols=3, columnspacing=1)
    return figure


def caption(found: Found) -> str:
    """What it shows, with the distances."""
    return (
        "Six noise points on their way to three data points, by the exact fields of three schedules. In x/(α + σ) "
        f"over α/(α + σ) the curves are one: linear and cosine differ by {found.apart:.0e} at most, a matter of "
        f"drawing between points; VP, which begins with 0.7 % of the data in the noise, by {found.apart_vp:.0e}."
    )
