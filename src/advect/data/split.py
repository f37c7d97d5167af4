"""Which rows train, which choose the best weights, which are kept for the score.

The split is a function of the number of rows and the seed alone. Where rows come in groups (the same place, patient or
repeated row), equal groups stay on one side: otherwise most held-out rows may have a twin in training (of random splits
of location data, up to 78 % do) and the held-out likelihood flatters.
"""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from advect.errors import ConfigError, DataError, ShapeError


@dataclass(frozen=True)
class Split:
    """Row indices, int64, each row exactly once; sorted within each part.

    Attributes:
        train: ``(train,)``.
        validation: ``(validation,)``; may be empty when no share was asked for, or with two rows.
        test: ``(test,)``.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def digest(self) -> str:
        """SHA-256 of the three parts: two runs with equal digests saw the same rows."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part.astype("<i8").tobytes())
        return digest.hexdigest()


def split_rows(
    num_rows: int, *, seed: int, validation: float = 0.1, test: float = 0.1, groups: np.ndarray | None = None
) -> Split:
    """Split rows at random.

    Args:
        num_rows: At least 2.
        seed: Of the permutation, at least 0.
        validation: Share of the rows, in [0, 1).
        test: Share of the rows, in [0, 1).
        groups: ``(num_rows,)`` labels; rows of one label stay together. The shares are then met as nearly as whole
            groups allow.

    A part with a share above 0 gets at least one row (or group), and training keeps at least one. With two rows (or
    groups) and both shares above 0, one row trains and the other is the validation row; the test part is empty.

    Raises:
        DataError: Fewer than 2 rows.
        ConfigError: Shares outside their range, or that leave nothing to train on; a negative seed.
        ShapeError: Groups of another length.
    """
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise ConfigError(f"{share} is not a share of the rows", where=name, remedy="Use a number in [0, 1).")
    if validation + test >= 1:
        raise ConfigError(f"validation {validation} and test {test} leave no rows to train on", where="split")
    if seed < 0:
        raise ConfigError(f"{seed} is negative", where="seed", remedy="Use a seed of 0 or more.")
    if num_rows < 2:
        raise DataError(f"{num_rows} row{'s' * (num_rows != 1)} cannot be split", remedy="Give at least 2 rows.")
    generator = np.random.Generator(np.random.PCG64(seed))
    if groups is None:
        order = generator.permutation(num_rows).astype(np.int64)
        num_test, num_validation = _sizes(num_rows, validation, test)
        return _parts(order, num_test, num_validation)
    if groups.shape != (num_rows,):
        raise ShapeError(f"groups of shape {groups.shape} for {num_rows} rows", remedy="Give one label per row.")
    return _split_groups(groups, generator, validation, test)


def split_within(
    labels: np.ndarray,
    *,
    seed: int,
    validation: float = 0.1,
    test: float = 0.1,
    held_out: Collection[int] = (),
) -> Split:
    """Split the rows of each label on their own, so that every label has its share of every part.

    Args:
        labels: ``(num_rows,)`` whole numbers; each occurs at least twice.
        seed: Of the permutations.
        validation: Share of the rows of each label.
        test: Likewise.
        held_out: Labels whose rows all go to the test part.

    Raises:
        ConfigError, DataError: As for `split_rows`.
    """
    parts: list[tuple[np.ndarray, ...]] = []
    for label in np.unique(labels).tolist():
        rows = np.flatnonzero(labels == label).astype(np.int64)
        if label in held_out:
            parts.append((rows[:0], rows[:0], rows))
            continue
        # A seed of its own per label: labels of equal size would otherwise be split alike.
        own = int(np.random.SeedSequence([seed, label]).generate_state(1, np.uint64)[0] >> 1)
        inner = split_rows(len(rows), seed=own, validation=validation, test=test)
        parts.append((rows[inner.train], rows[inner.validation], rows[inner.test]))
    return Split(*(np.sort(np.concatenate(part)) for part in zip(*parts, strict=True)))


def _split_groups(groups: np.ndarray, generator: np.random.Generator, validation: float, test: float) -> Split:
    _, label, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise DataError("all rows belong to one group, which cannot be split", remedy="Split without groups.")
    shuffled = generator.permutation(len(sizes))
    largest = int(np.argmax(sizes))  # trains, whatever the draw: it may hold most of the rows
    shuffled = np.append(shuffled[shuffled != largest], largest)
    rows = np.cumsum(sizes[shuffled])
    least_test, least_validation = (min(n, 1) for n in _sizes(len(sizes), validation, test))
    # Groups in random order go to the test part until it is full, then to validation, the rest to training.
    num_test = max(int(np.searchsorted(rows, test * len(groups), side="right")), least_test)
    held = int(np.searchsorted(rows, (validation + test) * len(groups), side="right"))
    num_validation = max(held - num_test, least_validation)
    num_test = min(num_test, len(sizes) - 1 - least_validation)
    num_validation = min(num_validation, len(sizes) - 1 - num_test)
    rank = np.empty(len(sizes), np.int64)
    rank[shuffled] = np.arange(len(sizes))
    part = np.digitize(rank[label], [num_test, num_test + num_validation])
    test_rows, validation_rows, train_rows = (np.flatnonzero(part == i).astype(np.int64) for i in range(3))
    return Split(train_rows, validation_rows, test_rows)


def _sizes(count: int, validation: float, test: float) -> tuple[int, int]:
    """How many go to the test and the validation part, with at least one left to train on."""
    wanted_validation = max(round(count * validation), 1) if validation > 0 else 0
    wanted_test = max(round(count * test), 1) if test > 0 else 0
    room = count - 1
    num_validation = min(wanted_validation, max(room - min(wanted_test, 1), 1))
    return min(wanted_test, room - num_validation), num_validation


def _parts(order: np.ndarray, num_test: int, num_validation: int) -> Split:
    test, validation, train = np.split(order, [num_test, num_test + num_validation])
    return Split(np.sort(train), np.sort(validation), np.sort(test))
