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


def by_weight(artefact: Artefact, table: Table, generator: torch.Generator) -> Table:
    """Rows of the table drawn by the weights that the run was trained with; the table itself where there are none.

    Args:
        artefact: The model.
        table: Rows, with the column of weights or without it.
        generator: Of the draws.
    """
    name = artefact.config.get("data", {}).get("weights")
    found = None if name is None else find_array(table, name)
    if found is None:
        return table
    try:
        weight = torch.as_tensor(np.asarray(found, dtype=np.float64))
    except (TypeError, ValueError):  # given rows need not have the column in that form
        return table
    weight = torch.where(weight.isfinite(), weight, torch.zeros_like(weight)).clamp_min(0)
    if not float(weight.sum()) > 0:
        return table
    kept = torch.rand(len(weight), generator=generator, dtype=torch.float64) < weight / weight.max()
    if int(kept.sum()) >= min(FEWEST, int((weight > 0).sum())):
        return take_rows(table, kept.nonzero()[:, 0].numpy())
    effective = max(2, int(weight.sum() ** 2 / weight.square().sum()))
    return take_rows(table, torch.multinomial(weight, effective, replacement=True, generator=generator).numpy())
