"""The part of a score's error that its standard error does not hold: that of the solver, by a second solve.

Rows are scored again with a tenth of the tolerance (twice the steps), the same draws and the same probes. The noise
of both is then the same and leaves their difference, which is the error of the first solve up to that of the second,
ten times smaller. A tolerance bounds the error of a step and not of the result, so this is the only way to know.
"""

from dataclasses import replace

import torch
from torch import Tensor

from advect.flows.step_error import finer
from advect.records import Status, Table
from advect.run import Artefact
from advect.solvers import make_solver
from advect.workflows.score import Scored, score

DOUBTFUL = 0.1  # nats: a likelihood ratio of 1.1
SCATTERED = 0.5  # nats: a standard error by which K draws do not tell a probability within a factor of about 1.6


def at_tolerance(artefact: Artefact, tolerance: float) -> Artefact:
    """The same model with its likelihoods solved adaptively at another tolerance.

    Raises:
        UnsupportedError: A model without an ODE, whose likelihood no solver computes.
        ConfigError: A tolerance that is not positive.
    """
    name = artefact.config.get("likelihood", {}).get("solver", "dopri5")
    solver = make_solver(name, tolerance=tolerance)
    return replace(artefact, flow=artefact.flow.with_options(likelihood_solver=solver))


def solver_error(artefact: Artefact, table: Table, scored: Scored, *, seed: int = 0) -> Tensor:
    """|first − second solve| ``(rows,)`` in nats: 0 for models without an ODE, NaN where either solve failed.

    Args:
        artefact: The model.
        table: The rows that were scored.
        scored: Their scores.
        seed: The seed of those scores.
    """
    ode = getattr(artefact.flow, "ode", None)
    if ode is None:
        return torch.where(scored.estimate.value.isnan(), torch.nan, 0.0).double()
    again = artefact.flow.with_options(likelihood_solver=finer(ode.likelihood_solver))
    draws = scored.importance_samples
    second = score(replace(artefact, flow=again), table, importance_samples=draws, seed=seed).estimate.value
    first = scored.estimate.value
    # A row that cannot occur has log-probability −∞ in both: no error.
    return torch.where(first == second, 0.0, (first - second).abs()).double()


def with_solver_error(scores: Table, errors: Tensor) -> Table:
    """The table of scores with a column ``solver_error`` behind the standard error."""
    place = scores.names.index("standard_error") + 1

    def joined(values: tuple, new: object) -> tuple:
        return (*values[:place], new, *values[place:])

    return replace(
        scores,
        names=joined(scores.names, "solver_error"),
        columns=joined(tuple(scores.columns), errors.numpy()),
        dtypes=joined(scores.dtypes, "float64"),
        event_shape=(len(scores.names) + 1,),
    )


def doubts(scored: Scored, errors: Tensor | None = None) -> list[str]:
    """Why some of the scores should not be trusted, one sentence per reason; empty where nothing speaks against them.

    Args:
        scored: The scores.
        errors: From `solver_error`, where it was asked for.
    """
    found = []
    status = scored.estimate.status
    failed = int((status >= int(Status.NAN_FIELD)).sum())
    if failed:
        found.append(
            f"{failed} rows have no value: the solver failed on them, and a mean over the others leaves them out"
        )
    scattered = int((scored.estimate.standard_error > SCATTERED).sum())
    if scattered:
        found.append(
            f"{scattered} rows have a standard error above {SCATTERED} nats: raise --importance-samples "
            f"(now {scored.importance_samples}), or take such rows for unusual"
        )
    if errors is None:
        return found
    doubtful, unknown = int((errors > DOUBTFUL).sum()), int(errors.isnan().sum()) - failed
    if doubtful:
        found.append(
            f"{doubtful} rows have a solver error above {DOUBTFUL} nats, up to {float(errors.nan_to_num().max()):.2g}: "
            "the field is too rough there for the tolerance; give a smaller --tol"
        )
    if unknown > 0:
        found.append(f"on {unknown} rows the finer solve failed, so their solver error is not known")
    return found
