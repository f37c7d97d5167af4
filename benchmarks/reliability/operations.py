"""A process that notes what it does to files, or is killed right before the n-th thing it does to them.

Python tells its audit hooks of every file that is opened, renamed, removed or made, whoever asks; `os.fsync` tells
nobody and is wrapped. A hook cannot be taken away again: this is for forked children only.
"""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_PATH_EVENTS = {"os.mkdir": 2, "os.remove": 1, "os.rmdir": 1, "os.chmod": 2}  # where the folder's handle stands


@dataclass(frozen=True)
class Operation:
    """Something that is about to be done.

    Attributes:
        kind: ``open``, ``fsync``, ``rename``, ``mkdir``, ``remove``, ``rmdir``, ``chmod`` or ``flock``.
        path: To what.
        target: The new name, of a rename.
    """

    kind: str
    path: str
    target: str = ""


def watch(folder: Path, hear: Callable[[Operation], None]) -> None:
    """From now on tell ``hear`` of every writing operation of this process below a folder, before it is done."""
    root = os.path.realpath(folder)
    busy = False

    def tell(kind: str, path: str, target: str = "") -> None:
        nonlocal busy
        inside = any(name == root or name.startswith(root + os.sep) for name in (path, target))
        if inside and not busy:
            busy = True
            try:
                hear(Operation(kind, path, target))
            finally:
                busy = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            if arguments[2] & _WRITING:
                tell("open", _absolute(arguments[0]))
        elif event == "os.rename":
            tell("rename", _absolute(arguments[0], arguments[2]), _absolute(arguments[1], arguments[3]))
        elif event in _PATH_EVENTS:
            handle = arguments[_PATH_EVENTS[event]]
            tell(event.removeprefix("os."), _absolute(arguments[0], handle))
        elif event == "fcntl.flock":
            tell("flock", _of_handle(arguments[0]))

    flush = os.fsync

    def fsync(handle: int) -> None:
        tell("fsync", _of_handle(handle))
        flush(handle)

    os.fsync = fsync
    sys.addaudithook(hook)


def kill_before(number: int, folder: Path) -> Callable[[Operation], None]:
    """For `watch`: SIGKILL to this process right before operation ``number``, counted from 0.

    Where that is the flush of a file, what is not on the disk yet may be lost: half of the file is cut off first.
    """
    count = -1

    def hear(operation: Operation) -> None:
        nonlocal count
        count += 1
        if count == number:
            if operation.kind == "fsync" and os.path.isfile(operation.path):
                os.truncate(operation.path, os.path.getsize(operation.path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    return hear


def unflushed(operations: list[Operation]) -> list[str]:
    """Names that appeared without write, fsync, rename and fsync of the folder, in this order."""
    faults = []
    for place, done in enumerate(operations):
        if done.kind != "rename":
            continue
        before = [o.kind for o in operations[:place] if o.path == done.path or o.path.startswith(done.path + os.sep)]
        if not before or "fsync" not in before or before[-1] == "open":
            faults.append(f"{done.target} was renamed before it was flushed")
        folder = os.path.dirname(done.target)
        after = [o for o in operations[place + 1 :] if o.kind in ("fsync", "rename")]
        if not after or (after[0].kind, after[0].path) != ("fsync", folder):
            faults.append(f"the folder of {done.target} was not flushed after the rename")
    return faults


def _absolute(path: Any, folder: Any = -1) -> str:
    """A path as the system resolves it, where it is relative to a handle too."""
    text = os.fsdecode(path) if not isinstance(path, int) else _of_handle(path)
    if isinstance(folder, int) and folder >= 0:
        text = os.path.join(_of_handle(folder), text)
    text = os.path.abspath(text)
    return os.path.join(os.path.realpath(os.path.dirname(text)), os.path.basename(text))


def _of_handle(handle: Any) -> str:
    number = handle if isinstance(handle, int) else handle.fileno()
    return os.readlink(f"/proc/self/fd/{number}")
