"""Options that several verbs share, and how their text is read."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

from advect.errors import ConfigError

_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h)?")


def whole(minimum: int) -> Callable[[type, Sequence[Token]], int]:
    """A reader of whole numbers of at least ``minimum``; ``1e4`` is one, ``1.5`` is not."""

    def read(_: type, tokens: Sequence[Token]) -> int:
        text, where = tokens[0].value, tokens[0].keyword
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not number.is_integer():
            raise ConfigError(f"{text!r} is not a whole number", where=where, remedy=f"Give one of at least {minimum}.")
        if number < minimum:
            raise ConfigError(f"this must be at least {minimum}, not {text}", where=where)
        return int(text) if text.lstrip("+-").isdecimal() else int(number)

    return read


def real(*, positive: bool) -> Callable[[type, Sequence[Token]], float]:
    """A reader of finite numbers, positive ones only where asked."""

    def read(_: type, tokens: Sequence[Token]) -> float:
        text, where = tokens[0].value, tokens[0].keyword
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            what = "a number" if text.lower().lstrip("+-") not in ("inf", "infinity") else "finite"
            raise ConfigError(f"{text!r} is not {what}", where=where, remedy="Write it like 0.5 or 1e-5.")
        if positive and not number > 0:
            raise ConfigError(f"this must be positive, not {text}", where=where, remedy="Write it like 0.5 or 1e-5.")
        return number

    return read


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
    total = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    if not total > 0:
        raise ConfigError(
            f"the budget must be positive, not {text}", where="--budget", remedy="Write it like 90s or 2m."
        )
    return total


def pairs(texts: Sequence[str]) -> dict[str, Any]:
    """The texts of ``--set NAME=VALUE`` by name.

    Raises:
        ConfigError: A text without a name or an equals sign.

    >>> pairs(["sigma=0.1"])
    {'sigma': '0.1'}
    """
    result = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"{text!r} is not NAME=VALUE", where="--set", remedy="Write it like --set sigma=0.1.")
        result[name.strip()] = value.strip()
    return result


def flag(help: str) -> Parameter:
    """A switch that is off unless it is named."""
    return Parameter(help=help, negative="", show_default=False)


Json = Annotated[bool, Parameter(name="--json"), flag("Print one JSON object on standard output.")]
Seed = Annotated[int, Parameter(help="Seed of every draw.", converter=whole(0))]
Run = Annotated[Path, Parameter(help="A folder that `advect train` made.")]
Out = Annotated[
    Path | None, Parameter(help="File to write, by its ending: csv, tsv, parquet, npy, npz, h5ad, csv.gz, tsv.gz.")
]
Condition = Annotated[str | None, Parameter(help="Condition of all rows: a value, or NAME=VALUE,NAME=VALUE.")]
Count = Parameter(converter=whole(1))
Positive = Parameter(converter=real(positive=True))
Number = Parameter(converter=real(positive=False))
