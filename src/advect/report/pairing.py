"""What pairing the rows costs, beside pairing at random and beside what no plan can fall below."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from advect.report.ink import FAINT, INK, SAMPLES, clean, house_style, label, new_figure
from advect.report.marginals import say
from advect.report.numerals import number, percent, plus_minus
from advect.report.parts import Card, figure_card

if TYPE_CHECKING:
    import matplotlib.figure

MOST = 12  # pairs of times that are drawn


@dataclass(frozen=True)
class PairingCost:
    """The cost of the plans of a training, as means over the batches at which they were noted.

    Attributes:
        label: Which populations they are between; empty where there is one pair.
        cost: Of a pair of the plan.
        error: Standard error of that mean, or None.
        independent: Of a pair at random.
        bound: What no plan between the same rows can fall below, or None where the plan is the best one.
        mass: The mass that the plan moves, of 1, or None where it moves all.
        batches: Over how many batches.
    """

    label: str
    cost: float
    error: float | None
    independent: float
    bound: float | None = None
    mass: float | None = None
    batches: int = 1


@house_style()
def pairing_figure(costs: tuple[PairingCost, ...]) -> "matplotlib.figure.Figure":
    """One line for each pair of populations: the plan, pairs at random, and the bound."""
    drawn = [one for one in costs if np.isfinite([one.cost, one.independent]).all()][:MOST]
    figure = new_figure(5.6, 1.05 + 0.3 * max(len(drawn), 1))
    axes = figure.subplots()
    if not drawn:
        say(axes, "There are no costs to draw.")
        return figure
    for place, one in enumerate(drawn):
        axes.plot([one.cost, one.independent], [place, place], color=FAINT, linewidth=1.0, zorder=1)
        reach = 2 * one.error if one.error is not None and np.isfinite(one.error) else 0.0
        first = place == 0
        axes.errorbar(
            one.cost, place, xerr=reach, fmt="o", color=SAMPLES, ms=5, capsize=3, linewidth=1.4,
            label="the plan" if first else None,
        )  # fmt: skip
        axes.plot(one.independent, place, "D", color=INK, ms=5, label="pairs at random" if first else None)
    bounds = [(one.bound, place) for place, one in enumerate(drawn) if one.bound is not None]
    if bounds:
        axes.plot(*np.array(bounds).T, "|", color=INK, ms=13, mew=1.6, label="no plan costs less")
    axes.set_yticks(range(len(drawn)), [label(one.label) for one in drawn])
    axes.set_ylim(len(drawn) - 0.4, -0.6)
    axes.set_xlim(0, None)
    axes.set_xlabel("mean cost of a pair, standardised units (± 2 standard errors)")
    axes.grid(axis="x")
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def pairing_words(costs: tuple[PairingCost, ...]) -> tuple[str, ...]:
    """One sentence for each pair of populations."""
    sentences = []
    for one in costs:
        share = percent(one.cost / one.independent) if one.independent > 0 else "none"
        text = f"{clean(one.label)}: " if one.label else ""
        text += f"{plus_minus(one.cost, one.error)} a pair, {share} of what pairs at random cost "
        text += f"({number(one.independent)})"
        if one.bound is not None:
            text += f"; no plan between the same rows costs less than {number(one.bound)}"
        if one.mass is not None:
            text += f"; the plan moves {percent(one.mass)} of the mass, the rest is made and lost"
        sentences.append(f"{text}.")
    return tuple(sentences)


def pairing_card(costs: tuple[PairingCost, ...]) -> Card | None:
    """The figure with its words; None where rows are not paired by cost."""
    if not costs:
        return None
    alt = " ".join(["Mean cost of a pair.", *pairing_words(costs)[:MOST]])
    more = f" The first {MOST} of {len(costs)} are drawn." if len(costs) > MOST else ""
    caption = (
        "Cost of the plans that the training was given, a batch or pool of rows at a time: the more rows, the less. "
        f"Cheaper pairs make straighter ways.{more}"
    )
    return figure_card(pairing_figure(costs), alt, caption=caption)
