"""`fit`: rows, or a log-density, to a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advect.api.model import Model, refuse_other_length, several
from advect.data import read_table
from advect.errors import ConfigError, RunFolderError
from advect.methods import Parts
from advect.progress import Progress
from advect.records import Table
from advect.workflows.autoencoding import autoencoding, split_off
from advect.workflows.fit import train
from advect.workflows.fit_density import DEFAULT_METHOD, DensityRequest, fit_density
from advect.workflows.listen import Silence
from advect.workflows.request import TrainRequest, sort_settings

_GIVEN = "condition"  # the name of a condition that came as an array beside the rows
_TIME = "time"  # likewise


def fit(
    data: Any = None,
    *,
    target: Any = None,
    event_shape: tuple[int, ...] | None = None,
    method: str | None = None,
    condition: Any = None,
    source: Any = None,
    weights: str | None = None,
    time_key: Any = None,
    leave_out: Any = (),
    spline: bool = False,
    reflow: Any = None,
    pairs: int | None = None,
    rep: str | None = None,
    steps: int | None = None,
    budget: float | None = None,
    batch_size: int | None = None,
    network: str | torch.nn.Module = "auto",
    seed: int = 0,
    split_seed: int | None = None,
    device: str = "auto",
    out: str | Path | None = None,
    flip: bool = False,
    latent: bool = False,
    path: Any = None,
    coupling: Any = None,
    evaluate: bool = False,
    progress: Callable[[Progress], None] | None = None,
    **settings: Any,
) -> "Model":
    """Learn a distribution from rows, or from an unnormalised log-density.

    Args:
        data: Array or tensor ``(rows, *event)``, frame, AnnData, file, or built-in name.
        target: In place of rows: ``target(x) -> (batch,)``, log p̃ in nats at rows ``(batch, *event)``, differentiable
            by torch. Trained by reverse KL; ``model.evaluation["target"]`` holds log Z with its error and the effective
            sample size.
        event_shape: Shape of one row of a target, such as ``(2,)``.
        method: Row of the table of methods, see ``advect methods``; ``ot-cfm`` for rows, ``nsf`` for a target.
        condition: Columns that are given rather than modelled (a name or several), or an array with one value per row.
        source: Rows to start from in place of Gaussian noise; any kind of data with the same columns.
        weights: Column of row weights.
        time_key: Column of times, or an array with one time per row: the model leads from each time to the next.
        leave_out: A time, or several, whose rows are kept for the figures.
        spline: Train on smooth curves through all times instead of straight lines between two.
        reflow: A run folder, or a `Model`: train on pairs that its flow makes, so that its paths become straight.
        pairs: How many pairs; ten per training row by default.
        rep: Representation of an AnnData or ``.h5ad`` file: a key of ``obsm``, or ``X``; ``X_pca`` by default.
        steps: Optimiser steps (5000 when neither steps nor budget are given).
        budget: Seconds for everything, in place of steps.
        batch_size: Rows per step.
        network: Name such as ``residual-3x256``, or a module called as ``network(t, x, condition)``.
        seed: Of every draw.
        split_seed: Of the split alone, so that fits of several seeds share their held-out rows; by default the seed.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        out: Run folder to train in; it can be continued after a crash. None trains in memory.
        flip: Mirror half of the training pictures left to right, anew in every step.
        latent: Train a small autoencoder of pictures first, and the flow on its codes; settings ``latent_…`` set it up.
        path: A path of your own, see ``docs/extend.md``.
        coupling: A coupling of your own.
        evaluate: Whether to compute held-out figures right away.
        progress: Called with a `Progress` about twice a second.
        **settings: Any option of the method (``sigma=0.1``), of the loop (``learning_rate=1e-3``) or of the model
            (``condition_dropout=0.2``).

    Raises:
        AdvectError: Data or settings that must be mended; the message says how.

    >>> import torch
    >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    >>> model = fit(x, method="i-cfm", steps=20, seed=0)
    >>> tuple(model.sample(5).shape)
    (5, 2)
    """
    common: dict[str, Any] = {
        "method": method or ("ot-cfm" if target is None else DEFAULT_METHOD),
        "steps": steps,
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
    }
    coding, settings = split_off(settings)
    common |= vars(sort_settings(common["method"], settings, known=signature(fit).parameters))
    rows = _said(
        source=source,
        weights=weights,
        budget_seconds=budget,
        split_seed=split_seed,
        out=None if out is None else Path(out),
        flip=flip or None,
        latent=autoencoding(latent, coding) if latent or coding else None,
        time_key=time_key,
        leave_out=several(leave_out) or None,
        spline=spline or None,
        reflow=getattr(reflow, "artefact", reflow),
        pairs=pairs,
    )
    parts = Parts(path, coupling, network if isinstance(network, torch.nn.Module) else None)
    common["network"] = network if isinstance(network, str) else "auto"
    if target is not None:
        given = rows | _said(**vars(parts), rep=rep, data=data, condition=condition, evaluate=evaluate or None)
        request = _target_request(target, event_shape, given, common)
        return Model(fit_density(request, progress=progress))
    _refuse_no_rows(data, event_shape)
    data = data if rep is None else read_table(data, key=rep)
    table, names = with_given(data, condition)
    if time_key is not None and not isinstance(time_key, str):
        table, rows["time_key"] = with_times(read_table(table), time_key)
    listener = Silence() if progress is None else OnProgress(progress)
    result = train(
        TrainRequest(data=table, condition=names, parts=parts, **rows, **common), listener=listener, evaluate=evaluate
    )
    if result.artefact is None:
        raise RunFolderError("training was interrupted", where=str(out), remedy="Call fit again to continue.")
    return Model(result.artefact)


def with_times(table: Table, times: Any) -> tuple[Table, str]:
    """The table with an array of times beside its rows, and the array's name."""
    values = np.asarray(times)
    if values.shape != (table.num_rows,):
        raise ConfigError(f"times of shape {values.shape} were given for {table.num_rows} rows", where="time_key")
    if values.dtype.kind in "US":
        values = values.astype(object)
    return replace(table, sides={**table.sides, _TIME: values}), _TIME


