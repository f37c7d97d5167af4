"""Transport that minds a continuous condition (Cheng & Schwing, "C2OT", 2503.10636).

A sampler asks for one condition and starts from the whole source. Transport of whole batches would give each
condition its own part of the source, and leave the field untrained elsewhere. Here every source row is given a
condition too, drawn at random from those of the batch, so that source and condition are independent; then rows are
paired at the cost of rows and conditions together (`beside`).

As its weight w → ∞ only equal conditions are paired, and the pairing is independent of x; as w → 0 it is transport of
the whole batch. Between them lies the plan that is straight *and* leaves the source nearly independent of the
condition. Conditions are compared after scaling each of their numbers to unit variance in the batch.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.couplings.assignment import Assignment
from advect.couplings.beside import Beside
from advect.couplings.cost import centred_rows, check_rows
from advect.couplings.draws import need_generator, permutation
from advect.couplings.in_batch import InBatch
from advect.errors import ConfigError, ShapeError
from advect.records import Pairs
from advect.typing import Coupling

_ROUNDING = 1e-12  # spread of a number beside its size below which it is one number with rounding


@dataclass(frozen=True)
class Conditioned(InBatch):
    """A plan on the cost of rows and conditions together.

    Attributes:
        bandwidth: Of the conditions, as a share of their typical distance: small keeps the source independent of the
            condition, large makes the ways straight.
        inner: Makes the plan, by squared distances: `Assignment`, `Partial`, `Entropic` or `Unbalanced`. What it loses
            or leaves out is then of rows and conditions together.
    """

    bandwidth: float = 0.05
    inner: Coupling = Assignment()  # noqa: RUF009 -- it is frozen

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bandwidth) and self.bandwidth > 0):
            raise ConfigError(f"bandwidth is {self.bandwidth}, but must be a positive number", where="Conditioned")
        if getattr(self.inner, "cost", "squared") != "squared":
            raise ConfigError(
                "a condition of numbers can only be weighed against squared distances of rows",
                where="Conditioned(inner=…)",
                remedy='Take the cost "squared".',
            )

    def draw(
        self,
        x0: Float[Tensor, "source ..."],
        x1: Float[Tensor, "data ..."],
        *,
        condition: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Pairs:
        """Pair every row once; without a condition it is `inner`.

        Returns: Data rows in place. The report holds ``mean_cost`` and ``independent_cost`` of the rows alone, and
            ``condition_mismatch``, the root-mean-square distance of paired conditions as a share of that of two at
            random.

        Raises:
            ShapeError: Different event shapes or numbers of rows, or no rows.
            DataError: Rows that are not finite.
            ConfigError: A condition without a generator.
        """
        check_rows(x0, x1, "Conditioned.draw")
        rows = len(x1)
        if len(x0) != rows or (condition is not None and len(condition) != rows):
            given = "" if condition is None else f" and {len(condition)} conditions"
            raise ShapeError(
                f"{len(x0)} source rows, {rows} data rows{given}",
                where="Conditioned.draw",
                remedy="Give equally many of each.",
            )
        if condition is None:
            return self.inner.draw(x0, x1, generator=generator)
        generator = need_generator(generator, "Conditioned.draw")
        given1, _ = centred_rows(condition, condition)
        given0 = given1[permutation(rows, generator, given1.device)]
        spread = given1.std(0, correction=0)
        constant = spread <= _ROUNDING * condition.detach().reshape(rows, -1).double().abs().amax(0)
        scale = torch.where(constant, 0.0, 1 / spread)
        beside = Beside.of(self.inner, scale, self.bandwidth, rows=(x0, x1), given=(given0, given1))
        return beside.draw(x0, x1, (given0, given1), generator)
