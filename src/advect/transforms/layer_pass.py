"""One pass of rows through a coupling layer and back: what every way to compute it is given and must do."""

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


class LayerPass(ABC):
    """One pass through a layer, and back.

    Args:
        layers: The compiled functions.
        layer: The layer.
        x: ``(rows, features)``.
        condition: ``(rows, condition)`` or None.
        weights: Weight and bias of every linear layer in turn.

    Attributes:
        weights: As given.
        kept: What `backward` needs of `forward`; may be given back to another pass of the same rows and weights.
    """

    def __init__(
        self, layers: Layers, layer: Layer, x: Tensor, condition: Tensor | None, weights: Sequence[Tensor]
    ) -> None:
        self.weights = weights
        self.kept: Sequence[Tensor] = ()
        self._layers, self._layer, self._x, self._condition = layers, layer, x, condition

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
