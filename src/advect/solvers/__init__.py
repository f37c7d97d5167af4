"""Solvers: from a velocity field to where its rows end up.

Fixed steps (`Euler`, `Midpoint`, `Heun`, `RK4`, and the multistep `Adams3`), adaptive steps row by row (`Adaptive`),
the divergence on board for log-determinants (`ExactDivergence`, `HutchinsonDivergence`), other quantities integrated
along the way (`KineticEnergy`, `JacobianNorm`), numeric inverses (`bracketed_root`, `fixed_point`), and the
sentences for rows that failed (`describe`, `raise_if_failed`).
"""

from advect.solvers.adaptive import Adaptive
from advect.solvers.along import Along, JacobianNorm, KineticEnergy, Motion
from advect.solvers.checkpointed import Checkpointed
from advect.solvers.chunks import Chunked
from advect.solvers.divergence import ExactDivergence, HutchinsonDivergence
from advect.solvers.fixed import RK4, Euler, Heun, Midpoint
from advect.solvers.grid import Grid, uniform
from advect.solvers.hutchpp import HutchPlusPlusDivergence
from advect.solvers.inverse import Root, bracketed_root, fixed_point
from advect.solvers.multistep import Adams3
from advect.solvers.status import describe, raise_if_failed, status_counts
from advect.solvers.table import SOLVERS, SolverEntry, make_solver

__all__ = [
    "RK4",
    "SOLVERS",
    "Adams3",
    "Adaptive",
    "Along",
    "Checkpointed",
    "Chunked",
    "Euler",
    "ExactDivergence",
    "Grid",
    "Heun",
    "HutchPlusPlusDivergence",
    "HutchinsonDivergence",
    "JacobianNorm",
    "KineticEnergy",
    "Midpoint",
    "Motion",
    "Root",
    "SolverEntry",
    "bracketed_root",
    "describe",
    "fixed_point",
    "make_solver",
    "raise_if_failed",
    "status_counts",
    "uniform",
]
