"""Annotated cells from their file: what AnnData itself says, only what is asked for, and text that travels packed."""

import io

import numpy as np
import pytest

from advect.data import read_table
from advect.data.annotated import from_annotated, read_loadings
from advect.decoding import guard
from advect.decoding.answer import Answer, AnswerWriter
from advect.decoding.cells import packed_series
from advect.decoding.child import serve
from advect.decoding.columns import Converted, series_column
from advect.decoding.texts import Texts, packed, unpacked
from advect.errors import DataError

anndata = pytest.importorskip("anndata")
h5py = pytest.importorskip("h5py")
pd = pytest.importorskip("pandas")
sparse = pytest.importorskip("scipy.sparse")

CELLS, GENES = 9, 5


@pytest.fixture(autouse=True)
def decoder_in_this_process(monkeypatch):
    """Without the limits of a process of its own, which `test_guard` tries."""

    def run(asked, stream, trace, seconds):
        serve(asked, stream)
        return 0

    monkeypatch.setattr(guard, "run_child", run)
    monkeypatch.setattr("advect.decoding.child.limit", lambda asked: None)


@pytest.fixture
def cells():
    draw = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "day": pd.Categorical(["b", "a", None] * 3, ordered=True),
            "stage": pd.Categorical([3, 1, 1] * 3),
            "batch": ["x", "größe", "x"] * 3,
            "depth": np.arange(9.0),
            "ok": [True, False, True] * 3,
        },
        index=[f"cell{i}" for i in range(CELLS)],
    )
    return anndata.AnnData(
        X=sparse.csr_matrix(draw.poisson(1.0, (CELLS, GENES)).astype(np.float32)),
        obs=obs,
        obsm={"X_pca": draw.normal(size=(CELLS, 3)), "frame": pd.DataFrame({"u": np.arange(9.0)}, index=obs.index)},
        varm={"PCs": draw.normal(size=(GENES, 3))},
        layers={"counts": np.ones((CELLS, GENES))},
    )


@pytest.fixture
def stored(cells, tmp_path):
    path = tmp_path / "cells.h5ad"
    cells.write_h5ad(path)
    return path


@pytest.mark.parametrize("key", ["X_pca", "X", "frame"])
def test_a_file_says_what_the_object_says(cells, stored, key):
    found, expected = read_table(str(stored), key=key), from_annotated(cells, key)
    assert found.names == expected.names
    for one, other in zip(found.columns, expected.columns, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.sides.keys() == expected.sides.keys()
    for name, side in expected.sides.items():
        assert found.sides[name].tolist() == side.tolist(), name
    assert (found.categories["day"], found.categories["stage"]) == (("a", "b"), (1, 3))
    assert found.ordered == expected.ordered == frozenset({"day"})


def test_loadings_are_those_of_the_file(cells, stored):
    genes, loadings = read_loadings(stored)
    assert genes == GENES
    np.testing.assert_array_equal(loadings, cells.varm["PCs"])


def test_what_is_not_asked_for_is_not_read(stored):
    """A layer that no reader could make sense of does not keep anyone from the components."""
    with h5py.File(stored, "r+") as file:
        del file["layers"]
        file["layers"] = 5
        file["uns"].attrs["encoding-type"] = "from the future"
    assert read_table(str(stored)).num_rows == CELLS


def test_a_file_of_before_the_encodings_is_read_by_anndata(cells, stored):
    with h5py.File(stored, "r+") as file:
        del file.attrs["encoding-type"]
    found, expected = read_table(str(stored)), from_annotated(cells)
    np.testing.assert_array_equal(np.stack(found.columns), np.stack(expected.columns))
    assert found.sides["day"].tolist() == expected.sides["day"].tolist()


def test_more_pieces_than_bytes_are_refused(stored):
    with h5py.File(stored, "r+") as file:
        del file["obs/depth"]
        file.create_dataset("obs/depth", shape=(CELLS, 10**7), chunks=(1, 1), dtype="f4")
    with pytest.raises(DataError, match=r"'/obs/depth' claims 90000000 pieces, in a file of \d+ bytes"):
        read_table(str(stored))


def test_parts_of_several_lengths_are_refused(stored):
    with h5py.File(stored, "r+") as file:
        del file["obsm/X_pca"]
        file["obsm/X_pca"] = np.zeros((CELLS - 1, 3))
    with pytest.raises(DataError, match=r"9 cells and 3 columns, but a representation of shape \(8, 3\)"):
        read_table(str(stored))


def through(tmp_path, column: Converted | Texts) -> Converted:
    stream = io.BytesIO()
    writer = AnswerWriter(stream)
    writer.close({"columns": [writer.column(column, "x")]})
    (tmp_path / "answer").write_bytes(stream.getvalue())
    with (tmp_path / "answer").open("r+b") as file:
        return Answer(file, "here").columns("columns")[0]


WORDS = ["a", None, "", "äöü 東京 🙂", "a", "b\0c", None, "z"]


@pytest.mark.parametrize(
    ("series", "is_packed"),
    [
        (pd.Series(WORDS), True),
        (pd.Series(WORDS, dtype="string"), True),
        (pd.Series(pd.Categorical(WORDS)), True),
        (pd.Series(pd.Categorical(WORDS, categories=["z", "unused", *sorted({w for w in WORDS[:-1] if w})])), True),
        (pd.Series(pd.Categorical([2, 1, None])), False),
        (pd.Series([True, None, False], dtype=object), False),
        (pd.Series([1, "1"], dtype=object).iloc[:1], False),
        (pd.Series([None, None], dtype=object), False),
        (pd.Series([1.5, 2.5]), False),
    ],
)
def test_a_series_is_the_same_packed(tmp_path, series, is_packed):
    column = packed_series(series, "x")
    assert isinstance(column, Texts) == is_packed
    found, expected = through(tmp_path, column), series_column(series, "x")
    np.testing.assert_array_equal(found.values, expected.values)
    assert [type(v) for v in found.values.tolist()] == [type(v) for v in expected.values.tolist()]
    assert (found.dtype, found.ordered) == (expected.dtype, expected.ordered)
    assert list(found.categories or ()) == list(expected.categories or ())


def test_packed_text_comes_back():
    words = [w for w in WORDS if w is not None]
    assert unpacked(*packed(words)) == words
    assert unpacked(*packed([])) == []
