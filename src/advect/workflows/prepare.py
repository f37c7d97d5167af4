"""From a request to everything training needs: rows read, checked and split, settings resolved, the model built."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from advect.data import (
    Codec,
    ConditionCodec,
    Split,
    check_table,
    find_array,
    infer_schema,
    read_table,
    refuse_unusable,
    set_aside,
    split_rows,
    take_rows,
)
from advect.errors import ConfigError, DataError, unknown_name
from advect.flows import EmpiricalBase, Flow
from advect.methods import Blueprint, Built, build, full_flow, get_method, resolve_blueprint, resolve_options
from advect.records import Finding, Schema, Status, Table
from advect.run.card import Sections
from advect.training import (
    DataRows,
    Snapshots,
    TrainingConfig,
    check_averages,
    check_switches,
    generator_for,
)
from advect.transforms import Bijection, Precision, fit_preprocess
from advect.typing import Base
from advect.workflows.request import TrainRequest, choose_device, training_config
from advect.workflows.settings import resolved
from advect.workflows.snapshots import Timed, make_snapshots, timed

# Streams of `generator_for` used outside the loop; the loop's own are below 10.
FIT, SOURCE, SCORE, SAMPLE, EVALUATE, CALIBRATE, PAIR = 11, 12, 13, 14, 15, 16, 17


TIMED_TOLERANCE = 1e-4  # of sampling through several times


@dataclass(frozen=True)
class Prepared:
    """A training ready to start.

    Attributes:
        request: What was asked.
        table: All rows, as read.
        schema: What they look like.
        split: Which rows train, validate and test.
        findings: What the check noticed.
        codec: Between rows and coordinates.
        condition: Between condition columns and vectors, or None.
        built: Core flow, objective and coupling, on the device.
        flow: The flow in the user's coordinates, sharing the core's weights.
        train: Training rows in latent coordinates, time by time where they have times.
        validate: Validation rows, or None when the split has none.
        training: Settings of the loop.
        blueprint: Settings of the model.
        sections: The resolved configuration with its comments.
    """

    request: TrainRequest
    table: Table
    schema: Schema
    split: Split
    findings: tuple[Finding, ...]
    codec: Codec
    condition: ConditionCodec | None
    built: Built
    flow: Flow
    train: DataRows | Snapshots
    validate: DataRows | Snapshots | None
    training: TrainingConfig
    blueprint: Blueprint
    sections: Sections
    device: torch.device


def prepare(request: TrainRequest) -> Prepared:
    """Read, check, split, resolve and build.

    Raises:
        AdvectError: Anything about the data or the settings that must be mended first.
    """
    resolve_options(get_method(request.method), request.options)  # a misspelt option is told before the rows are read
    device = choose_device(request.device)
    table = set_aside(read_table(request.data, key=request.key), request.weights)
    times = None if request.time_key is None else timed(table, request.time_key, request.leave_out)
    table = table if times is None else times.table
    schema = infer_schema(table, condition=request.condition)
    schema = _as_continuous(schema) if request.continuous else schema
    refuse_unusable(table, schema)
    if request.flip and not schema.image:
        raise ConfigError("only pictures can be mirrored", where="--flip", remedy="Leave it out for tables.")
    shares = {"seed": request.splits_by, "validation": request.validation, "test": request.test}
    split = split_rows(table.num_rows, **shares) if times is None else times.split(**shares)
    findings = check_table(table, schema, split)

    rows = take_rows(table, split.train)
    codec = Codec.fit(rows, schema)
    condition = ConditionCodec.fit(rows, schema) if schema.condition else None
    preprocess, latent = _fit_scaling(codec, rows, request.seed)
    source_table = None if request.source is None else read_table(request.source)
    start = source_table if times is None else take_rows(table, times.at(split.train, times.timeline.times[0]))
    source = None if start is None else _source(start, codec, preprocess, request.seed)

    blueprint = _blueprint(request, codec, condition, len(split.train))
    built = build(blueprint, seed=request.seed, source=source, latent=latent, parts=request.parts)
    built = replace(built, core=built.core.to(device))
    flow = full_flow(built.core, preprocess, Precision(tuple(codec.event_shape)))
    training = training_config(
        request.method, request.training, steps=request.steps, batch_size=request.batch_size, seed=request.seed
    )

    if times is not None and (training.pool, training.pool_uses) != (1, 1):
        raise ConfigError(
            "batches of snapshots are not pooled",
            where="--time-key",
            remedy="Leave out pool and pool_uses, or raise the batch size.",
        )

    def rows_of(indices: np.ndarray, flip: bool = False) -> DataRows:
        return data_rows(table, indices, codec, condition, preprocess, request, device, flip=flip)

    check_switches(built.core, built.objective, training)
    check_averages(training, validated=len(split.validation) > 0)
    built, train, validate = _for_the_loop(request, times, split, built, source, latent, rows_of)
    return Prepared(
        request=request,
        table=table,
        schema=schema,
        split=split,
        findings=findings,
        codec=codec,
        condition=condition,
        built=built,
        flow=flow,
        train=train,
        validate=validate,
        training=training,
        blueprint=blueprint,
        sections=resolved(request, table, schema, split, source_table, blueprint, training, device, times),
        device=device,
    )


def _for_the_loop(
    request: TrainRequest,
    times: Timed | None,
    split: Split,
    built: Built,
    source: Base | None,
    latent: Tensor,
    rows_of: Callable[..., DataRows],
) -> tuple[Built, DataRows | Snapshots, DataRows | Snapshots | None]:
    """Training and validation rows, and the couplings prepared for them."""
    if times is not None:
        how: dict[str, Any] = {"seed": request.seed, "smooth": request.spline}
        train = make_snapshots(times, split.train, built, partial(rows_of, flip=request.flip), **how)
        if not len(split.validation):
            return built, train, None
        validate = make_snapshots(times, split.validation, built, rows_of, **how)
        return built, train, replace(validate, couplings=train.couplings)
    points = source.points if isinstance(source, EmpiricalBase) else None
    train = _training_rows(rows_of(split.train, flip=request.flip), request.weights)
    coupling = built.coupling
    if coupling is not None:
        generator = generator_for(request.seed, PAIR)
        coupling = coupling.prepare(points, latent, condition=train.condition, generator=generator)
    return (
        replace(built, coupling=coupling),
        train,
        _validation(rows_of(split.validation) if len(split.validation) else None),
    )


def data_rows(
    table: Table,
    rows: np.ndarray,
    codec: Codec,
    condition: ConditionCodec | None,
    preprocess: Bijection,
    request: TrainRequest,
    device: torch.device,
    *,
    flip: bool = False,
) -> DataRows:
    """Rows of a table as the loop wants them: in latent coordinates, with conditions and weights beside them.

    Where coding draws nothing (no discrete column, no gap) the latent rows are computed once.
    """
    chosen = take_rows(table, rows)
    prepared = codec.prepare(chosen, dtype=torch.float64)

    @torch.no_grad()
    def draw(index: Tensor, generator: Generator) -> Tensor:
        values = prepared.draw(index, generator).values
        values = mirrored(values, generator) if flip else values
        return preprocess.encode(values, log_det=False).value.float().to(device)

    if codec.exact and not flip:
        everything = draw(torch.arange(len(rows)), generator_for(request.seed, FIT))
        draw = lambda index, generator: everything[index.to(everything.device)]  # noqa: E731
    return DataRows(
        draw=draw,
        num_rows=len(rows),
        condition=None if condition is None else condition.encode(chosen).float().to(device),
        weight=_weights(chosen, request.weights, device),
    )


def mirrored(pictures: Tensor, generator: Generator) -> Tensor:
    """Pictures ``(batch, channels, height, width)``, each mirrored left to right with probability one half."""
    turn = torch.rand(len(pictures), generator=generator, device=generator.device) < 0.5
    return torch.where(turn.to(pictures.device)[:, None, None, None], pictures.flip(-1), pictures)


def _fit_scaling(codec: Codec, rows: Table, seed: int) -> tuple[Bijection, Tensor]:
    """The preprocessing map, and the training rows behind it (to fit the Gaussian baseline)."""
    values = codec.encode(rows, generator=generator_for(seed, FIT), dtype=torch.float64).values
    preprocess = fit_preprocess(values, codec.coordinates, codec.probabilities)
    with torch.no_grad():
        latent = preprocess.encode(values, log_det=False).value.float()
    return preprocess, latent


def _source(table: Table, codec: Codec, preprocess: Bijection, seed: int) -> Base:
    """The rows to start from, brought to the target's latent coordinates."""
    coded = codec.encode(table, generator=generator_for(seed, SOURCE), dtype=torch.float64)
    outside = coded.status > Status.IMPUTED
    if bool(outside.any()):
        row = int(outside.nonzero()[0, 0])
        raise DataError(
            f"{int(outside.sum())} source rows hold values that the data never has, first in row {row}",
            where=table.origin,
            remedy="Leave those rows out, or model both populations with the same categories and constants.",
        )
    with torch.no_grad():
        return EmpiricalBase(preprocess.encode(coded.values, log_det=False).value.float())


