"""Properties of every reader, over drawn files: what another program wrote is read as it is, and whatever else lies
there is rows, or a refusal that names the place."""

import csv
import io
import json
import struct
import sys
import unicodedata
import zipfile

import numpy as np
import pytest
import tomli_w
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from PIL import Image
from safetensors.torch import save

from advect.data import read_table
from advect.data.containers import to_container
from advect.decoding import guard
from advect.errors import AdvectError
from advect.run import RunFolder, read_config, read_tensors
from benchmarks.reliability import seeds
from benchmarks.reliability.cases import READERS, read_a_run
from benchmarks.reliability.damaged_runs import joined_tensors, run_seed
from benchmarks.reliability.mutate import with_png_checksums
from benchmarks.reliability.nursery import Nursery

FLOATS = {"allow_nan": False, "allow_infinity": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("drawn")


@pytest.fixture(scope="module", autouse=True)
def decoders():
    """Decoding processes that start at once, with the library's limits."""
    if sys.platform != "linux":
        yield
        return
    nursery, before = Nursery(("parquet", "cells", "pictures")), guard.run_child
    guard.run_child = nursery.run_child
    yield
    guard.run_child = before
    nursery.close()


def refused_or(read, path):
    """What is read; None where it is refused as it should be."""
    try:
        return read(path)
    except AdvectError as error:
        refusal = error
    assert refusal.where, refusal.message
    assert not [c for c in refusal.message if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    return None


def rows_or_refusal(path):
    """Every column has every row, or it is refused."""
    table = refused_or(lambda p: read_table(str(p), min_rows=1), path)
    if table is not None:
        assert {len(column) for column in table.columns} == {table.num_rows}
        assert len(table.columns) in (len(table.names), 1)
        refused_or(READERS["csv"].read, path)


# ---- what another program wrote

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5).map("t{}".format)


@given(
    st.lists(st.tuples(st.floats(**FLOATS), WORDS, st.integers(-(2**62), 2**62)), min_size=2, max_size=5),
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_csv(folder, rows, delimiter, ending, quoting):
    path = folder / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter, lineterminator=ending, quoting=quoting)
        writer.writerow(["x", "word", "n"])
        writer.writerows([[repr(x), word, n] for x, word, n in rows])
    table = read_table(str(path))
    assert table.names == ("x", "word", "n")
    for column, values in zip(table.columns, zip(*rows, strict=True), strict=True):
        assert column.tolist() == list(values)


NUMBERS = st.sampled_from(["<f8", ">f8", "<f4", ">f4", "<i2", ">i8", "|u1", "|b1", "<f2"])


def arrays(kinds=NUMBERS, **elements):
    return arrays_of.arrays(
        kinds, st.tuples(st.integers(2, 5), st.integers(1, 4)), elements={**FLOATS, **elements} or None
    )


@given(arrays(), st.booleans(), st.sampled_from([np.save, np.savez, np.savez_compressed]))
def test_numpy(folder, array, by_columns, save_array):
    path = folder / ("a.npy" if save_array is np.save else "a.npz")
    save_array(path, np.asfortranarray(array) if by_columns else array)
    np.testing.assert_array_equal(to_container(read_table(str(path)), "numpy"), array)


@given(arrays(st.sampled_from(["|u1", "|i1", ">i2", ">i4", ">f4", ">f8"])))
def test_idx(folder, array):
    code = {"|u1": 8, "|i1": 9, ">i2": 0xB, ">i4": 0xC, ">f4": 0xD, ">f8": 0xE}[array.dtype.str]
    path = folder / "a.idx"
    path.write_bytes(bytes((0, 0, code, 2)) + struct.pack(">II", *array.shape) + array.tobytes())
    np.testing.assert_array_equal(to_container(read_table(str(path)), "numpy"), array)


@given(
    arrays(st.just("<f8")),
    st.lists(st.none() | WORDS, min_size=5, max_size=5).filter(any),
    st.sampled_from(["none", "snappy", "zstd", "gzip"]),
)
@settings(max_examples=25)
def test_parquet(folder, array, words, compression):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    words = [*words[: len(array) - 1], "t"]
    columns = {f"x{j}": array[:, j] for j in range(array.shape[1])} | {"word": pa.array(words, pa.string())}
    parquet.write_table(pa.table(columns), folder / "a.parquet", compression=compression, row_group_size=2)
    table = read_table(str(folder / "a.parquet"))
    np.testing.assert_array_equal(np.stack(table.columns[:-1], 1), array)
    assert table.columns[-1].tolist() == words


@given(arrays(st.just("<f4")), st.booleans(), st.sampled_from([None, "gzip"]))
@settings(max_examples=15)
def test_h5ad(folder, array, is_sparse, packing):
    anndata = pytest.importorskip("anndata")
    import pandas
    import scipy.sparse

    obs = pandas.DataFrame({"word": ["u"] * len(array)}, index=list(map(str, range(len(array)))))
    var = pandas.DataFrame(index=[f"g{j}" for j in range(array.shape[1])])
    made = anndata.AnnData(X=scipy.sparse.csr_matrix(array) if is_sparse else array, obs=obs, var=var)
    made.write_h5ad(folder / "a.h5ad", compression=packing)
    table = read_table(str(folder / "a.h5ad"))
    np.testing.assert_array_equal(np.stack(table.columns, 1), array)
    assert table.sides["word"].tolist() == ["u"] * len(array)


@given(arrays_of.arrays("u1", (3, 9, 9, 3)), st.sampled_from(["png", "bmp", "ppm", "tif"]))
@settings(max_examples=15)
def test_pictures(folder, pixels, ending):
    root = folder / ending
    root.mkdir(exist_ok=True)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(root / f"{number}.{ending}")
    found = np.stack(read_table(str(root)).columns, 1).reshape(3, -1, 9, 9)
    # Pictures without any colour are read as grey.
    expected = np.moveaxis(pixels, -1, 1)
    np.testing.assert_array_equal(np.broadcast_to(found, expected.shape), expected)


SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(**FLOATS) | st.text(max_size=5)
TREES = st.recursive(
    SCALARS, lambda node: st.lists(node, max_size=3) | st.dictionaries(st.text(max_size=5), node, max_size=3)
)
CARDS = st.dictionaries(st.text(max_size=5), TREES, max_size=3)


def a_run(folder):
    """The folder of an honest run, new."""
    root = folder / "run"
    for place, content in run_seed("ot-cfm"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(content)
    return root


@given(CARDS)
@settings(max_examples=25)
def test_toml(folder, settings_of_a_run):
    root = a_run(folder)
    (root / "config.toml").write_text(tomli_w.dumps(settings_of_a_run), encoding="utf-8", newline="")
    assert read_config(RunFolder(root)) == settings_of_a_run


@given(st.dictionaries(st.text("abc.", min_size=1), arrays(st.sampled_from(["<f4", "<f8", "|u1"]))), CARDS)
def test_safetensors(folder, tensors, card):
    import torch

    path = folder / "a.safetensors"
    made = {name: torch.from_numpy(array) for name, array in tensors.items()}
    path.write_bytes(save(made, {"advect": json.dumps({"format": "advect-1", "card": card})}))
    found, read_card = read_tensors(path)
    assert read_card == card
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(found[name].numpy(), array)


# ---- whatever else lies there


@given(st.text('",;\t \r\n#ab1.-+eENA\ufeff\0é/', max_size=60).map(str.encode) | st.binary(max_size=60))
@example(b"a\n1\n" + b'"' * 7)
@settings(max_examples=300)
def test_any_text_table(folder, content):
    (folder / "b.csv").write_bytes(content)
    rows_or_refusal(folder / "b.csv")


SIZES = st.sampled_from([0, 1, 2, 3, 12, -1, 2**31, 2**32 - 1, 2**62, 10**30])
KINDS = NUMBERS.map(repr) | st.sampled_from(["'|O'", "'<U3'", "'<M8[s]'", "'<c16'", "[('a', '<f8'), ('b', '|O')]", "5"])
HEADERS = st.builds(
    "{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}".format,
    KINDS,
    st.sampled_from(["True", "False", "0"]),
    st.lists(SIZES, max_size=4).map(tuple),
)
NPY = st.builds(
    seeds.npy_header, HEADERS | st.text(max_size=40), st.binary(max_size=100) | st.just(bytes(96)), st.integers(1, 4)
)


@given(NPY)
@settings(max_examples=200)
def test_any_array_file(folder, content):
    (folder / "b.npy").write_bytes(content)
    rows_or_refusal(folder / "b.npy")


@given(
    st.dictionaries(st.text(max_size=4).map("{}.npy".format) | st.sampled_from(["../a.npy", "X.npy"]), NPY, max_size=3),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
)
def test_any_archive(folder, members, way):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", way) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name.replace("\0", "0")), content, way)
    (folder / "b.npz").write_bytes(stream.getvalue())
    rows_or_refusal(folder / "b.npz")


@given(st.integers(0, 255), st.lists(SIZES.map(lambda n: n % 2**32), max_size=5), st.binary(max_size=96))
@settings(max_examples=200)
def test_any_idx_file(folder, kind, axes, body):
    header = bytes((0, 0, kind, len(axes))) + b"".join(struct.pack(">I", n) for n in axes)
    (folder / "b.idx").write_bytes(header + body)
    rows_or_refusal(folder / "b.idx")


def edited(data: bytes, edits) -> bytes:
    """Pieces written over the content, at fractions of its length; the last may cut it off."""
    content = bytearray(data)
    for place, piece in edits:
        at = int(place * len(content))
        content[at : at + len(piece)] = piece
    return bytes(content)


EDITS = st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=8)), min_size=1, max_size=3)


