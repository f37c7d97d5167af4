"""One location and scale per feature or channel, set from the first training batch.

    z = (x − location) · exp(log_scale),    log |det ∂z/∂x| = positions · Σ log_scale
                                                        (Kingma & Dhariwal 2018, arXiv 1807.03039, §3.1 and Table 1)

The first batch encoded *in training mode* sets both so that its channels come out with mean zero and deviation one;
from then on they are ordinary parameters. Evaluating or sampling first changes nothing. That it happened is a buffer:
a saved, loaded or resumed layer is not set twice. Processes that train together must see the same first batch, or
broadcast their parameters and buffers after it: a layer knows nothing of other ranks.
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from advect.errors import ShapeError
from advect.records import Mapped
from advect.transforms.bijection import Bijection, mapped

_SMALLEST_DEVIATION = 1e-3
"""Below it a channel counts as constant in the first batch and keeps its scale: a later batch may not be constant, and
would be blown up by the inverse of rounding."""


class ActNorm(Bijection):
    """Shift and scale of each feature or channel, initialised from data.

    Args:
        channels: Features of a vector, or channels of a picture.
        rank: Axes of one row, channels first: 1 for vectors ``(batch, channels)``, 3 for pictures ``(batch, channels,
            height, width)``.
        size: The axes after the channels, where they are fixed; None lets them vary.
    """

    initialised: Tensor

    def __init__(self, channels: int, rank: int = 1, *, size: tuple[int, ...] | None = None) -> None:
        size = () if rank == 1 else size
        super().__init__(None if size is None else (channels, *size))
        if size is not None and len(size) != rank - 1:
            raise ShapeError(f"The size {size} has {len(size)} axes, expected {rank - 1}", where="ActNorm")
        self.channels, self.rank = channels, rank
        self.location = nn.Parameter(torch.zeros(channels))
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.register_buffer("initialised", torch.tensor(False))

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        self._check_axes(x)
        if self.training and not bool(self.initialised):
            self._initialise(x.detach())
        z = (x - self._over(self.location, x)) * self._over(self.log_scale, x).exp()
        return mapped(z, self._log_det(x) if log_det else None)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        self._check_axes(z)
        x = z * self._over(-self.log_scale, z).exp() + self._over(self.location, z)
        return mapped(x, -self._log_det(z) if log_det else None)

    @torch.no_grad()
    def _initialise(self, x: Float[Tensor, "batch *event"]) -> None:
        """Mean and deviation of each channel over the finite rows; without any the layer waits for the next batch."""
        flat = x.reshape(len(x), self.channels, -1) if x.numel() else x.new_zeros(0, self.channels, 1)
        flat = flat[torch.isfinite(flat).flatten(1).all(1)]
        if not len(flat):
            return
        values = flat.transpose(0, 1).flatten(1).double()
        mean = values.mean(1)
        deviation = (values - mean.unsqueeze(1)).square().mean(1).sqrt()
        deviation = torch.where(deviation < _SMALLEST_DEVIATION, 1.0, deviation)
        self.location.copy_(mean)
        self.log_scale.copy_(-deviation.log())
        self.initialised.fill_(True)

    def _log_det(self, like: Tensor) -> Tensor:
        positions = like.shape[2:].numel()
        return (positions * self.log_scale.to(like.dtype).sum()).expand(len(like))

    def _over(self, parameter: Tensor, like: Tensor) -> Tensor:
        """``(channels,)`` to broadcast over the axes after the channels."""
        return parameter.to(like.dtype).reshape(-1, *([1] * (self.rank - 1)))

    def _check_axes(self, x: Tensor) -> None:
        if x.ndim != 1 + self.rank or x.shape[1] != self.channels:
            axes = ", ".join(["batch", str(self.channels), "..."][: 1 + min(self.rank, 2)])
            raise ShapeError(f"Rows have shape {tuple(x.shape)}, expected ({axes})", where="ActNorm")
