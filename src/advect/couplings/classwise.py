"""Pairing inside each class of a condition (Cheng & Schwing, "C2OT", 2503.10636).

Optimal transport of whole batches makes the source depend on the condition: each class claims the source rows nearest
to it. A sampler that starts from the whole source and asks for one class then starts where the field was never
trained. Inside a class that cannot happen: every class gets source rows chosen at random, as many as it has data
rows, and the inner coupling acts on those alone.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Shaped
from torch import Generator, Tensor

from advect.couplings.draws import need_generator, permutation
from advect.couplings.independent import Independent
from advect.errors import ShapeError
from advect.records import Pairs
from advect.typing import Coupling

CONTINUOUS_NOTICE = (
    "The condition takes (nearly) a different value in every row, so there are no classes to pair in: source and data "
    "are paired independently, as optimal transport of the whole batch would bend the source given the condition."
)
"""What to tell the user when a report holds ``continuous_condition``."""


@dataclass(frozen=True)
class Classwise:
    """Let ``inner`` pair the rows of each class among themselves.

    A class is a distinct row of the condition. When more than half of the rows of a batch are distinct the condition
    counts as continuous; `continuous` then pairs the batch. Without one the pairing is independent: classes of one row
    are independent pairs anyway, so nothing jumps at that border.

    Attributes:
        inner: The coupling inside a class.
        continuous: The coupling for continuous conditions, such as `Conditioned`.
    """

    inner: Coupling
    continuous: Coupling | None = None

    def prepare(
        self,
        source: Tensor | None,
        data: Tensor,
        *,
        condition: Tensor | None = None,
        generator: Generator | None = None,
    ) -> "Classwise":
        """Prepare the inner coupling."""
        inner = self.inner.prepare(source, data, condition=condition, generator=generator)
        return replace(self, inner=inner)

    def draw(
        self,
        x0: Float[Tensor, "source ..."],
        x1: Float[Tensor, "data ..."],
        *,
        condition: Shaped[Tensor, "given ..."] | None = None,
        generator: Generator | None = None,
    ) -> Pairs:
        """Pair the rows of each class; without a condition the inner coupling sees the whole batch.

        Args:
            x0: Source rows, a multiple (usually one) of the number of data rows. They carry no condition of their own.
            x1: Data rows.
            condition: ``(data, *condition)``, of any dtype.
            generator: Splits the source among the classes, then serves the inner coupling, class after class.

        Returns:
            Pairs in the order of the data rows. The report holds ``classes``, the inner figures averaged over the
            pairs, and ``continuous_condition`` (see `CONTINUOUS_NOTICE`) where such a condition was paired at random.

        Raises:
            ShapeError: A condition of another length, or a number of source rows that is no multiple.
            ConfigError: A condition without a generator.
        """
        if condition is None:
            return self.inner.draw(x0, x1, generator=generator)
        generator = need_generator(generator, "Classwise.draw")
        num0, num1 = len(x0), len(x1)
        if len(condition) != num1:
            raise ShapeError(f"{len(condition)} rows of condition for {num1} data rows", where="Classwise.draw")
        if not num1 or not num0 or num0 % num1:
            raise ShapeError(
                f"{num0} source rows cannot be split among the classes of {num1} data rows",
                where="Classwise.draw",
                remedy="Draw as many source rows as data rows, or a multiple.",
            )

        labels, counts = torch.unique(condition.reshape(num1, -1), dim=0, return_inverse=True, return_counts=True)[1:]
        if len(counts) > num1 / 2 and len(counts) > 1:
            if self.continuous is not None:
                return self.continuous.draw(x0, x1, condition=condition, generator=generator)
            pairs = Independent().draw(x0, x1, generator=generator)
            return Pairs(
                pairs.index0, pairs.index1, report={"continuous_condition": 1.0, "classes": float(len(counts))}
            )

        members = torch.split(torch.argsort(labels, stable=True).to(x1.device), counts.tolist())
        order = permutation(num0, generator, x1.device)
        shares = torch.split(order, (counts * (num0 // num1)).tolist())
        drawn = [
            self.inner.draw(x0[share.to(x0.device)], x1[rows], generator=generator)
            for share, rows in zip(shares, members, strict=True)
        ]
        return joined_classes(drawn, shares, members)


def joined_classes(drawn: list[Pairs], shares: tuple[Tensor, ...], members: tuple[Tensor, ...]) -> Pairs:
    """The pairs of all classes, in the order of the data rows.

    Args:
        drawn: Of each class.
        shares: Its source rows.
        members: Its data rows.
    """
    index0 = torch.cat([share[pairs.index0] for pairs, share in zip(drawn, shares, strict=True)])
    index1 = torch.cat([rows[pairs.index1] for pairs, rows in zip(drawn, members, strict=True)])
    order = torch.argsort(index1, stable=True)
    weights = [pairs.weight for pairs in drawn if pairs.weight is not None]
    weight = torch.cat(weights)[order] if len(weights) == len(drawn) else None

    figures = {name for pairs in drawn for name in pairs.report}
    report = {"classes": float(len(drawn))}
    for name in sorted(figures):
        total = sum(pairs.report.get(name, 0.0) * len(pairs.index1) for pairs in drawn)
        report[name] = total / len(index1)
    return Pairs(index0[order], index1[order], weight, report)
