"""Independent pairing, q(x0, x1) = q(x0) q(x1): I-CFM and rectified flow (Tong et al. 2302.00482, Table 1).

Each data row keeps its place, and the source rows come in a random order. That matters when both sides are data sets in
an order of their own (by time, by label): pairing row i with row i would then not be independent.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.couplings.draws import need_generator, permutation
from advect.couplings.in_batch import InBatch
from advect.errors import ShapeError
from advect.records import Pairs


@dataclass(frozen=True)
class Independent(InBatch):
    """Pairs without looking. Equal in law whatever the condition, so a condition is simply carried along.

    Its report is empty: it costs nothing, and measuring what it did would cost more than doing it.
    """

    blind: ClassVar[bool] = True
    """Rows are not looked at, so those of many batches may be paired together."""

    def draw(
        self,
        x0: Float[Tensor, "source ..."],
        x1: Float[Tensor, "data ..."],
        *,
        condition: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Pairs:
        """Pair every data row with a source row at random.

        No source row is used twice before all have been used once. Only the numbers of rows matter, so source and
        data may even differ in shape.

        Raises:
            ShapeError: Without rows on one side.
            ConfigError: Without a generator.
        """
        generator = need_generator(generator, "Independent.draw")
        if not len(x0) or not len(x1):
            raise ShapeError(
                f"{len(x0)} source rows and {len(x1)} data rows cannot be paired", where="Independent.draw"
            )
        rounds = -(-len(x1) // len(x0))
        orders = [permutation(len(x0), generator, x1.device) for _ in range(rounds)]
        index0 = orders[0] if rounds == 1 else torch.cat(orders)
        return Pairs(index0[: len(x1)], torch.arange(len(x1), device=x1.device))
