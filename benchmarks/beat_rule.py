"""When a row of a table in the plane beats OT-CFM.

Its mean NPE, or W2, must lie below OT-CFM's mean by two standard errors of that mean, and by more than the metric's own
noise. Of NPE, which compares a path energy with W2² between a source and a test set, that is the standard deviation of
W2² over fresh draws divided by W2²; of W2 the standard deviation over fresh draws of the distance between two test
sets, its floor. Both are taken over the seeds of the task, each of which draws its own sets.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
WHOLE = 5  # seeds of a whole row
METRICS = ("npe", "w2")


def noise_of(records: Iterable[Record], metric: str) -> float | None:
    """The noise of a metric over the seeds of one task; None before a second seed has told it."""
    name = "w2_squared_source_test" if metric == "npe" else "w2_floor"
    by_seed = {record["seed"]: record["figures"][name] for record in records if name in record["figures"]}
    if len(by_seed) < 2:
        return None
    spread = statistics.stdev(by_seed.values())
    return spread / statistics.fmean(by_seed.values()) if metric == "npe" else spread


def standard_error(values: Sequence[float]) -> float:
    """Of their mean."""
    return statistics.stdev(values) / math.sqrt(len(values))


def verdict(own: Sequence[float], batch: Sequence[float], noise: float | None) -> str:
    """What the rule says of a row.

    Args:
        own: The metric of its seeds.
        batch: Of OT-CFM's.
        noise: Of the metric.
    """
    if len(batch) < 2:
        return f"cannot decide: OT-CFM has {len(batch)} of {WHOLE} seeds"
    if noise is None:
        return "cannot decide: the noise is not known before a second seed"
    mean, error = statistics.fmean(batch), 2 * standard_error(batch)
    gain = mean - statistics.fmean(own)
    so_far = "" if len(own) >= WHOLE and len(batch) >= WHOLE else f", with {len(own)} of {WHOLE} seeds so far"
    terms = f"2 SE {error:.3f}, noise {noise:.3f}"
    if gain > max(error, noise):
        return f"beats: lower by {gain:.3f} ({terms}){so_far}"
    if gain < -noise:
        return f"no: higher by {-gain:.3f} ({terms}){so_far}"
    if mean <= noise:
        return f"cannot decide: OT-CFM's own {mean:.3f} is within the noise ({terms}){so_far}"
    if abs(gain) <= noise:
        return f"cannot decide: {-gain:+.3f} is within the noise ({terms}){so_far}"
    return f"no: lower by {gain:.3f} only ({terms}){so_far}"


def told_by_task(
    task: str, rows: Mapping[str, Sequence[Record]], orders: Sequence[str], *, batch: str = "batch"
) -> list[str]:
    """The rule on a whole task: how much of it there is, and the best of the other rows by each metric.

    Args:
        task: Its name.
        rows: Records by pairing.
        orders: The pairings that a whole table has.
        batch: The pairing that is to be beaten.
    """
    held = sum(min(len(rows.get(name, ())), WHOLE) for name in orders)
    full = sum(len(rows.get(name, ())) >= WHOLE for name in orders)
    lines = [f"- **{task}**: {held} of {WHOLE * len(orders)} cells, {full} of {len(orders)} rows whole."]
    every = [record for row in rows.values() for record in row]
    base = rows.get(batch, ())
    for metric, word in zip(METRICS, ("NPE", "W2"), strict=True):
        means = {
            name: statistics.fmean(record["figures"][metric] for record in row)
            for name, row in rows.items()
            if name != batch and row
        }
        if not means:
            lines.append(f"  - {word}: no other row yet.")
            continue
        best = min(means, key=lambda name: means[name])
        own, values = ([record["figures"][metric] for record in row] for row in (rows[best], base))
        noise = noise_of(every, metric)
        floor = ""
        if metric == "w2":
            floor = f", floor {statistics.fmean(record['figures']['w2_floor'] for record in every):.3f}"
        lines.append(f"  - {word}: lowest is `{best}` ({means[best]:.3f}{floor}); {verdict(own, values, noise)}.")
    return lines
