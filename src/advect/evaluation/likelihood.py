"""Held-out log-likelihood, summed up without losing rows on the way.

A mean over rows hides what it leaves out. Here a row that failed (NaN) makes the plain mean NaN and is counted; the
mean of the rest is there under a name that says so. A row outside the support has log-density −∞, which is a number: it
makes the mean −∞, and is counted too. The unit stands in every name: nats; `evaluation.bits` has bits per dimension.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from advect.errors import ShapeError
from advect.evaluation.gaussian import GaussianFit
from advect.records import Metric


@dataclass(frozen=True)
class LogProbSummary:
    """Log-likelihood of a set of rows.

    Attributes:
        num_rows: Rows that were scored.
        num_failed: Rows without a value (NaN, or +∞ from a singular map).
        num_outside_support: Rows with value −∞.
        mean_nats: Mean over all rows; NaN if any row failed, −∞ if any lies outside the support.
        mean_of_rest_nats: Mean over the rows with finite values.
        standard_error_nats: Of ``mean_of_rest_nats`` for the choice of rows: sd/√rows.
        estimator_error_nats: Of ``mean_of_rest_nats`` for fixed rows, from the standard errors of the rows.
    """

    num_rows: int
    num_failed: int
    num_outside_support: int
    mean_nats: float
    mean_of_rest_nats: float
    standard_error_nats: float
    estimator_error_nats: float

    def as_metric(self, *, ceiling: float | None = None) -> Metric:
        """As a `Metric`, whose name counts the rows that the figure leaves out."""
        left_out = [
            f"{count} {what}"
            for count, what in ((self.num_failed, "failed"), (self.num_outside_support, "outside the support"))
            if count
        ]
        note = f" (without {' and '.join(left_out)} of {self.num_rows} rows)" if left_out else ""
        return Metric(
            f"held-out log-likelihood{note}",
            self.mean_of_rest_nats,
            error=self.standard_error_nats,
            ceiling=ceiling,
            better="higher",
            unit="nats per row",
        )


def summarise_log_prob(
    values: Float[Tensor, " batch"], standard_errors: Float[Tensor, " errors"] | None = None
) -> LogProbSummary:
    """Mean log-density with its errors, failed rows counted and never dropped in silence.

    Args:
        values: Log-density of each row in nats; NaN where the row failed.
        standard_errors: Of each value, from a stochastic trace or dequantisation; None where they are exact.

    Raises:
        ShapeError: No rows, or another number of standard errors.
    """
    if not len(values) or (standard_errors is not None and len(standard_errors) != len(values)):
        given = "no" if standard_errors is None else len(standard_errors)
        raise ShapeError(f"{len(values)} values and {given} standard errors", where="summarise_log_prob")
    values = values.detach().double()
    finite = torch.isfinite(values)
    # +∞ is no density either: the map was singular there.
    num_failed = int((values.isnan() | (values == math.inf)).sum())
    rest, count = values[finite], int(finite.sum())
    errors = torch.zeros_like(rest) if standard_errors is None else standard_errors.detach().double()[finite]
    return LogProbSummary(
        num_rows=len(values),
        num_failed=num_failed,
        num_outside_support=int((values == -math.inf).sum()),
        mean_nats=math.nan if num_failed else float(values.mean()),
        mean_of_rest_nats=float(rest.mean()) if count else math.nan,
        standard_error_nats=float(rest.std() / math.sqrt(count)) if count > 1 else math.nan,
        estimator_error_nats=float(errors.square().sum().sqrt()) / count if count else math.nan,
    )


def gaussian_fit_log_prob(train: Float[Tensor, "train dim"], test: Float[Tensor, "test dim"]) -> Float[Tensor, " test"]:
    """Log-density in nats of each test row under the Gaussian fitted to the training rows, in the units of the rows.

    Raises:
        UnsupportedError: The fit is singular (constant columns, or too few rows): it has no density.
    """
    return GaussianFit.of(train).log_prob(test)
