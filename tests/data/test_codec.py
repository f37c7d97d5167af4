"""Tables to coordinates and back: exact masses, exact round trips, refusals."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm

from advect.data.codec import Codec
from advect.data.prepared import add_noise
from advect.data.schema import infer_schema
from advect.errors import ConfigError, DataError, ShapeError
from advect.records import Status
from advect.transforms.preprocess import fit_preprocess
from tests.data.made import assert_same, image_table, make_table, mixed_table


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def fitted(table, **rest):
    return Codec.fit(table, infer_schema(table, **rest))


def correlated_normal(width):
    """A density that is not a product, on the preprocessed side: its mass is one, its cells have no simple form.

    Its covariance has eigenvalues 0.5 and 0.9, so that its ratio to the standard normal, the weight, is bounded.
    """
    covariance = 0.5 * torch.eye(width, dtype=torch.float64) + 0.4 / width
    return torch.distributions.MultivariateNormal(torch.full((width,), 0.2, dtype=torch.float64), covariance)


def weighted_estimates(codec, table, density, draws):
    """exp of log-density less log-proposal, ``(draws, rows)`` float64."""
    prepared = codec.prepare(table, dtype=torch.float64)
    generator = seeded(1)
    rows = torch.arange(prepared.num_rows).repeat(draws)
    coded = prepared.draw(rows, generator)
    return (density(coded.values) - coded.log_proposal).exp().reshape(draws, -1)


def push_forward(codec, table, base):
    """log q of coordinates: the base's density through the preprocessing that the codec asks for."""
    values = codec.encode(table, generator=seeded(), dtype=torch.float64).values
    scaling = fit_preprocess(values, codec.coordinates, codec.probabilities)

    def log_density(x):
        there = scaling.encode(x)
        return base.log_prob(there.value) + there.log_abs_det_jacobian

    return log_density


def every_row(levels):
    """The table of all combinations of the given columns' levels."""
    combinations = list(itertools.product(*levels.values()))
    return make_table({name: [row[i] for row in combinations] for i, name in enumerate(levels)})


def discrete_table(gaps):
    random = np.random.Generator(np.random.PCG64(2))
    columns = {
        "flag": random.integers(0, 2, 300).astype(bool),
        "colour": random.choice(["a", "b", "c"], 300, p=[0.7, 0.25, 0.05]).astype(object),
        "count": random.binomial(4, 0.3, 300).astype(np.float64),
    }
    levels = {"flag": [False, True], "colour": ["a", "b", "c"], "count": [0.0, 1.0, 2.0, 3.0, 4.0]}
    if gaps:
        columns["colour"][::4] = None
        columns["count"][::9] = np.nan
        levels["colour"].append(None)
        levels["count"].append(math.nan)
    return make_table(columns), every_row(levels)


@pytest.mark.parametrize("gaps", [False, True], ids=["complete", "gaps"])
def test_masses_of_all_rows_sum_to_one(gaps):
    """Trap D5: discrete columns have probability masses; also when a gap is one of the outcomes."""
    table, rows = discrete_table(gaps)
    codec = fitted(table)
    density = push_forward(codec, table, correlated_normal(len(codec.coordinates)))
    estimates = weighted_estimates(codec, rows, density, 4000)
    totals = estimates.sum(1)  # one draw of the whole sum per line
    error = totals.std() / math.sqrt(len(totals))
    assert abs(totals.mean() - 1) < 4 * error
    assert error < 0.02  # the test can tell one from 1.1


