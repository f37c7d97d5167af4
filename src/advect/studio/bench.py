"""An opened run, and what is drawn and said on request, as records for the page's script."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from advect.data import some_rows, take_rows
from advect.errors import AdvectError
from advect.records import Column, Table
from advect.report.images import natural_bounds, pictures
from advect.report.ink import clean
from advect.report.moving import affordable_pictures
from advect.report.packing import quantised, text64
from advect.report.parts import preview
from advect.report.values import column as column_values
from advect.report.values import frame, pair_to_draw
from advect.run import Artefact, RunFolder
from advect.studio.knobs import Knobs, knobs_of
from advect.studio.wish import Wish, as_command, read_wish
from advect.training import generator_for
from advect.workflows.again import find_data
from advect.workflows.generate import generate
from advect.workflows.open import open_run
from advect.workflows.shown_motion import pixel_bounds
from advect.workflows.snapshots import timeline_of
from advect.workflows.streams import SAMPLE

MOST_COLUMNS = 24  # of a table, that are drawn
REAL_ROWS = 1000
KEPT_ROWS = 20_000  # of all times and conditions
FIRST_ROWS = 500  # drawn once, to lay the frame
PREVIEW_ROWS, PREVIEW_COLUMNS = 6, 8
TRIED_ROWS = 2
VIEW_SECONDS = 20.0
_REAL = 7  # stream below SAMPLE


@dataclass(frozen=True)
class Drawable:
    """A column that can stand along an axis.

    Attributes:
        name: Of the column.
        labels: Its categories, drawn at 0, 1, …; empty for numbers.
        low: Left end of its frame.
        high: Right end.
    """

    name: str
    labels: tuple[str, ...]
    low: float
    high: float


class Bench:
    """A finished run, ready to be asked.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.artefact = open_run(folder)
        self._cost = _seconds_per_evaluation(self.artefact) if self.artefact.schema.image else (0.0, 0.0)
        self.knobs: Knobs = knobs_of(self.artefact, seconds_per_row=self._cost[0])
        self.held_out, self.no_real = _held_out(self.artefact)
        self.bounds = pixel_bounds(self.artefact.schema)
        self._frame: tuple[Drawable, ...] | None = None

    def wish(self, body: bytes) -> Wish:
        """What a request asks for.

        Raises:
            ConfigError: See `read_wish`.
        """
        return read_wish(body, self.knobs, self.artefact)

    def watch(self, stopped: Callable[[], None]) -> Callable[[], None]:
        """Have ``stopped`` called before every evaluation of the network; it may raise. Returns how to end that."""
        ode = self.artefact.flow.ode
        if ode is None or not hasattr(ode.field, "register_forward_pre_hook"):
            return lambda: None
        return ode.field.register_forward_pre_hook(lambda *_: stopped()).remove

    def draw(self, wish: Wish) -> dict[str, Any]:
        """New rows: those that `Model.sample` gives for the same seed, and what they cost.

        Raises:
            AdvectError: The solver or the condition cannot be used.
        """
        drawn = generate(
            self.artefact, wish.rows, condition=wish.condition, choice=wish.choice, seed=wish.seed, at=wish.at
        )
        said = {
            "rows": wish.rows,
            "nfe": drawn.nfe,
            "seconds": drawn.seconds,
            "failed": drawn.failed,
            "notes": list(drawn.notes),
            "command": clean(as_command(wish, str(self.folder.path))),
        }
        table = drawn.table
        return said | (self._pictures(table) if self.artefact.schema.image else self._points(table, wish))

    def _pictures(self, table: Table) -> dict[str, Any]:
        shown = pictures(table, self.bounds)
        channels = 3 if table.event_shape[0] == 3 or table.event_shape[-1] == 3 else 1
        height, width = shown.shape[1:3]
        return {
            "kind": "pictures",
            "height": height,
            "width": width,
            "channels": channels,
            "states": text64(np.ascontiguousarray(shown[..., :channels])),
        }

    def _points(self, table: Table, wish: Wish) -> dict[str, Any]:
        columns, real = self.columns(), self.real_rows(wish)
        low, high = (np.array([getattr(c, end) for c in columns]) for end in ("low", "high"))
        placed = _placed(table, columns)
        outside = (placed < low) | (placed > high)
        few = preview(table, rows=PREVIEW_ROWS, columns=PREVIEW_COLUMNS)
        return {
            "kind": "points",
            "names": [clean(c.name) for c in columns],
            "labels": [[clean(label) for label in c.labels] for c in columns],
            "low": low.tolist(),
            "high": high.tolist(),
            "pair": self._pair(),
            "real": None if real is None else text64(quantised(_placed(real, columns), low, high)),
            "real_rows": 0 if real is None else real.num_rows,
            "states": text64(quantised(placed, low, high)),
            "outside": outside.sum(0).tolist(),
            "preview": {"names": few.names, "rows": few.rows, "left_out": few.left_out},
        }

    def real_rows(self, wish: Wish) -> Table | None:
        """Held-out rows of the time and, where it is one of labels, of the condition that is asked for."""
        table, codec = self.held_out, self.artefact.condition
        if table is None:
            return None
        timeline = timeline_of(self.artefact)
        times = None if timeline is None else timeline.read(table)
        if timeline is not None and times is not None:
            time = timeline.parse(wish.at[0]) if wish.at else timeline.times[-1]
            table = take_rows(table, np.flatnonzero(times == time))
        if codec is not None and codec.is_discrete and wish.condition is not None and table.num_rows:
            try:
                given = codec.encode(table)
            except AdvectError:  # labels that training never saw
                return None
            alike = (given == codec.parse(wish.condition, 1)).all(1)
            table = take_rows(table, np.flatnonzero(alike.numpy()))
        seed = int(self.artefact.config["seed"])
        return some_rows(table, REAL_ROWS, generator_for(seed, SAMPLE, _REAL)) if table.num_rows else None

    def columns(self) -> tuple[Drawable, ...]:
        """What is drawn of a table, in frames that stay where they are while rows are drawn anew."""
        if self._frame is None:
            usual = generate(self.artefact, FIRST_ROWS, seed=0).table
            self._frame = _drawables(self.artefact, self.held_out, usual)
        return self._frame

    def _pair(self) -> tuple[int, int] | None:
        """The two columns of numbers that say most; None where there are none."""
        columns = self.columns()
        numbers = [i for i, c in enumerate(columns) if not c.labels]
        if len(numbers) < 2:
            return None
        seen = None if self.held_out is None else _only(self.held_out, [columns[i].name for i in numbers])
        found = None if seen is None else pair_to_draw(seen)
        names = [c.name for c in columns]
        return (names.index(found[0]), names.index(found[1])) if found is not None else (numbers[0], numbers[1])

    def affordable(self, frames: int) -> int:
        """How many pictures may be sent at so many times, and asked about in `VIEW_SECONDS`."""
        pixels = int(np.prod(self.artefact.schema.event_shape))
        each = 4 * frames * self._cost[1]  # on their way, and twice more at each time
        return int(np.clip(VIEW_SECONDS / max(each, 1e-9), 2, min(affordable_pictures(pixels, frames), 8)))

    def grey(self, states: np.ndarray) -> tuple[float, float]:
        """Black and white of pictures on their way."""
        return self.bounds or natural_bounds(states)


