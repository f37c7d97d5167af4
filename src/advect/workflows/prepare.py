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
    blocks_of,
    check_table,
    infer_schema,
    on_disk,
    read_table,
    refuse_unusable,
    sample_rows,
    set_aside,
    split_rows,
    take_rows,
)
from advect.errors import ConfigError, DataError
from advect.flows import ConditionedBase, EmpiricalBase, Flow
from advect.methods import Blueprint, Built, build, full_flow, get_method, resolve_blueprint, resolve_options
from advect.records import Finding, Schema, Status, Table
from advect.run.card import Sections
from advect.training import (
    DataRows,
    Snapshots,
    TaughtRows,
    TrainingConfig,
    check_averages,
    check_switches,
    generator_for,
)
from advect.transforms import Autoencoder, Bijection, Precision, fit_preprocess
from advect.transforms.preprocess import Moments
from advect.typing import Base, SetCoupling
from advect.workflows.loop_rows import data_rows, needs_memory, training_rows, validation_rows, weights_of
from advect.workflows.request import TrainRequest, choose_device, training_config
from advect.workflows.settings import resolved
from advect.workflows.snapshots import Timed, condition_through, make_snapshots, timed
from advect.workflows.streams import FIT, PAIR, SOURCE
from advect.workflows.teacher import Teacher, open_teacher

TIMED_TOLERANCE = 1e-4  # of sampling through several times


LARGEST_REPEAT, LARGEST_SURE = 100, 10_000
"""A batch may hold each row so often, or so many rows in all."""


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
        device: Where it is trained.
        teacher: The run whose paths are straightened, or None.
        taught: Its pairs for training and for validation, once they are made.
        stage: The autoencoder in front of the flow, which is still to be trained; until then the rows of the loop are
            stand-ins for codes. None for rows as they are.
        pictures: Training and validation rows for the autoencoder; None without one.
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
    teacher: Teacher | None = None
    taught: tuple[TaughtRows, TaughtRows] | None = None
    stage: Autoencoder | None = None
    pictures: tuple[DataRows, DataRows | None] | None = None


def prepare(request: TrainRequest) -> Prepared:
    """Read, check, split, resolve and build.

    Raises:
        AdvectError: Anything about the data or the settings that must be mended first.
    """
    resolve_options(get_method(request.method), request.options)  # a misspelt option is told before the rows are read
    device = choose_device(request.device)
    read = _read(request)
    table, times, schema, split = read.table, read.times, read.schema, read.split
    rows = take_rows(table, split.train)
    codec = Codec.fit(rows, schema)
    condition = ConditionCodec.fit(rows, schema) if schema.condition else None
    if times is not None and condition is not None:
        condition = condition_through(times, split.train, condition, schema)
    preprocess, latent = _fit_scaling(codec, rows, request.seed)
    source_table = None if request.source is None else read_table(request.source)
    start = source_table if times is None else take_rows(table, times.standing(split.train, times.timeline.times[0]))
    between = None if times is None else condition
    source = None if start is None else _source(start, codec, preprocess, request.seed, between)
    teacher = _teacher(request, table, split, codec, condition)
    source = source if teacher is None else teacher.source

    stage = _stage(request, schema, codec, device)
    coded = latent if stage is None else _standing_in(stage, len(latent), request.seed)
    blueprint = _blueprint(request, tuple(coded.shape[1:]), condition, len(split.train))
    built = build(blueprint, seed=request.seed, source=source, latent=coded, parts=request.parts)
    built = replace(built, core=built.core.to(device))
    flow = full_flow(built.core, preprocess, Precision(tuple(codec.event_shape)), *(() if stage is None else (stage,)))
    taught = {} if teacher is None else teacher.begin(flow, request.method, blueprint.options)
    training = training_config(
        request.method, request.training, steps=request.steps, batch_size=request.batch_size, seed=request.seed
    )

    if on_disk(table) is not None and training.pool == 0:
        raise needs_memory("pool", "pairing the whole set")

    def rows_of(indices: np.ndarray, flip: bool = False) -> DataRows:
        return data_rows(table, indices, codec, condition, preprocess, request, device, flip=flip)

    check_switches(built.core, built.objective, training)
    check_averages(training, validated=len(split.validation) > 0)
    pictures = None if stage is None else _rows_of_both(request, split, rows_of)
    if pictures is not None:
        train, validate = _stand_ins(pictures, coded.to(device))
    else:
        built, train, validate = _for_the_loop(request, times, split, built, source, latent, rows_of, condition)
    sections = resolved(request, table, schema, split, source_table, blueprint, training, device, times)
    return Prepared(
        request=request,
        table=table,
        schema=schema,
        split=split,
        findings=read.findings,
        codec=codec,
        condition=condition,
        built=built,
        flow=flow,
        train=train,
        validate=validate,
        training=training,
        blueprint=blueprint,
        sections={**sections, "data": {**sections["data"], **taught}},
        device=device,
        teacher=teacher,
        stage=stage,
        pictures=pictures,
    )


