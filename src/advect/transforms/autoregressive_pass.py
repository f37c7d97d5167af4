"""The inverse of an autoregressive layer as one compiled operation (`walk_kernel.cpp` says how).

`Autoregressive` and `networks.walk` say what is computed, a few small products at every level; compiled, a block of
rows goes through all levels before the next begins, and nothing of it leaves the cache. Taken where no graph is wanted,
by a `MaskedMLP` whose activation and function have a compiled form, all in one dtype; everything else goes the plain
way. Both agree to rounding.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from advect.compiled import place, pointers
from advect.networks.masked import MaskedMLP
from advect.networks.walk import ordered_weights
from advect.transforms.kernel import Kernel, Layers, layers_for
from advect.transforms.monotone import Monotone

_ACTIVATIONS = (F.relu, F.silu)  # numbered as in the source
_BLOCK = 64  # rows of a block; kRows there


def inverted(
    function: Monotone, network: MaskedMLP, z: Tensor, condition: Tensor | None, *, log_det: bool
) -> tuple[Tensor, Tensor | None] | None:
    """Rows x from ``z`` ``(rows, features)`` and their log-determinants; None where only the plain way will do.

    Rows and condition have the shapes that the layer asks for.
    """
    kernel: Any = getattr(function, "kernel", None)
    if kernel is None or not kernel.fits or type(network) is not MaskedMLP or not len(z):
        return None
    if network.activation not in _ACTIVATIONS:
        return None
    given = [z, *([] if condition is None else [condition]), *network.parameters()]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given):
        return None
    layers = layers_for(*given)
    return None if layers is None else _walked(layers, kernel, network, z, condition, log_det)


def _walked(
    layers: Layers, kernel: Kernel, network: MaskedMLP, z: Tensor, condition: Tensor | None, log_det: bool
) -> tuple[Tensor, Tensor | None]:
    levels, units, each, depth = network.levels, network.unit_sizes, network.num_parameters, len(network.layers)
    weights = [weight.contiguous() for weight in ordered_weights(network)]
    x, total = z.new_empty(z.shape), z.new_empty(len(z)) if log_det else None
    known = 1 + network.condition_features + network.features + depth * (1 + network.width)
    room = z.new_empty((known + each * max(levels.sizes)) * _BLOCK)
    failed = layers.walk[kernel.name](
        len(z),
        *kernel.constants,
        len(levels.sizes),
        network.condition_features,
        depth,
        network.width,
        each,
        _ACTIVATIONS.index(network.activation),
        network.reach,
        _numbers(levels.sizes),
        _numbers(units),
        _numbers(levels.order),
        pointers(weights),
        *place(z),
        *place(condition),
        *place(x),
        None if total is None else total.data_ptr(),
        room.data_ptr(),
    )
    assert not failed
    return x, total


def _numbers(numbers: Sequence[int]) -> Any:
    return (ctypes.c_int64 * len(numbers))(*numbers)
