"""From a request to everything training needs: rows read, checked and split, settings resolved, the model built."""

import hashlib
import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
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
    split_rows,
    take_rows,
)
from advect.errors import DataError, unknown_name
from advect.files import sha256_of
from advect.flows import EmpiricalBase, Flow
from advect.methods import Blueprint, Built, build, full_flow, get_method, resolve_options
from advect.networks import resolve_network
from advect.records import Finding, Schema, Table
from advect.run.card import Sections, Setting
from advect.training import DataRows, TrainingConfig, generator_for
from advect.transforms import Bijection, Precision, fit_preprocess
from advect.typing import Base
from advect.workflows.request import DEFAULT_STEPS, TrainRequest, choose_device

# Streams of `generator_for` used outside the loop; the loop's own are below 10.
FIT, SOURCE, SCORE, SAMPLE, EVALUATE = 11, 12, 13, 14, 15


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
        train: Training rows in latent coordinates.
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
    train: DataRows
    validate: DataRows | None
    training: TrainingConfig
    blueprint: Blueprint
    sections: Sections
    device: torch.device


def prepare(request: TrainRequest) -> Prepared:
    """Read, check, split, resolve and build.

    Raises:
        AdvectError: Anything about the data or the settings that must be mended first.
    """
    method = get_method(request.method)
    options = resolve_options(method, request.options)
    device = choose_device(request.device)
    table = read_table(request.data, key=request.key)
    schema = infer_schema(table, condition=request.condition)
    schema = _as_continuous(schema) if request.continuous else schema
    refuse_unusable(table, schema)
    split = split_rows(table.num_rows, seed=request.seed, validation=request.validation, test=request.test)
    findings = check_table(table, schema, split)

    rows = take_rows(table, split.train)
    codec = Codec.fit(rows, schema)
    condition = ConditionCodec.fit(rows, schema) if schema.condition else None
    preprocess, latent = _fit_scaling(codec, rows, request.seed)
    source = _source(request, schema, codec, preprocess)

    blueprint = _blueprint(request, options, codec, condition, len(split.train))
    built = build(blueprint, seed=request.seed, source=source, latent=latent, parts=request.parts)
    built = replace(built, core=built.core.to(device))
    flow = full_flow(built.core, preprocess, Precision(tuple(codec.event_shape)))
    training = _training(request)
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
        train=data_rows(table, split.train, codec, condition, preprocess, request, device),
        validate=data_rows(table, split.validation, codec, condition, preprocess, request, device)
        if len(split.validation)
        else None,
        training=training,
        blueprint=blueprint,
        sections=_sections(request, table, schema, split, blueprint, training, device),
        device=device,
    )


def data_rows(
    table: Table,
    rows: np.ndarray,
    codec: Codec,
    condition: ConditionCodec | None,
    preprocess: Bijection,
    request: TrainRequest,
    device: torch.device,
) -> DataRows:
    """Rows of a table as the loop wants them: in latent coordinates, with conditions and weights beside them.

    Where coding draws nothing (no discrete column, no gap) the latent rows are computed once.
    """
    chosen = take_rows(table, rows)
    prepared = codec.prepare(chosen, dtype=torch.float64)

    @torch.no_grad()
    def draw(index: Tensor, generator: Generator) -> Tensor:
        values = prepared.draw(index, generator).values
        return preprocess.encode(values, log_det=False).value.float().to(device)

    if codec.exact:
        everything = draw(torch.arange(len(rows)), generator_for(request.seed, FIT))
        draw = lambda index, generator: everything[index.to(everything.device)]  # noqa: E731
    return DataRows(
        draw=draw,
        num_rows=len(rows),
        condition=None if condition is None else condition.encode(chosen).float().to(device),
        weight=_weights(chosen, request.weights, device),
    )


def content_hash(table: Table) -> str:
    """SHA-256 over names and values, for data that is not a file."""
    digest = hashlib.sha256()
    for name, column in zip(table.names, table.columns, strict=True):
        digest.update(name.encode())
        plain = column if column.dtype.kind != "O" else np.array([repr(v) for v in column])
        digest.update(np.ascontiguousarray(plain).tobytes())
    return digest.hexdigest()


