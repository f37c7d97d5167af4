"""Figures and reports for a run that exists: its data is found again and checked against what it was trained on.

No lock is taken: what is written here appears whole or not at all, and a process that is busy with the run keeps nobody
from looking at it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from advect.data import Split, check_table, read_like, read_table, split_rows
from advect.errors import AdvectError, DataError
from advect.files import check_writable
from advect.records import Table
from advect.run import EVALUATION, REPORT, Artefact, RunFolder
from advect.training import ALONE, Workers
from advect.workflows.evaluate import evaluate_rows, evaluate_table
from advect.workflows.open import open_run
from advect.workflows.origin import fingerprint
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


def evaluate_run(path: Path, data: Any = None, *, seed: int = 0, workers: Workers = ALONE) -> dict[str, Any]:
    """Figures of a run on its own held-out rows (kept in ``evaluation.json``) or on given ones.

    Given rows are compared with themselves as the reference for floor and Gaussian fit when the run's own training
    rows cannot be found. Of several processes each gets all figures, and the first one keeps them.

    Raises:
        AdvectError: No finished run, or rows that do not fit.
    """
    folder = RunFolder(path)
    artefact = share_out(open_run(folder), workers)
    if data is None:
        check_writable(folder.file(EVALUATION))
        table, split = find_data(artefact)
        evaluation = evaluate_rows(artefact, table, split, seed=seed)
        if workers.leads:
            folder.write_json(EVALUATION, evaluation)
        return evaluation
    rows = read_like(data, artefact.schema, min_rows=2)
    try:
        table, split = find_data(artefact)
    except DataError:
        return evaluate_table(artefact, rows, rows, seed=seed) | {"reference": "the given rows themselves"}
    from advect.data import take_rows

    return evaluate_table(artefact, rows, take_rows(table, split.train), seed=seed)


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
