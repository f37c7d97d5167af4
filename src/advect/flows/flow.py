"""A flow: a base distribution and an invertible map.

    sample:   z ~ base,  x = decode(z)
    log p(x) = log base(z) + log |det ∂z/∂x|,   z = encode(x)         (change of variables, nats, in the units of x)

The map may be discrete layers, an ODE, or preprocessing followed by either; nothing here asks which, except
`trajectory` and `velocity`, which need the ODE. Rows are handled in chunks, so memory does not grow with the
size of a set as long as no gradient is asked for. Every result is differentiable where gradients are on.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from advect.errors import ConfigError, ShapeError, UnsupportedError
from advect.flows.base import check_num_rows
from advect.flows.continuous import ContinuousMap
from advect.flows.distribution import FlowDistribution
from advect.flows.notebook import flow_table
from advect.flows.turns import Record, Runner, in_turn, is_apart, joined, record_of, run_chunks
from advect.records import Estimate, Mapped, Status
from advect.transforms import Compose
from advect.transforms.bijection import ANY_CONDITION, Likelihood, least_known
from advect.transforms.compose import members
from advect.typing import Base, Bijection, written_for

CHUNK_NUMBERS = 2**17  # numbers in one chunk: a few MB of activations, where matrix products run fastest
CHUNK_ROWS = (64, 2048)


class Flow(nn.Module):
    """A distribution that samples, scores, encodes and decodes.

    Args:
        base: Source distribution.
        map: Invertible map between data and source.
        event_shape: Shape of one data row, where the map changes the shape of the base's.
        chunk_rows: Rows handled at a time; by default chosen from the size of a row.
        runner: Who computes the chunks; by default this process, one after another.
    """

    def __init__(
        self,
        base: Base,
        map: Bijection,
        *,
        event_shape: tuple[int, ...] | None = None,
        chunk_rows: int | None = None,
        runner: Runner = in_turn,
    ) -> None:
        super().__init__()
        self.base, self.map, self.runner = base, map, runner
        shape = event_shape if event_shape is not None else getattr(base, "event_shape", None)
        if shape is None:
            raise ConfigError(
                f"The base {type(base).__name__} does not say the shape of its rows",
                where="Flow",
                remedy="Give event_shape, or a base with that attribute.",
            )
        self.event_shape = tuple(shape)
        if chunk_rows is not None and chunk_rows < 1:
            raise ConfigError(f"chunk_rows is {chunk_rows}", where="Flow", remedy="Give 1 or more.")
        low, high = CHUNK_ROWS
        self.chunk_rows = chunk_rows or min(high, max(low, CHUNK_NUMBERS // max(1, math.prod(self.event_shape))))

    def forward(self, x: Float[Tensor, "batch *event"], condition: Tensor | None = None) -> Float[Tensor, " batch"]:
        """`log_prob`, so that wrappers which know only ``forward`` can train a flow."""
        return self.log_prob(x, condition)

    def sample(
        self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Draw ``(num_rows, *event)``; rows whose integration failed are NaN (`draw` says why)."""
        return self.draw(num_rows, condition, generator=generator).value

    def draw(self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None) -> Mapped:
        """Draw rows with their status and NFE; no log-determinant. A condition has ``num_rows`` rows."""
        z = self.base.sample(check_num_rows(num_rows), condition, generator=generator)
        return self.decode(z, condition, generator=generator)

    def log_prob(
        self,
        x: Float[Tensor, "batch *event"],
        condition: Tensor | None = None,
        *,
        generator: Generator | None = None,
    ) -> Float[Tensor, " batch"]:
        """Log-density in nats; NaN in failed rows, −∞ outside the support. `score` adds error and status.

        Raises:
            UnsupportedError: If the base has no density.
        """
        return self.score(x, condition, generator=generator).value

    def score(
        self,
        x: Float[Tensor, "batch *event"],
        condition: Tensor | None = None,
        *,
        generator: Generator | None = None,
    ) -> Estimate:
        """Log-density in nats with its standard error, status and NFE per row."""
        self._check_rows(x)

        def scored(rows: Tensor, given: Tensor | None, own: Generator | None) -> Record:
            code = self.map.encode(rows, self._for_map(given), log_det=True, generator=own)
            return record_of(code) | {"density": self._density(code.value, given, code, sign=1.0)}

        found = self._each_chunk(scored, x, condition, generator)
        density, code = torch.cat([record["density"] for record in found]), joined(found)
        error = torch.zeros_like(density) if code.standard_error is None else code.standard_error
        outside = torch.isneginf(density).to(code.status.dtype) * int(Status.OUTSIDE_SUPPORT)  # of map or base
        return Estimate(density, error, torch.maximum(code.status, outside), code.nfe)

    def sample_and_log_prob(
        self, num_rows: int, condition: Tensor | None = None, *, generator: Generator | None = None
    ) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, " batch"]]:
        """Draw rows with their log-density in nats, in one pass; equal to `log_prob` of the rows to tolerance."""
        z = self.base.sample(check_num_rows(num_rows), condition, generator=generator)

        def drawn(rows: Tensor, given: Tensor | None, own: Generator | None) -> Record:
            moved = self.map.decode(rows, self._for_map(given), log_det=True, generator=own)
            return {"value": moved.value, "density": self._density(rows, given, moved, sign=-1.0)}

        found = self._each_chunk(drawn, z, condition, generator)
        return torch.cat([record["value"] for record in found]), torch.cat([record["density"] for record in found])

    def distribution(self, condition: Tensor | None = None, *, validate_args: bool | None = None) -> FlowDistribution:
        """The flow as a `torch.distributions.Distribution`; conditions ``(*batch, *condition)`` are its batch."""
        return FlowDistribution(self, condition, validate_args)

    def encode(
        self,
        x: Float[Tensor, "batch *event"],
        condition: Tensor | None = None,
        *,
        log_det: bool = False,
        generator: Generator | None = None,
    ) -> Mapped:
        """Data to source, chunk by chunk; the log-determinant only when asked for."""
        self._check_rows(x)
        return self._mapped(self.map.encode, x, condition, log_det, generator)

    def decode(
        self,
        z: Float[Tensor, "batch *event"],
        condition: Tensor | None = None,
        *,
        log_det: bool = False,
        generator: Generator | None = None,
    ) -> Mapped:
        """Source to data, chunk by chunk; the log-determinant only when asked for."""
        return self._mapped(self.map.decode, z, condition, log_det, generator)

    def trajectory(
        self,
        start: int | Float[Tensor, "batch *event"],
        times: Float[Tensor, " times"],
        condition: Tensor | None = None,
        *,
        generator: Generator | None = None,
    ) -> Float[Tensor, "times batch *event"]:
        """The rows on their way from source to data, in the units of the data.

        Args:
            start: How many rows to draw, or source rows ``(batch, *event)`` to start from.
            times: ``(times,)`` rising in [0, 1].
            condition: ``(batch, *condition)`` or None.
            generator: For the draw.

        Returns:
            ``(times, batch, *event)``: the state of the ODE at each time, carried through the rest of the map
            (preprocessing) to the space of the data. At time 0 that is the source in the units of the data.

        Raises:
            UnsupportedError: If the map has no ODE.
        """
        z = (
            start
            if isinstance(start, Tensor)
            else self.base.sample(check_num_rows(start), condition, generator=generator)
        )
        before, ode, after = self.split_at_ode("trajectory")

        def moved(rows: Tensor, given: Tensor | None, own: Generator | None) -> Record:
            inner = after.decode(rows, _if_taken(after, given), log_det=False).value
            flat = ode.trajectory(inner, times, given).flatten(0, 1)
            tiled = None if given is None else given.repeat(len(times), *([1] * (given.ndim - 1)))
            outer = before.decode(flat, _if_taken(before, tiled), log_det=False).value
            return {"states": outer.unflatten(0, (len(times), rows.shape[0]))}

        return torch.cat([record["states"] for record in self._each_chunk(moved, z, condition, None)], 1)

    def velocity(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Velocity of the ODE at ``t`` and ``x``, both in the coordinates of the ODE (after preprocessing).

        Raises:
            UnsupportedError: If the map has no ODE.
        """
        return self._ode_for("velocity").field(t, x, condition)

    def predict(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> Float[Tensor, "batch *event"]:
        """What the network of the ODE says at ``t`` and ``x``, in its own parameterisation (`VelocityField.predict`).

        Raises:
            UnsupportedError: If the map has no ODE, or its field is no network with a parameterisation.
        """
        predict = getattr(self._ode_for("predict").field, "predict", None)
        if predict is None:
            raise UnsupportedError(
                "The field of this flow predicts nothing but its velocity", where="predict", remedy="Use velocity."
            )
        return predict(t, x, condition)

    def network_target(
        self, quantity: str, t: Tensor, x: Tensor, condition: Tensor | None, target: Tensor
    ) -> tuple[nn.Module, Tensor, Tensor, Tensor] | None:
        """`VelocityField.network_target` of the field, where it offers that."""
        offered = getattr(self.ode.field if self.ode else None, "network_target", None)
        if offered is None or not written_for(type(self), "network_target", "velocity", "predict"):
            return None
        return offered(quantity, t, x, condition, target)

    def marginal_score(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> Float[Tensor, "batch *event"]:
        """∇ log p_t(x) as the field of the ODE has learnt it, in the coordinates of the ODE.

        Raises:
            UnsupportedError: If the map has no ODE, or its field knows no score.
        """
        score = getattr(self._ode_for("marginal_score").field, "score", None)
        if score is None:
            raise UnsupportedError(
                "The field of this flow has learnt no score of its own",
                where="marginal_score",
                remedy="Train with sf2m; on affine paths convert the velocity (paths.convert).",
            )
        return score(t, x, condition)

    @property
    def likelihood(self) -> Likelihood:
        """What is known of the log-density: ``exact`` (up to the error that is told), a lower ``bound``, ``none``."""
        return least_known(getattr(part, "likelihood", "exact") for part in (self.map, self.base))

    @property
    def ode(self) -> ContinuousMap | None:
        """The ODE inside the map, or None."""
        return next((m for m in members(self.map) if isinstance(m, ContinuousMap)), None)

    def with_options(self, **options: Any) -> "Flow":
        """A copy that shares all parameters, with options of `ContinuousMap.with_options` changed.

        Raises:
            UnsupportedError: If the map has no ODE.
        """
        self._ode_for(f"with_options({', '.join(options)})")
        changed = _replace_ode(self.map, lambda ode: ode.with_options(**options))
        copy = Flow(self.base, changed, event_shape=self.event_shape, chunk_rows=self.chunk_rows, runner=self.runner)
        copy.training = self.training
        return copy

    def _mapped(
        self,
        verb: Callable[..., Mapped],
        rows: Tensor,
        condition: Tensor | None,
        log_det: bool,
        generator: Generator | None,
    ) -> Mapped:
        if len(rows) <= self.chunk_rows and self.runner is in_turn:
            ((x, given),) = self._chunks(rows, condition)
            found = verb(x, self._for_map(given), log_det=log_det, generator=generator)
            return found if is_apart(found, rows) else joined([record_of(found)])

        def mapped(x: Tensor, given: Tensor | None, own: Generator | None) -> Record:
            return record_of(verb(x, self._for_map(given), log_det=log_det, generator=own))

        return joined(self._each_chunk(mapped, rows, condition, generator))

    def _each_chunk(
        self,
        work: Callable[[Tensor, Tensor | None, Generator | None], Record],
        rows: Tensor,
        condition: Tensor | None,
        generator: Generator | None,
    ) -> list[Record]:
        """What comes out of every chunk."""
        chunks = list(self._chunks(rows, condition))
        return run_chunks(self.runner, lambda number, own: work(*chunks[number], own), len(chunks), generator)

    def _for_map(self, condition: Tensor | None) -> Tensor | None:
        """The condition; None for a map that takes none over a base that does, which then is what uses it."""
        used_by_base = getattr(self.base, "condition_shape", None) is not None
        return None if used_by_base and getattr(self.map, "condition_shape", ANY_CONDITION) is None else condition

    def _density(self, z: Tensor, condition: Tensor | None, code: Mapped, sign: float) -> Tensor:
        """Log base(z) ± log-determinant, with the rows outside the support at −∞."""
        assert code.log_abs_det_jacobian is not None
        value = self.base.log_prob(z, condition) + sign * code.log_abs_det_jacobian
        return torch.where(code.status == Status.OUTSIDE_SUPPORT, -torch.inf, value)

    def _chunks(self, rows: Tensor, condition: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        if condition is not None and condition.shape[0] != rows.shape[0]:
            raise ShapeError(
                f"The condition has {condition.shape[0]} rows, the data {rows.shape[0]}",
                where="condition",
                remedy="Give one condition per row.",
            )
        starts = range(0, max(rows.shape[0], 1), self.chunk_rows)
        for first in starts:
            part = slice(first, first + self.chunk_rows)
            yield rows[part], None if condition is None else condition[part]

    def _check_rows(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.event_shape:
            raise ShapeError(
                f"Rows have shape {tuple(x.shape)}, expected (batch, {', '.join(map(str, self.event_shape))})",
                where="flow",
                remedy="Give rows of the shape the flow was made for.",
            )

    def split_at_ode(self, asked: str) -> tuple[Compose, ContinuousMap, Compose]:
        """What encode does before the ODE, the ODE, and what it does after it."""
        ode = self._ode_for(asked)
        chain = list(members(self.map))
        place = next(i for i, member in enumerate(chain) if member is ode)
        return Compose(*chain[:place]), ode, Compose(*chain[place + 1 :])

    def _ode_for(self, asked: str) -> ContinuousMap:
        """The ODE, or the refusal of what needs one."""
        ode = self.ode
        if ode is None:
            raise UnsupportedError(
                "The map of this flow is made of discrete layers: there is no ODE in it",
                where=asked,
                remedy="Use encode, decode, sample and log_prob, or train a continuous method such as i-cfm.",
            )
        return ode

    def extra_repr(self) -> str:
        """The event shape, for ``print``."""
        return f"event_shape={self.event_shape}"

    def _repr_html_(self) -> str:
        """What a notebook shows: shape, base, map, and what can be called."""
        return flow_table(self)


def _replace_ode(map: Bijection, change: Callable[[ContinuousMap], ContinuousMap]) -> Bijection:
    if isinstance(map, ContinuousMap):
        return change(map)
    if not isinstance(map, Compose):
        return map
    copy = Compose(*(_replace_ode(member, change) for member in map.maps))
    copy.training = map.training
    return copy


def _if_taken(map: Compose, condition: Tensor | None) -> Tensor | None:
    """The condition for a part of the map, None where the part takes none."""
    return None if map.condition_shape is None else condition
