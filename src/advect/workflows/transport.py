"""Moving given rows through a model: data to source (`encode`) and source to data (`decode`)."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from advect.data import Codec, with_condition
from advect.errors import ConfigError, unknown_name
from advect.flows import EmpiricalBase, Flow
from advect.records import Mapped, Table
from advect.run import Artefact
from advect.training import generator_for
from advect.transforms import Compose
from advect.typing import Bijection
from advect.workflows.generate import latent_table
from advect.workflows.growth import mass_gain, mass_name, with_mass
from advect.workflows.streams import SCORE

DIRECTIONS = ("source", "target")


@dataclass(frozen=True)
class Transported:
    """Rows on the other side.

    Attributes:
        table: The rows; columns of the data where the other side is data, else ``z0, z1, …``. Where the plan makes and
            loses mass with what they carry beside them, of a mass of 1 at the start.
        status: ``(rows,)`` int8, see `Status`.
        nfe: Mean network evaluations per row.
    """

    table: Table
    status: Tensor
    nfe: float


@torch.no_grad()
def transport(artefact: Artefact, table: Table, *, to: str = "source", seed: int = 0) -> Transported:
    """Move rows to the other end of the flow.

    Args:
        artefact: The model.
        table: Data rows for ``to="source"``. For ``to="target"``: source rows of the data's kind where the model was
            trained with a source data set, else latent rows (as ``to="source"`` gives them).
        to: ``source`` or ``target``.
        seed: Of the noise inside discrete cells and of fills.

    Raises:
        AdvectError: Rows that do not fit, or an unknown direction.
    """
    if to not in DIRECTIONS:
        raise unknown_name("direction", to, DIRECTIONS, where="--to")
    condition = None if artefact.condition is None else artefact.condition.encode(table).float()
    two_populations = isinstance(artefact.flow.base, EmpiricalBase)
    generator = generator_for(seed, SCORE)
    if to == "target" and not two_populations:
        latent = latent_rows(artefact, table)
        moved = _careful(artefact).decode(latent, condition, log_det=False, generator=generator)
        mass = mass_gain(artefact, latent, 0.0, 1.0, condition)
        status, result = moved.status.cpu(), artefact.codec.decode(moved.value.cpu())
    else:
        coded = artefact.codec.encode(table, generator=generator, dtype=torch.float64)
        if to == "source":
            moved = artefact.flow.encode(coded.values, condition, log_det=False, generator=generator)
            gained = mass_gain(artefact, moved.value, 0.0, 1.0, condition)
            mass = None if gained is None else 1 / gained  # backwards it is what they came from
            codes = latent_table(moved.value, latent_names(artefact))
            result = from_latent(artefact, moved) if two_populations else codes
        else:
            latent = _scaled(artefact, coded.values)
            moved = _careful(artefact).decode(latent, condition, log_det=False)
            mass = mass_gain(artefact, latent, 0.0, 1.0, condition)
            result = artefact.codec.decode(moved.value.cpu())
        status = torch.maximum(coded.status.to(torch.int8), moved.status.cpu().to(torch.int8))
    if artefact.condition is not None and condition is not None:  # so that the rows can be moved back
        result = with_condition(result, artefact.condition, condition)
    nfe = float(moved.nfe.double().mean()) if moved.nfe is not None and len(moved.nfe) else 0.0
    return Transported(with_mass(result, mass), status, nfe)


def _careful(artefact: Artefact) -> Flow:
    """The flow with the solver of likelihoods in both directions: given rows are moved exactly, not sampled."""
    ode = artefact.flow.ode
    return artefact.flow if ode is None else artefact.flow.with_options(solver=ode.likelihood_solver)


def latent_names(artefact: Artefact) -> tuple[str, ...]:
    """Names of latent columns: ``z0, z1, …``."""
    return tuple(f"z{i}" for i in range(math.prod(_latent_shape(artefact))))


def latent_rows(artefact: Artefact, table: Table) -> Tensor:
    """A table of latent columns, beside which conditions may stand, as ``(rows, *event)`` float32.

    Raises:
        ConfigError: The wrong number of columns, or columns that are no numbers.
    """
    width = math.prod(_latent_shape(artefact))
    given = {column.name for column in artefact.schema.condition} | (
        {mass_name(artefact)} if artefact.growth else set()
    )
    columns = [c for name, c in zip(table.names, table.columns, strict=True) if name not in given]
    if len(columns) != width or any(c.dtype.kind not in "biuf" for c in columns):
        found = f"{len(columns)} were given" if len(columns) != width else "some hold text"
        raise ConfigError(
            f"{width} latent columns of numbers are needed and {found}",
            where=table.origin,
            remedy="Give latent rows as `advect transport … --to source` writes them.",
        )
    return (
        torch.stack([torch.as_tensor(c.astype("float64")) for c in columns], 1)
        .reshape(-1, *_latent_shape(artefact))
        .float()
    )


def _latent_shape(artefact: Artefact) -> tuple[int, ...]:
    """Shape of a row at the source: that of the coordinates, except for models whose codes have another."""
    return tuple(getattr(artefact.flow.base, "event_shape", artefact.codec.event_shape))


def preprocessing(artefact: Artefact) -> list[Bijection]:
    """The maps between the user's coordinates and the latent ones."""
    whole = artefact.flow.map
    assert isinstance(whole, Compose)  # `methods.full_flow` puts the preprocessing first and the flow's own map last
    return list(whole.maps)[:-1]


def scaling_of(flow: Flow) -> list[Bijection]:
    """The maps that scale rows of the user's coordinates, before any stage that codes them."""
    whole = flow.map
    assert isinstance(whole, Compose)
    return [part for part in list(whole.maps)[:-1] if getattr(part, "likelihood", "exact") == "exact"]


def scaled(artefact: Artefact, table: Table, generator: torch.Generator) -> Tensor:
    """Rows of the data's kind in scaled coordinates, without any coding: where samples and rows are compared."""
    value = artefact.codec.encode(table, generator=generator, dtype=torch.float64).values
    for part in scaling_of(artefact.flow):
        value = part.encode(value, log_det=False).value
    return value


def to_latent(artefact: Artefact, table: Table, generator: torch.Generator) -> Tensor:
    """Rows of the data's kind in latent coordinates."""
    return _scaled(artefact, artefact.codec.encode(table, generator=generator, dtype=torch.float64).values)


def _scaled(artefact: Artefact, value: Tensor) -> Tensor:
    for part in preprocessing(artefact):
        value = part.encode(value, log_det=False).value
    return value


def from_latent(artefact: Artefact, moved: Mapped) -> Table:
    """Latent rows as a table of the data's kind, whose numbers need not lie where those of the data do."""
    value = moved.value
    for part in reversed(preprocessing(artefact)):
        value = part.decode(value, log_det=False).value
    return _unbounded(artefact.codec).decode(value.cpu())


def _unbounded(codec: Codec) -> Codec:
    """The codec for another population: its numbers are not clipped to what was observed in the data."""
    ends = {"real": float(np.finfo(np.float64).max), "whole": 2.0**62}
    columns = list(codec.schema.columns)
    for i, code in enumerate(codec.codes):
        if code.form in ends:
            columns[i] = replace(columns[i], minimum=-ends[code.form], maximum=ends[code.form])
    return replace(codec, schema=replace(codec.schema, columns=tuple(columns)))
