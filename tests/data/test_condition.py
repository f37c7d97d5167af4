"""Conditions as vectors: from tables, from what a user writes, and drawn."""

import json
import math

import numpy as np
import pytest
import torch

from advect.data.condition import ConditionCodec
from advect.data.schema import infer_schema
from advect.errors import ConfigError, DataError, ShapeError, UnknownNameError
from tests.data.made import make_table

SIZES = np.array([0.5, 1.5, 2.5, 3.5, 0.5, 1.5])


def table(**rest):
    return make_table(
        {
            "x": np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
            "place": ["INLAND", "<1H OCEAN", "INLAND", "NEAR BAY", "INLAND", "NEAR BAY"],
            "size": SIZES,
            "flag": np.array([True, False, True, False, True, False]),
        },
        **rest,
    )


def fitted(*names, given=None):
    given = given or table(sides={"label": np.array([7, 3, 7, 7, 3, 7])})
    return ConditionCodec.fit(given, infer_schema(given, condition=names))


def test_vector_is_flag_then_labels_then_scales():
    codec = fitted("place", "size", "label", "flag")
    assert codec.width == 1 + 3 + 1 + 2 + 2
    vectors = codec.encode(table(sides={"label": np.array([7, 3, 7, 7, 3, 7])}))
    assert vectors.dtype == torch.float32
    z = (SIZES - SIZES.mean()) / SIZES.std()
    # categories sorted: <1H OCEAN, INLAND, NEAR BAY; labels 3, 7; False, True
    assert vectors[0].tolist() == pytest.approx([1, 0, 1, 0, z[0], 0, 1, 0, 1])
    assert vectors[1].tolist() == pytest.approx([1, 1, 0, 0, z[1], 1, 0, 1, 0])


def test_discrete_conditions_say_so():
    assert fitted("place").is_discrete
    assert fitted("label", "flag").is_discrete
    assert not fitted("label", "size").is_discrete
    many = make_table({"x": np.linspace(0, 1, 50), "year": np.arange(1950, 2000)})
    years = fitted("year", given=many)
    assert not years.is_discrete
    assert years.width == 2


def test_gaps_have_an_empty_block():
    places = np.array(["a", None, "b"], dtype=object)
    given = make_table({"x": [0.1, 0.2, 0.3], "place": places, "size": np.array([1.5, math.nan, 2.5])})
    vectors = fitted("place", "size", given=given).encode(given)
    assert vectors[1].tolist() == [1, 0, 0, 0]
    assert vectors[0].tolist() == [1, 1, 0, -1]


@pytest.mark.parametrize("text", ["INLAND", "place=INLAND", " place = INLAND "])
def test_a_label_as_text(text):
    assert fitted("place").parse(text, 2).tolist() == [[1, 0, 1, 0]] * 2


@pytest.mark.parametrize(
    "stated", ["7", 7, 7.0, "label=7", "7.0", {"label": 7}, np.int64(7), [7, 7], torch.tensor([7, 7])]
)
def test_a_whole_label_in_every_form(stated):
    assert fitted("label").parse(stated, 2).tolist() == [[1, 0, 1]] * 2


def test_several_conditions_as_text():
    codec = fitted("place", "size", "flag")
    z = (2.5 - SIZES.mean()) / SIZES.std()
    expected = pytest.approx([1, 1, 0, 0, z, 0, 1])
    assert codec.parse("place=<1H OCEAN,size=2.5,flag=true", 1)[0].tolist() == expected
    assert codec.parse({"flag": True, "size": 2.5, "place": "<1H OCEAN"}, 1)[0].tolist() == expected
    per_row = codec.parse({"flag": [True, False], "size": [2.5, 1.5], "place": "<1H OCEAN"}, 2)
    assert per_row[0].tolist() == expected
    assert per_row[1, -2:].tolist() == [1, 0]


def test_categories_with_commas_and_equals_signs():
    given = make_table({"x": [0.1, 0.2, 0.3], "c": ["a, b", "k=v", "plain"], "n": [0.5, 1.5, 2.5]})
    single = fitted("c", given=given)
    assert single.parse("a, b", 1).tolist() == [[1, 1, 0, 0]]
    assert single.parse("k=v", 1).tolist() == [[1, 0, 1, 0]]
    assert fitted("c", "n", given=given).parse("c=a, b,n=1.5", 1)[0, :4].tolist() == [1, 1, 0, 0]


