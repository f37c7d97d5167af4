"""What the data check notices, and what it refuses."""

import math

import numpy as np
import pytest

from advect.data.check import check_table, refuse_unusable
from advect.data.rows import repeated_rows, row_keys, shared_rows
from advect.data.schema import infer_schema
from advect.data.split import Split, split_rows
from advect.errors import DataError
from tests.data.made import image_table, make_table, mixed_table

RANDOM = np.random.Generator(np.random.PCG64(7))
NORMAL = RANDOM.standard_normal(1000)


def findings(columns, split=None, **rest):
    table = make_table(columns, **rest)
    return check_table(table, infer_schema(table), split)


def kinds(found, where):
    return {f.kind for f in found if f.where == where}


def refuse(columns, **rest):
    table = make_table(columns, **rest)
    refuse_unusable(table, infer_schema(table))


def test_a_clean_table_has_no_findings():
    assert findings({"a": NORMAL, "b": RANDOM.standard_normal(1000)}) == ()


def test_each_kind_is_found_once_and_only_where_it_is():
    spike = NORMAL.copy()
    spike[:25] = 500001.5
    gappy = NORMAL[::-1].copy()
    gappy[:10] = np.nan
    found = findings(
        {
            "clean": RANDOM.standard_normal(1000),
            "gappy": gappy,
            "same": np.full(1000, 3.0),
            "count": RANDOM.integers(0, 5, 1000),
            "steps": np.round(RANDOM.standard_normal(1000), 1),
            "wide": RANDOM.choice(10**6, 1000, replace=False),
            "tails": np.sinh(3 * RANDOM.standard_normal(1000)),
            "spike": RANDOM.permutation(spike),
            "colour": RANDOM.choice(["r", "g"], 1000).astype(object),
        }
    )
    assert kinds(found, "clean") == set()
    assert kinds(found, "gappy") == {"missing"}
    assert kinds(found, "same") == {"constant"}
    for name in ("count", "steps", "wide", "colour"):
        assert kinds(found, name) == {"discrete"}
    assert kinds(found, "tails") == {"heavy tails"}
    assert kinds(found, "spike") == {"repeated value", "heavy tails"}
    by_kind = {f.kind: f for f in found}
    assert by_kind["missing"].message == "10 of 1000 values are missing (1.0%)"
    assert "500002 stands in 25 of 1000 rows (2.5%)" in by_kind["repeated value"].message
    assert "always 3.0" in by_kind["constant"].message
    assert all(f.action for f in found)


def test_a_spike_among_steps_is_seen():
    values = np.round(RANDOM.standard_normal(1000), 1) + 0.05
    values[:300] = 9.95
    found = {f.kind: f.message for f in findings({"x": values}) if f.where == "x"}
    assert set(found) == {"discrete", "repeated value"}
    assert "9.95 stands in 300 of 1000 rows" in found["repeated value"]


def test_capped_whole_numbers_are_a_repeated_value():
    """The capped house values of the California table: whole numbers with one atom."""
    values = RANDOM.choice(499_000, 1000, replace=False).astype(np.float64)
    values[:40] = 500_001
    found = [f for f in findings({"value": values, "x": NORMAL}) if f.kind == "repeated value"]
    assert [f.where for f in found] == ["value"]
    assert "500001 stands in 40" in found[0].message


def test_duplicates_are_counted_also_across_the_split():
    """Trap D2: held-out rows that also stand in training are counted."""
    values = NORMAL[:100].copy()
    words = np.array([f"w{i % 10}" for i in range(100)], dtype=object)
    values[90:] = values[:10]
    values[50], values[51], words[51] = math.nan, math.nan, words[50]
    table = make_table({"x": values, "w": words})
    schema = infer_schema(table)
    assert repeated_rows(row_keys(table, schema)) == 11  # ten copies, and two rows with the same gap
    split = Split(np.arange(80), np.arange(80, 95), np.arange(95, 100))
    assert shared_rows(row_keys(table, schema), split) == 10
    found = {f.kind: f.message for f in check_table(table, schema, split)}
    assert found["duplicate rows"] == "11 of 100 rows repeat another row"
    assert found["duplicate rows across the split"].startswith("10 of 20 held-out rows (50.0%)")
    grouped = split_rows(100, seed=0, groups=row_keys(table, schema))
    assert shared_rows(row_keys(table, schema), grouped) == 0


