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
    to: Annotated[str, Parameter(help="source (data to noise or source rows) or target (the other way).")] = "source",
    out: Out = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Move rows along the flow: from data to its source, or from source to data."""
    from advect.data import read_table, write_table
    from advect.workflows.open import open_run
    from advect.workflows.report import check_destination
    from advect.workflows.transport import transport as run_transport

    if out is not None:
        check_destination(out, pictures=False)
    moved = run_transport(open_run(run), read_table(data, min_rows=1), to=to, seed=seed)
    if out is not None:
        write_table(moved.table, out)
    rows, failed = moved.table.num_rows, int((moved.status >= 3).sum())
    words = f"{rows} rows to the {to}, {moved.nfe:.0f} network evaluations each"
    say(words + (f"; {failed} failed and have no value" if failed else "") + (f": {out}" if out else ""))
    if json:
        facts = {"rows": rows, "nfe": moved.nfe, "failed_rows": failed, "to": to}
        show_json(facts | ({"columns": columns_json(moved.table)} if out is None else {"out": out}))
    elif out is None:
        show_rows(moved.table)
    return DONE
