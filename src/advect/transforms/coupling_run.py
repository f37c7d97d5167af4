"""Coupling layers one after another, with permutations between them, as one compiled call.

A block of rows goes through all of them before the next begins: what Python does for a layer it does once for all, and
rows do not leave the cache in between. Taken where no graph is wanted; layer by layer otherwise, with the same numbers.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from advect.records import Mapped
from advect.transforms.bijection import mapped
from advect.transforms.coupling import Coupling
from advect.transforms.coupling_blocks import Blocks, Likelihood, Told
from advect.transforms.coupling_pass import by_blocks, weights_of
from advect.transforms.kernel import Kernel, layers_for
from advect.transforms.layer_pass import Chain
from advect.transforms.linear import Permutation
from advect.typing import Bijection as Map


class Run:
    """Maps that may be taken together.

    Args:
        maps: Couplings whose functions have the same compiled form, and permutations, in the order of `encode`.

    Attributes:
        maps: As given.
        couplings: Those among them.
    """

    def __init__(self, maps: Sequence[Coupling | Permutation]) -> None:
        self.maps = tuple(maps)
        self.couplings = [map for map in maps if isinstance(map, Coupling)]
        # One with a condition, where there is one: it refuses whatever any of them would.
        self._strictest = max(self.couplings, key=lambda map: map.condition_shape is not None)
        layer = self.couplings[0].layer()
        assert layer is not None
        self._kernel = layer.kernel
        self._orders = [map for map in maps if isinstance(map, Permutation)]
        self._told: dict[bool, Told] = {}
        self._chains: dict[bool, tuple[list[list[int]], Chain]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what is known of the weights' places, which a copy does not share."""
        return vars(self) | {"_told": {}}

    def passed(self, x: Tensor, condition: Tensor | None, *, log_det: bool, inverse: bool) -> Mapped | None:
        """All maps, or the inverse of all, without a graph; None where only one by one will do."""
        blocks = self.blocks(x, condition, inverse=inverse)
        if blocks is None:
            return None
        if torch.is_grad_enabled():
            given = x, condition, *blocks.weights
            if any(part is not None and part.requires_grad for part in given):
                return None
        return mapped(*blocks.forward(log_det=log_det))

    def blocks(self, x: Tensor, condition: Tensor | None, *, inverse: bool = False) -> Blocks | None:
        """One pass of these rows, not yet begun; None where only the maps one by one will do."""
        given = self.given(x, condition)
        told = self._ready(x, given, inverse)
        return None if told is None else Blocks(told, x, given)

    def likelihood(self, x: Tensor, condition: Tensor | None, into: Sequence[Tensor]) -> Likelihood | None:
        """For rows like these, see `Likelihood`; None where only the maps one by one will do.

        ``into`` is where the gradients by the couplings' weights go.
        """
        told = self._ready(x, self.given(x, condition), inverse=False)
        plain = told is not None and told.plain and all(tensor.is_contiguous() for tensor in into)
        return Likelihood(told, into) if told is not None and plain else None

    def given(self, x: Tensor, condition: Tensor | None) -> Tensor | None:
        """The condition for the layers, after a look at whether it and the rows fit."""
        given = condition if self._strictest.condition_shape is not None else None
        self._strictest.check_rows(x, given)
        return given

    def _ready(self, x: Tensor, condition: Tensor | None, inverse: bool) -> Told | None:
        """What the compiled functions are told for such rows; None where only the maps one by one will do."""
        given = [x] if condition is None else [x, condition]
        layers = layers_for(*given)
        if layers is None or not len(x) or not self._kernel.fits:
            return None
        weights: list[Tensor] = []
        depths: list[int] = []
        for map in reversed(self.couplings) if inverse else self.couplings:
            layer = map.layer(inverse=inverse)
            known = None if layer is None or layer.kernel != self._kernel else weights_of(map.conditioner)
            if known is None:
                return None
            weights += known
            depths.append(len(known) // 2)
        chain, told = self._chain(inverse=inverse), self._told.get(inverse)
        conditions = 0 if condition is None else condition.shape[1]
        if told is None or not told.holds(layers, chain, weights, conditions):
            if layers_for(*given, *weights) is None:
                return None
            told = self._told[inverse] = Told(layers, chain, weights, depths, conditions)
        return told if by_blocks(len(x) * told.products) else None

    def _chain(self, *, inverse: bool) -> Chain:
        orders = [map.order.tolist() for map in self._orders]
        known = self._chains.get(inverse)
        if known is None or known[0] != orders:  # a state that was loaded may bring other permutations
            known = self._chains[inverse] = orders, self._new_chain(inverse)
        return known[1]

    def _new_chain(self, inverse: bool) -> Chain:
        columns = []
        order: Sequence[int] = range(self.couplings[0].features)
        for map in reversed(self.maps) if inverse else self.maps:
            if isinstance(map, Permutation):
                taken = map.order.argsort() if inverse else map.order
                order = [order[i] for i in taken.tolist()]
            else:
                layer = map.layer(inverse=inverse)
                assert layer is not None
                columns.append(layer.columns(order))
        return Chain(self._kernel, inverse, columns, order)


def in_runs(maps: Iterable[Map]) -> list[Map | Run]:
    """Maps in their order, with those that may be taken together in runs."""
    found: list[Map | Run] = []
    together: list[Coupling | Permutation] = []

    def close() -> None:
        several = len(together) > 1 and any(isinstance(map, Coupling) for map in together)
        found.extend([Run(together)] if several else together)
        together.clear()

    kernel: Kernel | None = None
    for map in maps:
        layer = map.layer() if type(map) is Coupling else None
        if layer is not None and kernel is not None and layer.kernel != kernel:
            close()
        if isinstance(map, Coupling) and layer is not None:
            kernel = layer.kernel
            together.append(map)
        elif type(map) is Permutation:
            together.append(map)
        else:
            close()
            kernel = None
            found.append(map)
    close()
    return found
