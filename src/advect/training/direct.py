"""Gradients without a graph, where objective and network know them.

Where the loss of a step is the squared error of one network (`typing.RegressionObjective`), all trained numbers are
that network's, and the network knows the gradient of such an error (`typing.RegressionNetwork`), there is nothing for
autograd to find out; nor where the objective knows the gradient of the flow as a whole (`typing.DirectObjective`).
Everything else takes the plain way, and so does a network with hooks, which hear of a forward pass alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from advect import compiled
from advect.records import Batch, Drawn, Regression
from advect.training.flat import Flat
from advect.training.shares import total_weight
from advect.typing import DirectObjective, DrawingObjective, Objective, RegressionNetwork, RegressionObjective


def drawn_for(objective: Objective, flow: nn.Module, batch: Batch, generator: Generator) -> Drawn | Regression | None:
    """What the objective draws for a batch, as a regression where it is one; None where it draws as it computes."""
    if not isinstance(objective, DrawingObjective):
        return None
    drawn = objective.draw(batch, generator=generator)
    found = objective.regression(flow, drawn) if isinstance(objective, RegressionObjective) else None
    return drawn if found is None else found


class Direct:
    """The gradients of a training, in one buffer.

    Args:
        objective: What is trained on.
        flow: What is trained.
        parameters: Its trained parameters, which are the parts of ``values``.
        values: Gives the layout.
        rounded: Whether the arithmetic is that of bfloat16.

    Attributes:
        values: See above.
    """

    def __init__(
        self,
        objective: Objective,
        flow: nn.Module,
        parameters: Sequence[nn.Parameter],
        values: Flat,
        *,
        rounded: bool = False,
    ) -> None:
        self._objective, self._flow, self._parameters = objective, flow, parameters
        self._precision = torch.bfloat16 if rounded else values.whole.dtype
        self.values = values
        self._room: Flat | None = None
        self._network: nn.Module | None = None
        self._regressor: Callable[[Regression], Tensor] | None = None
        self._whole: Callable[[Batch], Tensor | None] | None = None
        self._unlooked = True

    def look_again(self) -> None:
        """Forget what was known of the parts of the flow: some may have been put in the place of others."""
        self._network, self._regressor, self._whole, self._unlooked = None, None, None, True

    @property
    def gradients(self) -> Flat:
        """Laid out as ``values``; made when first asked for, as not every training needs them."""
        if self._room is None:
            self._room = Flat(self.values.parts)
        return self._room

    def loss(self, batch: Batch, generator: Generator) -> Tensor | None:
        """The mean loss of a batch, whose gradient is then in `gradients`; None where only the plain way gives it."""
        if self._unlooked:
            self._whole, self._unlooked = self._whole_of(self._objective), False
        if self._whole is not None:
            return self._whole(batch)
        drawn = batch.drawn
        if drawn is None:
            drawn = drawn_for(self._objective, self._flow, batch, generator)
        if not isinstance(drawn, Regression):
            return None
        if drawn.network is not self._network:
            self._network, self._regressor = drawn.network, self._regressor_of(drawn.network)
        return None if self._regressor is None else self._regressor(_weighed(drawn, batch.weight))

    def _whole_of(self, objective: Objective) -> Callable[[Batch], Tensor | None] | None:
        """The function of an objective that knows the gradient of the whole flow, in the flow's own arithmetic."""
        if not isinstance(objective, DirectObjective) or self._precision != self.values.whole.dtype:
            return None
        return objective.direct(self._flow, self._by_parameter())

    def _by_parameter(self) -> dict[nn.Parameter, Tensor]:
        return dict(zip(self._parameters, self.gradients.parts, strict=True))

    def _regressor_of(self, network: nn.Module) -> Callable[[Regression], Tensor] | None:
        offered: Any = network
        if not isinstance(offered, RegressionNetwork):
            return None
        if {id(p) for p in network.parameters()} != {id(p) for p in self._parameters}:
            return None
        return offered.regressor(self._by_parameter(), self._precision)


def _weighed(regression: Regression, weight: Tensor | None) -> Regression:
    """The regression whose plain mean is the mean loss of rows of these weights."""
    if weight is None:
        return regression
    share = weight * (len(weight) / total_weight(weight, regression.x.dtype))
    return replace(regression, weight=share if regression.weight is None else share * regression.weight)


def may_go_without(flow: nn.Module, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether nobody would miss a graph: no hook waits for a pass or a gradient, no autocast is in force, and all
    parameters are still trained.
    """
    if any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
        return False
    if not all(parameter.requires_grad for parameter in parameters):
        return False
    if compiled.heard([*flow.modules()]):
        return False
    of_tensors = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return not any(getattr(p, name, None) for p in flow.parameters() for name in of_tensors)
