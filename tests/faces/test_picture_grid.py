"""Pictures come out as they are: whole pixels, the data's own black and white, and back again."""

import json

import numpy as np
import pytest
from PIL import Image

from advect.errors import AdvectError, ConfigError, ShapeError
from advect.records import Table
from advect.report.images import (
    BROKEN,
    GRID_KEY,
    grid_image,
    natural_bounds,
    picture_grid,
    pictures,
    write_png_grid,
)


def table_of(rows, event_shape):
    flat = rows.reshape(len(rows), -1)
    names = tuple(f"x{i}" for i in range(flat.shape[1]))
    dtypes = (str(rows.dtype),) * len(names)
    return Table(names, tuple(flat.T), "npy", event_shape, dtypes, image=True)


def opened(path):
    with Image.open(path) as image:
        return np.asarray(image)


def read_back(path):
    """An independent reader, written from the description in `write_png_grid` alone."""
    with Image.open(path) as image:
        card, pixels = json.loads(image.text[GRID_KEY]), np.asarray(image)
    out = np.zeros((card["count"], card["height"], card["width"], 3), np.uint8)
    for i in range(card["count"]):
        row, column = divmod(i, card["columns"])
        for r in range(card["height"]):
            for c in range(card["width"]):
                y = card["gap"] + row * (card["height"] * card["factor"] + card["gap"]) + r * card["factor"]
                x = card["gap"] + column * (card["width"] * card["factor"] + card["gap"]) + c * card["factor"]
                out[i, r, c] = pixels[y, x]
    return card["low"] + out / 255 * (card["high"] - card["low"]), card


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("count", [1, 7, 30])
@pytest.mark.parametrize("high", [1, 16, 200, 255])
def test_whole_numbers_survive_the_grid(count, high, rng, tmp_path):
    rows = rng.integers(0, high + 1, (count, 1, 8, 8))
    path = write_png_grid(table_of(rows, (1, 8, 8)), tmp_path / "x.png", bounds=(0, high))
    values, card = read_back(path)
    assert (card["low"], card["high"], card["channels"]) == (0, high, 1)
    np.testing.assert_array_equal(np.rint(values[..., 0]), rows[:, 0])


def test_colour_survives_the_grid(rng, tmp_path):
    rows = rng.integers(0, 256, (5, 3, 6, 4), dtype=np.uint8)
    values, card = read_back(write_png_grid(rows, tmp_path / "x.png", columns=2))
    assert card["channels"] == 3
    np.testing.assert_array_equal(np.rint(values).astype(int), rows.transpose(0, 2, 3, 1))


def test_many_pictures_are_all_written(rng, tmp_path):
    rows = rng.integers(0, 2, (1000, 1, 2, 2))
    _, card = read_back(write_png_grid(rows, tmp_path / "x.png"))
    assert card["count"] == 1000


def test_small_pictures_are_enlarged_by_whole_pixels(rng):
    rows = rng.integers(0, 17, (4, 8, 8))
    image = np.asarray(grid_image(rows, columns=2))
    colours = {tuple(c) for c in image.reshape(-1, 3)}
    allowed = {(v,) * 3 for v in np.rint(255 * np.arange(17) / rows.max()).astype(int)} | {(226, 229, 234)}
    assert colours <= allowed  # smoothing would make others
    assert image.shape[0] > 2 * 8 * 8


@pytest.mark.parametrize("shape", [(9, 8, 8), (9, 1, 8, 8), (9, 3, 8, 8), (9, 8, 8, 1), (9, 8, 8, 3)])
def test_grey_and_colour_in_either_order(shape, rng):
    assert pictures(rng.random(shape)).shape == (9, 8, 8, 3)


@pytest.mark.parametrize("shape", [(9, 64), (9,), (9, 2, 8, 8), (9, 4, 8, 5), (9, 1, 1, 8, 8)])
def test_what_is_no_picture_is_refused(shape, rng):
    with pytest.raises(ShapeError, match="not pictures"):
        pictures(rng.random(shape))


def test_black_and_white_are_the_datas_own():
    assert natural_bounds(np.array([[[0, 16]]])) == (0, 16)
    assert natural_bounds(np.array([[[3, 200]]], np.uint8)) == (0, 255)
    assert natural_bounds(np.array([[[0.2, 0.4]]])) == (0, 1)
    assert natural_bounds(np.array([[[-1.0, 1.0]]])) == (-1, 1)
    assert natural_bounds(np.array([[[5, 5]]])) == (0, 5)
    assert natural_bounds(np.array([[[-5, -5]]])) == (-5, -4)
    shown = pictures(np.array([[[0.0, 8.0, 16.0, 99.0, -3.0]]]), (0, 16))
    assert shown[0, 0, :, 0].tolist() == [0, 128, 255, 255, 0]


def test_samples_are_shown_on_the_scale_of_the_real_pictures(tmp_path):
    """A sample of half the brightness must look half as bright beside the real one, not be stretched to white."""
    real, samples = np.full((1, 4, 4), 16), np.full((1, 4, 4), 8)
    both = opened(picture_grid(samples, tmp_path / "x.png", beside=real))
    assert (both == 255).all(-1).any()
    middle = both[both.shape[0] // 2 :, both.shape[1] // 2 :]
    assert (np.abs(middle.astype(int) - 128) <= 1).all(-1).any()


def test_a_failed_picture_is_marked_and_not_grey():
    rows = np.zeros((2, 3, 3))
    rows[1, 0, 0] = np.nan
    shown = pictures(rows, (0, 1))
    assert (shown[0] == 0).all()
    assert (shown[1] == BROKEN).all()


def test_captions_stand_above_both_grids(rng, tmp_path):
    alone = opened(picture_grid(rng.random((9, 8, 8)), tmp_path / "a.png", columns=3))
    both = opened(picture_grid(rng.random((9, 8, 8)), tmp_path / "b.png", columns=3, beside=rng.random((9, 8, 8))))
    assert both.shape[1] > 1.8 * alone.shape[1]
    assert both.shape[0] == alone.shape[0]
    # Ink in both captions' places.
    top = both[:34].min(2)
    assert (top[:, : both.shape[1] // 2] < 100).any()
    assert (top[:, both.shape[1] // 2 :] < 100).any()


def test_nothing_to_show(tmp_path):
    assert opened(picture_grid(np.zeros((0, 8, 8)), tmp_path / "x.png")).size > 0
    with pytest.raises(ShapeError, match="no pictures"):
        write_png_grid(np.zeros((0, 8, 8)), tmp_path / "y.png")


def test_nonsense_is_refused_and_the_old_file_stays(rng, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"old")
    with pytest.raises(ConfigError, match="columns"):
        picture_grid(rng.random((2, 4, 4)), path, columns=0)
    with pytest.raises(ConfigError, match="brightness"):
        picture_grid(rng.random((2, 4, 4)), path, bounds=(1.0, 1.0))
    with pytest.raises(ShapeError):
        picture_grid(rng.random((2, 5)), path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_a_place_that_cannot_be_written_is_a_message(rng, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AdvectError, match="cannot be"):
        picture_grid(rng.random((2, 4, 4)), tmp_path / "file" / "x.png")
