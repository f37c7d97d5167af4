"""Folders and tar files too large for memory: the same pictures, classes and refusals; nothing fatal late."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from advect.data import folders, mapped, read_table, take_rows
from advect.data.stored import on_disk
from advect.errors import DataError
from tests.data.test_folders import picture


def rows_of(table):
    return np.stack(list(table.columns), 1).reshape(-1, *table.event_shape)


@pytest.fixture
def low(monkeypatch):
    monkeypatch.setattr(mapped, "MAPPED_VALUES", 1)


def both(monkeypatch, path):
    """A set decoded when asked for, and the same in memory."""
    monkeypatch.setattr(mapped, "MAPPED_VALUES", 1)
    far = read_table(str(path))
    monkeypatch.setattr(mapped, "MAPPED_VALUES", 1 << 28)
    held = read_table(str(path))
    assert on_disk(far) is not None
    assert on_disk(held) is None
    return far, held


def archive(path, members):
    """A tar file of names and bytes."""
    with tarfile.open(path, "w") as target:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            target.addfile(info, io.BytesIO(content))


def png(seed=0, size=(8, 8), mode="RGB") -> bytes:
    stream = io.BytesIO()
    picture(size, seed, mode).save(stream, "png")
    return stream.getvalue()


def test_a_folder_is_that_in_memory(tmp_path, monkeypatch):
    for label in ("cat", "dog", "empty"):
        (tmp_path / label).mkdir()
    for i in range(4):
        picture((12 + i, 10), i, "RGB" if i else "L").save(tmp_path / "cat" / f"{i}.png")
        picture((9, 9), 10 + i).save(tmp_path / "dog" / f"{i}.jpg")
    (tmp_path / "dog" / "nothing.png").write_bytes(b"")
    Image.new("RGB", (1, 1)).save(tmp_path / "cat" / "point.png")
    far, held = both(monkeypatch, tmp_path)
    assert far.event_shape == held.event_shape
    assert far.notes[:-1] == held.notes
    assert any("damaged" in note and "nothing.png" in note for note in far.notes)
    assert any("quarter" in note and "point.png" in note for note in far.notes)
    np.testing.assert_array_equal(far.sides["label"], held.sides["label"])
    np.testing.assert_array_equal(rows_of(take_rows(far, np.array([5, 0, 5, 7]))), rows_of(held)[[5, 0, 5, 7]])


def test_damage_below_an_honest_header_is_left_out_counted_and_named(tmp_path, low):
    """Which picture stands in depends on the folder alone, not on what was asked before."""
    for i in range(20):
        picture((16, 16), i).save(tmp_path / f"{i:02}.jpg")
    honest = rows_of(read_table(tmp_path))
    for broken in (7, 8):
        file = tmp_path / f"{broken:02}.jpg"
        file.write_bytes(file.read_bytes()[:-100])
    one, other = read_table(tmp_path), read_table(tmp_path)
    assert one.num_rows == 20
    np.testing.assert_array_equal(rows_of(take_rows(one, np.array([8, 7, 3]))), honest[[9, 9, 3]])
    np.testing.assert_array_equal(rows_of(take_rows(other, np.array([7]))), honest[[9]])
    np.testing.assert_array_equal(rows_of(take_rows(other, np.array([8]))), honest[[9]])
    (note,) = on_disk(one).rows.notes()
    assert "2 pictures left out while training (damaged)" in note
    assert "07.jpg" in note


def test_a_folder_that_goes_away_is_refused(tmp_path, low):
    for i in range(20):
        picture((8, 8), i).save(tmp_path / f"{i:02}.png")
    table = read_table(tmp_path)
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(DataError, match="can no longer be read"):
        rows_of(take_rows(table, np.arange(20)))


def test_a_bomb_is_left_out_by_its_header(tmp_path, low, monkeypatch):
    for i in range(5):
        picture((8, 8), i).save(tmp_path / f"{i}.png")
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    table = read_table(tmp_path)
    assert table.num_rows == 5
    assert any("million pixels" in note and "bomb.png" in note for note in table.notes)


def test_tar_files_are_sets_with_classes(tmp_path, monkeypatch):
    archive(tmp_path / "b.tar", [(f"x/{i}.png", png(i)) for i in range(3)] + [(f"x/{i}.cls", b"1\n") for i in range(3)])
    archive(tmp_path / "a.tar", [("7.seg.json", b"{}"), ("7.png", png(7)), ("7.cls", b"4"), (".hidden.png", b"")])
    far, held = both(monkeypatch, tmp_path)
    expected = np.stack([np.asarray(picture(seed=s)).transpose(2, 0, 1) for s in (7, 0, 1, 2)])
    np.testing.assert_array_equal(rows_of(held), expected)
    np.testing.assert_array_equal(rows_of(far), expected)
    for table in (far, held):
        assert table.sides["label"].tolist() == [4, 1, 1, 1]
    assert read_table(f"{tmp_path / 'b.tar'}:4").event_shape == (3, 4, 4)
    assert read_table(tmp_path / "b.tar").sides == {}  # one class says nothing


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("1.png", png()), ("1.jpg", png())], "two pictures have the key '1'"),
        ([("1.png", png()), ("2.png", png()), ("1.cls", b"cat")], "the class is no whole number"),
        ([("1.png", png()), ("2.png", b""), ("3.png", b"no picture")], "most of its 3 pictures cannot be used"),
        ([("words.txt", b"1")], "no picture"),
    ],
)
def test_refusals_of_tar_files(tmp_path, members, words):
    archive(tmp_path / "x.tar", members)
    with pytest.raises(DataError, match=words):
        read_table(tmp_path / "x.tar")


@pytest.mark.parametrize("kept", [0.3, 0.97])
def test_a_tar_file_cut_short_is_refused_by_name(tmp_path, kept):
    archive(tmp_path / "x.tar", [(f"{i}.png", png(i, (40, 40))) for i in range(3)])
    whole = (tmp_path / "x.tar").read_bytes()
    end = len(whole.rstrip(b"\0"))
    (tmp_path / "x.tar").write_bytes(whole[: int(kept * end)])
    with pytest.raises(DataError, match=r"x\.tar"):
        read_table(tmp_path / "x.tar")


def test_a_decoder_that_dies_over_one_picture_leaves_it_out(tmp_path, low, monkeypatch):
    for i in range(6):
        picture((8, 8), i).save(tmp_path / f"{i}.png")
    table = read_table(tmp_path)
    honest, deadly = folders.decoded, str(tmp_path / "4.png")

    def dying(kind, path, *, files, **more):
        if deadly in files:
            raise DataError("the process that decodes it ended without an answer", where=deadly)
        return honest(kind, path, files=files, **more)

    expected = rows_of(take_rows(table, np.array([5])))
    monkeypatch.setattr("advect.data.decoded.decoded", dying)
    fresh = read_table(tmp_path)
    np.testing.assert_array_equal(rows_of(take_rows(fresh, np.array([4]))), expected)
    assert "its decoder failed" in on_disk(fresh).rows.notes()[0]


def test_a_tar_header_that_claims_a_name_of_exabytes_takes_no_memory(tmp_path):
    """The length of a long name is a number in the header, and room for it would be taken before it is read."""
    for number, size in enumerate((1 << 40, 1 << 62, (1 << 63) + 512)):
        header = tarfile.TarInfo("././@LongLink")
        header.type, header.size = tarfile.GNUTYPE_LONGNAME, size
        place = tmp_path / str(number)
        place.mkdir()
        (place / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
        with pytest.raises(DataError, match=r"a\.tar"):
            read_table(str(place / "a.tar"))
