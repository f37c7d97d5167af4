"""Numbers for the page's script: base64 of little-endian bytes, and 16-bit integers over a frame."""

import base64

import numpy as np

NOWHERE = 65535  # a number that is not finite


def text64(values: np.ndarray) -> str:
    """An array as base64 of its little-endian bytes."""
    return base64.b64encode(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def quantised(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Numbers as 16-bit integers, column by column along the last axis.

    They are evenly spaced over three times the frame from ``low`` to ``high``, so that one step is a twenty-thousandth
    of what is seen: 0 stands a range below the frame, 65534 a range above it, and 65535 is not finite.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        place = (values - (2 * low - high)) / (3 * (high - low)) * (NOWHERE - 1)
        return np.where(np.isfinite(values), np.rint(np.clip(place, 0, NOWHERE - 1)), NOWHERE).astype(np.uint16)
