"""Files that appear whole or not at all.

Every file advect writes goes through here: written beside its destination, flushed to the disk, then renamed over it.
A reader, or a process that takes over after a crash, sees the old file or the new one and nothing in between.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
            destination.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{destination.name}.", suffix=suffix, dir=destination.parent)
            os.close(handle)
            temporary = Path(name)
            yield temporary
            _flush(temporary)
            # mkstemp makes files private; what we leave behind has the ordinary rights of a new file.
            temporary.chmod(0o666 & ~_umask())
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
            destination.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            os.replace(temporary, destination)  # over an empty folder at most
            _flush(destination.parent)
        finally:
            if temporary is not None and temporary.exists():
                shutil.rmtree(temporary, ignore_errors=True)


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
        handle, name = tempfile.mkstemp(prefix=f".{destination.name}.", dir=folder)
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
