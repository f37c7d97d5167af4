"""What the command shows: results on standard output, everything else on standard error.

With ``--json`` standard output carries one JSON object and nothing more. On a terminal, tables are set in columns and
sentences are wrapped between words; elsewhere a table is tab-separated lines and a sentence is one line.
"""

import json
import math
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

if TYPE_CHECKING:
    import numpy as np

    from advect.records import Table

SHOWN_ROWS = 10


def _console(*, stderr: bool) -> Console:
    """A console for the stream as it is now, so that a caller who replaced it is heeded."""
    console = Console(stderr=stderr, highlight=False)
    console.soft_wrap = not console.is_terminal
    return console


def is_terminal() -> bool:
    """Whether standard error is a terminal, where a line can be written over."""
    return _console(stderr=True).is_terminal


def width() -> int:
    """Characters in a line of the terminal."""
    return _console(stderr=True).width


def say_error(message: str) -> None:
    """One paragraph on standard error."""
    text = " ".join(message.split())
    _console(stderr=True).print(Text.assemble(("error:", "bold red"), f" {text}"))


def say(text: str) -> None:
    """A line on standard error."""
    _console(stderr=True).print(Text(_hanging(text, _console(stderr=True))))


def show_text(text: str) -> None:
    """A sentence on standard output."""
    show(_hanging(text, _console(stderr=False)))


def _hanging(text: str, console: Console) -> str:
    """Text wrapped to the terminal, further lines two columns in; one line where there is no terminal."""
    if not console.is_terminal:
        return text
    lead = text[: len(text) - len(text.lstrip())]
    return textwrap.fill(
        text, max(console.width, 20), subsequent_indent=lead + "  ", break_long_words=False, break_on_hyphens=False
    )


def show(text: str = "") -> None:
    """A line on standard output, never wrapped: it may be copied."""
    sys.stdout.write(text + "\n")


def show_json(value: Mapping[str, Any]) -> None:
    """One JSON object on standard output; numbers JSON does not know become null."""
    sys.stdout.write(json.dumps(_plain(value), ensure_ascii=False) + "\n")


def show_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on standard output; tab-separated where that is no terminal."""
    rows = list(rows)
    console = _console(stderr=False)
    if not console.is_terminal:
        for row in [heads, *rows]:
            show("\t".join(row))
        return
    table = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in heads:
        table.add_column(Text(head))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def show_pairs(pairs: Iterable[tuple[str, str]], *, indent: int = 2) -> None:
    """Names and what belongs to them, in two columns; on a terminal long text is wrapped inside its column."""
    pairs = [(name, str(text)) for name, text in pairs]
    console = _console(stderr=False)
    if not console.is_terminal:
        longest = max((len(name) for name, _ in pairs), default=0)
        for name, text in pairs:
            show(f"{' ' * indent}{name:<{longest}}  {text}")
        return
    grid = RichTable.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for name, text in pairs:
        grid.add_row(Text(" " * indent + name), Text(text))
    console.print(grid)


def show_rows(table: "Table") -> None:
    """The first rows of a table, on a terminal the first columns that fit, and how many more rows there are."""
    shown = min(SHOWN_ROWS, table.num_rows)
    columns = _all_columns(table)
    names = tuple(columns)
    cells = [[_cell(column[i]) for column in columns.values()] for i in range(shown)]
    fit = _columns_that_fit([names, *cells])
    more = len(names) - fit
    heads = [*names[:fit], *([f"and {more} more columns"] if more else [])]
    show_table(heads, [[*row[:fit], *([""] if more else [])] for row in cells])
    if table.num_rows > shown:
        say(f"The first {shown} of {table.num_rows} rows; --out FILE writes them all.")


def _columns_that_fit(rows: Sequence[Sequence[str]]) -> int:
    """How many of the columns a line of the terminal holds; all of them where there is none."""
    console = _console(stderr=False)
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    if not console.is_terminal or sum(widths) <= console.width + 2:
        return len(widths)
    room = console.width - len(f"and {len(widths)} more columns")
    return max(1, sum(total <= room for total in accumulate(widths)))


def columns_json(table: "Table") -> dict[str, list]:
    """The columns of a table as plain lists by name; a gap is null."""
    return {name: column.tolist() for name, column in _all_columns(table).items()}


def _all_columns(table: "Table") -> "dict[str, np.ndarray]":
    """The columns and the side arrays of one value per row, by name."""
    sides = {name: side for name, side in table.sides.items() if side.ndim == 1}
    return sides | dict(zip(table.names, table.columns, strict=True))


def _cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    if hasattr(value, "dtype") and value.dtype.kind == "b":
        return str(bool(value)).lower()
    if isinstance(value, bool):
        return str(value).lower()
    return (
        f"{value:.6g}"
        if isinstance(value, float) or (hasattr(value, "dtype") and value.dtype.kind == "f")
        else str(value)
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, str | int | bool) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    return _plain(float(value)) if hasattr(value, "__float__") else str(value)


def duration(seconds: float) -> str:
    """``45 s``, ``3 min 20 s``, ``2 h 5 min``.

    >>> duration(200.0)
    '3 min 20 s'
    """
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 1:
        return f"{seconds:.2g} s" if seconds > 0 else "0 s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
