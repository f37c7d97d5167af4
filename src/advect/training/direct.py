"""Gradients without a graph, where objective and network know them.

Where the loss of a step is the squared error of one network (`typing.RegressionObjective`), all trained numbers are
that network's, and the network knows the gradient of such an error (`typing.RegressionNetwork`), there is nothing for
autograd to find out. Everything else takes the plain way, and so does a network with hooks, which hear of a forward
pass alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from advect.records import Batch, Drawn, Regression
from advect.training.flat import Flat
from advect.training.shares import total_weight
from advect.typing import DrawingObjective, Objective, RegressionNetwork, RegressionObjective


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
        precision: Of the arithmetic.

    Attributes:
        gradients: Laid out as ``values``.
    """

    def __init__(
        self,
        objective: Objective,
        flow: nn.Module,
        parameters: Sequence[nn.Parameter],
        values: Flat,
        precision: torch.dtype,
    ) -> None:
        self._objective, self._flow, self._parameters, self._precision = objective, flow, parameters, precision
        self.values, self.gradients = values, Flat(values.parts)
        self._network: nn.Module | None = None
        self._regressor: Callable[[Regression], Tensor] | None = None

    def loss(self, batch: Batch, generator: Generator) -> Tensor | None:
        """The mean loss of a batch, whose gradient is then in `gradients`; None where only the plain way gives it."""
        drawn = batch.drawn
        if drawn is None:
            drawn = drawn_for(self._objective, self._flow, batch, generator)
        if not isinstance(drawn, Regression):
            return None
        if drawn.network is not self._network:
            self._network, self._regressor = drawn.network, self._regressor_of(drawn.network)
        return None if self._regressor is None else self._regressor(_weighed(drawn, batch.weight))

    def _regressor_of(self, network: nn.Module) -> Callable[[Regression], Tensor] | None:
        offered: Any = network
        if not isinstance(offered, RegressionNetwork):
            return None
        if {id(p) for p in network.parameters()} != {id(p) for p in self._parameters}:
            return None
        return offered.regressor(dict(zip(self._parameters, self.gradients.parts, strict=True)), self._precision)


def _weighed(regression: Regression, weight: Tensor | None) -> Regression:
    """The regression whose plain mean is the mean loss of rows of these weights."""
    if weight is None:
        return regression
    share = weight * (len(weight) / total_weight(weight, regression.x.dtype))
    return replace(regression, weight=share if regression.weight is None else share * regression.weight)


def direct_for(
    objective: Objective, flow: nn.Module, parameters: Sequence[nn.Parameter], values: Flat, *, rounded: bool
) -> Direct | None:
    """Gradients without a graph; None where nothing of the kind may be asked for.

    Args:
        objective: See `Direct`, as the next three.
        flow: See there.
        parameters: See there.
        values: See there.
        rounded: Whether the arithmetic is that of bfloat16.
    """
    autocast = any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))
    if autocast or not isinstance(objective, RegressionObjective) or listened_to(flow):
        return None
    return Direct(objective, flow, parameters, values, torch.bfloat16 if rounded else values.whole.dtype)


def listened_to(flow: nn.Module) -> bool:
    """Whether anybody waits for the passes through a module of the flow, or for a gradient of its parameters."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, name, None) for module in flow.modules() for name in hooks):
        return True
    of_tensors = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return any(getattr(p, name, None) for p in flow.parameters() for name in of_tensors)
