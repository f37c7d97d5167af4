"""Coupling layers one after another, with permutations between them, as one compiled call.

A block of rows goes through all of them before the next begins: what Python does for a layer it does once for all, and
rows do not leave the cache in between. Taken where no graph is wanted; layer by layer otherwise, with the same numbers.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from advect.records import Mapped
from advect.transforms.bijection import mapped
from advect.transforms.coupling import Coupling
from advect.transforms.coupling_blocks import Blocks, Likelihood, Told
from advect.transforms.coupling_pass import by_blocks, weights_of
from advect.transforms.kernel import Kernel, Layers, layers_for
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

    def passed(self, x: Tensor, condition: Tensor | None, *, log_det: bool, inverse: bool) -> Mapped | None:
        """All maps, or the inverse of all, without a graph; None where only one by one will do."""
        blocks = self.blocks(x, condition, inverse=inverse)
        if blocks is None:
            return None
        if torch.is_grad_enabled() and any(part.requires_grad for part in (x, *blocks.weights)):
            return None
        if torch.is_grad_enabled() and condition is not None and condition.requires_grad:
            return None
        return mapped(*blocks.forward(log_det=log_det))

    def blocks(self, x: Tensor, condition: Tensor | None, *, inverse: bool = False) -> Blocks | None:
        """One pass of these rows, not yet begun; None where only the maps one by one will do."""
        given = self._given(x, condition)
        found = self._found(x, given, inverse)
        if found is None:
            return None
        layers, weights, depths = found
        chain = self._chain(inverse=inverse)
        conditions = 0 if given is None else given.shape[1]
        told = self._told.get(inverse)
        if told is None or not told.holds(chain, weights, conditions):
            told = self._told[inverse] = Told(chain, weights, depths, conditions)
        return Blocks(layers, chain, x, given, weights, told)

    def likelihood(self, x: Tensor, condition: Tensor | None, into: Sequence[Tensor]) -> Likelihood | None:
        """For rows like these, see `Likelihood`; None where only the maps one by one will do.

        ``into`` is where the gradients by the couplings' weights go.
        """
        given = self._given(x, condition)
        found = self._found(x, given, inverse=False)
        if found is None or not all(tensor.is_contiguous() for tensor in (*found[1], *into)):
            return None
        layers, weights, depths = found
        conditions = 0 if given is None else given.shape[1]
        return Likelihood(layers, self._chain(inverse=False), weights, depths, conditions, into)

    def _given(self, x: Tensor, condition: Tensor | None) -> Tensor | None:
        """The condition for the layers, after a look at whether it and the rows fit."""
        given = condition if self._strictest.condition_shape is not None else None
        self._strictest.check_rows(x, given)
        return given

    def _found(
        self, x: Tensor, condition: Tensor | None, inverse: bool
    ) -> tuple[Layers, list[Tensor], list[int]] | None:
        """The compiled functions, the weights in the order of the pass, and how many linear layers each layer has."""
        weights: list[Tensor] = []
        depths: list[int] = []
        for map in reversed(self.couplings) if inverse else self.couplings:
            layer = map.layer(inverse=inverse)
            known = None if layer is None or layer.kernel != self._kernel else weights_of(map.conditioner)
            if known is None or not by_blocks(len(x), known):
                return None
            weights += known
            depths.append(len(known) // 2)
        if not len(x) or not self._kernel.fits:
            return None
        layers = layers_for(x, *weights) if condition is None else layers_for(x, condition, *weights)
        return None if layers is None else (layers, weights, depths)

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
