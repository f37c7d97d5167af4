"""From the runs of a comparison to its table: means over seeds, and likelihoods paired row by row."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from advect.evaluation import ClosestRecord, TrainedOn
from advect.methods import get_method
from advect.records import Metric
from advect.report import judge
from advect.report.comparison.content import CurvePoint, LikelihoodCell, MethodRow, MetricCell, Spread
from advect.workflows.comparison.measure import Measurement
from advect.workflows.report import stored_metric

# A metric far beyond a Gaussian fit must not drown the others in a mean of places.
_FARTHEST = 2.0


@dataclass(frozen=True)
class DoneRun:
    """A run that was trained and measured.

    Attributes:
        method: Its method.
        seed: Its seed.
        path: Its folder.
        measurement: What was measured.
        evaluation: Its ``evaluation.json``.
    """

    method: str
    seed: int
    path: str
    measurement: Measurement
    evaluation: Mapping[str, Any]


@dataclass(frozen=True)
class FailedRun:
    """A run that could not be trained or measured, with the reason."""

    method: str
    seed: int
    reason: str


def method_rows(
    methods: Sequence[str], asked: int, done: Sequence[DoneRun], failed: Sequence[FailedRun]
) -> tuple[MethodRow, ...]:
    """One row per method, in this order."""
    rows = tuple(
        _row(name, asked, [r for r in done if r.method == name], [f for f in failed if f.method == name])
        for name in methods
    )
    return _with_differences(rows, done)


def _row(name: str, asked: int, runs: Sequence[DoneRun], failed: Sequence[FailedRun]) -> MethodRow:
    row = MethodRow(name, get_method(name).title, asked, failures=_reasons(failed))
    if not runs:
        return row
    kept = [r.measurement for r in runs]
    shares = {r.seed: mean_share(metrics_of(r.evaluation)) for r in runs}
    share = Spread.of(shares.values())
    return replace(
        row,
        runs={r.seed: r.path for r in runs},
        parameters=kept[0].parameters,
        steps=Spread.of(m.steps for m in kept),
        rate=Spread.of(m.steps / m.training_seconds if m.training_seconds > 0 else None for m in kept),
        training_seconds=Spread.of(m.training_seconds for m in kept),
        likelihood=_likelihood(runs),
        metrics=_metrics(runs),
        sampling_seconds=Spread.of(m.sampling_seconds for m in kept),
        nfe=Spread.of(m.nfe for m in kept),
        straightness=Spread.of(r.evaluation.get("transport", {}).get("straightness") for r in runs),
        point=_mean_point([m.point for m in kept if m.point is not None]),
        curve=_mean_curve([m.curve for m in kept if m.curve]),
        closest=_mean_record(ClosestRecord, [m.closest for m in kept if m.closest is not None]),
        synthetic=_mean_record(TrainedOn, [m.synthetic for m in kept if m.synthetic is not None]),
        share=None if share is None else share.mean,
        share_spread=None if share is None else share.spread,
        best_run=_best(runs, shares),
    )


def _reasons(failed: Sequence[FailedRun]) -> tuple[str, ...]:
    """Each reason once, with the seeds it befell."""
    seeds: dict[str, list[int]] = {}
    for run in failed:
        seeds.setdefault(run.reason, []).append(run.seed)
    return tuple(
        reason if len(seeds) == 1 else f"{reason} (seed {', '.join(map(str, those))})"
        for reason, those in seeds.items()
    )


def metrics_of(evaluation: Mapping[str, Any]) -> tuple[Metric, ...]:
    """The two-sample metrics of an evaluation."""
    return tuple(stored_metric(m) for m in evaluation.get("metrics", ()))


def mean_share(metrics: Sequence[Metric]) -> float | None:
    """Mean place between real rows (0) and a Gaussian fit (1), over the metrics on which the two differ."""
    judgements = [judge(metric) for metric in metrics]
    shares = [j.share for j in judgements if j.tested and not j.weak and j.share is not None]
    return statistics.fmean(min(max(s, 0.0), _FARTHEST) for s in shares) if shares else None


def _best(runs: Sequence[DoneRun], shares: Mapping[int, float | None]) -> str:
    """The folder of the seed with the smallest share, else of the highest likelihood, else the first."""

    def order(run: DoneRun) -> tuple[float, float]:
        share, mean = shares[run.seed], run.evaluation.get("likelihood", {}).get("mean")
        return (math.inf if share is None else share, math.inf if mean is None else -mean)

    return min(runs, key=order).path


def _metrics(runs: Sequence[DoneRun]) -> tuple[MetricCell, ...]:
    by_name: dict[str, list[Metric]] = {}
    for run in runs:
        for metric in metrics_of(run.evaluation):
            by_name.setdefault(metric.name, []).append(metric)
    return tuple(_metric(group) for group in by_name.values())


def _metric(group: Sequence[Metric]) -> MetricCell:
    """Means over seeds. The error is that of a single run: a method does not come nearer to real rows by varying."""
    value = Spread.of(m.value for m in group)
    if value is None:
        return MetricCell(group[0])
    metric = replace(
        group[0],
        value=value.mean,
        error=_mean(m.error for m in group),
        floor=_mean(m.floor for m in group),
        floor_error=_mean(m.floor_error for m in group),
        ceiling=_mean(m.ceiling for m in group),
    )
    return MetricCell(metric, value.spread)


def _mean(numbers: Any) -> float | None:
    found = Spread.of(numbers)
    return None if found is None else found.mean


def _mean_point(points: Sequence[CurvePoint]) -> CurvePoint | None:
    error = Spread.of(p.error for p in points)
    if error is None:
        return None
    nfe, seconds = (statistics.fmean(getattr(p, name) for p in points) for name in ("nfe", "seconds"))
    return CurvePoint(nfe, seconds, error.mean, error.spread)


def _mean_curve(curves: Sequence[Sequence[CurvePoint]]) -> tuple[CurvePoint, ...]:
    """Point by point over seeds; the settings are the same for all."""
    means = [_mean_point(points) for points in zip(*curves, strict=False)]
    return tuple(point for point in means if point is not None)


def _mean_record(kind: Any, records: Sequence[Any]) -> Any:
    """The mean of every number; words are the same for all."""
    if not records:
        return None
    values = {name: [getattr(r, name) for r in records] for name in kind.__dataclass_fields__}
    return kind(**{k: v[0] if isinstance(v[0], str) else statistics.fmean(v) for k, v in values.items()})


# Likelihoods


def _likelihood(runs: Sequence[DoneRun]) -> LikelihoodCell:
    facts = [run.evaluation.get("likelihood", {}) for run in runs]
    reasons = [f["reason"] for f in facts if "reason" in f]
    scores = _score_rows(runs)
    value = Spread.of(_means(scores))
    if value is None:
        failed = f"no row of {scores.shape[1]} has a value" if scores.size else "not measured"
        return LikelihoodCell(reason=reasons[0] if reasons else failed)
    by_row = _row_means(scores)
    by_row = by_row[np.isfinite(by_row)]
    return LikelihoodCell(
        label=next((_label(f) for f in facts if "kind" in f), "log-density"),
        value=value,
        standard_error=_standard_error(by_row),
        rows=len(by_row),
        left_out=int((~np.isfinite(scores)).sum(1).max()),
        gaussian=_mean(f.get("gaussian") for f in facts),
    )


def _label(facts: Mapping[str, Any]) -> str:
    """What the number is; of a model that knows only bounds it says so."""
    return facts["kind"] if facts.get("elbo") is None else f"lower bound of the {facts['kind']}"


def _score_rows(runs: Sequence[DoneRun]) -> np.ndarray:
    """``(seeds, rows)`` log-probabilities of the runs that have some, NaN where there is none."""
    rows = [[math.nan if s is None else s for s in run.measurement.scores] for run in runs if run.measurement.scores]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(rows[0]) if rows else 0)


def _means(scores: np.ndarray) -> list[float]:
    """Mean of each seed over its finite rows."""
    return [float(row[np.isfinite(row)].mean()) if np.isfinite(row).any() else math.nan for row in scores]


def _row_means(scores: np.ndarray) -> np.ndarray:
    """Mean of each row over the seeds; NaN where a seed has no value for it."""
    return scores.mean(0) if len(scores) else np.zeros(0)


def _standard_error(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None


def _with_differences(rows: tuple[MethodRow, ...], done: Sequence[DoneRun]) -> tuple[MethodRow, ...]:
    """Differences to the best of each kind of likelihood: a bound is not compared with a value."""
    best: dict[str, MethodRow] = {}
    for row in rows:
        cell = row.likelihood
        if cell is None or cell.value is None:
            continue
        leader = best.get(cell.label)
        if leader is None or leader.likelihood is None or cell.mean > leader.likelihood.mean:
            best[cell.label] = row
    # The only one of its kind beside others of another kind is the best of nothing.
    labels = [row.likelihood.label for row in rows if row.likelihood is not None and row.likelihood.value is not None]
    common = max(labels, key=labels.count, default="")
    compared = {label: row for label, row in best.items() if label == common or labels.count(label) > 1}
    return tuple(_with_difference(row, compared, done) for row in rows)


def _with_difference(row: MethodRow, best: Mapping[str, MethodRow], done: Sequence[DoneRun]) -> MethodRow:
    cell = row.likelihood
    if cell is None or cell.value is None:
        return row
    leader = best.get(cell.label)
    if leader is None:
        return row
    if leader is row:
        return replace(row, likelihood=replace(cell, difference=0.0))
    mine = {run.seed: run for run in done if run.method == row.method}
    theirs = {run.seed: run for run in done if run.method == leader.method}
    seeds = [seed for seed in mine if seed in theirs]
    found = paired_difference(_score_rows([mine[s] for s in seeds]), _score_rows([theirs[s] for s in seeds]))
    if found is None:
        return row
    difference, over_rows, error = found
    paired = replace(cell, difference=difference, rows_error=over_rows, difference_error=error)
    return replace(row, likelihood=paired)


def paired_difference(mine: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float] | None:
    """Mean of (mine − theirs) over rows and seeds, its standard error over rows, and that over rows and seeds.

    The last is √(rows² + seeds²): of the mean over rows of the seeds' mean difference, and of the mean over seeds of
    the rows' mean difference where there are several seeds.

    Args:
        mine: ``(seeds, rows)``.
        theirs: The same rows and seeds of another method.
    """
    if mine.shape != theirs.shape or not mine.size:
        return None
    differences = mine - theirs
    usable = np.isfinite(differences).all(0)
    differences = differences[:, usable]
    if differences.shape[1] < 2:
        return None
    over_rows = _standard_error(differences.mean(0)) or 0.0
    over_seeds = _standard_error(differences.mean(1)) or 0.0
    return float(differences.mean()), over_rows, math.hypot(over_rows, over_seeds)
