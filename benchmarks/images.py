"""Pictures: one row of the table of methods beside another, on equal budgets of processor time.

    realnvp     couplings at several scales, by likelihood
    glow        steps of ActNorm, invertible 1×1 convolution and coupling at several scales, by likelihood
    notes       six couplings at one resolution with the sizes of the study notes, by likelihood
    i-cfm       flow matching, ends paired at random
    ot-cfm      flow matching, ends paired by optimal transport inside each class
    vp          diffusion, noise prediction

All are told the class. Those with a network over time have the same one, `unet-tiny`, trained in bfloat16; the
couplings are trained in float32. The loss of a budget is that of its number of steps, which is planned from timed steps
by the processor's clock, cosine to zero at the last one.

Figures on held-out pictures that no training saw: bits per dimension under uniform dequantisation, one draw of the
noise for each picture (K = 1), the same pictures and noise for every method; distances of features of a small
classifier of the training labels, which is the same for all methods of a set; processor seconds of training and of
sampling. Sampling takes the row's default solver, which is named.

Run ``python -m benchmarks.images``; what is finished is not run again. It needs ``ADVECT_DATA``.
"""

import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advect.data import Split, some_rows, take_rows
from advect.errors import DataError
from advect.evaluation import bits_per_dimension
from advect.files import make_folder
from advect.records import Table
from advect.report import picture_grid
from advect.run import Artefact, MemorySink, RunFolder, read_checkpoint, read_config, values, write_tensors
from advect.solvers import HutchinsonDivergence, make_solver
from advect.training import generator_for
from advect.workflows.again import find_data
from advect.workflows.fit import train
from advect.workflows.generate import SolverChoice, generate
from advect.workflows.open import open_run
from advect.workflows.picture_features import PictureFeatures, kept_features, trained_features
from advect.workflows.picture_figures import picture_figures
from advect.workflows.prepare import Prepared, prepare
from advect.workflows.request import TrainRequest
from advect.workflows.score import score
from advect.workflows.shown_motion import pixel_bounds
from advect.workflows.trainer import make_trainer, with_steps
from benchmarks.cells import answer, command_line
from benchmarks.images_plan import (
    BUDGET,
    COMMAND,
    GUIDANCE,
    METHODS,
    PROBES,
    RESULTS,
    SETS,
    guided_name,
    label_of,
    plan,
    run_cell_of,
)
from benchmarks.images_table import write_table

RUN, FEATURES, GRIDS = "ADVECT_RUN", "ADVECT_FEATURES", "ADVECT_GRIDS"  # name folders to the processes that measure


def run_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One cell: train for a budget of processor time, then measure."""
    torch.set_num_threads(1)
    request = TrainRequest(
        data=data_path(settings["file"]),
        method=settings["method"],
        condition=(settings["label"],),
        network=settings["network"],
        batch_size=settings["batch_size"],
        steps=1000,
        seed=settings["seed"],
        options=settings.get("options", {}),
        training={"precision": settings["precision"], "probe_share": 0.0, **settings.get("training", {})},
    )
    prepared = prepare(request)
    steps = steps_within(prepared, settings["budget"])
    started = time.process_time()
    result = train(TrainRequest(**{**vars(request), "steps": steps}), evaluate=False)
    seconds = time.process_time() - started
    assert result.artefact is not None
    held_out, reference = (take_rows(prepared.table, part) for part in (prepared.split.test, prepared.split.train))
    features = features_of(prepared.table, prepared.split, settings)
    figures = measured(result.artefact, held_out, reference, features, settings)
    if settings["drawn"] and GRIDS in os.environ:
        draw_samples(result.artefact, Path(os.environ[GRIDS]) / f"{settings['set']}-{label_of(settings)}.png")
    return {"steps": result.step, "training_cpu_seconds": seconds, **figures}


def data_path(name: str) -> str:
    """A file below ``ADVECT_DATA``.

    Raises:
        DataError: The variable is not set.
    """
    root = os.environ.get("ADVECT_DATA")
    if root is None:
        raise DataError("ADVECT_DATA is not set", where=name, remedy="Name the folder of the larger data sets in it.")
    return str(Path(root) / name)


def features_of(table: Table, split: Split, settings: Mapping[str, Any]) -> PictureFeatures:
    """The features of a set; made once, where ``ADVECT_FEATURES`` says where to keep them."""
    kept = None if FEATURES not in os.environ else Path(os.environ[FEATURES]) / f"{settings['set']}.safetensors"
    if kept is not None and kept.exists():
        return kept_features(kept, table.event_shape)
    found = trained_features(table, split, settings["label"], seed=settings["seed"])
    if kept is not None:
        make_folder(kept.parent)
        write_tensors(kept, found.tensors, found.card)
    return found


def steps_within(prepared: Prepared, budget: float) -> int:
    """Steps that fit into so many seconds of the processor, from timed ones."""
    trainer = make_trainer(with_steps(prepared, 10**6), MemorySink())
    trainer.time_steps(2)
    number, started = 10, time.process_time()
    trainer.time_steps(number)
    each = (time.process_time() - started) / (number + 1)  # one more warms up
    return max(10, int(budget / each))


def measured(
    artefact: Artefact, held_out: Table, reference: Table, features: PictureFeatures, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Figures of a model: samples, their time, features, bits per dimension."""
    count, seed = settings["samples"], settings["seed"]
    shown = some_rows(held_out, 2 * count, generator_for(seed, 1))
    asked = take_rows(shown, np.arange(min(count, shown.num_rows)))
    started = time.process_time()
    drawn = generate(
        artefact,
        asked.num_rows,
        condition=asked,
        choice=SolverChoice(guidance=settings.get("guidance", 0.0)),
        seed=seed + 1,
    )
    seconds = time.process_time() - started
    samples = take_rows(drawn.table, np.flatnonzero(drawn.usable))
    metrics, facts = picture_figures(samples, shown, reference, features, seed=seed)
    sampling = artefact.config.get("sampling", {})
    figures = {
        "network_evaluations": drawn.nfe,
        "solver": sampling.get("solver") or "layers",
        "sampling_cpu_seconds": seconds,
        "failed_samples": drawn.failed,
        "metrics": metrics,
        "features": facts,
    }
    if settings["scored"]:
        figures["bits"] = bits(artefact, held_out, settings)
    if settings.get("also_scored"):  # couplings are scored in one pass: the mean of many costs nothing
        many = bits(artefact, held_out, {**settings, "scored": settings["also_scored"]})
        figures["bits_of_many"] = {name: value for name, value in many.items() if name != "each"}
    return figures


