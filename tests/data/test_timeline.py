"""Times are read as people write them, put in order, and refused where nothing can be learnt between them."""

from dataclasses import replace

import numpy as np
import pytest

from advect.data import read_table, split_within
from advect.data.timeline import FEWEST_ROWS, read_timeline
from advect.errors import ConfigError, DataError, UnknownNameError
from advect.records import Table


def table(values, *, ordered=(), categories=None) -> Table:
    """Rows of one column beside their times."""
    values = np.asarray(values)
    if values.dtype.kind in "US":
        values = values.astype(object)
    dtype = "str" if values.dtype.kind == "O" else str(values.dtype)
    return Table(
        names=("x", "day"), columns=(np.arange(len(values), dtype=float), values), container="csv", event_shape=(2,),
        dtypes=("float64", dtype), categories={} if categories is None else {"day": categories},
        ordered=frozenset(ordered),
    )  # fmt: skip


def repeated(*words, rows: int = FEWEST_ROWS):
    return [word for word in words for _ in range(rows)]


@pytest.mark.parametrize(
    ("words", "times", "unseen", "word"),
    [
        ((3, 0, 1), (0.0, 1.0, 3.0), 2.0, "2"),
        ((0.5, 1.25), (0.5, 1.25), 0.75, "0.75"),
        (("day10", "day2", "day4"), (2.0, 4.0, 10.0), 4.5, "day4.5"),
        (("D7.5", "D8", "D7"), (7.0, 7.5, 8.0), 7.25, "D7.25"),
        (("4h", "12h", "-2h"), (-2.0, 4.0, 12.0), 0.0, "0h"),
        (("E8.5", "E7.25"), (7.25, 8.5), 8.0, "E8"),  # an embryonic day, not a power of ten
        (("wk-1", "wk-2"), (1.0, 2.0), 1.5, "wk-1.5"),
    ],
)
def test_numbers_and_texts_with_one_number(words, times, unseen, word):
    line, snapshot = read_timeline(table(repeated(*words)), "day")
    assert line.times == times
    assert snapshot.tolist() == repeated(*(times.index(line.parse(w)) for w in words))
    assert line.word(unseen) == word
    assert line.parse(word) == line.parse(unseen) == line.parse(f"{unseen:g}") == unseen
    assert [line.parse(w) for w in line.words] == list(times)
    assert line.position(times[0]) == 0
    assert line.position(times[-1]) == 1
    assert line.time(line.position(unseen)) == pytest.approx(unseen, abs=1e-12)


def test_an_ordered_category_without_numbers_is_one_apart():
    words = ("late", "early", "middle")
    given = table(repeated(*words), ordered=["day"], categories=("early", "never", "middle", "late"))
    line, snapshot = read_timeline(given, "day")
    assert line.words == ("early", "middle", "late")
    assert line.times == (0.0, 1.0, 2.0)
    assert snapshot.tolist() == repeated(2, 0, 1)
    assert line.parse("middle") == 1
    assert line.parse(0.5) == 0.5


def test_ordered_categories_of_pandas_are_known_to_be_ordered():
    pandas = pytest.importorskip("pandas")
    words = pandas.Categorical(repeated("late", "early"), categories=["early", "late"], ordered=True)
    frame = pandas.DataFrame({"x": np.arange(2.0 * FEWEST_ROWS), "day": words})
    assert read_timeline(read_table(frame), "day")[0].words == ("early", "late")
    frame["day"] = frame["day"].cat.as_unordered()
    with pytest.raises(DataError, match="words without an order"):
        read_timeline(read_table(frame), "day")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (repeated(1, 1), "all rows are of one time, 1"),
        (repeated("early", "late"), "words without an order"),
        (repeated("4h", "1d"), "written in different ways"),
        (repeated("day4", "day4.0"), "one time is written in several ways"),
        (repeated("d1r1", "d1r2"), "words without an order"),
        (repeated(0, 1) + [2] * 3, "the time 2 has fewer than"),
        (list(range(50)), "50 of 50 times have fewer than"),
        (np.array([np.nan, *repeated(0.0, 1.0)]), "1 rows have no time, first row 0"),
        (np.array([None, *repeated("a1", "a2")], dtype=object), "1 rows have no time"),
        (np.array(repeated(True, False)), "true and false are no times"),
    ],
)
def test_times_that_cannot_be_used(values, message):
    with pytest.raises(DataError, match=message):
        read_timeline(table(values), "day")


def test_an_unknown_column_and_a_matrix_of_times():
    with pytest.raises(UnknownNameError, match="'day'"):
        read_timeline(table(repeated(0, 1)), "dya")
    wide = replace(table(repeated(0, 1)), sides={"t": np.zeros((2 * FEWEST_ROWS, 2))})
    with pytest.raises(DataError, match="one per row is needed"):
        read_timeline(wide, "t")


def test_leaving_times_out():
    line, _ = read_timeline(table(repeated("d0", "d1", "d3", "d4")), "day")
    left = line.without(["d3", 1])
    assert left.left_out == (1.0, 3.0)
    assert left.trained == (0.0, 4.0)
    assert left.neighbours(3.0) == (0.0, 4.0)
    assert line.without(["3"]).neighbours(3.0) == (1.0, 4.0)
    for wrong, message in (
        ("d0", "the first time"),
        ("d4", "the last time"),
        ("d2", "no time d2"),
        ("x", "no time of"),
    ):
        with pytest.raises(ConfigError, match=message):
            line.without([wrong])


def test_no_time_outside_the_data():
    line, _ = read_timeline(table(repeated("d2", "d4")), "day")
    for beyond in (1.9, 4.1):
        with pytest.raises(ConfigError, match="outside the times of the data, d2 to d4"):
            line.position(beyond)


def test_times_go_back_in_the_data_s_own_kind():
    whole, _ = read_timeline(table(repeated(0, 2)), "day")
    assert whole.column(np.array([0.0, 1.0])).dtype == np.int64
    assert whole.column(np.array([0.5])).tolist() == [0.5]
    words, _ = read_timeline(table(repeated("d0", "d2")), "day")
    assert words.column(np.array([0.0, 1.5])).tolist() == ["d0", "d1.5"]
    assert words.read(table(["d1", "d2"])).tolist() == [1.0, 2.0]
    with pytest.raises(DataError, match="'noon' is no time"):
        words.read(table(["d1", "noon"]))


def test_every_label_has_its_share_of_every_part():
    labels = np.repeat([0, 1, 2], [100, 40, 30])
    split = split_within(labels, seed=3, validation=0.1, test=0.2, held_out=[1])
    parts = {name: np.bincount(labels[getattr(split, name)], minlength=3) for name in ("train", "validation", "test")}
    assert parts["test"].tolist() == [20, 40, 6]
    assert parts["validation"].tolist() == [10, 0, 3]
    assert parts["train"].tolist() == [70, 0, 21]
    assert sorted(np.concatenate([split.train, split.validation, split.test]).tolist()) == list(range(170))
    assert split.digest() == split_within(labels, seed=3, validation=0.1, test=0.2, held_out=[1]).digest()
    assert split.digest() != split_within(labels, seed=4, validation=0.1, test=0.2, held_out=[1]).digest()
