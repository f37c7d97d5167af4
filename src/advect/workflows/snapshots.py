"""Rows at several times, from a request or a stored configuration to the snapshots that training takes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advect.couplings import Alike
from advect.data import (
    ConditionCodec,
    Split,
    Timeline,
    find_array,
    read_timeline,
    set_aside,
    split_within,
    take_rows,
)
from advect.errors import ConfigError, DataError
from advect.methods import Built
from advect.records import Schema, Table
from advect.run import Artefact
from advect.training import DataRows, Snapshots, generator_for
from advect.typing import SetCoupling

COPIES = 4  # of a row of average weight: its share is right to an eighth of a row


@dataclass(frozen=True)
class Timed:
    """Rows with their times.

    Attributes:
        table: The rows, the times set aside beside them.
        timeline: The times.
        snapshot: ``(rows,)`` index of each row's time.
        weight: ``(rows,)`` how much each row counts among those of its time; None where all count alike.
    """

    table: Table
    timeline: Timeline
    snapshot: np.ndarray
    weight: np.ndarray | None = None

    def split(self, *, seed: int, validation: float, test: float) -> Split:
        """Each time has its share of every part; the rows of a time that is left out are all held out."""
        times = self.timeline.times
        left_out = [times.index(time) for time in self.timeline.left_out]
        return split_within(self.snapshot, seed=seed, validation=validation, test=test, held_out=left_out)

    def at(self, rows: np.ndarray, time: float) -> np.ndarray:
        """Those of some row indices that are of this time."""
        return rows[self.snapshot[rows] == self.timeline.times.index(time)]

    def standing(self, rows: np.ndarray, time: float) -> np.ndarray:
        """The same, each row as often as it weighs: couplings then pair weighted populations, as they pair others.

        Raises:
            DataError: All rows of the time have weight zero.
        """
        found = self.at(rows, time)
        if self.weight is None or not len(found):
            return found
        # Rows of equal weight one after another: together they are right to one copy.
        found = found[np.argsort(self.weight[found], kind="stable")]
        weight = self.weight[found]
        if not weight.sum() > 0:
            word = self.timeline.word(time)
            raise DataError(f"all rows of time {word} have weight zero", where="--weights")
        ends = np.floor(np.cumsum(weight) / weight.sum() * COPIES * len(found) + 0.5).astype(int)
        return np.repeat(found, np.diff(ends, prepend=0))


def timed(table: Table, key: str, leave_out: Sequence[Any] = ()) -> Timed:
    """A table with its times.

    Raises:
        AdvectError: Times that cannot be used, see `data.read_timeline` and `Timeline.without`.
    """
    timeline, snapshot = read_timeline(table, key)
    return Timed(set_aside(table, key), timeline.without(leave_out), snapshot)


def condition_through(found: Timed, rows: np.ndarray, codec: ConditionCodec, schema: Schema) -> ConditionCodec:
    """The condition of a flow through times: drawn as it occurs at the last of them, to which samples belong.

    Raises:
        DataError: Labels that a time lacks, see `_refuse_lost`.
    """
    times = found.timeline.trained
    if codec.is_discrete:
        _refuse_lost(found, [take_rows(found.table, found.at(rows, time)) for time in times], codec)
    last = take_rows(found.table, found.standing(rows, times[-1]))
    return codec.drawn_as(ConditionCodec.fit(last, schema))


def _refuse_lost(found: Timed, tables: Sequence[Table], codec: ConditionCodec) -> None:
    """Refuse labels under which nothing would be learnt on a part of the way.

    All times after the first must have the same ones. The first may lack some: rows of those start from the nearest
    that it has. It may have others only where a gap says that nothing is known yet.
    """
    kinds = [{tuple(row): i for i, row in enumerate(codec.encode(table).tolist())} for table in tables]
    words = [found.timeline.word(time) for time in found.timeline.trained]
    later = set().union(*kinds[1:])
    lost = [(row, place) for place in range(1, len(kinds)) for row in later - set(kinds[place])]
    whole = 1 + len(codec.columns)  # the sum of a vector without a gap
    lost += [(row, 1) for row in set(kinds[0]) - later if sum(row) >= whole]
    if not lost:
        return
    row, place = min(lost, key=lambda one: one[1])
    seen = next(k for k in range(len(kinds)) if row in kinds[k])
    values = [find_array(tables[seen], column.name) for column in codec.columns]
    label = ", ".join(
        f"{column.name} = {value[kinds[seen][row]]}"
        for column, value in zip(codec.columns, values, strict=True)
        if value is not None
    )
    raise DataError(
        f"{found.timeline.phrase(found.timeline.trained[place])} has no training rows of {label}, which "
        f"{words[seen]} has",
        where="--condition",
        remedy="Give rows of every label at every time after the first, or leave that label out. A label that only the "
        "first time has may be a gap there.",
    )


def make_snapshots(
    found: Timed,
    rows: np.ndarray,
    built: Built,
    rows_of: Callable[[np.ndarray], DataRows],
    *,
    seed: int,
    smooth: bool = False,
    condition: ConditionCodec | None = None,
) -> Snapshots:
    """Some rows as snapshots in latent coordinates.

    Args:
        found: All rows.
        rows: Indices of those that are wanted.
        built: Whose coupling pairs neighbouring snapshots; it is prepared for each pair.
        rows_of: From indices to rows as the loop wants them.
        seed: Of the noise inside discrete cells, where a coupling looks at whole snapshots.
        smooth: See `Snapshots`.
        condition: Of the rows; what is paired then is alike.

    Raises:
        ConfigError: A method that is not trained between two populations.
    """
    if built.coupling is None or not getattr(built.objective, "takes_intervals", False):
        raise ConfigError(
            "this method is not trained on paths between snapshots",
            where="--time-key",
            remedy="Use ot-cfm, i-cfm, rf, sb-cfm or sf2m, and let them predict the velocity.",
        )
    if isinstance(built.coupling, SetCoupling):
        raise ConfigError(
            "a plan from a distribution to a data set does not pair one snapshot with the next",
            where="--time-key",
            remedy="Leave out plan=semidiscrete.",
        )
    coupling = built.coupling
    if condition is not None:
        coupling = Alike.of(coupling, labels=condition.is_discrete, scale=torch.tensor(condition.compared))
    times = found.timeline.trained
    each = tuple(rows_of(found.standing(rows, time)) for time in times)
    whole = [_all(part, seed) for part in each]
    couplings = tuple(coupling.prepare(x0, x1, generator=generator_for(seed)) for x0, x1 in pairwise(whole))
    return Snapshots(each, tuple(found.timeline.position(time) for time in times), couplings, smooth)


def _all(rows: DataRows, seed: int) -> Tensor:
    return rows.draw(torch.arange(rows.num_rows), generator_for(seed))


def timeline_of(artefact: Artefact) -> Timeline | None:
    """The times of a run; None for a run without any."""
    return stored_timeline(artefact.config.get("data", {}))


def stored_timeline(data: Mapping[str, Any]) -> Timeline | None:
    """The times in the data section of a configuration."""
    if "time_key" not in data:
        return None
    return Timeline(
        key=data["time_key"],
        times=tuple(float(time) for time in data["times"]),
        words=tuple(data["time_words"]),
        pattern=data["time_pattern"],
        text=data["time_text"],
        left_out=tuple(float(time) for time in data.get("leave_out", ())),
    )


def last_time(artefact: Artefact) -> tuple[str, ...]:
    """The last time of a run as its data write it; nothing for a run without times."""
    timeline = timeline_of(artefact)
    return () if timeline is None else timeline.words[-1:]


def needed_timeline(artefact: Artefact, asked: str) -> Timeline:
    """The times of a run.

    Raises:
        ConfigError: It has none.
    """
    timeline = timeline_of(artefact)
    if timeline is None:
        raise ConfigError(
            "this run knows no times: it leads from a source to its data",
            where=asked,
            remedy="Train with --time-key COLUMN for a flow through the times of a data set.",
        )
    return timeline


def of_last_time(artefact: Artefact, table: Table, rows: np.ndarray) -> Table:
    """The rows of these indices; of a run with times those of the last time."""
    chosen, timeline = take_rows(table, rows), timeline_of(artefact)
    times = None if timeline is None else timeline.read(chosen)
    return chosen if timeline is None or times is None else take_rows(chosen, times == timeline.times[-1])
