"""Maps one after another.

For z = f_k(… f_1(x)) the log-determinants add, log |det ∂z/∂x| = Σ log |det ∂f_i|, each taken where its map was
applied. Independent errors add in quadrature, evaluations add, and a row is as bad as its worst part.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from advect.errors import ConfigError
from advect.records import Mapped, Status
from advect.transforms.bijection import ANY_CONDITION, Bijection, least_known, mapped, worst_status
from advect.transforms.coupling_run import Run, in_runs
from advect.typing import Bijection as Map

_Shape = tuple[int, ...] | Literal["any"] | None


class Compose(Bijection):
    """``Compose(f1, …, fk)``: `encode` applies f1 first, `decode` undoes fk first.

    Args:
        maps: Anything with `encode` and `decode` that return `Mapped`; our own bijections or, say, an ODE. The
            condition goes to those whose ``condition_shape`` is not None, and to those which do not say.

    No map at all is the identity.
    """

    def __init__(self, *maps: Map) -> None:
        shapes = [_declared(m) for m in maps]
        known = {s for s in shapes if isinstance(s, tuple)}
        if len(known) > 1:
            raise ConfigError(
                f"Maps in one chain take conditions of different shapes: {sorted(known)}",
                where="Compose",
                remedy="Give all of them the same condition.",
            )
        shape: _Shape = ANY_CONDITION if ANY_CONDITION in shapes else next(iter(known), None)
        super().__init__(*_ends(maps, shape))
        self.likelihood = least_known(getattr(m, "likelihood", "exact") for m in maps)
        self.maps = tuple(maps)
        self._parts = in_runs(self.maps)
        for index, member in enumerate(maps):
            if isinstance(member, nn.Module):
                self.add_module(str(index), member)

    def _encode(self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        return self._through(x, condition, log_det, generator, inverse=False)

    def _decode(self, z: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None) -> Mapped:
        return self._through(z, condition, log_det, generator, inverse=True)

    def _through(
        self, x: Tensor, condition: Tensor | None, log_det: bool, generator: Generator | None, *, inverse: bool
    ) -> Mapped:
        """All maps in turn, runs of layers at once where they can be."""
        parts: list[Mapped] = []
        for part in reversed(self._parts) if inverse else self._parts:
            found = part.passed(x, condition, log_det=log_det, inverse=inverse) if isinstance(part, Run) else None
            if found is not None:
                if len(self._parts) == 1:
                    return found
                parts.append(found)
                x = found.value
                continue
            members = part.maps if isinstance(part, Run) else (part,)
            for member in reversed(members) if inverse else members:
                verb = member.decode if inverse else member.encode
                given = None if _declared(member) is None else condition
                parts.append(verb(x, given, log_det=log_det, generator=generator))
                x = parts[-1].value
        return merge(x, parts, log_det)


def _ends(maps: Sequence[Map], condition: _Shape) -> tuple[tuple[int, ...] | None, _Shape, tuple[int, ...] | None]:
    """Shape of a row before the first map, of the condition, and of a row after the last map."""
    first: tuple[int, ...] | None = None
    last: tuple[int, ...] | None = None
    for member in maps:
        event = getattr(member, "event_shape", None)
        if event is None:
            continue
        if last is not None and event != last:
            raise ConfigError(f"Maps in one chain have different event shapes: {[last, event]}", where="Compose")
        first = event if first is None else first
        source = getattr(member, "source_shape", None)
        last = event if source is None else source
    return first, condition, last


def members(map: Map) -> Iterator[Map]:
    """The maps of nested chains one by one, in the order of `encode`."""
    if isinstance(map, Compose):
        for member in map.maps:
            yield from members(member)
    else:
        yield map


def _declared(member: Map) -> _Shape:
    """The condition shape a member declares; `ANY_CONDITION` for one that says nothing."""
    shape = getattr(member, "condition_shape", ANY_CONDITION)
    return tuple(shape) if shape is not None and shape != ANY_CONDITION else shape


def merge(value: Tensor, parts: Iterable[Mapped], log_det: bool) -> Mapped:
    """One record for ``value`` from the records of the maps on the way; rows that failed anywhere are NaN."""
    parts = list(parts)
    if not parts:
        return mapped(value, value.new_zeros(value.shape[0]) if log_det else None)

    status = worst_status([p.status for p in parts])
    failed = status >= Status.NAN_FIELD
    nan = torch.tensor(float("nan"), dtype=value.dtype, device=value.device)
    value = torch.where(failed.reshape(-1, *([1] * (value.ndim - 1))), nan, value)

    log_dets = [p.log_abs_det_jacobian for p in parts if p.log_abs_det_jacobian is not None]
    total = torch.where(failed, nan, sum_all(log_dets)) if log_det else None
    errors = [p.standard_error**2 for p in parts if p.standard_error is not None]
    counts = [p.nfe for p in parts if p.nfe is not None]
    return Mapped(
        value,
        total,
        status,
        standard_error=sum_all(errors).sqrt() if errors else None,
        nfe=sum_all(counts) if counts else None,
    )


def sum_all(tensors: list[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total
