"""``advect transport``."""

from typing import Annotated

from cyclopts import Parameter

from advect.cli.codes import DONE
from advect.cli.console import columns_json, say, show_json, show_rows
from advect.cli.options import Json, Out, Run, Seed


def transport(
    run: Run,
    data: Annotated[str, Parameter(help="Rows to move: a file or a built-in name.")],
    /,
    *,
    start: Annotated[
        str | None,
        Parameter(name="--from", help="Time the rows are of; by default their own column of times tells it."),
    ] = None,
    to: Annotated[
        str | None,
        Parameter(
            help="source (data to noise or source rows), target (the other way), or a time of a run that has some, "
            "earlier or later; by default source, or the last time."
        ),
    ] = None,
    out: Out = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Move rows along the flow: from data to its source, from source to data, or between times."""
    from advect.data import read_like, write_table
    from advect.workflows.between import goal, move
    from advect.workflows.open import open_run
    from advect.workflows.report import check_destination

    if out is not None:
        check_destination(out, pictures=False)
    artefact = open_run(run)
    moved = move(artefact, read_like(data, artefact.schema), start=start, to=to, seed=seed)
    to = goal(artefact, to)
    if out is not None:
        write_table(moved.table, out)
    rows, failed = moved.table.num_rows, int((moved.status >= 3).sum())
    words = f"{rows} rows to {to}, {moved.nfe:.0f} network evaluations each"
    say(words + (f"; {failed} failed and have no value" if failed else "") + (f": {out}" if out else ""))
    if json:
        facts = {"rows": rows, "nfe": moved.nfe, "failed_rows": failed, "to": to}
        show_json(facts | ({"columns": columns_json(moved.table)} if out is None else {"out": out}))
    elif out is None:
        show_rows(moved.table)
    return DONE
