"""Where the time of a training goes: by phase, since the last line, since the last checkpoint."""

import time

from advect.progress import Progress
from advect.training.state import TrainingState


class Phase:
    """Adds the time of a block to a clock's account; a class of its own because it runs several times a step."""

    __slots__ = ("account", "name", "started")

    def __init__(self, account: dict[str, float], name: str) -> None:
        self.account, self.name, self.started = account, name, 0.0

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.account[self.name] = self.account.get(self.name, 0.0) + time.perf_counter() - self.started


class Clock:
    """Keeps time by phase, the losses since the last line and the distance to the next line and checkpoint."""

    def __init__(self) -> None:
        now = time.perf_counter()
        self._account: dict[str, float] = {}
        self._started = self._line = self._checkpoint = self._settled = now
        self._first_step = self._line_step = 0
        self._line_losses: list[float] = []

    def start(self, step: int) -> None:
        """Begin to count at this step."""
        now = time.perf_counter()
        self._started = self._line = self._checkpoint = self._settled = now
        self._first_step = self._line_step = step

    def phase(self, name: str) -> Phase:
        """A block whose time goes to ``name``."""
        return Phase(self._account, name)

    def loss(self, value: float) -> None:
        """Take in the loss of a step."""
        self._line_losses.append(value)

    def since_line(self) -> float:
        """Seconds since the last `line`."""
        return time.perf_counter() - self._line

    def since_checkpoint(self) -> float:
        """Seconds since the last `checkpointed`."""
        return time.perf_counter() - self._checkpoint

    def checkpointed(self) -> None:
        """A checkpoint was written."""
        self._checkpoint = time.perf_counter()

    def running(self) -> float:
        """Seconds that are not yet in the run's total."""
        return time.perf_counter() - self._settled

    def settle(self, state: TrainingState) -> None:
        """Add the time since the last settlement to the run's total."""
        now = time.perf_counter()
        state.seconds += now - self._settled
        self._settled = now

    def line(self, step: int, steps: int, rows_per_step: int) -> Progress:
        """The state of the run since the last line."""
        now = time.perf_counter()
        rate = (step - self._line_step) / max(now - self._line, 1e-9)
        overall = self.rate(step)
        shares = self.shares()
        losses, self._line_losses = self._line_losses, []
        self._line, self._line_step = now, step
        return Progress(
            step=step,
            steps=steps,
            loss=sum(losses) / len(losses) if losses else float("nan"),
            rate=rate,
            rows_per_second=rate * rows_per_step,
            seconds_left=(steps - step) / overall if overall else float("nan"),
            shares=shares,
        )

    def rate(self, step: int) -> float:
        """Steps per second since the start."""
        return (step - self._first_step) / max(time.perf_counter() - self._started, 1e-9)

    def shares(self) -> dict[str, float]:
        """Where the time since the start went: each phase's share of it, and what belongs to none as ``other``."""
        total = max(time.perf_counter() - self._started, 1e-9)
        shares = {name: spent / total for name, spent in self._account.items()}
        return shares | {"other": max(0.0, 1.0 - sum(shares.values()))}
