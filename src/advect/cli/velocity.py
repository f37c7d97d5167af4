"""``advect velocity``."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from advect.cli.codes import DONE
from advect.cli.console import columns_json, say, show_json, show_rows
from advect.cli.options import Json, Out, Run, Seed


def velocity(
    run: Run,
    data: Annotated[str, Parameter(help="Rows: a file or a built-in name.")],
    /,
    *,
    at: Annotated[
        str | None, Parameter(help="Time the rows are of; by default their own column of times tells it.")
    ] = None,
    genes: Annotated[
        bool, Parameter(help="Of cells also the velocity of the genes, through the loadings of the components.")
    ] = True,
    out: Out = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Velocity of rows at their time, in the units of the data per unit of its times.

    From .h5ad to .h5ad the cells are copied, with obsm['velocity_pca'] and layers['velocity'] beside what they had,
    and obs['growth_rate'] where the plan makes and loses mass (plan=unbalanced).
    """
    from advect.data import read_like, write_table
    from advect.data.read import split_key
    from advect.workflows.open import open_run
    from advect.workflows.report import check_destination
    from advect.workflows.velocity import annotate_file, velocities

    artefact = open_run(run)
    if out is not None:
        check_destination(out, pictures=False)
    source = Path(split_key(data)[0])
    if out is not None and source.suffix.lower() == out.suffix.lower() == ".h5ad":
        added = annotate_file(artefact, source, out, at=at, genes=genes)
        say(f"{', '.join(added)}: {out}")
        if json:
            show_json({"added": added, "out": out})
        return DONE
    found = velocities(artefact, read_like(data, artefact.schema), at=at, seed=seed)
    table = found.table()
    say(f"{table.num_rows} rows, per unit of {found.unit}" + (f": {out}" if out else ""))
    if out is not None:
        write_table(table, out)
    if json:
        facts = {"rows": table.num_rows, "unit": found.unit}
        show_json(facts | ({"columns": columns_json(table)} if out is None else {"out": out}))
    elif out is None:
        show_rows(table)
    return DONE
