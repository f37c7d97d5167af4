"""Files that appear whole or not at all."""

import hashlib
import os
import stat
import subprocess
import sys

import pytest

from advect.errors import AdvectError, ConfigError, DataError
from advect.files import (
    WriteError,
    atomic_folder,
    atomic_path,
    check_writable,
    clear_away,
    sha256_of,
    write_bytes,
    write_text,
)


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


DIES = """
import os, signal, sys
from pathlib import Path
from advect.files import atomic_folder, atomic_path
make = atomic_folder if sys.argv[2] == "folder" else atomic_path
with make(Path(sys.argv[1])) as temporary:
    (temporary / "inside" if sys.argv[2] == "folder" else temporary).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def left_by_a_dead_process(path, kind="file") -> list[str]:
    before = set(os.listdir(path.parent))
    subprocess.run([sys.executable, "-c", DIES, str(path), kind], check=False)
    return sorted(set(os.listdir(path.parent)) - before)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_is_cleared_away_by_the_next_writer(tmp_path, kind):
    write_text(tmp_path / "beside", "x")
    left = left_by_a_dead_process(tmp_path / "new", kind)
    assert len(left) == 1
    assert left[0].startswith(".new.writing-")
    if kind == "folder":
        with atomic_folder(tmp_path / "new") as temporary:
            (temporary / "inside").write_text("whole")
        assert (tmp_path / "new" / "inside").read_text() == "whole"
    else:
        write_text(tmp_path / "new", "whole")
    assert sorted(os.listdir(tmp_path)) == ["beside", "new"]


def test_only_what_is_on_the_way_to_the_same_name_is_cleared_away(tmp_path):
    other = left_by_a_dead_process(tmp_path / "new.csv")
    write_text(tmp_path / "new", "x")
    write_text(tmp_path / "newer.csv", "x")
    assert sorted(os.listdir(tmp_path)) == [*other, "new", "newer.csv"]
    clear_away(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["new", "newer.csv"]


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    """Also what another machine writes, whose processes cannot be asked for, and what only looks alike."""
    (tmp_path / ".new.writing-00000000-1-abcdefgh").touch()
    (tmp_path / ".new.writing").touch()
    (tmp_path / ".new.writing-x-y-z").touch()
    kept = set(os.listdir(tmp_path))
    with atomic_path(tmp_path / "new") as mine:
        kept |= {mine.name}
        clear_away(tmp_path)
        write_text(tmp_path / "new", "by someone else in the meantime")
        assert kept <= set(os.listdir(tmp_path))
        mine.write_text("last")
    assert (tmp_path / "new").read_text() == "last"
    clear_away(tmp_path / "absent")


@pytest.mark.parametrize("name", ["x" * 250, "東" * 80, "a.b.writing-1"], ids=["long", "wide", "alike"])
def test_names_as_long_as_the_system_takes(tmp_path, name):
    """The temporary's name is longer than the file's, and is cut."""
    left_by_a_dead_process(tmp_path / name)
    write_text(tmp_path / name, "x")
    assert os.listdir(tmp_path) == [name]


def test_new_folders_are_on_the_disk_before_the_file(tmp_path, monkeypatch):
    """A file whose folder's name is lost with the power is lost too."""
    flushed = []
    flush = os.fsync

    def noting(handle):
        flushed.append(os.fstat(handle).st_ino)
        flush(handle)

    monkeypatch.setattr(os, "fsync", noting)
    path = write_text(tmp_path / "a" / "b" / "c", "x")
    folders = [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert flushed == [folders[0].stat().st_ino, folders[1].stat().st_ino, path.stat().st_ino, folders[2].stat().st_ino]


def test_everything_in_a_new_folder_is_flushed(tmp_path, monkeypatch):
    flushed = []
    flush = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (flushed.append(os.fstat(handle).st_ino), flush(handle)))
    with atomic_folder(tmp_path / "new") as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "a").write_text("x")
    assert {path.stat().st_ino for path in (tmp_path / "new").rglob("*")} < set(flushed)
