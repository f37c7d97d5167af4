"""What a report says, as one frozen record: the workflows fill it, the page lays it out, nothing is computed twice.

Every text in it may come from a stranger's file (column names, categories, paths): the page escapes all of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from advect.records import Column, Finding, Metric, Table
from advect.report.density import DensityGrid
from advect.report.motion import Motion
from advect.report.pairing import PairingCost
from advect.report.times import Course


@dataclass(frozen=True)
class DataSummary:
    """Which rows the model was made from.

    Attributes:
        origin: Where they came from: a file or a built-in name.
        rows: Number of rows that were read.
        columns: The modelled columns; for pictures one per pixel.
        split: Rows per part, in order, such as ``{"training": 1438, "validation": 179, "held out": 180}``.
        event_shape: Shape of one row.
        image: Whether a row is a picture.
        condition: Columns that are given, not modelled.
        sha256: Of the data, as hexadecimal text.
    """

    origin: str
    rows: int
    columns: tuple[Column, ...]
    split: Mapping[str, int] = field(default_factory=dict)
    event_shape: tuple[int, ...] = ()
    image: bool = False
    condition: tuple[Column, ...] = ()
    sha256: str | None = None


@dataclass(frozen=True)
class Likelihood:
    """Held-out log-likelihood per row, in the units of the user's data.

    Attributes:
        mean: Mean over the held-out rows, in nats per row.
        standard_error: Of that mean over rows.
        rows: How many rows it was taken over.
        gaussian: The same mean under a Gaussian fitted to the training rows, or None.
        gaussian_error: Its standard error.
        difference: Mean over rows of (model - Gaussian), paired row by row, or None.
        difference_error: Standard error of the paired difference; smaller than the two errors together.
        dequantisation: K, the importance samples per row, where columns are discrete; None where none are.
        bits_per_dim: The mean as bits per dimension, where that is customary.
        failed_rows: Rows without a value (solver failure, outside the support), left out of the mean.
        kind: What the number is: ``log-density``, ``log-probability`` or ``mixed`` (both kinds of column).
        elbo: Of a model that knows no more than bounds: the evidence lower bound. The mean is a bound then, too.
        bound_draws: K, the draws of its codes in the mean.
    """

    mean: float
    standard_error: float | None
    rows: int
    gaussian: float | None = None
    gaussian_error: float | None = None
    difference: float | None = None
    difference_error: float | None = None
    dequantisation: int | None = None
    bits_per_dim: float | None = None
    failed_rows: int = 0
    kind: str = "log-density"
    elbo: float | None = None
    bound_draws: int | None = None


@dataclass(frozen=True)
class FigureCurve:
    """A figure that was measured while the run trained.

    Attributes:
        label: What it is.
        steps: Where it was measured.
        values: What it was there.
        level: What it is judged by, such as the same figure of real rows; None where there is nothing.
        level_label: What that is.
        spread: Standard deviation of the level, or None.
        rises: Whether larger is better.
    """

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    level: float | None = None
    level_label: str = ""
    spread: float | None = None
    rises: bool = False


@dataclass(frozen=True)
class History:
    """How training went. The two curves have their own steps, because validation is seldom run.

    Attributes:
        steps: Steps at which the training loss was noted.
        loss: Training loss there.
        validation_steps: Steps at which the validation loss was taken.
        validation_loss: Validation loss there.
        best_step: The step whose weights were kept, or None.
        seconds: Training time, or None.
        shares: Where the loop's time went: phase name to fraction.
        product_share: What the products of the steps were of the device's best, or None.
        skipped: Steps that were not taken, as their gradients did not fit float16.
        figures: Curves of what else was measured on the way.
        averages: In a sentence how the averages of the weights did that were kept side by side; empty for one.
    """

    steps: Sequence[float] = ()
    loss: Sequence[float] = ()
    validation_steps: Sequence[float] = ()
    validation_loss: Sequence[float] = ()
    best_step: int | None = None
    seconds: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    product_share: float | None = None
    skipped: int = 0
    figures: Sequence[FigureCurve] = ()
    averages: str = ""


@dataclass(frozen=True)
class ErrorCurve:
    """How the error of the samples falls with the evaluations a solver may spend.

    Attributes:
        label: The solver.
        evaluations: Network evaluations per sample.
        errors: The error there (any measure; named in `measure`).
        measure: What the error is, for the axis.
        chosen: The evaluations of the calibrated setting, or None.
    """

    label: str
    evaluations: Sequence[float]
    errors: Sequence[float]
    measure: str = "error"
    chosen: float | None = None


@dataclass(frozen=True)
class Regression:
    """The learnt field beside the exact one of its training rows, over time.

    Attributes:
        words: The gap in a sentence, or why there is none.
        times: Middles of spans of time; empty where nothing was measured over time.
        gap: E|v − u*|² there.
        gap_error: Its standard error.
        loss: E|v − u|².
        floor: E|u* − u|²: the smallest loss there is.
    """

    words: str
    times: Sequence[float] = ()
    gap: Sequence[float] = ()
    gap_error: Sequence[float] = ()
    loss: Sequence[float] = ()
    floor: Sequence[float] = ()


@dataclass(frozen=True)
class ReportContent:
    """Everything the page shows; what is None or empty is left out.

    Attributes:
        title: The heading, such as ``digits, learned by ot-cfm``.
        method: Name of the method.
        explanation: One sentence on how it works.
        data: Which rows.
        verdict: Plain words on quality, see `advect.report.verdict`.
        findings: What the data check noticed.
        metrics: Two-sample scores, each with floor and ceiling.
        likelihood: Held-out log-likelihood.
        history: Training curves.
        regression: The regression gap over time.
        samples: Rows drawn from the model, of the user's kind.
        real: Held-out rows to look at beside them.
        nearest: ``(samples, channels, height, width)`` the training picture nearest to each sample, for pictures.
        motion: Rows on their way from source to data.
        ends: What stands at t = 0 and at t = 1.
        course: The times of a run that leads through several.
        density: The model's density in the plane.
        pairing: What pairing source and data costs.
        error_curves: Error against network evaluations, one per solver.
        configuration: The resolved configuration as TOML.
        command: The command line that makes this run again.
        next_commands: Commands worth trying next.
        notes: Warnings and remarks, most important first.
        versions: Package to version.
    """

    title: str
    method: str
    explanation: str
    data: DataSummary
    verdict: str = ""
    findings: tuple[Finding, ...] = ()
    metrics: tuple[Metric, ...] = ()
    likelihood: Likelihood | None = None
    history: History | None = None
    regression: Regression | None = None
    samples: Table | None = None
    real: Table | None = None
    nearest: np.ndarray | None = None
    motion: Motion | None = None
    ends: tuple[str, str] = ("noise", "data")
    course: Course | None = None
    density: DensityGrid | None = None
    pairing: tuple[PairingCost, ...] = ()
    error_curves: tuple[ErrorCurve, ...] = ()
    configuration: str = ""
    command: str = ""
    next_commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
