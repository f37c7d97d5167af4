"""The inverse of a map as a map: `encode` and `decode` change places, and with them fast and slow directions."""

from torch import Generator, Tensor

from advect.records import Mapped
from advect.transforms.bijection import Bijection


class Inverse(Bijection):
    """f⁻¹ of a bijection f. An inverse autoregressive flow is made so (Kingma et al. 2016, arXiv 1606.04934).

    Args:
        inner: The map f; its event and condition shapes are those of the inverse.
    """

    def __init__(self, inner: Bijection) -> None:
        super().__init__(inner.source_shape, inner.condition_shape, inner.event_shape)
        self.inner = inner
        self.likelihood = inner.likelihood

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        return self.inner.decode(x, condition, log_det=log_det, generator=generator)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        return self.inner.encode(z, condition, log_det=log_det, generator=generator)
