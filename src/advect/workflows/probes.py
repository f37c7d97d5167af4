"""What is measured while a run trains: cheap figures of the averaged weights, each beside what to judge it by.

- energy distance: few samples in few evaluations against as many validation rows, beside real rows against real rows;
- log-likelihood of few validation rows where it takes no solver, beside a Gaussian fit;
- regression gap on points drawn once, where the exact field of the training rows is known.

They are coarser than the figures after training, whose rows are more and whose solver is measured, and are for
comparison with one another: every moment has the same rows and the same noise.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from advect.couplings import Growth
from advect.data import take_rows
from advect.errors import AdvectError, UnsupportedError
from advect.evaluation import energy_distance, noise_floor
from advect.evaluation.regression_gap import FieldPoints
from advect.flows import EmpiricalField, Flow, schedule_with_score
from advect.run import Artefact
from advect.solvers import Adaptive, make_solver
from advect.training import DataRows, Probe, Snapshots, generator_for
from advect.typing import Solver
from advect.workflows.grown import SPARE
from advect.workflows.growth import growth_of
from advect.workflows.held_out import coded_latent, gaussian_scores
from advect.workflows.prepare import Prepared
from advect.workflows.score import coding_draws, combine
from advect.workflows.weighted import kept

PROBE = 18  # the stream of `generator_for`
ROWS, FEWEST_ROWS, NUMBERS = 512, 32, 2**16  # of a probe, the fewest worth measuring, and rows × coordinates
STEPS, TOLERANCE = 12, 1e-2  # of the solver that draws
# Products between points and training rows, coordinate by coordinate: a tenth of a second, once.
EFFORT = 200_000_000


@dataclass(frozen=True)
class Figure:
    """One figure on the way: the names in a line of ``metrics.jsonl``, and the words for them.

    Attributes:
        key: Its value.
        words: What it is.
        level: What it is judged by; empty where nothing is.
        level_words: What that is.
        spread: The standard deviation of that; empty where there is none.
        rises: Whether larger is better.
    """

    key: str
    words: str
    level: str = ""
    level_words: str = ""
    spread: str = ""
    rises: bool = False


FIGURES = (
    Figure("energy_distance", "energy distance", "energy_distance_floor", "real rows", "energy_distance_spread"),
    Figure("log_likelihood", "log-likelihood, nats per row", "log_likelihood_gaussian", "Gaussian fit", rises=True),
    Figure("regression_gap", "regression gap"),
)


class SampleDistance:
    """Energy distance of samples to validation rows, in latent coordinates.

    Args:
        flow: From the source to latent coordinates.
        real: ``(rows, *event)`` validation rows.
        reference: ``(more rows, *event)`` training rows, for the floor.
        condition: ``(rows, *condition)`` of the validation rows, under which samples are drawn.
        solver: Of the ODE, if there is one.
        seed: Of every draw.
        growth: Of each interval, where the plan makes and loses mass: samples then count by what they carry.
        places: Where the intervals end on the flow's axis.
    """

    def __init__(
        self,
        flow: Flow,
        real: Tensor,
        reference: Tensor,
        *,
        condition: Tensor | None = None,
        solver: Solver | None = None,
        seed: int = 0,
        growth: Sequence[Growth] = (),
        places: Sequence[float] = (0.0, 1.0),
    ) -> None:
        self.flow, self.condition, self.solver, self.seed = flow, condition, solver, seed
        self.growth, self.places = growth, places
        self.rows, self.real = len(real), _flat(real)
        pool = torch.cat([self.real, _flat(reference)])
        self.floor = noise_floor(energy_distance, pool, generator=generator_for(seed, PROBE, 1), size=self.rows)

    def __call__(self, rows: int) -> Mapping[str, float]:
        """Samples from one and the same noise at every call."""
        flow = self.flow if self.solver is None else self.flow.with_options(solver=self.solver).eval()
        given = None if self.condition is None else self.condition[:rows]
        generator = generator_for(self.seed, PROBE, 2)
        if self.growth:
            samples = self._grown(flow, rows, given, generator)
        else:
            samples = _flat(flow.sample(rows, given, generator=generator))
            samples = samples[torch.isfinite(samples).all(1)]
        if len(samples) < 2:
            return {}
        return {
            "energy_distance": energy_distance(samples, self.real[:rows]),
            "energy_distance_floor": self.floor.value,
            "energy_distance_spread": self.floor.spread,
        }

    def _grown(self, flow: Flow, rows: int, given: Tensor | None, generator: Generator) -> Tensor:
        """Samples as often as the mass says that they carry, so that they are of the law that is to be learnt."""
        many = SPARE * rows
        given = None if given is None else given[torch.arange(many) % rows]
        state, log_mass = flow.base.sample(many, given, generator=generator), torch.zeros(many, dtype=torch.float64)
        for growth, start, end in zip(self.growth, self.places[:-1], self.places[1:], strict=True):
            log_mass += growth.rate(state, given)
            state = flow.with_options(interval=(start, end)).decode(state, given, generator=generator).value
        samples = _flat(state)
        usable = torch.isfinite(samples).all(1)
        if not usable.any():
            return samples[usable]
        carried = torch.where(usable & log_mass.isfinite(), log_mass.exp(), 0.0)
        chosen = kept(carried, generator)
        return samples[chosen[torch.randperm(len(chosen), generator=generator)][:rows]]


class RowLikelihood:
    """Mean log-likelihood of validation rows, in the units of the data.

    Args:
        flow: From latent coordinates to the source.
        latent: ``(draws, rows, *event)`` the coded rows.
        offset: ``(draws, rows)`` log-determinant of the preprocessing, less the log-density of what coding drew.
        condition: ``(rows, *condition)``.
        gaussian: The same mean under a Gaussian fit; NaN where it has none.
    """

    def __init__(
        self, flow: Flow, latent: Tensor, offset: Tensor, *, condition: Tensor | None = None, gaussian: float = math.nan
    ) -> None:
        self.flow, self.latent, self.offset, self.condition, self.gaussian = flow, latent, offset, condition, gaussian
        self.rows = latent.shape[1]

    def __call__(self, rows: int) -> Mapping[str, float]:
        """Rows that have no density are left out."""
        given = None if self.condition is None else self.condition[:rows]
        logs = torch.stack([self.flow.log_prob(latent[:rows], given).double().cpu() for latent in self.latent])
        value, _ = combine(logs + self.offset[:, :rows], torch.zeros_like(logs))
        usable = value[torch.isfinite(value)]
        if not len(usable):
            return {}
        return {"log_likelihood": float(usable.mean()), "log_likelihood_gaussian": self.gaussian}


class RegressionGapProbe:
    """The regression gap on points drawn once.

    Args:
        flow: With an ODE.
        points: Points and the exact velocity there.
    """

    def __init__(self, flow: Flow, points: FieldPoints) -> None:
        self.flow, self.points, self.rows = flow, points, len(points.t)

    def __call__(self, rows: int) -> Mapping[str, float]:
        """One evaluation of the network."""
        ode = self.flow.ode
        assert ode is not None
        like = next(ode.parameters())
        velocity = lambda t, x, condition=None: ode.field(t.to(like), x.to(like)).to(x)  # noqa: E731
        return {"regression_gap": self.points.gap(velocity, rows)[0]}


@torch.no_grad()
def probes_of(prepared: Prepared) -> tuple[Probe, ...]:
    """What can be measured of a training on its way; nothing without validation rows."""
    if prepared.training.probe_share == 0:
        return ()
    makers = (_distance, _likelihood, _gap)
    return tuple(probe for probe in (_made(maker, prepared) for maker in makers) if probe is not None)


def _made(maker: Callable[[Prepared], Probe | None], prepared: Prepared) -> Probe | None:
    try:
        return maker(prepared)
    except AdvectError:  # such as a model that has no samples yet, or a field without a schedule
        return None


def _last(rows: DataRows | Snapshots | None) -> DataRows | None:
    """The rows that samples are like: those of the last time where there are several."""
    return rows.rows[-1] if isinstance(rows, Snapshots) else rows


def _distance(prepared: Prepared) -> SampleDistance | None:
    train, validate = _last(prepared.train), _last(prepared.validate)
    if validate is None or train is None or train.weight is not None:
        return None
    rows = _rows(prepared, validate.num_rows)
    if rows is None or train.num_rows < rows:
        return None
    seed = prepared.training.seed
    generator = generator_for(seed, PROBE)
    chosen = torch.randperm(validate.num_rows, generator=generator)[:rows]
    others = torch.randperm(train.num_rows, generator=generator)[: 4 * rows]
    return SampleDistance(
        prepared.built.core,
        validate.draw(chosen, generator),
        train.draw(others, generator),
        condition=None if validate.condition is None else validate.condition[chosen],
        solver=_solver(prepared),
        seed=seed,
        growth=growth_of(prepared),
        places=prepared.train.positions if isinstance(prepared.train, Snapshots) else (0.0, 1.0),
    )


def _solver(prepared: Prepared) -> Solver | None:
    """The sampling solver of the run with few steps; None where there is no ODE."""
    ode, blueprint = prepared.built.core.ode, prepared.blueprint
    if ode is None:
        return None
    if blueprint.solver is None or blueprint.steps is None:
        return Adaptive(rtol=TOLERANCE, atol=TOLERANCE)
    return make_solver(blueprint.solver, steps=STEPS, schedule=getattr(ode.field, "schedule", None))


def _likelihood(prepared: Prepared) -> RowLikelihood | None:
    core = prepared.built.core
    if core.ode is not None or core.likelihood != "exact":
        return None
    rows = _rows(prepared, len(prepared.split.validation))
    if rows is None:
        return None
    generator = generator_for(prepared.training.seed, PROBE, 3)
    order = torch.randperm(len(prepared.split.validation), generator=generator)[:rows].numpy()
    table = take_rows(prepared.table, np.sort(prepared.split.validation[order]))
    artefact = Artefact(prepared.flow, prepared.schema, prepared.codec, prepared.condition, {})
    latent, offset = coded_latent(artefact, table, coding_draws(artefact), generator)
    try:
        reference = take_rows(prepared.table, prepared.split.train)
        scores = gaussian_scores(artefact, table, reference, coding_draws(artefact), generator)
        gaussian = float(scores[torch.isfinite(scores)].mean())
    except UnsupportedError:  # flat in some direction
        gaussian = math.nan
    condition = None if prepared.condition is None else prepared.condition.encode(table).float().to(prepared.device)
    return RowLikelihood(core, latent.float().to(prepared.device), offset, condition=condition, gaussian=gaussian)


def _gap(prepared: Prepared) -> RegressionGapProbe | None:
    ode, train, request = prepared.built.core.ode, prepared.train, prepared.request
    fixed = prepared.codec.exact and prepared.condition is None and not request.flip and request.weights is None
    if ode is None or not isinstance(train, DataRows) or not fixed:
        return None
    schedule = schedule_with_score(ode.field, "regression gap")
    generator = generator_for(prepared.training.seed, PROBE, 4)
    width = math.prod(prepared.codec.event_shape)
    rows = min(ROWS, NUMBERS // max(width, 1), EFFORT // (train.num_rows * (width + 3)))
    if rows < FEWEST_ROWS:
        return None
    data = train.draw(torch.arange(train.num_rows), generator)
    exact = EmpiricalField(data, schedule, copy=False)
    return RegressionGapProbe(
        prepared.built.core, FieldPoints.draw(exact, rows, generator=generator, interval=ode.interval)
    )


def _rows(prepared: Prepared, available: int) -> int | None:
    """Rows of a probe; None where they are too few to say anything."""
    width = math.prod(prepared.codec.event_shape)
    rows = min(ROWS, max(NUMBERS // max(width, 1), 2 * FEWEST_ROWS), available)
    return rows if rows >= FEWEST_ROWS else None


def _flat(rows: Tensor) -> Tensor:
    return rows.reshape(len(rows), -1).double().cpu()
