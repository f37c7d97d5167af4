"""What a user of scikit-learn hands over, as a dense float64 table, refused in the words scikit-learn's users know."""

import sys
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float64
from scipy.sparse import issparse
from torch import Tensor

from advect.errors import AdvectError, DataError, ShapeError


class InputTypeError(AdvectError, TypeError, ValueError):
    """Something else than a dense table of numbers."""


def read_rows(X: Any, least: int = 1) -> Float64[np.ndarray, "rows columns"]:
    """A dense table of finite numbers as ``(rows, columns)`` float64, in a copy.

    Raises:
        InputTypeError: Sparse matrices, and values that are no numbers.
        DataError: Complex, missing or infinite values, too few rows.
        ShapeError: Another number of axes.
    """
    if issparse(X):
        raise InputTypeError(
            "Sparse data was passed, but dense data is required", remedy="Convert it with X.toarray()."
        )
    try:
        values = X.numpy(force=True) if isinstance(X, Tensor) else np.asarray(X)
        if values.dtype.kind == "c":
            raise DataError("Complex data not supported", remedy="Give real and imaginary parts as two columns.")
        if values.dtype.kind in "mMSU":
            raise InputTypeError(f"X holds values of type {values.dtype}, which are no numbers")
        values = np.array(values, dtype=np.float64)
    except AdvectError:
        raise
    except (TypeError, ValueError) as error:
        raise InputTypeError(
            f"X cannot be read as numbers: {error}", remedy="Encode text and mend gaps first."
        ) from error
    if values.ndim != 2:
        raise ShapeError(
            f"Expected 2D array, got {values.ndim}D array of shape {values.shape} instead",
            remedy="Reshape your data either using X.reshape(-1, 1) if it has one column or X.reshape(1, -1) if it is "
            "one row.",
        )
    for size, what, bound in ((values.shape[0], "sample", least), (values.shape[1], "feature", 1)):
        if size < bound:
            raise DataError(
                f"Found array with {size} {what}(s) (shape={values.shape}) while a minimum of {bound} is required"
            )
    broken = np.argwhere(~np.isfinite(values))
    if len(broken):
        row, column = broken[0]
        seen = "NaN" if np.isnan(values[row, column]) else "an infinite value (inf)"
        raise DataError(
            f"X holds {seen} in row {row} (counted from 0), column {column}; {len(broken)} values are not finite",
            remedy="Drop those rows or fill them, for instance with sklearn.impute.",
        )
    return values


def feature_names(X: Any) -> list[str] | None:
    """Column names of a frame if all of them are text and none repeats, else None."""
    columns = getattr(X, "columns", None)
    names = [] if columns is None or callable(columns) else list(columns)
    return names if names and all(isinstance(n, str) for n in names) and len(set(names)) == len(names) else None


def check_names(given: list[str] | None, known: list[str] | None, estimator: str) -> None:
    """Compare the column names of a frame with those of `fit`; None stands for a table without names.

    Raises:
        DataError: Other names, or another order. Names on one side only are a warning.
    """
    if given is not None and known is not None and given != known:
        unseen, missing = [n for n in given if n not in known], [n for n in known if n not in given]
        parts = [f"unseen: {unseen}" if unseen else "", f"missing: {missing}" if missing else ""]
        raise DataError(
            "The feature names should match those that were passed during fit "
            f"({'; '.join(filter(None, parts)) or 'they stand in another order'})"
        )
    if given is None and known is not None:
        _warn(f"X does not have valid feature names, but {estimator} was fitted with feature names")
    if given is not None and known is None:
        _warn(f"X has feature names, but {estimator} was fitted without feature names")


def check_width(rows: Float64[np.ndarray, "rows columns"], expected: int, estimator: str) -> None:
    """Refuse another number of columns than that of `fit`."""
    if rows.shape[1] != expected:
        raise ShapeError(f"X has {rows.shape[1]} features, but {estimator} is expecting {expected} features as input")


def _warn(message: str) -> None:
    """A warning that points at the first frame outside this room."""
    depth, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(__package__):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=depth)
