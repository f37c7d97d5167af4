"""A run folder: what lies in it, who may write to it, and in which state it is.

    config.toml          every setting, resolved, each with its meaning
    model.safetensors    the weights that are used, with the card that rebuilds the model around them
    metrics.jsonl        one line per validation
    evaluation.json      held-out figures
    checkpoint/          what is needed to go on with the same bits
    report.html          the page

A run is finished when `model.safetensors` is there; until then `checkpoint/` says how far it came.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from advect.errors import RunFolderError
from advect.files import clear_away, make_folder, write_text

CONFIG, MODEL, METRICS, EVALUATION, REPORT = (
    "config.toml",
    "model.safetensors",
    "metrics.jsonl",
    "evaluation.json",
    "report.html",
)
CHECKPOINT = "checkpoint/state.safetensors"
LAST_SET = "checkpoint/last.json"
"""In place of the former, of a run whose checkpoints are written in parts (`run.sets`)."""
LOCK = ".lock"
_ATTEMPTS, _WAIT = 3, 0.1


class RunFolder:
    """Paths and state of one run.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock: int | None = None

    def file(self, name: str) -> Path:
        """The path of one of the run's files."""
        return self.path / name

    @property
    def state(self) -> str:
        """``absent``, ``empty``, ``foreign`` (a folder that is no run), ``started`` or ``finished``."""
        if not self.path.exists():
            return "absent"
        if not self.path.is_dir():
            return "foreign"
        names = {entry.name for entry in self.path.iterdir()} - {LOCK}
        if CONFIG in names:
            return "finished" if MODEL in names else "started"
        # A crash between making the folder and writing the configuration leaves only our own temporary files.
        if all(name.startswith(f".{CONFIG}.") for name in names):
            return "empty"
        return "foreign"

    def destination(self, name: str) -> Path:
        """The path of one of the run's files that is about to be written.

        Raises:
            RunFolderError: The folder is not there any more, or another took its place while this process held it. To
                make it anew would leave a folder that is no run.
        """
        if not self.path.is_dir() or (self._lock is not None and not _is_at(self._lock, self.path / LOCK)):
            raise RunFolderError(
                f"the run folder was moved or removed while {name} was to be written",
                where=str(self.path),
                remedy="Put it back and give the same command again: it continues from the last checkpoint in it.",
            )
        return self.file(name)

    def require_run(self) -> None:
        """Refuse a folder that holds no run.

        Raises:
            RunFolderError: There is no such folder, or it holds something else.
        """
        state = self.state
        if state in ("started", "finished"):
            return
        what = "there is no such folder" if state == "absent" else "this is not a run folder (it has no config.toml)"
        raise RunFolderError(what, where=str(self.path), remedy="Name a folder that `advect train … --out` made.")

    def require_finished(self) -> None:
        """Refuse a run whose training has not ended.

        Raises:
            RunFolderError: No run, or training is not done.
        """
        self.require_run()
        if self.state != "finished":
            raise RunFolderError(
                "this run's training is not finished",
                where=str(self.path),
                remedy="Give the same `advect train` command again: it continues where it stopped.",
            )

    def read_text(self, name: str) -> str:
        """One of the run's text files.

        Raises:
            RunFolderError: It is missing or not text.
        """
        try:
            if not self.file(name).is_file() and self.file(name).exists():
                raise OSError("it is no ordinary file")
            return self.file(name).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise RunFolderError(f"{name} is missing", where=str(self.path)) from error
        except (OSError, UnicodeDecodeError) as error:
            raise RunFolderError(
                f"{name} cannot be read ({error})", where=str(self.path), remedy="The run folder is damaged."
            ) from error

    def write_json(self, name: str, value: Mapping[str, object]) -> Path:
        """Write a JSON file whole or not at all."""
        return write_text(self.destination(name), json.dumps(value, indent=1, allow_nan=True) + "\n")

    def read_json(self, name: str) -> dict:
        """Read what `write_json` wrote.

        Raises:
            RunFolderError: Missing or damaged.
        """
        try:
            value = json.loads(self.read_text(name))
        except ValueError as error:
            raise RunFolderError(
                f"{name} is damaged ({error})",
                where=str(self.path),
                remedy="Remove this file; `advect evaluate` makes it anew.",
            ) from error
        if not isinstance(value, dict):
            raise RunFolderError(f"{name} is damaged", where=str(self.path))
        return value

    def move_aside(self) -> Path:
        """Rename the folder out of the way and return where it went.

        Raises:
            RunFolderError: Another process is writing to it, or it cannot be renamed.
        """
        with self.locked():
            return self._rename_aside()

    def _rename_aside(self) -> Path:
        for number in range(1, 1000):
            aside = self.path.with_name(f"{self.path.name}.old-{number}")
            if not aside.exists():
                try:
                    self.path.rename(aside)
                except OSError as error:
                    raise RunFolderError(
                        f"the old run cannot be moved aside ({error.strerror})", where=str(self.path)
                    ) from error
                return aside
        raise RunFolderError("too many old runs lie beside it", where=str(self.path), remedy="Remove some of them.")

    @contextmanager
    def locked(self, note: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Hold the folder for writing; the lock goes with the process, however it ends. Who reads needs none.

        What processes that were killed left half written is cleared away.

        Args:
            note: Told where the file system has no locks.

        Raises:
            RunFolderError: Another process holds it, or the folder cannot be written.
        """
        handle = self._taken(note)
        before, self._lock = self._lock, handle
        try:
            for folder in (self.path, self.file(CHECKPOINT).parent):
                clear_away(folder)
            yield
        finally:
            self._lock = before
            os.close(handle)

    def _taken(self, note: Callable[[str], None]) -> int:
        """The handle of the lock, which is held where there are locks.

        Raises:
            RunFolderError: As `locked`.
        """
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_WAIT)
            handle = self._open_lock()
            held = _lock(handle)
            if held is None:
                note(f"{self.path}: this file system has no locks; let no second process write to this run.")
            if held is None or (held and _is_at(handle, self.path / LOCK)):  # and was not removed before it was locked
                return handle
            os.close(handle)
        raise RunFolderError(
            "another process is writing to this run",
            where=str(self.path),
            remedy="Wait for it, stop it, or choose another folder with --out.",
        )

    def _open_lock(self) -> int:
        try:
            make_folder(self.path)
            return os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunFolderError(
                f"the folder cannot be written ({error.strerror})",
                where=str(self.path),
                remedy="Choose another place with --out, or check its permissions.",
            ) from error


def _lock(handle: int) -> bool | None:
    """Whether the exclusive lock could be had; None where there are no such locks, as on some network file systems."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is the one of this name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False
