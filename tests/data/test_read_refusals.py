"""Refusals: bad input gives one clear message with the place, never a wrong table."""

import gzip
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pandas
import polars
import pytest
import torch

from advect.data.read import ENDINGS, PACKED_ENDINGS, read_table
from advect.decoding.child import serve
from advect.errors import AdvectError, DataError, MissingExtraError, UnknownNameError


def refusal(source, **options) -> str:
    with pytest.raises(AdvectError) as caught:
        read_table(source, **options)
    return str(caught.value)


def refused_text(folder, text, name="rows.csv") -> str:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refusal(path)
    assert str(path) in message
    return message


# ---- names and paths


def test_unknown_name():
    with pytest.raises(UnknownNameError, match=r"no file or built-in data set 'mons'. Did you mean 'moons'\?"):
        read_table("mons")


def test_missing_file_offers_the_nearest(tmp_path):
    (tmp_path / "houses.csv").write_text("a\n1\n2\n")
    message = refusal(tmp_path / "house.csv")
    assert "no such file" in message
    assert "houses.csv" in message
    assert "does not exist" in refusal(str(tmp_path / "nowhere" / "a.csv"))
    assert "no such file" in refusal("surely_not_here.csv")


def test_folder_and_unknown_ending(tmp_path):
    assert "folder" in refusal(tmp_path)
    assert ".parquet" in refused_text(tmp_path, "x", "rows.xyz")
    assert "cannot be read as a table" in refusal(3)


def test_key_without_npz(tmp_path):
    assert "key" in refusal(np.eye(3), key="X")
    (tmp_path / "a.csv").write_text("a\n1\n2\n")
    assert ".npz" in refusal(tmp_path / "a.csv", key="X")
    assert ".npz" in refusal("moons", key="X")


@pytest.mark.parametrize("ending", [*ENDINGS, *PACKED_ENDINGS])
def test_empty_file(tmp_path, ending):
    assert "empty" in refused_text(tmp_path, b"", f"rows{ending}")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ending", [*ENDINGS, *PACKED_ENDINGS])
def test_random_bytes_under_every_ending(tmp_path, ending, seed):
    if ending == ".h5ad":
        pytest.importorskip("anndata")
    noise = np.random.default_rng(seed).bytes(5000)
    with pytest.raises(DataError):
        read_table(tmp_path / _stored(tmp_path, noise, f"raw{ending}"))
    if ending.endswith(".gz"):
        with pytest.raises(DataError):
            read_table(tmp_path / _stored(tmp_path, gzip.compress(noise), f"packed{ending}"))


def _stored(folder: Path, data: bytes, name: str) -> str:
    (folder / name).write_bytes(data)
    return name


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("ending", [".npy", ".npz", ".parquet", ".csv.gz", ".npy.gz"])
def test_files_cut_short(tmp_path, ending, part):
    """Trap D4: a truncated file is refused, never read in part."""
    array = np.random.default_rng(0).normal(size=(100, 4))
    path = tmp_path / f"whole{ending}"
    if ending == ".npy":
        np.save(path, array)
    elif ending == ".npz":
        np.savez(path, X=array)
    elif ending == ".parquet":
        pandas.DataFrame(array, columns=list("abcd")).to_parquet(path)
    elif ending == ".csv.gz":
        path.write_bytes(gzip.compress("".join(",".join(map(repr, r)) + "\n" for r in array.tolist()).encode()))
    else:
        np.save(tmp_path / "plain.npy", array)
        path.write_bytes(gzip.compress((tmp_path / "plain.npy").read_bytes()))
    read_table(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    assert str(path) in refusal(path)


def test_truncated_array_says_how_many_rows_are_there(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((100, 4)))
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[: -32 * 40])
    message = refusal(tmp_path / "a.npy")
    assert "100 rows" in message
    assert "(60 rows)" in message


# ---- number of rows and columns