def is_file(data: Any) -> bool:
    """Whether the data was named as a file."""
    from pathlib import Path

    return isinstance(data, str | Path) and Path(str(data).split(".npz:")[0]).suffix != "" and _path_of(data).is_file()


def _path_of(data: Any) -> Any:
    from pathlib import Path

    text = str(data)
    return Path(text.split(".npz:")[0] + ".npz") if ".npz:" in text else Path(text)


def _as_continuous(schema: Schema) -> Schema:
    """The schema with a density for every modelled column of numbers; text stays categorical."""
    columns = (c if c.kind == "categorical" else replace(c, kind="continuous", categories=()) for c in schema.columns)
    return replace(schema, columns=tuple(columns))


def _fit_scaling(codec: Codec, rows: Table, seed: int) -> tuple[Bijection, Tensor]:
    """The preprocessing map, and the training rows behind it (to fit the Gaussian baseline)."""
    values = codec.encode(rows, generator=generator_for(seed, FIT), dtype=torch.float64).values
    preprocess = fit_preprocess(values, codec.coordinates, codec.probabilities)
    with torch.no_grad():
        latent = preprocess.encode(values, log_det=False).value.float()
    return preprocess, latent


def _source(request: TrainRequest, schema: Schema, codec: Codec, preprocess: Bijection) -> Base | None:
    """The rows to start from, brought to the target's latent coordinates."""
    if request.source is None:
        return None
    table = read_table(request.source)
    coded = codec.encode(table, generator=generator_for(request.seed, SOURCE), dtype=torch.float64)
    outside = (coded.status != 0) & (coded.status != 1)
    if bool(outside.any()):
        row = int(outside.nonzero()[0, 0])
        raise DataError(
            f"{int(outside.sum())} source rows hold values that the data never has, first in row {row}",
            where=table.origin,
            remedy="Leave those rows out, or model both populations with the same categories and constants.",
        )
    with torch.no_grad():
        return EmpiricalBase(preprocess.encode(coded.values, log_det=False).value.float())


def _weights(table: Table, name: str | None, device: torch.device) -> Tensor | None:
    if name is None:
        return None
    found = find_array(table, name)
    if found is None:
        raise unknown_name("column", name, [*table.names, *table.sides], where="--weights")
    weight = torch.as_tensor(np.asarray(found, dtype=np.float64), dtype=torch.float32, device=device)
    if not bool((torch.isfinite(weight) & (weight >= 0)).all()) or not float(weight.sum()) > 0:
        raise DataError("weights must be finite, not negative, and not all zero", where=f"column {name!r}")
    return weight


def _blueprint(
    request: TrainRequest, options: dict[str, Any], codec: Codec, condition: ConditionCodec | None, num_rows: int
) -> Blueprint:
    features = condition.width if condition else 0
    own = request.parts.network
    network = (
        f"{type(own).__module__}:{type(own).__qualname__}"
        if own is not None
        else resolve_network(request.network, event_shape=codec.event_shape, num_rows=num_rows)
    )
    for name in request.settings:
        if name not in Blueprint.__dataclass_fields__:
            raise unknown_name("setting", name, Blueprint.__dataclass_fields__)
    return Blueprint(
        **{
            "method": request.method,
            "options": options,
            "network": network,
            "event_shape": tuple(codec.event_shape),
            "condition_features": features,
            **request.settings,
        }
    )


def _training(request: TrainRequest) -> TrainingConfig:
    given = dict(request.training)
    given["steps"] = request.steps or given.get("steps", DEFAULT_STEPS)
    given["batch_size"] = request.batch_size or given.get("batch_size", 256)
    given["seed"] = request.seed
    return TrainingConfig(**given)


