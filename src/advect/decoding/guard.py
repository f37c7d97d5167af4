"""The parent's side: starts the decoding process, waits for it no longer than agreed, and takes its answer apart.

Limits grow with the file: memory and answer as for other packed files, a GiB or a hundred times its bytes; time by the
minute and by the megabyte. An honest file is far below all of them.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from advect.decoding.answer import Answer, BadAnswerError
from advect.errors import AdvectError, DataError, MissingExtraError, UnknownNameError

LARGEST_ANSWER, LARGEST_RATIO = 1 << 30, 100
"""A file may become a GiB, or a hundred times its own bytes."""
ROOM = 1 << 30  # for the decoder's own buffers, beside copies of the answer
COPIES = 2
SECONDS, SECONDS_PER_MEBIBYTE = 60, 1.0
_ERRORS = {error.__name__: error for error in (DataError, MissingExtraError, UnknownNameError)}
_START = "import sys; sys.path[:] = {path!r}; from advect.decoding.child import main; main()"


def decoded(kind: str, path: Path, *, num_bytes: int | None = None, **request: Any) -> Answer:
    """What a decoder says of a file.

    Args:
        kind: Of decoder, see `child.DECODERS`.
        path: The file or folder.
        num_bytes: Of all that will be read; the size of the file by default.
        request: Whatever else the decoder wants to know; plain values.

    Raises:
        DataError: The file cannot be read, or its decoder crashed, hung, or ran out of the memory it may take.
        MissingExtraError: The decoder is not installed.
    """
    size = path.stat().st_size if num_bytes is None else num_bytes
    most = max(LARGEST_ANSWER, LARGEST_RATIO * size)
    seconds = int(SECONDS + SECONDS_PER_MEBIBYTE * size / (1 << 20))
    limits = {"memory": ROOM + COPIES * most, "answer": most, "seconds": seconds}
    asked = json.dumps({"kind": kind, "path": str(path), **limits, **request}).encode()
    with _nameless_file() as stream, _nameless_file() as trace:
        try:
            code = run_child(asked, stream, trace, seconds)
        except subprocess.TimeoutExpired:
            raise _dead(_last(trace, request, path), f"it was not read within {seconds} seconds", "") from None
        try:
            answer = Answer(stream, str(path))
            error = answer.meaning.get("error")
        except BadAnswerError as bad:
            where = _last(trace, request, path)
            raise _dead(where, "the process that decodes it ended without an answer", _ending(code)) from bad
    if error is not None:
        raise _told(error, path)
    return answer


def run_child(asked: bytes, answer: BufferedIOBase, trace: BufferedIOBase, seconds: float) -> int:
    """Run the decoding process to its end and return its exit code; it is gone when this returns.

    Raises:
        subprocess.TimeoutExpired: It took longer and was killed.
    """
    # -I: neither the current folder nor the environment decides what is imported; this process's own path does.
    path = [os.path.abspath(entry) for entry in sys.path]
    command = [sys.executable, "-I", "-c", _START.format(path=path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=answer.fileno(), stderr=trace.fileno()) as child:
        try:
            child.communicate(asked, timeout=seconds)
        finally:
            child.kill()  # does nothing where it has ended
    return child.returncode


def _last(trace: BufferedIOBase, request: Mapping[str, Any], path: Path) -> Path:
    """The file of a folder that was being decoded, by the trace that the process left."""
    trace.seek(max(0, trace.seek(0, os.SEEK_END) - 4096))
    begun = re.findall(rb"^begun (\d{1,9})$", trace.read(), re.MULTILINE)
    files = request.get("files", ())
    if not begun or int(begun[-1]) >= len(files):
        return path
    file = files[int(begun[-1])]
    return Path(file if isinstance(file, str) else f"{file[0]}:{file[3]}")  # a stretch of a tar file has a name inside


def _nameless_file() -> BufferedIOBase:
    """A file without a name, in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("advect"), "w+b")
    return tempfile.TemporaryFile()  # type: ignore[return-value] - a random-access file


def _told(error: object, path: Path) -> AdvectError:
    """The child's refusal as ours."""
    if not isinstance(error, dict) or not isinstance(error.get("what"), str):
        return _dead(path, "the process that decodes it gave no reason", "")
    parts = {name: error.get(name) for name in ("where", "remedy")}
    parts = {name: text if isinstance(text, str) else None for name, text in parts.items()}
    return _ERRORS.get(str(error.get("kind")), DataError)(error["what"], **parts)


def _ending(code: int) -> str:
    if code >= 0:
        return f" (exit code {code})"
    try:
        return f" ({signal.Signals(-code).name})"
    except ValueError:
        return f" (signal {-code})"


def _dead(path: Path, what: str, how: str) -> DataError:
    return DataError(
        f"{what}{how}",
        where=str(path),
        remedy="The file is damaged, or made to harm: fetch it again. If it is yours, read it yourself and give an "
        "array or a frame from Python.",
    )
