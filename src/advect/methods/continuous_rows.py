"""The rows of continuous normalizing flows trained by maximum likelihood, with their words."""

from torch import Generator, nn

from advect.flows.architectures.continuous import TRACES, TRAINING_STEPS
from advect.methods.continuous import ContinuousLikelihood
from advect.methods.option import Option
from advect.methods.row import Method
from advect.networks import MLP
from advect.networks.potential import Potential
from advect.objectives import MaximumLikelihood, RegularisedLikelihood


def _free(
    event_shape: tuple[int, ...], condition_features: int, *, depth: int, width: int, generator: Generator
) -> nn.Module:
    """A free-form velocity, smooth in x and t, zero at the start."""
    network = MLP(event_shape, condition_features, depth=depth, width=width, activation="tanh", generator=generator)
    network.start_at_zero()
    return network


def _potential(
    event_shape: tuple[int, ...], condition_features: int, *, depth: int, width: int, generator: Generator
) -> nn.Module:
    """Minus the gradient of a potential, zero at the start."""
    return Potential(event_shape, condition_features, width=width, blocks=max(1, depth - 1), generator=generator)


def _solving(trace: str) -> dict[str, Option]:
    """Options of every row here."""
    return {
        "training_steps": Option(TRAINING_STEPS, "RK4 steps of each solve in training.", minimum=1),
        "trace": Option(
            trace, "Trace in training: auto (exact up to 64 coordinates), exact, hutchinson or hutch++.", choices=TRACES
        ),
        "probes": Option(1, "Probes of a stochastic trace.", minimum=1),
        "checkpointed": Option(False, "Take gradients in the memory of few steps, for a third more time."),
    }


CONTINUOUS: tuple[Method, ...] = (
    Method(
        name="cnf",
        title="Continuous normalizing flow (FFJORD)",
        map="ODE",
        objective="maximum likelihood",
        equation="−E log p(x)  with  log p(x) = log N(z; 0, I) − ∫₀¹ tr ∂v/∂x dt,  z by integrating back from x",
        paper="Grathwohl et al. 2019, FFJORD (1810.01367), eq. 4; Chen et al. 2018 (1806.07366), theorem 1",
        cost="a whole solve with its trace and their gradients per step",
        avoid="time matters: flow matching (i-cfm, ot-cfm) trains the same ODE without solving it",
        recipe=ContinuousLikelihood(_free, lambda o: MaximumLikelihood()),
        options=_solving("auto"),
    ),
    Method(
        name="rnode",
        title="Regularised neural ODE",
        map="ODE",
        objective="maximum likelihood with penalties on the way",
        equation="−E[log p(x) − λ_K ∫‖v‖² dt − λ_J ∫‖∂v/∂x‖²_F dt]",
        paper="Finlay et al. 2020, How to Train Your Neural ODE (2002.02798), eq. 6–9",
        cost="as cnf, with a cheaper trace: its probes also give the penalty",
        avoid="the likelihood alone matters: the penalties buy straight paths and fast sampling",
        recipe=ContinuousLikelihood(
            _free, lambda o: RegularisedLikelihood(kinetic=o["kinetic"], jacobian=o["jacobian"])
        ),
        options={
            "kinetic": Option(0.01, "λ_K, weight of ∫‖v‖² dt, in nats per row."),
            "jacobian": Option(0.01, "λ_J, weight of ∫‖∂v/∂x‖²_F dt, in nats per row."),
            **_solving("hutchinson"),
        },
    ),
    Method(
        name="ot-flow",
        title="OT-Flow",
        map="ODE whose velocity is the gradient of a potential",
        objective="maximum likelihood with penalties on the way",
        equation="−E[log p(x) − λ_K ∫‖v‖² dt − λ_H ∫|∂Φ/∂t − ½‖∇Φ‖²| dt],  v = −∇Φ",
        paper="Onken et al. 2021, OT-Flow (2006.00104), eq. 8–12",
        cost="as cnf; the velocity is itself a gradient, and its trace is analytic",
        avoid="the likelihood alone matters: the penalties buy straight paths and fast sampling",
        recipe=ContinuousLikelihood(
            _potential, lambda o: RegularisedLikelihood(kinetic=o["kinetic"], hamilton_jacobi=o["hamilton_jacobi"])
        ),
        options={
            "kinetic": Option(0.01, "λ_K, weight of ∫‖v‖² dt, in nats per row."),
            "hamilton_jacobi": Option(0.01, "λ_H, weight of ∫|∂Φ/∂t − ½‖∇Φ‖²| dt, in nats per row."),
            **_solving("auto"),
        },
    ),
)
