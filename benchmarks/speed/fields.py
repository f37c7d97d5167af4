"""Trained velocity fields that all samplers and likelihoods of the suite are asked about."""

from functools import lru_cache

import torch
from torch import Tensor, nn

from advect.couplings import Independent
from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.networks import MLP
from advect.objectives import VelocityMatching
from advect.paths import linear
from advect.training import Batches, DataRows, Trainer, TrainingConfig
from advect.typing import Field
from benchmarks.speed.training import Silence, points

WIDTHS = {2: 64, 6: 256, 43: 256, 63: 256}
"""Units of the three hidden layers, by coordinates."""


@lru_cache(maxsize=1)
def trained_flow(features: int, steps: int) -> Flow:
    """A flow whose field was trained by I-CFM for ``steps`` steps; it takes no gradient any more."""
    network = MLP(
        (features,),
        depth=3,
        width=WIDTHS[features],
        activation="silu",
        generator=torch.Generator().manual_seed(0),
    )
    flow = Flow(StandardNormal((features,)), ContinuousMap(VelocityField(network), event_shape=(features,)))
    data = points(features)
    rows = DataRows(lambda index, generator: data[index], len(data))
    batches = Batches(rows, 256, 0, source=flow.base, coupling=Independent())
    config = TrainingConfig(steps=steps, validation_every=steps)
    Trainer(flow, VelocityMatching(linear(0.1)), batches, config, Silence()).run()
    return flow.requires_grad_(False).eval()


def starts(features: int, rows: int) -> Tensor:
    """Source rows, the same every time."""
    return torch.randn((rows, features), generator=torch.Generator().manual_seed(1))


class Counted(nn.Module):
    """A field that counts its calls."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field, self.calls = field, 0

    def forward(self, t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """The velocity."""
        self.calls += 1
        return self.field(t, x)

    def for_inference(self, dtype: torch.dtype | None = None) -> Field:
        """The field's quick form, its calls counted here too."""
        quick = self.field.for_inference(dtype)  # type: ignore[operator]

        def counted(t: Tensor | float, x: Tensor, condition: Tensor | None = None) -> Tensor:
            self.calls += 1
            return quick(t, x)

        return counted
