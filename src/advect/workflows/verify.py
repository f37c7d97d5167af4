"""`verify`: the path behind a row of the table or a finished run, and all its laws.

A path is never loaded from a file: a row's path is built by the row's own recipe, a run's by that of its method with
the settings it was trained with. A path of a user's own comes as an object, from Python.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from advect.data import take_rows
from advect.errors import AdvectError, RunFolderError, UnsupportedError, unknown_name
from advect.evaluation.verification import Verification, verify_path
from advect.evaluation.verification.verify import EVENT, ROWS
from advect.methods import METHODS, Blueprint, Parts, get_method, resolve_blueprint
from advect.run import Artefact, RunFolder
from advect.training import generator_for
from advect.workflows.again import find_data
from advect.workflows.held_out import flat_latent
from advect.workflows.open import blueprint_from, open_run
from advect.workflows.streams import EVALUATE

DATA_ROWS = 20_000


def verify(
    name: str, options: Mapping[str, Any] | None = None, *, rows: int = ROWS, seed: int = 0, **how: Any
) -> Verification:
    """Try the laws of the path of a method or of a finished run.

    Args:
        name: A row of the table of methods, or a run folder.
        options: Of the method, such as ``{"sigma": 0.5}``; a run has its own.
        rows: Pairs that averages are taken over.
        seed: Of every draw.
        how: Further arguments of `evaluation.verification.verify_path`.

    Raises:
        UnknownNameError: No such method, and no such folder.
        UnsupportedError: A method without a path, or options beside a run.
        RunFolderError: No finished run, or one whose path was the user's own.
    """
    if name in METHODS:
        return verify_method(name, options, rows=rows, seed=seed, **how)
    if not Path(name).exists():
        raise unknown_name("method or run folder", name, METHODS)
    if options:
        raise UnsupportedError(
            "a run has its own settings", where=name, remedy="Verify the method with other settings by its name."
        )
    return verify_run(Path(name), rows=rows, seed=seed, **how)


def verify_method(
    name: str, options: Mapping[str, Any] | None = None, *, rows: int = ROWS, seed: int = 0, **how: Any
) -> Verification:
    """Try the laws of the path of a row of the table, with its options, on reference rows.

    Raises:
        UnsupportedError: The row has no path.
        AdvectError: No such option, or a value out of range.
    """
    shape = tuple(how.get("event_shape", EVENT))
    path = _path_of(resolve_blueprint(name, options or {}, event_shape=shape))
    return verify_path(path, rows=rows, seed=seed, name=_titled(name, options), **how)


def verify_run(folder: Path, *, rows: int = ROWS, seed: int = 0, **how: Any) -> Verification:
    """Try the laws of the path that a run was trained on, on the run's own training rows where they can be found.

    Raises:
        RunFolderError: No finished run, or one whose path was the user's own.
    """
    artefact = open_run(RunFolder(folder))
    if "path" in artefact.config.get("model", {}):
        raise RunFolderError(
            f"this run was trained on a path of your own, {artefact.config['model']['path']}",
            where=str(folder),
            remedy="It is never imported from the folder: call advect.verify(path) with the object.",
        )
    path = _path_of(blueprint_from(artefact.config))
    shape = tuple(artefact.codec.event_shape)
    if how.get("data") is None:
        how["data"] = _latent_rows(artefact, seed)
    how["event_shape"] = shape
    return verify_path(path, rows=rows, seed=seed, name=str(folder), **how)


def methods_with_a_path() -> tuple[str, ...]:
    """The rows that `verify` can try."""
    return tuple(name for name in METHODS if _has_path(name))


def _has_path(name: str) -> bool:
    try:
        _path_of(resolve_blueprint(name, {}, event_shape=EVENT))
    except AdvectError:  # no path, or rows of pictures only
        return False
    return True


def _path_of(blueprint: Blueprint) -> Any:
    """The path that a row's objective draws its points from."""
    path = getattr(get_method(blueprint.method).recipe.objective(blueprint, Parts()), "path", None)
    if path is None:
        raise UnsupportedError(
            f"{blueprint.method} has no path between source and data: it is not trained on one",
            where="verify",
            remedy="Take a row of flow matching or diffusion: advect verify --all tries each.",
        )
    return path


def _latent_rows(artefact: Artefact, seed: int) -> Tensor | None:
    """Training rows in the coordinates of the path; None where they cannot be found."""
    try:
        table, split = find_data(artefact)
    except AdvectError:
        return None
    rows = flat_latent(artefact, take_rows(table, split.train[:DATA_ROWS]), generator_for(seed, EVALUATE))
    return rows.reshape(len(rows), *artefact.codec.event_shape)


def _titled(name: str, options: Mapping[str, Any] | None) -> str:
    return name + "".join(f", {key} = {value}" for key, value in (options or {}).items())
