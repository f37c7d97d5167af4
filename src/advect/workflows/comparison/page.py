"""The page of a comparison: fills its record from the runs."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from advect.data import BUILTINS, some_rows
from advect.records import Table
from advect.report import Motion
from advect.report.comparison import ComparisonContent, MethodRow, write_comparison
from advect.report.comparison.content import Ruler
from advect.report.comparison.verdict import seconds_words, verdict
from advect.report.numerals import grouped, listed
from advect.run import REPORT
from advect.training import generator_for
from advect.workflows.comparison.files import PAGE
from advect.workflows.comparison.ground import Ground
from advect.workflows.comparison.request import CompareRequest
from advect.workflows.comparison.rows import DoneRun
from advect.workflows.grown import grown
from advect.workflows.open import open_run
from advect.workflows.report import SHOWN_PICTURES, SHOWN_ROWS
from advect.workflows.shown_motion import pixel_bounds, shown_motion
from advect.workflows.streams import SAMPLE


def write_page(
    request: CompareRequest,
    ground: Ground,
    done: Sequence[DoneRun],
    rows: Sequence[MethodRow],
    ruler: Ruler | None,
    best: Path | None,
) -> Path:
    """Draw a few rows of each method and write ``compare.html``."""
    count = SHOWN_PICTURES if ground.schema.image else SHOWN_ROWS
    real = some_rows(ground.held_out, count, generator_for(ground.seed, SAMPLE, 3))
    samples: dict[str, Table] = {}
    motions: dict[str, Motion] = {}
    versions: dict[str, str] = {}
    for run in done:  # the first seed of each speaks for the method
        if run.method in samples:
            continue
        artefact = open_run(run.path)
        condition = real if artefact.condition is not None else None
        samples[run.method] = grown(artefact, real.num_rows, condition=condition, seed=ground.seed + 3).table
        found = shown_motion(artefact, real, seed=ground.seed + 4, beside=len(rows))
        motions |= {} if found is None else {run.method: found}
        versions = {k: str(v) for k, v in artefact.config["environment"].items() if k in ("advect", "torch", "python")}
    content = ComparisonContent(
        title=f"{Path(ground.table.origin).name}: {listed([row.method for row in rows], 6)}",
        data=data_words(ground),
        terms=terms_words(request),
        verdict=verdict(rows),
        rows=tuple(rows),
        ruler=ruler,
        label=request.label,
        samples=samples,
        motions=motions,
        real=real,
        image=ground.schema.image,
        bounds=pixel_bounds(ground.schema),
        command=command_line(request),
        next_commands=next_commands(best, ground),
        notes=_notes(rows, done),
        links=tuple((f"{run.method}, seed {run.seed}", _link(request.out, run.path)) for run in done),
        versions=versions,
    )
    return write_comparison(content, request.out / PAGE)


def data_words(ground: Ground) -> str:
    """The rows in one sentence."""
    split, name = ground.split, Path(ground.table.origin).name
    return (
        f"{grouped(ground.table.num_rows)} rows of {name}: {grouped(len(split.train))} training, "
        f"{grouped(len(split.validation))} validation, {grouped(len(split.test))} held out, the same for all."
    )


def terms_words(request: CompareRequest) -> str:
    """What the methods had in common."""
    if request.budget_seconds is not None:
        what = f"{seconds_words(request.budget_seconds)} of training each, figures not counted"
    else:
        what = f"{grouped(request.steps or 0)} steps each"
    seeds = f"{request.seeds} seeds" if request.seeds > 1 else "one seed"
    given = f"; given {listed(list(request.condition))}" if request.condition else ""
    own = [f"{method} with {name} = {value}" for method, all in request.settings.items() for name, value in all.items()]
    return f"{what[0].upper()}{what[1:]}, {seeds}{given}{f'; {listed(own)}' if own else ''}."


def command_line(request: CompareRequest) -> str:
    """The command that makes this comparison again."""
    data = request.data if isinstance(request.data, str | Path) else "DATA"
    name = str(data) if str(data) in BUILTINS or data == "DATA" else os.fspath(data)
    parts = ["advect", "compare", name, "--methods", ",".join(request.methods)]
    if request.budget_seconds is not None:
        parts += ["--budget", f"{request.budget_seconds:g}s"]
    else:
        parts += ["--steps", str(request.steps)]
    parts += ["--seeds", str(request.seeds)]
    for column in request.condition:
        parts += ["--condition", column]
    for option, value in (("--label", request.label), ("--batch-size", request.batch_size)):
        parts += [] if value is None else [option, str(value)]
    for method, settings in request.settings.items():
        for setting, value in settings.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            parts += ["--set", f"{method}.{setting}={text}"]
    parts += ["--seed", str(request.seed)] if request.seed else []
    return shlex.join([*parts, "--out", str(request.out)])


def next_commands(best: Path | None, ground: Ground) -> tuple[str, ...]:
    """Commands worth trying with the run to take."""
    if best is None:
        return ()
    run = shlex.quote(str(best))
    ending = {"csv": "csv", "tsv": "tsv", "parquet": "parquet"}.get(ground.schema.container, "npz")
    ending = "png" if ground.schema.image else ending
    return (f"advect sample {run} -n 1000 --out new.{ending}", f"advect evaluate {run}", f"advect report {run}")


def _link(folder: Path, run: str) -> str:
    """The page of a run, relative to the page of the comparison."""
    return quote(f"{os.path.relpath(run, folder)}/{REPORT}")


def _notes(rows: Sequence[MethodRow], done: Sequence[DoneRun]) -> tuple[str, ...]:
    notes = [f"{row.method}: {reason}" for row in rows for reason in row.failures]
    remarks: Mapping[str, None] = dict.fromkeys(
        f"{run.method}, seed {run.seed}: {remark}" for run in done for remark in run.measurement.remarks
    )
    notes += list(remarks)
    for row in rows:
        if row.likelihood is not None and row.likelihood.left_out:
            notes.append(
                f"{row.method}: {row.likelihood.left_out} held-out rows have no likelihood (failed, or impossible "
                "under the model) and are left out of its mean."
            )
    return tuple(notes)
