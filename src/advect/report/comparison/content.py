"""What a comparison says, as frozen records: the workflow fills them, table and page lay them out.

Every figure is a mean over seeds with its spread. Nothing here knows how a method works: a row without a likelihood
says why, a row without an ODE has one point in place of a curve.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from advect.evaluation import ClosestRecord, TrainedOn
from advect.records import Metric, Table
from advect.report.motion import Motion

# A difference of fewer standard errors than this is none.
TOLD_APART = 2.0


@dataclass(frozen=True)
class Spread:
    """A figure over seeds.

    Attributes:
        mean: Over the seeds that have it.
        spread: Standard deviation over seeds; None for a single one.
        count: Seeds.
    """

    mean: float
    spread: float | None
    count: int

    @classmethod
    def of(cls, numbers: Iterable[float | None]) -> "Spread | None":
        """Of the numbers that are there and finite; None where none is."""
        known = [float(n) for n in numbers if n is not None and math.isfinite(n)]
        if not known:
            return None
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


@dataclass(frozen=True)
class LikelihoodCell:
    """Held-out log-likelihood of a method, in nats per row.

    Attributes:
        label: What the number is (log-density, log-probability, mixed, a bound, …). Only equal labels are compared.
        value: Over seeds; None where there is none.
        standard_error: Of the mean over rows.
        rows: Rows it was taken over.
        left_out: Rows without a value, or impossible under the model, per seed at most.
        difference: Mean over rows and seeds of (this − best), row by row; 0 for the best, None without one.
        difference_error: Its standard error, over rows and over seeds.
        rows_error: The part of it that is over rows: what tells these very models apart.
        gaussian: The same mean under a Gaussian fitted to the training rows, or None.
        reason: Why there is no value.
    """

    label: str = ""
    value: Spread | None = None
    standard_error: float | None = None
    rows: int = 0
    left_out: int = 0
    difference: float | None = None
    difference_error: float | None = None
    rows_error: float | None = None
    gaussian: float | None = None
    reason: str = ""

    @property
    def mean(self) -> float:
        """Mean over rows and seeds, −∞ where there is none."""
        return -math.inf if self.value is None else self.value.mean

    @property
    def best(self) -> bool:
        """Whether this is the highest of its label."""
        return self.difference == 0 and self.difference_error is None

    @property
    def tied(self) -> bool:
        """Whether it is within two standard errors over rows of the best, or the best itself."""
        if self.difference is None:
            return False
        return self.best or abs(self.difference) <= TOLD_APART * (self.rows_error or 0.0)

    @property
    def undecided(self) -> bool:
        """Whether these models differ, but seeds vary so much that the methods may not."""
        if self.difference is None or self.tied:
            return False
        return abs(self.difference) <= TOLD_APART * (self.difference_error or 0.0)


@dataclass(frozen=True)
class MetricCell:
    """A two-sample metric: its mean over seeds with floor and ceiling, and its spread over seeds."""

    metric: Metric
    spread: float | None = None


@dataclass(frozen=True)
class CurvePoint:
    """What so much work per row buys.

    Attributes:
        nfe: Network evaluations per row; 1 for a map that is one pass.
        seconds: Time for 1000 rows.
        error: Sliced Wasserstein-2 to held-out rows.
        spread: Of the error over seeds; None for one.
    """

    nfe: float
    seconds: float
    error: float
    spread: float | None = None


@dataclass(frozen=True)
class MethodRow:
    """One method.

    Attributes:
        method: Name.
        title: The field's name for it.
        asked: Seeds that were asked for.
        runs: Seed to the folder of its finished run.
        failures: Why the other seeds have none, one sentence each.
        parameters: Trainable numbers.
        steps: Optimiser steps done.
        rate: Steps per second.
        training_seconds: Time in the training loop.
        likelihood: Held-out log-likelihood.
        metrics: Two-sample metrics.
        sampling_seconds: For 1000 rows at the run's own setting.
        nfe: Network evaluations per row there.
        straightness: Of its paths; None without an ODE.
        point: The run's own setting as a point of the curve.
        curve: Error against evaluations for a fixed solver; empty without an ODE.
        closest: Distances to training rows; None for pictures.
        synthetic: Train on synthetic, test on real; None without a label.
        share: Mean place of its metrics between real rows (0) and a Gaussian fit (1), over the metrics that can tell.
        share_spread: Of that over seeds.
        best_run: The folder of the seed with the smallest share, else of the highest likelihood.
    """

    method: str
    title: str
    asked: int
    runs: Mapping[int, str] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    parameters: int | None = None
    steps: Spread | None = None
    rate: Spread | None = None
    training_seconds: Spread | None = None
    likelihood: LikelihoodCell | None = None
    metrics: tuple[MetricCell, ...] = ()
    sampling_seconds: Spread | None = None
    nfe: Spread | None = None
    straightness: Spread | None = None
    point: CurvePoint | None = None
    curve: tuple[CurvePoint, ...] = ()
    closest: ClosestRecord | None = None
    synthetic: TrainedOn | None = None
    share: float | None = None
    share_spread: float | None = None
    best_run: str | None = None


@dataclass(frozen=True)
class Ruler:
    """What real rows score on the metric of the curves.

    Attributes:
        measure: Its name.
        floor: Real rows against real rows.
        spread: Of the floor over splits.
        rows: Rows on each side.
    """

    measure: str
    floor: float
    spread: float
    rows: int


@dataclass(frozen=True)
class ComparisonContent:
    """Everything the page of a comparison shows.

    Attributes:
        title: The heading.
        data: The data in one sentence.
        terms: What the methods had in common, in one sentence.
        verdict: Sentences, the first the most important.
        rows: One per method, in the order asked for.
        ruler: Of the curves.
        label: The column that was predicted, or None.
        samples: Method to some of its samples.
        motions: Method to rows on their way; what is no flow has none.
        real: Held-out rows beside them.
        image: Whether a row is a picture.
        bounds: Black and white of pictures.
        command: The command that makes this comparison again.
        next_commands: Commands worth trying next.
        notes: Remarks.
        links: Method and seed to the page of that run, relative to this one.
        versions: Package to version.
    """

    title: str
    data: str
    terms: str
    verdict: tuple[str, ...]
    rows: tuple[MethodRow, ...]
    ruler: Ruler | None = None
    label: str | None = None
    samples: Mapping[str, Table] = field(default_factory=dict)
    motions: Mapping[str, Motion] = field(default_factory=dict)
    real: Table | None = None
    image: bool = False
    bounds: tuple[float, float] | None = None
    command: str = ""
    next_commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
