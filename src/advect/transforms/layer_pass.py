"""One pass of rows through coupling layers and back: what every way to compute it is given and must do."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from advect.transforms.kernel import Kernel, Layers


@dataclass(frozen=True)
class Layer:
    """What a pass must know of a layer.

    Attributes:
        kernel: Of its function.
        kept: The first of the coordinates that stay, and how many.
        moved: The first of those that move, and how many.
        inverse: Whether the pass goes from source to data.
    """

    kernel: Kernel
    kept: tuple[int, int]
    moved: tuple[int, int]
    inverse: bool

    @functools.cached_property
    def chain(self) -> "Chain":
        """This layer alone."""
        return Chain(self.kernel, self.inverse, [self.columns(range(self.features))], range(self.features))

    @property
    def features(self) -> int:
        """Coordinates of a row."""
        return self.kept[1] + self.moved[1]

    def columns(self, order: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        """Those that stay and those that move, where coordinate i is in column ``order[i]``."""
        kept, moved = (order[first : first + count] for first, count in (self.kept, self.moved))
        return kept, moved


@dataclass(frozen=True, eq=False)
class Chain:
    """Layers one after another, and permutations between them, in the order of the pass.

    Attributes:
        kernel: Of the functions of all layers.
        inverse: Whether the pass goes from source to data.
        columns: For every layer the columns that it keeps and those that it moves, counted in the rows that come in.
        order: Which of these columns each one of the rows that go out is.
    """

    kernel: Kernel
    inverse: bool
    columns: Sequence[tuple[Sequence[int], Sequence[int]]]
    order: Sequence[int]


class LayerPass(ABC):
    """One pass through a layer or several, and back.

    Args:
        layers: The compiled functions.
        x: ``(rows, features)``.
        condition: ``(rows, condition)`` or None.
        weights: Weight and bias of every linear layer in turn.

    Attributes:
        layers: As given.
        weights: As given.
        kept: What `backward` needs of `forward`; may be given back to another pass of the same rows and weights.
    """

    def __init__(self, layers: Layers, x: Tensor, condition: Tensor | None, weights: Sequence[Tensor]) -> None:
        self.layers, self.weights = layers, weights
        self.kept: Sequence[Tensor] = ()
        self._x, self._condition = x, condition

    @abstractmethod
    def forward(self, *, log_det: bool = True, kept: bool = False) -> tuple[Tensor, Tensor | None]:
        """The rows and their log-determinants.

        Args:
            log_det: Whether the latter are wanted.
            kept: Whether what `backward` needs is kept.
        """

    @abstractmethod
    def backward(
        self,
        by_value: Tensor | None,
        by_total: Tensor | None,
        *,
        rows: bool,
        into: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor | None, ...]:
        """The gradients by rows, condition, weights and biases from those by what `forward` gave.

        Args:
            by_value: By the rows, None for zeros.
            by_total: By the log-determinants, None for zeros.
            rows: Whether those by rows and condition are wanted.
            into: Where those by weights and biases go.
        """
