"""Arrow columns from Arrow's own buffers: what Arrow's own conversion says, and text that lies is refused."""

import io
import subprocess
import sys

import numpy as np
import pytest

from advect.data import read_table
from advect.decoding.answer import Answer, AnswerWriter, BadAnswerError
from advect.decoding.arrow import arrow_column, packed_column
from advect.decoding.columns import Converted
from advect.decoding.texts import Texts
from advect.errors import DataError

pa = pytest.importorskip("pyarrow")


def read(tmp_path, data: bytes) -> Answer:
    (tmp_path / "answer").write_bytes(data)
    with (tmp_path / "answer").open("r+b") as stream:
        return Answer(stream, "here")


def through(tmp_path, column: Converted | Texts) -> Converted:
    stream = io.BytesIO()
    writer = AnswerWriter(stream)
    writer.close({"columns": [writer.column(column, "x")]})
    return read(tmp_path, stream.getvalue()).columns("columns")[0]


def chunked(values: list, kind) -> "pa.ChunkedArray":
    """Chunks that begin in the middle of a byte of bits, an empty one, and one without gaps."""
    whole = pa.array([values[0], *values, *values], kind)
    return pa.chunked_array([whole[1 : len(values)], whole[:0], whole[len(values) : -1]], kind)


TEXTS = ["a", None, "", "äöü 東京 🙂", "a", "x" * 40, None, "b\0c", "ß", "a", "z"]
KINDS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_those_of_arrow(tmp_path, kind, gaps):
    values = [np.dtype(kind).type(v) for v in (1, 2, 0, 100, 7, 3, 9, 11, 5, 6, 4)]
    values = [None if gaps and i % 3 == 1 else v for i, v in enumerate(values)]
    column = chunked(values, getattr(pa, kind)())
    expected = np.array([np.nan if v is None else v for v in column.to_pylist()])
    for found in (arrow_column(column, "x"), through(tmp_path, packed_column(column, "x"))):
        whole = gaps and not kind.startswith("float")
        assert found.values.dtype == (np.float64 if whole else np.dtype(kind))
        np.testing.assert_array_equal(found.values.astype(np.float64), expected.astype(np.float64))
        assert found.dtype == kind
        found.values[0] = 1  # a reader may write to what it got


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (TEXTS, pa.string()),
        (TEXTS, pa.large_string()),
        ([*"abcdefghijk"], pa.string()),
        ([True, False, True, True, False, False, True, False, True, True, False], pa.bool_()),
        ([True, None, True, True, False, False, None, False, True, True, False], pa.bool_()),
    ],
)
def test_text_and_truth_are_those_of_arrow(tmp_path, values, kind):
    column = chunked(values, kind)
    for found in (arrow_column(column, "x"), through(tmp_path, packed_column(column, "x"))):
        assert found.values.tolist() == column.to_pylist()


@pytest.mark.parametrize("index", ["int8", "int64", "uint16"])
@pytest.mark.parametrize("levels", [["b", "a", "never", "ü"], [3, 1, 2, 5]])
def test_categories_keep_their_order(tmp_path, index, levels):
    codes = pa.array([0, 3, None, 1, 1], getattr(pa, index)())
    column = pa.chunked_array([pa.DictionaryArray.from_arrays(codes, pa.array(levels), ordered=True)[1:]])
    for found in (arrow_column(column, "x"), through(tmp_path, packed_column(column, "x"))):
        assert found.values.tolist() == column.to_pylist()
        assert (list(found.categories), found.ordered, found.dtype) == (levels, True, "category")


@pytest.mark.parametrize("kind", ["string", "float64", "bool_", "int32", "large_string"])
def test_no_rows(tmp_path, kind):
    for column in (pa.chunked_array([], getattr(pa, kind)()), pa.chunked_array([pa.array([], getattr(pa, kind)())])):
        assert len(through(tmp_path, packed_column(column, "x")).values) == 0


GOOD = {"offsets": [0, 1, 3], "data": "aü".encode(), "codes": [0, 1, 2]}


@pytest.mark.parametrize(
    "lie",
    [
        {"offsets": [0, 2, 3]},  # in the middle of a letter
        {"offsets": [0, 3, 1]},
        {"offsets": [0, 1, 99]},
        {"offsets": [0, 1, 2]},
        {"offsets": [1, 1, 3]},
        {"offsets": [0, -(2**63), 3]},
        {"offsets": [0, 2**63 - 1, 3]},
        {"offsets": []},
        {"offsets": [[0, 1, 3]]},
        {"kind": np.float64},
        {"data": b"a\xff\xfe"},
        {"data": b""},
        {"codes": [0, 1, 3]},
        {"codes": [0, -1, 2]},
    ],
)
def test_text_that_lies(tmp_path, lie):
    def answered(parts: dict) -> Answer:
        offsets = np.array(parts["offsets"], parts.get("kind", np.int64))
        texts = Texts(np.array(parts["codes"], np.int32), offsets, np.frombuffer(parts["data"], np.uint8), "str")
        stream = io.BytesIO()
        writer = AnswerWriter(stream)
        writer.close({"columns": [writer.column(texts, "x")]})
        return read(tmp_path, stream.getvalue())

    assert answered(GOOD).columns("columns")[0].values.tolist() == ["a", "ü", None]
    with pytest.raises(BadAnswerError):
        answered({**GOOD, **lie}).columns("columns")


def test_a_file_whose_text_is_no_text_is_refused(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    array = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 3], np.int32)), pa.py_buffer(b"a\xff\xfe")]
    )
    parquet.write_table(pa.table({"t": array}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_table(tmp_path / "a.parquet")
    assert str(tmp_path / "a.parquet") in caught.value.where


def test_reading_does_without_pandas_and_torch(tmp_path):
    """Either would cost the decoding process more than the reading."""
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"x": [1.5, None], "n": [1, None], "b": [True, False], "t": ["a", None]}
    parquet.write_table(pa.table({**columns, "c": pa.array(["u", "v"]).dictionary_encode()}), tmp_path / "a.parquet")
    code = (
        "import io, json, sys; from advect.decoding.child import serve; out = io.BytesIO(); "
        "limits = {'memory': 1 << 32, 'answer': 1 << 30, 'seconds': 60}; "
        f"serve(json.dumps({{'kind': 'parquet', 'path': {str(tmp_path / 'a.parquet')!r}, **limits}}).encode(), out); "
        "print(b'names' in out.getvalue(), {'pandas', 'torch', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True set()\n"
