"""Checkpoints in parts: each of several processes writes what it holds, and a set of parts counts whole or not at all.

    checkpoint/last.json                        which set counts, and the numbers of the state
    checkpoint/set-NAME/1-of-2.safetensors …    its parts

The parts are safetensors whose headers say which rows of each tensor they hold, in the form of torch.distributed's own
safetensors storage (`torch.distributed.checkpoint.HuggingFaceStorageReader` opens a set's folder). They are read by any
number of processes. Each part is on the disk before ``last.json`` is, which is replaced in one step: a process that is
killed at any moment leaves the last whole set. Two sets are kept, so that who reads one has time to.

torch's writer of that storage is not used: its processes tell one another their plans by pickle, it has no place for
the numbers of the state, and it does not say when a set is whole.
"""

import json
import re
import secrets
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from advect.errors import RunFolderError
from advect.files import atomic_path, write_text
from advect.progress import Window
from advect.run.folder import LAST_SET, RunFolder
from advect.run.parts import ROWS_KEY, Wanted, damaged, read_parts
from advect.training import Workers

FORMAT = "advect-set-1"
_SET = re.compile(r"set-\d+-[0-9a-f]+")
_TRIED = 20  # times that a set may be replaced while it is read


class SetWriter:
    """Writes this process' parts on a thread, and lets a set count once all processes have written theirs.

    Args:
        folder: The run; the leader holds its lock.
        workers: The processes.
    """

    def __init__(self, folder: RunFolder, workers: Workers) -> None:
        self.folder, self.workers = folder, workers
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._card: dict[str, Any] = {}

    def begin(self, tensors: Mapping[str, Tensor], windows: Mapping[str, Window], state: Mapping[str, object]) -> None:
        """Copy what this process holds to its memory, and write it while the training goes on.

        Tensors without a window are the same on all processes; the leader writes them. One checkpoint is written at a
        time: another waits for the one before.
        """
        self.settle(wait=True)
        name = f"set-{int(str(state['step'])):010d}-{self.workers.leading(secrets.randbits(32)):08x}"
        own = {
            label: tensor.detach().to("cpu", copy=True).contiguous()
            for label, tensor in tensors.items()
            if (windows[label].rows if label in windows else self.workers.leads)
        }
        parts = _names(self.workers.count)
        self._card = {"format": FORMAT, "set": name, "parts": parts, "card": dict(state)}
        # The run folder is looked for now: on the thread it might have gone.
        path = self.folder.destination(LAST_SET).parent / name / parts[self.workers.rank]
        self._writing = self._thread.submit(_write_part, path, own, _header(own, windows))

    def settle(self, *, wait: bool = False) -> None:
        """Let the set count if all processes have written their parts; all of them must ask together.

        Args:
            wait: Until they have.

        Raises:
            WriteError: A part could not be written.
            LostWorkerError: A process is gone; what it has not written makes no set.
        """
        if self._writing is None:
            return
        if wait or self._writing.done():
            self._writing.result()
        waits = self.workers.largest(int(not self._writing.done()))[0]
        if waits:
            return
        self._writing = None
        if self.workers.leads:
            before = _last(self.folder)
            write_text(self.folder.destination(LAST_SET), json.dumps(self._card, indent=1) + "\n")
            remove_sets(self.folder, keep={self._card["set"], *([] if before is None else [before["set"]])})


def remove_sets(folder: RunFolder, keep: set[str] | None = None) -> None:
    """Remove sets that do not count, as those whose writers were killed.

    Args:
        folder: The run, whose lock is held.
        keep: Names of sets that stay; by default that which counts.
    """
    place = folder.file(LAST_SET).parent
    if keep is None:
        last = _last(folder)
        keep = set() if last is None else {last["set"]}
    for found in place.glob("set-*") if place.is_dir() else ():
        if found.name not in keep and found.is_dir() and not found.is_symlink():
            shutil.rmtree(found, ignore_errors=True)


def last_numbers(folder: RunFolder) -> dict | None:
    """The numbers of the last whole set; None without one.

    Raises:
        RunFolderError: They are damaged.
    """
    last = _last(folder)
    return None if last is None else last["card"]


def read_last_set(folder: RunFolder, wanted: Wanted | None = None) -> tuple[dict[str, Tensor], dict] | None:
    """The tensors and numbers of the last whole set; None without one.

    Args:
        folder: The run.
        wanted: Which rows to read; by default all.

    Raises:
        RunFolderError: It is damaged.
    """
    for _ in range(_TRIED):
        last = _last(folder)
        if last is None:
            return None
        try:
            place = folder.file(LAST_SET).parent / last["set"]
            return read_parts([place / part for part in last["parts"]], wanted), last["card"]
        except RunFolderError:
            if _last(folder) == last:
                raise
    raise RunFolderError("its checkpoint is replaced faster than it is read", where=str(folder.path))


def _last(folder: RunFolder) -> dict | None:
    """What ``last.json`` says; None where there is none."""
    try:
        found = json.loads(folder.file(LAST_SET).read_text(encoding="utf-8"))
        fits = (
            found["format"] == FORMAT
            and _SET.fullmatch(found["set"]) is not None
            and found["parts"] == _names(len(found["parts"]))
            and isinstance(found["card"], dict)
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise damaged(folder.file(LAST_SET), error) from error
    if not fits:
        raise damaged(folder.file(LAST_SET), f"its format is not {FORMAT!r}")
    return found


def _names(count: int) -> list[str]:
    """The files of a set in so many parts."""
    return [f"{rank + 1}-of-{count}.safetensors" for rank in range(count)]


def _write_part(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    # Straight to the file: as bytes, like other files, a part would be in memory once more.
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, header)


def _header(tensors: Mapping[str, Tensor], windows: Mapping[str, Window]) -> dict[str, str]:
    """Where each tensor of a part begins in the whole one, dimension by dimension."""
    rows = {}
    for name, tensor in tensors.items():
        first = windows[name].first if name in windows else 0
        rows[name] = {"saved_offsets": [first, *[0] * (tensor.ndim - 1)][: tensor.ndim]}
    return {ROWS_KEY: json.dumps(rows)}
