"""Support maps: boxes, positive numbers, the simplex, and the circle, whose inputs here lie within one turn."""

import torch

from advect.transforms.support import Box, Circle, Positive, Simplex
from tests.laws.maps.case import Case


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


MAPS: dict[str, Case] = {
    "box-1": Case(lambda: Box(numbers(-1.0), numbers(3.0)), mixed=True),
    "box-2": Case(lambda: Box(numbers(0.0, 1e3), numbers(1.0, 2e3)), mixed=True),
    "box-picture": Case(lambda: Box(numbers(0.0)[0], numbers(255.0)[0], (1, 2, 2)), mixed=True),
    "box-scalar-event": Case(lambda: Box(numbers(-2.0)[0], numbers(-1.0)[0]), mixed=True),
    "positive-1": Case(lambda: Positive(numbers(2.5)), mixed=True),
    "positive-3": Case(lambda: Positive(numbers(0.1, 1.0, 40.0)), mixed=True),
    "positive-picture": Case(lambda: Positive(numbers(1.0)[0], (2, 2)), mixed=True),
    "simplex-1": Case(lambda: Simplex(1), mixed=True),
    "simplex-2": Case(lambda: Simplex(2), mixed=True),
    "simplex-3": Case(lambda: Simplex(3), mixed=True),
    "circle": Case(lambda: Circle(), mixed=True),
    "circle-units": Case(lambda: Circle(numbers(-180.0, 0.0), numbers(180.0, 24.0)), mixed=True),
}