def _sections(
    request: TrainRequest,
    table: Table,
    schema: Schema,
    split: Split,
    blueprint: Blueprint,
    training: TrainingConfig,
    device: torch.device,
) -> Sections:
    """The configuration, each line with its meaning and where its value came from."""
    given = lambda name: "given" if getattr(request, name) not in (None, "auto", ()) else "default"  # noqa: E731
    method = get_method(request.method)
    file = is_file(request.data)
    return {
        "": {
            "method": Setting(request.method, method.title, "given"),
            "seed": Setting(request.seed, "of every draw", "given"),
        },
        "data": {
            "origin": Setting(table.origin, "where the rows came from", "given"),
            "path": Setting(str(_path_of(request.data).resolve()) if file else None, "the file that was read", "given"),
            "key": Setting(table.key, "the array inside the .npz", "given"),
            "sha256": Setting(
                sha256_of(_path_of(request.data)) if file else content_hash(table),
                "of the file" if file else "of names and values",
                "derived",
            ),
            "rows": Setting(table.num_rows, "rows read", "derived"),
            "columns": Setting(len(schema.columns), "columns modelled", "derived"),
            "condition": Setting(list(request.condition), "columns given, not modelled", given("condition")),
            "weights": Setting(request.weights, "column of row weights", given("weights")),
            "source": Setting(
                None if request.source is None else _origin(request.source),
                "rows to start from; not set: Gaussian noise",
            ),
            "continuous": Setting(
                request.continuous or None, "whole numbers have a density; not set: a probability", "given"
            ),
            "validation": Setting(request.validation, "share of rows that choose the best weights"),
            "test": Setting(request.test, "share of rows held out for the figures"),
            "split": Setting(split.digest(), "digest of the row indices of the split", "derived"),
        },
        "options": {
            name: Setting(value, method.options[name].meaning, "given" if name in request.options else "default")
            for name, value in blueprint.options.items()
        },
        "model": {
            "network": Setting(blueprint.network, "network", "derived" if request.network == "auto" else "given"),
            "event_shape": Setting(list(blueprint.event_shape), "shape of a row in the flow's coordinates", "derived"),
            "condition_features": Setting(blueprint.condition_features, "width of the condition vector", "derived"),
            "condition_dropout": Setting(
                blueprint.condition_dropout, "share of rows trained without their condition, for guidance"
            ),
            "baseline": Setting(blueprint.baseline, "an untrained model returns a Gaussian fit"),
            "path": Setting(_kind(request.parts.path), "a path of the user's own"),
            "coupling": Setting(_kind(request.parts.coupling), "a coupling of the user's own"),
        },
        "training": {
            name: Setting(
                list(value) if isinstance(value, tuple) else value,
                _TRAINING_WORDS.get(name, ""),
                "given" if name in request.training or getattr(request, name, None) else "default",
            )
            for name, value in vars(training).items()
            if name != "seed"
        }
        | {"budget_seconds": Setting(request.budget_seconds, "wall time for everything, report included", "given")},
        "sampling": {
            "solver": Setting(blueprint.solver, "used by sample"),
            "steps": Setting(blueprint.steps, "of a fixed-step solver"),
            "tolerance": Setting(blueprint.tolerance, "of an adaptive solver"),
        },
        "likelihood": {
            "solver": Setting(blueprint.likelihood_solver, "used by score, encode and transport"),
            "tolerance": Setting(blueprint.likelihood_tolerance, "its tolerance"),
        },
        "environment": {
            "device": Setting(str(device), "where it was trained", "derived"),
            "threads": Setting(torch.get_num_threads(), "torch threads; part of what fixes the bits", "derived"),
            "advect": Setting(version("advect"), "", "derived"),
            "torch": Setting(torch.__version__, "", "derived"),
            "python": Setting(platform.python_version(), "", "derived"),
        },
    }


_TRAINING_WORDS = {
    "steps": "optimiser steps",
    "batch_size": "rows per step",
    "learning_rate": "peak rate of AdamW",
    "warmup_steps": "linear warm-up",
    "decay": "cosine to zero, or constant",
    "weight_decay": "AdamW's decoupled decay",
    "betas": "AdamW's moment decays",
    "gradient_clip": "largest gradient norm; 0 is off",
    "ema_decay": "of the averaged weights, per step",
    "validation_every": "steps; 0 is a fiftieth of all, at least 50",
    "checkpoint_seconds": "time between checkpoints",
}


def _origin(source: Any) -> str:
    return str(source) if not hasattr(source, "shape") else "an array"


def _kind(part: object) -> str | None:
    return None if part is None else f"{type(part).__module__}:{type(part).__qualname__}"