@pytest.mark.parametrize("gaps", [False, True], ids=["complete", "gaps"])
def test_a_product_law_gives_its_masses_without_noise(gaps):
    """With a standard normal base the cells are the smoothed frequencies, and every draw says so exactly."""
    table, rows = discrete_table(gaps)
    codec = fitted(table)
    base = torch.distributions.Independent(
        torch.distributions.Normal(torch.zeros(len(codec.coordinates), dtype=torch.float64), 1.0), 1
    )
    estimates = weighted_estimates(codec, rows, push_forward(codec, table, base), 3)
    probabilities = {c.name: codec.probabilities[i] for i, c in enumerate(codec.coordinates)}
    for row in range(rows.num_rows):
        expected = 1.0
        for name, values in zip(rows.names, rows.columns, strict=True):
            value, missing = values[row], f"{name} is missing"
            gap = value is None or value != value
            expected *= float(probabilities[missing][int(gap)]) if missing in probabilities else 1.0
            if not gap:
                expected *= float(probabilities[name]["abc".index(value) if isinstance(value, str) else int(value)])
        # Φ⁻¹ and Φ in float64 at up to 5 coordinates, |z| < 8: a relative error of about 1e-12 each.
        np.testing.assert_allclose(estimates[:, row].numpy(), expected, rtol=1e-9)
    assert estimates[0].sum().item() == pytest.approx(1.0, abs=1e-9)


def test_a_continuous_column_with_gaps_integrates_to_one():
    """∫ p(x, present) dx + p(missing) = 1: the fill is integrated out, whatever the flow thinks of it."""
    random = np.random.Generator(np.random.PCG64(3))
    values = random.normal(3.0, 2.0, 400)
    values[::3] = np.nan
    table = make_table({"x": values})
    codec = fitted(table)
    assert [c.role for c in codec.coordinates] == ["value", "indicator"]
    density = push_forward(codec, table, correlated_normal(2))
    grid = np.linspace(-20, 25, 901)  # ±11 standard deviations
    observed = weighted_estimates(codec, make_table({"x": grid}), density, 400)
    gap = weighted_estimates(codec, make_table({"x": np.array([math.nan])}), density, 40_000)
    total = observed.sum(1) * (grid[1] - grid[0])
    error = math.hypot(total.std() / math.sqrt(len(total)), gap.std() / math.sqrt(len(gap)))
    assert abs(total.mean() + gap.mean() - 1) < 4 * error
    assert error < 0.02


def test_wide_whole_numbers_have_the_mass_of_their_cell():
    random = np.random.Generator(np.random.PCG64(4))
    table = make_table({"x": random.normal(0, 300, 500).round()})
    codec = fitted(table)
    assert codec.coordinates[0].scaling == "standardise"
    mean, std = 10.0, 2.0  # narrow, so that the density changes within a cell
    density = torch.distributions.Normal(mean, std)
    rows = make_table({"x": np.arange(5.0, 16.0)})
    estimates = weighted_estimates(codec, rows, lambda x: density.log_prob(x[:, 0]), 20_000)
    edges = np.arange(5.0, 17.0)
    expected = np.diff(norm.cdf(edges, mean, std))
    error = estimates.std(0).numpy() / math.sqrt(20_000)
    assert (np.abs(estimates.mean(0).numpy() - expected) < 5 * error + 1e-12).all()


def test_log_proposal_is_the_density_of_what_was_drawn():
    table = mixed_table(400)
    codec = fitted(table)
    coded = codec.encode(table, generator=seeded(), dtype=torch.float64)
    place = {(c.name, c.role): i for i, c in enumerate(codec.coordinates)}
    expected = np.zeros(400)
    gaps = np.isnan(table.columns[2])
    code = codec.codes[2]
    drawn = coded.values[:, place["gappy", "value"]].numpy()
    assert code.mean == pytest.approx(np.nanmean(table.columns[2]))
    assert code.std == pytest.approx(np.nanstd(table.columns[2]))
    expected += np.where(gaps, norm.logpdf(drawn, code.mean, code.std), 0)
    for name in ("colour", "counts", "answer"):
        column = table.columns[table.names.index(name)]
        gaps = np.array([v is None or v != v for v in column])
        level = coded.values[:, place[name, "value"]].long()
        expected += np.where(gaps, codec.probabilities[place[name, "value"]][level].log().numpy(), 0)
    # Sums of at most four terms of size ten in float64.
    np.testing.assert_allclose(coded.log_proposal.numpy(), expected, atol=1e-12)


