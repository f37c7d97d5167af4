"""Reading: what every kind of file, frame and array becomes."""

import gzip
import tracemalloc

import numpy as np
import pandas
import polars
import pytest
import torch

from advect.data.builtin import BUILTINS
from advect.data.read import read_table
from advect.records import Table


def write(folder, text, name="rows.csv"):
    path = folder / name
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def read(folder, text, name="rows.csv"):
    return read_table(write(folder, text, name))


# ---- text tables


def test_types_of_columns(tmp_path):
    table = read(
        tmp_path,
        "whole,gaps,real,truth,text,maybe\n1,2,1.0,true,a,TRUE\n-3,,2e3,False,b,\n+5,4,.5,true,,false\n",
    )
    assert table.names == ("whole", "gaps", "real", "truth", "text", "maybe")
    assert table.dtypes == ("int64", "int64", "float64", "bool", "str", "bool")
    assert [c.dtype.str[1:] for c in table.columns] == ["i8", "f8", "f8", "b1", "O", "O"]
    assert table.columns[0].tolist() == [1, -3, 5]
    np.testing.assert_array_equal(table.columns[1], [2, np.nan, 4])
    assert table.columns[2].tolist() == [1.0, 2000.0, 0.5]
    assert table.columns[3].tolist() == [True, False, True]
    assert table.columns[4].tolist() == ["a", "b", None]
    assert table.columns[5].tolist() == [True, None, False]
    assert table.event_shape == (6,)
    assert table.container == "csv"


@pytest.mark.parametrize("word", ["", "NA", "NaN", "nan", "null", " ", " NA "])
def test_words_for_a_gap(tmp_path, word):
    table = read(tmp_path, f"a,b,c\n1.5,x,1\n{word},{word},2\n2.5,y,3\n")
    np.testing.assert_array_equal(table.columns[0], [1.5, np.nan, 2.5])
    assert table.columns[1].tolist() == ["x", None, "y"]


def test_whole_numbers_beyond_float_stay_exact(tmp_path):
    big = 2**53 + 1
    table = read(tmp_path, f"a,b\n{big},0.5\n{-big},1.5\n")
    assert table.columns[0].tolist() == [big, -big]
    table = read(tmp_path, f"a,b\n{2**70},0.5\n1,1.5\n")
    assert table.dtypes[0] == "float64"
    assert table.columns[0].tolist() == [float(2**70), 1.0]


@pytest.mark.parametrize(
    ("text", "names", "rows"),
    [
        ("1,2\n3,4\n", ("x0", "x1"), 2),
        ("a,b\n1,2\n3,4\n", ("a", "b"), 2),
        ("M,1.5\nF,2.5\n", ("x0", "x1"), 2),  # text in a column of text, numbers in a column of numbers
        ("kind,1.5x\nF,2.5\nM,3\n", ("kind", "1.5x"), 2),
        ("city,country\nParis,France\nRome,Italy\n", ("city", "country"), 2),
        ("# a comment\n1,2\n3,4\n", ("x0", "x1"), 2),
        ("# a,b\rc\n1,2\n3,4\n", ("x0", "x1"), 2),
        ("# one\n# lat,lon\n1,2\n3,4\n", ("lat", "lon"), 2),
        ("# one\nlat,lon\n1,2\n3,4\n", ("lat", "lon"), 2),
        ('"1","2"\n3,4\n5,6\n', ("1", "2"), 2),
        (",b\n1,2\n3,4\n", ("x0", "b"), 2),
        ("\n\na,b\n\n1,2\n   \n3,4\n\n\n", ("a", "b"), 2),
        ("a\n1\n2\n3", ("a",), 3),
    ],
)
def test_header_is_found(tmp_path, text, names, rows):
    table = read(tmp_path, text)
    assert table.names == names
    assert table.num_rows == rows


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "ROWS.CSV"])
def test_bom_and_carriage_returns(tmp_path, name):
    table = read(tmp_path, b"\xef\xbb\xbfa,b\r\n1,x\r\n2,y\r\n", name)
    assert table.names == ("a", "b")
    assert table.columns[0].tolist() == [1, 2]
    assert table.columns[1].tolist() == ["x", "y"]


def test_quotes(tmp_path):
    table = read(tmp_path, 'a,"b ""c"""\r\n1,"x, y"\r\n2,"two\nlines"\r\n3," kept "\r\n')
    assert table.names == ("a", 'b "c"')
    assert table.columns[1].tolist() == ["x, y", "two\nlines", " kept "]


