"""What accuracy costs: error against evaluations, for several solvers on trained fields."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

import advect
from advect.solvers import SOLVERS
from figures.ink import Ink, panels
from figures.pairs import model_of
from figures.trained import rows_of, trained

ALT = (
    "Three panels of falling lines on logarithmic axes: sampling error against network evaluations for i-cfm, ot-cfm "
    "and vp. Euler falls slowest; ot-cfm starts lowest; for vp the solvers that know the schedule matter."
)
SOLVERS_OF = {
    "i-cfm": ("euler", "midpoint", "rk4", "adams3"),
    "ot-cfm": ("euler", "midpoint", "rk4", "adams3"),
    "vp": ("ddim", "dpm++2m", "adams3-straight", "adams3-noise"),
}
BUDGETS = (4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Curve:
    """Evaluations and root mean square error, in standard deviations, of one solver."""

    evaluations: list[int]
    errors: list[float]


def curve(model: advect.Model, solver: str, exact: np.ndarray) -> Curve:
    """Samples from the same noise, against a fine solve."""
    entry, evaluations, errors = SOLVERS[solver], [], []
    for budget in BUDGETS:
        if budget % entry.evaluations or (entry.evaluations > 1 and budget < entry.evaluations):
            continue
        rows = model.sample(len(exact), solver=solver, steps=budget // entry.evaluations, seed=3)
        errors.append(float(np.sqrt(np.square((rows - exact) / rows_of("moons").std()).sum(1).mean())))
        evaluations.append(budget)
    return Curve(evaluations, errors)


def compute() -> dict[str, dict[str, Curve]]:
    """Every solver on every model."""
    found = {}
    for method, solvers in SOLVERS_OF.items():
        model = trained("moons", "vp", 700) if method == "vp" else model_of(method)
        exact = model.sample(400, solver="dopri5", tolerance=1e-6, seed=3)
        found[method] = {solver: curve(model, solver, exact) for solver in solvers}
    return found


def draw(found: dict[str, dict[str, Curve]], ink: Ink) -> Figure:
    """A panel a method."""
    figure, axes = panels(ink, 1, 3, 2.9, sharey=True)
    colours = (ink.model, ink.other, ink.data, ink.text)
    for panel, (method, curves) in zip(axes[0], found.items(), strict=True):
        for (solver, line), colour in zip(curves.items(), colours, strict=True):
            panel.loglog(line.evaluations, line.errors, "o-", color=colour, lw=1.4, ms=3.5, label=solver)
        panel.set(title=method, xlabel="evaluations")
        panel.set_xticks(BUDGETS, [str(budget) for budget in BUDGETS])
        panel.set_xticks([], minor=True)
        panel.legend(loc="lower left")
    axes[0, 0].set_ylabel("error, standard deviations")
    return figure


def caption(found: dict[str, dict[str, Curve]]) -> str:
    """What it shows, with some of the figures."""
    at = found["i-cfm"]["euler"].evaluations.index(8)
    eight = {
        method: min(line.errors[line.evaluations.index(8)] for line in curves.values())
        for method, curves in found.items()
    }
    return (
        "Root mean square distance from a fine solve of the same field from the same noise, on the moons; a little "
        f"training, one seed. At 8 evaluations Euler is off by {found['i-cfm']['euler'].errors[at]:.2f} on `i-cfm` "
        f"and by {found['ot-cfm']['euler'].errors[at]:.3f} on `ot-cfm`; the best solvers by {eight['i-cfm']:.3f}, "
        f"{eight['ot-cfm']:.3f} and, on `vp`, {eight['vp']:.3f}. This is the solver's error alone: it does not mend a "
        "poor field."
    )
