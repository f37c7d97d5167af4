"""How good pictures are: distances of features, their support, and whether training pictures come back.

Every figure is a mean over a few random splits of the held-out pictures into two parts of n each: samples against one
part, and, as its floor, one part against the other. So value and floor have the same number of pictures on each side,
and what a figure gains from few of them (the Fréchet distance is biased upward, the more the fewer) both gain.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from advect.data import read_table, some_rows
from advect.data.kinds import stack_numbers
from advect.errors import DataError
from advect.evaluation import (
    frechet_distance,
    frechet_error,
    kernel_distance,
    kernel_distance_error,
    memorised,
    nearest_records,
    support_overlap,
)
from advect.evaluation.noise_floor import random_halves, spread_of
from advect.evaluation.support import NEIGHBOURS, SupportOverlap
from advect.records import Metric, Table
from advect.training import generator_for
from advect.workflows.picture_features import PictureFeatures, checked_features, pixels

SPLITS = 5
FEWEST = 2 * NEIGHBOURS  # pictures on each side
NEAREST_ROWS, NEAREST_NUMBERS = 500, 1 << 27  # samples looked at; numbers of training pictures held at once
_STREAM = 19  # of `generator_for`


def feature_metrics(samples: Tensor, held_out: Tensor, *, generator: Generator) -> tuple[Metric, ...]:
    """Figures of features, each with error and floor.

    Args:
        samples: ``(samples, features)``.
        held_out: ``(rows, features)`` of real pictures; two for every sample use all samples.
        generator: Draws the splits and the bootstrap.

    Raises:
        DataError: Too few pictures on a side.
    """
    count = min(len(samples), len(held_out) // 2)
    if count < FEWEST:
        raise DataError(
            f"{len(samples)} samples and {len(held_out)} held-out pictures are too few for figures of features",
            remedy=f"Have {FEWEST} samples and {2 * FEWEST} held-out pictures, or more.",
        )
    samples = samples[torch.randperm(len(samples), generator=generator)][:count]
    halves = random_halves(held_out, count, SPLITS, generator)
    first = halves[0][0]

    def metric(name: str, figure: Callable[[Tensor, Tensor], float], error: float, better: str, unit: str) -> Metric:
        value = spread_of([figure(samples, half) for half, _ in halves])
        floor = spread_of([figure(other, half) for half, other in halves])
        return Metric(name, value.value, error, floor.value, floor.spread, better=better, unit=unit)

    distances = (
        metric(
            "Fréchet distance of features",
            frechet_distance,
            frechet_error(samples, first, generator=generator),
            "lower",
            f"squared features, {count} pictures a side",
        ),
        metric(
            "kernel distance of features",
            kernel_distance,
            kernel_distance_error(samples, first),
            "lower",
            "unbiased MMD², cubic kernel",
        ),
    )
    return distances + _support_metrics(samples, halves)


def _support_metrics(samples: Tensor, halves: list[tuple[Tensor, Tensor]]) -> tuple[Metric, ...]:
    """Precision, recall, density and coverage, from one search of neighbours for each split."""
    values = [support_overlap(samples, half) for half, _ in halves]
    floors = [support_overlap(other, half) for half, other in halves]
    words = {
        "precision": "share of samples near real pictures",
        "recall": "share of real pictures near samples",
        "density": "real pictures around a sample",
        "coverage": "share of real pictures with a sample near",
    }

    def of(found: list[SupportOverlap], name: str) -> list[float]:
        return [getattr(one, name) for one in found]

    metrics = []
    for name, unit in words.items():
        value, floor = spread_of(of(values, name)), spread_of(of(floors, name))
        error = sum(of(values, f"{name}_error")) / len(values)
        metrics.append(
            Metric(f"{name} of features", value.value, error, floor.value, floor.spread, better="higher", unit=unit)
        )
    return tuple(metrics)


def copy_metrics(samples: Table, held_out: Table, reference: Table) -> tuple[Metric, ...]:
    """Shares of samples that repeat training pictures, by pixels, with those of held-out pictures as the floor."""
    train = training_pixels(reference)
    drawn, real = (pixels(table)[:NEAREST_ROWS].flatten(1) for table in (samples, held_out))
    found = memorised(nearest_records(drawn, train), nearest_records(real, train))

    def metric(name: str, share: float, floor: float, unit: str) -> Metric:
        error, spread = ((p * (1 - p) / n) ** 0.5 for p, n in ((share, len(drawn)), (floor, len(real))))
        return Metric(name, share, error, floor, spread, unit=unit)

    return (
        metric("memorised share", found.share, found.real_share, "nearest training picture at a third of the second"),
        metric("near-copy share", found.near_share, found.real_near_share, "nearer than 99 % of held-out pictures"),
    )


def nearest_pictures(samples: Table, reference: Table) -> np.ndarray:
    """The nearest training picture of each sample by pixels, ``(samples, channels, height, width)``."""
    train = training_pixels(reference)
    found = nearest_records(pixels(samples).flatten(1), train)
    return train[found.index].reshape(samples.num_rows, *samples.event_shape).numpy()


def training_pixels(reference: Table) -> Tensor:
    """Training pictures as ``(rows, pixels)`` float32, as many as fit."""
    most = max(2, NEAREST_NUMBERS // max(1, len(reference.columns)))
    return pixels(some_rows(reference, most, generator_for(0, _STREAM))).flatten(1)


def picture_figures(
    samples: Table, held_out: Table, reference: Table, features: PictureFeatures, *, seed: int = 0
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Metrics as plain values, and what the features are.

    Args:
        samples: Generated pictures without gaps.
        held_out: Pictures the model has not seen.
        reference: Training pictures.
        features: In which they are compared.
        seed: Of splits and bootstrap.
    """
    real = features(held_out)
    metrics = (
        *feature_metrics(features(samples), real, generator=generator_for(seed, _STREAM)),
        *copy_metrics(samples, held_out, reference),
    )
    facts = {
        "features": features.words,
        "accuracy": features.accuracy,
        "samples": samples.num_rows,
        "held_out": held_out.num_rows,
        "neighbours": NEIGHBOURS,
        "note": FINITE,
    }
    return [asdict(metric) for metric in metrics], facts


def pair_figures(samples: str, held_out: str, *, seed: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """As `picture_figures`, of features that the user computed: two ``.npy`` files, one row for each picture.

    Raises:
        DataError: They hold no finite numbers, differ in width, or are too few.
    """
    drawn, real = (_read(name) for name in (samples, held_out))
    if drawn.shape[1] != real.shape[1]:
        raise DataError(
            f"{drawn.shape[1]} features of samples and {real.shape[1]} of held-out pictures", where="--features"
        )
    metrics = feature_metrics(drawn, real, generator=generator_for(seed, _STREAM))
    facts = {
        "features": f"{drawn.shape[1]} features from {samples} and {held_out}",
        "accuracy": None,
        "samples": len(drawn),
        "held_out": len(real),
        "neighbours": NEIGHBOURS,
        "note": FINITE,
    }
    return [asdict(metric) for metric in metrics], facts


def _read(name: str) -> Tensor:
    table = read_table(name)
    if any(column.dtype.kind not in "biuf" for column in table.columns):
        raise DataError("features are numbers", where=name)
    found = torch.from_numpy(np.ascontiguousarray(stack_numbers(table.columns), dtype=np.float64))
    return checked_features(found, table.num_rows, name)


FINITE = (
    "The Fréchet distance of few pictures is biased upward, for samples and floor alike: it compares at equal numbers "
    "of pictures only."
)