def test_too_few_rows(tmp_path):
    for text in ("a,b\n", "a,b", "# only a comment\n"):
        refused_text(tmp_path, text)
    assert "only one row" in refused_text(tmp_path, "a,b\n1,2\n")
    assert "only one row" in refusal(np.zeros((1, 2)))
    assert "no rows" in refusal(np.zeros((0, 2)))
    assert "no columns" in refusal(np.zeros((5, 0)))
    assert "single number" in refusal(np.array(3.0))
    assert "no columns" in refusal(pandas.DataFrame(index=range(4)))
    assert "no rows" in refusal(pandas.DataFrame({"a": []}))
    assert read_table(np.zeros((1, 2)), min_rows=1).num_rows == 1


# ---- text tables


def test_mixed_text(tmp_path):
    message = refused_text(tmp_path, "a,b\n1,2\n3,oops\n5,6\n7,n/a\n9,1\n")
    for part in ("mixed text in a numeric column", "'b'", "'oops'", "line 3", "1 further"):
        assert part in message


def test_mixed_text_line_number_counts_every_line(tmp_path):
    message = refused_text(tmp_path, "# comment\n\na,b\n1,2\n\n3,4\n5,six\n7,8\n")
    assert "line 7" in message
    message = refused_text(tmp_path, 'a,b,c\n1,2,"x\ny"\n3,4,z\n5,six,z\n7,8,z\n')
    assert "line 5" in message


def test_mixed_text_deep_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("advect.data.delimited.BLOCK_BYTES", 100)
    message = refused_text(tmp_path, "a,b\n" + "1.5,2\n" * 200 + "1.5,?\n" + "1.5,2\n" * 50)
    assert "line 202" in message
    assert "'?'" in message


def test_text_first_and_numbers_after(tmp_path, monkeypatch):
    monkeypatch.setattr("advect.data.delimited.BLOCK_BYTES", 20)
    assert "mixed text" in refused_text(tmp_path, "a,b\n" + "0,x\n" * 20 + "0,5\n" * 200)


@pytest.mark.parametrize("cell", ["1_000", "１２", "0x10", "1.2.3", "--1", "1e", "12 34"])
def test_what_is_no_number(tmp_path, cell):
    assert "mixed text" in refused_text(tmp_path, f"a,b\n1,2\n3,{cell}\n5,6\n7,8\n")


def test_decimal_commas(tmp_path):
    message = refused_text(tmp_path, "a;b\n1,5;x\n2;x\n3;y\n4;y\n")
    assert "decimal points" in message


@pytest.mark.parametrize("cell", ["inf", "-inf", "Infinity", "1e999"])
def test_infinity(tmp_path, cell):
    message = refused_text(tmp_path, f"a,b\n1,2\n3,{cell}\n5,{cell}\n")
    for part in ("infinite", "'b'", "line 3", "1 further"):
        assert part in message


def test_ragged(tmp_path):
    message = refused_text(tmp_path, "a,b,c\n1,2,3\n4,5\n6,7,8\n")
    for part in ("line 3", "2 cells", "expected 3"):
        assert part in message
    assert "expected 3" in refused_text(tmp_path, "a,b,c\n1,2,3\n4,5,6,7\n")
    assert "expected 2" in refused_text(tmp_path, 'a,b\n1,"x"\n4,y,z\n')
    # one short row and one long one do not make up for each other
    assert "line 3" in refused_text(tmp_path, "a,b\n1,2\n3\n4,5,6\n")


def test_repeated_names(tmp_path):
    message = refused_text(tmp_path, "a,b,a\n1,2,3\n4,5,6\n")
    assert "columns 1 and 3" in message


def test_encodings(tmp_path):
    assert "UTF-16" in refused_text(tmp_path, "a,b\n1,2\n3,4\n".encode("utf-16"))
    assert "line 3" in refused_text(tmp_path, "a,b\n1,x\n2,café\n".encode("latin-1"))
    assert "NUL" in refused_text(tmp_path, b"a,b\n1,\x00\n")
    assert "carriage return" in refused_text(tmp_path, b"a,b\r1,2\r3,4\r")


