"""The loadings of the components of annotated cells; runs in the decoding process."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from advect.decoding import cells
from advect.decoding.answer import AnswerWriter
from advect.decoding.stored_cells import open_annotated
from advect.errors import DataError

KEY = "PCs"


def load() -> None:
    """As for cells."""
    cells.load()


def decode(path: str, request: Mapping[str, Any], answer: AnswerWriter) -> dict[str, Any]:
    """``genes``: how many there are. ``loadings``: ``(genes, components)`` float64, where they are stored.

    Raises:
        DataError: Damaged, or loadings that are no numbers.
    """
    opened = open_annotated(path)
    try:
        genes = int(opened.n_vars)
        found = _dense(opened.varm[KEY]) if KEY in opened.varm else None
    finally:
        opened.file.close()
    if found is None:
        return {"genes": genes}
    if found.dtype.kind not in "iuf" or found.ndim != 2:
        raise DataError(f"loadings of {found.dtype} and shape {found.shape}", where=f"{path}, varm[{KEY!r}]")
    return {"genes": genes, "loadings": answer.array(found.astype(np.float64))}


def _dense(found: Any) -> np.ndarray:
    return np.asarray(found.to_memory() if hasattr(found, "to_memory") else found)