@dataclass(frozen=True)
class _Read:
    """What was asked to be learnt from: `Prepared` says what each is; ``times`` is None for rows without."""

    table: Table
    times: Timed | None
    schema: Schema
    split: Split
    findings: tuple[Finding, ...]


def _read(request: TrainRequest) -> _Read:
    """Read, check and split."""
    table = set_aside(read_table(request.data, key=request.key), request.weights)
    if request.time_key is not None and on_disk(table) is not None:
        raise needs_memory("--time-key", "pairing one time with the next")
    times = None if request.time_key is None else _timed(table, request)
    table = table if times is None else times.table
    schema = infer_schema(table, condition=request.condition)
    schema = _as_continuous(schema) if request.continuous else schema
    refuse_unusable(table, schema)
    if request.flip and not schema.image:
        raise ConfigError("only pictures can be mirrored", where="--flip", remedy="Leave it out for tables.")
    shares = {"seed": request.splits_by, "validation": request.validation, "test": request.test}
    split = split_rows(table.num_rows, **shares) if times is None else times.split(**shares)
    _refuse_single(split, table)
    findings = (*check_table(table, schema, split), *_batch_findings(request, len(split.train)))
    return _Read(table, times, schema, split, findings)


def _stage(request: TrainRequest, schema: Schema, codec: Codec, device: torch.device) -> Autoencoder | None:
    """The autoencoder of a request, untrained; None without one."""
    if request.latent is None:
        return None
    if not schema.image:
        raise ConfigError("the autoencoder is made for pictures", where="--latent", remedy="Leave it out for tables.")
    return request.latent.stage(tuple(codec.event_shape), torch.Generator().manual_seed(request.seed)).to(device)


def _standing_in(stage: Autoencoder, rows: int, seed: int) -> Tensor:
    """Numbers of the shape of codes, before there are any: enough to time steps and to size a network."""
    assert stage.source_shape is not None
    return torch.randn(min(rows, 512), *stage.source_shape, generator=generator_for(seed, FIT))


def _stand_ins(pictures: tuple[DataRows, DataRows | None], codes: Tensor) -> tuple[DataRows, DataRows | None]:
    """Rows of codes in the place of pictures, with the same conditions and weights."""

    def draw(index: Tensor, generator: Generator) -> Tensor:
        return codes[(index % len(codes)).to(codes.device)]

    train, validate = pictures
    own = {"draw": draw, "fetching": None}
    return replace(train, **own), None if validate is None else replace(validate, **own)


def _rows_of_both(
    request: TrainRequest, split: Split, rows_of: Callable[..., DataRows]
) -> tuple[DataRows, DataRows | None]:
    """Training rows, and validation rows where there are some of any weight."""
    train = training_rows(rows_of(split.train, flip=request.flip), request.weights)
    return train, validation_rows(rows_of(split.validation) if len(split.validation) else None)


def _refuse_single(split: Split, table: Table) -> None:
    if len(split.train) < 2:
        held = len(split.validation) + len(split.test)
        raise DataError(
            f"of {table.num_rows} rows {held} {'is' if held == 1 else 'are'} held out, which leaves one to train on",
            where=table.origin,
            remedy="Give at least 4 rows, and far more for a model that says anything.",
        )


def _batch_findings(request: TrainRequest, rows: int) -> tuple[Finding, ...]:
    """A batch that was asked for and holds rows several times; absurd ones are refused, which would take hours."""
    size = request.batch_size
    if size is None or size < 2 * rows:
        return ()
    times = f"a batch of {size} rows holds each of the {rows} training rows {size // rows} times"
    if size > LARGEST_REPEAT * rows and size > LARGEST_SURE:
        raise ConfigError(
            times, where="--batch-size", remedy=f"Give at most {rows}, and more steps where more is to be learned."
        )
    return (Finding("large batch", "--batch-size", times, "kept"),)