def test_level_fills_follow_the_observed_frequencies():
    values = np.array(["a"] * 80 + ["b"] * 20 + [None] * 100, dtype=object)
    table = make_table({"x": values})
    codec = fitted(table)
    prepared = codec.prepare(table)
    level = prepared.draw(torch.full((20_000,), 150), seeded()).values[:, 0].floor()
    probability = codec.probabilities[0][1].item()
    assert level.mean().item() == pytest.approx(probability, abs=5 * math.sqrt(0.25 / 20_000))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mixed_tables_come_back(dtype):
    table = mixed_table()
    codec = fitted(table)
    coded = codec.encode(table, generator=seeded(), dtype=dtype)
    assert coded.values.dtype == coded.log_proposal.dtype == dtype
    assert coded.values.shape == (200, *codec.event_shape) == (200, len(codec.coordinates))
    assert torch.isfinite(coded.values).all()
    back = codec.decode(coded.values)
    if dtype == torch.float32:  # float64 columns keep the 24 bits of the coordinates
        columns = list(back.columns)
        for i in (1, 2):
            np.testing.assert_allclose(columns[i], table.columns[i], rtol=1e-6)
            columns[i] = table.columns[i]
        back = type(back)(**{**vars(back), "columns": tuple(columns)})
    assert_same(back, table)
    assert (back.container, back.event_shape) == ("csv", (12,))


def test_coordinates_of_a_mixed_table():
    codec = fitted(mixed_table())
    found = {c.name: (c.column, c.role, c.scaling, c.cells) for c in codec.coordinates}
    assert found == {
        "height": (0, "value", "standardise", 0),
        "income": (1, "value", "asinh", 0),
        "gappy": (2, "value", "standardise", 0),
        "gappy is missing": (2, "indicator", "cumulative", 2),
        "age": (3, "value", "cumulative", 89),
        "rooms": (4, "value", "standardise", 0),
        "code": (5, "value", "cumulative", 3),
        "counts": (6, "value", "cumulative", 9),
        "counts is missing": (6, "indicator", "cumulative", 2),
        "colour": (8, "value", "cumulative", 3),
        "colour is missing": (8, "indicator", "cumulative", 2),
        "flag": (9, "value", "cumulative", 2),
        "answer": (10, "value", "cumulative", 2),
        "answer is missing": (10, "indicator", "cumulative", 2),
    }
    assert sorted(codec.probabilities) == [i for i, c in enumerate(codec.coordinates) if c.scaling == "cumulative"]
    for p in codec.probabilities.values():
        assert p.sum().item() == pytest.approx(1.0, abs=1e-12)
        assert p.min() > 1e-5


dtypes = st.sampled_from(["int8", "uint8", "int16", "int32", "int64", "uint16", "float32", "float64", "bool"])


@given(data=st.data(), dtype=dtypes, rows=st.integers(2, 30), gaps=st.booleans())
def test_any_numbers_come_back_exactly_in_float64(data, dtype, rows, gaps):
    bits = np.dtype(dtype)
    if bits.kind == "f":
        elements = st.floats(-1e9, 1e9, width=32, allow_subnormal=False)
    elif bits.kind == "b":
        elements = st.booleans()
    else:
        # Whole numbers up to 2^31: value + u needs bits after the point, float64 leaves 21 of them.
        elements = st.integers(max(np.iinfo(bits).min, -(2**31)), min(np.iinfo(bits).max, 2**31))
    values = data.draw(hnp.arrays(bits, rows, elements=elements))
    if gaps and bits.kind == "f":
        values[data.draw(st.integers(0, rows - 1))] = np.nan
        if np.isnan(values).all():
            return
    values = values + 0.0 if bits.kind == "f" else values  # −0 is the same number as 0
    table = make_table({"x": values, "y": np.arange(float(rows)) / 7})
    codec = fitted(table)
    coded = codec.encode(table, generator=seeded(), dtype=torch.float64)
    back = codec.decode(coded.values)
    assert back.columns[0].dtype == bits
    if bits.kind == "f" and codec.codes[0].offset:
        # x − offset + offset rounds twice, at the size of x.
        np.testing.assert_allclose(back.columns[0], values, rtol=3e-16)
    else:
        np.testing.assert_array_equal(back.columns[0], values)


