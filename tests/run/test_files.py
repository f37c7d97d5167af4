"""Files that appear whole or not at all."""

import hashlib
import os
import stat

import pytest

from advect.errors import AdvectError, ConfigError, DataError
from advect.files import WriteError, atomic_path, check_writable, sha256_of, write_bytes, write_text


def test_new_file_and_replaced_file(tmp_path):
    path = tmp_path / "a" / "b" / "note.txt"
    assert write_text(path, "grün\r\n\x00") == path
    assert path.read_bytes() == "grün\r\n\x00".encode()
    write_bytes(path, b"\xff\xfe")
    assert path.read_bytes() == b"\xff\xfe"
    assert [p.name for p in path.parent.iterdir()] == ["note.txt"]


@pytest.mark.parametrize("error", [RuntimeError("crash"), KeyboardInterrupt(), DataError("refused")], ids=repr)
def test_a_crash_while_writing_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "model"
    write_text(path, "old")

    def write_half():
        with atomic_path(path) as temporary:
            temporary.write_text("hal")
            assert path.read_text() == "old"
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["model"]


def test_a_crash_between_write_and_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model"
    write_text(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(WriteError, match="No space left") as caught:
        write_text(path, "new")
    assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["model"]


def test_temporary_lies_beside_the_file_and_keeps_the_ending(tmp_path):
    with atomic_path(tmp_path / "x.npz", suffix=".npz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".npz"
        temporary.write_bytes(b"1")


def test_rights_are_those_of_an_ordinary_file(tmp_path):
    """Temporary files are private; what is left behind is not."""
    mask = os.umask(0o027)
    try:
        path = write_text(tmp_path / "a", "x")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027  # nobody changed it in passing
    finally:
        os.umask(mask)


@pytest.mark.parametrize("write", [lambda p: write_text(p, "x"), check_writable], ids=["write", "check"])
def test_a_file_in_the_way_is_one_clear_message(tmp_path, write):
    write_text(tmp_path / "file", "x")
    with pytest.raises(WriteError, match=r"cannot be written \(.*\)\. Choose another place") as caught:
        write(tmp_path / "file" / "below" / "a.csv")
    assert isinstance(caught.value, AdvectError)
    assert isinstance(caught.value, OSError)
    assert (tmp_path / "file").read_text() == "x"


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(WriteError):
        write_text(tmp_path / "a", "x")
    assert os.listdir(tmp_path) == ["a"]


def test_check_leaves_nothing_behind(tmp_path):
    write_text(tmp_path / "a", "x")
    check_writable(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "x"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_checksum(tmp_path, size):
    content = bytes(range(256)) * (size // 256 + 1)
    path = write_bytes(tmp_path / "a", content[:size])
    assert sha256_of(path) == hashlib.sha256(content[:size]).hexdigest()


def test_checksum_of_nothing(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        sha256_of(tmp_path / "absent")
