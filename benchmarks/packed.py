"""Arrays inside a JSON record: rounded to a stated step, compressed, as text.

A cell's record is written whole or not at all; an array in a file of its own could be torn from it. Log-likelihoods
rounded to a thousandth of a nat take about two bytes a row.
"""

import base64
import zlib
from typing import Any

import numpy as np

from advect.errors import DataError

_MISSING, _BELOW, _ABOVE = -(2**31), -(2**31) + 1, 2**31 - 1  # NaN, −∞ and +∞ (or too large for the step)


def pack(values: np.ndarray, step: float) -> dict[str, Any]:
    """The array, rounded to multiples of ``step``, as plain JSON values.

    Args:
        values: Real numbers of any shape; NaN and ±∞ are kept.
        step: What is rounded to. Numbers beyond 2·10⁹ steps become ±∞.
    """
    values = np.asarray(values, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        steps = np.rint(values / step)
    whole = np.where(np.isnan(steps), _MISSING, np.clip(np.nan_to_num(steps, nan=0.0), _BELOW, _ABOVE)).astype("<i4")
    # Bytes of one significance side by side compress far better than numbers side by side.
    planes = whole.reshape(-1, 1).view(np.uint8).T.tobytes()
    return {
        "format": "int32 little-endian, byte planes, zlib, base64",
        "step": step,
        "shape": list(values.shape),
        "data": base64.b64encode(zlib.compress(planes, 9)).decode("ascii"),
    }


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """What `pack` was given, rounded, as float64.

    Raises:
        DataError: The text does not hold an array of that shape.
    """
    try:
        planes = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), dtype=np.uint8)
        whole = np.ascontiguousarray(planes.reshape(4, -1).T).view("<i4").reshape(packed["shape"])
    except (KeyError, ValueError, zlib.error) as error:
        raise DataError(f"the packed array is damaged ({error})", where="record") from error
    values = whole * float(packed["step"])
    values[whole == _MISSING] = np.nan
    values[whole == _BELOW] = -np.inf
    values[whole == _ABOVE] = np.inf
    return values
