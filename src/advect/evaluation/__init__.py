"""How good are the samples, the likelihoods and the paths of a model, and how good could they be?

Pure functions on tensors of rows ``(rows, dim)`` in standardised units; nothing here knows how a model was made.
Distances between two samples (Wasserstein exact and sliced, energy, MMD, a classifier, columns, correlations) come with
a noise floor (real against real) and a ceiling (a fitted Gaussian) from `two_sample_suite`; those of features of
pictures are `frechet_distance` and `kernel_distance`, beside `support_overlap`; likelihoods with their errors and their
failed rows from `summarise_log_prob`; paths with their energy and straightness; whether samples repeat training rows
from `closest_record` and `memorised`, and whether they teach as much from `train_on_synthetic`; how far a learnt field
is from the exact one in `evaluation.regression_gap`; whether a path is what it should be in `evaluation.verification`.
"""

from advect.evaluation.bits import bits_per_dimension, bits_per_dimension_metric
from advect.evaluation.calibration import Coverage, expected_coverage, rank_uniformity, sbc_ranks
from advect.evaluation.classifier import Accuracy, classifier_accuracy
from advect.evaluation.closest import ClosestRecord, closest_record, nearest_distance
from advect.evaluation.columns import correlation_error, kolmogorov_smirnov
from advect.evaluation.energy import energy_distance
from advect.evaluation.frechet import Moments, frechet_distance, frechet_error, frechet_squared
from advect.evaluation.gaussian import GaussianFit
from advect.evaluation.importance import ImportanceDiagnostics, importance_diagnostics, importance_draws
from advect.evaluation.kernel_distance import kernel_distance, kernel_distance_error
from advect.evaluation.likelihood import (
    LogProbSummary,
    gaussian_fit_log_prob,
    summarise_log_prob,
)
from advect.evaluation.memorised import Memorised, Nearest, memorised, nearest_records
from advect.evaluation.mmd import median_bandwidths, mmd_squared
from advect.evaluation.noise_floor import Floor, noise_floor
from advect.evaluation.straightness import normalised_path_energy, path_energy, straightness
from advect.evaluation.suite import column_suite, two_sample_suite
from advect.evaluation.support import SupportOverlap, support_overlap
from advect.evaluation.synthetic import Lesson, TrainedOn, train_on_synthetic
from advect.evaluation.wasserstein import sliced_wasserstein, wasserstein

__all__ = [
    "Accuracy",
    "ClosestRecord",
    "Coverage",
    "Floor",
    "GaussianFit",
    "ImportanceDiagnostics",
    "Lesson",
    "LogProbSummary",
    "Memorised",
    "Moments",
    "Nearest",
    "SupportOverlap",
    "TrainedOn",
    "bits_per_dimension",
    "bits_per_dimension_metric",
    "classifier_accuracy",
    "closest_record",
    "column_suite",
    "correlation_error",
    "energy_distance",
    "expected_coverage",
    "frechet_distance",
    "frechet_error",
    "frechet_squared",
    "gaussian_fit_log_prob",
    "importance_diagnostics",
    "importance_draws",
    "kernel_distance",
    "kernel_distance_error",
    "kolmogorov_smirnov",
    "median_bandwidths",
    "memorised",
    "mmd_squared",
    "nearest_distance",
    "nearest_records",
    "noise_floor",
    "normalised_path_energy",
    "path_energy",
    "rank_uniformity",
    "sbc_ranks",
    "sliced_wasserstein",
    "straightness",
    "summarise_log_prob",
    "support_overlap",
    "train_on_synthetic",
    "two_sample_suite",
    "wasserstein",
]
