"""Bringing the coordinates of a table to unit scale, as part of the map.

Every flow of the library lives in coordinates of about zero mean and unit variance (transport costs, network inputs and
solver tolerances all assume it). The scaling is a bijection like any other, so log-densities come out in the
user's units: log p(x) = log p(z) + log |det ∂z/∂x|. `records.Coordinate.scaling` says which map a coordinate takes:

    standardise   (x − mean) / standard deviation
    asinh         asinh((x − median) / robust scale), then standardised: linear at the centre,
                  logarithmic in heavy tails
    cumulative    Φ⁻¹(F(x)) for levels with uniform noise on top, see `transforms.cumulative`
    pixel         one mean and one standard deviation for all pixels
    common        each its own mean, one scale for all of them (the root mean square of their standard deviations):
                  distances between rows keep their proportions
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.errors import ConfigError, DataError, ShapeError, unknown_name
from advect.records import Coordinate, Mapped
from advect.transforms.affine import Standardise, check_scale
from advect.transforms.bijection import Bijection, mapped, outside_support, worst_status
from advect.transforms.compose import Compose, sum_all
from advect.transforms.cumulative import Cumulative

_NORMAL_QUARTILE = 0.6744897501960817  # Φ⁻¹(3/4): turns a median absolute deviation into a standard deviation


class Asinh(Bijection):
    """y = asinh(u), u = (x − location) / scale, with log |∂y/∂x| = −log scale − log cosh y.

    Args:
        location: Broadcastable to the event.
        scale: Like ``location``; positive.
        event_shape: Shape of one row; by default that of ``location``.

    Finite for every finite input. `decode` grows like exp|y|: beyond the largest |y| whose x is finite in the dtype
    it stays there, with `Status.OUTSIDE_SUPPORT`, instead of overflowing.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, location: Tensor, scale: Tensor, event_shape: tuple[int, ...] | None = None) -> None:
        event_shape = tuple(location.shape) if event_shape is None else event_shape
        super().__init__(event_shape)
        check_scale(location, scale, event_shape, "Asinh")
        self.register_buffer("location", location.detach().clone())
        self.register_buffer("scale", scale.detach().clone())

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        scale = self.scale.to(x.dtype)
        largest = torch.finfo(x.dtype).max
        y = torch.asinh(((x - self.location.to(x.dtype)) / scale).clamp(-largest, largest))
        return mapped(y, -_log_stretch(y, scale) if log_det else None)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        scale = self.scale.to(z.dtype)
        # sinh(y) ≈ exp(y)/2; two units of margin keep scale · sinh(y) + location below the largest number.
        limit = math.log(torch.finfo(z.dtype).max) - 2 - scale.log().clamp(min=0)
        y = torch.minimum(torch.maximum(z, -limit), limit)
        x = self.location.to(z.dtype) + scale * torch.sinh(y)
        return mapped(x, _log_stretch(y, scale) if log_det else None, outside_support(z.abs() > limit))


def _log_stretch(y: Tensor, scale: Tensor) -> Tensor:
    """Σ log(scale · cosh y) over the event, without overflow."""
    terms = scale.log() + torch.logaddexp(y, -y) - math.log(2)
    return terms.reshape(y.shape[0], math.prod(y.shape[1:])).sum(1)


class Columnwise(Bijection):
    """Groups of coordinates, each through its own map.

    Args:
        groups: Pairs of coordinate indices (into the flattened event) and a map on rows ``(batch, len(indices))``.
            Every coordinate belongs to exactly one group.
        event_shape: Shape of one row.
    """

    order: Tensor
    inverse: Tensor

    def __init__(self, groups: Sequence[tuple[Sequence[int], Bijection]], event_shape: tuple[int, ...]) -> None:
        super().__init__(event_shape)
        order = [index for indices, _ in groups for index in indices]
        if sorted(order) != list(range(math.prod(event_shape))):
            raise ShapeError(
                f"The groups hold the coordinates {sorted(order)}, expected each of {math.prod(event_shape)} once",
                where="Columnwise",
            )
        self.maps = tuple(bijection for _, bijection in groups)
        for index, member in enumerate(self.maps):
            self.add_module(str(index), member)
        self._sizes = [len(indices) for indices, _ in groups]
        self._plain = len(groups) == 1 and order == sorted(order)
        order_tensor = torch.tensor(order, dtype=torch.long)
        self.register_buffer("order", order_tensor, persistent=False)
        self.register_buffer("inverse", torch.argsort(order_tensor), persistent=False)

    @property
    def groups(self) -> tuple[tuple[tuple[int, ...], Bijection], ...]:
        """The groups as they were given."""
        indices = [tuple(part.tolist()) for part in self.order.cpu().split(self._sizes)]
        return tuple(zip(indices, self.maps, strict=True))

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        return self._each(x, lambda member, part: member.encode(part, log_det=log_det, generator=generator))

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        return self._each(z, lambda member, part: member.decode(part, log_det=log_det, generator=generator))

    def _each(self, x: Tensor, call: Callable[[Bijection, Tensor], Mapped]) -> Mapped:
        flat = x.reshape(x.shape[0], len(self.order))
        if self._plain:
            whole = call(self.maps[0], flat)
            return mapped(whole.value.reshape(x.shape), whole.log_abs_det_jacobian, whole.status)
        columns = flat.index_select(1, self.order).split(self._sizes, dim=1)
        parts = [call(member, part) for member, part in zip(self.maps, columns, strict=True)]
        value = torch.cat([p.value for p in parts], dim=1).index_select(1, self.inverse).reshape(x.shape)
        log_dets = [p.log_abs_det_jacobian for p in parts if p.log_abs_det_jacobian is not None]
        return mapped(value, sum_all(log_dets) if log_dets else None, worst_status([p.status for p in parts]))