def bits(artefact: Artefact, held_out: Table, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Bits per dimension of a few held-out pictures, the same for every method."""
    seed = settings["seed"]
    rows = some_rows(held_out, settings["scored"], generator_for(seed, 2))
    flow = artefact.flow
    if flow.ode is not None:
        solver = make_solver("dopri5", tolerance=settings["tolerance"])
        flow = flow.with_options(likelihood_solver=solver, divergence=HutchinsonDivergence(PROBES))
    started = time.process_time()
    scored = score(Artefact(**{**vars(artefact), "flow": flow}), rows, importance_samples=1, seed=seed)
    found = bits_per_dimension(scored.estimate.value, math.prod(artefact.schema.event_shape))
    return {
        "mean": float(found.mean()),
        "error": float(found.std()) / math.sqrt(len(found)),
        "rows": len(found),
        "each": [round(float(value), 4) for value in found],
        "cpu_seconds": time.process_time() - started,
    }


def measure_run(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A cell whose training was a run of the command: the same figures, with guidance and without."""
    torch.set_num_threads(1)
    artefact = artefact_of(Path(os.environ[RUN]))
    table, split = find_data(artefact)
    held_out, reference = take_rows(table, split.test), take_rows(table, split.train)
    features = features_of(table, split, settings)
    plain = measured(artefact, held_out, reference, features, settings)
    guided = measured(artefact, held_out, reference, features, {**settings, "guidance": GUIDANCE, "scored": 0})
    outcome = artefact.config["outcome"]
    done = {"steps": outcome["step"], "planned_steps": artefact.config["training"]["steps"]}
    return {**done, "training_seconds": outcome["seconds"], **plain, "guided": guided}


def artefact_of(run: Path) -> Artefact:
    """The model of a run; of one that is still training, the best averaged weights of its last checkpoint."""
    folder = RunFolder(run)
    if folder.state == "finished":
        return open_run(folder)
    config = read_config(folder)
    request = TrainRequest(
        data=config["data"]["path"],
        method=config["method"],
        condition=tuple(config["data"]["condition"]),
        network=config["model"]["network"],
        steps=config["training"]["steps"],
        batch_size=config["training"]["batch_size"],
        seed=config["seed"],
        training={"precision": config["training"]["precision"]},
    )
    prepared = prepare(request)
    checkpoint = read_checkpoint(folder)
    assert checkpoint is not None
    state = make_trainer(prepared, MemorySink()).state
    state.load(*checkpoint)
    state.use_best()
    outcome = {"outcome": {"step": state.best_step, "seconds": state.seconds}}
    flow = prepared.flow.eval()
    return Artefact(flow, prepared.schema, prepared.codec, prepared.condition, values(prepared.sections) | outcome)


def draw_samples(artefact: Artefact, path: Path) -> Path:
    """Sixteen samples, the first that were drawn, four a row."""
    assert artefact.condition is not None
    drawn = generate(artefact, 16, choice=SolverChoice(), seed=0).table
    pictures = np.stack(drawn.columns, 1).reshape(-1, *artefact.schema.event_shape)
    return picture_grid(pictures, path, columns=4, bounds=pixel_bounds(artefact.schema), limit=len(pictures))


def draw_grid(run: Path, path: Path, *, guidance: float) -> Path:
    """Ten samples of each class, a class a row; none is chosen."""
    artefact = artefact_of(run)
    assert artefact.condition is not None
    names = [str(name) for name in artefact.condition.columns[0].categories]
    tables = [
        generate(artefact, 10, condition=name, choice=SolverChoice(guidance=guidance), seed=seed)
        for seed, name in enumerate(names)
    ]
    pictures = np.concatenate([np.stack(one.table.columns, 1) for one in tables])
    shape = artefact.schema.event_shape
    shown = pictures.reshape(-1, *shape)
    return picture_grid(shown, path, columns=10, bounds=pixel_bounds(artefact.schema), limit=len(shown))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a cell failed, 2 where the request is refused."""
    parser = command_line(COMMAND, __doc__, RESULTS)
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=tuple(METHODS))
    parser.add_argument("--budget", type=float, default=BUDGET, help="processor seconds of training")
    parser.add_argument("--run", type=Path, help="measure a run of the command on the (first) set instead")
    given = parser.parse_args(arguments)
    os.environ.setdefault(FEATURES, str((given.out / "features").resolve()))
    os.environ.setdefault(GRIDS, str(given.out.resolve()))
    if given.run is None:
        return answer(given, plan(given.sets, given.methods, given.budget), write_table)
    data = given.sets[0]
    os.environ[RUN] = str(given.run)
    if not given.table:
        draw_grid(given.run, given.out / guided_name(data), guidance=GUIDANCE)
    return answer(given, [run_cell_of(data, given.run.name)], write_table)


if __name__ == "__main__":
    sys.exit(main())
