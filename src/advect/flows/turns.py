"""The chunks of a computation on many rows: one after another here, or shared out over processes.

What a chunk draws may not depend on who computes the others. Where there are several chunks each has a generator of its
own, seeded from the given one; a chunk that is alone draws from the given one itself. A computation that draws nothing
leaves the given generator as it was.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import overload

import torch
from torch import Generator, Tensor

from advect.records import Mapped

Record = dict[str, Tensor]
"""What came out of a chunk, by name."""

Runner = Callable[[Callable[[int], Record], int], list[Record]]
"""Computes so many chunks by their number, and gives all of them in order."""

_STATE, _DREW = "generator state", "drew"


def in_turn(work: Callable[[int], Record], chunks: int) -> list[Record]:
    """All chunks here, one after another."""
    return [work(number) for number in range(chunks)]


def run_chunks(
    runner: Runner, work: Callable[[int, Generator | None], Record], chunks: int, generator: Generator | None
) -> list[Record]:
    """The records of all chunks.

    Args:
        runner: Who computes them.
        work: From a chunk's number and its generator to its record.
        chunks: How many there are.
        generator: Of every draw; on return it is where it would be whoever computed the chunks.
    """
    if generator is None or (chunks == 1 and runner is in_turn):
        return runner(lambda number: work(number, generator), chunks)
    if chunks == 1:
        found = runner(lambda number: work(number, generator) | {_STATE: generator.get_state()}, chunks)
        generator.set_state(found[0].pop(_STATE))
        return found
    ahead = twin(generator)
    seeds = torch.randint(2**62, (chunks,), generator=ahead, device=ahead.device).tolist()

    def drawing(number: int) -> Record:
        own = Generator(generator.device).manual_seed(seeds[number])
        before = own.get_state()
        record = work(number, own)
        return record | {_DREW: torch.tensor(not torch.equal(before, own.get_state()))}

    found = runner(drawing, chunks)
    drew = [bool(record.pop(_DREW)) for record in found]
    if any(drew):
        generator.set_state(ahead.get_state())
    return found


@overload
def twin(generator: Generator) -> Generator: ...
@overload
def twin(generator: None) -> None: ...
def twin(generator: Generator | None) -> Generator | None:
    """A generator that will draw the same as this one."""
    if generator is None:
        return None
    twin = Generator(generator.device)
    twin.set_state(generator.get_state())
    return twin


def record_of(mapped: Mapped) -> Record:
    """What a map reports, by name; what it does not report is left out."""
    values = {field.name: getattr(mapped, field.name) for field in fields(mapped)}
    return {name: value for name, value in values.items() if value is not None}


def is_apart(mapped: Mapped, rows: Tensor) -> bool:
    """Whether a record is as `joined` would give it: each tensor in its plain order, none in the memory of ``rows``."""
    held = mapped.value, mapped.log_abs_det_jacobian, mapped.status, mapped.standard_error, mapped.nfe
    apart = mapped.value.untyped_storage().data_ptr() != rows.untyped_storage().data_ptr()
    return apart and all(tensor is None or tensor.is_contiguous() for tensor in held)


def joined(records: list[Record]) -> Mapped:
    """One record of a map from those of its chunks."""

    def reported(name: str) -> Tensor | None:
        """The chunks of a quantity end to end; None where the map does not report it."""
        held = [record[name] for record in records if name in record]
        return torch.cat(held) if held else None

    return Mapped(
        value=torch.cat([record["value"] for record in records]),
        log_abs_det_jacobian=reported("log_abs_det_jacobian"),
        status=torch.cat([record["status"] for record in records]),
        standard_error=reported("standard_error"),
        nfe=reported("nfe"),
    )
