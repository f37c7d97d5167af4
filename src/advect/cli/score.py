"""``advect score``."""

from typing import Annotated

from cyclopts import Parameter

from advect.cli.codes import DONE
from advect.cli.console import columns_json, say, show_json, show_rows
from advect.cli.options import Count, Json, Out, Positive, Run, Seed, flag


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
    tol: Annotated[
        float | None, Parameter(help="Tolerance of the solve; by default that of the run."), Positive
    ] = None,
    check_solver: Annotated[
        bool, Parameter(name="--solver-error"), flag("Solve twice, and tell what the solver adds to the error.")
    ] = False,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Log-probability of each row in nats, in the units of the data, with its standard error."""
    from advect.data import read_like, write_table
    from advect.training import joined
    from advect.workflows.held_out import summary
    from advect.workflows.open import open_run
    from advect.workflows.report import check_destination
    from advect.workflows.score import score as run_score
    from advect.workflows.score import score_table
    from advect.workflows.shared import share_out
    from advect.workflows.solver_error import at_tolerance, doubts, solver_error, with_solver_error

    if out is not None:
        check_destination(out, pictures=False)
    with joined() as workers:
        artefact = share_out(open_run(run), workers)
        rows = read_like(data, artefact.schema)
        if tol is not None:
            artefact = at_tolerance(artefact, tol)
        scored = run_score(artefact, rows, importance_samples=samples, seed=seed)
        errors = solver_error(artefact, rows, scored, seed=seed) if check_solver else None
    if not workers.leads:
        return DONE
    table = score_table(scored) if errors is None else with_solver_error(score_table(scored), errors)
    if out is not None:
        write_table(table, out)
    figures = summary(scored) | {"doubts": doubts(scored, errors)}
    if errors is not None:
        figures |= {"solver_error": float(errors.nanmean()), "largest_solver_error": float(errors.nan_to_num().max())}
    words = f"mean {figures['mean']:.4f} ± {figures['standard_error']:.4f} nats per row over {figures['rows']} rows"
    if scored.bound:
        words += f" (K = {scored.importance_samples} draws per row)"
    if "elbo" in figures:
        words += f", a lower bound; with one draw (ELBO) {figures['elbo']:.4f}"
    for name, what in (("failed_rows", "failed"), ("impossible_rows", "cannot occur"), ("imputed_rows", "have gaps")):
        if figures[name]:
            words += f"; {figures[name]} {what}"
    if errors is not None:
        words += (
            f"; solver error {figures['solver_error']:.1g} on average, at most {figures['largest_solver_error']:.1g}"
        )
    say(words + (f": {out}" if out else ""))
    for doubt in figures["doubts"]:
        say(f"Not to be trusted: {doubt}.")
    if json:
        show_json(figures | ({"columns": columns_json(table)} if out is None else {"out": out}))
    elif out is None:
        show_rows(table)
    return DONE
