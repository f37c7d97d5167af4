"""Writing: what is written is read back equal, appears whole or not at all, and frames come back as they were."""

import os

import numpy as np
import pandas
import polars
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from advect.data.cells import is_gap, is_number
from advect.data.containers import to_container
from advect.data.read import read_table
from advect.data.write import WRITABLE, write_table
from advect.errors import AdvectError, DataError, MissingExtraError, UnknownNameError
from advect.records import Table


def objects(values):
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column


def table_of(dtypes=None, **columns) -> Table:
    arrays = {n: c if isinstance(c, np.ndarray) else objects(c) for n, c in columns.items()}
    words = tuple("str" if c.dtype.kind == "O" else str(c.dtype) for c in arrays.values())
    return Table(tuple(arrays), tuple(arrays.values()), "csv", (len(arrays),), tuple(dtypes or words))


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Same values, with gaps in the same places, whatever the width of the numbers."""
    if a.dtype.kind == "O" or b.dtype.kind == "O":
        return a.tolist() == b.tolist()
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f")


MIXED = table_of(
    dtypes=("float64", "int64", "int64", "bool", "str", "float32"),
    **{
        "real": np.array([0.1, 1e-300, -3.0, np.nan]),
        "whole": np.array([1, -2, 2**60, 0]),
        "whole with gaps": np.array([1.0, np.nan, 3.0, 4.0]),
        "truth": np.array([True, False, True, True]),
        'text, "quoted"': ["plain", 'with "quotes", comma', None, "two\nlines; tab\t, é, 日本"],
        "single": np.array([0.1, 0.2, np.nan, 3], dtype="f4"),
    },
)


@pytest.mark.parametrize("ending", [e for e in WRITABLE if e not in (".npy", ".npz", ".h5ad")])
def test_mixed_table_comes_back(tmp_path, ending):
    path = write_table(MIXED, tmp_path / f"rows{ending}")
    back = read_table(path)
    assert back.names == MIXED.names
    for name, a, b in zip(MIXED.names, MIXED.columns, back.columns, strict=True):
        assert equal(a, b.astype(a.dtype)), name
    assert back.dtypes[:5] == MIXED.dtypes[:5]


@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_mixed_table_comes_back_from_numpy_files(tmp_path, ending):
    back = read_table(write_table(MIXED, tmp_path / f"rows{ending}"))
    assert back.names == MIXED.names
    assert all(equal(a, b) for a, b in zip(MIXED.columns, back.columns, strict=True))


def test_how_cells_are_written(tmp_path):
    text = write_table(MIXED, tmp_path / "rows.csv").read_text()
    lines = text.split("\n")
    assert lines[0] == 'real,whole,whole with gaps,truth,"text, ""quoted""",single'
    assert lines[1] == "0.1,1,1,true,plain,0.1"
    assert lines[2] == '1e-300,-2,,false,"with ""quotes"", comma",0.2'
    assert lines[3] == "-3.0,1152921504606846976,3,true,,"


_NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6)
_TEXTS = _NAMES.filter(lambda t: not is_number(t) and not is_gap(t) and t.strip().lower() not in ("true", "false"))


@st.composite
def contents(draw):
    """Names, columns and dtypes; the record itself is made in the test, because its executed types use ``random``."""
    rows = draw(st.integers(2, 5))
    names = draw(st.lists(_NAMES, min_size=1, max_size=4, unique=True))
    columns, dtypes = [], []
    for _ in names:
        kind = draw(st.sampled_from(["float", "gaps", "int", "bool", "text", "text with gaps"]))
        if kind in ("float", "gaps"):
            floats = st.floats(allow_nan=kind == "gaps", allow_infinity=False)
            column = draw(arrays_of.arrays(np.float64, rows, elements=floats))
        elif kind == "int":
            column = draw(arrays_of.arrays(np.int64, rows))
        elif kind == "bool":
            column = draw(arrays_of.arrays(np.bool_, rows))
        else:
            cell = _TEXTS if kind == "text" else st.one_of(st.none(), _TEXTS)
            column = objects([draw(_TEXTS), *draw(st.lists(cell, min_size=rows - 1, max_size=rows - 1))])
        columns.append(column)
        dtypes.append("str" if column.dtype.kind == "O" else str(column.dtype))
    return tuple(names), tuple(columns), tuple(dtypes)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet"])