def test_rows_are_equal_only_when_every_column_is():
    table = make_table({"a": [0.0, -0.0, 1.0, 0.0], "b": [1.5, 1.5, 0.5, 2.5], "ignored": [1.0, 2.0, 3.0, 4.0]})
    keys = row_keys(table, infer_schema(table, condition=("ignored",)))
    assert keys[0] == keys[1]  # 0 and −0 are one number
    assert len(set(keys.tolist())) == 3
    swapped = make_table({"a": [1.0, 2.0], "b": [2.0, 1.0]})
    assert len(set(row_keys(swapped, infer_schema(swapped)).tolist())) == 2


def test_columns_that_determine_each_other():
    found = findings({"celsius": NORMAL, "fahrenheit": 32 + 1.8 * NORMAL, "noisy": NORMAL + 0.01 * NORMAL[::-1]})
    assert [(f.kind, f.where) for f in found] == [("correlated", "celsius, fahrenheit")]
    found = findings({"plus": NORMAL * 1e25, "minus": -NORMAL * 1e-25})
    assert "correlated" in {f.kind for f in found}  # no overflow, no underflow


def test_few_rows_and_scales():
    found = findings({"a": NORMAL[:25], "b": 1e6 * NORMAL[25:50], "c": NORMAL[50:75]})
    assert kinds(found, "rows") == {"few rows"}
    assert kinds(found, "columns") == {"scales"}
    message = next(f.message for f in found if f.kind == "scales")
    assert message.startswith("'b' spreads")


def test_many_alike_findings_are_told_at_once():
    found = findings({f"c{i}": RANDOM.integers(0, 4, 500) for i in range(30)})
    assert len(found) == 1
    assert found[0].where == "30 columns"
    assert "27 more" in found[0].message


def test_what_reading_decided_is_told():
    found = findings({"a": NORMAL}, notes=("semicolons between the cells",))
    assert [(f.kind, f.message) for f in found] == [("reading", "semicolons between the cells")]


def test_pictures_are_told_as_a_whole():
    pixels = RANDOM.integers(0, 17, (50, 1, 4, 4)).astype(np.float64)
    pixels[:, 0, 0] = 0
    table = image_table(pixels)
    found = check_table(table, infer_schema(table))
    assert [(f.kind, f.where) for f in found] == [("discrete", "pixels"), ("constant", "pixels")]
    assert found[1].message == "4 of 16 pixels never change"
    refuse_unusable(table, infer_schema(table))


def test_the_mixed_table_is_usable():
    table = mixed_table(300)
    refuse_unusable(table, infer_schema(table))
    found = check_table(table, infer_schema(table), split_rows(300, seed=0))
    assert {"missing", "constant", "discrete", "heavy tails"} <= {f.kind for f in found}


@pytest.mark.parametrize(
    ("columns", "rest", "message"),
    [
        ({"a": np.zeros(0)}, {}, "no rows cannot be learned"),
        ({"a": np.array([0.5])}, {}, "one row cannot be learned"),
        ({"a": np.array([2.0, 2.0]), "b": ["x", "x"]}, {}, "every column is constant"),
        (
            {"a": np.array([0.5, 1.5]), "b": np.array([math.nan, math.nan])},
            {},
            "'b': the column holds nothing but gaps",
        ),
        ({"a": np.array([0.5, 1.5]), "b": np.array([None, None], dtype=object)}, {}, "nothing but gaps"),
        ({"a": np.array([0.5, 2.0, -math.inf])}, {}, r"infinite value in row 2 .*'a'"),
        ({"x0": np.array([0.5, 1.5, math.nan])}, {"container": "numpy"}, r"NaN in row 2 .*'x0'"),
        ({"a": np.array([0.5, -1e31])}, {}, r"-1e\+31 in row 1 .*too large"),
        ({"a": np.array([1e-32, 2e-32])}, {}, "too little for 32-bit"),
    ],
)
def test_unusable_data_are_refused_with_the_place(columns, rest, message):
    with pytest.raises(DataError, match=message):
        refuse(columns, **rest)


def test_no_columns_are_refused():
    table = make_table({"label": np.array([1, 2])})
    with pytest.raises(DataError, match="no columns to model"):
        refuse_unusable(table, infer_schema(table, condition=("label",)))


def test_a_constant_with_gaps_may_be_learned():
    refuse({"a": np.array([2.0, math.nan, 2.0])})
