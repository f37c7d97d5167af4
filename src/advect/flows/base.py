"""Source distributions, the law at t = 0.

A base is asked for two things: rows, and the log-density of rows. The standard normal has both,

    log N(z; 0, I) = −|z|²/2 − (d/2) log 2π   (nats),

a set of source rows has only the first: an empirical measure has no density, so a flow that starts there can
sample, transport and encode, but not score.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from advect.errors import ConfigError, DataError, UnsupportedError
from advect.typing import sum_event


class StandardNormal(nn.Module):
    """N(0, I) on events of any shape.

    Draws are made on the generator's device and then moved, so that one seed gives the same rows on every device.

    Args:
        event_shape: Shape of one row; ``()`` for scalars.
    """

    anchor: Tensor

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        self.register_buffer("anchor", torch.zeros(()), persistent=False)  # carries dtype and device

    def sample(
        self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Draw ``(num_rows, *event)``; the condition plays no part."""
        place = generator.device if generator is not None else self.anchor.device
        shape = (check_num_rows(num_rows), *self.event_shape)
        noise = torch.randn(shape, generator=generator, dtype=self.anchor.dtype, device=place)
        return noise.to(self.anchor.device)

    def log_prob(self, z: Float[Tensor, "batch *event"], condition: Tensor | None = None) -> Float[Tensor, " batch"]:
        """Log-density ``(batch,)`` in nats."""
        return -0.5 * sum_event(z * z) - 0.5 * math.prod(self.event_shape) * math.log(2 * math.pi)

    def extra_repr(self) -> str:
        """The event shape, for ``print``."""
        return f"event_shape={self.event_shape}"


class IsotropicNormal(StandardNormal):
    """N(0, scale² I): the start law of a diffusion, whose noise is not of unit size.

    Args:
        event_shape: Shape of one row; ``()`` for scalars.
        scale: Standard deviation, above 0.

    Raises:
        ConfigError: A scale that is not positive.
    """

    def __init__(self, event_shape: tuple[int, ...], scale: float) -> None:
        super().__init__(event_shape)
        if not 0 < scale < math.inf:
            raise ConfigError(f"The scale is {scale}", where="IsotropicNormal", remedy="Give a positive number.")
        self.scale = float(scale)

    def sample(
        self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Draw ``(num_rows, *event)``; the condition plays no part."""
        return self.scale * super().sample(num_rows, condition, generator=generator)

    def log_prob(self, z: Float[Tensor, "batch *event"], condition: Tensor | None = None) -> Float[Tensor, " batch"]:
        """Log-density ``(batch,)`` in nats."""
        width = math.prod(self.event_shape)
        return super().log_prob(z / self.scale, condition) - width * math.log(self.scale)

    def extra_repr(self) -> str:
        """Event shape and scale, for ``print``."""
        return f"event_shape={self.event_shape}, scale={self.scale:g}"


class EmpiricalBase(nn.Module):
    """The rows of a second data set, each as likely as the other.

    The rows are part of the state: a flow that starts from them cannot sample without them. Loading a state
    resizes the buffer to the stored number of rows.

    Args:
        points: ``(rows, *event)`` source rows, at least one.

    Raises:
        DataError: If there is no row.
    """

    likelihood: Literal["none"] = "none"  # see `transforms.bijection.Likelihood`
    points: Tensor

    def __init__(self, points: Float[Tensor, "rows *event"]) -> None:
        super().__init__()
        if not points.shape[0]:
            raise DataError("A source needs at least one row, and there is none", where="points")
        self.register_buffer("points", points.detach().clone())

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return tuple(self.points.shape[1:])

    def sample(
        self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Draw ``(num_rows, *event)`` with replacement; the condition plays no part."""
        place = generator.device if generator is not None else self.points.device
        shape = (check_num_rows(num_rows),)
        chosen = torch.randint(self.points.shape[0], shape, generator=generator, device=place)
        return self.points[chosen.to(self.points.device)]

    def log_prob(self, z: Float[Tensor, "batch *event"], condition: Tensor | None = None) -> Float[Tensor, " batch"]:
        """Refuse: a set of points has no density.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(
            "The source is a set of rows, which has no density, so the flow has none either",
            where="log_prob",
            remedy="Use sample, encode, decode or trajectory, or train from the standard-normal source to get one.",
        )

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, *rest: object, **more: object
    ) -> None:
        stored = state_dict.get(f"{prefix}points")
        if stored is not None and stored.shape[1:] == self.points.shape[1:]:
            self.points = self.points.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest, **more)

    def extra_repr(self) -> str:
        """The number of rows and the event shape, for ``print``."""
        return f"rows={self.points.shape[0]}, event_shape={self.event_shape}"


def check_num_rows(num_rows: int) -> int:
    """Return ``num_rows``, refusing negative counts.

    Raises:
        ConfigError: If it is negative.
    """
    if num_rows < 0:
        raise ConfigError(
            f"{num_rows} rows cannot be drawn", where="num_rows", remedy="Ask for a count of zero or more."
        )
    return num_rows
