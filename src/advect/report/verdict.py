"""From scores to a sentence that needs no expertise.

A two-sample score is read against two marks: the floor (real rows against real rows, what a perfect model gets) and
the ceiling (a Gaussian fitted to the training rows, what no effort gets). A score within two standard deviations of
the floor cannot be told from it; a score past the ceiling has learned nothing that the score can see; a score whose
ceiling is itself within two standard deviations of the floor cannot tell anything, and the sentence says so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from advect.records import Metric
from advect.report.numerals import listed, number, percent, plus_minus

# Two standard deviations, about one false alarm in twenty; a score *better* than real rows needs one in a thousand.
TOLD_APART, TOO_GOOD = 2.0, 3.0


@dataclass(frozen=True)
class Judgement:
    """One score against its floor and ceiling.

    Attributes:
        level: ``as real``, ``too good`` (better than real rows score), ``between`` (worse than the floor, better than
            the Gaussian), ``no better`` (than the Gaussian), ``unfloored`` (only a Gaussian to compare with),
            ``unjudged`` (nothing to compare with) or ``failed`` (not a number).
        share: 0 at the floor, 1 at the Gaussian fit; None where there is no such scale.
        weak: Whether the Gaussian fit passes too, so that passing says little.
    """

    level: str
    share: float | None = None
    weak: bool = False

    @property
    def passed(self) -> bool:
        """Whether the samples could not be told from real rows."""
        return self.level in ("as real", "too good")

    @property
    def tested(self) -> bool:
        """Whether there was a floor to test against."""
        return self.passed or self.level in ("between", "no better")


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def judge(metric: Metric) -> Judgement:
    """Compare one score with its floor and its ceiling."""
    if not math.isfinite(metric.value):
        return Judgement("failed")
    if metric.floor is None or not math.isfinite(metric.floor):
        return Judgement("unfloored" if _finite(metric.ceiling) else "unjudged")

    # Signed so that a larger excess is always worse.
    worse = -1.0 if metric.better == "higher" else 1.0
    excess = worse * (metric.value - metric.floor)
    spread = metric.floor_error if metric.floor_error is not None and _finite(metric.floor_error) else 0.0
    noise = math.hypot(metric.error if metric.error is not None and _finite(metric.error) else 0.0, spread)
    span = None
    if metric.ceiling is not None and math.isfinite(metric.ceiling):
        span = worse * (metric.ceiling - metric.floor)
    share = excess / span if span is not None and span > 0 else None
    weak = span is not None and span <= TOLD_APART * spread

    if noise > 0 and excess < -TOO_GOOD * noise:
        return Judgement("too good", share, weak)
    if excess <= TOLD_APART * noise:
        return Judgement("as real", share, weak)
    if span is not None and excess >= max(span, 0.0):
        return Judgement("no better", share, weak)
    return Judgement("between", share, weak)


def verdict(metrics: Sequence[Metric]) -> str:
    """Say in plain words how far the samples are from real rows, honestly when they are far."""
    judged = [(metric, judge(metric)) for metric in metrics]
    tests = [(metric, judgement) for metric, judgement in judged if judgement.tested]
    failed = [metric.name for metric, judgement in judged if judgement.level == "failed"]
    alone = [metric for metric, judgement in judged if judgement.level == "unfloored"]

    sentences = [_count(tests)] if tests else []
    sentences += _told_apart(tests) + _no_better(tests) + _too_good(tests) + _weak(tests)
    sentences += [_against_gaussian(metric) for metric in alone]
    if failed:
        sentences.append(f"No number came out for {listed(failed)}: treat these as failed.")
    if not tests and not alone and not failed:
        return "Nothing has been measured yet, so there is nothing to say about quality."
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


def _count(tests: list[tuple[Metric, Judgement]]) -> str:
    passed, total = sum(judgement.passed for _, judgement in tests), len(tests)
    if total == 1:
        which = "On the one two-sample test" if passed else ""
    elif passed == total:
        which = f"On all {total} two-sample tests"
    else:
        which = f"On {passed} of {total} two-sample tests" if passed else ""
    if not which:
        of = "the one two-sample test" if total == 1 else f"every one of {total} two-sample tests"
        return (
            f"The samples can be told from held-out rows on {of}: none comes within two standard deviations "
            "of what real rows score against real rows."
            if total > 1
            else f"The samples can be told from held-out rows on {of}."
        )
    return (
        f"{which} the samples cannot be told from held-out rows: they score within two standard deviations of "
        "what real rows score against real rows."
    )


def _told_apart(tests: list[tuple[Metric, Judgement]]) -> list[str]:
    between = [(metric, judgement) for metric, judgement in tests if judgement.level == "between"]
    if not between:
        return []
    between.sort(key=lambda pair: -(pair[1].share if pair[1].share is not None else 1.0))
    told = [_told(metric, judgement) for metric, judgement in between]
    return [f"They differ by {listed(told, 3)}."]


def _told(metric: Metric, judgement: Judgement) -> str:
    marks = f"real rows {plus_minus(metric.floor, metric.floor_error)}"
    if metric.ceiling is not None:
        marks += f", a Gaussian fit {number(metric.ceiling)}"
    if judgement.share is not None:
        marks += f", so {percent(judgement.share)} of the way from real to Gaussian"
    return f"{metric.name} ({number(metric.value)}; {marks})"


def _no_better(tests: list[tuple[Metric, Judgement]]) -> list[str]:
    names = [metric.name for metric, judgement in tests if judgement.level == "no better"]
    if not names:
        return []
    return [
        f"By {listed(names)} they are no better than a Gaussian fit: that part of the data has not been learned. "
        "Train for longer, or use a larger network."
    ]


def _too_good(tests: list[tuple[Metric, Judgement]]) -> list[str]:
    names = [metric.name for metric, judgement in tests if judgement.level == "too good"]
    if not names:
        return []
    return [
        f"By {listed(names)} they score better than real rows do, which a faithful model cannot: look for rows that "
        "are both in the training and in the held-out part."
    ]


def _weak(tests: list[tuple[Metric, Judgement]]) -> list[str]:
    names = [metric.name for metric, judgement in tests if judgement.weak and judgement.passed]
    if not names:
        return []
    return [f"Passing says little for {listed(names)}: a plain Gaussian fit passes there too."]


def _against_gaussian(metric: Metric) -> str:
    assert metric.ceiling is not None
    gain = (metric.value - metric.ceiling) * (1 if metric.better == "higher" else -1)
    noise = TOLD_APART * (metric.error or 0.0)
    word = "better than" if gain > noise else "worse than" if gain < -noise else "not clearly different from"
    unit = f" {metric.unit}" if metric.unit else ""
    return f"{metric.name} is {number(metric.value)}{unit}, {word} a Gaussian fit ({number(metric.ceiling)}{unit})."