def test_quotes_far_into_the_file_and_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("advect.data.delimited.BLOCK_BYTES", 64)
    monkeypatch.setattr("advect.data.delimited.BLOCK_CELLS", 10)
    texts = [f"t{i}" if i < 150 else f"t{i},\n{i}" for i in range(300)]
    body = "".join(f'{i},"{t}"\n' if i >= 150 else f"{i},{t}\n" for i, t in enumerate(texts))
    table = read(tmp_path, "a,b\n" + body)
    assert table.columns[0].tolist() == list(range(300))
    assert table.columns[1].tolist() == texts


@pytest.mark.parametrize("block", [7, 20, 64, 1000])
def test_blocks_of_any_size_give_the_same(tmp_path, monkeypatch, block):
    values = np.random.default_rng(0).normal(size=(200, 3))
    text = "a,b,c,d\n" + "".join(f"{x!r},{y:.3f},,{int(z * 9)}\n" for x, y, z in values.tolist())
    monkeypatch.setattr("advect.data.delimited.BLOCK_BYTES", block)
    table = read(tmp_path, text)
    np.testing.assert_array_equal(table.columns[0], values[:, 0])
    np.testing.assert_array_equal(table.columns[1], [float(f"{v:.3f}") for v in values[:, 1]])
    assert np.isnan(table.columns[2]).all()
    assert table.columns[3].tolist() == [int(v * 9) for v in values[:, 2]]
    assert table.dtypes == ("float64", "float64", "float64", "int64")


def test_numbers_are_correctly_rounded(tmp_path):
    values = np.random.default_rng(0).normal(size=(500, 2)) * 10.0 ** np.arange(-250, 250)[:, None]
    table = read(tmp_path, "".join(f"{a!r},{b!r}\n" for a, b in values.tolist()))
    np.testing.assert_array_equal(np.stack(table.columns, 1), values)


def test_a_category_that_begins_like_numbers(tmp_path):
    text = "a,code\n" + "".join(f"{i},{i}\n" for i in range(5)) + "".join(f"{i},c{i}\n" for i in range(20))
    table = read(tmp_path, text)
    assert table.dtypes == ("int64", "str")
    assert table.columns[1].tolist()[:6] == ["0", "1", "2", "3", "4", "c0"]


def test_category_found_in_a_later_block(tmp_path, monkeypatch):
    monkeypatch.setattr("advect.data.delimited.BLOCK_BYTES", 32)
    text = "a,code\n" + "".join(f"{i},\n" for i in range(40)) + "".join(f"{i},c{i}\n" for i in range(20))
    table = read(tmp_path, text)
    assert table.columns[1].tolist() == [None] * 40 + [f"c{i}" for i in range(20)]


@pytest.mark.parametrize(
    ("delimiter", "note"),
    [
        (";", "cells are separated by semicolons"),
        ("\t", "cells are separated by tabs"),
        (" ", "cells are separated by spaces"),
    ],
)
def test_other_delimiters_are_found_and_noted(tmp_path, delimiter, note):
    text = "".join(delimiter.join(row) + "\n" for row in (["a", "b"], ["1", "2.5"], ["3", "4.5"]))
    table = read(tmp_path, text)
    assert table.names == ("a", "b")
    assert table.columns[1].tolist() == [2.5, 4.5]
    assert table.notes == (note,)


def test_a_comma_needs_no_note(tmp_path):
    assert read(tmp_path, "a b,c;d\n1,2\n3,4\n").notes == ()


def test_tsv(tmp_path):
    table = read(tmp_path, "a\tb\n1\tx, y\n2\t\n", "rows.tsv.gz")
    assert table.container == "tsv"
    assert table.columns[1].tolist() == ["x, y", None]


def test_a_row_of_gaps_is_no_blank_line(tmp_path):
    table = read(tmp_path, "a\tb\n1\t2\n\t\n3\t4\n", "rows.tsv")
    assert table.num_rows == 3
    assert np.isnan(table.columns[0][1])


