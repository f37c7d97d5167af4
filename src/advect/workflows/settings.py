"""The resolved configuration of a training: every setting, where its value came from and what it means."""

import platform
from collections.abc import Collection
from importlib.metadata import version

import torch

from advect.data import Split, on_disk
from advect.methods import Blueprint, get_method
from advect.records import Schema, Table
from advect.run.card import Sections, Setting
from advect.training import TrainingConfig
from advect.workflows.autoencoding import autoencoding_settings
from advect.workflows.origin import data_file, data_name, fingerprint
from advect.workflows.request import TrainRequest
from advect.workflows.snapshots import Timed

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
    "ema": "half-lives in steps of averages side by side, the best is kept; empty: that of ema_decay",
    "validation_every": "steps; 0 is a fiftieth of all, at least 50",
    "checkpoint_seconds": "time between checkpoints",
    "pool": "batches paired together, beside the loop; 0 is the whole set",
    "pool_uses": "times that a pool's pairs are used; 0 is the whole training",
    "microbatch": "rows through the network at once; 0 is all of a batch",
    "precision": "of the training loss: float32, bfloat16 or float16",
    "shard": "spread weights, averages and moments over several processes",
    "channels_last": "weights of convolutions pixel by pixel in memory",
    "compile": "networks are compiled before the first step",
    "checkpoint": "insides of blocks are computed again and not kept",
    "draws_ahead": "pairs and draws of small batches are made for many steps at once",
    "probe_share": "of the training time, for figures on the way; 0 is none",
}


def resolved(
    request: TrainRequest,
    table: Table,
    schema: Schema,
    split: Split,
    source: Table | None,
    blueprint: Blueprint,
    training: TrainingConfig,
    device: torch.device,
    times: Timed | None = None,
) -> Sections:
    """All sections of ``config.toml``."""
    method = get_method(request.method)
    return {
        "": {
            "method": Setting(request.method, method.title, "given"),
            "seed": Setting(request.seed, "of every draw", "given"),
        },
        "data": _data(request, table, schema, split) | _source(request, source) | _times(times, request.spline),
        "options": {
            name: Setting(value, method.options[name].meaning, "given" if name in request.options else "default")
            for name, value in blueprint.options.items()
        },
        **autoencoding_settings(request.latent),
        "model": model_settings(blueprint, given=request.settings, network=request.network) | _own(request),
        "training": training_settings(training, given=_given(request)) | _budget(request),
        **solver_settings(blueprint),
        "environment": environment_settings(device),
    }


def solver_settings(blueprint: Blueprint) -> dict[str, dict[str, Setting]]:
    """How the ODE is solved; nothing for maps without one."""
    if blueprint.solver is None:
        return {}
    return {
        "sampling": {
            "solver": Setting(blueprint.solver, "used by sample"),
            "steps": Setting(blueprint.steps, "of a fixed-step solver"),
            "tolerance": Setting(blueprint.tolerance, "of an adaptive solver"),
        },
        "likelihood": {
            "solver": Setting(blueprint.likelihood_solver, "used by score, encode and transport"),
            "tolerance": Setting(blueprint.likelihood_tolerance, "its tolerance"),
        },
    }


def _data(request: TrainRequest, table: Table, schema: Schema, split: Split) -> dict[str, Setting]:
    path = data_file(request.data)
    return {
        "origin": Setting(table.origin, "where the rows came from", "given"),
        "path": Setting(None if path is None else str(path.resolve()), "the file that was read", "given"),
        "key": Setting(table.key, "the array inside the .npz, or the representation of cells", "given"),
        "sha256": Setting(
            fingerprint(request.data, table), "of the file" if path else "of names and values", "derived"
        ),
        "rows": Setting(table.num_rows, "rows read", "derived"),
        "kept": Setting("on disk" if on_disk(table) else None, "where the rows stay; not set: in memory", "derived"),
        "columns": Setting(len(schema.columns), "columns modelled", "derived"),
        "condition": Setting(list(request.condition), "columns given, not modelled", _origin(request.condition)),
        "weights": Setting(request.weights, "column of row weights", "given"),
        "continuous": Setting(
            request.continuous or None, "whole numbers have a density; not set: a probability", "given"
        ),
        "flip": Setting(request.flip or None, "pictures are mirrored at random in training", "given"),
        "validation": Setting(request.validation, "share of rows that choose the best weights"),
        "test": Setting(request.test, "share of rows held out for the figures"),
        "split_seed": Setting(request.split_seed, "of the split; not set: the seed of the run", "given"),
        "split": Setting(split.digest(), "digest of the row indices of the split", "derived"),
    }


