"""How a continuous flow scores a point: back along its path, with the divergence on board."""

from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from advect.flows import Flow
from advect.solvers import Adaptive, ExactDivergence
from figures.ink import Ink, panels, plane
from figures.trained import rows_of, trained

ALT = (
    "Left: the learnt density of two moons, with three paths from source points into it. Right: along each of the "
    "three paths the log-density changes from its value in the source to its value at the data."
)
STEPS = 350
LOW, HIGH, SIDE = (-3.2, -2.6), (4.2, 3.2), 70


@dataclass(frozen=True)
class Found:
    """The density, and three rows on their way.

    Attributes:
        density: ``(SIDE, SIDE)`` on a grid over the window from `LOW` to `HIGH`.
        total: Its sum times the area of a cell: how much of the mass the window holds.
        times: ``(times,)``.
        paths: ``(times, rows, 2)``.
        log_density: ``(times, rows)``, log p_t(x_t) along each path.
        off: Largest difference between the last value and the model's own log-likelihood there, in nats.
        evaluations: Mean per grid point of one likelihood.
    """

    density: np.ndarray
    total: float
    times: np.ndarray
    paths: np.ndarray
    log_density: np.ndarray
    off: float
    evaluations: float


def compute() -> Found:
    """Train `cnf` by its likelihood, score a grid, follow three rows."""
    model = trained("moons", "cnf", STEPS)
    flow = model.flow.eval()
    sides = [np.linspace(LOW[axis], HIGH[axis], SIDE) for axis in range(2)]
    grid = np.stack(np.meshgrid(*sides), axis=2).reshape(-1, 2)
    score = model.score(grid)
    density = score.value.double().exp().numpy().reshape(SIDE, SIDE)
    cell = np.prod([side[1] - side[0] for side in sides])

    rows = torch.tensor(rows_of("moons")[[3, 10, 12]], dtype=torch.float32)
    source = flow.encode(rows).value
    times = np.linspace(0, 1, 31)
    values = along(flow, source, times)
    off = (torch.tensor(values[-1]) - flow.log_prob(rows).detach()).abs().max()
    paths = flow.trajectory(source, torch.tensor(times, dtype=torch.float32)).detach().numpy()
    return Found(
        density,
        float(density.sum() * cell),
        times,
        paths,
        values,
        float(off),
        float(score.nfe.double().mean()),
    )


@torch.no_grad()
def along(flow: Flow, source: Tensor, times: np.ndarray) -> np.ndarray:
    """log p_t(x_t) in the units of the data, ``(times, rows)``: base, less the divergence integrated up to each time.

    The affine maps around the ODE add a constant each.
    """
    before, ode, after = flow.split_at_ode("figure")
    inner = after.decode(source)
    start = flow.base.log_prob(source) - inner.log_abs_det_jacobian
    solver, values = Adaptive(rtol=1e-6, atol=1e-6), []
    for time in times:
        solution = solver(ode.field, inner.value, 0.0, float(time), divergence=ExactDivergence())
        values.append(start - solution.log_abs_det - before.decode(solution.state).log_abs_det_jacobian)
    return torch.stack(values).numpy()


def draw(found: Found, ink: Ink) -> Figure:
    """Density and paths to the left, values along the paths to the right."""
    figure, axes = panels(ink, 1, 2, 2.9, width_ratios=(1.25, 1))
    left, right = axes[0]
    left.imshow(
        found.density,
        cmap=ink.ramp,
        origin="lower",
        extent=(LOW[0], HIGH[0], LOW[1], HIGH[1]),
        interpolation="bilinear",
    )
    plane(left, "learnt density, three paths into it")
    for row, colour in enumerate((ink.model, ink.other, ink.text)):
        left.plot(*found.paths[:, row].T, color=colour, lw=1.8)
        left.plot(*found.paths[0, row], "o", color=colour, ms=4)
        left.plot(*found.paths[-1, row], "s", color=colour, ms=4.5)
        right.plot(found.times, found.log_density[:, row], color=colour, lw=1.8)
        right.plot(0, found.log_density[0, row], "o", color=colour, ms=4, clip_on=False)
        right.plot(1, found.log_density[-1, row], "s", color=colour, ms=4.5, clip_on=False)
    right.set(xlabel="t", xlim=(0, 1), title="log p(x(t)) along them, nats")
    return figure


def caption(found: Found) -> str:
    """What it shows, with its checks."""
    return (
        f"`cnf` after {STEPS} steps of maximum likelihood on the moons. Right: the value of the source (dots) minus "
        "the integral of the divergence up to t; at t = 1 (squares) it is the log-likelihood (`log_prob` agrees to "
        f"{found.off:.0e} nats). Left: such values on a grid, whose sum times the area of a cell is "
        f"{found.total:.3f}. Each took {found.evaluations:.0f} evaluations of the field, which is why training by "
        "likelihood is slow."
    )
