"""The one loop: draw, pair, loss, step, average, validate, checkpoint, in this order, for every method.

The loop knows an objective, a flow and batches, and no method's name. What happens leaves through a `Sink`. Each phase
is a method and is timed, so that the live line can say where the time goes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advect.errors import AdvectError, DataError, TrainingError
from advect.records import Batch
from advect.training.average import WeightAverage
from advect.training.batches import BatchSource
from advect.training.clock import Clock
from advect.training.config import TrainingConfig
from advect.training.divergence import DivergenceWatch
from advect.training.pool import pooled
from advect.training.schedule import learning_rate
from advect.training.seeding import NETWORK, TRAINING, VALIDATION, generator_for
from advect.training.state import TrainingState
from advect.typing import Objective, Sink


@dataclass(frozen=True)
class Outcome:
    """How a call of `Trainer.run` ended.

    Attributes:
        finished: All steps were done (or the deadline closed the run); False after a request to stop.
        step: Steps done.
        best_value: Lowest validation loss (NaN without validation).
        best_step: Where it was.
        seconds: Training time over all continuations.
        reason: ``finished``, ``stopped`` or ``deadline``.
    """

    finished: bool
    step: int
    best_value: float
    best_step: int
    seconds: float
    reason: str


class Trainer:
    """Trains a flow on an objective.

    Args:
        flow: What is trained; its trainable parameters only.
        objective: Loss per row.
        batches: Training batches; where `TrainingConfig.pool` says so they are paired many at a time.
        validation: Validation batches, or None to keep the last averaged weights.
        config: Settings.
        sink: Where progress, metrics and checkpoints go.
        validation_batches: How many batches a validation takes.
    """

    def __init__(
        self,
        flow: nn.Module,
        objective: Objective,
        batches: BatchSource,
        config: TrainingConfig,
        sink: Sink,
        validation: BatchSource | None = None,
        validation_batches: int = 4,
    ) -> None:
        self.flow, self.objective, self.config, self.sink = flow, objective, config, sink
        self.batches = pooled(batches, config.pool, config.pool_uses, config.seed, config.steps)
        self.validation, self.validation_batches = validation, validation_batches
        parameters = [p for p in flow.parameters() if p.requires_grad]
        if not parameters:
            raise TrainingError("the flow has no trainable parameters", where="training")
        optimizer = torch.optim.AdamW(
            parameters,
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=all(p.device.type in ("cpu", "cuda") for p in parameters),
        )
        self.state = TrainingState(flow, optimizer, WeightAverage(flow, config.ema_decay))
        self.parameters = parameters
        # Their global generators are seeded and put back as the processor's is.
        self._accelerators = sorted({p.device.index for p in parameters if p.device.type == "cuda"})
        self._clock = Clock()
        self._watch = DivergenceWatch()
        self._cached_validation: list[Batch] | None = None

    # The run

    def run(self, *, stop: Callable[[], bool] = lambda: False, deadline: float | None = None) -> Outcome:
        """Train until all steps are done, ``stop()`` says so, or ``time.monotonic()`` passes ``deadline``.

        However it ends, the last good state is checkpointed; after the last step the best averaged weights are put
        into the flow.

        Raises:
            TrainingError: A loss or gradient was not finite: the step was not taken; the state before it is kept. Or
                the run diverges: the last state from before is kept.
        """
        reason = "finished"
        # Layers with randomness of their own (dropout) draw from torch's global generator: it is seeded per step and
        # the caller's state is put back afterwards.
        with torch.random.fork_rng(devices=self._accelerators):
            self.flow.train()
            self._clock.start(self.state.step)
            while self.state.step < self.config.steps:
                if stop():
                    reason = "stopped"
                    break
                if deadline is not None and time.monotonic() > deadline:
                    reason = "deadline"
                    break
                self._guarded_step()
                self._after_step()
            self.flow.eval()
            self._clock.settle(self.state)
            if reason != "stopped":
                self._validate()
            self._checkpoint()
        if reason != "stopped":
            self.state.use_best()
        state = self.state
        return Outcome(
            finished=reason != "stopped",
            step=state.step,
            best_value=state.best_value if state.best else float("nan"),
            best_step=state.best_step,
            seconds=state.seconds,
            reason=reason,
        )

    def time_steps(self, num_steps: int = 2) -> float:
        """Seconds per step, measured on ``num_steps`` steps whose effects are undone.

        Where batches are prepared beside the loop and that takes longer than its steps, the loop waits: so does this.
        """
        tensors = {k: v.clone() for k, v in self.state.tensors().items()}
        numbers = self.state.numbers()
        with torch.random.fork_rng(devices=self._accelerators):
            self.flow.train()
            self._train_step()  # the first step also pays for one-time set-up
            started = time.perf_counter()
            for _ in range(num_steps):
                self._train_step()
            seconds = (time.perf_counter() - started) / num_steps
        self.state.load(tensors, numbers)
        self._watch = DivergenceWatch()
        if not any(name.startswith("optimizer.") for name in tensors):
            self.state.optimizer.state.clear()
        self._clock = Clock()
        return max(seconds, self.batches.seconds_per_step())

    # One step

    def _guarded_step(self) -> None:
        """One step; rows or a pairing that cannot be used are told with the step, and the state before it is kept."""
        try:
            self._train_step()
        except AdvectError as error:
            if not isinstance(error, DataError | ArithmeticError):
                raise
            self._checkpoint()
            place = f"{self._place()}: {error.where}" if error.where else self._place()
            raise TrainingError(error.what, where=place, remedy=error.remedy) from error

    def _place(self) -> str:
        return f"step {self.state.step}, batch of {self.config.batch_size} rows"

    def _train_step(self) -> None:
        step = self.state.step
        generator = generator_for(self.config.seed, TRAINING, step)
        torch.manual_seed(generator_for(self.config.seed, NETWORK, step).initial_seed())

        batch = self.batches.draw(step, generator, self._clock.phase)
        with self._clock.phase("network"):
            with torch.autocast(batch.x1.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
                loss = self._mean_loss(batch, generator)
            self._backward(loss)
        with self._clock.phase("optimiser"):
            for group in self.state.optimizer.param_groups:
                group["lr"] = learning_rate(step, self.config)
            self.state.optimizer.step()
            self.state.step += 1
            self.state.average.update(self.state.step)
        value = loss.item()
        self._clock.loss(value)
        self._watch.see(value, step=self.state.step, learning_rate=self.config.learning_rate)

    def _mean_loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        loss = self.objective(self.flow, batch, generator=generator)
        if batch.weight is not None:
            # Where every row of the batch has weight zero the loss is zero, not 0/0.
            total = batch.weight.sum().clamp(min=torch.finfo(loss.dtype).tiny)
            return (loss * batch.weight).sum() / total
        return loss.mean()

    def _backward(self, loss: Tensor) -> None:
        """Gradients, clipped; anything non-finite stops the run before the weights change."""
        self.state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        limit = self.config.gradient_clip or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        if torch.isfinite(norm) and torch.isfinite(loss):
            return
        self.state.optimizer.zero_grad(set_to_none=True)
        self._checkpoint()
        what = "loss" if not torch.isfinite(loss) else "gradient"
        raise TrainingError(
            f"the {what} is not finite ({loss.item():.3g}); the step was not taken and the state before it is kept",
            where=self._place(),
            remedy="Lower the learning rate, look for extreme values in the data, or continue from the checkpoint "
            "with another seed.",
        )

    # Between steps

    def _after_step(self) -> None:
        state, config = self.state, self.config
        if state.step % config.validation_interval == 0 and state.step < config.steps:
            with self._clock.phase("validation"):
                self._validate()
        if self._clock.since_line() > 0.5 or state.step == config.steps:
            progress = self._clock.line(state.step, config.steps)
            self.sink.progress(progress)
        if self._clock.since_checkpoint() > config.checkpoint_seconds:
            self._clock.settle(state)
            self._checkpoint()

    @torch.no_grad()
    def _validate(self) -> None:
        """Loss of the averaged weights on fixed rows with fixed draws, so that two validations compare."""
        training, seconds = self._clock.mean_loss(), self.state.seconds + self._clock.running()
        values = {"train_loss": training, "learning_rate": learning_rate(self.state.step, self.config)}
        values |= {f"coupling_{k}": v for k, v in self.batches.report.items()}
        if self.validation is not None:
            if self._cached_validation is None:
                self._cached_validation = self._validation_batches(self.validation)
            self.flow.eval()
            with self.state.average.applied():
                losses = [
                    self._mean_loss(batch, generator_for(self.config.seed, VALIDATION, 1, index))
                    for index, batch in enumerate(self._cached_validation)
                ]
            self.flow.train()
            values["validation_loss"] = float(torch.stack(losses).mean())
            self.state.remember_best(values["validation_loss"])
        self.sink.metrics(self.state.step, values | {"seconds": seconds})

    def _validation_batches(self, validation: BatchSource) -> list[Batch]:
        result = []
        for index in range(self.validation_batches):
            generator = generator_for(self.config.seed, VALIDATION, 0, index)
            result.append(validation.draw(index, generator))
        return result

    def _checkpoint(self) -> None:
        if not self._watch.calm:  # what was kept before is better
            return
        self._watch.kept = self.state.step
        self._clock.checkpointed()
        self.sink.checkpoint(self.state.tensors(), self.state.numbers())
