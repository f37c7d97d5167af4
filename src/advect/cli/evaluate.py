"""``advect evaluate``."""

import time
from typing import Annotated

from cyclopts import Parameter

from advect.cli.codes import DONE
from advect.cli.console import show, show_json, show_pairs
from advect.cli.options import Json, Run, Seed, seconds


def evaluate(
    run: Run,
    data: Annotated[str | None, Parameter(help="Held-out rows; by default the run's own test split.")] = None,
    /,
    *,
    features: Annotated[
        tuple[str, ...],
        Parameter(
            help="Features in which pictures are compared: MODULE:CALLABLE, the features.safetensors of a run, or "
            "twice a .npy of features (samples, then held-out pictures). By default those of a small classifier of the "
            "run's labels, which is trained and kept in the run folder, or of a random network.",
            negative="",
            show_default=False,
        ),
    ] = (),
    budget: Annotated[
        str | None, Parameter(help="Time to be done in, such as 90s or 5m: fewer rows are drawn and scored.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Held-out log-likelihood and two-sample metrics, each with its noise floor."""
    from advect.training import joined
    from advect.workflows.again import evaluate_run
    from advect.workflows.evaluate import figures

    deadline = None if budget is None else time.monotonic() + seconds(budget)
    with joined() as workers:
        evaluation = evaluate_run(run, data, seed=seed, features=features, deadline=deadline, workers=workers)
    if not workers.leads:
        return DONE
    if json:
        show_json(evaluation)
        return DONE
    show(f"{evaluation['held_out_rows']} held-out rows. Floor: real rows against real rows, the best there is.")
    show_pairs(figures(evaluation))
    return DONE
