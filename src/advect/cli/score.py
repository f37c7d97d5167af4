"""``advect score``."""

from typing import Annotated

from cyclopts import Parameter

from advect.cli.codes import DONE
from advect.cli.console import columns_json, say, show_json, show_rows
from advect.cli.options import Count, Json, Out, Run, Seed


def score(
    run: Run,
    data: Annotated[str, Parameter(help="Rows to score: a file or a built-in name.")],
    /,
    *,
    out: Out = None,
    samples: Annotated[
        int | None,
        Parameter(name="--importance-samples", help="Draws per row for discrete columns, gaps and codes."),
        Count,
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Log-probability of each row in nats, in the units of the data, with its standard error."""
    from advect.data import read_table, write_table
    from advect.workflows.held_out import summary
    from advect.workflows.open import open_run
    from advect.workflows.report import check_destination
    from advect.workflows.score import score as run_score
    from advect.workflows.score import score_table

    if out is not None:
        check_destination(out, pictures=False)
    scored = run_score(open_run(run), read_table(data, min_rows=1), importance_samples=samples, seed=seed)
    table = score_table(scored)
    if out is not None:
        write_table(table, out)
    figures = summary(scored)
    words = f"mean {figures['mean']:.4f} ± {figures['standard_error']:.4f} nats per row over {figures['rows']} rows"
    if scored.bound:
        words += f" (K = {scored.importance_samples} draws per row)"
    if "elbo" in figures:
        words += f", a lower bound; with one draw (ELBO) {figures['elbo']:.4f}"
    for name, what in (("failed_rows", "failed"), ("impossible_rows", "cannot occur"), ("imputed_rows", "have gaps")):
        if figures[name]:
            words += f"; {figures[name]} {what}"
    say(words + (f": {out}" if out else ""))
    if json:
        show_json(figures | ({"columns": columns_json(table)} if out is None else {"out": out}))
    elif out is None:
        show_rows(table)
    return DONE
