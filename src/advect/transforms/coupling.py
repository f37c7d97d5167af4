"""Coupling layers: some coordinates stay and say how the others move.

    z_kept = x_kept,  z_moved = τ(x_moved; θ(x_kept, c)),   log |det ∂z/∂x| = Σ log τ'     (Dinh et al. 2015, 1410.8516)

The Jacobian is triangular whatever θ is, and both directions cost one pass. Coordinates are taken by index, not by
masks: no work is done on numbers that would be multiplied by zero.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from advect.errors import ConfigError
from advect.networks.conditioner import Conditioner
from advect.records import Mapped, Status
from advect.transforms.bijection import Bijection, mapped
from advect.transforms.coupling_pass import Network, passed, walk_for
from advect.transforms.layer_pass import Layer, LayerPass
from advect.transforms.monotone import Monotone, Moved


class Coupling(Bijection):
    """The coordinates ``moved`` go through ``function``, with parameters from those ``kept`` and the condition.

    Args:
        kept: Indices that stay. May be empty; see `Elementwise`.
        moved: Indices that move; together with ``kept`` they are 0 … features − 1, each once.
        function: A monotone function of one number.
        conditioner: ``network(x_kept, condition) -> (batch, len(moved) · function.num_parameters)``, the parameters of
            one coordinate side by side.
        condition_features: Numbers in one condition, 0 for none.

    Rows whose numeric inverse found no root are NaN, with `Status.NOT_CONVERGED`.
    """

    def __init__(
        self,
        kept: Sequence[int],
        moved: Sequence[int],
        function: Monotone,
        conditioner: nn.Module,
        condition_features: int = 0,
    ) -> None:
        features = len(kept) + len(moved)
        if sorted([*kept, *moved]) != list(range(features)) or not moved:
            raise ConfigError(
                f"Kept {list(kept)} and moved {list(moved)} do not share out the coordinates",
                where="Coupling",
                remedy=f"Name each of 0 … {features - 1} once, and move at least one.",
            )
        super().__init__((features,), (condition_features,) if condition_features else None)
        self.features, self.function, self.conditioner = features, function, conditioner
        self._kept, self._moved = _Places(kept), _Places(moved)
        # Two halves side by side are put together in their order; only others need a permutation afterwards.
        self._moved_first = [*moved, *kept] == list(range(features))
        places = [*moved, *kept] if self._moved_first else [*kept, *moved]
        self._back = _Places([places.index(i) for i in range(features)])
        self._passes = self._find_passes()

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        found = self._by_pass(x, condition, log_det, inverse=False)
        return self.plain_encode(x, condition, log_det) if found is None else mapped(*found)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        found = self._by_pass(z, condition, log_det, inverse=True)
        return self.plain_decode(z, condition, log_det) if found is None else mapped(*found)

    def plain_encode(
        self, x: Tensor, condition: Tensor | None = None, log_det: bool = True, network: Network | None = None
    ) -> Mapped:
        """`encode` step by step, without the pass of `coupling_pass` that computes the same.

        ``network`` may take the conditioner's place.
        """
        kept, parameters = self._look(x, condition, network)
        return self._join(kept, self.function.forward(self._moved(x), parameters), log_det)

    def plain_decode(
        self, z: Tensor, condition: Tensor | None = None, log_det: bool = True, network: Network | None = None
    ) -> Mapped:
        """`decode` likewise."""
        kept, parameters = self._look(z, condition, network)
        return self._join(kept, self.function.inverse(self._moved(z), parameters), log_det)

    def layer(self, *, inverse: bool = False) -> Layer | None:
        """What a pass must know; None unless there are a compiled function, two contiguous parts, something to look at.

        Without a coordinate or a condition to look at, the parameters are the same for all rows.
        """
        known = self._passes is not None and self._passes[0].kernel is getattr(self.function, "kernel", None)
        return self._passes[inverse] if known and self._passes is not None else None

    def walk(self, x: Tensor, condition: Tensor | None = None, *, inverse: bool = False) -> LayerPass | None:
        """One pass of these rows, not yet begun; None where only the plain way will do."""
        layer = self.layer(inverse=inverse)
        return None if layer is None else walk_for(layer, self.conditioner, x, condition)

    def _by_pass(
        self, x: Tensor, condition: Tensor | None, log_det: bool, *, inverse: bool
    ) -> tuple[Tensor, Tensor | None] | None:
        """Rows and log-determinants by one pass; None where only the plain way will do."""
        layer = self.layer(inverse=inverse)
        if layer is None:
            return None
        plain = self.plain_decode if inverse else self.plain_encode
        return passed(layer, self.conditioner, plain, x, condition, log_det=log_det)

    def _find_passes(self) -> tuple[Layer, Layer] | None:
        """What a pass must know, there and back."""
        kernel: Any = getattr(self.function, "kernel", None)
        start, first = self._kept.start, self._moved.start
        if kernel is None or start is None or first is None or not (self._kept.count or self.condition_shape):
            return None
        kept, moved = (start, self._kept.count), (first, self._moved.count)
        return Layer(kernel, kept, moved, False), Layer(kernel, kept, moved, True)

    def _look(self, x: Tensor, condition: Tensor | None, network: Network | None) -> tuple[Tensor, Tensor]:
        """The kept coordinates, and the parameters ``(batch, moved, parameters)`` they give."""
        kept = self._kept(x)
        parameters = (self.conditioner if network is None else network)(kept, condition)
        return kept, parameters.reshape(x.shape[0], self._moved.count, self.function.num_parameters)

    def _join(self, kept: Tensor, found: Moved, log_det: bool) -> Mapped:
        """All coordinates in their places again, with the log-determinant and a status per row."""
        parts = (found.value, kept) if self._moved_first else (kept, found.value)
        value = self._back(torch.cat(parts, dim=1))
        total = found.log_slope.sum(1) if log_det else None
        if found.converged is None:
            return mapped(value, total)
        failed = ~found.converged.all(1)
        value = value.masked_fill(failed.unsqueeze(1), torch.nan)
        total = None if total is None else total.masked_fill(failed, torch.nan)
        return mapped(value, total, failed.to(torch.int8) * int(Status.NOT_CONVERGED))


class Elementwise(Coupling):
    """Every coordinate through ``function`` by itself, with parameters of its own.

    Args:
        function: A monotone function of one number.
        features: Coordinates of a row.
        condition_features: Numbers in one condition; the parameters are then a network of it, and learned constants
            without one.
        depth: Hidden layers of that network.
        width: Units in each.
        generator: Draws its initial weights.
    """

    def __init__(
        self,
        function: Monotone,
        features: int,
        condition_features: int = 0,
        *,
        depth: int = 2,
        width: int = 64,
        generator: Generator | None = None,
    ) -> None:
        outputs = features * function.num_parameters
        conditioner = Conditioner(0, outputs, condition_features, depth=depth, width=width, generator=generator)
        super().__init__((), range(features), function, conditioner, condition_features)


class _Places(nn.Module):
    """Takes columns by index: a view where they are evenly spaced, all of them for free, a copy otherwise."""

    index: Tensor

    def __init__(self, index: Sequence[int]) -> None:
        super().__init__()
        self.count = len(index)
        self._slice = _as_slice(index)
        # Of columns side by side, where they begin.
        self.start = self._slice.start if self._slice is not None and self._slice.step in (None, 1) else None
        self.register_buffer("index", torch.tensor(list(index), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.index) if self._slice is None else x[:, self._slice]


def _as_slice(index: Sequence[int]) -> slice | None:
    """The slice that picks ``index``, where one does."""
    if not index:
        return slice(0, 0)
    step = index[1] - index[0] if len(index) > 1 else 1
    stop = index[-1] + 1
    return slice(index[0], stop, step) if step > 0 and list(range(index[0], stop, step)) == list(index) else None
