"""Tensors whose rows lie in several safetensors files, read whole or in part."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from advect.errors import RunFolderError
from advect.progress import Window

ROWS_KEY = "DCP_SHARDING_INFO"
"""In the header of a file, the name under which torch.distributed.checkpoint keeps where each tensor begins."""

Wanted = Callable[[str, Sequence[int]], Window | None]
"""From a tensor's name and the shape of the whole to the rows that are wanted; None for all."""

_Piece = tuple[int, tuple[int, ...], Any]
"""The first row in the whole, the shape, and the rows behind them, which are read when they are asked for."""


def read_parts(paths: Sequence[Path], wanted: Wanted | None = None) -> dict[str, Tensor]:
    """The tensors of all files by name.

    Args:
        paths: The files; together they hold every row once.
        wanted: Which rows to read; by default all.

    Raises:
        RunFolderError: A file is missing or damaged, or rows are.
    """
    pieces: dict[str, list[_Piece]] = {}
    with ExitStack() as stack:
        for path in paths:
            try:
                stream = stack.enter_context(safe_open(path, framework="pt", device="cpu"))
                starts = json.loads((stream.metadata() or {})[ROWS_KEY])
                for name in stream.keys():  # noqa: SIM118 - not a mapping
                    rows = stream.get_slice(name)
                    first = starts[name]["saved_offsets"]
                    pieces.setdefault(name, []).append((int(first[0]) if first else 0, tuple(rows.get_shape()), rows))
            except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
                raise damaged(path, error) from error
        return {name: _assembled(name, found, paths[0].parent, wanted) for name, found in pieces.items()}


def _assembled(name: str, pieces: list[_Piece], place: Path, wanted: Wanted | None) -> Tensor:
    """One tensor, or the rows of it that are wanted, from its pieces."""
    pieces = sorted(pieces, key=lambda piece: piece[0])
    shape = pieces[0][1]
    if not shape:
        if len(pieces) != 1:
            raise damaged(place, f"{name} is there {len(pieces)} times")
        return pieces[0][2][()]
    end = 0
    for first, own, _ in pieces:
        if first != end or own[1:] != shape[1:]:
            raise damaged(place, f"rows of {name} are missing")
        end += own[0]
    window = None if wanted is None else wanted(name, (end, *shape[1:]))
    low, high = (0, end) if window is None else (window.first, window.first + window.rows)
    found = [
        rows[max(low - first, 0) : min(high - first, own[0])]
        for first, own, rows in pieces
        if first < high and low < first + own[0]
    ]
    if not found:
        return pieces[0][2][0:0]
    return found[0].clone() if len(found) == 1 else torch.cat(found)


def damaged(path: Path, reason: object) -> RunFolderError:
    """What is said of a checkpoint that cannot be read."""
    return RunFolderError(
        f"the checkpoint is damaged or not ours ({reason})",
        where=str(path),
        remedy="Restore it from a copy, or train anew with --restart.",
    )
