"""A flow conditioned on observations: what was seen, in the user's units or the flow's, as a flow of its own.

`Observed` works on the state of the ODE, which preprocessing keeps in coordinates of its own. Preprocessing acts on
each coordinate by itself, so a coordinate that is known in the user's units is known to the ODE. A linear observation
of several coordinates stays linear only where preprocessing is affine (`Standardise`); elsewhere it is refused.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import DataError, ShapeError, UnsupportedError
from advect.flows.flow import Flow
from advect.flows.observed import Observed, check_noise
from advect.flows.tweedie import schedule_with_score
from advect.records import Mapped
from advect.transforms import Compose, Standardise
from advect.transforms.compose import members
from advect.transforms.cumulative import Cumulative
from advect.transforms.precision import Precision
from advect.transforms.preprocess import Asinh, Columnwise
from advect.typing import Bijection

UNITS = ("data", "latent")


@dataclass(frozen=True)
class Posterior:
    """A flow of the data given observations, one row for each row of them.

    Attributes:
        flow: Its condition holds the observations; its field is an `Observed`.
        condition: ``(batch, …)`` to give it.
    """

    flow: Flow
    condition: Tensor

    def draw(self, *, generator: Generator | None = None) -> Mapped:
        """One draw ``(batch, *event)`` for each row, in the units of the data, with status and evaluations."""
        return self.flow.draw(len(self.condition), self.condition, generator=generator)


def given_coordinates(
    flow: Flow,
    rows: Float[Tensor, "batch *event"],
    *,
    noise: float | Tensor = 0.0,
    condition: Tensor | None = None,
) -> Posterior:
    """The flow given some coordinates of each row.

    Args:
        flow: With an ODE that knows its score.
        rows: In the units of the data, NaN where unknown.
        noise: Standard deviation of what is known, in the units of the data, broadcastable to ``rows``. Where
            preprocessing is not affine it is scaled by its slope at the value.
        condition: What the flow itself takes.

    Raises:
        UnsupportedError: No ODE, no score, or preprocessing that mixes coordinates.
        DataError: No coordinate is known in any row.
        ShapeError: Rows of another shape.
    """
    before, ode, _ = flow.split_at_ode("given_coordinates")
    schedule_with_score(ode.field, "given_coordinates")
    if tuple(rows.shape[1:]) != flow.event_shape:
        raise ShapeError(f"Rows have shape {tuple(rows.shape[1:])}, expected {flow.event_shape}", where="rows")
    if not all(_elementwise(part) for part in members(before)):
        raise UnsupportedError(
            "The map before the ODE mixes coordinates, so a known one says nothing simple about its state",
            where="given_coordinates",
            remedy="Observe the ODE's own coordinates: given_linear(flow, operator, y, units='latent').",
        )
    known = torch.isfinite(rows).reshape(len(rows), -1)
    columns = known.any(0).nonzero().squeeze(1)
    if not len(columns):
        raise DataError("No coordinate is known", where="rows", remedy="Sample the flow itself.")
    middle = before.decode(_latent_zeros(before, rows), log_det=False).value.to(rows.dtype)
    with torch.enable_grad():
        filled = torch.where(torch.isfinite(rows), rows, middle).detach().requires_grad_()
        latent = before.encode(filled, log_det=False).value
        (slope,) = torch.autograd.grad(latent.sum(), filled)
    spread = check_noise(torch.as_tensor(noise, dtype=rows.dtype)).expand(rows.shape) * slope.abs()
    seen = torch.where(known, latent.detach().reshape(len(rows), -1), torch.nan)[:, columns]
    packed = Observed.pack(seen, spread.reshape(len(rows), -1)[:, columns].to(seen.dtype), condition)
    return Posterior(flow.with_options(field=Observed(ode.field, columns)), packed)


def given_linear(
    flow: Flow,
    operator: Float[Tensor, "numbers coordinates"],
    y: Float[Tensor, "batch numbers"],
    *,
    noise: float | Tensor = 0.0,
    condition: Tensor | None = None,
    units: str = "data",
) -> Posterior:
    """The flow given y = A x + noise for each row.

    Args:
        flow: With an ODE that knows its score.
        operator: A on the flattened event.
        y: NaN for a number that was not observed in its row.
        noise: Standard deviation in the units of y, broadcastable to it.
        condition: What the flow itself takes.
        units: What A acts on: ``data``, the user's units, or ``latent``, the state of the ODE.

    Raises:
        UnsupportedError: No ODE, no score, or ``data`` with preprocessing that is not affine.
        ShapeError: Shapes that do not fit one another.
        DataError: Unknown units.
    """
    before, ode, _ = flow.split_at_ode("given_linear")
    schedule_with_score(ode.field, "given_linear")
    width = math.prod(flow.event_shape)
    if operator.shape[1] != width or y.shape[1] != operator.shape[0]:
        raise ShapeError(
            f"The operator has shape {tuple(operator.shape)} and y {tuple(y.shape)}, expected "
            f"(numbers, {width}) and (batch, numbers)",
            where="operator",
        )
    if units not in UNITS:
        raise DataError(f"The units {units!r} are unknown", where="units", remedy="Say 'data' or 'latent'.")
    latent_operator, latent_y = operator.double(), y.double()
    if units == "data":
        if not all(_affine(part) for part in members(before)):
            raise UnsupportedError(
                "Preprocessing of this model is not affine (levels, or heavy tails), so A x is not linear in its state",
                where="given_linear",
                remedy="Give single coordinates with given_coordinates, or A in the ODE's own with units='latent'.",
            )
        zero = _latent_zeros(before, torch.zeros(1, *flow.event_shape, dtype=torch.float64))
        shift, end = (before.decode(z, log_det=False).value.double().reshape(-1) for z in (zero, zero + 1))
        latent_operator, latent_y = operator.double() * (end - shift), y.double() - operator.double() @ shift
    like = flow.base.sample(1)
    packed = Observed.pack(latent_y, noise, condition).to(like)
    return Posterior(flow.with_options(field=Observed(ode.field, latent_operator.to(like.dtype))), packed)


def _latent_zeros(before: Compose, rows: Tensor) -> Tensor:
    """Zeros where the ODE lives, in the precision that ``before`` brings rows to."""
    return torch.zeros_like(rows[:1], dtype=_inner_dtype(before, rows.dtype))


def _inner_dtype(before: Compose, dtype: torch.dtype) -> torch.dtype:
    for part in members(before):
        dtype = part.inner if isinstance(part, Precision) else dtype
    return dtype


def _elementwise(part: Bijection) -> bool:
    """Whether each coordinate is moved by itself."""
    if isinstance(part, Columnwise):
        return all(_elementwise(inner) for group in part.maps for inner in members(group))
    return isinstance(part, Standardise | Asinh | Cumulative | Precision)


def _affine(part: Bijection) -> bool:
    """Whether each coordinate is scaled and shifted by itself."""
    if isinstance(part, Columnwise):
        return all(_affine(inner) for group in part.maps for inner in members(group))
    return isinstance(part, Standardise | Precision)
