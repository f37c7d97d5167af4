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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from advect.errors import RunFolderError
from advect.files import write_text

CONFIG, MODEL, METRICS, EVALUATION, REPORT = (
    "config.toml",
    "model.safetensors",
    "metrics.jsonl",
    "evaluation.json",
    "report.html",
)
CHECKPOINT = "checkpoint/state.safetensors"


class RunFolder:
    """Paths and state of one run.

    Args:
        path: The folder; it need not exist yet.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

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
        names = {entry.name for entry in self.path.iterdir()} - {".lock"}
        if CONFIG in names:
            return "finished" if MODEL in names else "started"
        # A crash between making the folder and writing the configuration leaves only our own temporary files.
        if all(name.startswith(f".{CONFIG}.") for name in names):
            return "empty"
        return "foreign"

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
        return write_text(self.file(name), json.dumps(value, indent=1, allow_nan=True) + "\n")

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
    def locked(self) -> Iterator[None]:
        """Hold the folder for writing; the lock goes with the process, however it ends.

        Raises:
            RunFolderError: Another process holds it, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunFolderError(
                f"the folder cannot be written ({error.strerror})",
                where=str(self.path),
                remedy="Choose another place with --out, or check its permissions.",
            ) from error
        try:
            _lock(handle, self.path)
            yield
        finally:
            os.close(handle)


def _lock(handle: int, path: Path) -> None:
    """Take the exclusive lock, or say who may hold it. Systems without such locks go without."""
    try:
        import fcntl
    except ImportError:
        return
    for attempt in range(3):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if attempt == 2:
                raise RunFolderError(
                    "another process is writing to this run",
                    where=str(path),
                    remedy="Wait for it, stop it, or choose another folder with --out.",
                ) from error
            time.sleep(0.1)