@given(values=st.lists(st.one_of(st.none(), st.text(max_size=5)), min_size=2, max_size=20))
def test_any_text_comes_back(values):
    if all(v is None for v in values):
        return
    column = np.empty(len(values), dtype=object)
    column[:] = values
    table = make_table({"x": column})
    codec = fitted(table)
    assert_same(codec.decode(codec.encode(table, generator=seeded()).values), table)


def test_declared_order_of_categories_survives():
    table = make_table(
        {"size": ["small", "large", "small"], "x": [0.5, 1.5, 2.5]},
        dtypes={"size": "category"},
        categories={"size": ("small", "medium", "large")},
    )
    codec = fitted(table)
    back = codec.decode(codec.encode(table, generator=seeded()).values)
    assert back.categories == {"size": ("small", "medium", "large")}
    assert_same(
        type(back)(**{**vars(back), "columns": (back.columns[0],), "names": ("size",), "dtypes": ("category",)}),
        make_table({"size": ["small", "large", "small"]}, dtypes={"size": "category"}),
    )


@pytest.mark.parametrize(
    ("word", "numpy_word"),
    [
        ("Int64", "int64"),
        ("Float32", "float32"),
        ("UInt8", "uint8"),
        ("double[pyarrow]", "float64"),
        ("float[pyarrow]", "float32"),
    ],
)
def test_dtypes_of_frames_have_their_numpy_twin(word, numpy_word):
    table = make_table({"x": np.array([1, 2, 3], dtype=numpy_word)}, dtypes={"x": word})
    codec = fitted(table)
    back = codec.decode(codec.encode(table, generator=seeded()).values)
    assert back.columns[0].dtype == np.dtype(numpy_word)
    assert back.dtypes == (word,)


def test_noise_never_reaches_the_next_whole_number():
    """The largest uniform below 1 rounds 255 + u up to 256 in float32."""
    whole = torch.tensor([[0.0, 1.0, 255.0, 2.0**22, 2.0**23, 2.0**24, -1.0, -255.0]])
    largest = torch.full_like(whole, 1 - 2.0**-24)
    assert ((whole + largest).floor() > whole).any()  # the trap is real
    noisy = add_noise(whole, largest)
    assert (noisy.floor() == whole).all()
    values = np.arange(2.0**22, 2.0**22 + 5000)
    table = make_table({"x": np.append(values, 0.0)})
    codec = fitted(table)
    assert codec.codes[0].offset == 0
    prepared = codec.prepare(table)
    for seed in range(5):
        back = codec.decode(prepared.draw(torch.arange(5001), seeded(seed)).values)
        np.testing.assert_array_equal(back.columns[0], table.columns[0])


def test_far_from_zero_columns_keep_their_detail_in_float32():
    """A time stamp near 1.7e9 s has a resolution of 128 s in float32; the coordinate is shifted."""
    stamps = 1.7e9 + np.arange(100_000, 101_000)
    table = make_table({"whole": stamps, "real": stamps + 0.25})
    codec = fitted(table)
    coded = codec.encode(table, generator=seeded())
    back = codec.decode(coded.values)
    np.testing.assert_array_equal(back.columns[0], table.columns[0])
    np.testing.assert_allclose(back.columns[1] - 1.7e9, table.columns[1] - 1.7e9, atol=1e-4)