def test_encoding_deep_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("advect.data.dialect.SAMPLE_BYTES", 64)
    monkeypatch.setattr("advect.data.delimited.BLOCK_BYTES", 128)
    body = b"1,x\n" * 1000
    assert "line 1002" in refused_text(tmp_path, b"a,b\n" + body + b"1,caf\xe9\n")
    assert "line 1003" in refused_text(tmp_path, b'a,b\n1,"x"\n' + body + b"1,caf\xe9\n")


def test_unclosed_quote(tmp_path):
    assert "line 1" in refused_text(tmp_path, b"a\rb,c\n1,2\n3,4\n")
    assert "quote" in refused_text(tmp_path, 'a,b\n1,x\n2,"y\n3,z\n')


def test_one_endless_line(tmp_path):
    """A file of zeros packed by gzip expands a thousandfold; reading stops at the bound on a line."""
    path = tmp_path / "bomb.csv.gz"
    with gzip.open(path, "wb", compresslevel=9) as handle:
        for _ in range(20):
            handle.write(b"1" * (1 << 20))
    assert "longer than 16 MiB" in refusal(path)


# ---- arrays


def test_non_finite_arrays():
    array = np.zeros((10, 3))
    array[4, 1] = np.inf
    array[7, 2] = np.nan
    message = refusal(array)
    for part in ("infinite", "row 4", "'x1'", "1 further"):
        assert part in message
    array[4, 1] = 0
    assert "NaN in row 7 (counted from 0), column 'x2'" in refusal(array)
    assert "row 7" in refusal(torch.from_numpy(array))
    assert "row 7" in refusal(array.astype(np.float16))


def test_search_for_non_finite_values_goes_in_blocks(monkeypatch):
    monkeypatch.setattr("advect.data.arrays.CHECK_VALUES", 6)
    array = np.zeros((10, 3))
    array[[5, 9], [1, 0]] = np.nan
    message = refusal(array)
    assert "row 5" in message
    assert "1 further" in message


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 2), dtype=complex), "complex"),
        (np.zeros((3, 2), dtype="M8[D]"), "Convert them to numbers"),
        (np.zeros((3, 2), dtype="m8[s]"), "Convert them to numbers"),
        (np.array([["a"], ["b"]]), "no numbers"),
        (np.array([[1, None], [2, 3]], dtype=object), "Python objects"),
        (np.zeros(3, dtype=[("a", "f8"), ("when", "M8[D]")]), "'when'"),
        (np.zeros(3, dtype=[("a", "f8", (2,))]), "'a'"),
    ],
)
def test_dtypes_that_are_no_numbers(array, words):
    assert words in refusal(array)


def test_tensors_that_are_no_tables():
    assert "dense" in refusal(torch.eye(3).to_sparse())
    assert "complex" in refusal(torch.zeros(3, 2, dtype=torch.complex64))


# ---- NumPy files


