"""`compare`: several methods under the same terms, from Python."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from advect.api.fitting import OnProgress, with_given
from advect.data import read_table
from advect.progress import Progress
from advect.workflows.compare import Comparison
from advect.workflows.compare import compare as run_comparison
from advect.workflows.comparison.request import DEFAULT_SEEDS, CompareRequest
from advect.workflows.listen import Silence


def compare(
    data: Any,
    methods: Sequence[str],
    *,
    budget: float | None = None,
    steps: int | None = None,
    seeds: int = DEFAULT_SEEDS,
    condition: Any = None,
    label: str | None = None,
    batch_size: int | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Comparison:
    """Train several methods on the same rows under the same terms, and judge them on the same held-out rows.

    Args:
        data: Array or tensor ``(rows, *event)``, frame, file, or built-in name.
        methods: Rows of the table of methods.
        budget: Seconds of each training, figures not counted; 60 where neither budget nor steps are given.
        steps: Optimiser steps of each training.
        seeds: Trainings of each method.
        condition: As in `fit`: column names, or an array with one value per row.
        label: A column that a predictor learns from samples and is tested on in real rows.
        batch_size: Rows per step.
        out: Folder; by default ``runs/DATA-compare``. The same call continues what is in it.
        seed: The first seed of the trainings, and that of the split.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        settings: Method to what `fit` would take by keyword, such as ``{"nsf": {"bins": 16}}``.
        progress: Called with a `Progress` about twice a second.

    Returns:
        A record whose ``rows`` hold the table, ``verdict`` its meaning, and ``best`` the run folder for `load`.

    Raises:
        AdvectError: Data or settings that must be mended, or no method that can be used.
    """
    table, names = with_given(data, condition)
    request = CompareRequest(
        data=table,
        methods=(methods,) if isinstance(methods, str) else tuple(methods),
        out=_default(data) if out is None else Path(out),
        steps=steps,
        budget_seconds=budget,
        seeds=seeds,
        seed=seed,
        condition=names,
        label=label,
        batch_size=batch_size,
        device=device,
        settings={} if settings is None else settings,
    )
    return run_comparison(request, listener=Silence() if progress is None else OnProgress(progress))


def _default(data: Any) -> Path:
    """``runs/DATA-compare``, under the name the rows go by."""
    name = str(data) if isinstance(data, str | Path) else read_table(data).origin
    return Path("runs") / f"{Path(name).name.split('.')[0] or 'data'}-compare"
