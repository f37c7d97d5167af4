"""Power cells: for each point, the row that is nearest after every row got a discount of its own.

    j*(x) = argmin_j |x − y_j|² − g_j

This is where semidiscrete transport sends x, and what makes dual numbers feasible. In few dimensions it is a
nearest-neighbour search one dimension up: give row j the height √(max g − g_j) and the point the height 0, and the
squared distance between them is |x − y_j|² − g_j + max g (Aurenhammer 1987, "Power diagrams"). A k-d tree answers
that fast where the heights are small. The duals of transport are not, but most of their size is a quadratic function
of y, and that part is taken out first by a change of coordinates:

    |x − y|² − (yᵀAy + b·y) = |Lᵀy − L⁻¹(x + b/2)|² + (a number that depends on x alone),   LLᵀ = I − A

In many dimensions trees look at every row, and a matrix product in blocks does the same faster.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve_triangular
from scipy.spatial import KDTree

TREE_DIMENSIONS = 8
_BLOCK_NUMBERS = 640_000  # stay in cache between the product and the search
_LEAST_SCALE = 1e-3  # of LLᵀ: below it the coordinates are nearly lost, and nothing is taken out


@dataclass(frozen=True)
class _Quadratic:
    """yᵀAy + b·y taken out of a discount: the factor L, b, and what is left of the discount."""

    factor: Float[np.ndarray, "dim dim"]
    slope: Float[np.ndarray, " dim"]
    left: Float[np.ndarray, " rows"]

    @classmethod
    def taken_out(cls, rows: Float[np.ndarray, "rows dim"], discount: Float[np.ndarray, " rows"]) -> "_Quadratic":
        """The least-squares quadratic, or none where I − A would not be positive or nothing is gained."""
        dim = rows.shape[1]
        first, second = np.triu_indices(dim)
        design = np.column_stack([np.ones(len(rows)), rows, rows[:, first] * rows[:, second]])
        solution = np.linalg.lstsq(design, discount, rcond=None)[0]
        slope, half = solution[1 : 1 + dim], np.zeros((dim, dim))
        half[first, second] = solution[1 + dim :]
        metric = np.eye(dim) - (half + half.T) / 2
        if np.linalg.eigvalsh(metric)[0] < _LEAST_SCALE:
            return cls(np.eye(dim), np.zeros(dim), discount)
        left = discount - design[:, 1:] @ solution[1:]
        return cls(np.linalg.cholesky(metric), slope, left)


class PowerCells:
    """Rows with discounts, ready to be asked for the nearest.

    Args:
        rows: ``(rows, dim)``, best about the origin.
        discount: ``(rows,)``, g.
    """

    def __init__(self, rows: Float[np.ndarray, "rows dim"], discount: Float[np.ndarray, " rows"]) -> None:
        self.rows, self.discount = rows, discount
        self.tree: KDTree | None = None
        if rows.shape[1] > TREE_DIMENSIONS:
            level = np.square(rows).sum(1) - discount
            self._product = np.vstack([-2 * rows.T, level]).astype(np.float32)
            return
        self._quadratic = _Quadratic.taken_out(rows, discount)
        height = np.sqrt(self._quadratic.left.max() - self._quadratic.left)
        self.tree = KDTree(
            np.column_stack([rows @ self._quadratic.factor, height]), balanced_tree=False, compact_nodes=False
        )

    def nearest(
        self, points: Float[np.ndarray, "points dim"], count: int = 1
    ) -> tuple[Float[np.ndarray, "points count"], Int[np.ndarray, "points count"]]:
        """The ``count`` least values of ``|x − y_j|² − g_j``, in order, and the rows where they are.

        In more than eight dimensions the rows are chosen by products in float32; values are those of the chosen rows.
        """
        index = self._by_product(points, count) if self.tree is None else self._by_tree(points, count)
        # From the rows themselves: heights and products would cost digits.
        value = np.square(points[:, None] - self.rows[index]).sum(2) - self.discount[index]
        return value, index

    def _by_tree(self, points: Float[np.ndarray, "points dim"], count: int) -> Int[np.ndarray, "points count"]:
        assert self.tree is not None
        moved = solve_triangular(self._quadratic.factor, (points + self._quadratic.slope / 2).T, lower=True)
        _, index = self.tree.query(np.vstack([moved, np.zeros(len(points))]).T, k=count)
        return index.reshape(len(points), count)

    def _by_product(self, points: Float[np.ndarray, "points dim"], count: int) -> Int[np.ndarray, "points count"]:
        block = max(1, _BLOCK_NUMBERS // len(self.rows))
        chosen = []
        ready = np.column_stack([points, np.ones(len(points))]).astype(np.float32)
        room = np.empty((min(block, len(points)), len(self.rows)), dtype=np.float32)
        for first in range(0, len(points), block):
            part = ready[first : first + block]
            scores = np.matmul(part, self._product, out=room[: len(part)])
            if count == 1:
                chosen.append(scores.argmin(1)[:, None])
                continue
            some = np.argpartition(scores, count - 1, axis=1)[:, :count]
            chosen.append(np.take_along_axis(some, np.take_along_axis(scores, some, 1).argsort(1), 1))
        return np.concatenate(chosen)


def nearest_weighted(
    points: Float[np.ndarray, "points dim"],
    rows: Float[np.ndarray, "rows dim"],
    discount: Float[np.ndarray, " rows"],
    count: int = 1,
) -> tuple[Float[np.ndarray, "points count"], Int[np.ndarray, "points count"]]:
    """`PowerCells.nearest` for rows and discounts that are asked once."""
    return PowerCells(rows, discount).nearest(points, count)
