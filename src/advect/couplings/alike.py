"""Pairing two populations whose rows both have conditions: like goes with like.

A snapshot in time has conditions of its own at either end: treated cells of day 1 come from treated cells of day 0, not
from a part of all of them. So the law that is led on under the condition c is that of the rows of c, and for every data
row of condition c1 a source row is drawn from the law given c1 before anything is paired:

    labels   a row of the same labels; where there is none, of those that share most of them
    scales   one of the ⌈√n⌉ rows of nearest condition: the bias shrinks as n grows, and the number of rows rises

That pairing is independent of x given the condition. A plan then acts inside each class, or, for scales, on rows that
have their condition beside them as further coordinates (`beside`).
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from advect.couplings.assignment import Assignment
from advect.couplings.beside import Beside
from advect.couplings.classwise import Classwise, joined_classes
from advect.couplings.conditioned import Conditioned
from advect.couplings.cost import check_rows
from advect.couplings.draws import permutation
from advect.couplings.entropic import Entropic
from advect.couplings.partial import Partial
from advect.couplings.unbalanced import Unbalanced
from advect.errors import ConfigError, ShapeError
from advect.records import Pairs
from advect.typing import Coupling

MOST_COMPARED = 4096  # rows among which those of near condition are looked for, in a draw
_TIE = 1e-9  # of squared distances of conditions, which are of the order of 1


def rows_alike(
    conditions: Float[Tensor, "rows condition"],
    wanted: Float[Tensor, "wanted condition"],
    *,
    scale: Float[Tensor, " condition"],
    labels: bool,
    generator: Generator,
) -> Int[Tensor, " wanted"]:
    """For each wanted condition a row that has it, or one near it, at random.

    Of equal conditions no row comes twice before all have come once.

    Args:
        conditions: Of the rows to choose from.
        wanted: Conditions.
        scale: What the numbers of a condition are multiplied by before they are compared.
        labels: Whether all of them are labels, so that only the nearest will do.
        generator: Of the draws.
    """
    among = torch.arange(len(conditions), device=conditions.device)
    if not labels and len(among) > MOST_COMPARED:
        among = permutation(len(among), generator, among.device)[:MOST_COMPARED]
    kinds, which, counts = torch.unique(wanted, dim=0, return_inverse=True, return_counts=True)
    apart = _apart(kinds, conditions[among], scale)
    enough = 1 if labels else math.ceil(math.sqrt(len(among)))
    near = apart <= apart.kthvalue(enough, dim=1, keepdim=True).values + _TIE
    if not labels:
        order = torch.rand(len(wanted), len(among), generator=generator, device=generator.device).to(near.device)
        return among[torch.where(near[which], order, -1.0).argmax(1)]
    chosen = torch.empty(len(wanted), dtype=torch.long, device=conditions.device)
    for kind, count in enumerate(counts.tolist()):
        rows = near[kind].nonzero()[:, 0]
        orders = [permutation(len(rows), generator, rows.device) for _ in range(-(-count // len(rows)))]
        chosen[which == kind] = among[rows[torch.cat(orders)[:count]]]
    return chosen


def _apart(one: Tensor, other: Tensor, scale: Tensor) -> Float[Tensor, "one other"]:
    """Squared distances of scaled conditions, number by number: exact where they are equal."""
    total = torch.zeros(len(one), len(other), dtype=torch.float64, device=one.device)
    for place, factor in enumerate(scale.double().tolist()):
        total += (factor * (one[:, place, None].double() - other[:, place].double())).square_()
    return total


@dataclass(frozen=True)
class Alike:
    """A coupling of rows that were drawn as `rows_alike`: row i of either side has the same condition, or nearly.

    Attributes:
        inner: Pairs rows inside a class, or rows with their scales beside them.
        labels: Whether conditions are labels.
        scale: ``(condition,)`` what their numbers are multiplied by before they are compared.
        bandwidth: See above; of scales alone.
    """

    inner: Coupling
    labels: bool
    scale: Tensor
    bandwidth: float = 0.05

    @classmethod
    def of(cls, coupling: Coupling, *, labels: bool, scale: Tensor) -> "Alike":
        """What a coupling for one population with conditions is between two.

        Raises:
            ConfigError: It cannot weigh scales: its costs are not squared distances.
        """
        inner = coupling.inner if isinstance(coupling, Classwise) else coupling
        continuous = coupling.continuous if isinstance(coupling, Classwise) else None
        blind = getattr(inner, "blind", False)
        kinds = Assignment | Partial | Entropic | Unbalanced
        weighs = isinstance(inner, kinds) and getattr(inner, "cost", "squared") == "squared"
        if not labels and not blind and not weighs:
            raise ConfigError(
                "this coupling cannot weigh a condition of numbers between two populations",
                where="--condition",
                remedy="Use ot-cfm, i-cfm, rf, sb-cfm or sf2m as they are, or conditions that are labels.",
            )
        return cls(inner, labels, scale, continuous.bandwidth if isinstance(continuous, Conditioned) else 0.05)

    def prepare(
        self,
        source: Tensor | None,
        data: Tensor,
        *,
        condition: Tensor | None = None,
        generator: Generator | None = None,
    ) -> "Alike":
        """Prepare the inner coupling."""
        return replace(self, inner=self.inner.prepare(source, data, generator=generator))

    def choose(self, conditions: Tensor, wanted: Tensor, generator: Generator) -> Tensor:
        """Which of some rows of these conditions stand beside rows of the wanted ones; see `rows_alike`."""
        scale = self.scale.to(conditions.device)
        return rows_alike(conditions, wanted, scale=scale, labels=self.labels, generator=generator)

    def draw(
        self,
        x0: Float[Tensor, "source ..."],
        x1: Float[Tensor, "data ..."],
        *,
        condition: Float[Tensor, "given condition"] | None = None,
        source_condition: Float[Tensor, "own condition"] | None = None,
        generator: Generator | None = None,
    ) -> Pairs:
        """Pair rows of one condition with one another.

        Args:
            x0: Source rows, each drawn for the data row of its place.
            x1: Data rows.
            condition: Of the data rows; without it the inner coupling sees the whole batch.
            source_condition: The source rows' own; needed of scales.
            generator: Of the inner coupling.

        Returns:
            Pairs in the order of the data rows. The report holds the inner figures, of rows alone; of labels also
            ``classes``, of scales ``condition_mismatch``, the root-mean-square distance of paired conditions as a
            share of that of two at random.

        Raises:
            ShapeError: Unequal numbers of rows, or no source conditions where they are needed.
        """
        if condition is None:
            return self.inner.draw(x0, x1, generator=generator)
        check_rows(x0, x1, "Alike.draw")
        if not len(x0) == len(x1) == len(condition):
            raise ShapeError(
                f"{len(x0)} source rows, {len(x1)} data rows and {len(condition)} conditions",
                where="Alike.draw",
                remedy="Draw a source row for every data row.",
            )
        if getattr(self.inner, "blind", False):  # they were drawn so
            place = torch.arange(len(x1), device=x1.device)
            return Pairs(place, place)
        if self.labels:
            return self._in_classes(x0, x1, condition, generator)
        if source_condition is None or source_condition.shape != condition.shape:
            raise ShapeError("source rows without conditions of their own", where="Alike.draw")
        return self.widened(x0, x1, source_condition, condition).draw(x0, x1, (source_condition, condition), generator)

    def _in_classes(self, x0: Tensor, x1: Tensor, condition: Tensor, generator: Generator | None) -> Pairs:
        which, counts = torch.unique(condition, dim=0, return_inverse=True, return_counts=True)[1:]
        members = torch.split(torch.argsort(which, stable=True).to(x1.device), counts.tolist())
        drawn = [self.inner.draw(x0[rows.to(x0.device)], x1[rows], generator=generator) for rows in members]
        return joined_classes(drawn, members, members)

    def widened(self, x0: Tensor, x1: Tensor, c0: Tensor, c1: Tensor) -> Beside:
        """How rows of these populations and their scales are compared together."""
        return Beside.of(self.inner, self.scale, self.bandwidth, rows=(x0, x1), given=(c0, c1))
