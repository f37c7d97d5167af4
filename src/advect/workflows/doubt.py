"""When a log-likelihood says less than it seems to: it is then said beside the figure."""

from collections.abc import Mapping, Sequence
from typing import Any

_ERRORS, _NATS_PER_COLUMN = 5.0, 0.5  # below the Gaussian fit by this much: more than noise, and more than unfinished


def doubt(facts: Mapping[str, Any], unbounded: Sequence[str], *, rows: int, columns: int) -> str | None:
    """What a reader should know about a mean log-likelihood, or None.

    Args:
        facts: As `held_out.summary` gives them.
        unbounded: Reasons of `unbounded_likelihood`.
        rows: Training rows.
        columns: Coordinates of the model.
    """
    mean, gaussian = facts.get("mean"), facts.get("gaussian")
    if mean is None:
        return None
    if unbounded:
        more = f"; {len(unbounded) - 1} more like this" if len(unbounded) > 1 else ""
        return f"not a measure of the model: it grows without bound on these rows ({unbounded[0]}{more})"
    if rows <= columns:
        return f"not a measure of the model: {rows} training rows in {columns} coordinates have no density of their own"
    error = facts.get("standard_error") or 0.0
    if gaussian is not None and mean < gaussian - max(_ERRORS * error, _NATS_PER_COLUMN * columns):
        return "far below the Gaussian fit: train longer, or with a lower learning rate (--set learning_rate=…)"
    return None
