"""What pairing the rows of a run cost, from the lines of its history."""

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise

from advect.report.pairing import PairingCost
from advect.run import Artefact
from advect.workflows.snapshots import timeline_of


def pairing_costs(artefact: Artefact) -> tuple[PairingCost, ...]:
    """Of each pair of times, or of the one pair of source and data; none where rows are not paired by cost."""
    lines = [line for line in artefact.history if line.get("coupling_mean_cost") is not None]
    intervals = sorted({int(line["coupling_interval"]) for line in lines if "coupling_interval" in line})
    if not intervals:
        found = _costs("", lines)
        return () if found is None else (found,)
    timeline = timeline_of(artefact)
    words = [] if timeline is None else [timeline.word(t) for t in timeline.times if t not in timeline.left_out]
    names = [f"{early} → {late}" for early, late in pairwise(words)]
    costs = (
        _costs(names[place] if place < len(names) else "", [x for x in lines if x.get("coupling_interval") == place])
        for place in intervals
    )
    return tuple(one for one in costs if one is not None)


def _costs(label: str, lines: Sequence[Mapping]) -> PairingCost | None:
    """Means over batches; they are rows of their own each time, so the spread between them is that of chance."""
    lines = [line for line in lines if line.get("coupling_independent_cost") is not None]
    if not lines:
        return None
    costs = [line["coupling_mean_cost"] for line in lines]
    return PairingCost(
        label,
        cost=statistics.fmean(costs),
        error=statistics.stdev(costs) / math.sqrt(len(costs)) if len(costs) > 1 else None,
        independent=statistics.fmean(line["coupling_independent_cost"] for line in lines),
        bound=_mean(lines, "coupling_lower_bound"),
        mass=_mean(lines, "coupling_mass") or _mean(lines, "coupling_paired"),
        batches=len(lines),
    )


def _mean(lines: Sequence[Mapping], name: str) -> float | None:
    values = [line[name] for line in lines if line.get(name) is not None]
    return statistics.fmean(values) if values else None
