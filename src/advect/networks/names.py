"""Networks by name: ``mlp-3x64`` is depth × width, ``residual-3x256`` blocks × width, ``auto`` chooses."""

import math
import re

from torch import Generator, nn

from advect.errors import ConfigError, unknown_name
from advect.networks.mlp import MLP
from advect.networks.residual import ResidualMLP

NETWORKS: dict[str, str] = {
    "auto": "a residual network sized by the coordinates and rows of the data",
    "mlp-3x64": "a plain network, hidden layers × width; any two numbers",
    "residual-3x256": "a residual network, blocks × width; any two numbers",
}
"""The names that are understood, each with a sentence."""

_PATTERN = re.compile(r"(mlp|residual)-(\d+)x(\d+)")


def make_network(
    name: str | nn.Module,
    *,
    event_shape: tuple[int, ...],
    condition_features: int = 0,
    num_rows: int | None = None,
    generator: Generator | None = None,
) -> nn.Module:
    """Build the network called ``name``; a module of the user's passes as it is.

    Args:
        name: ``auto``, ``mlp-DEPTHxWIDTH``, ``residual-BLOCKSxWIDTH``, or any ``module(t, x, condition)``.
        event_shape: Shape of one row.
        condition_features: Numbers in one condition, 0 for none.
        num_rows: Training rows, for ``auto``; None counts as many.
        generator: Draws the initial weights.

    Raises `UnknownNameError` for a name that is not understood and `ConfigError` for a size of zero.
    """
    if isinstance(name, nn.Module):
        return name
    resolved = resolve_network(name, event_shape=event_shape, num_rows=num_rows)
    kind, first, second = _parse(resolved)
    if kind == "mlp":
        return MLP(event_shape, condition_features, depth=first, width=second, generator=generator)
    return ResidualMLP(event_shape, condition_features, blocks=first, width=second, generator=generator)


def resolve_network(name: str, *, event_shape: tuple[int, ...], num_rows: int | None = None) -> str:
    """The name with its sizes, for the configuration of a run: ``auto`` becomes ``residual-3x256``.

    The rule of ``auto``: three residual blocks; width 128 up to 3 coordinates, 256 up to 256, 512 above; halved (to no
    less than 64) for every factor of four by which the rows fall short of 1000. A step on 256 rows then takes about ten
    milliseconds on one core up to 256 coordinates.
    """
    if name != "auto":
        _parse(name)
        return name
    coordinates = math.prod(event_shape)
    width = 128 if coordinates <= 3 else 256 if coordinates <= 256 else 512
    rows = 1000 if num_rows is None else num_rows
    while rows < 1000 and width > 64:
        width, rows = width // 2, rows * 4
    return f"residual-3x{width}"


def _parse(name: str) -> tuple[str, int, int]:
    found = _PATTERN.fullmatch(name)
    if not found:
        raise unknown_name("network", name, NETWORKS)
    first, second = int(found[2]), int(found[3])
    if not (first and second):
        raise ConfigError(f"The network {name!r} has a size of zero", where="network", remedy="Use at least 1x1.")
    return found[1], first, second