def test_memory_of_a_large_table(tmp_path):
    """Peak memory while two million cells are read stays below three times the finished arrays (16 MB)."""
    block = "".join(
        ",".join(f"{v:.5f}" for v in row) + "\n" for row in np.random.default_rng(0).normal(size=(1000, 20))
    )
    path = write(tmp_path, block * 100)
    tracemalloc.start()
    table = read_table(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    final = sum(c.nbytes for c in table.columns)
    assert final == 2_000_000 * 8
    assert peak < 3 * final


# ---- arrays


def test_shapes_of_arrays():
    rng = np.random.default_rng(0)
    expected = {
        (6,): ((), False),
        (6, 3): ((3,), False),
        (6, 5, 2): ((5, 2), False),
        (6, 2, 3, 4, 5): ((2, 3, 4, 5), False),
        (6, 3, 5, 7): ((3, 5, 7), True),
        (6, 5, 7, 3): ((3, 5, 7), True),
        (6, 5, 7, 2): ((5, 7, 2), False),
        (6, 4, 4, 3): ((3, 4, 4), True),
    }
    for shape, (event_shape, image) in expected.items():
        array = rng.normal(size=shape)
        table = read_table(array)
        assert (table.event_shape, table.image) == (event_shape, image), shape
        assert table.num_rows == 6
        moved = np.moveaxis(array, -1, 1) if image and shape[1] not in (1, 3) else array
        np.testing.assert_array_equal(np.stack(table.columns, 1), moved.reshape(6, -1))


def test_grey_pictures():
    rng = np.random.default_rng(0)
    for array in (
        rng.integers(0, 256, (5, 8, 6), dtype=np.uint8),
        rng.integers(0, 17, (5, 8, 6)),
        rng.integers(0, 17, (5, 8, 6)).astype(float),
        rng.random((5, 8, 8)),
    ):
        assert read_table(array).event_shape == (1, *array.shape[1:])
        assert read_table(array).image
    for array in (rng.normal(size=(5, 8, 8)), rng.random((5, 24, 7)), rng.integers(0, 9000, (5, 8, 8))):
        assert not read_table(array).image


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "float16", "float32", "float64", "bool", ">f4", "<i2"])
def test_dtypes_of_arrays_are_kept(dtype):
    array = np.arange(6).reshape(3, 2).astype(dtype)
    table = read_table(array)
    native = np.dtype(dtype).newbyteorder("=")
    assert table.dtypes == (str(native),) * 2
    assert all(c.dtype == native for c in table.columns)
    np.testing.assert_array_equal(np.stack(table.columns, 1), array)


def test_structured_array_is_a_table_with_gaps():
    array = np.array([(1, 0.5, "a"), (2, np.nan, "")], dtype=[("n", "i4"), ("x", "f4"), ("c", "U3")])
    table = read_table(array)
    assert table.names == ("n", "x", "c")
    assert table.dtypes == ("int32", "float32", "str")
    assert np.isnan(table.columns[1][1])
    assert table.columns[2].tolist() == ["a", None]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int32, torch.bool])
def test_tensors(dtype):
    tensor = torch.tensor([[0, 1], [1, 0], [1, 1]]).to(dtype)
    table = read_table(tensor.requires_grad_() if dtype.is_floating_point else tensor)
    assert table.container == "torch"
    assert table.dtypes == (str(dtype).removeprefix("torch."),) * 2
    np.testing.assert_array_equal(np.stack(table.columns, 1), [[0, 1], [1, 0], [1, 1]])


def test_a_table_passes_through():
    table = read_table(np.eye(3))
    assert read_table(table) is table


# ---- NumPy files


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, packed, order):
    array = np.asarray(np.random.default_rng(0).normal(size=(7, 3)), order=order)
    np.save(tmp_path / "a.npy", array)
    path = tmp_path / "a.npy"
    if packed:
        path = write(tmp_path, path.read_bytes(), "b.npy.gz")
    table = read_table(path)
    assert table.container == "npy"
    np.testing.assert_array_equal(np.stack(table.columns, 1), array)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("packed", [False, True])
def test_npz_with_sides_and_names(tmp_path, save, packed):
    x = np.arange(8.0).reshape(4, 2)
    save(
        tmp_path / "a.npz", other=np.zeros((2, 2)), X=x, label=np.array(["a", "b", "", "a"]),
        t=np.arange(4), names=np.array(["u", "v"]),
    )  # fmt: skip
    path = tmp_path / "a.npz"
    if packed:
        path = write(tmp_path, path.read_bytes(), "b.npz.gz")
    table = read_table(path)
    assert (table.container, table.key, table.names) == ("npz", "X", ("u", "v"))
    assert set(table.sides) == {"label", "t"}
    assert table.sides["label"].tolist() == ["a", "b", None, "a"]
    assert table.sides["t"].tolist() == [0, 1, 2, 3]


