"""Folders of pictures: sizes, modes, classes by the stated rule; damaged files counted, never fatal late."""

import io

import numpy as np
import pytest
from PIL import Image

from advect.data import folders as rule
from advect.data import read_table
from advect.errors import DataError


def picture(size=(8, 8), seed=0, mode="RGB"):
    random = np.random.default_rng(seed)
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], len(mode))
    return Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8), mode)


def rows_of(table):
    return np.stack(table.columns, 1).reshape(-1, *table.event_shape)


def test_pictures_of_one_size_stay_as_they_are_in_the_order_of_their_names(tmp_path):
    for name, seed in (("b.png", 1), ("a.PNG", 2), ("c.bmp", 3)):
        picture((6, 9), seed).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    table = read_table(tmp_path)
    assert table.image
    assert table.event_shape == (3, 9, 6)
    expected = [np.asarray(picture((6, 9), seed)).transpose(2, 0, 1) for seed in (2, 1, 3)]
    np.testing.assert_array_equal(rows_of(table), np.stack(expected))
    assert table.notes == ()
    assert table.sides == {}


def test_sub_folders_are_classes(tmp_path):
    for label, count in (("dog", 2), ("cat", 3)):
        (tmp_path / label).mkdir()
        for i in range(count):
            picture(seed=i).save(tmp_path / label / f"{i}.png")
    (tmp_path / "empty").mkdir()
    table = read_table(str(tmp_path))
    assert table.sides["label"].tolist() == ["cat"] * 3 + ["dog"] * 2
    picture().save(tmp_path / "loose.png")
    assert read_table(str(tmp_path)).sides == {}


def test_other_sizes_are_cut_and_resized_and_said_so(tmp_path):
    flat = Image.new("RGB", (40, 20), (10, 200, 30))
    flat.save(tmp_path / "wide.png")
    Image.new("RGB", (30, 60), (1, 2, 3)).save(tmp_path / "tall.png")
    Image.new("RGB", (26, 26), (7, 7, 7)).save(tmp_path / "square.png")
    table = read_table(tmp_path)
    assert table.event_shape == (3, 26, 26)  # the median of the shorter sides 20, 26 and 30
    assert "central square" in table.notes[0]
    np.testing.assert_array_equal(
        rows_of(table)[2], np.broadcast_to(np.array([10, 200, 30])[:, None, None], (3, 26, 26))
    )
    asked = read_table(f"{tmp_path}:8")
    assert asked.event_shape == (3, 8, 8)
    assert read_table(tmp_path, key="8").event_shape == (3, 8, 8)


def test_the_square_is_the_central_one(tmp_path):
    stripes = np.zeros((4, 12, 3), np.uint8)
    stripes[:, 4:8] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    Image.fromarray(stripes).save(tmp_path / "b.png")
    assert rows_of(read_table(f"{tmp_path}:4")).min() == 255


def test_modes(tmp_path):
    picture(mode="L").save(tmp_path / "grey.png")
    Image.fromarray((np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)).save(tmp_path / "sixteen.png")
    Image.new("1", (8, 8), 1).save(tmp_path / "bits.png")
    grey = read_table(tmp_path)
    assert grey.event_shape == (1, 8, 8)
    bits, _, sixteen = rows_of(grey)
    assert bits.min() == 255
    np.testing.assert_array_equal(sixteen.ravel(), np.arange(64) * 1000 // 257)  # 65535 becomes 255
    picture().save(tmp_path / "colour.png")
    colour = read_table(tmp_path)
    assert colour.event_shape == (3, 8, 8)
    np.testing.assert_array_equal(*[rows_of(colour)[2][channel] for channel in (0, 2)])  # grey in three channels


def test_transparency_is_laid_on_white(tmp_path):
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4] = (200, 0, 0, 255)
    Image.fromarray(clear).save(tmp_path / "a.png")
    Image.fromarray(clear).save(tmp_path / "b.png")
    first = rows_of(read_table(tmp_path))[0]
    assert first[:, :4].reshape(3, -1).max(1).tolist() == [200, 0, 0]
    assert first[:, 4:].min() == 255


def test_a_rotation_that_a_camera_noted_is_heeded(tmp_path):
    stored = picture((6, 4), 5)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise to see it upright
    for name in ("a.png", "b.png"):
        stored.save(tmp_path / name, exif=exif)
    table = read_table(tmp_path)
    assert table.event_shape == (3, 6, 4)
    np.testing.assert_array_equal(rows_of(table)[0], np.rot90(np.asarray(stored), -1).transpose(2, 0, 1))


def bad_files(folder):
    """A truncated, an empty, a nonsensical file, and one pixel."""
    whole = io.BytesIO()
    picture((32, 32)).save(whole, "PNG")
    (folder / "cut.png").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "words.jpg").write_bytes(b"these are words" * 20)
    Image.new("L", (1, 1)).save(folder / "dot.png")


def test_bad_files_are_left_out_and_counted(tmp_path):
    for i in range(6):
        picture((32, 32), i).save(tmp_path / f"good{i}.png")
    bad_files(tmp_path)
    table = read_table(f"{tmp_path}:32")
    assert table.num_rows == 6
    notes = " ".join(table.notes)
    assert "3 files left out (damaged), such as cut.png" in notes
    assert "resized" not in notes
    assert "1 file left out (smaller than a quarter of 32 pixels), such as dot.png" in notes


def test_mostly_bad_folders_are_refused(tmp_path):
    bad_files(tmp_path)
    picture((32, 32)).save(tmp_path / "good.png")
    with pytest.raises(DataError, match=r"most of its 5 pictures cannot be used.*damaged"):
        read_table(f"{tmp_path}:32")


def test_bombs_are_not_opened(tmp_path, monkeypatch):
    for i in range(3):
        picture((8, 8), i).save(tmp_path / f"{i}.png")
    picture((40, 40)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(rule, "MOST_PIXELS", 1000)
    table = read_table(tmp_path)
    assert table.num_rows == 3
    assert "million pixels" in table.notes[-1]
    monkeypatch.setattr(rule, "MOST_BYTES", 100)
    with pytest.raises(DataError, match="GiB"):
        read_table(tmp_path)


def test_refusals(tmp_path):
    with pytest.raises(DataError, match="no picture in this folder"):
        read_table(tmp_path)
    picture().save(tmp_path / "a.png")
    with pytest.raises(DataError, match="only one row"):
        read_table(tmp_path)
    for wrong in ("0", "big", "-3", "5000"):
        with pytest.raises(DataError, match="no size for pictures"):
            read_table(f"{tmp_path}:{wrong}")
