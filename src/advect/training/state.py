"""Everything that decides how training goes on: weights, averages, optimiser, position, best so far.

The state is a flat dictionary of tensors (for safetensors) and a dictionary of plain numbers (for JSON), so that a
checkpoint holds data and never code. Draws need no state: they depend on the step (see `seeding`).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from advect.errors import TrainingError
from advect.training.average import WeightAverage
from advect.training.scaling import LossScale


@dataclass
class TrainingState:
    """The changing part of a training run.

    Attributes:
        module: What is trained.
        optimizer: Its optimiser.
        average: Its averaged weights.
        further: Other averages of them.
        step: Optimiser steps done.
        best_value: Lowest validation loss so far.
        best_step: Where it was.
        best: The averaged weights there.
        best_average: Of which average, counted from 0.
        scale: Of the loss.
        seconds: Training time so far, over all continuations.
        loss_total: Sum of the losses of the steps since the last validation.
        loss_steps: How many they are.
        report: What the coupling said of its last plan.
        validated: The step of the last validation; -1 before the first.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage
    step: int = 0
    best_value: float = float("inf")
    best_step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    loss_total: float = 0.0
    loss_steps: int = 0
    report: dict[str, float] = field(default_factory=dict)
    validated: int = -1
    further: list[WeightAverage] = field(default_factory=list)
    best_average: int = 0
    scale: LossScale = field(default_factory=lambda: LossScale(dynamic=False))

    @property
    def averages(self) -> list[WeightAverage]:
        """All of them."""
        return [self.average, *self.further]

    def take_loss(self, value: float) -> None:
        """Take in the loss of a step."""
        self.loss_total += value
        self.loss_steps += 1

    def mean_loss(self) -> float:
        """Mean since the last call (NaN when there was no step)."""
        mean = self.loss_total / self.loss_steps if self.loss_steps else float("nan")
        self.loss_total, self.loss_steps = 0.0, 0
        return mean

    def remember_best(self, value: float, which: int = 0) -> bool:
        """Keep the weights of this average if ``value`` is the lowest validation loss so far."""
        if not value < self.best_value:
            return False
        self.best_value, self.best_step, self.best_average = value, self.step, which
        self.best = {name: tensor.clone() for name, tensor in self.averages[which].tensors().items()}
        return True

    @torch.no_grad()
    def use_best(self) -> None:
        """Put the best averaged weights (or, without validation, the last ones) into the module."""
        chosen = self.best or self.average.tensors()
        for name, parameter in self.module.named_parameters():
            if name in chosen:
                parameter.copy_(chosen[name])

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, detached; what `load` takes."""
        result = {f"model.{k}": v.detach() for k, v in self.module.state_dict().items()}
        for part, average in self._average_parts():
            result |= {f"{part}.{k}": v for k, v in average.tensors().items()}
        result |= {f"best.{k}": v for k, v in self.best.items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            for key, value in entry.items():
                result[f"optimizer.{index}.{key}"] = torch.as_tensor(value).detach()
        return result

    def _average_parts(self) -> list[tuple[str, WeightAverage]]:
        """The averages with what their tensors are called: the first is what a run with only one has."""
        return [(f"average{index or ''}", average) for index, average in enumerate(self.averages)]

    def numbers(self) -> dict[str, object]:
        """All plain numbers."""
        result: dict[str, object] = {
            "step": self.step,
            "best_value": self.best_value if self.best else None,
            "best_step": self.best_step,
            "seconds": self.seconds,
            "loss_total": self.loss_total,
            "loss_steps": self.loss_steps,
            "report": dict(self.report),
            "validated": self.validated,
            "best_average": self.best_average,
        }
        return result | {"scale": self.scale.numbers()} if self.scale.dynamic else result

    def load(self, tensors: dict[str, Tensor], numbers: dict[str, object]) -> None:
        """Restore what `tensors` and `numbers` gave.

        Raises:
            TrainingError: The checkpoint does not fit this model.
        """
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "best": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        try:
            self.module.load_state_dict(parts["model"])
            for part, average in self._average_parts():
                average.load(parts[part])
            self._load_optimizer(parts["optimizer"])
            self.best = {k: v.clone() for k, v in parts["best"].items()}
            self.step, self.best_step = int(str(numbers["step"])), int(str(numbers["best_step"]))
            best = numbers.get("best_value")
            self.best_value = float("inf") if best is None else float(str(best))
            self.seconds = float(str(numbers.get("seconds", 0.0)))
            # Checkpoints of the first version did not have these; the next mean is then of fewer steps.
            self.loss_total = float(str(numbers.get("loss_total", 0.0)))
            self.loss_steps = int(str(numbers.get("loss_steps", 0)))
            report = numbers.get("report")
            self.report = {k: float(v) for k, v in report.items()} if isinstance(report, dict) else {}
            self.validated = int(str(numbers.get("validated", -1)))
            self.best_average = int(str(numbers.get("best_average", 0)))
            scale = numbers.get("scale")
            self.scale.load(scale if isinstance(scale, dict) else {})
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise TrainingError(
                f"the checkpoint does not fit the model ({error})", remedy="Start afresh with --restart."
            ) from error

    def _load_optimizer(self, tensors: dict[str, Tensor]) -> None:
        entries: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            index, key = name.split(".", 1)
            entries.setdefault(int(index), {})[key] = tensor.clone()
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups})
