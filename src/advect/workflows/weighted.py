"""Rows as their weights say, for figures that count every row alike.

A model of weighted rows has the weighted law. To compare with it, each held-out row is kept with probability w/max w:
what is kept are independent draws of that law, no row twice, so that floors and errors mean what they always do. Where
few would be left, rows are drawn in proportion to their weights with replacement, as many as the effective number
(Σw)²/Σw²; equal rows then stand on both sides of a floor, which is a little low.
"""

import numpy as np
import torch

from advect.data import find_array, take_rows
from advect.records import Table
from advect.run import Artefact

FEWEST = 200


def weights_of(artefact: Artefact, table: Table) -> torch.Tensor | None:
    """The weights ``(rows,)`` of rows, by the column that the run was trained with; None where there are none.

    Rows that are given later need not have the column, or not in that form: they count alike then.
    """
    name = artefact.config.get("data", {}).get("weights")
    found = None if name is None else find_array(table, name)
    if found is None:
        return None
    try:
        weight = torch.as_tensor(np.asarray(found, dtype=np.float64))
    except (TypeError, ValueError):
        return None
    weight = torch.where(weight.isfinite(), weight, torch.zeros_like(weight)).clamp_min(0)
    return weight if float(weight.sum()) > 0 else None


def kept(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Indices of rows as their weights ``(rows,)`` say, see above."""
    chosen = (torch.rand(len(weight), generator=generator, dtype=torch.float64) < weight / weight.max()).nonzero()[:, 0]
    if len(chosen) >= min(FEWEST, int((weight > 0).sum())):
        return chosen
    effective = max(2, int(weight.sum() ** 2 / weight.square().sum()))
    return torch.multinomial(weight, effective, replacement=True, generator=generator)


def by_weight(artefact: Artefact, table: Table, generator: torch.Generator) -> Table:
    """Rows of the table drawn by the weights that the run was trained with; the table itself where there are none.

    Args:
        artefact: The model.
        table: Rows, with the column of weights or without it.
        generator: Of the draws.
    """
    weight = weights_of(artefact, table)
    return table if weight is None else take_rows(table, kept(weight, generator).numpy())
