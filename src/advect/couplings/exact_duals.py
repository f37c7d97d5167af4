"""Dual numbers of transport from a standard normal to rows on the line or in the plane, to rounding.

On the line cells are intervals between quantiles. In the plane they are polygons, whose mass is known in closed form.
The dual of semidiscrete transport is concave, with gradient m_j − P_j and a Hessian that lives on the faces between
cells: moving g_i against g_j moves their common face by 1/(2|y_i − y_j|), so that

    ∂P_i/∂g_j = −∫_face φ ds / (2|y_i − y_j|)   for i ≠ j,      ∂P_i/∂g_i = −Σ_j ∂P_i/∂g_j.

Newton's method, its steps halved until no cell is nearly lost, converges from every start without empty cells
(Kitagawa, Mérigot and Thibert 2016, 1603.05579). Cells: the lower hull of the points (y, |y|² − g) is the triangulation
whose dual they are (Aurenhammer 1987). Masses: φ is the divergence of x(1 − e^(−|x|²/2))/(2π|x|²), whose flux through a
segment of a line at distance h from the origin is an angle minus a difference of Owen's T(h, ·); the angles around a
cell add up to one turn if the origin is inside, and to none otherwise.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_array, csc_array
from scipy.sparse.linalg import splu
from scipy.spatial import ConvexHull, QhullError
from scipy.special import ndtr, ndtri, owens_t

_MOST_STEPS, _MOST_HALVINGS = 100, 30
_FLAT = 1e-10
_NEARLY = 1e-13  # a face this close to the origin passes through it
_ASIDE = 1e-8 * np.array([np.cos(1.0), np.sin(1.0)])


@dataclass(frozen=True)
class Faces:
    """The faces between power cells: one segment, half-line or line each.

    Attributes:
        cells: ``(faces, 2)`` the two rows.
        distance: Of the origin from the line, positive on the first row's side.
        start: Where the segment begins along the line, counted from the foot of the origin; may be −∞.
        end: Where it ends; may be ∞.
    """

    cells: Int[np.ndarray, "faces 2"]
    distance: Float[np.ndarray, " faces"]
    start: Float[np.ndarray, " faces"]
    end: Float[np.ndarray, " faces"]


def power_faces(rows: Float[np.ndarray, "rows 2"], discount: Float[np.ndarray, " rows"]) -> Faces:
    """The faces of the cells of least ``|x − y_j|² − g_j``.

    Raises:
        QhullError: Fewer than three rows, or rows on one line.
    """
    level = np.square(rows).sum(1) - discount
    # A point above them all, for rows on one circle about a common level would lie in a plane.
    above = [*rows.mean(0), level.max() + np.ptp(rows, axis=0).max() + np.ptp(level)]
    hull = ConvexHull(np.vstack([np.column_stack([rows, level]), above]))
    normal = hull.equations[:, :3]
    lower = (normal[:, 2] < 0) & (hull.simplices < len(rows)).all(1)
    corner = -normal[:, :2] / np.where(lower, 2 * normal[:, 2], 1.0)[:, None]  # the gradient of the facet, halved
    triangles = hull.simplices
    # Facet k lacks vertex i of its triangle in the edge that it shares with neighbour i.
    facet, opposite = np.nonzero(lower[:, None] & np.ones(3, dtype=bool))
    other = hull.neighbors[facet, opposite]
    inner = lower[other]
    once = ~inner | (facet < other)
    facet, opposite, other, inner = facet[once], opposite[once], other[once], inner[once]
    i, j = triangles[facet, (opposite + 1) % 3], triangles[facet, (opposite + 2) % 3]
    across = rows[j] - rows[i]
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    along = np.column_stack([-across[:, 1], across[:, 0]])
    from_here = (corner[facet] * along).sum(1)
    to_there = (corner[other] * along).sum(1)
    # A face without a second corner runs away from the third vertex of its triangle.
    third = ((rows[triangles[facet, opposite]] - rows[i]) * along).sum(1)
    to_there = np.where(inner, to_there, np.where(third < 0, np.inf, -np.inf))
    distance = (level[j] - level[i]) / (2 * np.linalg.norm(rows[j] - rows[i], axis=1))
    return Faces(np.column_stack([i, j]), distance, np.minimum(from_here, to_there), np.maximum(from_here, to_there))


def normal_masses(
    rows: Float[np.ndarray, "rows 2"], discount: Float[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, " rows"], csc_array]:
    """The mass of each power cell under a standard normal, and its derivative ∂P_i/∂g_j, to about 1e-15.

    Where faces pass through the origin, as symmetric rows have them, everything is moved by 1e-8 and the masses err by
    as much: on which side of them the origin lies has to be one answer for all.

    Raises:
        QhullError: As `power_faces`.
    """
    faces, count = power_faces(rows, discount), len(rows)
    if (np.abs(faces.distance) < _NEARLY).any():
        rows = rows + _ASIDE
        faces = power_faces(rows, discount)
    home = int(np.argmin(np.square(rows).sum(1) - discount))
    i, j = faces.cells.T
    h = faces.distance
    flux = owens_t(h, faces.end / h) - owens_t(h, faces.start / h)
    masses = np.bincount(j, flux, count) - np.bincount(i, flux, count)
    masses[home] += 1
    density = np.exp(-(h**2) / 2) / np.sqrt(2 * np.pi) * (ndtr(faces.end) - ndtr(faces.start))
    moved = density / (2 * np.linalg.norm(rows[i] - rows[j], axis=1))
    off = coo_array((-np.r_[moved, moved], (np.r_[i, j], np.r_[j, i])), shape=(count, count))
    own = np.bincount(i, moved, count) + np.bincount(j, moved, count)
    return masses, csc_array(off + coo_array((own, (np.arange(count), np.arange(count)))))


def exact_duals(
    rows: Float[np.ndarray, "rows dim"], mass: Float[np.ndarray, " rows"], *, tolerance: float = 1e-9
) -> tuple[Float[np.ndarray, " rows"], float] | None:
    """The dual numbers g of transport from a standard normal, and the χ² that is left.

    Args:
        rows: Distinct data rows.
        mass: What each should draw; the sum is 1.
        tolerance: χ² at which it is done.

    Returns: None in more than two dimensions, and where Newton's method comes to no end: rows on one line of the plane,
        or so far apart that their masses at its start cannot be told from zero.
    """
    if rows.shape[1] == 1:
        return _line_duals(rows[:, 0], mass), 0.0
    return _planar_duals(rows, mass, tolerance) if rows.shape[1] == 2 else None


def _line_duals(rows: Float[np.ndarray, " rows"], mass: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """Neighbours y < z meet at the quantile x of what lies below: (x − y)² − g_y = (x − z)² − g_z."""
    order = np.argsort(rows)
    y, x = rows[order], ndtri(np.clip(np.cumsum(mass[order])[:-1], 0.0, 1.0))
    g = np.empty(len(rows))
    g[order] = np.r_[0.0, np.cumsum(np.square(x - y[1:]) - np.square(x - y[:-1]))]
    return g - g.mean()


def _planar_duals(
    rows: Float[np.ndarray, "rows 2"], mass: Float[np.ndarray, " rows"], tolerance: float
) -> tuple[Float[np.ndarray, " rows"], float] | None:
    """Newton's method from the optimal map to the Gaussian fit."""
    g = _spread_start(rows, mass)
    if g is None:
        return None
    try:
        drawn, slope = normal_masses(rows, g)
        floor = min(drawn.min(), mass.min()) / 2
        for _ in range(_MOST_STEPS):
            chi_square = float((np.square(drawn - mass) / mass).sum())
            if chi_square <= tolerance:
                return g - g.mean(), chi_square
            if floor <= 0:
                return None
            found = _damped_step(rows, mass, g, drawn, slope, floor)
            if found is None:
                return None
            g, drawn, slope = found
    except (QhullError, RuntimeError):  # rows that cannot be told apart; a singular matrix
        return None
    return None


