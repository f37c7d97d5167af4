"""What the constructor takes and gives: plain settings in, a flow with its objective out."""

from dataclasses import dataclass

from torch import nn

from advect.flows import Flow
from advect.methods.option import Options
from advect.typing import Coupling, Objective, Path


@dataclass(frozen=True)
class Parts:
    """Objects a user gives in place of a row's own.

    Attributes:
        path: Any object with the contract of a Path.
        coupling: Any object with the contract of a Coupling.
        network: Any module called as ``network(t, x, condition)``.
    """

    path: Path | None = None
    coupling: Coupling | None = None
    network: nn.Module | None = None


@dataclass(frozen=True)
class Blueprint:
    """What the constructor needs to know: plain values, all of them in the run's configuration.

    Attributes:
        method: Name of the row.
        options: Its options, resolved.
        network: Name of the network.
        event_shape: Shape of one row in the flow's coordinates.
        condition_features: Width of the condition vector; 0 for none.
        condition_dropout: Share of rows trained without their condition, for guidance.
        baseline: Whether an untrained model returns a Gaussian fit.
        solver: Name of the sampling solver; None for maps without an ODE.
        steps: Its steps (fixed solvers).
        tolerance: Its tolerance (adaptive solvers).
        likelihood_solver: Name of the solver of likelihoods, encoding and transport; None for maps without an ODE.
        likelihood_tolerance: Its tolerance.
        piecewise: Whether the flow leads through several snapshots: its path is then that of the method between
            neighbours only, and no affine path as a whole.
        paired: Whether something else than the row's coupling pairs the ends: another run, or an object of the user's
            own. The velocity is then no score, whatever the row says.
    """

    method: str
    options: Options
    network: str
    event_shape: tuple[int, ...]
    condition_features: int = 0
    condition_dropout: float = 0.1
    baseline: bool = True
    solver: str | None = "adams3"
    steps: int | None = 24
    tolerance: float | None = None
    likelihood_solver: str | None = "dopri5"
    likelihood_tolerance: float | None = 1e-5
    piecewise: bool = False
    paired: bool = False


@dataclass(frozen=True)
class Built:
    """What training needs.

    Attributes:
        core: The flow in latent coordinates: base and map, no preprocessing.
        objective: Its loss per row.
        coupling: Pairs source and data rows; None where the objective needs no source rows.
    """

    core: Flow
    objective: Objective
    coupling: Coupling | None
