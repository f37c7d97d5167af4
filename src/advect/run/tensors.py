"""Tensors on disk: safetensors with a JSON card in the header. Nothing that is read can run."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from advect.errors import RunFolderError
from advect.files import write_bytes

KEY, FORMAT = "advect", "advect-1"


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor], card: Mapping[str, object]) -> Path:
    """Write tensors and their card, whole or not at all.

    Floats in the card survive to the last bit: JSON prints the shortest text that reads back equal.
    """
    # safetensors refuses tensors that share storage or are strided; a contiguous copy on the CPU is neither.
    flat = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    # One entry: several would be written in an order that changes from run to run, and with it the file's bytes.
    header = {KEY: json.dumps({"format": FORMAT, "card": card})}
    # As bytes: `save_file` would write a temporary file of its own, which a killed process leaves behind under a name
    # that nobody knows.
    write_bytes(path, save(flat, header))
    return Path(path)


REPLACED = 20
"""How often a file may be replaced while it is read."""


def read_tensors(path: Path | str) -> tuple[dict[str, Tensor], dict]:
    """Read what `write_tensors` wrote: the tensors and the card.

    safetensors opens a file twice, for its header and for its numbers. Where a training replaces it between the two it
    is read anew, so that what comes back is of one file.

    Raises:
        RunFolderError: The file is missing, damaged, or of a format this version does not know.
    """
    path = Path(path)
    for _ in range(REPLACED):
        before = _identity(path)
        try:
            found = _read(path)
        except RunFolderError:
            if _identity(path) == before:
                raise
            continue
        if _identity(path) == before:
            return found
    return _read(path)


def _identity(path: Path) -> tuple[int, ...] | None:
    """What tells a file from the one that replaces it."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns, facts.st_size


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    try:
        if not path.is_file() and path.exists():
            raise OSError("it is no ordinary file")
        with safe_open(path, framework="pt", device="cpu") as stream:
            header = json.loads((stream.metadata() or {}).get(KEY, "{}"))
            if not isinstance(header, dict) or "card" not in header or header.get("format") != FORMAT:
                raise RunFolderError(
                    f"its format is not known to this version, which reads {FORMAT!r}",
                    where=str(path),
                    remedy="Use the version of advect that wrote it, or a newer one.",
                )
            card = header["card"]
            if not isinstance(card, dict):
                raise ValueError("its card is no object")
            return {name: stream.get_tensor(name) for name in stream.keys()}, card  # noqa: SIM118 - not a mapping
    except FileNotFoundError as error:
        raise RunFolderError(f"{path.name} is missing", where=str(path.parent)) from error
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        if isinstance(error, RunFolderError):
            raise
        raise RunFolderError(
            f"the file is damaged or not ours ({error})",
            where=str(path),
            remedy="Restore it from a copy, or train anew with --restart.",
        ) from error


def load_weights(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Put tensors into a module, strictly.

    Raises:
        RunFolderError: Names or shapes do not fit.
    """
    try:
        module.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        raise RunFolderError(
            f"the weights do not fit the model the configuration describes ({str(error).splitlines()[0]})",
            where=where,
            remedy="The run folder is damaged or was edited; restore it or train anew.",
        ) from error
