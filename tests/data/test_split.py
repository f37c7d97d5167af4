"""Splits are a function of rows and seed, complete, disjoint, and keep groups together."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advect.data.split import split_rows
from advect.errors import ConfigError, DataError, ShapeError


@given(
    num_rows=st.integers(3, 400),
    seed=st.integers(0, 2**31),
    validation=st.floats(0.01, 0.45),
    test=st.floats(0.01, 0.45),
)
def test_every_row_once_and_no_part_empty(num_rows, seed, validation, test):
    split = split_rows(num_rows, seed=seed, validation=validation, test=test)
    parts = (split.train, split.validation, split.test)
    assert all(len(p) >= 1 and p.dtype == np.int64 for p in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(num_rows))
    if num_rows >= 100:
        assert abs(len(split.test) - test * num_rows) <= 1
        assert abs(len(split.validation) - validation * num_rows) <= 1


def test_seed_decides_and_the_digest_tells():
    first, again, other = (split_rows(1000, seed=s) for s in (3, 3, 4))
    assert first.digest() == again.digest() != other.digest()
    assert len(first.digest()) == 64
    assert [len(first.train), len(first.validation), len(first.test)] == [800, 100, 100]
    # A row that changes sides changes the digest even when the rows, read one after another, stay the same.
    moved = type(first)(first.train[:-1], np.append(first.train[-1], first.validation), first.test)
    assert moved.digest() != first.digest()


def test_global_numpy_generator_is_untouched():
    before = np.random.get_state()[1].copy()  # noqa: NPY002 (reading the global state is the test)
    split_rows(100, seed=0)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_two_rows_and_parts_not_asked_for():
    split = split_rows(2, seed=0)
    assert [len(split.train), len(split.validation), len(split.test)] == [1, 1, 0]
    split = split_rows(2, seed=0, validation=0)
    assert [len(split.train), len(split.validation), len(split.test)] == [1, 0, 1]
    split = split_rows(10, seed=0, validation=0, test=0)
    assert len(split.train) == 10


@given(
    sizes=st.lists(st.integers(1, 30), min_size=3, max_size=40), seed=st.integers(0, 1000), share=st.floats(0.02, 0.4)
)
def test_groups_stay_together(sizes, seed, share):
    """Trap D2: rows of one place never stand on two sides."""
    groups = np.repeat(np.arange(len(sizes)), sizes)[np.random.Generator(np.random.PCG64(seed)).permutation(sum(sizes))]
    split = split_rows(len(groups), seed=seed, validation=share, test=share, groups=groups)
    parts = (split.train, split.validation, split.test)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(groups)))
    labels = [set(groups[p].tolist()) for p in parts]
    assert all(labels)
    assert sum(len(part) for part in labels) == len(sizes)  # no label on two sides
    for held in parts[1:]:  # over its share by less than one group
        assert len(held) <= 2 * share * len(groups) + max(sizes)


def test_refusals():
    with pytest.raises(DataError, match="1 row cannot be split"):
        split_rows(1, seed=0)
    with pytest.raises(ConfigError, match="leave no rows"):
        split_rows(10, seed=0, validation=0.5, test=0.5)
    with pytest.raises(ConfigError, match=r"test: -0\.1"):
        split_rows(10, seed=0, test=-0.1)
    with pytest.raises(ConfigError, match="seed: -1"):
        split_rows(10, seed=-1)
    with pytest.raises(ShapeError, match="groups"):
        split_rows(10, seed=0, groups=np.zeros(9))
    with pytest.raises(DataError, match="one group"):
        split_rows(10, seed=0, groups=np.zeros(10))