def fit_preprocess(
    values: Float[Tensor, "batch *event"],
    coordinates: Sequence[Coordinate],
    probabilities: Mapping[int, Float[Tensor, " _"]],
    *,
    blocks: Iterable[Float[Tensor, "_ *event"]] | None = None,
    known: "Moments | None" = None,
) -> Bijection:
    """Fit the scaling that ``coordinates`` ask for.

    Args:
        values: ``(batch, *event)`` finite training rows, dequantised and filled, not scaled.
        coordinates: One per coordinate of the flattened event.
        probabilities: For each ``cumulative`` coordinate its index and ``(cells,)`` frequencies, strictly positive.
        blocks: All training rows, block by block, where ``values`` are some of them: means and standard deviations are
            then those of all rows, while the medians behind ``asinh`` are those of ``values``.
        known: Moments of all rows, ``(coordinates,)``, where the rows need not be looked at for them; not for ``asinh``
            and ``pixel``.

    Statistics are taken in float64 and kept in the dtype of ``values``. A coordinate that is constant up to rounding
    gets scale 1.
    Raises `DataError` for no rows or a value that is not finite, `ShapeError` for a wrong number of coordinates.
    """
    event_shape = tuple(values.shape[1:])
    flat = _finite_rows(values)
    scalings = [c.scaling for c in coordinates]
    members = {name: [i for i, other in enumerate(scalings) if other == name] for name in _SCALES}
    bends = {name: _bend(flat[:, indices]) for name, indices in members.items() if name == "asinh" and indices}
    moments: dict[str, Moments] = {}
    if known is not None:
        moments = {name: known.shared(indices, name) for name, indices in members.items() if indices}
        blocks = ()
    for block in (flat,) if blocks is None else map(_finite_rows, blocks):
        for name, indices in members.items():
            if indices:
                columns = block[:, indices]
                columns = bends[name][0].encode(columns, log_det=False).value if name in bends else columns
                here = Moments.of(columns, name)
                moments[name] = moments[name].and_of(here) if name in moments else here

    def fitted(scaling: str, indices: list[int]) -> Bijection:
        if scaling == "cumulative":
            return Cumulative([_frequencies(probabilities, i, coordinates[i]).to(flat) for i in indices])
        scale = _standardise(moments[scaling], scaling, len(indices), flat.dtype)
        if scaling not in bends:
            return scale
        bend, constant = bends[scaling]
        return Compose(bend, Standardise(scale.shift, scale.scale.masked_fill(constant, 1.0)))

    return _assemble(coordinates, event_shape, fitted)


def _finite_rows(values: Tensor) -> Tensor:
    """``(batch, coordinates)``.

    Raises:
        DataError: No rows, or a value that is not finite.
    """
    flat = values.detach().reshape(values.shape[0], math.prod(values.shape[1:]))
    if flat.shape[0] == 0:
        raise DataError("There are no rows to fit the scaling on", remedy="Give at least one row.")
    if not torch.isfinite(flat).all():
        row, index = torch.nonzero(~torch.isfinite(flat))[0].tolist()
        raise DataError(f"The value {flat[row, index].item()} is not finite", where=f"row {row}, coordinate {index}")
    return flat


def empty_preprocess(coordinates: Sequence[Coordinate], event_shape: tuple[int, ...]) -> Bijection:
    """The map that `fit_preprocess` builds, with identity scalings of the right shapes for `load_state_dict`."""

    def blank(scaling: str, indices: list[int]) -> Bijection:
        if scaling == "cumulative":
            return Cumulative([torch.ones(coordinates[i].cells) for i in indices])
        zeros, ones = torch.zeros(len(indices)), torch.ones(len(indices))
        if scaling == "pixel":
            return Standardise(zeros[0], ones[0], (len(indices),))
        if scaling == "asinh":
            return Compose(Asinh(zeros, ones), Standardise(zeros, ones))
        return Standardise(zeros, ones)

    return _assemble(coordinates, event_shape, blank)


