"""Rows that are equal, found by hashing.

Each row gets a 64-bit key mixed from its columns (the finaliser of SplitMix64, Steele et al. 2014). Two different rows
share a key with probability 2⁻⁶⁴: a false match among a million rows has odds below 1 in 10⁷.
"""

import numpy as np

from advect.data.kinds import is_gap
from advect.data.split import Split
from advect.records import Schema, Table


def row_keys(table: Table, schema: Schema) -> np.ndarray:
    """``(rows,)`` uint64, equal for rows that are equal in every modelled column; gaps equal one another.

    May be given to `split_rows` as ``groups``, so that equal rows stay on one side.
    """
    keys = np.zeros(table.num_rows, np.uint64)
    position = {name: i for i, name in enumerate(table.names)}
    for name in schema.names:
        keys = _mixed(keys ^ _bits(table.columns[position[name]]))
    return keys


def repeated_rows(keys: np.ndarray) -> int:
    """How many of the rows with these keys equal an earlier one."""
    ordered = np.sort(keys)
    return int(np.sum(ordered[1:] == ordered[:-1]))


def shared_rows(keys: np.ndarray, split: Split) -> int:
    """How many held-out rows equal a training row."""
    train = np.sort(keys[split.train])
    held = keys[np.concatenate([split.validation, split.test])]
    place = np.searchsorted(train, held).clip(max=len(train) - 1)
    return int(np.sum(train[place] == held))


def _bits(values: np.ndarray) -> np.ndarray:
    """A uint64 per value, equal for equal values."""
    if values.dtype.kind in "biuf":
        numbers = values.astype(np.float64) + 0.0  # −0 becomes 0
        return np.where(np.isnan(numbers), np.nan, numbers).view(np.uint64)
    cells = values.tolist()
    # Numbered by first appearance: the order of a set would change from one process to the next.
    codes = {value: i for i, value in enumerate(dict.fromkeys(cells), start=1)}
    index = np.fromiter(map(codes.__getitem__, cells), np.uint64, len(cells))
    gaps = is_gap(values.astype(object))
    return np.where(gaps, np.uint64(0), index)


def _mixed(keys: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit words in which every bit of the input touches every bit of the output."""
    keys = keys + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
