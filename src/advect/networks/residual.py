"""A residual network for tables.

    h ← W x,   e = silu(A φ(t) + C c),   h ← h + W₂ silu((1 + G e) W₁ silu(h) + E e)  for each block,   v = V silu(h)

with pre-activation blocks (He et al. 2016, arXiv 1603.05027), modulated in each by the embedding e of time and
condition (FiLM: Perez et al. 2018, arXiv 1709.07871, eq. 2), and V = 0 at the start: an untrained network returns zero,
so whatever baseline it is added to rules. There is no normalisation layer: inputs have unit scale already, on tables
the modulation learns at least as fast as one, and it costs the tangents of the exact divergence nothing.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from advect import compiled
from advect.networks.embed import FourierTime
from advect.networks.field import FieldNetwork, check_sizes, push, scale, trace
from advect.networks.layers import ACTIVATIONS, linear, zero_linear
from advect.networks.perceptron import rows_of
from advect.networks.regressor import plain_linears
from advect.networks.residual_compiled import Layers, enough
from advect.networks.residual_inference import ResidualInference
from advect.networks.residual_pass import CompiledResidualRegressor, Quick, said
from advect.records import Regression
from advect.typing import written_for

_slope = ACTIVATIONS["silu"].derivative


class ResidualMLP(FieldNetwork):
    """Residual blocks modulated by time and condition; zero output at the start.

    Args:
        event_shape: Shape of one row.
        condition_features: Numbers in one condition, 0 for none. A condition of zeros adds exactly nothing.
        width: Units of the residual stream and of the blocks.
        blocks: Number of blocks, two linear layers each.
        time_features: Even number of sine and cosine features of t.
        generator: Draws the initial weights.
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        condition_features: int = 0,
        *,
        width: int = 256,
        blocks: int = 3,
        time_features: int = 32,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(event_shape, condition_features)
        check_sizes("ResidualMLP", width=width, blocks=blocks)
        self.width = width
        self.time = FourierTime(time_features)
        # Narrower than the stream: time and condition carry few numbers, and a step would cost half as much again.
        narrow = max(32, width // 4)
        self.time_layer = linear(time_features, narrow, generator=generator)
        self.condition_layer = (
            linear(condition_features, narrow, bias=False, generator=generator) if condition_features else None
        )
        # One product gives the gains and shifts of all blocks.
        self.modulation = linear(narrow, 2 * blocks * width, bias=False, generator=generator)
        self.input = linear(self.features, width, generator=generator)
        self.inner = nn.ModuleList(linear(width, width, generator=generator) for _ in range(blocks))
        self.outer = nn.ModuleList(linear(width, width, generator=generator) for _ in range(blocks))
        self.output = zero_linear(width, self.features)

    def regressor(
        self, gradients: Mapping[nn.Parameter, Tensor], precision: torch.dtype
    ) -> Callable[[Regression], Tensor] | None:
        """See `typing.RegressionNetwork`; None where layers were replaced."""
        layers = self._layers
        if plain_linears(layers.all) is None or not self.features or self._overridden:
            return None
        if not written_for(type(self), "regressor", "_velocity"):
            return None
        return CompiledResidualRegressor(layers, self.time, gradients, precision)

    def for_inference(self, dtype: torch.dtype | None = None) -> "ResidualInference":
        """The same velocity without a graph, with the weights of now; products in ``dtype``."""
        return ResidualInference(self, dtype)

    def quick(self) -> Quick | None:
        """The compiled pass with the weights of now; None where hooks listen or the network is another's."""
        if self._overridden or type(self)._velocity is not ResidualMLP._velocity or compiled.heard(self._layers.all):
            return None
        return Quick(self._layers)

    @property
    def _layers(self) -> Layers:
        blocks = [layer for pair in zip(self.inner, self.outer, strict=True) for layer in pair]
        return Layers(self.time_layer, self.condition_layer, self.modulation, self.input, blocks, self.output)

    @property
    def _overridden(self) -> bool:
        """Whether gains and shifts are made otherwise than here."""
        return type(self)._modulations is not ResidualMLP._modulations

    def _at_once(self, t: Tensor, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor] | None:
        if self._overridden or not written_for(type(self), "_at_once", "_velocity", "_velocity_and_divergence"):
            return None
        found = said(self._layers, rows_of(x, self.time(t), condition), trace=True)
        return None if found is None or found[1] is None else (found[0], found[1])

    def _modulations(self, t: Tensor, condition: Tensor | None) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Gain and shift of each block, ``(batch or 1, width)``; one time for all rows costs one row."""
        e = self.time_layer(self.time(t))
        if self.condition_layer is not None and condition is not None:
            e = e + self.condition_layer(condition)
        parts = self.modulation(F.silu(e)).chunk(2 * len(self.inner), dim=1)
        return parts[::2], parts[1::2]

    def _velocity(self, t: Tensor, x: Tensor, condition: Tensor | None) -> Tensor:
        if not torch.is_grad_enabled() and enough(len(x), self.width) and not self._overridden:
            found = said(self._layers, rows_of(x, self.time(t), condition))
            if found is not None:
                return found[0]
        return self._plain(t, x, condition)

    def _plain(self, t: Tensor, x: Tensor, condition: Tensor | None) -> Tensor:
        """The velocity by torch's operations."""
        h = self.input(x)
        gains, shifts = self._modulations(t, condition)
        for inner, outer, gain, shift in zip(self.inner, self.outer, gains, shifts, strict=True):
            u = inner(F.silu(h))
            h = h + outer(F.silu(torch.addcmul(u + shift, u, gain)))
        return self.output(F.silu(h))

    def _velocity_and_divergence(self, t: Tensor, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        h = self.input(x)
        gains, shifts = self._modulations(t, condition)
        columns = self.input.weight.T.contiguous()  # the tangents of h, the same for every row so far
        tangents = columns.expand(len(x), *columns.shape)
        for inner, outer, gain, shift in zip(self.inner, self.outer, gains, shifts, strict=True):
            u = inner(F.silu(h))
            a = torch.addcmul(u + shift, u, gain)
            moved = push(tangents * _slope(h).unsqueeze(1), inner)
            tangents = push(scale(moved, _slope(a) * (1 + gain)), outer, onto=tangents)
            h = h + outer(F.silu(a))
        return self.output(F.silu(h)), trace(scale(tangents, _slope(h)), self.output.weight)