def _for_the_loop(
    request: TrainRequest,
    times: Timed | None,
    split: Split,
    built: Built,
    source: Base | None,
    latent: Tensor,
    rows_of: Callable[..., DataRows],
    condition: ConditionCodec | None,
) -> tuple[Built, DataRows | Snapshots, DataRows | Snapshots | None]:
    """Training and validation rows, and the couplings prepared for them."""
    if times is not None:
        how: dict[str, Any] = {"seed": request.seed, "smooth": request.spline, "condition": condition}
        train = make_snapshots(times, split.train, built, partial(rows_of, flip=request.flip), **how)
        if not len(split.validation):
            return built, train, None
        validate = make_snapshots(times, split.validation, built, rows_of, **how)
        return built, train, replace(validate, couplings=train.couplings)
    points = source.points if isinstance(source, EmpiricalBase) else None
    train, validate = _rows_of_both(request, split, rows_of)
    coupling = built.coupling
    if isinstance(coupling, SetCoupling) and train.fetching is not None:
        raise needs_memory("coupling", "a plan to all rows of the data set")
    if coupling is not None:
        generator = generator_for(request.seed, PAIR)
        coupling = coupling.prepare(points, latent, condition=train.condition, generator=generator)
    return replace(built, coupling=coupling), train, validate


def _fit_scaling(codec: Codec, rows: Table, seed: int) -> tuple[Bijection, Tensor]:
    """The preprocessing map, and the training rows behind it (to fit the Gaussian baseline).

    Of rows on disk, as many as can be held; means and spreads of columns are those of all: the codec's, which has gone
    through them, or where its rules do not tell by a pass over them. All pixels share theirs, which a sample knows to a
    thousandth.
    """
    some = sample_rows(rows, generator_for(seed, FIT, 1))
    values = codec.encode(some, generator=generator_for(seed, FIT), dtype=torch.float64).values
    blocks = known = None
    if some is not rows and (told := codec.moments) is not None:
        known = Moments(rows.num_rows, *map(torch.from_numpy, told))
    elif some is not rows and not codec.schema.image:
        generator = generator_for(seed, FIT, 2)
        blocks = (codec.encode(block, generator=generator, dtype=torch.float64).values for block in blocks_of(rows))
    preprocess = fit_preprocess(values, codec.coordinates, codec.probabilities, blocks=blocks, known=known)
    with torch.no_grad():
        latent = preprocess.encode(values, log_det=False).value.float()
    return preprocess, latent


def _source(
    table: Table, codec: Codec, preprocess: Bijection, seed: int, condition: ConditionCodec | None = None
) -> Base:
    """The rows to start from, brought to the target's latent coordinates; with a condition of their own where that
    goes along the flow."""
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
        points = preprocess.encode(coded.values, log_det=False).value.float()
    if condition is None:
        return EmpiricalBase(points)
    scale = torch.tensor(condition.compared)
    return ConditionedBase(points, condition.encode(table).float(), scale=scale, labels=condition.is_discrete)


def _timed(table: Table, request: TrainRequest) -> Timed:
    assert request.time_key is not None
    found = timed(table, request.time_key, request.leave_out)
    weight = weights_of(found.table, request.weights, torch.device("cpu"))
    return found if weight is None else replace(found, weight=weight.double().numpy())


def _teacher(
    request: TrainRequest, table: Table, split: Split, codec: Codec, condition: ConditionCodec | None
) -> Teacher | None:
    if request.reflow is None:
        return None
    return open_teacher(
        request.reflow, request.pairs, data=request.data, table=table, split=split, codec=codec, condition=condition
    )


def _blueprint(
    request: TrainRequest, event_shape: tuple[int, ...], condition: ConditionCodec | None, num_rows: int
) -> Blueprint:
    blueprint = resolve_blueprint(
        request.method,
        request.options,
        event_shape=event_shape,
        condition_features=condition.width if condition else 0,
        network=request.network,
        num_rows=num_rows,
        settings=request.settings,
    )
    if request.time_key is not None:
        # The field turns sharply at every snapshot: fixed steps that are enough elsewhere are too long there. What is
        # enough is measured after training where there is a run folder.
        blueprint = replace(blueprint, solver="dopri5", steps=None, tolerance=TIMED_TOLERANCE, piecewise=True)
    if request.reflow is not None or request.parts.coupling is not None or request.parts.path is not None:
        blueprint = replace(blueprint, paired=True)
    own = request.parts.network
    return blueprint if own is None else replace(blueprint, network=f"{type(own).__module__}:{type(own).__qualname__}")


def _as_continuous(schema: Schema) -> Schema:
    """The schema with a density for every modelled column of numbers; text stays categorical."""
    columns = (c if c.kind == "categorical" else replace(c, kind="continuous", categories=()) for c in schema.columns)
    return replace(schema, columns=tuple(columns))