@given(content=contents())
@example(content=(("0", "\r"), (np.zeros(2), np.ones(2)), ("float64", "float64")))
@example(content=(("1", "NA"), (objects(["a,b", "c"]), objects(["x", None])), ("str", "str")))
@example(content=(("a b;c",), (objects(["c d;e", None, "#f"]),), ("str",)))
def test_any_table_comes_back(tmp_path_factory, ending, content):
    names, columns, dtypes = content
    table = Table(names, columns, "csv", (len(names),), dtypes)
    path = tmp_path_factory.mktemp("any") / f"rows{ending}"
    back = read_table(write_table(table, path))
    assert back.names == table.names
    assert all(equal(a, b) for a, b in zip(table.columns, back.columns, strict=True))


_FINITE = {"allow_nan": False, "allow_infinity": False}
_ARRAYS = arrays_of.arrays(
    st.sampled_from(["f4", "f8", "i2", "u1", "?"]),
    st.tuples(st.integers(2, 5), st.integers(1, 4)),
    elements=_FINITE,
)


@given(array=_ARRAYS)
@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_any_array_comes_back(tmp_path_factory, ending, array):
    table = read_table(array)
    back = read_table(write_table(table, tmp_path_factory.mktemp("any") / f"rows{ending}"))
    assert back.dtypes == table.dtypes
    np.testing.assert_array_equal(to_container(back, "numpy"), array)


def test_pictures_and_sides_come_back(tmp_path):
    digits = read_table("digits")
    back = read_table(write_table(digits, tmp_path / "digits.npz"))
    assert (back.event_shape, back.image, back.dtypes[0]) == ((1, 8, 8), True, "uint8")
    np.testing.assert_array_equal(np.stack(back.columns), np.stack(digits.columns))
    np.testing.assert_array_equal(back.sides["label"], digits.sides["label"])

    iris = read_table("iris")
    back = read_table(write_table(iris, tmp_path / "iris.npz"))
    assert back.names == iris.names
    assert back.sides["label"].tolist() == iris.sides["label"].tolist()
    back = read_table(write_table(iris, tmp_path / "iris.csv"))
    assert back.names == (*iris.names, "label")
    assert back.columns[-1].tolist() == iris.sides["label"].tolist()


def test_categories_keep_their_order_in_parquet(tmp_path):
    frame = pandas.DataFrame({"size": pandas.Categorical(["s", None, "l"], categories=["s", "m", "l"]), "x": [1, 2, 3]})
    back = read_table(write_table(read_table(frame), tmp_path / "a.parquet"))
    assert back.categories == {"size": ("s", "m", "l")}
    assert back.columns[0].tolist() == ["s", None, "l"]


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".npz"])
def test_california_housing_comes_back(advect_data, tmp_path, ending):
    table = read_table(advect_data / "california_housing" / "housing.csv.gz")
    back = read_table(write_table(table, tmp_path / f"houses{ending}"))
    assert (back.names, back.dtypes) == (table.names, table.dtypes)
    assert all(equal(a, b) for a, b in zip(table.columns, back.columns, strict=True))


def test_packed_files_have_the_same_bytes_each_time(tmp_path):
    for ending in (".csv.gz", ".npz"):
        first = write_table(read_table("iris"), tmp_path / f"a{ending}").read_bytes()
        assert write_table(read_table("iris"), tmp_path / f"b{ending}").read_bytes() == first