@pytest.mark.skipif(sys.platform != "linux", reason="decoding processes that start at once are forks")
@pytest.mark.parametrize("reader", ["parquet", "h5ad"])
@given(which=st.integers(0, 2), edits=EDITS)
@settings(max_examples=25)
def test_any_packed_table(folder, reader, which, edits):
    pytest.importorskip("pyarrow" if reader == "parquet" else "anndata")
    path = folder / f"b.{reader}"
    path.write_bytes(edited(HONEST[reader]()[which], edits))
    rows_or_refusal(path)


def once(make):
    kept = []
    return lambda: kept[0] if kept else kept.append(make()) or kept[0]


HONEST = {reader: once(READERS[reader].seeds) for reader in ("parquet", "h5ad", "picture")}


@pytest.mark.skipif(sys.platform != "linux", reason="decoding processes that start at once are forks")
@given(which=st.integers(0, 20), edits=EDITS)
@settings(max_examples=40)
def test_any_pictures(folder, which, edits):
    known = HONEST["picture"]()
    root = folder / "pictures"
    root.mkdir(exist_ok=True)
    for number in range(3):
        ending, data = known[(which + number) % len(known)]
        data = with_png_checksums(edited(data, edits)) if not number else data
        (root / f"{number}{ending}").write_bytes(data)
    rows_or_refusal(root)
    for file in root.iterdir():
        file.unlink()