def _spread_start(
    rows: Float[np.ndarray, "rows 2"], mass: Float[np.ndarray, " rows"]
) -> Float[np.ndarray, " rows"] | None:
    """Discounts of the optimal map to the Gaussian fit of the rows: its conjugate potential is strictly convex, so that
    no cell is empty. None for rows on one line, whose fit is flat."""
    mean = mass @ rows
    moved = rows - mean
    value, vector = np.linalg.eigh((moved * mass[:, None]).T @ moved)
    if not value[0] > _FLAT * value[1]:
        return None
    inverse = vector @ np.diag(1 / np.sqrt(value)) @ vector.T
    return np.square(rows).sum(1) - np.einsum("ri,ij,rj->r", moved, inverse, moved)


def _damped_step(
    rows: np.ndarray, mass: np.ndarray, g: np.ndarray, drawn: np.ndarray, slope: csc_array, floor: float
) -> tuple[np.ndarray, np.ndarray, csc_array] | None:
    """A Newton step, halved until every cell keeps ``floor`` and the error falls enough; None if it never does."""
    # One dual number is free: the last is held.
    step = np.r_[splu(csc_array(slope[:-1, :-1])).solve((mass - drawn)[:-1]), 0.0]
    error, size = np.linalg.norm(drawn - mass), 1.0
    for _ in range(_MOST_HALVINGS):
        new = g + size * step
        masses, derivative = normal_masses(rows, new)
        if masses.min() >= floor and np.linalg.norm(masses - mass) <= (1 - size / 2) * error:
            return new, masses, derivative
        size /= 2
    return None
