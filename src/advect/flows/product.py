"""Sources made of other distributions: a product over groups of coordinates, and any `torch.distributions` object."""

from collections.abc import Generator as Iterates
from collections.abc import Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.distributions import Distribution

from advect.errors import ConfigError
from advect.flows.base import check_num_rows
from advect.transforms.bijection import shape_text
from advect.typing import Base, sum_event


class Product(nn.Module):
    """Independent groups of coordinates, each with a base of its own: log p(z) = Σ log p_g(z_g).

    Args:
        parts: Pairs of coordinates and a base on rows ``(batch, len(coordinates))``. Together the groups hold every
            coordinate 0 … features − 1 once. A condition goes to every part.

    Raises:
        ConfigError: If a coordinate is missing or doubled, or a base has another shape.
    """

    order: Tensor

    def __init__(self, parts: Sequence[tuple[Sequence[int], Base]]) -> None:
        super().__init__()
        self.groups = tuple(tuple(group) for group, _ in parts)
        self.bases = tuple(base for _, base in parts)
        every = [index for group in self.groups for index in group]
        if not every or sorted(every) != list(range(len(every))):
            raise ConfigError(
                f"The groups hold the coordinates {every}",
                where="Product",
                remedy="Name each of 0, 1, 2, … exactly once.",
            )
        for group, base in zip(self.groups, self.bases, strict=True):
            shape = getattr(base, "event_shape", (len(group),))
            if tuple(shape) != (len(group),):
                raise ConfigError(
                    f"{type(base).__name__} has rows {shape_text(tuple(shape))} for {len(group)} coordinates",
                    where="Product",
                )
        for index, base in enumerate(self.bases):
            if isinstance(base, nn.Module):
                self.add_module(str(index), base)
        self.event_shape = (len(every),)
        shapes = [s for base in self.bases if (s := getattr(base, "condition_shape", None)) is not None]
        self.condition_shape = shapes[0] if shapes else None
        self.register_buffer("order", torch.tensor(every).argsort(), persistent=False)

    def sample(
        self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "batch features"]:
        """Draw ``(num_rows, features)``: group after group from one generator."""
        drawn = [base.sample(num_rows, condition, generator=generator) for base in self.bases]
        return torch.cat(drawn, 1)[:, self.order]

    def log_prob(self, z: Float[Tensor, "batch features"], condition: Tensor | None = None) -> Float[Tensor, " batch"]:
        """Log-density ``(batch,)`` in nats."""
        total = z.new_zeros(z.shape[0])
        for group, base in zip(self.groups, self.bases, strict=True):
            total = total + base.log_prob(z[:, list(group)], condition)
        return total

    def extra_repr(self) -> str:
        """The groups, for ``print``."""
        return f"groups={self.groups}"


class Wrapped(nn.Module):
    """Any `torch.distributions.Distribution` without a batch shape.

    That interface draws from PyTorch's global generator only. Here the global state is set from the given generator
    for the draw and put back, so one seed gives one answer and nothing outside notices. The distribution's tensors stay
    on their device and in their dtype (``.to`` does not move them) and are not part of the flow's state; draws are made
    there. Draws carry gradients to them where the distribution has ``rsample``. The condition plays no part.

    Args:
        distribution: Its event shape is that of the rows.

    Raises:
        ConfigError: If it has a batch shape.
    """

    def __init__(self, distribution: Distribution) -> None:
        super().__init__()
        if tuple(distribution.batch_shape):
            raise ConfigError(
                f"The distribution has the batch shape {tuple(distribution.batch_shape)}, so it is several",
                where="Wrapped",
                remedy="Wrap it in torch.distributions.Independent, which makes the batch part of the event.",
            )
        self.distribution = distribution
        self.event_shape = tuple(distribution.event_shape)
        with torch.no_grad(), torch.random.fork_rng():
            self._inside = distribution.sample()  # a point of the support, and the place where draws are made

    def sample(
        self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Draw ``(num_rows, *event)``."""
        shape = torch.Size((check_num_rows(num_rows),))
        with global_state_from(generator, self._inside.device):
            return (
                self.distribution.rsample(shape) if self.distribution.has_rsample else self.distribution.sample(shape)
            )

    def log_prob(self, z: Float[Tensor, "batch *event"], condition: Tensor | None = None) -> Float[Tensor, " batch"]:
        """Log-density ``(batch,)`` in nats; −∞ with gradient zero outside the support, NaN for rows that are NaN."""
        if not len(z):
            return z.new_zeros(0)  # which torch's own distributions cannot reshape
        usable = _inside_support(self.distribution, z.detach())
        chosen = torch.where(usable.reshape(-1, *([1] * (z.ndim - 1))), z, self._inside.to(z))
        value = self.distribution.log_prob(chosen).to(z.dtype)
        instead = torch.where(sum_event(z.isnan()) > 0, torch.nan, -torch.inf).to(value)
        return torch.where(usable, value, instead)

    def extra_repr(self) -> str:
        """The distribution, for ``print``."""
        return repr(self.distribution)


def _inside_support(distribution: Distribution, z: Tensor) -> Tensor:
    """``(batch,)``: whether the rows lie in the support and are not NaN; where it is unknown, whether not NaN."""
    known = sum_event(z.isnan()) == 0
    try:
        support = distribution.support
    except NotImplementedError:
        return known
    return known if support is None else known & support.check(z)


@contextmanager
def global_state_from(generator: Generator | None, device: torch.device) -> Iterates[None]:
    """Seed PyTorch's global generators of the CPU and ``device`` from ``generator``, and put them back afterwards.

    Without a generator the global state is used, and moves on, as everywhere in PyTorch.
    """
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    elsewhere = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(elsewhere, device_type="cuda" if device.type == "cpu" else device.type):
        torch.set_rng_state(Generator().manual_seed(seed).get_state())
        for place in elsewhere:
            torch.get_device_module(place).set_rng_state(Generator(place).manual_seed(seed).get_state(), place)
        yield
