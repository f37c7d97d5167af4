"""Networks by name: ``mlp-3x64`` is depth × width, ``residual-3x256`` blocks × width, ``unet-tiny`` a U-Net of that
size, ``dit-s/2`` a diffusion transformer of that size with patches of 2 × 2; ``auto`` chooses."""

import math
import re
from collections.abc import Callable
from functools import partial

from torch import Generator, nn

from advect.errors import ConfigError, unknown_name
from advect.networks.mlp import MLP
from advect.networks.residual import ResidualMLP
from advect.networks.timed import TimedNetwork
from advect.networks.transformer import DiffusionTransformer, DiTSize
from advect.networks.unet import UNet, UNetSize

UNETS: dict[str, UNetSize] = {
    "unet-tiny": UNetSize(32, (1, 2, 2), 1, attention=(2,), head_channels=32),
    "unet-small": UNetSize(64, (1, 2, 2), 2, attention=(2,), head_channels=32),
    # The sizes of torchcfm's CIFAR-10 example: attention at 16 × 16 of 32 × 32 (Tong et al. 2302.00482, appendix).
    "unet-cifar": UNetSize(128, (1, 2, 2, 2), 2, attention=(1,), head_channels=64, dropout=0.1),
    # The same to the last parameter: time moves features and does not scale them, as in Ho et al. 2020 (2006.11239).
    "unet-torchcfm": UNetSize(
        128, (1, 2, 2, 2), 2, attention=(1,), head_channels=64, dropout=0.1, scales=False, time_features=128
    ),
    # Lipman et al. 2022 (2210.02747), appendix E: that of Dhariwal & Nichol 2021 (2105.05233), 256 channels.
    "unet-lipman": UNetSize(256, (1, 2, 2, 2), 2, attention=(1,), head_channels=64, time_features=256),
}

DITS: dict[str, DiTSize] = {
    "tiny": DiTSize(6, 128, 4),
    # Peebles & Xie 2023 (2212.09748), table 1.
    "s": DiTSize(12, 384, 6),
    "b": DiTSize(12, 768, 12),
    "l": DiTSize(24, 1024, 16),
    "xl": DiTSize(28, 1152, 16),
}

NETWORKS: dict[str, str] = {
    "auto": "a U-Net for pictures of 16 × 16 and more, else a residual network, sized by the coordinates and rows",
    "mlp-3x64": "a plain network, hidden layers × width; any two numbers",
    "residual-3x256": "a residual network, blocks × width; any two numbers",
    "unet-tiny": "a U-Net for pictures that trains on a processor",
    "unet-small": "a U-Net for pictures on a modest graphics card",
    "unet-cifar": "the U-Net of published CIFAR-10 experiments",
    "unet-torchcfm": "that of torchcfm's CIFAR-10 example, parameter by parameter",
    "unet-lipman": "the wide one of Lipman et al.",
    "dit-tiny/4": "a diffusion transformer for pictures that trains on a processor; the patch is any number",
    "dit-s/2": "the diffusion transformers of Peebles & Xie: dit-s, dit-b, dit-l, dit-xl, any patch",
}
"""The names that are understood, each with a sentence."""

AUTO_PICTURE = 16  # pixels per side from which `auto` takes a U-Net
_PATTERN = re.compile(r"(mlp|residual)-(\d+)x(\d+)")
_DIT = re.compile(rf"dit-({'|'.join(DITS)})/(\d+)")


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
        name: ``auto``, ``mlp-DEPTHxWIDTH``, ``residual-BLOCKSxWIDTH``, ``unet-SIZE``,
            ``dit-SIZE/PATCH``, or any ``module(t, x, condition)``.
        event_shape: Shape of one row.
        condition_features: Numbers in one condition, 0 for none.
        num_rows: Training rows, for ``auto``; None counts as many.
        generator: Draws the initial weights.

    Raises `UnknownNameError` for a name that is not understood, `ConfigError` for a size of zero and `ShapeError` for a
    U-Net or a transformer on rows that are no pictures.
    """
    if isinstance(name, nn.Module):
        return name
    make = _maker(resolve_network(name, event_shape=event_shape, num_rows=num_rows))
    return make(event_shape, condition_features, generator=generator)


def resolve_network(name: str, *, event_shape: tuple[int, ...], num_rows: int | None = None) -> str:
    """The name with its sizes, for the configuration of a run: ``auto`` becomes ``residual-3x256``.

    The rule of ``auto``: ``unet-tiny`` for pictures of at least 16 × 16; else three residual blocks: width 128 up to 3
    coordinates, 256 up to 256, 512 above; halved (to no less than 64) for every factor of four by which the rows fall
    short of 1000. A step on 256 rows then takes about ten milliseconds on one core up to 256 coordinates.
    """
    if name != "auto":
        _maker(name)
        return name
    if len(event_shape) == 3 and min(event_shape[1:]) >= AUTO_PICTURE:
        return "unet-tiny"
    coordinates = math.prod(event_shape)
    width = 128 if coordinates <= 3 else 256 if coordinates <= 256 else 512
    rows = 1000 if num_rows is None else num_rows
    while rows < 1000 and width > 64:
        width, rows = width // 2, rows * 4
    return f"residual-3x{width}"


def _maker(name: str) -> Callable[..., TimedNetwork]:
    """What builds the network of this name."""
    if name in UNETS:
        return partial(UNet, size=UNETS[name])
    transformer = _DIT.fullmatch(name)
    if transformer:
        return partial(DiffusionTransformer, size=DITS[transformer[1]], patch=int(transformer[2]))
    found = _PATTERN.fullmatch(name)
    if not found:
        raise unknown_name("network", name, NETWORKS)
    first, second = int(found[2]), int(found[3])
    if not (first and second):
        raise ConfigError(f"The network {name!r} has a size of zero", where="network", remedy="Use at least 1x1.")
    plain = partial(MLP, depth=first, width=second)
    return plain if found[1] == "mlp" else partial(ResidualMLP, blocks=first, width=second)