def test_status_says_imputed_and_outside():
    train = make_table(
        {
            "n": np.array([1, 2, 5, 3]),
            "wide": np.array([0, 700, 10, 20]),
            "c": ["a", "b", "a", "b"],
            "same": np.array([4, 4, 4, 4]),
            "g": np.array([0.5, np.nan, 1.5, 2.5]),
            "x": np.array([0.1, 0.2, 0.3, 0.4]),
        }
    )
    codec = fitted(train)
    rows = {
        "n": np.array([1, 4, 9, 1, 1, 1, 1, 1, 2.5]),
        "wide": np.array([0, 5, 0, 0, 0, 0, 9999, 0.5, 0]),
        "c": ["a", "a", "a", "z", "a", "a", "b", "a", "a"],
        "same": np.array([4, 4, 4, 4, 5, 4, 4, 4, 4]),
        "g": np.array([1.5, np.nan, 1, 1, 1, 1, 1, 1, 1]),
        "x": np.array([0.1, 9.0, 0.1, 0.1, 0.1, np.nan, 0.1, 0.1, 0.1]),
    }
    coded = codec.encode(make_table(rows), generator=seeded())
    outside = Status.OUTSIDE_SUPPORT
    # 0 fits; 1 has a known gap; then: level out of range, unknown category, other constant, gap where none was seen,
    # a wide whole number beyond the bounds (the density covers it), two fractions among whole numbers.
    expected = [Status.OK, Status.IMPUTED, outside, outside, outside, outside, Status.OK, outside, outside]
    assert coded.status.dtype == torch.int8
    assert coded.status.tolist() == expected
    assert torch.isfinite(coded.values).all()
    assert torch.isfinite(coded.log_proposal).all()
    assert (coded.log_proposal != 0).tolist() == [False, True, False, False, False, True, False, False, False]


def test_decode_clips_to_what_was_seen():
    table = make_table(
        {"x": [0.5, 1.5, -2.0], "wide": np.array([0, 500, 7]), "n": np.array([1, 2, 3]), "c": ["a", "b", "a"]}
    )
    codec = fitted(table)
    back = codec.decode(torch.tensor([[99.0, 1e12, 77.0, -3.0], [-99.0, -1e12, -1.0, 9.0], [1.25, 7.9, 1.5, 0.5]]))
    assert [c.tolist() for c in back.columns] == [[1.5, -2.0, 1.25], [500, 0, 7], [3, 1, 2], ["a", "b", "a"]]


def test_rows_that_are_not_finite_come_back_missing():
    table = mixed_table(50)
    codec = fitted(table)
    values = codec.encode(table, generator=seeded()).values
    values[4, 2], values[7, 0] = math.nan, math.inf
    assert torch.nonzero(codec.non_finite(values)).flatten().tolist() == [4, 7]
    back = codec.decode(values)
    for column in back.columns:
        gaps = [v is None or v != v for v in column.tolist()]
        assert gaps[4]
        assert gaps[7]
    assert back.columns[7].tolist()[:4] == [7, 7, 7, 7]  # the constant is there in the other rows


def test_codec_survives_json_to_the_bit():
    for table in (mixed_table(), image_table(np.arange(48, dtype=np.float32).reshape(4, 3, 2, 2))):
        codec = fitted(table)
        again = Codec.from_dict(json.loads(json.dumps(codec.to_dict(), allow_nan=False)))
        assert again == codec
        first, second = (c.encode(table, generator=seeded(5)) for c in (codec, again))
        assert torch.equal(first.values, second.values)
        assert torch.equal(first.log_proposal, second.log_proposal)
    stored = fitted(mixed_table()).to_dict()
    with pytest.raises(DataError, match="unknown extra"):
        Codec.from_dict({**stored, "extra": 1})
    with pytest.raises(DataError, match="rules for 11 columns, expected 12"):
        Codec.from_dict({**stored, "codes": stored["codes"][1:]})
    with pytest.raises(DataError, match="column code lacks mean"):
        Codec.from_dict({**stored, "codes": [{k: v for k, v in stored["codes"][0].items() if k != "mean"}]})


