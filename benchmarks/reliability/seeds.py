"""Small honest files of every kind that advect reads: what the fuzzer starts from."""

import base64
import gzip
import io
import json
import pickle
import struct
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np

CANARY = "advect-canary"
"""A file of this name in the current folder says that something from a file was run."""


class Trap:
    """Unpickling this makes the canary."""

    def __reduce__(self):
        return (open, (CANARY, "w"))


def _rows(rows: int = 12, columns: int = 3) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, columns))


def seeds_as_text(seeds: list) -> str:
    """Seeds for another process: texts, and bytes in base 64."""
    return json.dumps(seeds, default=lambda data: {"base64": base64.b64encode(data).decode()})


def seeds_of_text(text: str) -> list:
    """What `seeds_as_text` wrote."""

    def back(value: object) -> object:
        if isinstance(value, dict):
            return base64.b64decode(value["base64"])
        return tuple(map(back, value)) if isinstance(value, list) else value

    return [back(seed) for seed in json.loads(text)]


def csv_seeds() -> list[bytes]:
    """Numbers, mixed columns, quotes, semicolons, tabs, blanks, comments, gaps."""
    numbers = "".join(",".join(f"{v:.3f}" for v in row) + "\n" for row in _rows())
    return [
        f"a,b,c\n{numbers}".encode(),
        numbers.encode(),
        b"a,b,c\n1,x,true\n2,y,false\n,z,true\n4,x,\n" * 1 + b"5,y,true\n" * 5,
        b'"a","b, c"\n"1.5","x ""y"""\n"2.5","two\nlines"\n3.5,z\n',
        b"a;b\n1.5;2\n2.5;3\n3.5;4\n",
        b"1 2 3\n4 5 6\n7 8 9\n",
        b"\xef\xbb\xbf# note\n# a b\n\na\tb\r\n1\t2\r\n3\t4\r\n",
        b"big,small\n9007199254740993,1e-300\n9223372036854775807,2e-300\n-9223372036854775808,-3e-300\n",
        "naïve,größe\n1,ä\n2,ö\n3,ü\n".encode(),
    ]


def _npy(array: np.ndarray, *, pickled: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=pickled)
    return stream.getvalue()


def npy_header(header: str, body: bytes, version: int = 1) -> bytes:
    """A file of NumPy's format around any header text."""
    text = header.encode("utf-8", "surrogatepass")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    size = struct.pack("<H", len(text) % 65536) if version == 1 else struct.pack("<I", len(text))
    return b"\x93NUMPY" + bytes((version, 0)) + size + text + body


def npy_seeds() -> list[bytes]:
    """Numbers of several kinds, pictures, a structured array, text, objects that would run when unpickled."""
    objects = np.empty(3, dtype=object)
    objects[:] = [Trap()] * 3
    fields = np.zeros(5, dtype=[("a", "f8"), ("b", "i4"), ("c", "U3")])
    fields["a"], fields["c"] = np.arange(5), "x"
    pictures = np.random.default_rng(0).integers(0, 256, (4, 5, 5)).astype(np.uint8)
    return [
        _npy(_rows()),
        _npy(_rows().astype("<f4")[:, 0]),
        _npy(np.asfortranarray(_rows(6, 2)).astype(">f8")),
        _npy(pictures),
        _npy(fields),
        _npy(np.array(["a", "b"])),
        _npy(objects, pickled=True),
        pickle.dumps(Trap()),
    ]


def npz_seeds() -> list[bytes]:
    """Archives of several arrays, stored and packed, one of them with objects."""
    objects = np.empty(12, dtype=object)
    objects[:] = [Trap()] * 12
    archives = []
    for save, arrays in (
        (np.savez, {"X": _rows()}),
        (np.savez_compressed, {"X": _rows(), "y": np.arange(12), "names": np.array(["a", "b", "c"])}),
        (np.savez, {"data": _rows().astype(np.float32), "notes": objects}),
        (np.savez_compressed, {"data": np.zeros((2000, 2)), "label": np.array(["u", "v"] * 1000)}),
    ):
        stream = io.BytesIO()
        save(stream, **arrays)
        archives.append(stream.getvalue())
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("../../X.npy", _npy(_rows()))
        archive.writestr("/tmp/y.npy", _npy(_rows()))
    return [*archives, stream.getvalue()]


