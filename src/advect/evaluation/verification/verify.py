"""All laws of a conditional path at once: does it go where it says, and does its velocity carry it there?"""

import math
from typing import Any

import torch
from torch import Tensor

from advect.errors import ConfigError, ShapeError
from advect.evaluation.verification.arrival import arrival_check
from advect.evaluation.verification.density import agreement_check, density_checks
from advect.evaluation.verification.diagnose import diagnose
from advect.evaluation.verification.ends import ALLOWED, end_checks
from advect.evaluation.verification.probe import Probe, generator_of
from advect.evaluation.verification.record import Verification
from advect.evaluation.verification.strong import strong_check
from advect.evaluation.verification.times import finite_check, target_check
from advect.evaluation.verification.weak import draw_windows, weak_check

ROWS = 4096
FEWEST = 64
NUMBERS = 2**20  # in the points of one time: of wide rows fewer are taken, 8 MB
EVENT = (3,)


def verify_path(
    path: Any,
    *,
    source: Tensor | None = None,
    data: Tensor | None = None,
    rows: int = ROWS,
    end_tolerance: float = ALLOWED,
    event_shape: tuple[int, ...] = EVENT,
    seed: int = 0,
    name: str | None = None,
) -> Verification:
    """Try every law of a path.

    Args:
        path: ``sample(t, x0, x1, *, generator)`` that returns a `Bridge` or the pair (x, velocity), and/or
            ``velocity(t, x, x0, x1)`` with ``log_density(t, x, x1, x0=None)``.
        source: ``(rows, *event)`` source rows to draw from; a standard normal where there are none.
        data: ``(rows, *event)`` data rows to draw from; a mixture without symmetry where there are none.
        rows: Pairs that every average is taken over, drawn independently; errors fall like 1/√rows. Fewer of rows with
            more than 256 coordinates; the record says how many.
        end_tolerance: What may be wrong at an end of the path, as a part of the spread of the rows there.
        event_shape: Shape of one row, where no rows are given.
        seed: Of every draw.
        name: What to call the path; its class where nothing is said.

    Raises:
        AdvectError: The path lacks what the contract asks for, or its methods raise or return other shapes.
    """
    if rows < FEWEST:
        raise ConfigError(f"rows is {rows}", where="verify", remedy=f"Take at least {FEWEST}: averages need some rows.")
    if not 0 <= end_tolerance < 1:
        raise ConfigError(
            f"end_tolerance is {end_tolerance}", where="verify", remedy="Give a part of the spread, in [0, 1)."
        )
    shape = next((tuple(given.shape[1:]) for given in (data, source) if given is not None), tuple(event_shape))
    rows = min(rows, max(NUMBERS // max(math.prod(shape), 1), FEWEST))
    x0, x1 = reference_pairs(source, data, rows, event_shape, seed)
    probe = Probe(path, x0, x1, normal_source=source is None, seed=seed)
    windows = draw_windows(probe) if probe.can_sample else []
    weak, level = weak_check(probe, windows)
    start, end, direction = end_checks(probe, end_tolerance)
    checks = (
        start,
        end,
        direction,
        diagnose(strong_check(probe), probe, None),
        diagnose(weak, probe, windows),
        agreement_check(probe),
        *density_checks(probe),
        arrival_check(probe, level, end, end_tolerance),
        finite_check(probe),
        target_check(probe),
    )
    return Verification(name or type(path).__name__, checks, rows, tuple(probe.x1.shape[1:]), seed)


def reference_pairs(
    source: Tensor | None, data: Tensor | None, rows: int, event_shape: tuple[int, ...], seed: int
) -> tuple[Tensor, Tensor]:
    """Independent pairs ``(rows, *event)`` in float64, from given rows or from the reference laws.

    The reference data are three Gaussians of unequal weight, place and size: without symmetry, so that a swapped sign
    or time cannot hide.
    """
    given = next((rows_of for rows_of in (data, source) if rows_of is not None), None)
    shape = tuple(event_shape) if given is None else tuple(given.shape[1:])
    for one, name in ((source, "source"), (data, "data")):
        if one is not None and (not len(one) or tuple(one.shape[1:]) != shape or not bool(one.isfinite().all())):
            raise ShapeError(
                f"{name} has shape {tuple(one.shape)}, for rows of shape {shape}",
                where=name,
                remedy="Give at least one row, finite, and source and data rows of one shape.",
            )
    generator = generator_of(seed, "rows")

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def drawn(pool: Tensor) -> Tensor:
        return pool.double()[torch.randint(len(pool), (rows,), generator=generator)]

    x0 = normal(rows, *shape) if source is None else drawn(source)
    if data is not None:
        return x0, drawn(data)
    centres, sizes = 0.7 + 1.2 * normal(3, *shape), torch.tensor([0.4, 0.7, 0.25], dtype=torch.float64)
    which = torch.multinomial(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), rows, True, generator=generator)
    size = sizes[which].reshape(-1, *([1] * len(shape)))
    return x0, centres[which] + size * normal(rows, *shape)