def test_prepared_rows_repeat_with_the_generator_alone():
    table = mixed_table()
    prepared = fitted(table).prepare(table)
    rows = torch.tensor([3, 3, 100, 0])
    first, again = prepared.draw(rows, seeded(1)), prepared.draw(rows, seeded(1))
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values[0], first.values[1])  # the same row, other noise
    assert first.status.tolist() == prepared.status[rows].tolist()
    base = prepared.base.clone()
    prepared.draw(rows, seeded(2))
    assert torch.equal(prepared.base, base)  # noise never stays in the rows
    state = torch.get_rng_state()
    prepared.draw(rows, seeded(3))
    assert torch.equal(torch.get_rng_state(), state)


def test_statistics_come_from_the_rows_given_bounds_from_the_schema():
    table = make_table({"x": np.array([0.5, 1.5, 100.5]), "n": np.array([0, 1, 9])})
    train = make_table({"x": np.array([0.5, 1.5]), "n": np.array([0, 1])})
    codec = Codec.fit(train, infer_schema(table))
    assert codec.codes[0].mean == 1.0
    assert len(codec.probabilities[1]) == 10
    assert codec.decode(torch.tensor([[100.5, 9.5]])).columns[1].tolist() == [9]


def test_training_rows_may_hold_one_value_or_none_by_chance():
    table = make_table({"x": np.array([0.5, 0.5, 8.5, np.nan])})
    schema = infer_schema(table)
    one = Codec.fit(make_table({"x": np.array([0.5, 0.5])}), schema).codes[0]
    none = Codec.fit(make_table({"x": np.array([np.nan])}), schema).codes[0]
    assert (one.mean, one.std) == (0.5, 2.0)
    assert (none.mean, none.std) == (4.5, 2.0)


def test_a_constant_with_gaps_is_an_indicator():
    table = make_table({"x": np.array([3.5, np.nan, 3.5]), "c": ["a", None, "a"]})
    codec = fitted(table)
    assert [c.name for c in codec.coordinates] == ["x is missing", "c is missing"]
    coded = codec.encode(table, generator=seeded())
    assert coded.status.tolist() == [0, 1, 0]
    assert (coded.log_proposal == 0).all()
    assert_same(codec.decode(coded.values), table)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int64])
def test_whole_valued_pixels_are_dequantised_and_come_back(dtype):
    random = np.random.Generator(np.random.PCG64(0))
    pixels = random.integers(0, 101, (20, 1, 4, 4)).astype(dtype)
    pixels[:, 0, 0, 0] = 0  # a border that never changes stays a pixel
    table = image_table(pixels)
    codec = fitted(table)
    assert codec.event_shape == (1, 4, 4)
    assert {(c.scaling, c.role, c.cells) for c in codec.coordinates} == {("pixel", "value", 0)}
    assert codec.probabilities == {}
    prepared = codec.prepare(table)
    assert prepared.base.dtype == torch.uint8
    coded = prepared.draw(torch.arange(20), seeded())
    assert coded.values.shape == (20, 1, 4, 4)
    assert torch.equal(coded.values.floor(), torch.from_numpy(pixels.astype(np.float32)))
    assert (coded.values > coded.values.floor()).float().mean() > 0.99
    assert_same(codec.decode(coded.values), table)
    assert codec.decode(coded.values).image


