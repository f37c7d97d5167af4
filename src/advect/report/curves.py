"""The curves of a report: how training went, what is left to learn, and what accuracy costs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from advect.report.content import ErrorCurve, FigureCurve, History, Likelihood, Regression
from advect.report.ink import FAINT, INK, REAL, SAMPLES, house_style, label, new_figure
from advect.report.marginals import say
from advect.report.numerals import grouped

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

# A log axis where the loss falls by more than this, else the end of training would be a flat line; but none over
# more powers of ten than an axis can label.
_LOG_RATIO, _WIDEST_LOG = 20.0, 1e60
_LARGEST = 1e300  # of a number that an axis can still leave room around


def _curve(steps: Sequence[float], values: Sequence[float]) -> np.ndarray:
    """``(n, 2)`` finite points in order of step; unequal lengths are cut to the shorter."""
    length = min(len(steps), len(values))
    points = np.column_stack([np.asarray(steps[:length], float), np.asarray(values[:length], float)])
    points = points[np.isfinite(points).all(1)]
    return points[np.argsort(points[:, 0], kind="stable")]


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over a thirtieth of the curve, with shorter windows at the ends."""
    half = max(len(values) // 60, 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


@house_style()
def history_figure(history: History) -> "matplotlib.figure.Figure":
    """Training loss (thin, with its running mean), validation loss (dots) and the step whose weights were kept."""
    train = _curve(history.steps, history.loss)
    held = _curve(history.validation_steps, history.validation_loss)
    figure = new_figure(5.6, 2.7)
    axes = figure.subplots()
    if not len(train) + len(held):
        say(axes, "No losses were recorded.")
        return figure
    if len(train):
        axes.plot(*train.T, color=REAL, linewidth=0.7, alpha=0.35, rasterized=len(train) > 2000)
        axes.plot(train[:, 0], _smooth(train[:, 1]), color=REAL, linewidth=1.6, label="training loss")
    if len(held):
        axes.plot(*held.T, "o-", color=SAMPLES, ms=3.2, linewidth=1.1, label="validation loss")
    if history.best_step is not None:
        axes.axvline(history.best_step, color=FAINT, linestyle=":", linewidth=1.3)
        kept = f"kept: step {grouped(history.best_step)}"
        axes.plot([], [], ":", color=FAINT, linewidth=1.3, label=label(kept))
    _scale(axes, np.concatenate([train[:, 1], held[:, 1]]))
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(axis="y")
    figure.legend(loc="outside upper left", ncols=3)
    return figure


def _scale(axes: "matplotlib.axes.Axes", losses: np.ndarray) -> None:
    low, high = float(losses.min()), float(losses.max())
    if low > 0 and _LOG_RATIO < high / low < _WIDEST_LOG:
        axes.set_yscale("log")
        return
    # A few huge first losses must not flatten the rest: the frame ends a little above the 98 % mark.
    top = float(np.quantile(losses, 0.98))
    if np.isfinite(high - low) and high - low > 3 * (top - low) > 0:
        axes.set_ylim(low - 0.05 * (top - low), top + 0.25 * (top - low))


@house_style()
def figures_figure(curves: Sequence[FigureCurve], *, best_step: int | None = None) -> "matplotlib.figure.Figure":
    """What was measured on the way, one panel a figure, each with what it is judged by (dashes; band: two standard
    deviations of it) and the step whose weights were kept."""
    drawn = [(curve, _curve(curve.steps, curve.values)) for curve in curves]
    drawn = [(curve, points) for curve, points in drawn if len(points)]
    figure = new_figure(5.6, 0.6 + 1.45 * max(len(drawn), 1))
    if not drawn:
        say(figure.subplots(), "Nothing was measured on the way.")
        return figure
    panels = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (curve, points) in zip(panels, drawn, strict=True):
        axes.plot(*points.T, "o-", color=SAMPLES, ms=3.2, linewidth=1.2)
        _level(axes, curve)
        if best_step is not None:
            axes.axvline(best_step, color=FAINT, linestyle=":", linewidth=1.3)
        if curve.level is None:
            _scale(axes, points[:, 1])
        axes.set_title(label(curve.label, 60) + (" (higher is better)" if curve.rises else " (lower is better)"))
        axes.grid(axis="y")
    panels[-1].set_xlabel("step")
    return figure


def _level(axes: "matplotlib.axes.Axes", curve: FigureCurve) -> None:
    """What a figure is judged by, named at the right end of its line."""
    level = curve.level
    if level is None or not abs(level) < _LARGEST:
        return
    axes.axhline(level, color=INK, linestyle="--", linewidth=1.1)
    if curve.spread is not None and curve.spread < _LARGEST:
        low = max(level - 2 * curve.spread, 0.0) if level >= 0 else level - 2 * curve.spread
        axes.axhspan(low, level + 2 * curve.spread, color=INK, alpha=0.08, linewidth=0)
    axes.annotate(
        label(curve.level_label, 40), (1.0, level), xycoords=("axes fraction", "data"), xytext=(-2, 2),
        textcoords="offset points", ha="right", va="bottom", fontsize=8.5, color=INK,
    )  # fmt: skip


@house_style()
def likelihood_figure(likelihood: Likelihood) -> "matplotlib.figure.Figure":
    """The held-out log-likelihood beside that of the Gaussian fit, each with two standard errors."""
    name = "model" if likelihood.elbo is None else "model, lower bound"
    marks = [(name, likelihood.mean, likelihood.standard_error, SAMPLES, "o")]
    if likelihood.gaussian is not None:
        marks.append(("Gaussian fit", likelihood.gaussian, likelihood.gaussian_error, INK, "D"))
    figure = new_figure(5.6, 0.75 + 0.3 * len(marks))
    axes = figure.subplots()
    marks = [mark for mark in marks if np.isfinite(mark[1])]
    if not marks:
        say(axes, "There is no number to draw.")
        return figure
    for place, (_, value, error, colour, sign) in enumerate(marks):
        reach = 2 * error if error is not None and np.isfinite(error) else 0.0
        axes.errorbar(value, place, xerr=reach, fmt=sign, color=colour, ms=5, capsize=3, linewidth=1.4)
    axes.set_yticks(range(len(marks)), [mark[0] for mark in marks])
    axes.set_ylim(len(marks) - 0.4, -0.6)
    axes.set_xlabel("nats per row, ± 2 standard errors (right is better)")
    axes.grid(axis="x")
    return figure


@house_style()
def regression_figure(regression: Regression) -> "matplotlib.figure.Figure":
    """Loss, the least loss possible and the gap to the exact field, over time; on a log axis where they allow it."""
    figure = new_figure(5.6, 2.7)
    axes = figure.subplots()
    loss, floor, gap = (_curve(regression.times, y) for y in (regression.loss, regression.floor, regression.gap))
    if not len(gap):
        say(axes, "The gap was not measured over time.")
        return figure
    axes.plot(*loss.T, "o-", color=REAL, ms=3.2, linewidth=1.3, label="loss")
    axes.plot(*floor.T, "--", color=INK, linewidth=1.3, label="least possible loss")
    axes.plot(*gap.T, "s-", color=SAMPLES, ms=3.2, linewidth=1.3, label="regression gap")
    error = _curve(regression.times, regression.gap_error)
    if len(error) == len(gap):
        low = np.maximum(gap[:, 1] - 2 * error[:, 1], gap[:, 1] / 10)  # a log axis has no zero
        axes.fill_between(gap[:, 0], low, gap[:, 1] + 2 * error[:, 1], color=SAMPLES, alpha=0.18, linewidth=0)
    pool = np.concatenate([curve[:, 1] for curve in (loss, floor, gap)])
    if pool.min() > 0 and pool.max() < _WIDEST_LOG * pool.min():
        axes.set_yscale("log")
    axes.set(xlabel="t", ylabel="mean square")
    axes.grid(axis="y")
    figure.legend(loc="outside upper left", ncols=3)
    return figure


@house_style()
def error_figure(curves: Sequence[ErrorCurve]) -> "matplotlib.figure.Figure":
    """Error of the samples against network evaluations per sample, both on log axes where they allow it."""
    figure = new_figure(5.6, 2.7)
    axes = figure.subplots()
    drawn = [(curve, _curve(curve.evaluations, curve.errors)) for curve in curves]
    drawn = [(curve, points) for curve, points in drawn if len(points)]
    if not drawn:
        say(axes, "No errors were measured.")
        return figure
    styles = ["o-", "s--", "^:", "D-.", "v-", "P--"]
    colours = [REAL, SAMPLES, "#009E73", "#CC79A7", "#56B4E9", "#1d2433"]
    for i, (curve, points) in enumerate(drawn[: len(styles)]):
        axes.plot(
            *points.T, styles[i], color=colours[i], ms=4, linewidth=1.3, label=" " + label(curve.label)
        )  # a leading _ would hide it
        if curve.chosen is not None:
            axes.axvline(curve.chosen, color=colours[i], linestyle=":", linewidth=1)
    pool = np.concatenate([points for _, points in drawn])
    if (pool[:, 0] > 0).all():
        axes.set_xscale("log")
        # Powers of ten say little over one or two of them: label doublings that are there.
        marks = [2.0**k for k in range(1, 13) if pool[:, 0].min() <= 2.0**k <= pool[:, 0].max()]
        if len(marks) > 1:
            axes.set_xticks(marks, [f"{mark:.0f}" for mark in marks])
            axes.set_xticks([], minor=True)
    if (pool[:, 1] > 0).all():
        axes.set_yscale("log")
    axes.set(xlabel="network evaluations per sample", ylabel=label(drawn[0][0].measure))
    axes.grid(axis="y")
    figure.legend(loc="outside upper left", ncols=3)
    return figure
