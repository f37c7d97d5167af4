"""How to train: one frozen record whose every field is used by the loop."""

import math
from dataclasses import dataclass

from advect.errors import ConfigError, unknown_name

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of the loop.

    Attributes:
        steps: Optimiser steps in all.
        batch_size: Rows per step.
        learning_rate: Peak rate of AdamW.
        warmup_steps: Linear warm-up from 0; at most a tenth of all steps.
        decay: ``cosine`` (to 0 at the last step) or ``constant``.
        weight_decay: AdamW's decoupled weight decay.
        betas: AdamW's moment decays.
        gradient_clip: Largest gradient norm; 0 switches clipping off.
        ema_decay: Decay of the averaged weights per step; smaller at the start (see `average`).
        ema: Half-lives, in steps, of averages that are kept side by side in place of that of ``ema_decay``; the one
            with the lowest validation loss is used (see `half_lives`).
        validation_every: Steps between validations; 0 chooses a fiftieth of all steps, at least 50.
        checkpoint_seconds: Time between checkpoints.
        pool: Batches that the coupling pairs together, prepared beside the loop; 1 pairs each by itself, 0 as many as
            hold the whole data set.
        pool_uses: Times that the pairs of a pool are gone through before the next; 0 pairs once for the whole training.
        microbatch: Rows that pass through the network at once, where memory is scarce; the gradients of a batch are
            those of its parts added up. 0 takes all rows of a batch together.
        precision: Of the arithmetic of the training loss: ``float32``, or ``bfloat16`` or ``float16`` where torch's
            autocast finds it safe, which halves the time of convolutions on many machines. Weights, gradients and
            validation are float32. With float16 the loss is scaled, and steps may be skipped (see `scaling`).
        shard: Spread weights, averages and moments over the processes that share a training, so that a larger network
            fits (see `sharding`); one process alone holds all. Checkpoints are then written in parts, one a process.
        channels_last: Weights of convolutions lie pixel by pixel in memory (`switches`).
        compile: The networks are compiled before the first step, which takes up to minutes and pays in long trainings.
        checkpoint: The insides of blocks are computed again on the way back and not kept, where memory is scarce.
        draws_ahead: Small batches that a coupling looks at are paired, and all that is random about losses is drawn,
            for many steps at once. Runs begun before this setting go on without it, with the draws they would have
            had.
        probe_share: The share of the training time that figures of the weights on the way may take, see `probes`; 0
            measures none.
        seed: Of every draw the loop makes.
    """

    steps: int = 5000
    batch_size: int = 256
    learning_rate: float = 1e-3
    warmup_steps: int = 200
    decay: str = "cosine"
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    ema: tuple[float, ...] = ()
    validation_every: int = 0
    checkpoint_seconds: float = 15.0
    pool: int = 1
    pool_uses: int = 1
    microbatch: int = 0
    precision: str = "float32"
    shard: bool = False
    channels_last: bool = False
    compile: bool = False
    checkpoint: bool = False
    draws_ahead: bool = True
    probe_share: float = 0.03
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"this must be at least 1, not {getattr(self, name)}", where=name)
        for name in (
            "warmup_steps",
            "weight_decay",
            "gradient_clip",
            "validation_every",
            "checkpoint_seconds",
            "pool",
            "pool_uses",
            "microbatch",
            "seed",
        ):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"this must not be negative, not {getattr(self, name)}", where=name)
        if self.pool_uses == 0 and self.pool != 0:
            raise ConfigError(
                f"pool_uses 0 pairs once for all steps, and a pool of {self.pool} is not the whole data set: the other "
                "rows would never be seen",
                where="pool_uses",
                remedy="Give pool=0 too, or a number of uses.",
            )
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"this must be positive, not {self.learning_rate}", where="learning_rate")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas are two numbers in [0, 1), not {self.betas}", where="betas")
        if not all(0 < half_life < math.inf for half_life in self.ema) or len(set(self.ema)) < len(self.ema):
            raise ConfigError(
                f"ema are half-lives in steps, above 0 and all different, not {list(self.ema)}",
                where="ema",
                remedy="Give for instance [50, 500, 5000].",
            )
        if self.ema and self.ema_decay != TrainingConfig.ema_decay:
            raise ConfigError(
                "ema and ema_decay both say how long averages remember", where="ema", remedy="Give one of them."
            )
        for name in ("ema_decay", "probe_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} lies between 0 and 1, not {getattr(self, name)}", where=name)
        if self.decay not in ("cosine", "constant"):
            raise ConfigError(
                f"decay {self.decay!r} is not known", where="decay", remedy="Choose 'cosine' or 'constant'."
            )

        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS, where="precision")

    @property
    def validation_interval(self) -> int:
        """Steps between validations."""
        return self.validation_every or max(50, self.steps // 50)
