"""Kinds, bounds and categories of columns; the stored form of a schema."""

import json

import numpy as np
import pytest

from advect.data.schema import infer_schema, schema_from_dict, schema_to_dict
from advect.errors import DataError, UnknownNameError
from advect.records import Column
from tests.data.made import image_table, make_table, mixed_table


def column(values, **rest):
    """The schema of a one-column table."""
    return infer_schema(make_table({"a": values}, **rest)).columns[0]


@pytest.mark.parametrize(
    ("values", "kind", "dtype", "low", "high"),
    [
        (np.array([0.5, 2.0, -1.0]), "continuous", "float64", -1.0, 2.0),
        (np.array([880.0, 7.0]), "integer", "float64", 7.0, 880.0),
        (np.array([3.0, np.nan, 5.0]), "integer", "float64", 3.0, 5.0),
        (np.array([3, 5], dtype=np.uint8), "integer", "uint8", 3.0, 5.0),
        (np.array([True, False]), "boolean", "bool", 0.0, 1.0),
        (np.array([1.5, np.nan], dtype=np.float32), "continuous", "float32", 1.5, 1.5),
        (np.array([1e20, 3e20]), "continuous", "float64", 1e20, 3e20),
    ],
)
def test_kind_follows_the_values_not_their_storage(values, kind, dtype, low, high):
    """Trap D5: whole numbers are found whatever their dtype, which is kept beside."""
    found = column(values)
    assert (found.kind, found.dtype, found.minimum, found.maximum) == (kind, dtype, low, high)
    assert found.missing == bool(np.isnan(values.astype(float)).any())


def test_categories_are_sorted_or_as_the_frame_declared_them():
    assert column(["b", "a", None, "b"]) == Column("a", "categorical", "str", categories=("a", "b"), missing=True)
    declared = column(["low", "high"], dtypes={"a": "category"}, categories={"a": ("low", "mid", "high")})
    assert declared.categories == ("low", "mid", "high")
    assert column(np.array([3, 1], dtype=object), dtypes={"a": "category"}).categories == (1, 3)


def test_booleans_with_gaps_are_boolean():
    values = np.array([True, None, True], dtype=object)
    assert column(values) == Column("a", "boolean", "str", 1.0, 1.0, missing=True)


def test_numbers_in_an_object_column_are_numbers():
    found = column(np.array([1, None, 2.5], dtype=object))
    assert (found.kind, found.minimum, found.maximum, found.missing) == ("continuous", 1.0, 2.5, True)


def test_a_few_far_apart_whole_numbers_are_levels_only_when_they_repeat():
    assert column(np.repeat([10, 500, 90_000], 30)).categories == (10, 500, 90_000)
    assert column(np.array([10, 500, 90_000])).categories == ()
    assert column(np.repeat([10, 50, 90], 30)).categories == ()  # the whole range is enumerated anyway


@pytest.mark.parametrize("count", [30, 2000])
def test_identifiers_are_refused(count):
    names = [f"user{i}@example.org" for i in range(count)]
    with pytest.raises(DataError, match=r"column 'a'.*identifiers.*Leave the column out"):
        column(names)


def test_many_but_repeating_categories_are_kept_up_to_a_thousand():
    assert len(column([f"c{i % 1000}" for i in range(3000)]).categories) == 1000
    with pytest.raises(DataError, match="1001 different values"):
        column([f"c{i % 1001}" for i in range(5000)])


def test_mixed_and_foreign_values_are_refused_with_the_row():
    with pytest.raises(DataError, match=r"column 'a'.*row 1 .*'two'"):
        column(np.array([1.0, "two", 3.0], dtype=object))
    with pytest.raises(DataError, match=r"row 0 .*list"):
        column(np.array([[1], None], dtype=object))
    with pytest.raises(DataError, match="datetime64"):
        column(np.array(["2020-01-01"], dtype="datetime64[D]"))


def test_condition_is_taken_from_columns_and_sides():
    table = make_table(
        {"a": [0.5, 1.5], "label": np.array([3, 900]), "b": [0.1, 0.2]}, sides={"time": np.array([0.0, 0.5])}
    )
    schema = infer_schema(table, condition=("label", "time"))
    assert schema.names == ("a", "b")
    assert schema.event_shape == (2,)
    assert [c.name for c in schema.condition] == ["label", "time"]
    assert schema.condition[0].categories == (3, 900)
    with pytest.raises(UnknownNameError, match=r"There is no column 'lable'. Did you mean 'label'"):
        infer_schema(table, condition=("lable",))


def test_a_condition_has_one_value_per_row():
    table = make_table({"a": [0.5, 1.5]}, sides={"label": np.zeros((2, 3)), "empty": np.array([np.nan, np.nan])})
    with pytest.raises(DataError, match=r"shape \(2, 3\)"):
        infer_schema(table, condition=("label",))
    with pytest.raises(DataError, match="nothing but gaps"):
        infer_schema(table, condition=("empty",))


def test_pixels_are_alike():
    pixels = np.zeros((3, 1, 2, 2))
    pixels[0, 0, 1, 1] = 16.0
    schema = infer_schema(image_table(pixels))
    assert {(c.kind, c.minimum, c.maximum) for c in schema.columns} == {("integer", 0.0, 16.0)}
    assert infer_schema(image_table(pixels / 16 + 0.01)).columns[0].kind == "continuous"
    labelled = image_table(pixels, sides={"label": np.array([0, 1, 2])})
    assert infer_schema(labelled, condition=("label",)).condition[0].categories == (0, 1, 2)
    assert infer_schema(labelled, condition=("label",)).event_shape == (1, 2, 2)
    with pytest.raises(UnknownNameError, match="without side columns"):
        infer_schema(image_table(pixels), condition=("label",))


@pytest.mark.parametrize(
    "schema",
    [
        infer_schema(mixed_table(), condition=("colour", "age")),
        infer_schema(image_table(np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2), key="x_train")),
        infer_schema(make_table({"a": [0.1, 1 / 3]}, container="numpy", event_shape=(1,))),
    ],
    ids=["mixed", "image", "array"],
)
def test_schema_survives_json(schema):
    stored = json.loads(json.dumps(schema_to_dict(schema), allow_nan=False))
    assert schema_from_dict(stored) == schema


def test_stored_schema_is_strict_and_small():
    stored = schema_to_dict(infer_schema(image_table(np.zeros((2, 3, 32, 32), dtype=np.uint8))))
    assert len(json.dumps(stored)) < 500  # 3072 alike pixels are stored once
    stored = schema_to_dict(infer_schema(mixed_table()))
    with pytest.raises(DataError, match="unknown flavour"):
        schema_from_dict({**stored, "flavour": 1})
    with pytest.raises(DataError, match="lacks columns"):
        schema_from_dict({k: v for k, v in stored.items() if k != "columns"})
    with pytest.raises(DataError, match="column holds the unknown colour"):
        schema_from_dict({**stored, "columns": [{**stored["columns"][0], "colour": 1}]})