def _seconds_per_evaluation(artefact: Artefact) -> tuple[float, float]:
    """What a drawn row costs, and an evaluation of the network for one."""
    tried = generate(artefact, TRIED_ROWS, seed=0)
    each = tried.seconds / TRIED_ROWS
    return each, each / max(tried.nfe, 1.0)


def _held_out(artefact: Artefact) -> tuple[Table | None, str]:
    """Held-out rows of the run to stand beside, in random order, or why there are none."""
    try:
        table, split = find_data(artefact)
    except AdvectError as error:
        return None, error.message
    rows = take_rows(table, split.test if len(split.test) else split.train)
    return some_rows(rows, KEPT_ROWS, generator_for(int(artefact.config["seed"]), SAMPLE, _REAL)), ""


def _only(table: Table, names: Any) -> Table:
    """Those of some columns that are in a table, in this order."""
    kept = [table.names.index(name) for name in names if name in table.names]
    return replace(
        table,
        names=tuple(table.names[i] for i in kept),
        columns=tuple(table.columns[i] for i in kept),
        dtypes=tuple(table.dtypes[i] for i in kept),
        event_shape=(len(kept),),
        sides={},
    )


def _drawables(artefact: Artefact, real: Table | None, usual: Table) -> tuple[Drawable, ...]:
    found = []
    for column in artefact.schema.columns[:MOST_COLUMNS]:
        labels = _labels(column)
        if labels:
            found.append(Drawable(column.name, labels, -0.5, len(labels) - 0.5))
            continue
        seen = [_numbers(table, column.name) for table in (real, usual) if table is not None]
        ends = frame(np.concatenate(seen).reshape(-1, 1))
        found.append(Drawable(column.name, (), float(ends.low[0]), float(ends.high[0])))
    return tuple(found)


def _labels(column: Column) -> tuple[str, ...]:
    """The categories of a column that is not drawn as numbers."""
    if column.kind == "boolean":
        return ("false", "true")
    return tuple(str(value) for value in column.categories) if column.kind == "categorical" else ()


def _numbers(table: Table, name: str) -> np.ndarray:
    values = column_values(table, name)
    return values.astype(np.float64) if values.dtype.kind in "iufb" else np.full(len(values), np.nan)


def _placed(table: Table, columns: tuple[Drawable, ...]) -> np.ndarray:
    """``(rows, columns)``: numbers, places of categories, NaN for gaps and what is no number."""
    placed = np.full((table.num_rows, len(columns)), np.nan)
    for i, one in enumerate(columns):
        values = column_values(table, one.name)
        if not len(values):
            continue
        if one.labels:
            places = {label: place for place, label in enumerate(one.labels)}
            texts = [str(v).lower() if isinstance(v, bool | np.bool_) else str(v) for v in values.tolist()]
            placed[:, i] = [places.get(text, np.nan) for text in texts]
        else:
            placed[:, i] = _numbers(table, one.name)
    return placed
