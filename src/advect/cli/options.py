"""Options that several verbs share, and how their text is read."""

import re
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from advect.errors import ConfigError

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object on standard output.")]
Seed = Annotated[int, Parameter(help="Seed of every draw.")]
Run = Annotated[Path, Parameter(help="Run folder.")]
Out = Annotated[Path | None, Parameter(help="File to write, by its ending: csv, tsv, parquet, npy, npz.")]
Condition = Annotated[
    str | None, Parameter(help="Condition of all rows: a value, or NAME=VALUE,NAME=VALUE.", allow_leading_hyphen=True)
]
Rows = Annotated[int, Parameter(name=["--rows", "-n"], help="Number of rows.")]

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h)?")


def seconds(text: str) -> float:
    """``90``, ``90s``, ``2m`` or ``1h30m`` in seconds.

    Raises:
        ConfigError: The text is no duration, or not positive.

    >>> seconds("1h30m")
    5400.0
    """
    parts = _DURATION.findall(text.strip().lower())
    if not parts or _DURATION.sub("", text.strip().lower()).strip():
        raise ConfigError(f"{text!r} is not a duration", where="--budget", remedy="Write it like 90s, 2m or 1h30m.")
    return sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