def _said(**settings: Any) -> dict[str, Any]:
    """The settings that have a value: of the others a request keeps its own."""
    return {name: value for name, value in settings.items() if value is not None}


def _refuse_no_rows(data: Any, event_shape: tuple[int, ...] | None) -> None:
    if data is None:
        wrong, where = "there are no rows to learn from", "data"
    elif event_shape is not None:
        wrong, where = "event_shape belongs to a target, rows have their own", "event_shape"
    else:
        return
    raise ConfigError(wrong, where=where, remedy="Give rows, or target=log_density with event_shape=(d,).")


def _target_request(
    target: Any, event_shape: tuple[int, ...] | None, given: Mapping[str, Any], common: Mapping[str, Any]
) -> DensityRequest:
    """What `fit` asks for against a log-density: whatever speaks of rows is refused."""
    wrong = list(given)
    if wrong:
        raise ConfigError(
            f"{wrong[0]} cannot be used with a target",
            where="target",
            remedy="Leave it out, or give rows in place of the target.",
        )
    if event_shape is None:
        raise ConfigError(
            "the target does not say the shape of its rows", where="event_shape", remedy="Give one such as (2,)."
        )
    return DensityRequest(target, tuple(event_shape), **common)


class OnProgress(Silence):
    """A listener that passes on the lines of life."""

    def __init__(self, callback: Callable[[Progress], None]) -> None:
        self.callback = callback

    def progress(self, progress: Progress) -> None:
        """One of them."""
        self.callback(progress)


def with_given(data: Any, condition: Any) -> tuple[Any, tuple[str, ...]]:
    """The data, and the names of its condition columns; an array of conditions becomes a side column."""
    if condition is None:
        return data, ()
    if isinstance(condition, str):
        return data, (condition,)
    if isinstance(condition, Sequence) and all(isinstance(name, str) for name in condition):
        table = read_table(data)
        if set(condition) <= {*table.names, *table.sides} or len(condition) != table.num_rows:
            return table, tuple(condition)
    table = read_table(data)
    values = np.asarray(condition)
    refuse_other_length(len(values), table.num_rows)
    flat = values.reshape(len(values), -1)
    names = (_GIVEN,) if flat.shape[1] == 1 else tuple(f"{_GIVEN}{i}" for i in range(flat.shape[1]))
    sides = {name: flat[:, i] for i, name in enumerate(names)}
    return replace(table, sides={**table.sides, **sides}), names
