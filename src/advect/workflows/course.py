"""Fills the part of a report that goes through the times of a run."""

import numpy as np

from advect.data import Split, some_rows, take_rows
from advect.records import Table
from advect.report.times import COLUMNS, Course, Snapshot
from advect.run import Artefact
from advect.training import generator_for
from advect.workflows.generate import generate
from advect.workflows.grown import SPARE, by_mass
from advect.workflows.snapshots import timeline_of
from advect.workflows.streams import SAMPLE

_STREAM = 6  # below SAMPLE
ROWS = 600


def course(artefact: Artefact, table: Table, split: Split) -> Course | None:
    """Real and generated rows of every time; None for a run without times, or without two columns of numbers.

    Held-out rows where there are some, of times that were left out all of them.
    """
    timeline = timeline_of(artefact)
    names = [column.name for column in artefact.schema.columns if column.kind in ("continuous", "integer")]
    times = None if timeline is None else timeline.read(table)
    if timeline is None or times is None or len(names) < 2 or artefact.schema.image:
        return None
    seed = int(artefact.config["seed"])
    pair = (names[0], names[1])
    # Under conditions each time has samples of its own, drawn under those of its rows.
    many = SPARE * ROWS if artefact.growth else ROWS
    drawn = generate(artefact, many, seed=seed + 3, at=timeline.times).table if artefact.condition is None else None
    facts = {one["word"]: one for one in artefact.evaluation.get("snapshots", ())}
    snapshots = []
    for place, time in enumerate(timeline.times):
        here = np.flatnonzero(times == time)
        held_out = np.intersect1d(here, split.test)
        real = take_rows(table, held_out if len(held_out) else here)
        real = some_rows(real, ROWS, generator_for(seed, SAMPLE, _STREAM, place))
        if drawn is None:
            given = take_rows(real, np.arange(many) % real.num_rows)
            samples = generate(artefact, many, condition=given, seed=seed + 3, at=(time,)).table
        else:
            samples = take_rows(drawn, np.arange(place * many, (place + 1) * many))
        samples = take_rows(samples, by_mass(artefact, samples, seed=seed)[:ROWS])
        word = timeline.word(time)
        snapshots.append(
            Snapshot(
                word=word,
                left_out=time in timeline.left_out,
                real=_points(real, pair),
                samples=_points(samples, pair),
                distances={
                    name: (facts[word][name], facts[word][f"{name}_error"])
                    for name in COLUMNS
                    if word in facts and facts[word].get(name) is not None
                },
            )
        )
    return Course(timeline.key, pair, tuple(snapshots))


def _points(table: Table, names: tuple[str, str]) -> np.ndarray:
    return np.stack([table.columns[table.names.index(name)].astype(np.float64) for name in names], 1)
