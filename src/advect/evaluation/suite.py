"""All two-sample figures at once, each beside what it should be judged by.

For every figure three numbers under the same number of rows, because most of them shrink as rows are added:

    value     samples against held-out rows
    floor     real against real: random splits of held-out and training rows together (`noise_floor`)
    ceiling   a Gaussian fitted to the training rows against the held-out rows

Rows are expected in standardised units, so that no column drowns the others and distances read as standard deviations.
The random parts of a figure (directions, features of the classifier) are drawn from one seed per figure for all three
numbers: their differences are not noise of the ruler.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import DataError, ShapeError
from advect.evaluation.classifier import classifier_accuracy
from advect.evaluation.columns import correlation_error, kolmogorov_smirnov
from advect.evaluation.energy import energy_distance
from advect.evaluation.gaussian import GaussianFit
from advect.evaluation.mmd import median_bandwidths, mmd_squared
from advect.evaluation.noise_floor import random_halves, spread_of
from advect.evaluation.wasserstein import sliced_wasserstein, wasserstein
from advect.records import Metric

Scored = tuple[float, float | None]


@dataclass(frozen=True)
class Figure:
    """One two-sample figure: ``score(a, b, generator)`` gives its value and its standard error, if it knows one."""

    name: str
    unit: str
    score: Callable[[Tensor, Tensor, Generator], Scored]


def _plain(distance: Callable[[Tensor, Tensor], float]) -> Callable[[Tensor, Tensor, Generator], Scored]:
    """A figure without random parts."""
    return lambda a, b, _: (distance(a, b), None)


def _sliced(a: Tensor, b: Tensor, generator: Generator) -> Scored:
    return sliced_wasserstein(a, b, generator=generator), None


def _classifier(a: Tensor, b: Tensor, generator: Generator) -> Scored:
    accuracy = classifier_accuracy(a, b, generator=generator)
    return accuracy.value, accuracy.standard_error


def figures_for(real: Float[Tensor, "rows dim"]) -> tuple[Figure, ...]:
    """The figures of the suite; ``real`` sets the bandwidths of MMD for value, floor and ceiling alike."""
    widths = median_bandwidths(real)
    shown = ", ".join(f"{width:.3g}" for width in widths)
    length = "standard deviations"
    figures = [
        Figure("sliced Wasserstein-2", length, _sliced),
        Figure("Wasserstein-2", length, _plain(lambda a, b: wasserstein(a, b, 2))),
        Figure("Wasserstein-1", length, _plain(lambda a, b: wasserstein(a, b, 1))),
        Figure("energy distance", "√(standard deviations)", _plain(energy_distance)),
        Figure("MMD²", f"kernel units, bandwidths {shown}", _plain(lambda a, b: mmd_squared(a, b, bandwidths=widths))),
        Figure("classifier two-sample test", "accuracy, 0.5 is chance", _classifier),
        Figure("Kolmogorov–Smirnov, mean of columns", "", _plain(lambda a, b: float(kolmogorov_smirnov(a, b).mean()))),
        Figure("Kolmogorov–Smirnov, worst column", "", _plain(lambda a, b: float(kolmogorov_smirnov(a, b).amax()))),
    ]
    if real.shape[1] > 1:
        figures.append(Figure("correlation error", "", _plain(correlation_error)))
    return tuple(figures)


@dataclass(frozen=True)
class _Material:
    """The rows that are compared, all float64 and of the same number."""

    samples: tuple[Tensor, ...]  # disjoint parts, none where too few samples are finite
    real: Tensor
    halves: tuple[tuple[Tensor, Tensor], ...]
    gaussian: Tensor
    share_not_finite: float


def _shuffled(rows: Tensor, generator: Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=generator, device=generator.device).to(rows.device)]


def _check(samples: Tensor, real: Tensor, reference: Tensor) -> None:
    """Refuse what cannot be compared at all."""
    if not samples.shape[1] == real.shape[1] == reference.shape[1] or not real.shape[1]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (samples, real, reference))
        raise ShapeError(f"samples, real and reference rows have shapes {shapes}", where="two_sample_suite")
    for name, rows in (("real", real), ("reference", reference)):
        if len(rows) < 2:
            raise DataError(
                f"{len(rows)} {name} rows",
                where="two_sample_suite",
                remedy="Keep at least two rows on each side; figures from so few mean little.",
            )
        if not bool(torch.isfinite(rows).all()):
            raise DataError(f"the {name} rows are not all finite", where="two_sample_suite")


def _prepare(
    samples: Tensor, real: Tensor, reference: Tensor, generator: Generator, max_rows: int, repeats: int
) -> _Material:
    """Drop samples that are not finite, cut everything to one number of rows, draw the splits and the Gaussian."""
    _check(samples, real, reference)
    samples, real, reference = (x.detach().double() for x in (samples, real, reference))
    finite = samples[torch.isfinite(samples).all(1)]
    share = 1 - len(finite) / len(samples) if len(samples) else 1.0

    usable = [len(real), len(reference), max_rows] + ([len(finite)] if len(finite) >= 2 else [])
    num_rows = max(2, min(usable))
    parts = _shuffled(finite, generator).split(num_rows) if len(finite) >= 2 else ()
    halves = random_halves(torch.cat([real, reference]), num_rows, repeats, generator)
    return _Material(
        samples=tuple(part for part in parts if len(part) == num_rows)[:repeats],
        real=_shuffled(real, generator)[:num_rows],
        halves=tuple(halves),
        gaussian=GaussianFit.of(reference).sample(num_rows, generator),
        share_not_finite=share,
    )


def two_sample_suite(
    samples: Float[Tensor, "samples dim"],
    real: Float[Tensor, "real _"],
    reference: Float[Tensor, "reference _"],
    *,
    generator: Generator,
    max_rows: int = 2000,
    repeats: int = 5,
) -> tuple[Metric, ...]:
    """Compare samples with held-out rows by every figure, each with floor and ceiling.

    Args:
        samples: Generated rows in standardised units. Rows that are not finite are counted and left out.
        real: Held-out rows in the same units, at least two.
        reference: Training rows in the same units, at least two; only the floor and the ceiling use them.
        generator: Draws subsets, splits, directions and classifier weights.
        max_rows: Cap on the rows in every comparison; exact Wasserstein grows as rows^2.5.
        repeats: Splits behind each floor, and most disjoint parts of the samples whose mean is the value.

    Returns:
        ``rows compared`` and ``non-finite share`` first, then the figures. ``error`` is the standard error over
        disjoint parts of the samples where there are several, else the figure's own where it has one. With fewer than
        two finite samples every value is NaN.

    Raises:
        DataError: Fewer than two real or reference rows, or some that are not finite.
        ShapeError: Different numbers of columns.
    """
    material = _prepare(samples, real, reference, generator, max_rows, repeats)
    head = (
        Metric("rows compared", float(len(material.real)), better="higher", unit="rows"),
        Metric("non-finite share", material.share_not_finite, floor=0.0, unit="share of samples"),
    )
    seeds = torch.randint(2**62, (32,), generator=generator, device=generator.device).tolist()
    figures = figures_for(material.real)
    return head + tuple(_measure(figure, material, seed) for figure, seed in zip(figures, seeds, strict=False))


def _measure(figure: Figure, material: _Material, seed: int) -> Metric:
    """One figure's value, floor and ceiling, all under the same random parts."""

    def score(a: Tensor, b: Tensor) -> Scored:
        return figure.score(a, b, torch.Generator().manual_seed(seed))

    scores = [score(part, material.real) for part in material.samples]
    value = spread_of([number for number, _ in scores])
    error = scores[0][1] if len(scores) == 1 else value.spread / math.sqrt(value.repeats) if value.repeats > 1 else None
    floor = spread_of([score(a, b)[0] for a, b in material.halves])
    ceiling = score(material.gaussian, material.real)[0]
    return Metric(
        figure.name,
        value.value,
        error=error,
        floor=floor.value,
        floor_error=floor.spread,
        ceiling=ceiling,
        better="lower",
        unit=figure.unit,
    )


