"""What became of each row, in sentences: where it stopped, why, and what to do."""

from collections import Counter
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from advect.errors import SolverError
from advect.records import Solution, Status

REASONS: dict[Status, tuple[str, str]] = {
    Status.IMPUTED: ("a missing value was filled in", "read its result with the indicator in mind"),
    Status.OUTSIDE_SUPPORT: (
        "it lies outside the support of the model",
        "check the bounds of its columns against the training data",
    ),
    Status.NAN_FIELD: (
        "the field is NaN at a finite point",
        "look for a division, logarithm or root outside its domain there, or a network whose weights have diverged",
    ),
    Status.BLOW_UP: (
        "the state or its velocity grows without bound",
        "check the direction of time and the scale of the rows; with fixed steps take more of them",
    ),
    Status.STIFF: (
        "the field is stiff: it is finite, but stability rather than accuracy forces ever smaller steps",
        "train the field with weight decay or smooth activations, loosen the tolerance, or stop short of that time",
    ),
    Status.STEP_LIMIT: (
        "the allowed number of steps was used up",
        "raise max_steps or loosen the tolerance",
    ),
    Status.NOT_CONVERGED: (
        "the numeric inverse did not converge",
        "allow more iterations, or check that the map is invertible there",
    ),
}


@runtime_checkable
class WithStatus(Protocol):
    """Anything with a status per row: a solution, a mapped batch, an estimate."""

    @property
    def status(self) -> Tensor:
        """``(batch,)`` int8, see `Status`."""
        ...


def status_counts(result: WithStatus) -> dict[Status, int]:
    """How many rows have each status, `OK` first; statuses that do not occur are left out."""
    found = Counter(result.status.tolist())
    return {status: found[int(status)] for status in Status if found[int(status)]}


def describe(result: WithStatus, *, limit: int = 3) -> list[str]:
    """One sentence for each of the first ``limit`` failed rows, and one that counts the others.

    A row's sentence reads ``row 3 stopped at t = 0.41: reason; remedy``. Empty where nothing failed.
    """
    failed = (result.status >= int(Status.NAN_FIELD)).nonzero().flatten().tolist()
    sentences = []
    for row in failed[:limit]:
        reason, remedy = REASONS[Status(int(result.status[row]))]
        sentences.append(f"row {row} {_stopped(result, row)}: {reason}; {remedy}")
    if len(failed) > limit:
        rest = Counter(Status(int(result.status[row])) for row in failed[limit:])
        kinds = ", ".join(f"{count} × {status.name}" for status, count in rest.items())
        more = len(failed) - limit
        sentences.append(f"and {more} more {'row' if more == 1 else 'rows'} of {len(result.status)} ({kinds})")
    return sentences


def _stopped(result: WithStatus, row: int) -> str:
    at = getattr(result, "failed_at", None)
    if at is None or not bool(torch.isfinite(at[row])):
        return "failed"
    return f"stopped at t = {float(at[row]):.4g}"


def raise_if_failed(result: Solution | WithStatus) -> None:
    """Raise where any row failed.

    Raises:
        SolverError: With the sentences of `describe`.
    """
    sentences = describe(result)
    if sentences:
        count = int((result.status >= int(Status.NAN_FIELD)).sum())
        raise SolverError(f"{count} of {len(result.status)} rows failed: {'. '.join(sentences)}", where="solver")
