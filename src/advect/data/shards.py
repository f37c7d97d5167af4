"""Tar files of pictures: members that are pictures, with a class beside them.

The convention is that of WebDataset: members of one key (the name up to the first dot) belong together, ``KEY.png`` or
``KEY.jpg`` … the picture and ``KEY.cls`` its class, a whole number. A tar file is not packed, so a picture is a stretch
of it, and is read from there; nothing is extracted.
"""

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from advect.errors import DataError

ENDING = ".tar"
_CLASS, _LONGEST_CLASS = ".cls", 32


class Member(NamedTuple):
    """A picture inside a tar file: the file, the place of its first byte, its bytes, its name."""

    tar: str
    offset: int
    size: int
    name: str


def shards_of(path: Path) -> tuple[Path, ...]:
    """The tar files that are meant: one, or those of a folder by name."""
    if path.is_dir():
        return tuple(sorted(p for p in path.glob(f"*{ENDING}") if p.is_file() and not p.name.startswith(".")))
    return (path,)


def read_members(shards: Sequence[Path], endings: Sequence[str]) -> tuple[list[Member], list[int | None]]:
    """All pictures in order, and the class of each where it has one.

    Raises:
        DataError: A tar file that is cut short or damaged, two members of one name, or a class that is no number.
    """
    pictures: list[Member] = []
    classes: list[int | None] = []
    for shard in shards:
        here: dict[str, Member] = {}
        labels: dict[str, int] = {}
        for member, text in _members(shard, tuple(endings)):
            folder, _, base = member.name.rpartition("/")
            key = f"{folder}/{base.partition('.')[0]}"
            if text is not None:
                labels[key] = _class(text, member)
            elif key in here:
                raise DataError(
                    f"two pictures have the key {key.lstrip('/')!r}", where=str(shard), remedy="Rename one."
                )
            else:
                here[key] = member
        pictures += here.values()
        classes += [labels.get(key) for key in here]
    return pictures, classes


class _Bounded(io.BufferedReader):
    """A file of which no read asks for more than it holds: headers may claim names of any length, and room for them
    would be taken before the file turns out to be shorter."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._length = path.stat().st_size

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._length - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def _members(shard: Path, endings: tuple[str, ...]) -> Iterator[tuple[Member, bytes | None]]:
    """Pictures and the text of classes; whatever else is in the file is passed over."""
    size = shard.stat().st_size
    try:
        with _Bounded(shard) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while (info := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else all of them are kept until the end
                base = info.name.rpartition("/")[2].lower()
                if not info.isreg() or info.issparse() or base.startswith(".") or not base.endswith((*endings, _CLASS)):
                    continue
                if info.offset_data + info.size > size:
                    raise DataError("the tar file is cut short", where=f"{shard}:{info.name}", remedy="Fetch it again.")
                stream = archive.extractfile(info) if base.endswith(_CLASS) else None
                text = None if stream is None else stream.read(_LONGEST_CLASS + 1)
                yield Member(str(shard), info.offset_data, info.size, info.name), text
    except (tarfile.TarError, OSError, ValueError, EOFError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"the tar file cannot be read: {error or type(error).__name__}",
            where=str(shard),
            remedy="It is damaged, packed or cut short; fetch it again, or unpack it with gunzip.",
        ) from error


def _class(text: bytes, member: Member) -> int:
    try:
        if len(text) > _LONGEST_CLASS:
            raise ValueError
        return int(text)
    except ValueError:
        where = f"{member.tar}:{member.name}"
        raise DataError("the class is no whole number", where=where, remedy="Write it as digits.") from None