class Bomb:
    """Unpickling this would make a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (self.target, "w"))


def test_pickles_are_never_loaded(tmp_path):
    """Trap A7: an object array is refused by its header; nothing in it runs."""
    target = str(tmp_path / "proof")
    array = np.empty(3, dtype=object)
    array[:] = [Bomb(target)] * 3
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "a.npz", X=array)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Bomb(target)))
    (tmp_path / "b.npz").write_bytes(pickle.dumps(Bomb(target)))
    for name in ("a.npy", "a.npz"):
        assert "pickled Python objects, which advect never loads" in refusal(tmp_path / name)
    for name in ("b.npy", "b.npz"):
        refusal(tmp_path / name)
    np.savez(tmp_path / "side.npz", X=np.eye(3), extra=array)
    table = read_table(tmp_path / "side.npz")
    assert not table.sides
    assert "pickled" in table.notes[0]
    assert not os.path.exists(target)


def _npy(descr: str, shape: str, body: bytes = b"") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + body


@pytest.mark.parametrize(
    "data",
    [
        _npy("'<f8'", "(1000000000000, 8)", b"\0" * 64),
        _npy("'<f8'", "(4, 2)", b"\0" * 63),
        _npy("'<f8'", "(4, 2)", b"\0" * 65),
        _npy("'<f8'", "(-4, 2)", b"\0" * 64),
        _npy("'<f8'", "'abc'"),
        _npy("'nonsense'", "(4, 2)", b"\0" * 64),
        _npy("__import__('os').getcwd()", "(4, 2)"),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        b"\x93NUMPY\x09\x00",
    ],
)
def test_headers_that_lie(tmp_path, data):
    refused_text(tmp_path, data, "a.npy")
    refused_text(tmp_path, gzip.compress(data), "a.npy.gz")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("X.npy", data)
    assert "a.npz" in refusal(tmp_path / "a.npz")


def test_zip_bomb(tmp_path, monkeypatch):
    """Zeros packed a thousandfold: refused by the sizes in the headers, before anything is unpacked."""
    monkeypatch.setattr("advect.data.archives.SUSPICIOUS_BYTES", 1 << 20)
    np.savez_compressed(tmp_path / "a.npz", X=np.zeros(1 << 20))
    monkeypatch.setattr(np.lib.format, "read_array", None)  # reading the array would fail loudly
    assert "bomb" in refusal(tmp_path / "a.npz")
    packed = gzip.compress((tmp_path / "a.npz").read_bytes())
    (tmp_path / "b.npz.gz").write_bytes(packed)
    assert "bomb" in refusal(tmp_path / "b.npz.gz")
    (tmp_path / "c.npy.gz").write_bytes(gzip.compress(_npy("'<f8'", f"({1 << 20},)", bytes(8 << 20))))
    assert "bomb" in refusal(tmp_path / "c.npy.gz")
    (tmp_path / "d.npz.gz").write_bytes(gzip.compress(bytes(64 << 20)))
    assert "expand to more than" in refusal(tmp_path / "d.npz.gz")


def test_which_array(tmp_path):
    np.savez(tmp_path / "a.npz", first=np.zeros((3, 2)), second=np.zeros((3, 3)))
    message = refusal(tmp_path / "a.npz")
    for part in ("first (3, 2)", "second (3, 3)", "a.npz:second"):
        assert part in message
    assert "Did you mean 'first'" in refusal(f"{tmp_path / 'a.npz'}:frist")
    assert "two different arrays" in refusal(f"{tmp_path / 'a.npz'}:first", key="second")
    np.savez(tmp_path / "none.npz")
    assert "no array" in refusal(tmp_path / "none.npz")


# ---- frames


def test_frames_that_are_refused():
    cases = {
        "called 'a'": pandas.DataFrame(np.eye(2), columns=["a", "a"]),
        "several levels": pandas.DataFrame(np.eye(2), columns=[("a", 1), ("b", 2)]),
        "Convert them to numbers": pandas.DataFrame({"d": pandas.to_datetime(["2020-01-01", "2020-01-02"])}),
        "complex": pandas.DataFrame({"z": [1j, 2j]}),
        "holds 'x'": pandas.DataFrame({"m": [1, "x", 2]}),
        "holds a list": pandas.DataFrame({"l": [[1], [2]]}),
        "row 1 (counted from 0), column 'i'": pandas.DataFrame({"i": [1.0, np.inf]}),
    }
    for words, frame in cases.items():
        assert words in refusal(frame)
    assert "Convert them to numbers" in refusal(
        polars.DataFrame({"d": ["2020-01-01"] * 2}).select(polars.col("d").str.to_date())
    )
    assert "collect" in refusal(polars.LazyFrame({"a": [1, 2]}))
    assert "holds a list" in refusal(polars.DataFrame({"l": [[1], [2]]}))
    assert "row 0" in refusal(polars.DataFrame({"i": [-np.inf, 1.0]}))


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    pandas.DataFrame({"a": [1, 2]}).to_parquet(tmp_path / "a.parquet")
    # The decoder in this very process, without its limits, so that the module can be taken away.
    monkeypatch.setattr("advect.decoding.child.limit", lambda asked: None)
    monkeypatch.setattr("advect.decoding.guard.run_child", lambda asked, answer, *_: serve(asked, answer))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtraError, match=r"advect\[tables\]"):
        read_table(tmp_path / "a.parquet")


def test_builtin_without_sklearn(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(MissingExtraError, match=r"advect\[sklearn\]"):
        read_table("digits")
