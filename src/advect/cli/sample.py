"""``advect sample``."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from advect.cli.console import duration, say, show_json, show_table
from advect.cli.options import Condition, Json, Rows, Run, Seed

SHOWN = 10


def sample(
    run: Run,
    *,
    rows: Rows = 1000,
    condition: Condition = None,
    guidance: Annotated[float, Parameter(help="Weight w of classifier-free guidance; 0 is none.")] = 0.0,
    solver: Annotated[str | None, Parameter(help="euler, midpoint, heun, rk4, adams3, bosh3, dopri5 or tsit5.")] = None,
    steps: Annotated[int | None, Parameter(help="Steps of a fixed-step solver.")] = None,
    tol: Annotated[float | None, Parameter(help="Tolerance of an adaptive solver.")] = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None, Parameter(help="File by its ending: csv, tsv, parquet, npy, npz, or png for pictures.")
    ] = None,
    json: Json = False,
) -> int:
    """Draw new rows from a run, as the same kind of table."""
    from advect.workflows.generate import SolverChoice, generate
    from advect.workflows.open import open_run
    from advect.workflows.report import check_destination, write_samples

    if out is not None:
        check_destination(out)
    artefact = open_run(run)
    choice = SolverChoice(solver, steps, tol, guidance)
    drawn = generate(artefact, rows, condition=condition, choice=choice, seed=seed)
    if out is not None:
        write_samples(drawn.table, out, artefact.schema)
    note = f"{rows} rows, {drawn.nfe:.0f} network evaluations each, {duration(drawn.seconds)}"
    if drawn.failed:
        note += f"; {drawn.failed} rows have no value: the solver failed on them"
    say(note + (f": {out}" if out else ""))
    if json:
        show_json(
            {
                "rows": rows,
                "nfe": drawn.nfe,
                "seconds": drawn.seconds,
                "failed_rows": drawn.failed,
                "out": out,
                "seed": seed,
            }
        )
    elif out is None:
        table = drawn.table
        lines = [[_cell(column[i]) for column in table.columns] for i in range(min(rows, SHOWN))]
        show_table("", table.names, lines)
        if rows > SHOWN:
            say(f"The first {SHOWN} of {rows} rows; --out FILE writes them all.")
    return 0


def _cell(value: object) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
