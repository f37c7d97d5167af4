"""Files that appear whole or not at all.

Every file advect writes goes through here: written beside its destination, flushed to the disk, then renamed over it.
A reader, or a process that takes over after a crash, sees the old file or the new one and nothing in between.
"""

import functools
import hashlib
import os
import platform
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from advect.errors import AdvectError, ConfigError


class WriteError(AdvectError, OSError):
    """A file that cannot be written; whatever stood there before is untouched."""

    def __str__(self) -> str:  # OSError would format its own arguments
        return self.message


@contextmanager
def _told(destination: Path) -> Iterator[None]:
    """What the system says about writing becomes an error with place and remedy."""
    try:
        yield
    except OSError as error:
        if isinstance(error, AdvectError):
            raise
        raise WriteError(
            f"cannot be written ({_reason(error)})",
            where=str(destination),
            remedy="Choose another place with --out, or make room and check the folder's permissions.",
        ) from error


@contextmanager
def atomic_path(destination: Path | str, *, suffix: str = "") -> Iterator[Path]:
    """Yield a temporary path in the destination's folder; on success it is renamed over the destination.

    What an earlier process left half written on its way to the same destination is removed.

    Args:
        destination: The file to write. Missing parent folders are made.
        suffix: Ending of the temporary file, for writers that look at it.

    Raises:
        WriteError: The folder cannot be made or written, or the disk is full.
    """
    destination = Path(destination)
    temporary: Path | None = None
    with _told(destination):
        try:
            make_folder(destination.parent)
            clear_away(destination.parent, destination.name)
            handle, name = tempfile.mkstemp(prefix=_prefix(destination.name), suffix=suffix, dir=destination.parent)
            os.close(handle)
            temporary = Path(name)
            yield temporary
            # mkstemp makes files private; what we leave behind has the ordinary rights of a new file.
            temporary.chmod(0o666 & ~_umask())
            _flush(temporary)
            os.replace(temporary, destination)
            _flush(destination.parent)
        finally:
            if temporary is not None and temporary.exists():
                temporary.unlink()


@contextmanager
def atomic_folder(destination: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside the destination, which it becomes on success; it must be new or empty.

    Raises:
        WriteError: The folder cannot be made or written, the disk is full, or something is in the destination.
    """
    destination = Path(destination)
    temporary: Path | None = None
    with _told(destination):
        try:
            make_folder(destination.parent)
            clear_away(destination.parent, destination.name)
            temporary = Path(tempfile.mkdtemp(prefix=_prefix(destination.name), dir=destination.parent))
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            for path in [*temporary.rglob("*"), temporary]:
                _flush(path)
            os.replace(temporary, destination)  # over an empty folder at most
            _flush(destination.parent)
        finally:
            if temporary is not None and temporary.exists():
                shutil.rmtree(temporary, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, and put their names on the disk: no file in them would be found without."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _flush(folder.parent)


def clear_away(folder: Path, name: str = "") -> None:
    """Remove what processes of this machine that are dead left half written in a folder.

    Args:
        folder: Where to look.
        name: Only what was on its way to this name.

    Nothing is said where this cannot be done: it is tidying up.
    """
    start = _prefix(name).rpartition(_OWNER)[0]
    with suppress(OSError):
        for entry in os.scandir(folder):
            found = _TEMPORARY.search(entry.name)
            if found is None or found["machine"] != _machine() or (name and entry.name[: found.start()] != start):
                continue
            if _is_alive(int(found["process"])):
                continue
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


# A temporary says who writes it, so that it can be told from one whose writer was killed: its machine and process.
_OWNER = ".writing-"
_TEMPORARY = re.compile(re.escape(_OWNER) + r"(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[^.]+(\.\w+)?$")
_LONGEST = 120  # bytes of a destination's name in that of its temporary: file systems end at 255


def _prefix(name: str) -> str:
    """The beginning of the name of a temporary on its way to ``name``."""
    start = os.fsencode(name)[:_LONGEST].decode("utf-8", errors="ignore")
    return f".{start}{_OWNER}{_machine()}-{os.getpid()}-"


@functools.cache
def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode('utf-8', 'replace')):08x}"


def _is_alive(process: int) -> bool:
    """Whether there is such a process; where the system does not tell, there is."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def check_new_folder(destination: Path | str) -> None:
    """Refuse a folder in which something is, and one that could not be made.

    Raises:
        WriteError: It cannot be written.
    """
    destination = Path(destination)
    if destination.is_file() or (destination.is_dir() and any(destination.iterdir())):
        raise WriteError(
            "something is there already", where=str(destination), remedy="Name a folder that is new or empty."
        )
    check_writable(destination)


def check_writable(destination: Path | str) -> None:
    """Refuse a destination whose folder cannot be made or written, before work is put into its content.

    Nothing is left behind: of folders that do not exist yet, the nearest one that does is tried.

    Raises:
        WriteError: It cannot be written.
    """
    destination = Path(destination)
    folder = next(parent for parent in destination.absolute().parents if parent.exists())
    try:
        handle, name = tempfile.mkstemp(prefix=_prefix(destination.name), dir=folder)
        os.close(handle)
        os.unlink(name)
    except OSError as error:
        raise WriteError(
            f"cannot be written ({_reason(error)})",
            where=str(destination),
            remedy="Choose another place with --out, or check the folder's permissions.",
        ) from error


def write_text(destination: Path | str, text: str) -> Path:
    """Write ``text`` as UTF-8, whole or not at all, and return the path."""
    return write_bytes(destination, text.encode("utf-8"))


def write_bytes(destination: Path | str, content: bytes) -> Path:
    """Write ``content``, whole or not at all, and return the path."""
    with atomic_path(destination) as temporary:
        temporary.write_bytes(content)
    return Path(destination)


def sha256_of(path: Path | str) -> str:
    """The SHA-256 of a file, read in blocks.

    Raises:
        ConfigError: There is no such file.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", where=str(path)) from error
    return digest.hexdigest()


def _reason(error: OSError) -> str:
    if isinstance(error, NotADirectoryError | FileExistsError):
        return "a file stands where a folder is needed"
    return error.strerror or str(error)


def _flush(path: Path) -> None:
    """Ask the system to put a file, or a folder's entries, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if path.is_file():  # some systems cannot flush a folder; a file must be
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def files_like(path: Path) -> str:
    """The files of a kind, for messages.

    >>> files_like(Path("a.XLSX")), files_like(Path("a"))
    ("files ending in '.XLSX'", 'files without an ending')
    """
    return f"files ending in {path.suffix!r}" if path.suffix else "files without an ending"
