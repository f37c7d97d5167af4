"""The sanity rows of `benchmarks.density`: a Gaussian, and Gaussian mixtures with as many parts as validation likes."""

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advect.errors import missing_extra
from advect.evaluation import GaussianFit
from benchmarks.density_data import CHOICE, Rows, stream
from benchmarks.density_train import versions

COMPONENTS = (2, 4, 8, 16, 32, 64, 128)
MOST_ROWS = 50_000  # that a mixture is fitted to
GROWTH = 4.0  # a fit with twice the parts is taken to last at most so many times as long


def fit_gaussian(rows: Rows, seconds: float, seed: int) -> tuple[Any, dict[str, Any]]:
    """The Gaussian of the training rows; its log-density, and what there is to say."""
    started = time.monotonic()
    fit = GaussianFit.of(rows.train)
    return fit.log_prob, {"training_seconds": time.monotonic() - started, "train_rows": len(rows.train)}


def fit_mixture(rows: Rows, seconds: float, seed: int) -> tuple[Any, dict[str, Any]]:
    """Full-covariance mixtures of doubling size while there is time; the one with the best validation rows.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise missing_extra("scikit-learn", "sklearn", "the mixture") from error
    chosen = torch.from_numpy(stream(CHOICE).permutation(len(rows.train))[:MOST_ROWS])
    train, validation = rows.train[chosen].double().numpy(), rows.validation.double().numpy()
    started, best, best_value, last, tried = time.monotonic(), None, -np.inf, 0.0, []
    for parts in COMPONENTS:
        if tried and time.monotonic() - started + GROWTH * last > seconds:
            break
        begun = time.monotonic()
        mixture = GaussianMixture(parts, init_params="k-means++", random_state=seed).fit(train)
        value, last = float(mixture.score(validation)), time.monotonic() - begun
        tried.append([parts, value + rows.log_det])
        if value > best_value:
            best, best_value = mixture, value
    assert best is not None

    def log_prob(x: Tensor) -> Tensor:
        return torch.from_numpy(best.score_samples(x.double().numpy()))

    return log_prob, {
        "training_seconds": time.monotonic() - started,
        "train_rows": len(train),
        "components": best.n_components,
        "validation_by_components": tried,
        "peer_versions": versions(["scikit-learn"]),
    }


SANITY = {"gaussian": fit_gaussian, "mixture": fit_mixture}
"""Name to fit; each returns the log-density of standardised rows."""
