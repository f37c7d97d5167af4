"""The one loop: draw, pair, loss, step, average, validate, checkpoint, in this order, for every method.

The loop knows an objective, a flow and batches, and no method's name. What happens leaves through a `Sink`. Each phase
is a method and is timed, so that the live line can say where the time goes.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn

from advect.errors import AdvectError, ConfigError, DataError, TrainingError
from advect.records import Batch
from advect.training.batches import BatchSource
from advect.training.blocks import in_blocks
from advect.training.clock import Clock
from advect.training.config import TrainingConfig
from advect.training.divergence import DivergenceWatch
from advect.training.half_lives import averages_of, check_averages, loss_columns
from advect.training.optimiser import FusedAdamW, gradient_norm
from advect.training.pool import pooled
from advect.training.probes import Probe, Probes
from advect.training.schedule import learning_rate
from advect.training.seeding import NETWORK, TRAINING, VALIDATION, generator_for, mix
from advect.training.shares import pieces_of, share_losses, total_weight
from advect.training.state import TrainingState
from advect.training.switches import check_switches, switched
from advect.training.workers import ALONE, LostWorkerError, Workers
from advect.typing import Objective, Sink

_REASONS = ("finished", "deadline", "stopped")


@dataclass(frozen=True)
class Outcome:
    """How a call of `Trainer.run` ended.

    Attributes:
        finished: All steps were done (or the deadline closed the run); False after a request to stop.
        step: Steps done.
        best_value: Lowest validation loss (NaN without validation).
        best_step: Where it was.
        half_life: Of the average it was of, in steps; None where half-lives were not asked for.
        seconds: Training time over all continuations.
        reason: ``finished``, ``stopped`` or ``deadline``.
        shares: Where the time of this call went: phase name to fraction.
    """

    finished: bool
    step: int
    best_value: float
    best_step: int
    seconds: float
    reason: str
    shares: Mapping[str, float] = field(default_factory=dict)
    half_life: float | None = None


class Trainer:
    """Trains a flow on an objective.

    Args:
        flow: What is trained; its trainable parameters only.
        objective: Loss per row.
        batches: Training batches; where `TrainingConfig.pool` says so they are paired many at a time, and where they
            are small they are drawn many at a time (`blocks`).
        validation: Validation batches, or None to keep the last averaged weights.
        config: Settings.
        sink: Where progress, metrics and checkpoints go.
        validation_batches: How many batches a validation takes.
        probes: What else is measured of the averaged weights at a few validations, within `TrainingConfig.probe_share`.
        workers: The processes that share the rows of every batch.
        note: Told in a sentence what a user should know, such as that a network could not be compiled.

    Raises:
        ConfigError: More processes than rows in a batch, a switch that is not for this flow, or several averages
            without validation rows to choose by.
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
        probes: Sequence[Probe] = (),
        workers: Workers = ALONE,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        check_switches(flow, objective, config)
        check_averages(config, validated=validation is not None)
        self._note = note
        self.flow, self.objective, self.config, self.sink = flow, objective, config, sink
        self.workers = workers
        if config.batch_size < workers.count:
            raise ConfigError(
                f"{workers.count} processes cannot share a batch of {config.batch_size} rows",
                where="batch_size",
                remedy="Start fewer processes, or give a larger --batch-size.",
            )
        pool = pooled(batches, config.pool, config.pool_uses, config.seed, config.steps)
        self.batches = in_blocks(pool, config.seed)
        self.validation, self.validation_batches = validation, validation_batches
        self.probes = Probes(probes, config.probe_share)
        parameters = [p for p in flow.parameters() if p.requires_grad]
        if not parameters:
            raise TrainingError("the flow has no trainable parameters", where="training")
        self.optimizer = FusedAdamW(
            parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )
        first, *further = averages_of(flow, config)
        self.state = TrainingState(flow, self.optimizer, first, further=further)
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
        with torch.random.fork_rng(devices=self._accelerators), self._switched():
            self.flow.train()
            self.workers.spread(list(self.state.tensors().values()))
            self._clock.start(self.state.step)
            self.probes.begin()
            while self.state.step < self.config.steps:
                reason = self._reason_to_leave(stop, deadline)
                if reason != "finished":
                    break
                self._guarded_step()
                self._after_step()
            self.flow.eval()
            self._clock.settle(self.state)
            if reason != "stopped" and self.state.validated != self.state.step:  # a continued run may be past it
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
            shares=self._clock.shares(),
            half_life=self.config.ema[state.best_average] if self.config.ema else None,
        )

    def time_steps(self, num_steps: int = 2) -> float:
        """Seconds per step, measured on ``num_steps`` steps whose effects are undone.

        Where batches are prepared beside the loop and that takes longer than its steps, the loop waits: so does this.
        """
        tensors = {k: v.clone() for k, v in self.state.tensors().items()}
        numbers = self.state.numbers()
        with torch.random.fork_rng(devices=self._accelerators), self._switched():
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

    def _switched(self) -> AbstractContextManager:
        return switched(self.flow, self.config, self.optimizer, self.state.averages, self._note)

    # One step

    def _guarded_step(self) -> None:
        """One step; rows or a pairing that cannot be used are told with the step, and the state before it is kept."""
        try:
            self._train_step()
        except LostWorkerError:
            self._checkpoint()
            raise
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
        self._seed_layers(step)

        batch = self.batches.draw(step, generator, self._clock.phase)
        if step == 0 and not self._whole(batch):
            self._first_look(batch, generator)
        with self._clock.phase("network"):
            gradients, loss = self._gradients(batch, generator)
        if self.workers.count > 1:
            with self._clock.phase("messages"):
                self.workers.add([*gradients, loss])
        with self._clock.phase("optimiser"):
            value = self._clipped(gradients, loss)
            self.optimizer.advance(learning_rate(step, self.config))
            self.state.step += 1
            for average in self.state.averages:
                average.update(self.state.step)
        self.state.take_loss(value)
        self.state.report = self.batches.report
        self._clock.loss(value)
        self._watch.see(value, step=self.state.step, learning_rate=self.config.learning_rate)

    def _seed_layers(self, step: int) -> None:
        """Seed torch's global generators for layers that draw from them.

        One by one: `torch.manual_seed` also keeps a note, with a stack trace, for every device that is not there yet.
        """
        seed = mix(self.config.seed, NETWORK, step)
        torch.default_generator.manual_seed(seed)
        for index in self._accelerators:
            torch.cuda.default_generators[index].manual_seed(seed)

    def _mean_loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        loss = self.objective(self.flow, batch, generator=generator)
        if batch.weight is not None:
            # Where every row of the batch has weight zero the loss is zero, not 0/0.
            return (loss * batch.weight).sum() / total_weight(batch.weight, loss.dtype)
        return loss.mean()

    def _losses(self, batch: Batch, generator: Generator, precision: AbstractContextManager) -> Iterator[Tensor]:
        """The mean loss of a batch, or what this process has of it, in shares that add up to it."""
        if self._whole(batch):
            with precision:
                loss = self._mean_loss(batch, generator)
            yield loss
        else:
            pieces = pieces_of(len(batch.x1), self.workers, self.config.microbatch)
            yield from share_losses(self.objective, self.flow, batch, generator, pieces, precision)

    def _whole(self, batch: Batch) -> bool:
        """Whether all rows of a batch pass through the network at once, here."""
        return self.workers.count == 1 and not 0 < self.config.microbatch < len(batch.x1)

    @torch.no_grad()
    def _first_look(self, batch: Batch, generator: Generator) -> None:
        """Show all rows of the first batch to layers that start from what they see, before any sees its share alone."""
        self._mean_loss(batch, torch.Generator(generator.device).set_state(generator.get_state()))
        self._seed_layers(self.state.step)
        self.workers.spread(list(self.state.tensors().values()))

    def _gradients(self, batch: Batch, generator: Generator) -> tuple[list[Tensor], Tensor]:
        """The gradients, which the parameters hold too, and the loss; of several processes this one's part of them."""
        for parameter in self.parameters:
            parameter.grad = None
        shares = []
        for loss in self._losses(batch, generator, self._precision(batch)):
            loss.backward()
            shares.append(loss.detach())
        loss = shares[0] if len(shares) == 1 else torch.stack(shares).sum()
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None], loss

    def _clipped(self, gradients: list[Tensor], loss: Tensor) -> float:
        """The loss, once gradients are clipped; anything non-finite stops the run before the weights change."""
        norm = gradient_norm(gradients)
        # The one place where the loop waits for an accelerator.
        value, size = torch.stack([loss.to(norm.dtype), norm]).tolist()
        if math.isfinite(value) and math.isfinite(size):
            share = self.config.gradient_clip / (size + 1e-6)  # as in `torch.nn.utils.clip_grad_norm_`
            if self.config.gradient_clip and share < 1:
                torch._foreach_mul_(gradients, share)
            return value
        self.state.optimizer.zero_grad(set_to_none=True)
        self._checkpoint()
        what = "loss" if not math.isfinite(value) else "gradient"
        raise TrainingError(
            f"the {what} is not finite ({value:.3g}); the step was not taken and the state before it is kept",
            where=self._place(),
            remedy="Lower the learning rate, look for extreme values in the data, or continue from the checkpoint "
            "with another seed.",
        )

    def _precision(self, batch: Batch) -> AbstractContextManager:
        """The arithmetic of the training loss."""
        if self.config.precision == "bfloat16":
            return torch.autocast(batch.x1.device.type, torch.bfloat16)
        return nullcontext()

    # Between steps

    def _reason_to_leave(self, stop: Callable[[], bool], deadline: float | None) -> str:
        """``stopped`` or ``deadline`` as soon as one of the processes has that reason, else ``finished``."""
        late = deadline is not None and time.monotonic() > deadline
        return _REASONS[self.workers.largest(2 if stop() else int(late))]

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
        """Loss and figures of the averaged weights, with fixed draws, so that two validations compare."""
        training, seconds = self.state.mean_loss(), self.state.seconds + self._clock.running()
        values = {"train_loss": training, "learning_rate": learning_rate(self.state.step, self.config)}
        values |= {f"coupling_{k}": v for k, v in self.state.report.items()}
        interval = self.config.validation_interval
        due = self.probes.due(self.state.step, (self.state.step - 1) // interval * interval, self.config.steps)
        if self.validation is not None or due:
            self.flow.eval()
            losses: list[float] = [] if self.validation is None else self._validation_losses(self.validation)
            usable = [math.inf if math.isnan(loss) else loss for loss in losses]
            which = usable.index(min(usable)) if usable else 0
            if losses:
                self.state.remember_best(losses[which], which)
                values |= {"validation_loss": losses[which]} | loss_columns(self.config.ema, losses)
            if due:
                with self.state.averages[which].applied():
                    values |= self.probes.measure()
            self.flow.train()
        self.sink.metrics(self.state.step, values | {"seconds": seconds})
        self.state.validated = self.state.step

    def _validation_losses(self, validation: BatchSource) -> list[float]:
        """The loss of every average."""
        losses = []
        for average in self.state.averages:
            with average.applied():
                losses.append(self._validation_loss(validation))
        return losses

    def _validation_loss(self, validation: BatchSource) -> float:
        if self._cached_validation is None:
            self._cached_validation = self._validation_batches(validation)
        losses = torch.stack(
            [
                torch.stack([*self._losses(batch, generator, nullcontext())]).sum()
                for batch, generator in zip(self._cached_validation, self._validation_draws(1), strict=True)
            ]
        )
        self.workers.add([losses])
        return float(losses.mean())

    def _validation_batches(self, validation: BatchSource) -> list[Batch]:
        return [validation.draw(index, generator) for index, generator in enumerate(self._validation_draws(0))]

    def _validation_draws(self, stream: int) -> list[Generator]:
        """The same generators in every validation: of the rows (0) and of the losses (1)."""
        return [generator_for(self.config.seed, VALIDATION, stream, index) for index in range(self.validation_batches)]

    def _checkpoint(self) -> None:
        if not self._watch.calm:  # what was kept before is better
            return
        self._watch.kept = self.state.step
        self._clock.checkpointed()
        self.sink.checkpoint(self.state.tensors(), self.state.numbers())
