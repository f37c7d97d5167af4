"""Figures and reports for a run that exists: its data is found again and checked against what it was trained on.

No lock is taken: what is written here appears whole or not at all, and a process that is busy with the run keeps nobody
from looking at it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from advect.data import Split, check_table, read_like, read_table, split_rows, take_rows
from advect.errors import AdvectError, ConfigError, DataError
from advect.files import check_writable
from advect.records import Schema, Table
from advect.run import EVALUATION, REPORT, Artefact, RunFolder
from advect.training import ALONE, Workers
from advect.workflows.evaluate import evaluate_rows, evaluate_table, finite
from advect.workflows.open import open_run
from advect.workflows.origin import fingerprint
from advect.workflows.picture_features import PictureFeatures, named_features, run_features
from advect.workflows.picture_figures import FEWEST, pair_figures
from advect.workflows.report import write_run_report
from advect.workflows.shared import share_out
from advect.workflows.snapshots import timed


def find_data(artefact: Artefact) -> tuple[Table, Split]:
    """The rows a run was trained on, and how they were split.

    Raises:
        DataError: They are not where they were, or have changed.
    """
    data = artefact.config["data"]
    seed = int(data.get("split_seed", artefact.config["seed"]))
    path = data.get("path")
    if path is not None and not Path(path).exists():
        raise DataError(
            "the data of this run is not there any more",
            where=path,
            remedy="Name held-out rows: advect evaluate RUN DATA.",
        )
    known = path if path is not None else data["origin"]
    try:
        table = read_table(known, key=data.get("key"))
    except AdvectError as error:
        if path is not None:
            raise
        raise DataError(
            f"the data of this run ({data['origin']}) was given from Python and is not stored",
            remedy="Name held-out rows: advect evaluate RUN DATA.",
        ) from error
    if fingerprint(known, table) != data["sha256"]:
        raise DataError(
            "the data has changed since this run was trained",
            where=str(known),
            remedy="Name held-out rows: advect evaluate RUN DATA, or train again with --restart.",
        )
    shares = {"seed": seed, "validation": data["validation"], "test": data["test"]}
    if "time_key" in data:
        found = timed(table, data["time_key"], data.get("leave_out", ()))
        return found.table, found.split(**shares)
    return table, split_rows(table.num_rows, **shares)


def evaluate_run(
    path: Path,
    data: Any = None,
    *,
    seed: int = 0,
    features: Sequence[str] = (),
    deadline: float | None = None,
    workers: Workers = ALONE,
) -> dict[str, Any]:
    """Figures of a run on its own held-out rows (kept in ``evaluation.json``) or on given ones.

    Given rows are compared with themselves as the reference for floor and Gaussian fit when the run's own training
    rows cannot be found. Of several processes each gets all figures, and the first one keeps them.

    Args:
        path: The run folder.
        data: Held-out rows; by default the run's own.
        seed: Of every draw.
        features: In which pictures are compared: ``MODULE:CALLABLE``, a file of kept features, or two ``.npy`` files
            with the features of samples and of held-out pictures. By default those that the run keeps, or is given.
        deadline: ``time.monotonic()`` by which to be done, as well as can be.
        workers: The processes that share the work.

    Raises:
        AdvectError: No finished run, or rows or features that do not fit.
    """
    folder = RunFolder(path)
    artefact = share_out(open_run(folder), workers)
    _check_features(features, artefact.schema)
    if deadline is not None and workers.count > 1:
        raise ConfigError(
            "how many rows there is time for is not the same in all processes",
            where="--budget",
            remedy="Leave it out, or evaluate in one process.",
        )
    how: dict[str, Any] = {"seed": seed, "deadline": deadline}
    keep = folder if workers.leads else None  # the others make the same features, and one file is enough
    if data is None:
        check_writable(folder.file(EVALUATION))
        table, split = find_data(artefact)
        pictured = _features_of(artefact, features, table, split, keep)
        evaluation = _with_pair(evaluate_rows(artefact, table, split, features=pictured, **how), features, seed)
        if workers.leads:
            folder.write_json(EVALUATION, evaluation)
        return evaluation
    rows = read_like(data, artefact.schema, min_rows=2)
    try:
        table, split = find_data(artefact)
    except DataError:
        named = next((name for name in features[:1] if len(features) == 1), None)
        pictured = None if named is None else named_features(named, artefact.schema.event_shape)
        evaluation = evaluate_table(artefact, rows, rows, features=pictured, **how)
        return _with_pair(evaluation, features, seed) | {"reference": "the given rows themselves"}
    pictured = _features_of(artefact, features, table, split, keep)
    return _with_pair(
        evaluate_table(artefact, rows, take_rows(table, split.train), features=pictured, **how), features, seed
    )


def _check_features(features: Sequence[str], schema: Schema) -> None:
    """One name, or two files of numbers, for pictures.

    Raises:
        ConfigError: Anything else.
    """
    if features and not schema.image:
        raise ConfigError("only pictures are compared by features", where="--features", remedy="Leave it out.")
    pair = len(features) == 2 and all(name.lower().endswith(".npy") for name in features)
    one = len(features) == 1 and not features[0].lower().endswith(".npy")
    if features and not (pair or one):
        raise ConfigError(
            f"{len(features)} values were given",
            where="--features",
            remedy="Give MODULE:CALLABLE, a features.safetensors of a run, or two .npy files: samples, held-out.",
        )


def _features_of(
    artefact: Artefact, features: Sequence[str], table: Table, split: Split, folder: RunFolder | None
) -> PictureFeatures | None:
    """The features of pictures; None for other rows, and where those of samples and real rows are given."""
    if not artefact.schema.image or len(features) == 2 or len(split.test) < 2 * FEWEST:
        return None
    if features:
        return named_features(features[0], artefact.schema.event_shape)
    return run_features(table, split, artefact.schema, seed=int(artefact.config["seed"]), folder=folder)


def _with_pair(evaluation: dict[str, Any], features: Sequence[str], seed: int) -> dict[str, Any]:
    """The figures, with those of two files of features where there are some."""
    if len(features) != 2:
        return evaluation
    metrics, facts = pair_figures(features[0], features[1], seed=seed)
    return evaluation | finite({"metrics": [*evaluation["metrics"], *metrics], "pictures": facts})


def report_run(path: Path) -> dict[str, Path]:
    """Write the page of a run anew, computing its figures if they are missing.

    Raises:
        AdvectError: No finished run, or its data cannot be found.
    """
    folder = RunFolder(path)
    artefact = open_run(folder)
    check_writable(folder.file(REPORT))
    table, split = find_data(artefact)
    if not artefact.evaluation:
        artefact = replace(artefact, evaluation=evaluate_run(path))
    findings = check_table(table, artefact.schema, split)
    return write_run_report(folder, artefact, table, split, findings)
