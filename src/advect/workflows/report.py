"""The report of a run: fills the page's record from what the run folder and the data hold."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advect.data import BUILTINS, Split, some_rows, write_table
from advect.errors import ConfigError
from advect.files import check_new_folder, check_writable, files_like
from advect.methods import Blueprint, get_method
from advect.records import Finding, Metric, Schema, Table
from advect.report import (
    DataSummary,
    ErrorCurve,
    FigureCurve,
    History,
    Likelihood,
    Regression,
    ReportContent,
    picture_grid,
    verdict,
    write_pictures,
    write_report,
)
from advect.run import CONFIG, REPORT, Artefact, RunFolder
from advect.training import TrainingConfig, average_words, generator_for, lowest_losses
from advect.workflows.autoencoding import latent_options
from advect.workflows.course import course
from advect.workflows.density_map import density_around
from advect.workflows.grown import grown
from advect.workflows.pairing import pairing_costs
from advect.workflows.picture_figures import nearest_pictures
from advect.workflows.probes import FIGURES, Figure
from advect.workflows.regression_gap import regression_line
from advect.workflows.shown_motion import pixel_bounds, shown_motion
from advect.workflows.snapshots import of_last_time, timeline_of
from advect.workflows.streams import SAMPLE

SHOWN_ROWS, SHOWN_PICTURES = 1000, 64


def write_run_report(
    folder: RunFolder,
    artefact: Artefact,
    table: Table,
    split: Split,
    findings: tuple[Finding, ...],
    *,
    deadline: float | None = None,
) -> dict[str, Path]:
    """Write ``report.html`` (and ``samples.png`` for pictures) and return what was written, by name.

    Args:
        folder: Of the run.
        artefact: The model with its figures.
        table: The rows of the run.
        split: How they were split.
        findings: What the data check noticed.
        deadline: ``time.monotonic()`` by which the page should be there: what takes long is drawn coarser.
    """
    real = of_last_time(artefact, table, split.test if len(split.test) else split.train)
    shown = SHOWN_PICTURES if artefact.schema.image else SHOWN_ROWS  # a U-Net on a processor takes a tenth of a second
    real = some_rows(real, shown, generator_for(int(artefact.config["seed"]), SAMPLE, 2))
    rows = real.num_rows
    condition = real if artefact.condition is not None else None
    samples = grown(artefact, rows, condition=condition, seed=int(artefact.config["seed"]) + 2).table
    nearest = None
    if artefact.schema.image and len(split.train) > 1:
        nearest = nearest_pictures(samples, of_last_time(artefact, table, split.train))
    files = {
        "report": write_report(
            _content(folder, artefact, table, split, findings, real, samples, nearest, deadline),
            folder.destination(REPORT),
        )
    }
    if artefact.schema.image:
        files["picture"] = picture_grid(
            samples, folder.destination("samples.png"), beside=real, bounds=pixel_bounds(artefact.schema)
        )
    return files


def _content(
    folder: RunFolder,
    artefact: Artefact,
    table: Table,
    split: Split,
    findings: tuple[Finding, ...],
    real: Table,
    samples: Table,
    nearest: np.ndarray | None,
    deadline: float | None,
) -> ReportContent:
    config, evaluation = artefact.config, artefact.evaluation
    method = get_method(config["method"])
    metrics = tuple(stored_metric(m) for m in evaluation.get("metrics", ()))
    likelihood = _likelihood(artefact)
    return ReportContent(
        title=f"{Path(table.origin).name}, learned by {method.name}",
        method=method.name,
        explanation=method.sentence,
        data=DataSummary(
            origin=table.origin,
            rows=table.num_rows,
            columns=artefact.schema.columns,
            split={"training": len(split.train), "validation": len(split.validation), "held out": len(split.test)},
            event_shape=artefact.schema.event_shape,
            image=artefact.schema.image,
            condition=artefact.schema.condition,
            sha256=config["data"]["sha256"],
        ),
        verdict=verdict(metrics),
        findings=findings,
        metrics=metrics,
        likelihood=likelihood,
        history=_history(artefact),
        regression=_regression(artefact),
        samples=samples,
        real=real,
        nearest=nearest,
        motion=shown_motion(artefact, real, seed=int(config["seed"]) + 1),
        density=density_around(artefact, real, seed=int(config["seed"]), deadline=deadline),
        pairing=pairing_costs(artefact),
        ends=_ends(artefact),
        course=course(artefact, table, split),
        error_curves=_error_curves(artefact),
        configuration=folder.read_text(CONFIG) if folder.file(CONFIG).exists() else "",
        command=command_line(folder, artefact),
        notes=_notes(artefact),
        versions={k: str(v) for k, v in config["environment"].items() if k in ("advect", "torch", "python")},
    )


def command_line(folder: RunFolder, artefact: Artefact) -> str:
    """The command that makes this run again; whatever differs from a default is named in it."""
    config = artefact.config
    data, training = config["data"], config["training"]
    parts = ["advect", "train", _data_argument(data), "--method", config["method"], "--out", str(folder.path)]
    for column in data.get("condition", ()):
        parts += ["--condition", column]
    for name in ("source", "weights"):
        if name in data:
            parts += [f"--{name}", str(data[name])]
    if ":" not in config["model"]["network"]:  # a network of the user's own has no name
        parts += ["--network", config["model"]["network"]]
    for name in ("steps", "batch_size"):
        parts += [f"--{name.replace('_', '-')}", str(training[name])]
    for name, value in _unusual(config).items():
        parts += ["--set", f"{name}={json.dumps(value)}"]
    if "time_key" in data:
        parts += ["--time-key", data["time_key"]]
        words = dict(zip(data["times"], data["time_words"], strict=True))
        for time in data.get("leave_out", ()):
            parts += ["--leave-out", words[time]]
        parts += ["--spline"] if data.get("spline") else []
    if "split_seed" in data:
        parts += ["--split-seed", str(data["split_seed"])]
    parts += ["--flip"] if data.get("flip") else []
    parts += latent_options(config)
    return shlex.join([*parts, "--seed", str(config["seed"])])


def _data_argument(data: Mapping) -> str:
    """The rows as the command names them; ``DATA`` for rows that were given from Python."""
    if "path" in data:
        return f"{data['path']}:{data['key']}" if "key" in data else data["path"]
    return data["origin"] if data["origin"] in BUILTINS else "DATA"


def _unusual(config: Mapping) -> dict[str, object]:
    """Settings for ``--set`` that are not what they are by default."""
    method = get_method(config["method"])
    plain = {name: f.default for name, f in Blueprint.__dataclass_fields__.items()} | dict(method.recipe.settings)
    loop = {name: f.default for name, f in TrainingConfig.__dataclass_fields__.items()} | dict(method.recipe.training)
    defaults = {name: option.default for name, option in method.options.items()}
    stored = {name: value for name, value in config.get("options", {}).items() if name in defaults}
    for name in ("condition_dropout", "baseline"):
        defaults[name], stored[name] = plain[name], config["model"][name]
    for name, value in config.get("likelihood", {}).items():
        key = f"likelihood_{name}"
        defaults[key], stored[key] = plain[key], value
    for name, value in config["training"].items():
        if name in loop and name not in ("steps", "batch_size"):
            default = loop[name]
            defaults[name], stored[name] = list(default) if isinstance(default, tuple) else default, value
    return {name: value for name, value in stored.items() if value != defaults[name]}


def stored_metric(stored: Mapping) -> Metric:
    """A metric as it was kept; JSON has no NaN, so a value that could not be computed is None there."""
    known: dict[str, Any] = {**stored, "value": math.nan if stored["value"] is None else stored["value"]}
    return Metric(**known)


def _likelihood(artefact: Artefact) -> Likelihood | None:
    like = artefact.evaluation.get("likelihood", {})
    if like.get("mean") is None or like["standard_error"] is None:
        return None
    discrete = like["importance_samples"] if not artefact.codec.exact else None
    bits = None
    if artefact.schema.image and like["kind"] == "log-probability":
        bits = -like["mean"] / (math.prod(artefact.schema.event_shape) * math.log(2))
    return Likelihood(
        mean=like["mean"],
        standard_error=like["standard_error"],
        rows=like["rows"],
        gaussian=like.get("gaussian"),
        gaussian_error=like.get("gaussian_error"),
        difference=like.get("difference"),
        difference_error=like.get("difference_error"),
        dequantisation=discrete,
        bits_per_dim=bits,
        failed_rows=like["failed_rows"] + like["impossible_rows"],
        kind=like["kind"],
        elbo=like.get("elbo"),
        bound_draws=like["importance_samples"] if like.get("elbo") is not None else None,
    )


def _history(artefact: Artefact) -> History:
    lines = artefact.history
    trained = [(h["step"], h["train_loss"]) for h in lines if h.get("train_loss") is not None]
    validated = [(h["step"], h["validation_loss"]) for h in lines if h.get("validation_loss") is not None]
    outcome: Mapping = artefact.config.get("outcome", {})
    return History(
        steps=[s for s, _ in trained],
        loss=[v for _, v in trained],
        validation_steps=[s for s, _ in validated],
        validation_loss=[v for _, v in validated],
        best_step=outcome.get("best_step") if validated else None,
        seconds=outcome.get("seconds"),
        shares=outcome.get("time", {}),
        product_share=outcome.get("product_share"),
        skipped=outcome.get("skipped_steps", 0),
        figures=tuple(curve for curve in (_figure_curve(lines, figure) for figure in FIGURES) if curve is not None),
        averages=average_words(lowest_losses(lines)),
    )


def _figure_curve(lines: Sequence[Mapping], figure: Figure) -> FigureCurve | None:
    """One figure on the way; None where it was never measured."""
    measured = [line for line in lines if line.get(figure.key) is not None]
    if not measured:
        return None
    return FigureCurve(
        label=figure.words,
        steps=[line["step"] for line in measured],
        values=[line[figure.key] for line in measured],
        level=measured[-1].get(figure.level),
        level_label=figure.level_words,
        spread=measured[-1].get(figure.spread),
        rises=figure.rises,
    )


def _regression(artefact: Artefact) -> Regression | None:
    """The gap over time; None for a map without a field, and where nothing was said about it."""
    facts = artefact.evaluation.get("regression", {})
    line = regression_line(facts)
    if artefact.flow.ode is None or (line is None and "reason" not in facts):
        return None
    if line is None:
        return Regression(f"The regression gap was not measured: {facts['reason']}.")
    spans = facts.get("spans") or ()
    return Regression(
        f"Regression gap of the learnt field: {line}.",
        *([span[name] for span in spans] for name in ("time", "gap", "gap_error", "loss", "floor")),
    )


def _error_curves(artefact: Artefact) -> tuple[ErrorCurve, ...]:
    """Error against evaluations as it was measured after training, one curve per solver."""
    trials = artefact.config.get("calibration", {}).get("trials", ())
    sampling = artefact.config.get("sampling", {})
    curves = []
    for name in dict.fromkeys(trial["solver"] for trial in trials):
        own = sorted((t for t in trials if t["solver"] == name), key=lambda t: t["evaluations"])
        chosen = [t["evaluations"] for t in own if (name, t["steps"]) == (sampling["solver"], sampling["steps"])]
        curves.append(
            ErrorCurve(
                label=name,
                evaluations=[t["evaluations"] for t in own],
                errors=[t["error"] for t in own],
                measure="error, in sd",
                chosen=chosen[0] if chosen else None,
            )
        )
    return tuple(curves)


def _ends(artefact: Artefact) -> tuple[str, str]:
    """What stands at the two ends of the flow."""
    timeline = timeline_of(artefact)
    if timeline is not None:
        return timeline.phrase(timeline.times[0]), timeline.phrase(timeline.times[-1])
    return "source rows" if "source" in artefact.config["data"] else "noise", "data"


def _notes(artefact: Artefact) -> tuple[str, ...]:
    notes, timeline = [], timeline_of(artefact)
    if timeline is not None:
        notes.append(
            f"Samples and scores are those of the last time, {timeline.phrase(timeline.times[-1])}, unless they are "
            "told time by time."
        )
    if artefact.growth:
        notes.append(
            "The plan makes and loses mass, and samples, figures and scores are of the law in which rows count by what "
            "they carry. Rows on their way are all shown: relative_mass says what each of them carries."
        )
    pictured = artefact.evaluation.get("pictures", {})
    if "features" in pictured:
        notes.append(f"Figures of features are of {pictured['features']}. {pictured['note']}")
    if artefact.config.get("latent"):
        notes.append("The flow learnt codes of an autoencoder: samples are decoded codes, and figures are of pictures.")
    path = artefact.config.get("options", {}).get("sigma", 0.0)
    if path:
        notes.append(f"The path's noise at the data end is part of the model (σ = {path:g} in standardised units).")
    failed = artefact.evaluation.get("sampling", {}).get("failed_rows", 0)
    if failed:
        notes.append(f"{failed} sampled rows have no value: the solver failed on them.")
    impossible = artefact.evaluation.get("likelihood", {}).get("impossible_rows", 0)
    if impossible:
        notes.append(f"{impossible} held-out rows hold values that never occur in the training rows.")
    return tuple(notes)


WRITABLE = (".csv", ".tsv", ".parquet", ".npy", ".npz", ".h5ad", ".csv.gz", ".tsv.gz")


def check_destination(destination: Path, *, pictures: bool = True) -> None:
    """Refuse a destination that could not be written, before any work is done.

    Raises:
        ConfigError: An unknown ending, or a folder that is a file.
    """
    endings = (*WRITABLE, ".png") if pictures else WRITABLE
    if pictures and not destination.suffix:
        check_new_folder(destination)
        return
    if not destination.name.lower().endswith(endings):
        raise ConfigError(
            f"{files_like(destination)} cannot be written here",
            where=f"--out {destination}",
            remedy=f"Use one of {', '.join(endings)}.",
        )
    if destination.is_dir():
        raise ConfigError("this is a folder", where=f"--out {destination}", remedy="Name a file.")
    check_writable(destination)


def write_samples(table: Table, destination: Path, schema: Schema) -> Path:
    """Write sampled rows by the ending of the destination: a picture grid for ``.png``, pictures one by one into a
    folder for a name without ending, else a table."""
    if schema.image and not destination.suffix:
        return write_pictures(table, destination, bounds=pixel_bounds(schema))
    if destination.suffix.lower() == ".png":
        return picture_grid(table, destination, bounds=pixel_bounds(schema))
    return write_table(table, destination)
