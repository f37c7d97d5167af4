"""Decoders in a process of their own: what comes back is the same, and a process that dies is a refusal."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from advect.data import read_table
from advect.decoding import answer, guard
from advect.decoding.answer import Answer, AnswerWriter, BadAnswerError
from advect.decoding.columns import Converted
from advect.errors import DataError


def written(meaning: dict, *arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    writer = AnswerWriter(stream)
    for values in arrays:
        writer.array(values)
    writer.close(meaning)
    return stream.getvalue()


def read(tmp_path, data: bytes) -> Answer:
    (tmp_path / "answer").write_bytes(data)
    with (tmp_path / "answer").open("r+b") as stream:
        return Answer(stream, "here")


COLUMNS = [
    Converted(np.array([1.5, np.nan, -0.0]), "float64"),
    Converted(np.array([1, 2, 3], np.uint8), "uint8"),
    Converted(np.array([True, False, True]), "bool"),
    Converted(np.array(["a", None, "\ud800"], dtype=object), "str"),
    Converted(np.array([1, True, 1.0], dtype=object), "object", [1, True], True),
]


def test_columns_come_back_as_they_went(tmp_path):
    stream = io.BytesIO()
    writer = AnswerWriter(stream)
    writer.close({"columns": [writer.column(column, "x") for column in COLUMNS]})
    back = read(tmp_path, stream.getvalue()).columns("columns")
    for column, found in zip(COLUMNS, back, strict=True):
        assert found.values.dtype == column.values.dtype
        assert list(map(repr, found.values.tolist())) == list(map(repr, column.values.tolist()))
        assert (found.dtype, found.categories, found.ordered) == (column.dtype, column.categories, column.ordered)
        found.values[0] = found.values[1]  # a reader may write to what it got


@pytest.mark.parametrize(
    "entry",
    [
        ["O", 0, [2]],
        ["f8", 0, [9]],
        ["f8", 8, [1]],
        ["f8", 0, [-1]],
        ["f8", 0, [2**62, 2**62]],
        ["f8", -64, [1]],
        ["f8", 0, "2"],
        ["f8", 0],
        {"f8": 0},
        ["f8", 0, [1] * 40],
    ],
)
def test_an_answer_that_lies_is_refused(tmp_path, entry):
    text = json.dumps({"arrays": [entry], "meaning": {}}).encode()
    data = np.ones(2).tobytes() + bytes(48) + text + len(text).to_bytes(8, "little")
    found = read(tmp_path, data)
    with pytest.raises(BadAnswerError, match="makes no sense"):
        found.array(0)


@pytest.mark.parametrize("data", [b"", bytes(8), b"\xff" * 16, b"[" * 90_000 + (90_000).to_bytes(8, "little")])
def test_what_is_no_answer(tmp_path, data):
    with pytest.raises(BadAnswerError):
        read(tmp_path, data)


@pytest.mark.parametrize(
    "column",
    [
        {"dtype": "str", "codes": 0, "levels": ["a"]},  # codes 0 and 1
        {"dtype": "str", "codes": 0, "levels": [{}, "a"]},
        {"dtype": "str", "codes": 0},
        {"dtype": 3, "values": 0},
        {"dtype": "x", "values": 7},
        {"dtype": "x", "values": 0, "categories": [[]]},
        [],
    ],
)
def test_columns_that_lie(tmp_path, column):
    data = written({"columns": [column]}, np.array([0, 1], np.int32))
    with pytest.raises(BadAnswerError):
        read(tmp_path, data).columns("columns")


def replaced(monkeypatch, code: str) -> None:
    monkeypatch.setattr(guard, "_START", code + " # {path!r}")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})", "SIGSEGV"),
        ("import os; os._exit(3)", "exit code 3"),
        ("raise MemoryError", "exit code 1"),
    ],
)
def test_a_process_that_dies_is_a_refusal(tmp_path, monkeypatch, code, words):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    replaced(monkeypatch, code)
    with pytest.raises(DataError, match=words) as caught:
        read_table(tmp_path / "a.parquet")
    assert caught.value.where == str(tmp_path / "a.parquet")
    assert "fetch it again" in caught.value.message


def test_a_process_that_hangs_is_ended(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    replaced(monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(guard, "SECONDS", 1)
    started = time.monotonic()
    with pytest.raises(DataError, match="not read within 1 seconds"):
        read_table(tmp_path / "a.parquet")
    assert time.monotonic() - started < 30


def test_the_picture_that_ends_the_process_is_named(tmp_path, monkeypatch):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"x")
    replaced(monkeypatch, "import os; os.write(2, b'begun 0\\nbegun 1\\n'); os._exit(9)")
    with pytest.raises(DataError, match="exit code 9") as caught:
        read_table(tmp_path)
    assert caught.value.where == str(tmp_path / "b.png")


@pytest.mark.skipif(sys.platform != "linux", reason="limits on memory are those of Linux")
def test_memory_is_limited(tmp_path, monkeypatch):
    """A file of constant numbers that becomes 512 MiB, where 100 MiB are allowed."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"x": np.zeros(1 << 26)}), tmp_path / "a.parquet")
    monkeypatch.setattr(guard, "LARGEST_ANSWER", 50 << 20)
    monkeypatch.setattr(guard, "ROOM", 0)
    with pytest.raises(DataError, match=r"a\.parquet"):
        read_table(tmp_path / "a.parquet")


def test_the_decoding_process_does_without_torch():
    code = (
        "import sys; from advect.decoding import child; from importlib import import_module; "
        "[import_module(name) for name in child.DECODERS.values()]; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_pillow_is_not_asked_for_other_kinds(tmp_path):
    """PostScript would start another program."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(script)
    with pytest.raises(DataError, match="most of its 3 pictures cannot be used"):
        read_table(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path / "a.png")


def test_links_out_of_a_folder_are_passed_over(tmp_path):
    from PIL import Image

    (tmp_path / "in").mkdir()
    for name in ("in/a.png", "in/b.png", "secret.png"):
        Image.new("L", (8, 8), 40).save(tmp_path / name)
    (tmp_path / "in/c.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "in/d.png").symlink_to("a.png")
    os.mkfifo(tmp_path / "in/e.png")
    assert read_table(tmp_path / "in").num_rows == 3


@pytest.mark.parametrize("way", ["link", "storage", "virtual"])
def test_cells_that_lead_into_another_file(tmp_path, way):
    anndata = pytest.importorskip("anndata")
    h5py = pytest.importorskip("h5py")
    anndata.AnnData(obsm={"X_pca": np.random.default_rng(0).normal(size=(8, 2))}).write_h5ad(tmp_path / "a.h5ad")
    (tmp_path / "secret").write_bytes(np.arange(16.0).tobytes())
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        del file["obsm/X_pca"]
        if way == "link":
            file["obsm/X_pca"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
        elif way == "storage":
            outside = [(str(tmp_path / "secret"), 0, 128)]
            file.create_dataset("obsm/X_pca", shape=(8, 2), dtype="f8", external=outside)
        else:
            layout = h5py.VirtualLayout(shape=(8, 2), dtype="f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", shape=(8, 2))
            file.create_virtual_dataset("obsm/X_pca", layout)
    with pytest.raises(DataError, match="leads into another file"):
        read_table(tmp_path / "a.h5ad")


def test_alignment_is_what_torch_wants():
    assert answer._ALIGNMENT % 16 == 0