def test_no_condition_is_the_zero_vector():
    assert fitted("place", "size").parse(None, 3).tolist() == [[0] * 5] * 3


def test_what_is_not_known_is_refused_with_the_nearest():
    codec = fitted("place", "size")
    with pytest.raises(
        UnknownNameError, match=r"no category 'INLND'. Did you mean 'INLAND'\? Known: <1H OCEAN, INLAND"
    ):
        codec.parse("place=INLND,size=1", 1)
    with pytest.raises(UnknownNameError, match=r"no condition 'plase'. Did you mean 'place'"):
        codec.parse("plase=INLAND", 1)
    with pytest.raises(UnknownNameError, match=r"no condition 'sise'. Did you mean 'size'"):
        codec.parse("place=INLAND,sise=1", 1)
    with pytest.raises(UnknownNameError, match="no condition 'sise'"):
        codec.parse({"place": "INLAND", "sise": 1}, 1)
    with pytest.raises(
        ConfigError, match=r"condition 'size': 'big' is not a number. Training saw values from 0.5 to 3.5"
    ):
        codec.parse("place=INLAND,size=big", 1)
    with pytest.raises(ConfigError, match="no value for the condition 'size'"):
        codec.parse("place=INLAND", 1)
    with pytest.raises(ConfigError, match="does not say which"):
        codec.parse("INLAND", 1)
    with pytest.raises(ShapeError, match="3 values for the condition 'label', 2 rows"):
        fitted("label").parse([7, 7, 3], 2)
    with pytest.raises(UnknownNameError, match="no category '5'"):
        fitted("label").parse("5", 1)
    with pytest.raises(UnknownNameError, match="no category 'maybe'"):
        fitted("flag").parse("maybe", 1)


def test_tables_are_checked_too():
    codec = fitted("place")
    other = make_table({"x": [0.1, 0.2], "place": ["INLAND", "ISLAND"]})
    with pytest.raises(
        UnknownNameError, match=r"row 1 \(counted from 0\), column 'place': There is no category 'ISLAND'"
    ):
        codec.encode(other)
    with pytest.raises(DataError, match=r"condition 'place' is missing. Is 'plase' meant"):
        codec.encode(make_table({"x": [0.1], "plase": ["INLAND"]}))
    with pytest.raises(ConfigError, match="no condition"):
        ConditionCodec.fit(table(), infer_schema(table()))


def test_draws_follow_the_observed_frequencies(generator):
    codec = fitted("place", "flag")
    drawn = codec.draw(30_000, generator)
    data = codec.encode(table())
    rows = {tuple(r) for r in data.tolist()}
    assert {tuple(r) for r in drawn.tolist()} == rows  # jointly: only pairs that occur
    inland = drawn[:, 2].mean().item()
    assert inland == pytest.approx(0.5, abs=5 * math.sqrt(0.25 / 30_000))


def test_draws_of_a_scale_are_seen_values(generator):
    values = np.random.Generator(np.random.PCG64(0)).standard_normal(5000)
    given = make_table({"x": values[::-1].copy(), "size": values})
    codec = fitted("size", given=given)
    assert len(codec.examples) == 1000
    drawn = codec.draw(20_000, generator, dtype=torch.float64)[:, 1]
    # A thousand kept rows of five thousand: their mean and spread are those of the data to a few times 1/√1000.
    assert drawn.mean().abs() < 0.2
    assert drawn.std().item() == pytest.approx(1.0, abs=0.15)
    assert set(drawn.tolist()) <= set(codec.encode(given, dtype=torch.float64)[:, 1].tolist())


def test_codec_survives_json(generator):
    gappy = make_table({"x": [0.1, 0.2, 0.3], "c": ["a", None, "b"], "n": np.array([1 / 3, math.nan, 0.5])})
    codec = fitted("c", "n", given=gappy)
    again = ConditionCodec.from_dict(json.loads(json.dumps(codec.to_dict(), allow_nan=False)))
    assert torch.equal(again.encode(gappy), codec.encode(gappy))
    state = generator.get_state()
    first = codec.draw(100, generator)
    assert torch.equal(again.draw(100, generator.set_state(state)), first)
    assert again.columns == codec.columns
    with pytest.raises(DataError, match="condition codec"):
        ConditionCodec.from_dict({**codec.to_dict(), "more": 1})
