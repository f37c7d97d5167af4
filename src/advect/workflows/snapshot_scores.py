"""Figures of a run for each of its times: held-out rows, and whole times that were left out."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advect.couplings import Alike, Assignment
from advect.data import Split, Timeline
from advect.data.timeline import timed_phrase
from advect.evaluation.snapshots import Distance, interpolated, snapshot_distances
from advect.flows import ContinuousMap
from advect.records import Table
from advect.run import Artefact
from advect.training import generator_for
from advect.workflows.between import own_conditions
from advect.workflows.growth import mass_gain
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
    the optimal plan between its neighbours. Under conditions what is moved and interpolated has those of the real rows,
    and where an unbalanced plan makes rows grow they count by the mass that they carry.

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
    chosen = _Chosen(latent, own_conditions(artefact, table), weights_of(artefact, table), generator)
    found = []
    for each in sorted(timeline.times[1:], key=lambda one: (one not in timeline.left_out, one)):
        if deadline is not None and time.monotonic() > deadline:
            break
        here = np.flatnonzero(times == each)
        test, rest = (np.intersect1d(here, part) for part in (split.test, split.train))
        held_out, rest = chosen.rows(test), chosen.rows(rest)
        if each in timeline.left_out:
            facts = _left_out(artefact, timeline, each, chosen, times)
        elif min(len(held_out), len(rest)) >= FEWEST:
            moved = _from_first(artefact, timeline.position(each), chosen, held_out)
            candidates, reference = {"model": moved}, chosen.latent[rest]
            real = chosen.latent[held_out]
            distances, rows = snapshot_distances(real, candidates, reference=reference, generator=generator)
            facts = _facts(distances) | {"rows": rows}
        else:
            continue
        found.append({"time": each, "word": timeline.word(each), "left_out": each in timeline.left_out} | facts)
    return sorted(found, key=lambda one: one["time"])


@dataclass(frozen=True)
class _Chosen:
    """Latent rows by index, as they weigh, and their conditions."""

    latent: Tensor
    condition: Tensor | None
    weight: Tensor | None
    generator: torch.Generator

    def rows(self, rows: np.ndarray) -> Tensor:
        """Those of some indices that stand for all of them."""
        index = torch.from_numpy(rows)
        own = None if self.weight is None else self.weight[index]
        return index if own is None or not float(own.sum()) > 0 else index[kept(own, self.generator)]

    def given(self, rows: Tensor) -> Tensor | None:
        """Their conditions."""
        return None if self.condition is None else self.condition[rows]

    def beside(self, rows: Tensor, others: Tensor, coupling: Alike) -> Tensor:
        """As many of the rows as there are others, of the conditions of those."""
        assert self.condition is not None
        return rows[coupling.choose(self.condition[rows], self.condition[others], self.generator)]


def _from_first(artefact: Artefact, place: float, chosen: _Chosen, real: Tensor) -> Tensor:
    """Rows of the first time at a place on the axis, under the conditions of the real rows there."""
    count = min(MOST_MOVED, 4 * len(real))
    given = chosen.given(real[torch.arange(count) % len(real)])
    start = artefact.flow.base.sample(count, given, generator=chosen.generator)
    return _pushed(artefact, start, given, 0.0, place, chosen.generator)


def _left_out(
    artefact: Artefact, timeline: Timeline, each: float, chosen: _Chosen, times: np.ndarray
) -> dict[str, Any]:
    earlier, later = timeline.neighbours(each)
    real, before, after = (chosen.rows(np.flatnonzero(times == one)) for one in (each, earlier, later))
    share, generator = (each - earlier) / (later - earlier), chosen.generator
    if artefact.condition is None:
        some, given = before[torch.randperm(len(before), generator=generator)[:MOST_MOVED]], None
        between = interpolated(chosen.latent[before], chosen.latent[after], share, generator=generator)
    else:  # the same shares of conditions as the real rows have
        alike = Alike.of(Assignment(), labels=artefact.condition.is_discrete, scale=_compared(artefact))
        like = real[torch.randperm(len(real), generator=generator)[:MOST_MOVED]]
        some, given = chosen.beside(before, like, alike), chosen.given(like)
        between = _interpolated_alike(chosen, some, chosen.beside(after, like, alike), like, share, alike)
        before = some
    shape = artefact.codec.event_shape
    rows = chosen.latent[some].float().reshape(-1, *shape)
    places = timeline.position(earlier), timeline.position(each)
    candidates = {
        "model": _pushed(artefact, rows, given, *places, generator),
        "interpolation": between,
        "still": chosen.latent[before],
    }
    distances, count = snapshot_distances(chosen.latent[real], candidates, generator=generator)
    return _facts(distances) | {"rows": count, "moved_from": timeline.word(earlier)}


def _compared(artefact: Artefact) -> Tensor:
    assert artefact.condition is not None
    return torch.tensor(artefact.condition.compared)


def _interpolated_alike(
    chosen: _Chosen, early: Tensor, late: Tensor, like: Tensor, share: float, alike: Alike
) -> Tensor:
    """Rows on the lines of the plan between two times inside each condition; the rows stand beside one another."""
    x0, x1 = chosen.latent[early], chosen.latent[late]
    own = {"condition": chosen.given(like if alike.labels else late), "source_condition": chosen.given(early)}
    pairs = alike.draw(x0, x1, **own, generator=chosen.generator)
    return torch.lerp(x0[pairs.index0], x1[pairs.index1], share)


def _pushed(
    artefact: Artefact, rows: Tensor, given: Tensor | None, start: float, end: float, generator: torch.Generator
) -> Tensor:
    """Latent rows moved forward by the sampling solver, ``(rows, coordinates)`` float64, failed rows dropped.

    Where rows grow on the way they come as often as the mass says that they carry at its end.
    """
    ode = artefact.flow.ode
    assert ode is not None  # a run with times is trained on an ODE
    step = artefact.flow.chunk_rows
    part: ContinuousMap = ode.with_options(interval=(start, end))
    chunks = (slice(first, first + step) for first in range(0, len(rows), step))
    with torch.no_grad():
        moved = torch.cat(
            [part.decode(rows[some], None if given is None else given[some], log_det=False).value for some in chunks]
        )
    flat = moved.reshape(len(moved), -1).double().cpu()
    usable = torch.isfinite(flat).all(1)
    mass = mass_gain(artefact, rows, start, end, given)
    if mass is None:
        return flat[usable]
    carried = torch.where(usable, torch.from_numpy(mass), 0.0)
    return flat[kept(carried, generator)]


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
