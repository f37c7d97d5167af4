"""Train on synthetic, test on real: are samples as good to learn from as the training rows were?

A predictor of one column from the others is fitted to samples and scored on real held-out rows (Esteban, Hyland &
Rätsch 2017, arXiv 1706.02633, §4.2); the same predictor fitted to equally many training rows is the ceiling. The
predictor is ridge regression on the features of `evaluation.features`, of the standardised target or of ±1 per class
with the largest output winning; its ridge is chosen by leave-one-out error, which is closed form. Feature map and test
rows are shared, so that the fits differ in their rows alone.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ShapeError
from advect.evaluation.features import FeatureMap

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # per row
LEAST_ROWS = 10


@dataclass(frozen=True)
class Lesson:
    """Rows to learn from, or to be tested on.

    Attributes:
        inputs: ``(rows, dim)``.
        target: ``(rows,)`` numbers, or class numbers 0 … classes − 1 in a float tensor.
    """

    inputs: Float[Tensor, "rows dim"]
    target: Float[Tensor, " rows"]

    def finite(self) -> "Lesson":
        """The rows without anything that is not finite."""
        keep = torch.isfinite(self.inputs).all(1) & torch.isfinite(self.target)
        return Lesson(self.inputs[keep].detach().double(), self.target[keep].detach().double())


@dataclass(frozen=True)
class TrainedOn:
    """Scores on real held-out rows.

    Attributes:
        synthetic: Of the predictor fitted to samples.
        real: Of the same fitted to training rows: the ceiling.
        guess: Of the best constant answer: the largest class, or 0 for R².
        error: Standard error of ``synthetic`` over the test rows (accuracy), NaN for R².
        measure: ``accuracy`` or ``R²``.
    """

    synthetic: float
    real: float
    guess: float
    error: float
    measure: str


def train_on_synthetic(
    samples: Lesson, train: Lesson, test: Lesson, *, classes: int | None = None, generator: Generator
) -> TrainedOn:
    """Fit to samples and to training rows, score both on held-out rows.

    Args:
        samples: Generated rows; those that are not finite are left out.
        train: Training rows; the longer of the two lessons is cut to the length of the other.
        test: Held-out rows.
        classes: Number of classes; None for a target of numbers.
        generator: Draws the features.

    Raises:
        ShapeError: Fewer than ten usable rows in a lesson, or fewer than two in the test.
    """
    samples, train, test = samples.finite(), train.finite(), test.finite()
    count = min(len(samples.target), len(train.target))
    if count < LEAST_ROWS or len(test.target) < 2:
        raise ShapeError(
            f"{count} rows to learn from and {len(test.target)} to test on",
            where="train_on_synthetic",
            remedy=f"Give at least {LEAST_ROWS} and 2.",
        )
    features = FeatureMap.of(train.inputs, generator)
    tested = features(test.inputs)
    scores = [
        _score(_predict(features(one.inputs[:count]), one.target[:count], tested, classes), test.target, classes)
        for one in (samples, train)
    ]
    if classes is None:
        return TrainedOn(scores[0], scores[1], 0.0, math.nan, "R²")
    largest = int(torch.bincount(train.target.long(), minlength=classes).argmax())
    guess = float((test.target == largest).double().mean())
    error = math.sqrt(scores[0] * (1 - scores[0]) / len(test.target))
    return TrainedOn(scores[0], scores[1], guess, error, "accuracy")


def _predict(features: Tensor, target: Tensor, tested: Tensor, classes: int | None) -> Tensor:
    """Numbers, or class numbers, for the tested rows."""
    if classes is None:
        mean = target.mean()
        return mean + (tested @ _ridge(features, (target - mean)[:, None]))[:, 0]
    signs = 2 * torch.nn.functional.one_hot(target.long(), classes).double() - 1
    return (tested @ _ridge(features, signs)).argmax(1).double()


def _ridge(features: Float[Tensor, "rows features"], targets: Float[Tensor, "rows outputs"]) -> Tensor:
    """Coefficients ``(features, outputs)`` for the ridge of least leave-one-out error.

    With X'X = V Λ V', the fitted values are U s(Λ) U'y for U = X V Λ^(−1/2), and the error of the fit without row i at
    row i is e_i/(1 − h_ii).
    """
    rows = len(features)
    values, vectors = torch.linalg.eigh(features.T @ features)
    turned = features @ vectors
    moments = turned.T @ targets
    best, chosen = math.inf, vectors.new_zeros(())
    for ridge in RIDGES:
        inverse = 1 / (values.clamp_min(0.0) + ridge * rows)
        coefficients = inverse[:, None] * moments
        leverage = (turned.square() @ inverse).clamp_max(1 - 1e-6)
        left_out = (targets - turned @ coefficients) / (1 - leverage)[:, None]
        error = float(left_out.square().mean())
        if error < best:
            best, chosen = error, coefficients
    return vectors @ chosen


def _score(predicted: Tensor, target: Tensor, classes: int | None) -> float:
    """Accuracy, or R² = 1 − Σ(y − ŷ)²/Σ(y − ȳ)²; NaN where the held-out target never varies."""
    if classes is not None:
        return float((predicted == target).double().mean())
    total = float((target - target.mean()).square().sum())
    return 1 - float((target - predicted).square().sum()) / total if total > 0 else math.nan
