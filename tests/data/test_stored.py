"""Sets that stay on disk: the same schema, rules and rows as in memory, and nothing read whole."""

import numpy as np
import pytest
import torch

import advect.data.stored as storage
from advect.data import (
    Codec,
    check_table,
    infer_schema,
    mapped,
    read_table,
    refuse_unusable,
    set_aside,
    some_rows,
    take_rows,
)
from advect.data.room import free_memory
from advect.data.stored import StoredColumns, blocks_of, on_disk
from advect.errors import DataError
from advect.records import Coordinate
from advect.transforms import fit_preprocess


@pytest.fixture
def low(monkeypatch):
    """Everything stays on disk, and a block holds few rows."""
    monkeypatch.setattr(mapped, "MAPPED_VALUES", 1)
    monkeypatch.setattr(storage, "BLOCK_VALUES", 300)


def columns(rows: int = 500) -> np.ndarray:
    """Real, heavy-tailed, whole, levels far apart, constant, truth-like; sorted, so that blocks differ."""
    random = np.random.default_rng(0)
    x = random.standard_normal((rows, 6))
    x[:, 1] = np.exp(2.5 * x[:, 1])
    x[:, 2] = np.round(400 * x[:, 2])
    x[:, 3] = random.choice([0, 1000, 5000], rows)
    x[:, 4] = 2.5
    x[:, 5] = random.random(rows) < 0.3
    return x[np.argsort(x[:, 0])].astype(np.float32)


def test_schema_and_rules_are_those_of_the_rows_in_memory(tmp_path, monkeypatch, low):
    np.save(tmp_path / "x.npy", columns())
    far = read_table(tmp_path / "x.npy")
    assert on_disk(far) is not None
    assert "stay on disk" in far.notes[-1]
    monkeypatch.setattr(mapped, "MAPPED_VALUES", 1 << 28)
    held = read_table(tmp_path / "x.npy")
    assert on_disk(held) is None
    schema = infer_schema(held)
    assert infer_schema(far) == schema
    refuse_unusable(far, schema)
    assert len(list(blocks_of(far))) == 10

    one, other = (Codec.fit(table, schema) for table in (held, far))
    for a, b in zip(one.codes, other.codes, strict=True):
        assert (a.form, a.scaling, a.offset, a.probabilities) == (b.form, b.scaling, b.offset, b.probabilities)
        # Ten partial means of float64 against one: a few units in the last place of the largest value.
        np.testing.assert_allclose([a.mean, a.std], [b.mean, b.std], rtol=1e-12, atol=1e-12)


def test_scaling_by_blocks_is_that_of_all_rows(low):
    rows = torch.from_numpy(columns()[:, :3]).double()
    for scalings in (("standardise", "asinh", "standardise"), ("common",) * 3, ("pixel",) * 3):
        coordinates = [Coordinate(s, i, "value", s) for i, s in enumerate(scalings)]
        whole = fit_preprocess(rows, coordinates, {})
        parts = fit_preprocess(rows, coordinates, {}, blocks=rows.split(37))
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-12, atol=1e-12)


def test_choosing_reads_nothing_and_what_is_too_large_is_refused(tmp_path, monkeypatch, low):
    x = columns()
    np.save(tmp_path / "x.npy", x)
    table = read_table(tmp_path / "x.npy")
    asked: list[int] = []
    take = mapped.MappedRows.take
    monkeypatch.setattr(mapped.MappedRows, "take", lambda self, i: asked.append(len(i)) or take(self, i))
    monkeypatch.setattr(storage, "HELD_VALUES", 600)
    chosen = take_rows(take_rows(table, np.arange(0, 500, 2)), np.array([3, 1, 200]))
    assert chosen.num_rows == 3
    assert asked == []
    np.testing.assert_array_equal(np.stack(list(chosen.columns), 1), x[[6, 2, 400]])
    assert asked == [3]
    with pytest.raises(DataError, match="in memory at once") as caught:
        list(table.columns)
    assert "part of the rows" in caught.value.remedy
    np.testing.assert_array_equal(set_aside(table, "x3").sides["x3"], x[:, 3])
    assert max(asked) <= 50


def test_a_sample_is_no_larger_than_can_be_held_and_the_check_says_so(tmp_path, monkeypatch, low):
    np.save(tmp_path / "x.npy", columns())
    table = read_table(tmp_path / "x.npy")
    monkeypatch.setattr(storage, "SAMPLE_VALUES", 600)
    assert some_rows(table, 400, torch.Generator()).num_rows == 100
    found = check_table(table, infer_schema(table))
    assert found[0].kind == "many rows"
    assert "100 of 500 rows" in found[0].message
    assert {"constant", "reading"} <= {finding.kind for finding in found}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named(tmp_path, low, value):
    x = columns()
    x[321, 2] = value
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(DataError, match=r"row 321 .*'x2'"):
        read_table(tmp_path / "x.npy")


@pytest.mark.parametrize("kind", ["npz", "idx", "big-endian", "last", "grey"])
def test_other_places_of_arrays(tmp_path, monkeypatch, low, kind):
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (40, 6, 6), dtype=np.uint8)
    path = tmp_path / {"npz": "x.npz", "idx": "x-images-idx3-ubyte"}.get(kind, "x.npy")
    if kind == "npz":
        np.savez(path, X=x, y=np.arange(40))
    elif kind == "idx":
        path.write_bytes(b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in x.shape) + x.tobytes())
    elif kind == "big-endian":
        x = random.standard_normal((40, 6)).astype(">f4")
        np.save(path, x)
    else:
        x = random.integers(0, 256, (40, 6, 6, 3), dtype=np.uint8) if kind == "last" else x
        np.save(path, x)
    table = read_table(path)
    assert isinstance(table.columns, StoredColumns)
    monkeypatch.setattr(mapped, "MAPPED_VALUES", 1 << 28)
    held = read_table(path)
    assert (table.event_shape, table.image, table.dtypes) == (held.event_shape, held.image, held.dtypes)
    assert infer_schema(table) == infer_schema(held)
    rows = np.array([7, 0, 39])
    chosen = (take_rows(one, rows) for one in (table, held))
    np.testing.assert_array_equal(*(np.stack(list(one.columns)) for one in chosen))
    assert table.sides.keys() == held.sides.keys()


def test_columns_stored_before_rows_are_read_as_ever(tmp_path, low):
    np.save(tmp_path / "x.npy", np.asfortranarray(columns()))
    assert on_disk(read_table(tmp_path / "x.npy")) is None


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.parquet"])
def test_a_table_that_memory_cannot_hold_is_told_before_it_is_read(tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(b"a,b\n" + b"1,2\n" * 1000)
    monkeypatch.setattr("advect.data.room.free_memory", lambda: 10_000)
    with pytest.raises(DataError, match="of memory to learn from") as caught:
        read_table(tmp_path / name)
    assert ".npy" in caught.value.remedy


def test_free_memory_is_some_or_unknown():
    assert (free_memory() or 1) > 0
