"""Drawing new rows from a model, as the same kind of table it was trained on."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from advect.data import beside, joined, with_condition
from advect.errors import ConfigError
from advect.flows import Flow, on_schedule
from advect.paths import make_schedule
from advect.records import Table
from advect.run import Artefact
from advect.solvers import make_solver
from advect.training import generator_for
from advect.typing import Solver
from advect.workflows.autoguide import autoguided
from advect.workflows.growth import mass_gain, mass_name, with_mass
from advect.workflows.snapshots import needed_timeline
from advect.workflows.streams import SAMPLE

ROWS_AT_ONCE = 8192
NOTABLE_NOISE = 1e-3  # of the data's standard deviation; the same as in the preflight


@dataclass(frozen=True)
class SolverChoice:
    """How to integrate, where the run's own setting is not wanted.

    Attributes:
        name: Name of the solver; None keeps the run's.
        steps: Steps of a fixed-step solver.
        tolerance: Tolerance of an adaptive one.
        guidance: Weight w of classifier-free guidance, (1 + w)·conditional − w·unconditional.
        guidance_interval: Times between which it applies.
        schedule: Name of another schedule to run the model on, where it was trained on an affine path.
        noise: Strength of the noise of a stochastic solver, see `solvers.make_solver`.
        weak: A weaker model of the same rows; ``guidance`` then pushes away from it instead of from no condition.
    """

    name: str | None = None
    steps: int | None = None
    tolerance: float | None = None
    guidance: float = 0.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    schedule: str | None = None
    noise: float | None = None
    weak: Artefact | None = None

    @property
    def solves(self) -> bool:
        """Whether a solver is chosen."""
        return any(value is not None for value in (self.name, self.steps, self.tolerance, self.noise))

    def applied(self, artefact: Artefact) -> Flow:
        """The artefact's flow with this choice.

        Raises:
            ConfigError: Settings that contradict one another, guidance without a condition, or by a model that differs.
        """
        flow: Any = artefact.flow
        if self.weak is not None:
            guided = autoguided(artefact, self.weak, self.guidance, self.guidance_interval)
            flow = guided if self.guidance else flow  # of weight 0 it is the model itself, to the bit
        elif self.guidance:
            if artefact.condition is None:
                raise ConfigError(
                    "guidance needs a conditional model, and this one has no condition",
                    where="--guidance",
                    remedy="Train with --condition COLUMN.",
                )
            flow = flow.with_options(guidance=self.guidance, guidance_interval=self.guidance_interval)
        if not self.solves and self.schedule is None:
            return flow
        if flow.ode is None:
            raise ConfigError(
                "this model is made of discrete layers: there is no ODE to solve",
                where="--solver, --steps, --tol, --noise, --schedule",
                remedy="Leave them out; its samples are exact.",
            )
        if self.schedule is not None:
            flow = on_schedule(flow, make_schedule(self.schedule)).flow
        # On another schedule the stored solver would still read the old one.
        return flow.with_options(solver=self._solver(artefact, flow))

    def told(self, artefact: Artefact) -> tuple[str, ...]:
        """What a run on another schedule leaves out of the model, in sentences."""
        if self.schedule is None or artefact.flow.ode is None:
            return ()
        moved, notes = on_schedule(artefact.flow, make_schedule(self.schedule)), []
        if moved.start is not None:
            notes.append(
                f"{self.schedule} starts inside this model's path: from a normal of the same size, "
                f"{moved.start.gaussian:.2g} nats from the model's law there (KL of the Gaussian fit; at most "
                f"{moved.start.bound:.2g})."
            )
        if moved.left.source > NOTABLE_NOISE * moved.left.data:
            left = moved.left.source / moved.left.data
            notes.append(f"{self.schedule} ends with noise of {left:.2g} standard deviations left in the samples.")
        return tuple(notes)

    def _solver(self, artefact: Artefact, flow: Flow) -> Solver:
        """The solver for the field as it is now."""
        stored, field = artefact.config["sampling"], flow.split_at_ode("--solver")[1].field
        name, steps, tolerance = self.name, self.steps, self.tolerance
        if not self.solves or (name is None and self.noise is not None):
            name, steps = name or stored["solver"], steps or stored.get("steps")
            tolerance = tolerance or stored.get("tolerance")
        if name is None:
            # A number of steps or a tolerance alone says which kind of solver is meant.
            name = artefact.config["likelihood"]["solver"] if tolerance is not None else stored["solver"]
        schedule = getattr(field, "schedule", None)
        solver = make_solver(name, steps=steps, tolerance=tolerance, schedule=schedule, noise=self.noise)
        if getattr(solver, "stochastic", False) and not getattr(field, "has_score", False):
            raise ConfigError(
                f"{name} adds noise along the way, which needs the score; this model does not know it",
                where="--solver",
                remedy="Scores are known to models with a Gaussian source paired at random: fm, i-cfm, rf without "
                "--source, the diffusion rows, and sf2m.",
            )
        return solver


@dataclass(frozen=True)
class Generated:
    """New rows.

    Attributes:
        table: The rows, of the user's kind.
        nfe: Mean network evaluations per row.
        seconds: Time it took.
        usable: ``(rows,)`` bool: False for rows without a value (all their columns are gaps).
        notes: What the choice of sampler changes about the model's law.
    """

    table: Table
    nfe: float
    seconds: float
    usable: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> int:
        """How many rows have no value."""
        return int((~self.usable).sum())


def generate(
    artefact: Artefact,
    num_rows: int,
    *,
    condition: Any = None,
    choice: SolverChoice = SolverChoice(),
    seed: int = 0,
    at: Sequence[Any] = (),
) -> Generated:
    """Draw rows.

    Args:
        artefact: The model.
        num_rows: How many; with times so many at each, the same rows of the first time on their way.
        condition: Text or value for all rows, a table with one row each, or None (drawn as in training).
        choice: Solver and guidance.
        seed: Of every draw.
        at: Times of a run that has some; they need not be those of the data. They are told in the rows' column of
            times. By default the rows are those of the last time, and no time is told.

    Where the plan of the run makes and loses mass the rows have what they carry beside them, ``relative_mass``: all
    rows are there, and weighted by it they are the law of the model.

    Raises:
        AdvectError: A negative count, an unknown condition, a solver that does not exist, times for a run without any.
    """
    if not isinstance(num_rows, int | np.integer) or isinstance(num_rows, bool):
        raise ConfigError(f"the number of rows must be a whole number, not {num_rows!r}", where="-n")
    if num_rows < 1:
        raise ConfigError(f"the number of rows must be at least 1, not {num_rows}", where="-n")
    generator = generator_for(seed, SAMPLE)
    flow = choice.applied(artefact)
    vectors = condition_vectors(artefact, num_rows, condition, generator)
    started = time.perf_counter()
    if at:
        return _at_times(artefact, flow, num_rows, vectors, at, generator, choice)
    values, mass, nfe = _draw(artefact, flow, num_rows, vectors, generator)
    usable = torch.isfinite(values).reshape(num_rows, -1).all(1).numpy()
    table = artefact.codec.decode(values)
    if artefact.condition is not None and vectors is not None:
        table = with_condition(table, artefact.condition, vectors)
    table = with_mass(table, mass)
    return Generated(table, nfe, time.perf_counter() - started, usable, _notes(artefact, choice))


@torch.no_grad()
def _at_times(
    artefact: Artefact,
    flow: Flow,
    num_rows: int,
    vectors: Tensor | None,
    at: Sequence[Any],
    generator: Generator,
    choice: SolverChoice,
) -> Generated:
    """The same rows of the first time at each of some times, time after time."""
    timeline = needed_timeline(artefact, "--at")
    asked = [timeline.parse(one, where="--at") for one in at]
    places = [timeline.position(one) for one in asked]
    started = time.perf_counter()
    start = flow.base.sample(num_rows, vectors, generator=generator)
    drawn = [flow.with_options(interval=(0.0, place)).decode(start, vectors, generator=generator) for place in places]
    usable = [torch.isfinite(one.value).reshape(num_rows, -1).all(1) for one in drawn]
    column = timeline.column(np.repeat(np.array(asked), num_rows))
    dtype = "str" if column.dtype.kind == "O" else str(column.dtype)
    table = beside(joined([artefact.codec.decode(one.value) for one in drawn]), {timeline.key: column}, (dtype,))
    if artefact.condition is not None and vectors is not None:
        table = with_condition(table, artefact.condition, vectors.repeat(len(places), 1))
    gained = [mass_gain(artefact, start, 0.0, place, vectors) for place in places]
    known = [one for one in gained if one is not None]
    table = with_mass(table, np.concatenate(known) if known else None)
    nfe = sum(float(one.nfe.double().mean()) for one in drawn if one.nfe is not None) / len(drawn)
    return Generated(table, nfe, time.perf_counter() - started, torch.cat(usable).numpy(), _notes(artefact, choice))


def _notes(artefact: Artefact, choice: SolverChoice) -> tuple[str, ...]:
    """What the choice changes, and that rows do not count alike where mass is made and lost."""
    if not artefact.growth:
        return choice.told(artefact)
    return (
        *choice.told(artefact),
        f"The plan makes and loses mass: {mass_name(artefact)} says what each row carries. Weigh rows by it.",
    )


@torch.no_grad()
def _draw(
    artefact: Artefact, flow: Flow, num_rows: int, vectors: Tensor | None, generator: Generator
) -> tuple[Tensor, np.ndarray | None, float]:
    """Rows, the mass that they carry where some is made and lost, and evaluations per row."""
    values: Tensor | None = None
    masses: list[np.ndarray] = []
    evaluations = 0.0
    for first in range(0, num_rows, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, num_rows - first)
        block = None if vectors is None else vectors[first : first + count]
        start = flow.base.sample(count, block, generator=generator)
        drawn = flow.decode(start, block, generator=generator)
        mass = mass_gain(artefact, start, 0.0, 1.0, block)
        masses += [] if mass is None else [mass]
        if values is None:  # room for all rows, before the work that would fill it
            values = torch.empty((num_rows, *drawn.value.shape[1:]), dtype=drawn.value.dtype)
        values[first : first + count] = drawn.value
        if drawn.nfe is not None:
            evaluations += float(drawn.nfe.double().sum())
    assert values is not None
    return values, np.concatenate(masses) if masses else None, evaluations / num_rows


def condition_vectors(artefact: Artefact, num_rows: int, condition: Any, generator: Generator) -> Tensor | None:
    """The ``(num_rows, features)`` condition, or None for an unconditional model.

    Raises:
        ConfigError: A condition for a model without one, or the wrong number of rows.
    """
    codec = artefact.condition
    if codec is None:
        if condition is not None:
            raise ConfigError(
                "a condition was given, and this model has none",
                where="--condition",
                remedy="Train with --condition COLUMN first.",
            )
        return None
    if condition is None:
        return codec.draw(num_rows, generator).float()
    if isinstance(condition, Table):
        if condition.num_rows != num_rows:
            raise ConfigError(f"{condition.num_rows} conditions were given for {num_rows} rows", where="condition")
        return codec.encode(condition).float()
    return codec.parse(condition, num_rows).float()


def latent_table(latent: Tensor, names: tuple[str, ...]) -> Table:
    """Latent rows as a table of float64 columns."""
    flat = latent.reshape(latent.shape[0], -1).double().cpu().numpy()
    return Table(
        names=names,
        columns=tuple(np.ascontiguousarray(flat[:, i]) for i in range(flat.shape[1])),
        container="numpy",
        event_shape=(flat.shape[1],),
        dtypes=("float64",) * flat.shape[1],
        origin="latent",
    )
