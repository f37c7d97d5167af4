"""Classifier two-sample test (Lopez-Paz & Oquab 1610.06545): can a simple classifier tell samples from real rows?

The score is the accuracy on rows that the classifier has not seen, by cross-validation: 0.5 where the two samples
cannot be told apart, 1 where they never mix. The classifier is ridge regression of the label on columns, their squares
and products, and random Fourier features at several widths (Rahimi & Recht 2007), solved in closed form: nothing to
tune, the same rows and seed give the same accuracy. On 2000 rows of moons, of 8 Gaussians and of 64-dimensional
Gaussians it was about as accurate as a two-layer network trained for 300 steps, in a tenth of the time.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from advect.errors import ShapeError
from advect.evaluation.features import FeatureMap

_RIDGE = 1e-4  # per row


@dataclass(frozen=True)
class Accuracy:
    """A cross-validated accuracy with its binomial standard error, over ``num_rows`` held-out decisions."""

    value: float
    standard_error: float
    num_rows: int


def classifier_accuracy(
    a: Float[Tensor, "rows_a dim"], b: Float[Tensor, "rows_b dim"], *, generator: Generator, folds: int = 5
) -> Accuracy:
    """Held-out accuracy at telling ``a`` from ``b``, each class weighing one half.

    Args:
        a: At least two rows.
        b: At least two rows.
        generator: Splits the folds and draws the features.
        folds: Parts of the cross-validation, at most the rows of the smaller sample.

    Raises:
        ShapeError: Fewer than two rows on a side.
    """
    if len(a) < 2 or len(b) < 2:
        raise ShapeError(
            f"{len(a)} and {len(b)} rows", where="classifier_accuracy", remedy="Give at least two on each side."
        )
    folds = max(2, min(folds, len(a), len(b)))
    rows = torch.cat([a, b]).detach().double().cpu()
    features = FeatureMap.of(rows, generator)(rows)
    # Both classes weigh the same whatever their numbers; the squared loss has targets ±1.
    sign = torch.cat([torch.ones(len(a)), -torch.ones(len(b))]).double()
    weight = torch.cat([torch.full((len(x),), 0.5 / len(x), dtype=torch.float64) for x in (a, b)])
    fold = torch.cat([_fold_numbers(len(x), folds, generator) for x in (a, b)])

    margin = _held_out_fit(features, sign, weight, fold, folds) * sign
    # A margin of exactly zero is a coin toss: half right.
    right = torch.where(margin == 0, 0.5, (margin > 0).double())
    per_class = torch.stack([right[: len(a)].mean(), right[len(a) :].mean()])
    variance = (per_class * (1 - per_class) / torch.tensor([len(a), len(b)])).sum() / 4
    return Accuracy(float(per_class.mean()), math.sqrt(float(variance)), len(right))


def _fold_numbers(num_rows: int, folds: int, generator: Generator) -> Int[Tensor, " rows"]:
    """A fold for each row of one class, in nearly equal numbers."""
    order = torch.randperm(num_rows, generator=generator, device=generator.device).cpu()
    numbers = torch.empty(num_rows, dtype=torch.int64)
    numbers[order] = torch.arange(num_rows) % folds
    return numbers


def _held_out_fit(
    features: Float[Tensor, "rows features"],
    sign: Float[Tensor, " rows"],
    weight: Float[Tensor, " rows"],
    fold: Int[Tensor, " rows"],
    folds: int,
) -> Float[Tensor, " rows"]:
    """Ridge regression of the sign, each row predicted by the fit that left its fold out."""
    parts = [(fold == number).nonzero()[:, 0] for number in range(folds)]
    weighted = features * weight[:, None]
    grams = [weighted[part].T @ features[part] for part in parts]
    moments = [weighted[part].T @ sign[part] for part in parts]
    gram, moment = torch.stack(grams).sum(0), torch.stack(moments).sum(0)

    predicted = torch.empty_like(sign)
    ridge = _RIDGE * torch.eye(features.shape[1], dtype=torch.float64)
    for part, part_gram, part_moment in zip(parts, grams, moments, strict=True):
        coefficients = torch.linalg.solve(gram - part_gram + ridge, moment - part_moment)
        predicted[part] = features[part] @ coefficients
    return predicted
