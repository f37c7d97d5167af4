"""The readers that are fuzzed: how a damaged file of each kind is made, and how it is read."""

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reliability import damaged_files as files
from benchmarks.reliability import damaged_runs as runs
from benchmarks.reliability import seeds
from benchmarks.reliability.damaged_files import Make, Seeds


@dataclass(frozen=True)
class Reader:
    """One reader under test.

    Attributes:
        seeds: Honest files, made once; they cross to the workers as plain values.
        make: Writes one damaged file or folder below an empty folder and returns its path.
        read: Reads it, as the commands do.
        decoders: The kinds of decoding process that the bytes go through, where they are not read in Python or Rust.
    """

    seeds: Callable[[], Seeds]
    make: Make
    read: Callable[[Path], object]
    decoders: tuple[str, ...] = ()


def read_rows(path: Path) -> object:
    """Rows, their schema, and what is said about them: what every verb does first."""
    from advect.data import check_table, infer_schema, read_table, refuse_unusable

    table = read_table(str(path), min_rows=1)
    schema = infer_schema(table)
    refuse_unusable(table, schema)
    return check_table(table, schema)


def read_a_run(path: Path) -> object:
    """A run as `sample` opens it, and as `train` goes on with it."""
    from advect.run import RunFolder, read_checkpoint, read_config
    from advect.workflows.open import open_run

    folder = RunFolder(path)
    read_config(folder)
    read_checkpoint(folder)
    return open_run(folder)


def read_settings_file(path: Path) -> object:
    """The configuration of a run alone."""
    from advect.run import RunFolder, read_config

    return read_config(RunFolder(path))


def read_weights(path: Path) -> object:
    """Tensors with their card alone."""
    from advect.run import read_tensors

    return read_tensors(path)


READERS: dict[str, Reader] = {
    "csv": Reader(seeds.csv_seeds, files.file_of("a.csv", files.csv), read_rows),
    "npy": Reader(seeds.npy_seeds, files.file_of("a.npy", files.npy), read_rows),
    "npz": Reader(seeds.npz_seeds, files.file_of("a.npz", files.npz), read_rows),
    "idx": Reader(seeds.idx_seeds, files.file_of("a-idx3-ubyte", files.plain), read_rows),
    "parquet": Reader(
        seeds.parquet_seeds, files.file_of("a.parquet", files.parquet, 0), read_rows, decoders=("parquet",)
    ),
    "h5ad": Reader(seeds.h5ad_seeds, files.file_of("a.h5ad", files.h5ad, 0), read_rows, decoders=("cells", "loadings")),
    "picture": Reader(seeds.picture_seeds, files.picture, read_rows, decoders=("picture", "pictures")),
    "folder": Reader(seeds.picture_seeds, files.pictures, read_rows, decoders=("pictures",)),
    "tar": Reader(seeds.tar_seeds, files.file_of("a.tar", files.tar, 0), read_rows, decoders=("pictures",)),
    "toml": Reader(runs.all_settings, runs.settings, read_settings_file),
    "safetensors": Reader(runs.all_tensors, runs.weights, read_weights),
    "run": Reader(runs.run_seeds, runs.run, read_a_run),
}


def make_case(reader: str, known: Seeds, seed: int, index: int, folder: Path) -> Path:
    """The damaged file of this number in an emptied folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    draw = random.Random(f"{reader} {seed} {index}")
    return READERS[reader].make(draw, known, folder)