def _assemble(
    coordinates: Sequence[Coordinate],
    event_shape: tuple[int, ...],
    build: Callable[[str, list[int]], Bijection],
) -> Columnwise:
    """One group per scaling, in a fixed order, so that fitted and empty maps have the same parts."""
    expected = math.prod(event_shape)
    if len(coordinates) != expected:
        raise ShapeError(f"{len(coordinates)} coordinates for rows of shape {event_shape}, expected {expected}")
    names = [*_SCALES, "cumulative"]
    for coordinate in coordinates:
        if coordinate.scaling not in names:
            raise unknown_name("scaling", coordinate.scaling, names, where=coordinate.name)
    members = {name: [i for i, c in enumerate(coordinates) if c.scaling == name] for name in names}
    groups = [(indices, build(name, indices)) for name, indices in members.items() if indices]
    return Columnwise(groups, event_shape)


def _frequencies(probabilities: Mapping[int, Tensor], index: int, coordinate: Coordinate) -> Tensor:
    """The probabilities of one cumulative coordinate, of the length its record states."""
    if index not in probabilities:
        raise ConfigError(f"Coordinate {index} is cumulative but has no probabilities", where=coordinate.name)
    found = probabilities[index]
    if tuple(found.shape) != (coordinate.cells,):
        raise ShapeError(
            f"The probabilities have shape {tuple(found.shape)}, expected ({coordinate.cells},)", where=coordinate.name
        )
    return found


@dataclass(frozen=True)
class Moments:
    """Means and variances of rows, in float64.

    Attributes:
        count: How many rows.
        mean: ``(columns,)``, or one number where all columns share it.
        variance: ``(columns,)``, or one number.
    """

    count: int
    mean: Tensor
    variance: Tensor

    @staticmethod
    def of(columns: Tensor, scaling: str) -> "Moments":
        """Of ``(rows, columns)``, as the scaling shares them."""
        wide = columns.double()
        mean = wide.mean() if scaling == "pixel" else wide.mean(0)
        squares = (wide - mean).square()
        return Moments(len(columns), mean, squares.mean(0) if scaling in ("standardise", "asinh") else squares.mean())

    def shared(self, places: list[int], scaling: str) -> "Moments":
        """Of some of the columns, as the scaling shares them."""
        variance = self.variance[places]
        return Moments(self.count, self.mean[places], variance.mean() if scaling == "common" else variance)

    def and_of(self, other: "Moments") -> "Moments":
        """Of these rows and others together (Chan, Golub & LeVeque 1983, eq. 2.1)."""
        count = self.count + other.count
        share, away = other.count / count, other.mean - self.mean
        between = share * (1 - share) * away.square()
        between = between.mean() if self.variance.ndim < between.ndim else between
        variance = (1 - share) * self.variance + share * other.variance + between
        return Moments(count, self.mean + share * away, variance)


def _standardise(found: Moments, scaling: str, width: int, dtype: torch.dtype) -> Standardise:
    """The map to zero mean and unit variance, as the scaling shares them."""
    shift = found.mean
    largest = shift.abs().amax() if scaling == "common" else shift
    scale = _safe(found.variance.sqrt(), _rounding(largest, dtype)).to(dtype)
    scale = scale.expand(width) if scaling == "common" else scale
    return Standardise(shift.to(dtype), scale, (width,))


def _bend(columns: Tensor) -> tuple[Asinh, Tensor]:
    """The bend of heavy tails, and which columns are constant."""
    wide = columns.double()
    location = wide.median(0).values
    distance = (wide - location).abs()
    rounding = _rounding(location, columns.dtype)
    constant = distance.amax(0) <= rounding

    # The median distance; where more than half of the rows repeat one value, that of the others.
    apart = distance.masked_fill(distance == 0, float("nan"))
    spread = torch.where(distance.median(0).values > 0, distance.median(0).values, apart.nanmedian(0).values)
    scale = torch.maximum(spread.nan_to_num() / _NORMAL_QUARTILE, rounding).masked_fill(constant, 1.0)
    return Asinh(location.to(columns.dtype), scale.to(columns.dtype)), constant


def _rounding(centre: Tensor, dtype: torch.dtype) -> Tensor:
    """The spread that mere rounding of ``dtype`` can cause around ``centre``; positive."""
    return (4 * torch.finfo(dtype).eps * centre.abs()).clamp(min=torch.finfo(dtype).tiny)


def _safe(scale: Tensor, rounding: Tensor) -> Tensor:
    """1 in place of a scale that is zero or no more than rounding."""
    return torch.where(scale > rounding, scale, torch.ones_like(scale))


_SCALES = ("standardise", "asinh", "pixel", "common")
