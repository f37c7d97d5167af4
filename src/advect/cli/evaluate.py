"""``advect evaluate``."""

from typing import Annotated

from cyclopts import Parameter

from advect.cli.codes import DONE
from advect.cli.console import show, show_json, show_pairs
from advect.cli.options import Json, Run, Seed


def evaluate(
    run: Run,
    data: Annotated[str | None, Parameter(help="Held-out rows; by default the run's own test split.")] = None,
    /,
    *,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Held-out log-likelihood and two-sample metrics, each with its noise floor."""
    from advect.training import joined
    from advect.workflows.again import evaluate_run
    from advect.workflows.evaluate import figures

    with joined() as workers:
        evaluation = evaluate_run(run, data, seed=seed, workers=workers)
    if not workers.leads:
        return DONE
    if json:
        show_json(evaluation)
        return DONE
    show(f"{evaluation['held_out_rows']} held-out rows. Floor: real rows against real rows, the best there is.")
    show_pairs(figures(evaluation))
    return DONE
