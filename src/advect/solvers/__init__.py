"""Solvers: from a velocity field to where its rows end up.

Fixed steps (`Euler`, `Midpoint`, `Heun`, `RK4`, and the multistep `Adams3`), adaptive steps row by row (`Adaptive`),
weights fitted to one field (`fit_multistep`), Gauss nodes for log-determinants (`Adams3Quadrature`), samplers of affine
paths that are given the schedule (`DDIM`, `DPMSolver2M`, `DPMSolver2S`, `DEIS`, `UniPC`, `StraightAdams`, `NoiseAdams`;
with noise `ReverseSDE` and `ChurnedHeun`), the SDE of a bridge whose field knows its score (`BridgeSDE`), the
divergence on board for log-determinants (`ExactDivergence`, `HutchinsonDivergence`), other quantities integrated along
the way (`KineticEnergy`, `JacobianNorm`), numeric inverses (`bracketed_root`, `fixed_point`), and the sentences for
rows that failed (`describe`, `raise_if_failed`).
"""

from advect.solvers.adaptive import Adaptive
from advect.solvers.along import Along, JacobianNorm, KineticEnergy, Motion
from advect.solvers.bridge import BridgeSDE
from advect.solvers.checkpointed import Checkpointed
from advect.solvers.chunks import Chunked
from advect.solvers.churned import ChurnedHeun
from advect.solvers.diffusion import DIFFUSIONS, Ancestral, Diffusion, make_diffusion
from advect.solvers.divergence import ExactDivergence, HutchinsonDivergence
from advect.solvers.exponential import DDIM, DEIS, DPMSolver2M, DPMSolver2S
from advect.solvers.fitted import FittedMultistep, fit_multistep
from advect.solvers.fixed import RK4, Euler, Heun, Midpoint
from advect.solvers.grid import Grid, blended_points, edm_points, share_points, uniform
from advect.solvers.hutchpp import HutchPlusPlusDivergence
from advect.solvers.inverse import Root, bracketed_root, fixed_point
from advect.solvers.multistep import Adams3
from advect.solvers.noise_adams import NoiseAdams
from advect.solvers.quadrature import Adams3Quadrature
from advect.solvers.status import describe, raise_if_failed, status_counts
from advect.solvers.stochastic import ReverseSDE
from advect.solvers.straight import StraightAdams
from advect.solvers.table import SOLVERS, SolverEntry, make_solver
from advect.solvers.unipc import UniPC

__all__ = [
    "DDIM",
    "DEIS",
    "DIFFUSIONS",
    "RK4",
    "SOLVERS",
    "Adams3",
    "Adams3Quadrature",
    "Adaptive",
    "Along",
    "Ancestral",
    "BridgeSDE",
    "Checkpointed",
    "Chunked",
    "ChurnedHeun",
    "DPMSolver2M",
    "DPMSolver2S",
    "Diffusion",
    "Euler",
    "ExactDivergence",
    "FittedMultistep",
    "Grid",
    "Heun",
    "HutchPlusPlusDivergence",
    "HutchinsonDivergence",
    "JacobianNorm",
    "KineticEnergy",
    "Midpoint",
    "Motion",
    "NoiseAdams",
    "ReverseSDE",
    "Root",
    "SolverEntry",
    "StraightAdams",
    "UniPC",
    "blended_points",
    "bracketed_root",
    "describe",
    "edm_points",
    "fit_multistep",
    "fixed_point",
    "make_diffusion",
    "make_solver",
    "raise_if_failed",
    "share_points",
    "status_counts",
    "uniform",
]
