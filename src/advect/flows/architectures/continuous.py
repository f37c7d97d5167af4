"""ODEs for maximum likelihood: `cnf`, `rnode`, `ot_flow`.

FFJORD (Grathwohl et al. 2019, arXiv 1810.01367), RNODE (Finlay et al. 2020, arXiv 2002.02798) and OT-Flow (Onken et al.
2021, arXiv 2006.00104) are the `ContinuousMap` that flow matching trains. They differ in field and trace here, and in
the penalties of `objectives.likelihood.RegularisedLikelihood`.

Training integrates with a few steps of the classic Runge–Kutta method (6 to 14 in OT-Flow's tables): a number that is
said, and stays. Outside training mode the solve is adaptive at 1e-5, so that no reported likelihood knows of the steps
of training; `objectives.likelihood.step_gap` compares the two.
"""

import math
from typing import Any

from torch import Generator

from advect.errors import unknown_name
from advect.flows.continuous import EXACT_DIVERGENCE_LIMIT, ContinuousMap
from advect.networks import MLP
from advect.networks.potential import Potential
from advect.solvers import RK4, ExactDivergence, HutchinsonDivergence
from advect.solvers.checkpointed import Checkpointed
from advect.solvers.hutchpp import HutchPlusPlusDivergence
from advect.typing import Divergence, Field, Solver

TRAINING_STEPS = 6  # of RK4, four evaluations each

TRACES = ("auto", "exact", "hutchinson", "hutch++")


def likelihood_map(
    field: Field,
    event_shape: tuple[int, ...],
    condition_features: int = 0,
    *,
    steps: int = TRAINING_STEPS,
    trace: str = "auto",
    probes: int = 1,
    checkpointed: bool = False,
) -> ContinuousMap:
    """A field as a map that is trained by maximum likelihood; in evaluation mode, as a trained one is used.

    Args:
        field: The velocity.
        event_shape: Shape of one row.
        condition_features: Numbers in one condition ``(batch, condition_features)``, 0 for none.
        steps: RK4 steps of every solve in training; evaluation is adaptive.
        trace: In training. ``exact``: analytic where the field offers it, else a backward pass per dimension.
            ``hutchinson`` or ``hutch++``: fixed probes per solve, with which the loss is unbiased. ``auto``: exact up
            to 64 dimensions, Hutchinson's above. Evaluation is exact up to 64 dimensions, whatever this says.
        probes: Of a stochastic trace.
        checkpointed: Take gradients in the memory of √steps steps, for a third more time.

    Raises:
        UnknownNameError: No such trace.
    """
    solver: Solver = Checkpointed(RK4(steps)) if checkpointed else RK4(steps)
    map = ContinuousMap(
        field,
        event_shape=event_shape,
        training_solver=solver,
        training_divergence=training_trace(trace, event_shape, probes),
        condition_shape=(condition_features,) if condition_features else None,
    )
    # A module is born in training mode; a density asked of this one before any training must not be a coarse one.
    return map.eval()


def cnf(
    features: int,
    condition_features: int = 0,
    *,
    steps: int = TRAINING_STEPS,
    trace: str = "auto",
    probes: int = 1,
    checkpointed: bool = False,
    depth: int = 2,
    width: int = 64,
    generator: Generator | None = None,
) -> ContinuousMap:
    """A free-form velocity (x, t, condition) → ``depth`` layers of ``width`` tanh units → v; the identity at the start.

    Two hidden layers are the fast choice: their exact divergence costs the same in any dimension. tanh and t itself as
    a feature keep the velocity smooth in x and t, so that few steps in training are enough.

    Args:
        features: Coordinates of a row ``(batch, features)``.
        condition_features: Numbers in one condition, 0 for none.
        steps: See `likelihood_map`, like ``trace``, ``probes`` and ``checkpointed``.
        trace: See there.
        probes: See there.
        checkpointed: See there.
        depth: Hidden layers.
        width: Units of each.
        generator: Draws the initial weights.
    """
    network = MLP((features,), condition_features, depth=depth, width=width, activation="tanh", generator=generator)
    network.start_at_zero()
    return likelihood_map(
        network,
        (features,),
        condition_features,
        steps=steps,
        trace=trace,
        probes=probes,
        checkpointed=checkpointed,
    )


def rnode(features: int, condition_features: int = 0, *, trace: str = "hutchinson", **options: Any) -> ContinuousMap:
    """`cnf` for training with ``RegularisedLikelihood(kinetic, jacobian)``; options as there.

    Hutchinson's trace by default, also in few dimensions: its products give ‖∂v/∂x‖²_F for nothing (Finlay et al. 2020,
    section 4), where the exact norm costs a backward pass per dimension.
    """
    return cnf(features, condition_features, trace=trace, **options)


def ot_flow(
    features: int,
    condition_features: int = 0,
    *,
    steps: int = TRAINING_STEPS,
    trace: str = "auto",
    probes: int = 1,
    checkpointed: bool = False,
    depth: int = 2,
    width: int = 64,
    generator: Generator | None = None,
) -> ContinuousMap:
    """v = −∇Φ for training with ``RegularisedLikelihood(kinetic, hamilton_jacobi=…)``; the identity at the start.

    Args:
        features: Coordinates of a row ``(batch, features)``.
        condition_features: Numbers in one condition, 0 for none.
        steps: See `likelihood_map`, like ``trace``, ``probes`` and ``checkpointed``.
        trace: See there.
        probes: See there.
        checkpointed: See there.
        depth: Layers of the potential's network; 2 or more.
        width: Units of each.
        generator: Draws the initial weights.
    """
    network = Potential((features,), condition_features, width=width, blocks=depth - 1, generator=generator)
    return likelihood_map(
        network,
        (features,),
        condition_features,
        steps=steps,
        trace=trace,
        probes=probes,
        checkpointed=checkpointed,
    )


def training_trace(trace: str, event_shape: tuple[int, ...], probes: int = 1) -> Divergence:
    """The trace by its name, see `likelihood_map`."""
    if trace not in TRACES:
        raise unknown_name("trace", trace, TRACES)
    if trace == "auto":
        trace = "exact" if math.prod(event_shape) <= EXACT_DIVERGENCE_LIMIT else "hutchinson"
    if trace == "exact":
        return ExactDivergence()
    return HutchinsonDivergence(probes) if trace == "hutchinson" else HutchPlusPlusDivergence(probes)