def _validation(rows: DataRows | None) -> DataRows | None:
    """Validation rows, or None where all of them have weight zero: their loss would say nothing."""
    return rows if rows is not None and _has_weight(rows) else None


def _training_rows(rows: DataRows, name: str | None) -> DataRows:
    """Training rows, unless all of them have weight zero."""
    if not _has_weight(rows):
        raise DataError("all training rows have weight zero", where=f"column {name!r}")
    return rows


def _has_weight(rows: DataRows) -> bool:
    return rows.weight is None or float(rows.weight.sum()) > 0


def _weights(table: Table, name: str | None, device: torch.device) -> Tensor | None:
    if name is None:
        return None
    found = find_array(table, name)
    if found is None:
        raise unknown_name("column", name, [*table.names, *table.sides], where="--weights")
    try:
        weight = torch.as_tensor(np.asarray(found, dtype=np.float64), dtype=torch.float32, device=device)
    except (TypeError, ValueError) as error:
        raise DataError("weights must be numbers", where=f"{table.origin}, column {name!r}") from error
    if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise DataError(
            "weights must be finite and not negative",
            where=f"{table.origin}, column {name!r}",
            remedy="Mend these rows, or name another column; a row of weight 0 takes no part.",
        )
    return weight


def _blueprint(request: TrainRequest, codec: Codec, condition: ConditionCodec | None, num_rows: int) -> Blueprint:
    blueprint = resolve_blueprint(
        request.method,
        request.options,
        event_shape=tuple(codec.event_shape),
        condition_features=condition.width if condition else 0,
        network=request.network,
        num_rows=num_rows,
        settings=request.settings,
    )
    if request.time_key is not None:
        # The field turns sharply at every snapshot: fixed steps that are enough elsewhere are too long there. What is
        # enough is measured after training where there is a run folder.
        blueprint = replace(blueprint, solver="dopri5", steps=None, tolerance=TIMED_TOLERANCE, piecewise=True)
    own = request.parts.network
    return blueprint if own is None else replace(blueprint, network=f"{type(own).__module__}:{type(own).__qualname__}")


def _as_continuous(schema: Schema) -> Schema:
    """The schema with a density for every modelled column of numbers; text stays categorical."""
    columns = (c if c.kind == "categorical" else replace(c, kind="continuous", categories=()) for c in schema.columns)
    return replace(schema, columns=tuple(columns))
