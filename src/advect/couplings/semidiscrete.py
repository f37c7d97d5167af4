"""Semidiscrete optimal transport: from the whole source distribution to the rows of the data set.

The optimal plan from a density to finitely many rows is a map: x0 goes to argmin_j |x0 − x1_j|² − g_j, with one dual
number g_j per data row, learned once (`duals`), or computed to rounding from a standard normal in one or two dimensions
(`exact_duals`). Then each draw of the source is paired in the time of one search,
without the bias of plans between batches, which mix near and far pairs whatever the data
("Flow matching with semidiscrete couplings", 2509.25519).

What it needs: a source that can be drawn from for ever, and data that stay the same; rows with dequantisation noise
or filled gaps are represented by one draw of it. How even the data rows are drawn is measured by the χ² of the
learned plan.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from advect.couplings.assignment import Assignment
from advect.couplings.cells import PowerCells
from advect.couplings.classwise import Classwise
from advect.couplings.conditioned import Conditioned
from advect.couplings.cost import check_rows
from advect.couplings.draws import integers, need_generator, uniforms
from advect.couplings.duals import Duals, learn_duals
from advect.couplings.exact_duals import exact_duals
from advect.errors import ConfigError, ShapeError
from advect.records import Pairs

_SOURCE_PER_ROW = 10  # source rows per data row from which a finite source counts as a distribution


@dataclass(frozen=True)
class _Plan:
    """The plan to the data rows of one class.

    Attributes:
        cells: Distinct rows with their discounts, about `centre`.
        centre: ``(dim,)``.
        members: For each distinct row, the indices of the data rows that equal it, one after another.
        first: Where each distinct row's members begin.
        counts: How many there are.
        chi_square: See `duals.Duals`.
        noise: Likewise.
        converged: Likewise.
    """

    cells: PowerCells
    centre: Float[np.ndarray, " dim"]
    members: Int[np.ndarray, " rows"]
    first: Int[np.ndarray, " distinct"]
    counts: Int[np.ndarray, " distinct"]
    chi_square: float
    noise: float
    converged: bool

    def choose(self, points: Float[np.ndarray, "batch dim"], level: Float[np.ndarray, " batch"]) -> np.ndarray:
        """The data row of each point; among equal rows the uniform numbers ``level`` choose."""
        cell = self.cells.nearest(points - self.centre)[1][:, 0]
        return self.members[self.first[cell] + (level * self.counts[cell]).astype(np.int64)]


@dataclass(frozen=True)
class Semidiscrete:
    """Pairs each source row with the data row that optimal transport of the whole source sends it to.

    It has to be prepared with the data set. Then `choose` gives data rows for source rows. Between rows it was not
    prepared for, such as those of a validation set, `draw` pairs by exact transport inside the batch.

    Attributes:
        target: The χ² of the drawn data rows at which learning stops; numbers that are computed leave less than 1e-9.
        max_rounds: Rounds of learning at most, each as many draws as there are data rows (at least 16,384).
    """

    target: float = 0.05
    max_rounds: int = 200
    _labels: Tensor | None = field(default=None, repr=False)
    _plans: tuple[_Plan, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.target) and self.target > 0):
            raise ConfigError(f"target is {self.target}, but must be a positive number", where="Semidiscrete")
        if self.max_rounds < 1:
            raise ConfigError(f"max_rounds is {self.max_rounds}, but must be at least 1", where="Semidiscrete")

    def prepare(
        self,
        source: Tensor | None,
        data: Tensor,
        *,
        condition: Tensor | None = None,
        generator: Generator | None = None,
    ) -> "Semidiscrete":
        """Learn the dual numbers, inside each class of a discrete condition.

        Args:
            source: ``(source, *event)`` rows to draw from, or None for a standard normal.
            data: ``(rows, *event)``.
            condition: ``(rows, *condition)``; every distinct value needs rows enough to count as a class.
            generator: Of the draws; required.

        Raises:
            ConfigError: Without a generator; a condition that is continuous; a source set that is not much larger
                than the data.
        """
        generator = need_generator(generator, "Semidiscrete.prepare")
        check_rows(data if source is None else source, data, "Semidiscrete.prepare")
        if source is not None and len(source) < _SOURCE_PER_ROW * len(data):
            raise ConfigError(
                f"{len(source)} source rows are no distribution beside {len(data)} data rows: each would be split",
                where="Semidiscrete.prepare",
                remedy="Pair both sets as wholes instead: plan=assignment with a pool of all batches (pool=0).",
            )
        flat = data.detach().reshape(len(data), -1).double().cpu().numpy()
        points = _points(source, flat.shape[1], generator)
        if condition is None:
            labels, members = None, [np.arange(len(flat))]
        else:
            labels, members = _classes(condition)
        plans = (self._plan(points, flat, rows, generator, source is None) for rows in members)
        return replace(self, _labels=labels, _plans=tuple(plans))

    def _plan(
        self,
        points: Callable[[int], np.ndarray],
        flat: np.ndarray,
        rows: np.ndarray,
        generator: Generator,
        normal: bool,
    ) -> _Plan:
        """The plan to those data rows; equal rows are one row of more mass. Is the source a standard ``normal``?"""
        distinct, which, counts = np.unique(flat[rows], axis=0, return_inverse=True, return_counts=True)
        centre = (points(4096).mean(0) + distinct.mean(0)) / 2
        exact = exact_duals(distinct, counts / counts.sum()) if normal else None
        if exact is not None:
            duals = Duals(*exact, rounds=0)
        else:
            duals = learn_duals(
                lambda count: points(count) - centre,
                distinct - centre,
                counts,
                generator=generator,
                target=self.target,
                max_rounds=self.max_rounds,
            )
        return _Plan(
            PowerCells(distinct - centre, duals.discount),
            centre,
            rows[np.argsort(which.reshape(-1), kind="stable")],
            np.cumsum(counts) - counts,
            counts,
            duals.chi_square,
            duals.noise,
            duals.converged,
        )

    def choose(
        self,
        x0: Float[Tensor, "batch ..."],
        *,
        condition: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Pairs:
        """The data row of each source row, as an index into the whole data set.

        Args:
            x0: Source rows.
            condition: ``(batch, *condition)`` the class each source row is for, where it was prepared with classes.
            generator: Chooses among equal data rows; required.

        Returns: ``index0`` counts up; ``index1`` are data-set indices; the report holds ``chi_square``, the mean over
            classes, its standard error ``chi_square_noise``, and ``converged``, the share of classes whose plan reached
            the target.
        """
        if not self._plans:
            raise ConfigError("it was not prepared with a data set", where="Semidiscrete.choose")
        generator = need_generator(generator, "Semidiscrete.choose")
        points = x0.detach().reshape(len(x0), -1).double().cpu().numpy()
        level = uniforms(len(x0), generator, torch.device("cpu")).numpy()
        index1 = np.empty(len(x0), dtype=np.int64)
        for place, plan in enumerate(self._plans):
            own = np.arange(len(x0)) if self._labels is None else self._of_class(place, condition)
            index1[own] = plan.choose(points[own], level[own])
        count = len(self._plans)
        report = {
            "chi_square": sum(plan.chi_square for plan in self._plans) / count,
            "chi_square_noise": math.sqrt(sum(plan.noise**2 for plan in self._plans)) / count,
            "converged": sum(plan.converged for plan in self._plans) / count,
        }
        return Pairs(torch.arange(len(x0), device=x0.device), torch.from_numpy(index1).to(x0.device), report=report)

    def _of_class(self, place: int, condition: Tensor | None) -> np.ndarray:
        """The rows of a batch whose condition is that class."""
        assert self._labels is not None
        if condition is None:
            raise ShapeError(
                "it was prepared with classes, and the batch has no condition", where="Semidiscrete.choose"
            )
        same = condition.reshape(len(condition), -1).cpu() == self._labels[place]
        return same.all(1).nonzero()[:, 0].numpy()

    def draw(
        self,
        x0: Float[Tensor, "source ..."],
        x1: Float[Tensor, "data ..."],
        *,
        condition: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Pairs:
        """Pair rows it was not prepared for: exact transport inside the batch, inside each class. See `Classwise`."""
        return Classwise(Assignment(), Conditioned()).draw(x0, x1, condition=condition, generator=generator)


def _points(source: Tensor | None, dim: int, generator: Generator) -> Callable[[int], np.ndarray]:
    """Draws that many source points."""
    if source is None:
        return lambda count: torch.randn(count, dim, generator=generator, dtype=torch.float64).numpy()
    rows = source.detach().reshape(len(source), -1).double().cpu()
    return lambda count: rows[integers(len(rows), count, generator, rows.device)].numpy()


def _classes(condition: Tensor) -> tuple[Tensor, list[np.ndarray]]:
    """The distinct conditions ``(classes, width)`` and the data rows of each."""
    flat = condition.reshape(len(condition), -1).cpu()
    labels, which = torch.unique(flat, dim=0, return_inverse=True)
    if len(labels) > len(flat) / 2 and len(labels) > 1:
        raise ConfigError(
            f"the condition takes {len(labels)} values in {len(flat)} rows, so there are no classes to transport to",
            where="Semidiscrete.prepare",
            remedy="Use plan=assignment, which weighs the distance of continuous conditions.",
        )
    return labels, [(which == place).nonzero()[:, 0].numpy() for place in range(len(labels))]
