"""`verify`: the laws of a path, a map or a solver, from Python."""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advect.api.model import Model
from advect.errors import ConfigError
from advect.evaluation.verification import Verification, verify_map, verify_path, verify_solver
from advect.evaluation.verification.verify import EVENT, ROWS
from advect.workflows.verify import verify as verify_named


def verify(
    path: Any,
    *,
    source: Any = None,
    data: Any = None,
    rows: int = ROWS,
    event_shape: tuple[int, ...] = EVENT,
    end_tolerance: float = 0.05,
    seed: int = 0,
    **options: Any,
) -> Verification:
    """Try whether a part of your own obeys the laws that everything built on it presumes.

    Of a path: both ends, direction of time and sign, the continuity equation ∂_t p + div(p u) = 0 (point by point where
    it has a log_density, in weak form on its samples), agreement of its parts, arrival at the data, singular times, and
    the size of the regression target. Of an invertible map: round trip, and both log-determinants against automatic
    differentiation. Of a solver: an equation with a known answer, both ways in time, evaluations and failures told.

    Args:
        path: An object with ``sample(t, x0, x1, *, generator)`` that returns a `records.Bridge` or the pair (x,
            velocity), and/or ``velocity(t, x, x0, x1)`` with ``log_density(t, x, x1, x0=None)``; or the name of a
            method; or a run folder; or a map (a flow or a model too), with ``encode`` and ``decode``; or a solver,
            called as ``solver(field, x, t0, t1)``. Of maps only ``data``, ``event_shape`` and ``seed`` are used
            besides, of solvers ``seed``.
        source: ``(rows, *event)`` array or tensor of source rows; a standard normal where there is none.
        data: ``(rows, *event)`` of data rows; a mixture without symmetry where there is none.
        rows: Pairs behind every average.
        event_shape: Shape of one row, where no rows are given.
        end_tolerance: What may be wrong at an end, as a part of the spread of the rows there.
        seed: Of every draw.
        options: Of the method, where ``path`` is its name: ``advect.verify("sb-cfm", sigma=0.5)``.

    Returns:
        A record whose ``passed`` tells whether no law is broken and whose ``checks`` hold, for each, what was found,
        where (t, x), by how much, the tolerance with its reason, and the likely fix. Printed, it is a table.

    Raises:
        AdvectError: The path lacks what it must have, its methods raise, or there is no such method or run.
    """
    if isinstance(path, type):
        raise ConfigError(
            f"{path.__name__} is a class", where="verify", remedy=f"Give an object: verify({path.__name__}(…))."
        )
    how: dict[str, Any] = {
        "source": _rows(source),
        "data": _rows(data),
        "event_shape": event_shape,
        "end_tolerance": end_tolerance,
    }
    if isinstance(path, str | Path):
        return verify_named(str(path), options, rows=rows, seed=seed, **how)
    if options:
        raise ConfigError(
            f"a path of your own has no setting {next(iter(options))!r}", where="verify", remedy="Set it in the object."
        )
    if isinstance(path, Model):
        path = path.flow
    if callable(getattr(path, "encode", None)) and callable(getattr(path, "decode", None)):
        return verify_map(path, data=how["data"], event_shape=event_shape, seed=seed)
    is_path = any(callable(getattr(path, verb, None)) for verb in ("sample", "velocity", "log_density"))
    if not is_path and _may_solve(path):
        return verify_solver(path, seed=seed)
    return verify_path(path, rows=rows, seed=seed, **how)


def _may_solve(candidate: Any) -> bool:
    """Whether it can be called as a solver is, with a field, rows and two times."""
    if not callable(candidate):
        return False
    try:
        inspect.signature(candidate).bind(None, None, 0.0, 1.0)
    except TypeError:
        return False
    except ValueError:  # a built-in that does not tell
        return True
    return True


def _rows(rows: Any) -> Tensor | None:
    """Rows as a float64 tensor on the CPU."""
    return None if rows is None else torch.as_tensor(rows, dtype=torch.float64, device="cpu")