# ---- whole or not at all


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_table(MIXED, tmp_path / "rows.csv")
    before = path.read_bytes()
    broken = Table(("a",), (objects(["\ud800", "b"]),), "csv", (1,), ("str",))  # half a character
    with pytest.raises(UnicodeEncodeError):
        write_table(broken, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["rows.csv"]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AdvectError, match="No space left"):
        write_table(read_table("iris"), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["rows.csv"]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.csv", tmp_path / "file" / "b" / "a.csv"):
        with pytest.raises(AdvectError, match="cannot be written") as caught:
            write_table(MIXED, path)
        assert str(path) in str(caught.value)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(AdvectError, match="folder"):
        write_table(MIXED, tmp_path / "folder.csv")
    with pytest.raises(DataError, match="Known endings"):
        write_table(MIXED, tmp_path / "rows.xyz")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(AdvectError, match="cannot be written"):
        write_table(MIXED, tmp_path / "rows.csv")
    tmp_path.chmod(0o700)


def test_what_a_kind_of_file_cannot_hold(tmp_path):
    with pytest.raises(DataError, match="with gaps"):
        write_table(table_of(a=[True, None, False], b=np.arange(3)), tmp_path / "a.npz")
    table = read_table(np.eye(3))
    wide = Table(table.names, table.columns, "npz", (3,), table.dtypes, sides={"more": np.eye(3)})
    with pytest.raises(DataError, match=r"\.npz"):
        write_table(wide, tmp_path / "a.csv")
    assert read_table(write_table(wide, tmp_path / "a.npz")).sides["more"].shape == (3, 3)
    clash = Table(table.names, table.columns, "npz", (3,), table.dtypes, sides={"X": np.arange(3)})
    with pytest.raises(DataError, match="called 'X'"):
        write_table(clash, tmp_path / "a.npz")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"advect\[tables\]"):
        write_table(MIXED, tmp_path / "a.parquet")
    assert os.listdir(tmp_path) == []


# ---- containers


PANDAS = pandas.DataFrame(
    {
        "f4": np.array([1, np.nan, 3], dtype="f4"),
        "i2": np.array([1, 2, 3], dtype="i2"),
        "Int32": pandas.array([1, None, 3], dtype="Int32"),
        "Float": pandas.array([0.5, None, 1], dtype="Float64"),
        "truth": [True, False, True],
        "maybe": pandas.array([True, None, False], dtype="boolean"),
        "size": pandas.Categorical(["small", None, "large"], categories=["small", "medium", "large"]),
        "text": ["a", None, "b"],
        "old": pandas.Series(["a", "c", "b"], dtype=object),
        "new": pandas.array(["a", pandas.NA, "b"], dtype="string"),
    }
)


def test_pandas_comes_back():
    pandas.testing.assert_frame_equal(to_container(read_table(PANDAS), "pandas"), PANDAS)


def test_pandas_backed_by_arrow_comes_back():
    frame = PANDAS.drop(columns=["size"]).convert_dtypes(dtype_backend="pyarrow")
    pandas.testing.assert_frame_equal(to_container(read_table(frame), "pandas"), frame)


def test_polars_comes_back():
    frame = polars.DataFrame(
        {
            "i": polars.Series([1, None, 3], dtype=polars.Int32),
            "f": polars.Series([0.5, None, 1], dtype=polars.Float32),
            "u": polars.Series([1, 2, 3], dtype=polars.UInt8),
            "truth": [True, False, True],
            "maybe": [True, None, False],
            "text": ["a", None, "b"],
            "enum": polars.Series(["s", None, "l"], dtype=polars.Enum(["s", "m", "l"])),
        }
    )
    back = to_container(read_table(frame), "polars")
    assert back.schema == frame.schema
    assert back.equals(frame)


def test_files_as_frames(tmp_path):
    table = read_table(write_table(MIXED, tmp_path / "a.csv"))
    frame = to_container(table, "pandas")
    assert str(frame["whole with gaps"].dtype) == "Int64"
    assert frame["truth"].dtype == bool
    assert to_container(table, "polars")["whole with gaps"].to_list() == [1, None, 3, 4]
    rows = to_container(table, "csv")
    assert rows.dtype.names == MIXED.names
    np.testing.assert_array_equal(rows["whole"], MIXED.columns[1])


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.uint8, torch.bool]
)
@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 3, 2, 2)])
def test_tensors_come_back(dtype, shape):
    tensor = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    back = to_container(read_table(tensor), "torch")
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 5, 2), (4, 3, 2, 2), (4, 2, 2, 2, 2)])
def test_arrays_come_back(shape):
    array = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_array_equal(to_container(read_table(array), "numpy"), array)


def test_containers_that_cannot_be():
    with pytest.raises(DataError, match="tensor cannot hold text"):
        to_container(MIXED, "torch")
    with pytest.raises(UnknownNameError, match="Did you mean 'pandas'"):
        to_container(MIXED, "panda")


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_frames_without_their_package(package, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingExtraError, match=r"advect\[tables\]"):
        to_container(MIXED, package)
