"""The files of the MNIST family, written here byte by byte."""

import gzip
import struct

import numpy as np
import pytest

from advect.data import read_table
from advect.errors import DataError


def idx(array, kind=0x08):
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def pictures(count=5):
    return np.random.default_rng(0).integers(0, 256, (count, 6, 7), dtype=np.uint8)


@pytest.mark.parametrize("packed", [False, True])
def test_pictures_come_with_the_labels_beside_them(packed, tmp_path):
    pack, ending = (gzip.compress, ".gz") if packed else (bytes, "")
    (tmp_path / f"train-images-idx3-ubyte{ending}").write_bytes(pack(idx(pictures())))
    table = read_table(tmp_path / f"train-images-idx3-ubyte{ending}")
    assert table.sides == {}
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(5, dtype=np.uint8)))
    table = read_table(tmp_path / f"train-images-idx3-ubyte{ending}")
    assert table.image
    assert table.event_shape == (1, 6, 7)
    np.testing.assert_array_equal(np.stack(table.columns, 1).reshape(5, 6, 7), pictures())
    assert table.sides["label"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("kind", "dtype"), [(0x09, "i1"), (0x0B, ">i2"), (0x0C, ">i4"), (0x0D, ">f4"), (0x0E, ">f8")])
def test_every_kind_of_number(kind, dtype, tmp_path):
    values = np.array([[1, -2], [3, 100]]).astype(dtype)
    (tmp_path / "rows.idx").write_bytes(idx(values, kind))
    table = read_table(tmp_path / "rows.idx")
    np.testing.assert_array_equal(np.stack(table.columns, 1), [[1, -2], [3, 100]])
    assert all(column.dtype.isnative for column in table.columns)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0", "no idx file"),
        (b"\x89PNG" + bytes(30), "no idx file"),
        (b"\0\0\x07\x01" + bytes(10), "no idx file"),
        (b"\0\0\x08\x03" + bytes(5), "cut short"),
        (idx(pictures())[:-1], "claims shape"),
        (idx(pictures()) + b"x", "claims shape"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + bytes(9), "claims shape"),
    ],
)
def test_damage_is_named(content, words, tmp_path):
    path = tmp_path / "t-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_table(path)
    packed = tmp_path / "t-images-idx3-ubyte.gz"
    packed.write_bytes(gzip.compress(content))
    with pytest.raises(DataError):
        read_table(packed)


def test_labels_of_another_set_are_refused(tmp_path):
    (tmp_path / "t-images-idx3-ubyte").write_bytes(idx(pictures()))
    (tmp_path / "t-labels-idx1-ubyte").write_bytes(idx(np.zeros(4, np.uint8)))
    with pytest.raises(DataError, match=r"shape \(4,\) for 5 rows"):
        read_table(tmp_path / "t-images-idx3-ubyte")
