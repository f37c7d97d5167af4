"""Figures of a run for each of its times: held-out rows, and whole times that were left out."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advect.data import Split, Timeline
from advect.data.timeline import timed_phrase
from advect.evaluation.snapshots import Distance, interpolated, snapshot_distances
from advect.flows import ContinuousMap
from advect.records import Table
from advect.run import Artefact
from advect.training import generator_for
from advect.workflows.held_out import flat_latent
from advect.workflows.streams import EVALUATE
from advect.workflows.weighted import kept, weights_of

_STREAM = 5  # below EVALUATE
MOST_MOVED = 2000
FEWEST = 2


def snapshot_facts(
    artefact: Artefact, timeline: Timeline, table: Table, split: Split, *, seed: int = 0, deadline: float | None = None
) -> list[dict[str, Any]]:
    """Wasserstein-1 at each time but the first, in standardised units.

    Of a time that was trained on: rows of the first time moved there, against its held-out rows. Of a time that was
    left out: the rows of the trained time before it moved there, against all of its rows, beside the interpolation of
    the optimal plan between its neighbours.

    Args:
        artefact: The model.
        timeline: Its times.
        table: All rows, with their times.
        split: Which of them were trained on.
        seed: Of every draw.
        deadline: ``time.monotonic()`` after which no further time is begun; times that were left out come first.
    """
    generator = generator_for(seed, EVALUATE, _STREAM)
    times = timeline.read(table)
    assert times is not None  # the table is that of a run with times
    latent = flat_latent(artefact, table, generator)
    chosen = _Chosen(latent, weights_of(artefact, table), generator)
    found = []
    for each in sorted(timeline.times[1:], key=lambda one: (one not in timeline.left_out, one)):
        if deadline is not None and time.monotonic() > deadline:
            break
        here = np.flatnonzero(times == each)
        held_out, rest = (chosen(np.intersect1d(here, part)) for part in (split.test, split.train))
        if each in timeline.left_out:
            facts = _left_out(artefact, timeline, each, chosen, times, generator)
        elif min(len(held_out), len(rest)) >= FEWEST:
            start = artefact.flow.base.sample(min(MOST_MOVED, 4 * len(held_out)), generator=generator)
            moved = _pushed(artefact, start, 0.0, timeline.position(each))
            distances, rows = snapshot_distances(held_out, {"model": moved}, reference=rest, generator=generator)
            facts = _facts(distances) | {"rows": rows}
        else:
            continue
        found.append({"time": each, "word": timeline.word(each), "left_out": each in timeline.left_out} | facts)
    return sorted(found, key=lambda one: one["time"])


@dataclass(frozen=True)
class _Chosen:
    """Latent rows by index, as they weigh."""

    latent: Tensor
    weight: Tensor | None
    generator: torch.Generator

    def __call__(self, rows: np.ndarray) -> Tensor:
        own = None if self.weight is None else self.weight[rows]
        if own is None or not float(own.sum()) > 0:
            return self.latent[rows]
        return self.latent[rows][kept(own, self.generator)]


def _left_out(
    artefact: Artefact,
    timeline: Timeline,
    each: float,
    rows_at: "_Chosen",
    times: np.ndarray,
    generator: torch.Generator,
) -> dict[str, Any]:
    earlier, later = timeline.neighbours(each)
    real, before, after = (rows_at(np.flatnonzero(times == one)) for one in (each, earlier, later))
    chosen = before[torch.randperm(len(before), generator=generator)[:MOST_MOVED]]
    shape = artefact.codec.event_shape
    moved = _pushed(artefact, chosen.float().reshape(-1, *shape), timeline.position(earlier), timeline.position(each))
    candidates = {
        "model": moved,
        "interpolation": interpolated(before, after, (each - earlier) / (later - earlier), generator=generator),
        "still": before,
    }
    distances, rows = snapshot_distances(real, candidates, generator=generator)
    return _facts(distances) | {"rows": rows, "moved_from": timeline.word(earlier)}


def _pushed(artefact: Artefact, rows: Tensor, start: float, end: float) -> Tensor:
    """Latent rows moved forward by the sampling solver, ``(rows, coordinates)`` float64, failed rows dropped."""
    ode = artefact.flow.ode
    assert ode is not None  # a run with times is trained on an ODE
    step = artefact.flow.chunk_rows
    part: ContinuousMap = ode.with_options(interval=(start, end))
    with torch.no_grad():
        moved = torch.cat([part.decode(rows[i : i + step], log_det=False).value for i in range(0, len(rows), step)])
    flat = moved.reshape(len(moved), -1).double().cpu()
    return flat[torch.isfinite(flat).all(1)]


def _facts(distances: dict[str, Distance]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, distance in distances.items():
        result[name] = distance.value
        result[f"{name}_error"] = distance.spread
    return result


def snapshot_lines(facts: list[dict[str, Any]], key: str) -> list[tuple[str, str]]:
    """The figures as lines of text: name and figure with what it is judged by."""
    lines = []
    for one in facts:
        text = f"{_plus_minus(one, 'model')} (floor {_plus_minus(one, 'floor')}"
        if one["left_out"]:
            text += (
                f", OT interpolation {_plus_minus(one, 'interpolation')}, standing still {_plus_minus(one, 'still')})"
            )
            lines.append((f"W1 at {timed_phrase(key, one['word'])}, left out", text))
        else:
            lines.append((f"W1 at {timed_phrase(key, one['word'])}", text + ")"))
    return lines


def _plus_minus(facts: dict[str, Any], name: str) -> str:
    error = facts[f"{name}_error"]
    return f"{facts[name]:.4g}" + (f" ± {error:.2g}" if error is not None else "")
