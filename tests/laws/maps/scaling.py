"""Scalings of single columns, their compositions, and the preprocessing of a table."""

import torch

from advect.records import Coordinate
from advect.transforms import Asinh, Columnwise, Compose, Cumulative, Standardise, empty_preprocess, fit_preprocess
from tests.laws.maps.case import Case

FLOAT64 = torch.float64


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=FLOAT64)


UNEVEN = [numbers(0.7, 0.2, 0.05, 0.05), numbers(0.5, 0.5), numbers(1.0, 2.0, 3.0, 4.0, 1e-4)]
MIXED = [
    Coordinate("a", 0, "value", "standardise"),
    Coordinate("b", 1, "value", "cumulative", 3),
    Coordinate("c", 2, "value", "asinh"),
    Coordinate("d", 3, "value", "cumulative", 2),
    Coordinate("e", 4, "value", "pixel"),
    Coordinate("f", 5, "value", "pixel"),
]
MIXED_PROBABILITIES = {1: numbers(0.6, 0.3, 0.1), 3: numbers(0.9, 0.1)}


def mixed_values() -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(200, 6, dtype=FLOAT64, generator=g)
    x[:, 1] = torch.rand(200, dtype=FLOAT64, generator=g) * 3
    x[:, 2] = 5 + torch.sinh(2 * x[:, 2])
    x[:, 3] = torch.rand(200, dtype=FLOAT64, generator=g) * 2
    x[:, 4:] = 128 + 60 * x[:, 4:]
    return x


MAPS: dict[str, Case] = {
    "identity": Case(lambda: Compose(), mixed=True),
    "standardise": Case(lambda: Standardise(numbers(1.0, -2.0, 3.0), numbers(0.5, 2.0, 30.0)), mixed=True),
    "standardise-scalar-event": Case(lambda: Standardise(numbers(3.0)[0], numbers(2.0)[0]), mixed=True),
    "standardise-picture": Case(lambda: Standardise(numbers(128.0)[0], numbers(64.0)[0], (2, 3, 2)), mixed=True),
    "standardise-rows": Case(
        lambda: Standardise(numbers(1.0, 2.0), numbers(3.0, 4.0).reshape(2, 1), (2, 2)), mixed=True
    ),
    "asinh": Case(lambda: Asinh(numbers(1.0, -5.0), numbers(0.1, 4.0)), mixed=True),
    "asinh-shared": Case(lambda: Asinh(numbers(1.0)[0], numbers(3.0)[0], (2, 2)), mixed=True),
    "cumulative": Case(lambda: Cumulative(UNEVEN), mixed=True),
    "cumulative-one-level": Case(lambda: Cumulative([numbers(1.0)]), mixed=True),
    "compose": Case(
        lambda: Compose(Asinh(numbers(1.0, 2.0), numbers(2.0, 0.5)), Standardise(numbers(0.5, 0), numbers(2, 3))),
        mixed=True,
    ),
    "columnwise": Case(
        lambda: Columnwise(
            [((2, 0), Cumulative(UNEVEN[:2])), ((1, 3), Asinh(numbers(0.0, 1.0), numbers(1.0, 2.0)))], (2, 2)
        ),
        mixed=True,
    ),
    "columnwise-plain": Case(
        lambda: Columnwise([((0, 1), Standardise(numbers(0.0, 1.0), numbers(1.0, 2.0)))], (2, 1)), mixed=True
    ),
    "preprocess": Case(lambda: fit_preprocess(mixed_values(), MIXED, MIXED_PROBABILITIES), mixed=True),
    "preprocess-empty": Case(lambda: empty_preprocess(MIXED, (2, 3)).double(), mixed=True),
    "one-standardise": Case(lambda: Standardise(numbers(1.0), numbers(2.5)), mixed=True),
    "one-asinh": Case(lambda: Asinh(numbers(-1.0), numbers(0.3)), mixed=True),
    "one-cumulative": Case(lambda: Cumulative(UNEVEN[2:]), mixed=True),
}