def idx_seeds() -> list[bytes]:
    """Pictures, labels, floats."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4)).astype(np.uint8).tobytes()
    floats = _rows(5, 2).astype(">f4").tobytes()
    return [
        b"\0\0\x08\x03" + struct.pack(">III", 6, 4, 4) + pixels,
        b"\0\0\x08\x01" + struct.pack(">I", 6) + bytes(range(6)),
        b"\0\0\x0d\x02" + struct.pack(">II", 5, 2) + floats,
        b"\0\0\x0b\x01" + struct.pack(">I", 8) + bytes(16),
    ]


def parquet_seeds() -> list[bytes]:
    """Numbers, text, categories, gaps, lists, dates; several codecs and encodings."""
    import pyarrow
    import pyarrow.parquet as parquet

    rows = _rows(30)
    mixed = {
        "x": pyarrow.array(rows[:, 0]),
        "n": pyarrow.array([None, *range(29)], pyarrow.int32()),
        "s": pyarrow.array(["red", "green", None] * 10),
        "c": pyarrow.array(["u", "v", "w"] * 10).dictionary_encode(),
        "b": pyarrow.array([True, False, None] * 10),
    }
    odd = {"when": pyarrow.array([0] * 5, pyarrow.timestamp("us")), "l": pyarrow.array([[1.0, 2.0]] * 5)}
    numbers = {name: pyarrow.array(rows[:, j].astype(np.float32)) for j, name in enumerate("xyz")}
    found = []
    for columns, options in (
        (mixed, {"compression": "snappy"}),
        (numbers, {"compression": "none", "use_dictionary": False}),
        (mixed, {"compression": "zstd", "row_group_size": 7}),
        (numbers, {"compression": "gzip", "use_byte_stream_split": True, "use_dictionary": False}),
        (odd, {"compression": "none"}),
    ):
        stream = io.BytesIO()
        parquet.write_table(pyarrow.table(columns), stream, **options)
        found.append(stream.getvalue())
    return found


def h5ad_seeds() -> list[bytes]:
    """Cells with a representation; dense, sparse and packed genes."""
    import anndata
    import pandas
    import scipy.sparse

    rows, found = _rows(8, 4).astype(np.float32), []
    obs = pandas.DataFrame(
        {
            "day": pandas.Categorical(["a", "b"] * 4),
            "depth": np.arange(8.0),
            "kind": ["u"] * 8,
            "ok": [True, False] * 4,
        },
        index=[f"cell{i}" for i in range(8)],
    )
    for values, extra, packing in (
        (rows, {"X_pca": rows[:, :2]}, None),
        (scipy.sparse.csr_matrix(np.round(rows)), {}, None),
        (rows, {"X_pca": rows[:, :3], "X_umap": rows[:, :2]}, "gzip"),
    ):
        made = anndata.AnnData(X=values, obs=obs, obsm=extra)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "cells.h5ad"
            made.write_h5ad(path, compression=packing)
            found.append(path.read_bytes())
    return found


PICTURE_FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".ppm": "PPM",
    ".pgm": "PPM",
}


def picture_seeds() -> list[tuple[str, bytes]]:
    """Small pictures of every ending and several modes, with the ending."""
    from PIL import Image

    draw, found = np.random.default_rng(0), []
    colour = Image.fromarray(draw.integers(0, 256, (12, 9, 3)).astype(np.uint8))
    clear = Image.fromarray(draw.integers(0, 256, (9, 9, 4)).astype(np.uint8))
    deep = Image.fromarray(draw.integers(0, 65536, (9, 9)).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    for ending, kind in PICTURE_FORMATS.items():
        modes = {".png": (clear, deep, colour.convert("P"), colour.convert("1")), ".gif": (colour.convert("P"),)}
        modes |= {".pgm": (colour.convert("L"),), ".tif": (colour, deep), ".webp": (colour, clear)}
        for picture in modes.get(ending, (colour, colour.convert("L"))):
            options = [{}]
            if kind == "TIFF":
                options = [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}]
            elif kind == "JPEG":
                options = [{"exif": exif}, {"progressive": True}]
            for chosen in options:
                stream = io.BytesIO()
                picture.save(stream, kind, **chosen)
                found.append((ending, stream.getvalue()))
    return found


def tar_seeds() -> list[bytes]:
    """Pictures with classes beside them, long names, links and folders among them; two ways to write headers."""
    pictures, found = picture_seeds(), []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
            for number, (ending, data) in enumerate(pictures[:6]):
                long = "x" * 90 if kind == tarfile.USTAR_FORMAT else "größe" * 40
                name = f"a/{number}{ending}" if number else f"{long}{ending}"
                for place, content in ((name, data), (f"{name.rpartition('.')[0]}.cls", b"%d" % (number % 2))):
                    info = tarfile.TarInfo(place)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
            for place, what in (("../../out.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c", tarfile.DIRTYPE)):
                info = tarfile.TarInfo(place)
                info.type, info.linkname = what, "/etc/passwd"
                archive.addfile(info)
        found.append(stream.getvalue())
    return found


def packed(data: bytes) -> bytes:
    """The same bytes, gzipped."""
    return gzip.compress(data, mtime=0)