def column_suite(
    samples: Float[Tensor, "samples dim"],
    real: Float[Tensor, "real _"],
    reference: Float[Tensor, "reference _"],
    names: Sequence[str],
    *,
    generator: Generator,
    max_rows: int = 20_000,
    repeats: int = 5,
) -> tuple[Metric, ...]:
    """Kolmogorov–Smirnov of each named column, with floor and ceiling; arguments as in `two_sample_suite`.

    Raises:
        ShapeError: Another number of names than columns.
    """
    if len(names) != real.shape[1]:
        raise ShapeError(f"{len(names)} names for {real.shape[1]} columns", where="column_suite")
    material = _prepare(samples, real, reference, generator, max_rows, repeats)
    floors = torch.stack([kolmogorov_smirnov(a, b) for a, b in material.halves])
    ceilings = kolmogorov_smirnov(material.gaussian, material.real)
    parts = [kolmogorov_smirnov(part, material.real) for part in material.samples]
    values = torch.stack(parts).mean(0) if parts else torch.full_like(ceilings, math.nan)
    return tuple(
        Metric(
            f"Kolmogorov–Smirnov of {name}",
            float(values[column]),
            floor=float(floors[:, column].mean()),
            floor_error=float(floors[:, column].std()),
            ceiling=float(ceilings[column]),
        )
        for column, name in enumerate(names)
    )