def test_npz_key(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros((3, 2)), b=np.ones((4, 1)))
    assert read_table(f"{tmp_path}/a.npz:b").event_shape == (1,)
    assert read_table(tmp_path / "a.npz", key="a").event_shape == (2,)
    np.savez(tmp_path / "one.npz", strange=np.zeros((3, 2)))
    assert read_table(tmp_path / "one.npz").key == "strange"
    for name in ("x", "data", "x_train"):
        np.savez(tmp_path / "c.npz", a=np.zeros(3), **{name: np.zeros((3, 2))})
        assert read_table(tmp_path / "c.npz").key == name


# ---- frames


def test_pandas():
    frame = pandas.DataFrame(
        {
            "f4": np.array([1, np.nan, 3], dtype="f4"),
            "i2": np.array([1, 2, 3], dtype="i2"),
            "Int32": pandas.array([1, None, 3], dtype="Int32"),
            "full": pandas.array([1, 2, 3], dtype="Int8"),
            "Float": pandas.array([0.5, None, 1], dtype="Float64"),
            "truth": [True, False, True],
            "maybe": pandas.array([True, None, False], dtype="boolean"),
            "size": pandas.Categorical(["small", None, "large"], categories=["small", "medium", "large"], ordered=True),
            "text": ["a", None, "b"],
            "old": pandas.Series(["a", np.nan, "b"], dtype=object),
            "new": pandas.array(["a", pandas.NA, "b"], dtype="string"),
            "numbers": pandas.Series([1, 2, 3], dtype=object),
        }
    )
    table = read_table(frame)
    column = dict(zip(table.names, table.columns, strict=True))
    dtype = dict(zip(table.names, table.dtypes, strict=True))
    assert table.container == "pandas"
    assert column["f4"].dtype == np.float32
    assert column["i2"].dtype == np.int16
    np.testing.assert_array_equal(column["Int32"], [1, np.nan, 3])
    assert (dtype["Int32"], dtype["full"], column["full"].dtype) == ("Int32", "Int8", np.dtype("i1"))
    np.testing.assert_array_equal(column["Float"], [0.5, np.nan, 1])
    assert column["truth"].dtype == bool
    assert column["maybe"].tolist() == [True, None, False]
    assert column["size"].tolist() == ["small", None, "large"]
    assert table.categories == {"size": ("small", "medium", "large")}
    assert column["text"].tolist() == column["old"].tolist() == column["new"].tolist() == ["a", None, "b"]
    assert column["numbers"].dtype == np.int64


def test_pandas_series_and_other_names():
    assert read_table(pandas.Series([1.0, 2.0], name="a")).names == ("a",)
    table = read_table(pandas.DataFrame(np.eye(2)))
    assert table.names == ("0", "1")
    assert table.notes == ("column 0 is called '0'", "column 1 is called '1'")


def test_pandas_backed_by_arrow():
    frame = pandas.DataFrame({"a": [1, None, 3], "b": [0.5, 1.5, 2.5], "c": ["x", None, "y"]}).convert_dtypes(
        dtype_backend="pyarrow"
    )
    table = read_table(frame)
    np.testing.assert_array_equal(table.columns[0], [1, np.nan, 3])
    assert table.columns[1].tolist() == [0.5, 1.5, 2.5]
    assert table.columns[2].tolist() == ["x", None, "y"]


def test_polars():
    frame = polars.DataFrame(
        {
            "i": polars.Series([1, None, 3], dtype=polars.Int32),
            "f": polars.Series([0.5, None, 1], dtype=polars.Float32),
            "u": polars.Series([1, 2, 3], dtype=polars.UInt8),
            "truth": [True, False, True],
            "maybe": [True, None, False],
            "text": ["a", None, "b"],
            "cat": polars.Series(["u", "v", None], dtype=polars.Categorical),
            "enum": polars.Series(["s", None, "l"], dtype=polars.Enum(["s", "m", "l"])),
        }
    )
    table = read_table(frame)
    assert table.container == "polars"
    assert table.dtypes == ("int32", "float32", "uint8", "bool", "bool", "str", "category", "category")
    np.testing.assert_array_equal(table.columns[0], [1, np.nan, 3])
    assert table.columns[2].dtype == np.uint8
    assert table.columns[4].tolist() == [True, None, False]
    assert table.columns[5].tolist() == ["a", None, "b"]
    assert table.categories == {"cat": ("u", "v"), "enum": ("s", "m", "l")}


