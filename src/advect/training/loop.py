"""The one loop: draw, pair, loss, step, average, validate, checkpoint, in this order, for every method.

The loop knows an objective, a flow and batches, and no method's name. What happens leaves through a `Sink`. Each phase
is a method and is timed, so that the live line can say where the time goes.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import Generator, Tensor, nn

from advect.errors import AdvectError, ConfigError, DataError, TrainingError
from advect.records import Batch
from advect.training.agreement import Agreed, agree, shares_of_all
from advect.training.ahead import drawn_ahead
from advect.training.batches import BatchSource
from advect.training.blocks import in_blocks
from advect.training.clock import Clock
from advect.training.config import TrainingConfig
from advect.training.direct import Direct, drawn_for, may_go_without
from advect.training.divergence import DivergenceWatch, not_finite
from advect.training.flat import Flat, can_be_flat
from advect.training.half_lives import averages_of, check_averages, loss_columns
from advect.training.optimiser import FusedAdamW, gradient_norm
from advect.training.outcome import Outcome, outcome_of
from advect.training.pool import pooled
from advect.training.probes import Probe, Probes
from advect.training.scaling import LossScale, check_float16, multiply
from advect.training.schedule import learning_rate
from advect.training.seeding import TRAINING, generator_for, seed_layers
from advect.training.sharding import spread_over
from advect.training.shares import mean_loss, pieces_of, share_losses
from advect.training.state import TrainingState
from advect.training.switches import arithmetic, check_switches, switched
from advect.training.validation import Validation
from advect.training.work import Work
from advect.training.workers import ALONE, LostWorkerError, Workers
from advect.typing import Objective, PartSink, Sink


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
        parts: Where checkpoints go in place of the sink, a part from every process.
        note: Told in a sentence what a user should know, such as that a network could not be compiled.

    Raises:
        ConfigError: More processes than rows in a batch, weights that cannot be spread over them as asked, a switch
            that is not for this flow, or several averages without validation rows to choose by.
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
        parts: PartSink | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        check_switches(flow, objective, config)
        check_averages(config, validated=validation is not None)
        self._note = note
        self.objective, self.config, self.sink, self.parts = objective, config, sink, parts
        self.workers = workers
        if config.batch_size < workers.count:
            raise ConfigError(
                f"{workers.count} processes cannot share a batch of {config.batch_size} rows",
                where="batch_size",
                remedy="Start fewer processes, or give a larger --batch-size.",
            )
        self.shards = spread_over(flow, objective, config, workers)
        self.flow = flow if self.shards is None else self.shards.flow
        pool = pooled(batches, config.pool, config.pool_uses, config.seed, config.steps)
        # All that is random about many steps at once, where each row is drawn by itself.
        draw = partial(drawn_for, objective, self.flow) if getattr(objective, "rowwise", False) else None
        blocks = in_blocks(pool, config.seed, config.steps, draw, ahead=config.draws_ahead)
        self.batches = drawn_ahead(blocks, config.seed, config.steps)
        trained = flow if self.shards is None else self.shards.held
        # Probes look at the model as a whole, and where the weights are spread out there is none.
        self.probes = Probes(probes if self.shards is None else (), config.probe_share)
        parameters = [p for p in trained.parameters() if p.requires_grad]
        if not parameters:
            raise TrainingError("the flow has no trainable parameters", where="training")
        self.optimizer = FusedAdamW(
            parameters, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
        )
        self.parameters = parameters
        # Where weights are spread out, or laid out in another order, they lie in buffers of their own.
        apart = self.shards is not None or config.channels_last or not can_be_flat(parameters)
        self.values = None if apart else Flat(parameters)
        self._lay_flat()
        first, *further = averages_of(trained, config, self.values)
        scale = LossScale(dynamic=config.precision == "float16")
        if scale.dynamic:
            check_float16(parameters[0].device, note)
        self.state = TrainingState(trained, self.optimizer, first, further=further, scale=scale)
        self._graphless = self._direct = (
            None
            # Elsewhere it was never tried, and no scale goes through it.
            if self.values is None or not self.values.whole.is_cpu or scale.dynamic
            else Direct(objective, flow, parameters, self.values, rounded=config.precision == "bfloat16")
        )
        # Their global generators are seeded and put back as the processor's is.
        self._accelerators = sorted({p.device.index for p in parameters if p.device.type == "cuda"})
        self._clock = Clock()
        self.work = Work(parameters[0].device, config.precision)
        self._watch = DivergenceWatch()
        self.validation: Validation | None = None
        if validation is not None:
            exactly = partial(self._losses, precision=nullcontext())
            self.validation = Validation(self.flow, objective, validation, validation_batches, config, exactly, workers)

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
            self._make_ready()
            self._spread()
            self._clock.start(self.state.step)
            self.probes.begin()
            while self.state.step < self.config.steps:
                seconds = self.config.checkpoint_seconds
                agreed = agree(self.workers, self._clock, stop=stop, deadline=deadline, checkpoint_seconds=seconds)
                reason = agreed.reason
                if reason != "finished":
                    break
                with self.work.counted():
                    self._guarded_step()
                self._after_step(agreed)
            self.flow.eval()
            self._clock.settle(self.state)
            if reason != "stopped" and self.state.validated != self.state.step:  # a continued run may be past it
                self._validate()
            self._checkpoint(last=True)
        if reason != "stopped":
            self.state.use_best()
            if self.shards is not None:
                self.shards.restore()
        of_peak = self.work.share(self._clock.rate(self.state.step))
        return outcome_of(self.state, self.config.ema, reason, self._clock.shares(), of_peak)

    def time_steps(self, num_steps: int = 2) -> float:
        """Seconds per step, measured on ``num_steps`` steps whose effects are undone.

        Where batches are prepared beside the loop and that takes longer than its steps, the loop waits: so does this.
        """
        tensors = {k: v.clone() for k, v in self.state.tensors().items()}
        numbers = self.state.numbers()
        with torch.random.fork_rng(devices=self._accelerators), self._switched():
            self._make_ready()
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
        return self.batches.step_seconds(seconds)

    def _make_ready(self) -> None:
        """What may have changed since the last run: where the weights lie, who listens to the passes."""
        self.flow.train()
        self._lay_flat()
        whole = self.workers.count == 1 and not 0 < self.config.microbatch < self.config.batch_size
        whole = whole and not self.config.compile  # which was asked for
        self._direct = self._graphless if whole and may_go_without(self.flow, self.parameters) else None
        for part in filter(None, (self._direct, self.validation)):
            part.look_again()

    def _lay_flat(self) -> None:
        if self.values is not None and not self.values.holds(self.parameters):
            self.values.take_in(self.parameters)

    def _switched(self) -> AbstractContextManager:
        return switched(self.flow, self.config, self.optimizer, self.state.averages, self._note)

    # One step

    def _guarded_step(self) -> None:
        """One step; rows or a pairing that cannot be used are told with the step, and the state before it is kept."""
        try:
            with self.workers.heard():
                self._train_step()
        except LostWorkerError:
            if self.parts is None:  # a part of a checkpoint is none
                self._checkpoint()
            raise
        except AdvectError as error:
            if not isinstance(error, DataError | ArithmeticError):
                self._settle()
                raise
            self._checkpoint(last=True)
            place = f"{self._place()}: {error.where}" if error.where else self._place()
            raise TrainingError(error.what, where=place, remedy=error.remedy) from error

    def _place(self) -> str:
        return f"step {self.state.step}, batch of {self.config.batch_size} rows"

    def _train_step(self) -> None:
        step = self.state.step
        generator = generator_for(self.config.seed, TRAINING, step)
        batch = self.batches.draw(step, generator, self._clock.phase)
        if step == 0 and self.shards is None and not self._whole(batch):
            seed_layers(self.config.seed, step, self._accelerators)
            self._first_look(batch, generator)
        with self._clock.phase("network"):
            gradients, loss, flat = self._gradients(batch, generator)
        if self.workers.count > 1:
            with self._clock.phase("messages"):
                self.workers.add([*(gradients if self.shards is None else self.shards.apart()), loss])
        with self._clock.phase("optimiser"):
            value, factor = self._checked(gradients, loss)
            self.state.step += 1
            self.state.report = self.batches.report
            if value is None:  # skipped
                return
            self._advance(gradients, factor, flat)
        self.state.take_loss(value)
        self._clock.loss(value)
        self._watch.see(value, step=self.state.step, learning_rate=self.config.learning_rate)

    def _losses(self, batch: Batch, generator: Generator, precision: AbstractContextManager) -> Iterator[Tensor]:
        """The mean loss of a batch, or what this process has of it, in shares that add up to it."""
        if self._whole(batch):
            with precision:
                loss = mean_loss(self.objective, self.flow, batch, generator)
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
        mean_loss(self.objective, self.flow, batch, torch.Generator(generator.device).set_state(generator.get_state()))
        seed_layers(self.config.seed, self.state.step, self._accelerators)
        self._spread()

    def _spread(self) -> None:
        """Give all processes the leader's state; where it is spread out each has read its own part of the same."""
        if self.shards is None and self.workers.count > 1:
            self.workers.spread(list(self.state.tensors().values()))

    def _gradients(self, batch: Batch, generator: Generator) -> tuple[list[Tensor], Tensor, Direct | None]:
        """The gradients and the loss; of several processes this one's part of them.

        The parameters hold the gradients too, or, where objective and network know them without a graph, `Direct` does.
        """
        if self._direct is not None:
            loss = self._direct.loss(batch, generator)
            if loss is not None:  # and no layer has drawn anything
                return [self._direct.gradients.whole], loss, self._direct
        seed_layers(self.config.seed, self.state.step, self._accelerators)
        for parameter in self.parameters:
            parameter.grad = None
        shares = []
        for loss in self._losses(batch, generator, arithmetic(self.config.precision, batch.x1.device)):
            self.state.scale.scaled(loss).backward()
            shares.append(loss.detach())
        loss = shares[0] if len(shares) == 1 else torch.stack(shares).sum()
        if self.shards is not None:
            return self.shards.collect(), loss, None
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None], loss, None

    def _checked(self, gradients: list[Tensor], loss: Tensor) -> tuple[float | None, float]:
        """The loss, and by what to multiply gradients so that they are clipped; anything non-finite stops the run
        before the weights change, or, where the loss is scaled, has the step skipped: None."""
        norm = gradient_norm(gradients) if self.shards is None else self.shards.norm()
        # The one place where the loop waits for an accelerator, which is asked once.
        value, size = (loss.item(), norm.item()) if norm.is_cpu else torch.stack([loss.to(norm.dtype), norm]).tolist()
        if math.isfinite(value) and math.isfinite(size):
            return value, self.state.scale.factor(size, self.config.gradient_clip)
        if self.state.scale.skip():
            return None, 1.0
        self.state.optimizer.zero_grad(set_to_none=True)
        self._checkpoint(last=True)
        raise not_finite(value, self._place(), self.config.precision)

    def _advance(self, gradients: list[Tensor], factor: float, flat: Direct | None) -> None:
        """Weights and averages after the step that was counted last, by gradients times ``factor``."""
        step, averages = self.state.step, self.state.averages
        rate = learning_rate(step - 1, self.config)
        if flat is not None:
            self.optimizer.advance_flat(rate, flat.values, flat.gradients, factor, averages, step)
            return
        multiply(gradients, factor)
        self.optimizer.advance(rate)
        for average in averages:
            average.update(step)

    # Between steps

    def _after_step(self, agreed: Agreed) -> None:
        state, config = self.state, self.config
        if state.step % config.validation_interval == 0 and state.step < config.steps:
            with self._clock.phase("validation"):
                self._validate()
        if agreed.line or state.step == config.steps:
            progress = self._clock.line(state.step, config.steps, config.batch_size)
            processes = shares_of_all(self.workers, progress.shares)
            of_peak, memory = self.work.share(progress.rate), self.work.memory()
            told = {"processes": processes, "skipped": state.scale.skipped, "product_share": of_peak, "memory": memory}
            self.sink.progress(replace(progress, **told))
        if self.parts is not None:
            self.parts.settle()
        if agreed.checkpoint:
            self._clock.settle(state)
            self._checkpoint()

    @torch.no_grad()
    def _validate(self) -> None:
        """Loss and figures of the averaged weights, with fixed draws, so that two validations compare."""
        training, seconds = self.state.mean_loss(), self.state.seconds + self._clock.running()
        values = {"train_loss": training, "learning_rate": learning_rate(self.state.step, self.config)}
        values |= {f"coupling_{k}": v for k, v in self.state.report.items()} | self.state.scale.columns()
        interval = self.config.validation_interval
        due = self.probes.due(self.state.step, (self.state.step - 1) // interval * interval, self.config.steps)
        if self.validation is not None or due:
            self.flow.eval()
            losses = [] if self.validation is None else self._validation_losses(self.validation)
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

    def _validation_losses(self, validation: Validation) -> list[float]:
        """The loss of every average."""
        losses = []
        for average in self.state.averages:
            with average.applied():
                losses.append(validation.loss())
            if self.shards is not None:
                self.shards.gather_anew()
        return losses

    def _checkpoint(self, *, last: bool = False) -> None:
        """Keep the state; the last one is on the disk when this returns."""
        if self._watch.calm:  # else what was kept before is better
            self._watch.kept = self.state.step
            self._clock.checkpointed()
            tensors, numbers = self.state.tensors(), self.state.numbers()
            if self.parts is None:
                self.sink.checkpoint(tensors, numbers)
            else:
                self.parts.begin(tensors, {} if self.shards is None else self.shards.windows(tensors), numbers)
        if last:
            self._settle()

    def _settle(self) -> None:
        """Wait until the last checkpoint counts."""
        if self.parts is not None:
            self.parts.settle(wait=True)
