"""A `Sink` that writes to a run folder and tells a listener."""

import json
import math
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from advect.errors import RunFolderError
from advect.files import write_text
from advect.progress import Progress
from advect.run.folder import CHECKPOINT, LAST_SET, METRICS, RunFolder
from advect.run.parts import Wanted
from advect.run.sets import read_last_set
from advect.run.tensors import read_tensors, write_tensors


class FolderSink:
    """Keeps metrics and checkpoints in a run folder.

    Args:
        folder: The run.
        on_progress: Called with every `Progress`.
    """

    def __init__(self, folder: RunFolder, on_progress: Callable[[Progress], None] = lambda _: None) -> None:
        self.folder, self.on_progress = folder, on_progress
        self.history = read_history(folder)

    def progress(self, progress: Progress) -> None:
        """Pass on a line of life."""
        self.on_progress(progress)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line to ``metrics.jsonl``.

        The file is rewritten whole: it is short, a torn line can then never occur, and after a crash the lines that a
        continued run repeats replace the earlier ones.
        """
        entry = {"step": step} | {k: (v if math.isfinite(v) else None) for k, v in values.items()}
        self.history = [line for line in self.history if line["step"] < step] + [entry]
        write_text(self.folder.destination(METRICS), render_history(self.history))

    def checkpoint(self, tensors: Mapping[str, Tensor], state: Mapping[str, object]) -> None:
        """Replace the checkpoint; the old one stays whole until the new one is on the disk."""
        write_tensors(self.folder.destination(CHECKPOINT), tensors, state)

    def close(self) -> None:
        """Nothing is kept open."""


class MemorySink:
    """Keeps the history of a run that has no folder."""

    def __init__(self, on_progress: Callable[[Progress], None] = lambda _: None) -> None:
        self.on_progress = on_progress
        self.history: list[dict] = []

    def progress(self, progress: Progress) -> None:
        """Pass on a line of life."""
        self.on_progress(progress)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the values."""
        self.history.append({"step": step} | {k: (v if math.isfinite(v) else None) for k, v in values.items()})

    def checkpoint(self, tensors: Mapping[str, Tensor], state: Mapping[str, object]) -> None:
        """There is no folder to continue from."""

    def close(self) -> None:
        """Nothing is kept open."""


def render_history(history: Iterable[Mapping]) -> str:
    """One JSON object per line."""
    return "".join(json.dumps(dict(line)) + "\n" for line in history)


def read_history(folder: RunFolder) -> list[dict]:
    """The lines of ``metrics.jsonl``; empty when there are none yet.

    Raises:
        RunFolderError: A line is damaged.
    """
    if not folder.file(METRICS).exists():
        return []
    try:
        lines = [json.loads(line) for line in folder.read_text(METRICS).splitlines() if line.strip()]
        if not all(isinstance(line, dict) and isinstance(line.get("step"), int) for line in lines):
            raise ValueError("a line has no step")
        return lines
    except ValueError as error:
        raise RunFolderError(
            f"{METRICS} is damaged ({error})", where=str(folder.path), remedy="Remove the damaged line."
        ) from error


def read_checkpoint(folder: RunFolder, wanted: Wanted | None = None) -> tuple[dict[str, Tensor], dict] | None:
    """The last checkpoint, or None when there is none yet.

    Args:
        folder: The run.
        wanted: Which rows of each tensor to read, of a checkpoint in parts; by default all.

    Raises:
        RunFolderError: It is damaged.
    """
    found = read_last_set(folder, wanted)
    if found is not None:
        return found
    path = folder.file(CHECKPOINT)
    return read_tensors(path) if path.exists() else None


def has_checkpoint(folder: RunFolder) -> bool:
    """Whether there is a checkpoint."""
    return folder.file(LAST_SET).exists() or folder.file(CHECKPOINT).exists()
