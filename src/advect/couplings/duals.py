"""Dual numbers of transport: one per data row, so that each point goes to the row that is cheapest after its discount.

For a squared cost, source points x and rows y_j of mass m_j, the dual problem is the concave

    max over g of  E_x min_j (|x − y_j|² − g_j) + Σ_j m_j g_j,      gradient  m_j − P(x falls to j),

so g is right when every row draws its own mass (Kitagawa, Mérigot and Thibert 2016, 1603.05579). `graph_duals` reads
g off a pairing of equally many points and rows; `learn_duals` starts there and ascends by averaged stochastic steps
(Genevay et al. 2016, 1605.08527), each scaled by what a discount moves: the mass across the faces of cell j changes by
about m_j / (δ_x δ_y) for source points and rows that lie δ_x and δ_y apart.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from advect.couplings.bijection import solve_bijection
from advect.couplings.cells import TREE_DIMENSIONS, PowerCells, nearest_weighted
from advect.couplings.cost import COSTS
from advect.couplings.exact import solve_assignment

_NEIGHBOURS, _WORST = 12, 4
_ROUNDS, _RELAXATIONS, _GAIN = 12, 100, 1e-4
_LEAST_DRAWS, _START_POINTS, _START_TURNS = 16384, 1024, 4
_CHECK_EVERY = 10
_COARSE = (8,) * 16 + (4,) * 8 + (2,) * 8  # of a round without a start, what part is drawn: large shapes need few draws
_SPREAD_ROWS = 512  # points that tell how far apart points lie
_STEP = 0.6
_RECENT = 3  # the average weighs step t by t³ (Shamir and Zhang 2013, 1212.1824)
_CLEAR, _MOST_FINE = 4.0, 32  # the last draws make the floor of χ² a quarter of the target, in so many rounds at most

Points = Callable[[int], Float[np.ndarray, "points dim"]]


def graph_duals(
    points: Float[np.ndarray, "points dim"],
    rows: Float[np.ndarray, "rows dim"],
    row_of: Int[np.ndarray, " points"] | None = None,
    rounds: int = _ROUNDS,
) -> tuple[Float[np.ndarray, " rows"], float]:
    """Dual numbers of a pairing, and the lower bound that they prove on the mean cost of every pairing.

    Optimal ones satisfy f_i + g_j = |x_i − y_j|² for a pair and f_i + g_k ≤ |x_i − y_k|² for any other row, so that
    g_k ≤ g_j + |x_i − y_k|² − |x_i − y_j|²: shortest ways in a graph from each row to others. Its edges are neighbours,
    and round by round the rows whose inequality is broken most. The bound takes the minimum over *all* rows and so
    needs no trust in the graph.

    Args:
        points: Source points.
        rows: Distinct data rows.
        row_of: The row that each point is paired with, as often as its mass wants; by default that of the same index.
        rounds: Times that broken inequalities are looked for.
    """
    num_rows = len(rows)
    row_of = np.arange(num_rows) if row_of is None else row_of
    own = np.square(points - rows[row_of]).sum(1)
    near = nearest_weighted(rows, rows, np.zeros(num_rows), min(_NEIGHBOURS, num_rows))[1][row_of]
    g, best, bound = np.zeros(num_rows), np.zeros(num_rows), -math.inf
    for turn in range(rounds):
        length = np.square(points[:, None] - rows[near]).sum(2) - own[:, None]
        g = _relaxed(g, row_of, near, length)
        least, closest = nearest_weighted(points, rows, g, min(_WORST, num_rows))
        reached, before = float(least[:, 0].mean() + g[row_of].mean()), bound
        if reached > bound:
            best, bound = g, reached
        if turn > 2 and bound - before < _GAIN * own.mean():
            break
        near = np.concatenate([near, closest], axis=1)
    return best - best.mean(), bound


def _relaxed(
    g: Float[np.ndarray, " rows"],
    row_of: Int[np.ndarray, " points"],
    near: Int[np.ndarray, "points near"],
    length: Float[np.ndarray, "points near"],
) -> Float[np.ndarray, " rows"]:
    """g after ``g_near ← min(g_near, g + length)`` came to rest, which a pairing that can be improved would prevent."""
    for _ in range(_RELAXATIONS):
        shorter = g.copy()
        np.minimum.at(shorter, near, g[row_of, None] + length)
        if np.abs(shorter - g).max() < 1e-12:
            break
        g = shorter
    return g


@dataclass(frozen=True)
class Duals:
    """What was learned.

    Attributes:
        discount: ``(rows,)`` g.
        chi_square: Σ_j (P_j − m_j)²/m_j of the masses P that the rows draw, estimated without bias (so it may be a
            little below zero): 0 is a perfect plan, 1 as uneven as drawing each row a Poisson number of times.
        rounds: Rounds of draws.
        noise: Standard error of that estimate, from draws that played no part in learning or in choosing g.
        converged: Whether it lies below the target.
    """

    discount: Float[np.ndarray, " rows"]
    chi_square: float
    rounds: int
    noise: float = 0.0
    converged: bool = True


def learn_duals(
    points: Points,
    rows: Float[np.ndarray, "rows dim"],
    counts: Int[np.ndarray, " rows"],
    *,
    generator: torch.Generator,
    target: float = 0.05,
    max_rounds: int = 200,
) -> Duals:
    """Learn g until the rows draw their masses.

    Args:
        points: Draws that many source points.
        rows: Distinct data rows, about the origin of the points.
        counts: Whole numbers in proportion to their masses.
        generator: Of the pairing that g starts from.
        target: χ² at which learning stops.
        max_rounds: Rounds of as many draws as there are rows (at least 16,384) before it gives up, after a few smaller
            ones where there is no start; the χ² says how far it came.

    With N draws the average of the steps cannot be expected to leave less than (rows − 1)/N (masses are then as well
    known as counting would know them), so that a small target needs many rounds.
    """
    num_rows = len(rows)
    if num_rows == 1:
        return Duals(np.zeros(1), 0.0, 0)
    mass = counts / counts.sum()
    g, scale = _start(points, rows, counts, generator)
    draws = max(num_rows, _LEAST_DRAWS)
    fine = min(max(2 * draws, math.ceil(_CLEAR * math.sqrt(num_rows) / target)), _MOST_FINE * draws)

    def excess(discount: Float[np.ndarray, " rows"], count: int) -> Float[np.ndarray, " rows"]:
        """How much more than its mass each row draws, as a share of it."""
        drawn = np.bincount(PowerCells(rows, discount).nearest(points(count))[1][:, 0], minlength=num_rows)
        return drawn / (count * mass) - 1

    def uneven(discount: Float[np.ndarray, " rows"], count: int = 2 * draws) -> _Uneven:
        return _Uneven.of(mass, excess(discount, count), excess(discount, count), count)

    average, weight = np.zeros(num_rows), 0
    coarse = () if g.any() else _COARSE

    def stepped(count: int, decay: float) -> None:
        nonlocal g, average, weight
        g = g - scale / math.sqrt(1 + decay / 10) * excess(g, count)
        weight += 1
        average = average + (_RECENT + 1) / (weight + _RECENT) * (g - average)

    for done, part in enumerate(coarse, 1):
        stepped(draws // part, done)
    turn, last = 0, uneven(average if coarse else g)
    best, final = (last, average if coarse else g), None
    while turn < max_rounds and not best[0].below(target):
        turn += 1
        stepped(draws, turn + len(coarse))
        if turn % _CHECK_EVERY and turn < max_rounds:
            continue
        found = uneven(average)
        if not found.clearly_above(best[0]):  # the later average is the better one, unless the draws say otherwise
            best = (found, average)
        if found.clearly_above(last):  # steps that overshoot; begin anew from the best, more carefully
            g, scale = best[1], scale / 2
            average, weight = g, 0
        last = found
        final = None
        if best[0].below(target):  # once more, by draws that did not choose it
            final = uneven(best[1], fine)
            best = (final, best[1])
    final = uneven(best[1], fine) if final is None else final
    return Duals(best[1] - best[1].mean(), final.value, turn, final.noise, final.below(target))


@dataclass(frozen=True)
class _Uneven:
    """χ² by the product of two independent counts, and its standard error.

    With N draws in either count, each excess has the error ε_j of variance 1/(N m_j) beside its true value δ_j, and
    Σ m_j (δ_j + ε_j)(δ_j + ε'_j) has the variance rows/N² + 2 χ²/N: the first is the floor below which nothing is seen.
    """

    value: float
    noise: float

    @classmethod
    def of(
        cls,
        mass: Float[np.ndarray, " rows"],
        one: Float[np.ndarray, " rows"],
        other: Float[np.ndarray, " rows"],
        count: int,
    ) -> "_Uneven":
        value = float((mass * one * other).sum())
        return cls(value, math.sqrt(len(mass) / count**2 + 2 * max(value, 0.0) / count))

    def below(self, target: float) -> bool:
        return self.value <= target

    def clearly_above(self, other: "_Uneven") -> bool:
        """By two standard errors of the difference."""
        return self.value - other.value > 2 * math.hypot(self.noise, other.noise)


def _start(
    points: Points, rows: Float[np.ndarray, "rows dim"], counts: Int[np.ndarray, " rows"], generator: torch.Generator
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, " rows"]]:
    """The g to start from, and how far a step may go: δ_x δ_y by the neighbours on both sides, over √dim.

    Steps are slow to move mass far, so the start should hold the large shapes: it is the mean of what several
    pairings say, each of at least 1024 points. Cells have more faces in more dimensions; that the mass they pass on
    grows like √dim was measured (d = 2, 8, 43). In many dimensions the duals of one pairing are noise, and no discount
    at all is the better start: the dual objective at fresh points says which. There a pairing of very many rows would
    cost more than all that is learned after it, and is not made.
    """
    num_rows, dim = rows.shape
    if dim > TREE_DIMENSIONS and counts.sum() > 4 * _START_POINTS:
        cloud, none = points(num_rows), np.zeros(num_rows)
        apart = (nearest_weighted(cloud[:_SPREAD_ROWS], cloud, none, 4), nearest_weighted(rows, rows, none, 4))
        typical = apart[0][0][:, 1:].mean()
        return none, _STEP * np.sqrt(typical * apart[1][0][:, 1:].mean(1) / dim)
    row_of = np.repeat(np.arange(num_rows), counts * math.ceil(_START_POINTS / counts.sum()))
    g, turns = np.zeros(num_rows), max(1, min(_START_TURNS, _START_TURNS * _START_POINTS // len(row_of)))
    own = points(len(row_of))
    for turn in range(turns):
        own = points(len(row_of)) if turn else own
        own = own[_pairing(own, rows[row_of], generator)]
        g = g + graph_duals(own, rows, row_of, rounds=4)[0] / turns
    first, few = np.unique(row_of, return_index=True)[1], min(4, num_rows)
    apart = [nearest_weighted(x, x, np.zeros(num_rows), few)[0][:, 1:].mean(1) for x in (own[first], rows)]

    fresh = points(max(num_rows, _LEAST_DRAWS))
    starts = (g, np.zeros(num_rows))
    reached = [nearest_weighted(fresh, rows, g)[0].mean() + counts @ g / counts.sum() for g in starts]
    return starts[int(np.argmax(reached))], _STEP * np.sqrt(apart[0] * apart[1] / dim)


def _pairing(
    points: Float[np.ndarray, "points dim"], rows: Float[np.ndarray, "points dim"], generator: torch.Generator
) -> Int[np.ndarray, " points"]:
    """The point of each row: exactly where that can be afforded, else by local repairs."""
    ends = torch.from_numpy(points), torch.from_numpy(rows)
    if len(points) <= 4 * _START_POINTS:
        return solve_assignment(COSTS["squared"](*ends).T.numpy().copy())
    return solve_bijection(*ends, COSTS["squared"], generator=generator).index0.numpy()