@given(st.text("[]{}=.,\"'#\n ab10e_-:", max_size=80))
@settings(max_examples=200)
def test_any_settings(folder, text):
    root = a_run(folder)
    (root / "config.toml").write_text(text)
    refused_or(lambda path: read_config(RunFolder(path)), root)


ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "U8", "BOOL", "F8_E4M3", "X"]),
        "shape": st.lists(SIZES.filter(lambda n: 0 <= n < 2**64), max_size=3),
        "data_offsets": st.lists(st.sampled_from([0, 4, 8, 16, 2**40, 2**63]), min_size=1, max_size=3),
    }
)


@given(st.dictionaries(st.text(max_size=3), ENTRIES | TREES, max_size=3), CARDS, st.sampled_from([None, 0, 8, 2**63]))
@settings(max_examples=200)
def test_any_tensors(folder, header, card, claimed):
    header["__metadata__"] = {"advect": json.dumps({"format": "advect-1", "card": card})}
    (folder / "b.safetensors").write_bytes(joined_tensors(header, bytes(16), claimed))
    refused_or(read_tensors, folder / "b.safetensors")


@given(st.integers(0, 10), st.data())
@settings(max_examples=40)
def test_any_run(folder, which, data):
    """One file of a run is damaged, or one value of its card is another."""
    root = a_run(folder)
    files = run_seed("ot-cfm")
    place, content = files[which % len(files)]
    if place == "model.safetensors" and data.draw(st.booleans()):
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        stored = json.loads(header["__metadata__"]["advect"])
        node, key = stored, "card"
        while isinstance(node[key], dict) and node[key] and data.draw(st.integers(0, 3)):
            node, key = node[key], data.draw(st.sampled_from(sorted(node[key])))
        node[key] = data.draw(TREES)
        header["__metadata__"]["advect"] = json.dumps(stored)
        content = joined_tensors(header, content[8 + size :])
    else:
        content = edited(content, data.draw(EDITS))
    (root / place).write_bytes(content)
    refused_or(read_a_run, root)