def test_pixels_of_few_levels_are_levels():
    """Each pixel has frequencies of its own, and levels count from the smallest grey."""
    random = np.random.Generator(np.random.PCG64(0))
    pixels = random.integers(3, 20, (50, 1, 2, 2))
    pixels[:, 0, 0, 0] = 3
    pixels[0, 0, 1] = [3, 19]
    table = image_table(pixels)
    codec = Codec.from_dict(fitted(table).to_dict())
    assert codec.event_shape == (1, 2, 2)
    assert {(c.scaling, c.cells) for c in codec.coordinates} == {("cumulative", 17)}
    assert codec.probabilities[0][0] > 0.8 > codec.probabilities[1][0]
    assert all(abs(float(p.sum()) - 1) < 1e-12 for p in codec.probabilities.values())
    coded = codec.encode(table, generator=seeded())
    assert torch.equal(coded.values.floor(), torch.from_numpy(pixels - 3).float())
    assert_same(codec.decode(coded.values), table)
    stranger = pixels[:2].copy()
    stranger[1, 0, 1, 1] = 25
    assert codec.encode(image_table(stranger), generator=seeded()).status.tolist() == [0, 2]


def test_real_pixels_are_left_alone():
    pixels = np.linspace(-1, 1, 48, dtype=np.float32).reshape(4, 3, 2, 2)
    table = image_table(pixels)
    codec = fitted(table)
    coded = codec.encode(table, generator=seeded())
    np.testing.assert_array_equal(coded.values.numpy(), pixels)
    assert_same(codec.decode(coded.values), table)
    broken = coded.values.clone()
    broken[1, 0, 0, 0] = math.nan
    assert np.isnan(np.stack(codec.decode(broken).columns, 1)).any(1).tolist() == [False, True, False, False]


def test_pixels_of_another_kind():
    pixels = np.zeros((2, 1, 2, 2))
    pixels[0] = 200
    codec = fitted(image_table(pixels))
    given_pixels = np.full((3, 1, 2, 2), 2.0)
    given_pixels[1, 0, 1, 1] = 0.5
    given_pixels[2, 0, 0, 0] = 300
    assert codec.encode(image_table(given_pixels), generator=seeded()).status.tolist() == [0, 2, 0]
    given_pixels[1, 0, 1, 1] = np.nan
    with pytest.raises(DataError, match=r"NaN in row 1 .*x3"):
        codec.prepare(image_table(given_pixels))


def test_named_columns_are_found_by_name_and_others_ignored_aloud():
    table = make_table({"a": [0.5, 1.5], "b": [10.5, 11.5]})
    codec = fitted(table)
    swapped = make_table({"b": [10.5, 11.5], "extra": ["u", "v"], "a": [0.5, 1.5]})
    findings = codec.check(swapped)
    assert [(f.kind, f.action) for f in findings] == [("extra columns", "ignored")]
    assert "'extra'" in findings[0].message
    first, second = (codec.encode(t, generator=seeded()).values for t in (table, swapped))
    assert torch.equal(first, second)
    assert codec.check(table) == ()


def test_arrays_are_aligned_by_position():
    codec = fitted(make_table({"a": [0.5, 1.5], "b": [10.5, 11.5]}))
    array = make_table({"x0": [0.5], "x1": [10.5]}, container="numpy")
    assert codec.encode(array, generator=seeded()).values.tolist() == [[0.5, 10.5]]
    with pytest.raises(ShapeError, match="rows of 2 columns are expected, rows of 3 were found"):
        codec.check(make_table({"x0": [0.5], "x1": [10.5], "x2": [1.0]}, container="numpy"))
    nameless = fitted(make_table({"x0": [0.5, 1.5], "x1": [10.5, 11.5]}, container="numpy"))
    assert nameless.encode(make_table({"u": [0.5], "v": [10.5]}), generator=seeded()).values.tolist() == [[0.5, 10.5]]
    taken = make_table({"x0": [0.5, 1.5], "x1": np.array([1, 0]), "x2": [10.5, 11.5]}, container="numpy")
    partly = fitted(taken, condition=("x1",))
    assert partly.encode(taken, generator=seeded()).values.tolist() == [[0.5, 10.5], [1.5, 11.5]]


