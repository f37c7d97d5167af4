"""An ordinary differential equation as an invertible map (continuous normalizing flow).

    dx/dt = v(t, x),   x(0) = z from the source,   x(1) = data
    log |det ∂x(1)/∂x(0)| = ∫₀¹ tr ∂v/∂x dt          (Chen et al. 2018, theorem 1; Grathwohl et al. 2019, eq. 4)

`decode` integrates t from 0 to 1, `encode` from 1 to 0; the log-determinant is that of the direction called.
Two solvers: one for sampling, where a fixed number of steps is enough, and one for everything that must be
right (log-determinants, encoding, the round trip), adaptive by default.

A likelihood from few fixed steps is wrong rather than noisy; see `flows.step_error` for what is refused and
what is reported. Training by maximum likelihood is the one place for it: gradients need few evaluations and the same
ones each time. A map may have a solver for that, in use while the module is in training mode and never outside it, so
what is reported is always the careful solve; `objectives.likelihood.step_gap` says how far the two are apart.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ConfigError
from advect.flows.guidance import Guided
from advect.flows.step_error import doubled, has_few_steps, refuse_few_steps, step_error
from advect.flows.turns import twin
from advect.records import Mapped, Solution, Status
from advect.solvers import Adams3, Adaptive, ExactDivergence, HutchinsonDivergence
from advect.solvers.along import Along
from advect.transforms.bijection import ANY_CONDITION, Bijection
from advect.typing import Divergence, Field, Solver

EXACT_DIVERGENCE_LIMIT = 64  # dimensions up to which the exact trace is the default
HUTCHINSON_PROBES = 8  # above it; more than one, so that the spread gives a standard error
SAMPLING_STEPS = 32  # of the default sampling solver, one evaluation each
LIKELIHOOD_TOLERANCE = 1e-5

Direction = Literal["encode", "decode"]


class ContinuousMap(Bijection):
    """The flow of a velocity field between t = 0 and t = 1, or between the ends of the field's ``interval``.

    Args:
        field: The velocity; its ``interval`` (if it has one) says between which times it may be integrated.
        event_shape: Shape of one row; None for any.
        solver: For `decode` without a log-determinant; the multistep predictor–corrector by default.
        likelihood_solver: For everything else; adaptive at 1e-5 by default.
        divergence: Trace; by default exact up to 64 dimensions, stochastic with 8 fixed probes above.
        round_trip: Largest |x − decode(encode(x))| / (1 + |x|) accepted; rows beyond it fail with
            `Status.NOT_CONVERGED`. None for no check. It costs a second solve without trace.
        coarse: Accept a fixed-step likelihood solver with few steps and report its error.
        training_solver: For log-determinants in training mode, as in `torch.nn.Module.train`; few fixed steps are
            accepted there, and their error is not in the ``standard_error`` then. None for ``likelihood_solver``.
        training_divergence: Trace in training mode; None for ``divergence``.
        condition_shape: Shape of one condition, None for none; by default whatever the field takes.
        interval: First and last time of the integration, inside the field's own; None for all of it. The map is then
            that between the rows of the flow at these two times.
    """

    def __init__(
        self,
        field: Field,
        *,
        event_shape: tuple[int, ...] | None = None,
        solver: Solver | None = None,
        likelihood_solver: Solver | None = None,
        divergence: Divergence | None = None,
        round_trip: float | None = None,
        coarse: bool = False,
        training_solver: Solver | None = None,
        training_divergence: Divergence | None = None,
        condition_shape: tuple[int, ...] | Literal["any"] | None = ANY_CONDITION,
        interval: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(event_shape, condition_shape)
        if interval is not None and not 0 <= interval[0] <= interval[1] <= 1:
            raise ConfigError(
                f"The interval is {interval}", where="interval", remedy="Give two rising times in [0, 1]."
            )
        if round_trip is not None and not round_trip > 0:
            raise ConfigError(
                f"The round-trip tolerance is {round_trip}", where="round_trip", remedy="Give a positive number."
            )
        self.field = field
        self.solver = solver if solver is not None else Adams3(steps=SAMPLING_STEPS)
        self.likelihood_solver = (
            likelihood_solver
            if likelihood_solver is not None
            else Adaptive(rtol=LIKELIHOOD_TOLERANCE, atol=LIKELIHOOD_TOLERANCE)
        )
        self.divergence, self.round_trip, self.coarse = divergence, round_trip, coarse
        self.training_solver, self.training_divergence = training_solver, training_divergence
        self.asked_interval = interval

    @property
    def interval(self) -> tuple[float, float]:
        """First and last time of the integration."""
        first, last = getattr(self.field, "interval", (0.0, 1.0))
        if self.asked_interval is None:
            return first, last
        low, high = (min(max(time, first), last) for time in self.asked_interval)
        return low, high

    def with_options(
        self,
        *,
        field: Field | None = None,
        solver: Solver | None = None,
        likelihood_solver: Solver | None = None,
        divergence: Divergence | None = None,
        guidance: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        round_trip: float | None = None,
        coarse: bool | None = None,
        interval: tuple[float, float] | None = None,
    ) -> "ContinuousMap":
        """A copy that shares the field; what is None stays as it is. ``guidance`` replaces a guidance already there."""
        field = self.field if field is None else field
        if guidance is not None:
            plain = field.field if isinstance(field, Guided) else field
            field = Guided(plain, guidance, interval=guidance_interval) if guidance else plain
        copy = ContinuousMap(
            field,
            event_shape=self.event_shape,
            solver=solver or self.solver,
            likelihood_solver=likelihood_solver or self.likelihood_solver,
            divergence=divergence or self.divergence,
            round_trip=self.round_trip if round_trip is None else round_trip,
            coarse=self.coarse if coarse is None else coarse,
            training_solver=self.training_solver,
            training_divergence=self.training_divergence,
            condition_shape=self.condition_shape,
            interval=self.asked_interval if interval is None else interval,
        )
        copy.training = self.training
        return copy

    def integrate(
        self,
        x: Float[Tensor, "batch *event"],
        condition: Tensor | None = None,
        *,
        direction: Direction,
        log_det: bool = False,
        times: Tensor | None = None,
        along: Sequence[Along] = (),
        generator: Generator | None = None,
    ) -> Solution:
        """The whole record of one solve with the solver that `encode` or `decode` would use.

        Args:
            x: Rows at the start of the direction.
            condition: ``(batch, *condition)`` or None.
            direction: Which way.
            log_det: Integrate the trace as well.
            times: ``(times,)`` at which to report states, in the direction of the solve.
            along: Other integrals along the way, for solvers that offer them.
            generator: Draws the probes of a stochastic trace.
        """
        careful = log_det or direction == "encode"
        solver = self.likelihood_solver if careful else self.solver
        training = self._solver_in_training
        if log_det and training is not None:
            solver = training
        elif log_det and not self.coarse:
            refuse_few_steps(solver)
        extra = {"along": tuple(along)} if along else {}
        start, end = self.interval if direction == "decode" else self.interval[::-1]
        return solver(
            self._solved_field,
            x,
            start,
            end,
            times=times,
            condition=condition,
            divergence=self._trace(x) if log_det else None,
            generator=generator,
            **extra,
        )

    def trajectory(
        self,
        x: Float[Tensor, "batch *event"],
        times: Float[Tensor, " times"],
        condition: Tensor | None = None,
        *,
        direction: Direction = "decode",
    ) -> Float[Tensor, "times batch *event"]:
        """States at the given times, rising for `decode` and falling for `encode`; failed rows are NaN where
        they failed.

        Times outside the field's interval are answered with the state at its end.
        """
        inside = times.clamp(*self.interval)
        states = self.integrate(x, condition, direction=direction, times=inside).states
        assert states is not None
        return states

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        return self._solve(x, condition, "encode", log_det, generator)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        return self._solve(z, condition, "decode", log_det, generator)

    def _solve(
        self,
        x: Tensor,
        condition: Tensor | None,
        direction: Direction,
        log_det: bool,
        generator: Generator | None,
    ) -> Mapped:
        again = None if generator is None else twin(generator)
        solution = self.integrate(x, condition, direction=direction, log_det=log_det, generator=generator)
        status, nfe, error = solution.status, solution.nfe, solution.log_abs_det_error
        trains = log_det and self._solver_in_training is not None
        if log_det and not trains and has_few_steps(self.likelihood_solver):
            error, extra = self._add_step_error(solution, x, condition, direction, again)
            nfe = nfe + extra
        if self.round_trip is not None and not trains and (log_det or direction == "encode"):
            back = self._way_back(solution, condition, direction)
            nfe = nfe + back.nfe
            lost = (status < int(Status.NAN_FIELD)) & ~_came_back(x, back.state, self.round_trip)
            status = status.masked_fill(lost, int(Status.NOT_CONVERGED))
        failed = status >= int(Status.NAN_FIELD)
        return Mapped(
            value=_blank(solution.state, failed),
            log_abs_det_jacobian=None if solution.log_abs_det is None else _blank(solution.log_abs_det, failed),
            status=status,
            standard_error=None if error is None else _blank(error, failed),
            nfe=nfe * getattr(self.field, "evaluations", 1),
        )

    def _way_back(self, solution: Solution, condition: Tensor | None, direction: Direction) -> Solution:
        """From the end of a solve to its start."""
        start, end = self.interval if direction == "decode" else self.interval[::-1]
        with torch.no_grad():
            return self.likelihood_solver(self.field, solution.state.detach(), end, start, condition=condition)

    def _add_step_error(
        self,
        solution: Solution,
        x: Tensor,
        condition: Tensor | None,
        direction: Direction,
        generator: Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """Standard error including that of the steps, and the evaluations spent on it."""
        solver = self.likelihood_solver
        finer = self.with_options(likelihood_solver=doubled(solver))
        with torch.no_grad():
            again = finer.integrate(x, condition, direction=direction, log_det=True, generator=generator)
        assert solution.log_abs_det is not None
        assert solution.log_abs_det_error is not None
        assert again.log_abs_det is not None
        steps = step_error(solver, solution.log_abs_det.detach(), again.log_abs_det)
        return torch.hypot(solution.log_abs_det_error, steps), again.nfe

    @property
    def _solver_in_training(self) -> Solver | None:
        """What takes the log-determinants now, if it is not the likelihood solver."""
        return self.training_solver if self.training else None

    @property
    def _solved_field(self) -> Field:
        """The field; where no graph is kept, the form of it that is quick without one."""
        offered = getattr(self.field, "for_inference", None)
        return self.field if torch.is_grad_enabled() or not callable(offered) else offered()

    def _trace(self, x: Tensor) -> Divergence:
        if self.training and self.training_divergence is not None:
            return self.training_divergence
        if self.divergence is not None:
            return self.divergence
        width = math.prod(x.shape[1:])
        return ExactDivergence() if width <= EXACT_DIVERGENCE_LIMIT else HutchinsonDivergence(HUTCHINSON_PROBES)

    def extra_repr(self) -> str:
        """The solvers, for ``print``."""
        training = f", training_solver={self.training_solver}" if self.training_solver is not None else ""
        return f"solver={self.solver}, likelihood_solver={self.likelihood_solver}{training}"


def _came_back(x: Tensor, back: Tensor, tolerance: float) -> Tensor:
    """Whether each row returned to within ``tolerance``, absolute below 1 and relative above; NaN did not."""
    miss = (back - x).detach().abs() / (1 + x.detach().abs())
    return (miss <= tolerance).reshape(x.shape[0], math.prod(x.shape[1:])).all(1)


def _blank(value: Tensor, failed: Tensor) -> Tensor:
    """``value`` with NaN in the failed rows."""
    return torch.where(failed.reshape(-1, *([1] * (value.ndim - 1))), torch.nan, value)