def _source(request: TrainRequest, source: Table | None) -> dict[str, Setting]:
    if source is None:
        return {"source": Setting(None, "rows to start from; not set: Gaussian noise")}
    return {
        "source": Setting(data_name(request.source, source), "rows to start from", "given"),
        "source_sha256": Setting(fingerprint(request.source, source), "of those rows", "derived"),
    }


def _times(found: Timed | None, spline: bool) -> dict[str, Setting]:
    if found is None:
        return {}
    line = found.timeline
    return {
        "time_key": Setting(line.key, "column of times; the model leads from each to the next", "given"),
        "times": Setting(
            list(line.times), "in the user's units; 0 and 1 of the flow are the first and the last", "derived"
        ),
        "time_words": Setting(list(line.words), "as the data write them", "derived"),
        "time_pattern": Setting(line.pattern, "how others are written", "derived"),
        "time_text": Setting(line.text, "whether the data hold text", "derived"),
        "spline": Setting(
            spline or None, "paths are splines through all times; not set: straight between two", "given"
        ),
        "leave_out": Setting(list(line.left_out) or None, "times kept for the figures", "given"),
    }


def model_settings(blueprint: Blueprint, *, given: Collection[str] = (), network: str = "auto") -> dict[str, Setting]:
    """The section on the model; ``given`` names the settings that a user chose."""
    chosen = lambda name: "given" if name in given else "default"  # noqa: E731
    return {
        "network": Setting(blueprint.network, "network", "derived" if network == "auto" else "given"),
        "event_shape": Setting(list(blueprint.event_shape), "shape of a row in the flow's coordinates", "derived"),
        "condition_features": Setting(blueprint.condition_features, "width of the condition vector", "derived"),
        "condition_dropout": Setting(
            blueprint.condition_dropout,
            "share of rows trained without their condition, for guidance",
            chosen("condition_dropout"),
        ),
        "baseline": Setting(blueprint.baseline, "an untrained model returns a Gaussian fit", chosen("baseline")),
    }


def _own(request: TrainRequest) -> dict[str, Setting]:
    return {
        "path": Setting(_kind(request.parts.path), "a path of the user's own", "given"),
        "coupling": Setting(_kind(request.parts.coupling), "a coupling of the user's own", "given"),
    }


def training_settings(training: TrainingConfig, *, given: Collection[str] = ()) -> dict[str, Setting]:
    """The section on the loop; ``given`` names the settings that a user chose."""
    return {
        name: Setting(
            list(value) if isinstance(value, tuple) else value,
            _TRAINING_WORDS.get(name, ""),
            "given" if name in given else "default",
        )
        for name, value in vars(training).items()
        if name != "seed"
    }


def _given(request: TrainRequest) -> set[str]:
    return {*request.training, *(name for name in ("steps", "batch_size") if getattr(request, name))}


def _budget(request: TrainRequest) -> dict[str, Setting]:
    return {"budget_seconds": Setting(request.budget_seconds, "wall time for everything, report included", "given")}


def environment_settings(device: torch.device) -> dict[str, Setting]:
    """The section on the machine and the versions."""
    return {
        "device": Setting(str(device), "where it was trained", "derived"),
        "threads": Setting(torch.get_num_threads(), "torch threads; part of what fixes the bits", "derived"),
        "advect": Setting(version("advect"), "", "derived"),
        "torch": Setting(torch.__version__, "", "derived"),
        "python": Setting(platform.python_version(), "", "derived"),
    }


def _origin(value: object) -> str:
    return "given" if value else "default"


def _kind(part: object) -> str | None:
    """``module:class`` of a user's object; never imported from the folder."""
    return None if part is None else f"{type(part).__module__}:{type(part).__qualname__}"