def test_parquet(tmp_path):
    frame = pandas.DataFrame(
        {
            "i": pandas.array([1, None, 3], dtype="Int64"),
            "f": np.array([0.5, 1.5, 2.5], dtype="f4"),
            "c": pandas.Categorical(["b", None, "a"], categories=["b", "a"]),
            "t": ["x", None, "y"],
            "b": [True, False, True],
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    assert table.container == "parquet"
    assert table.names == ("i", "f", "c", "t", "b")
    assert table.dtypes == ("int64", "float32", "category", "str", "bool")
    np.testing.assert_array_equal(table.columns[0], [1, np.nan, 3])
    assert table.categories == {"c": ("b", "a")}
    assert table.columns[3].tolist() == ["x", None, "y"]


# ---- names


@pytest.mark.parametrize("name", list(BUILTINS))
def test_builtin_names(name):
    table, listed = read_table(name), BUILTINS[name]
    assert isinstance(table, Table)
    assert (table.num_rows, len(table.names)) == (listed.rows, listed.columns)
    again = read_table(name)
    assert all(np.array_equal(a, b) for a, b in zip(table.columns, again.columns, strict=True))


def test_digits_and_iris():
    digits = read_table("digits")
    assert (digits.event_shape, digits.image, digits.dtypes[0]) == ((1, 8, 8), True, "uint8")
    pixels = np.stack(digits.columns)
    assert (pixels.min(), pixels.max()) == (0, 16)
    assert set(digits.sides["label"].tolist()) == set(range(10))
    iris = read_table("iris")
    assert iris.names[0] == "sepal length (cm)"
    assert set(iris.sides["label"].tolist()) == {"setosa", "versicolor", "virginica"}


def test_labels_of_toys():
    assert set(read_table("8gaussians").sides["label"].tolist()) == set(range(8))
    assert set(read_table("moons").sides["label"].tolist()) == {0, 1}
    assert not read_table("rings").sides


# ---- real files


def test_california_housing(advect_data):
    table = read_table(advect_data / "california_housing" / "housing.csv.gz")
    truth = np.load(advect_data / "california_housing" / "california_housing.npz")
    assert table.names[:9] == tuple(truth["numeric_names"])
    np.testing.assert_array_equal(np.stack(table.columns[:9], 1), truth["numeric"])
    assert int(np.isnan(table.columns[4]).sum()) == 207
    words = truth["ocean_proximity_names"][truth["ocean_proximity"]]
    assert table.columns[9].tolist() == words.tolist()


@pytest.mark.parametrize("colour", ["red", "white"])
def test_wine_quality(advect_data, colour):
    """Cells separated by spaces, names in a comment."""
    table = read_table(advect_data / "wine_quality" / f"winequality-{colour}.csv.gz")
    truth = np.load(advect_data / "wine_quality" / f"winequality_{colour}.npz")
    assert table.names == tuple(n.replace("_", " ") for n in truth["names"])
    np.testing.assert_array_equal(np.stack(table.columns, 1), truth["data"])
    assert table.dtypes[-1] == "int64"


@pytest.mark.parametrize(
    ("file", "key"),
    [("volerup", "volcano"), ("quakes_all", "earthquake"), ("flood", "flood"), ("fire", "fire")],
)
def test_earth_events(advect_data, file, key):
    """Comments first; one of the four has no header."""
    table = read_table(advect_data / "earth_events" / f"{file}.csv.gz")
    truth = np.load(advect_data / "earth_events" / "earth_events_latlon.npz")[key]
    np.testing.assert_array_equal(np.stack(table.columns, 1), truth)


def test_datasaurus_and_etth1(advect_data):
    table = read_table(advect_data / "datasaurus" / "DatasaurusDozen-Long.tsv.gz")
    dino = np.load(advect_data / "datasaurus" / "datasaurus_dozen.npz")["dino"]
    mine = table.columns[0] == "dino"
    np.testing.assert_array_equal(np.stack([table.columns[1][mine], table.columns[2][mine]], 1), dino)
    table = read_table(advect_data / "etth1" / "ETTh1.csv.gz")
    assert (table.num_rows, table.names[0], table.dtypes[0]) == (17420, "date", "str")


def test_adult(advect_data, tmp_path):
    """No header, blanks after the commas, numbers and categories mixed."""
    packed = (advect_data / "adult" / "adult.data.gz").read_bytes()
    table = read(tmp_path, gzip.decompress(packed), "adult.csv.gz")
    truth = np.load(advect_data / "adult" / "adult.npz")
    assert table.names == tuple(f"x{j}" for j in range(15))
    numeric = [c for c, d in zip(table.columns, table.dtypes, strict=True) if d == "int64"]
    np.testing.assert_array_equal(np.stack(numeric, 1), truth["num_train"])
    assert table.columns[1].tolist() == truth["levels_workclass"][truth["cat_train"][:, 0]].tolist()