def test_shapes_are_compared():
    codec = fitted(image_table(np.arange(24.0).reshape(2, 3, 2, 2)))
    with pytest.raises(ShapeError, match=r"\(3, 2, 2\) are expected, rows of shape \(2, 2, 3\)"):
        codec.check(image_table(np.arange(24.0).reshape(2, 2, 2, 3)))
    flat = {f"x{i}": np.zeros(2) for i in range(12)}
    assert codec.encode(make_table(flat, container="npy"), generator=seeded()).values.shape == (2, 3, 2, 2)
    with pytest.raises(ShapeError, match="expected"):
        codec.decode(torch.zeros(2, 12))


def test_refusals_name_the_place():
    table = make_table({"longitude": [0.5, 1.5], "n": np.array([1, 2]), "c": ["a", "b"]})
    codec = fitted(table)
    with pytest.raises(DataError, match=r"'longitude' .*missing.*Is 'longitud' meant to be 'longitude'\?"):
        codec.check(make_table({"longitud": [0.5], "n": np.array([1]), "c": ["a"]}))
    with pytest.raises(DataError, match=r"row 1 \(counted from 0\), column 'longitude'.*'west' is not a number"):
        codec.check(
            make_table({"longitude": np.array([0.5, "west"], dtype=object), "n": np.array([1, 1]), "c": ["a", "a"]})
        )
    with pytest.raises(DataError, match=r"infinite value in row 0 .*'longitude'"):
        codec.check(make_table({"longitude": [math.inf], "n": np.array([1]), "c": ["a"]}))
    with pytest.raises(DataError, match="one of the categories 'a', 'b' is expected"):
        codec.check(make_table({"longitude": [0.5], "n": np.array([1]), "c": np.array([3.5])}))
    with pytest.raises(DataError, match="NaN in row 0"):
        codec.check(make_table({"x0": [math.nan], "x1": [1.0], "x2": [1.0]}, container="numpy"))
    with pytest.raises(ConfigError, match="float16"):
        codec.prepare(table, dtype=torch.float16)


def test_texts_of_digits_are_found_when_read_as_numbers():
    codec = fitted(make_table({"c": ["7", "A", "8", "A"]}))
    digits = make_table({"c": np.array([8.0, 7.0, 3.0])})
    coded = codec.encode(digits, generator=seeded())
    assert coded.values[:2, 0].floor().tolist() == [1.0, 0.0]
    assert coded.status.tolist() == [0, 0, 2]


def test_many_rows_are_coded_at_once():
    """A hundred thousand rows of twenty columns: every number is where it belongs."""
    random = np.random.Generator(np.random.PCG64(0))
    values = random.standard_normal((100_000, 20)).astype(np.float32)
    table = make_table({f"c{i}": values[:, i] for i in range(20)})
    codec = fitted(table)
    coded = codec.encode(table, generator=seeded())
    np.testing.assert_array_equal(coded.values.numpy(), values)
    assert_same(codec.decode(coded.values), table)


def test_rare_levels_keep_a_cell_that_float32_can_resolve():
    values = np.zeros(1_000_000, dtype=np.int64)
    values[0] = 255
    codec = fitted(make_table({"x": values}))
    assert codec.probabilities[0].min() > 64 * np.finfo(np.float32).eps


def test_coordinates_in_units_are_the_values():
    """What was subtracted from a column far from zero is put back; a column near zero has nothing to put back."""
    random = np.random.default_rng(0)
    far, near = random.normal(1.7e9, 50.0, 40), random.normal(0.0, 1.0, 40)
    table = make_table({"far": far, "near": near})
    codec = fitted(table)
    values = codec.encode(table, generator=seeded(), dtype=torch.float64).values.numpy()
    assert np.abs(values[:, 0]).max() < 1000
    # Adding 1.7e9 rounds to 2.4e-7.
    assert np.allclose(codec.in_units(values), np.stack([far, near], 1), rtol=0, atol=1e-6)
    assert codec.in_units(values[None]).shape == (1, 40, 2)
    pixels = random.random((5, 1, 2, 3))
    assert np.array_equal(fitted(image_table(pixels)).in_units(pixels), pixels)
