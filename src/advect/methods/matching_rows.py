"""The rows of flow matching: which path, coupling and Gaussian start a name stands for, with their words."""

from torch import Tensor, nn

from advect.couplings import (
    Assignment,
    Classwise,
    Conditioned,
    Entropic,
    Independent,
    Partial,
    Semidiscrete,
    Unbalanced,
)
from advect.flows import BridgeBaseline, GaussianBaseline, OptimalGaussianBaseline
from advect.methods.bridge import ScoreAndFlow
from advect.methods.matching import Matching
from advect.methods.option import Option, Options
from advect.methods.row import Method
from advect.objectives import WEIGHTINGS
from advect.paths import PREDICTIONS, AffinePath, BrownianBridge, Linear, Lipman, LipmanPath
from advect.typing import Coupling, Path, Schedule

_TIMES = Option("uniform", "Density of the training times: uniform, logit-normal or stratified.")
_PREDICT = {
    "predict": Option("velocity", "What the network says.", choices=PREDICTIONS),
    "weighting": Option(
        "velocity",
        "Weight of the loss, whatever the network says: that of a prediction's plain squared error, or a function of "
        "the log signal-to-noise ratio.",
        choices=WEIGHTINGS,
    ),
}
_SIGMA = Option(0.0, "Constant standard deviation of the path around the straight line, in standardised units.")


def _linear(options: Options) -> Path:
    return AffinePath(Linear(), sigma=options["sigma"])


def _linear_schedule(options: Options) -> Schedule | None:
    return None if options["sigma"] else Linear()


def _independent_start(schedule: Schedule, shape: tuple[int, ...], latent: Tensor | None) -> nn.Module:
    """The marginal velocity to a Gaussian fit when source and data rows are paired at random."""
    return GaussianBaseline.standard(shape, schedule) if latent is None else GaussianBaseline.fit(latent, schedule)


def _optimal_start(shape: tuple[int, ...], latent: Tensor | None) -> nn.Module:
    """The velocity of the optimal map to a Gaussian fit."""
    return OptimalGaussianBaseline.standard(shape) if latent is None else OptimalGaussianBaseline.fit(latent)


def _optimal_plan(options: Options) -> Coupling:
    """The plan of OT-CFM, inside each class or weighing the distance of continuous conditions."""
    if options["plan"] == "semidiscrete":
        return Semidiscrete(target=options["chi_square"])
    inner: Coupling = Assignment(replacement=options["replacement"], tolerance=options["tolerance"])
    if options["plan"] == "unbalanced":
        inner = Unbalanced(options["relaxation"])
    elif options["share"] < 1:
        inner = Partial(options["share"])
    return Classwise(inner, continuous=Conditioned(options["bandwidth"], inner))


def _bridge_start(options: Options, shape: tuple[int, ...], latent: Tensor | None) -> nn.Module:
    """Velocity and score of the Schrödinger bridge to a Gaussian fit."""
    sigma = options["sigma"]
    return BridgeBaseline.standard(shape, sigma) if latent is None else BridgeBaseline.fit(latent, sigma)


MATCHING: tuple[Method, ...] = (
    Method(
        name="fm",
        title="Flow matching (Lipman)",
        map="ODE",
        couples="independent, Gaussian source",
        path="p_t(x|x1) = N(t·x1, (1 − (1 − s)t)² I)",
        objective="velocity regression",
        equation="E‖v(t, x_t) − (x1 − (1 − s)x0)‖²  with  x_t = t·x1 + (1 − (1 − s)t)·x0",
        paper="Lipman et al. 2022, Flow Matching for Generative Modeling (2210.02747), theorem 3 with the OT path",
        cost="one network evaluation and its gradient per step",
        avoid="the source is not a standard normal, or samples must come from very few evaluations",
        recipe=Matching(
            make_path=lambda o: LipmanPath(sigma_min=o["sigma_min"]),
            make_coupling=lambda o: Independent(),
            make_baseline=lambda o, shape, latent: _independent_start(Lipman(o["sigma_min"]), shape, latent),
            make_schedule=lambda o: Lipman(o["sigma_min"]),
            independent=True,
            any_source=False,
        ),
        options={
            "sigma_min": Option(1e-4, "Standard deviation s of the path at the data."),
            "times": _TIMES,
            **_PREDICT,
        },
    ),
    Method(
        name="i-cfm",
        title="Independent conditional flow matching",
        map="ODE",
        couples="independent",
        path="p_t(x|x0,x1) = N((1 − t)x0 + t·x1, σ² I)",
        objective="velocity regression",
        equation="E‖v(t, x_t) − (x1 − x0)‖²",
        paper="Tong et al. 2023, Improving and Generalizing Flow-Based Generative Models (2302.00482), table 1",
        cost="one network evaluation and its gradient per step",
        avoid="samples must come from very few evaluations, or the map itself matters: its paths cross and bend",
        recipe=Matching(
            make_path=_linear,
            make_coupling=lambda o: Independent(),
            make_baseline=lambda o, shape, latent: _independent_start(Linear(), shape, latent),
            make_schedule=_linear_schedule,
            independent=True,
        ),
        options={"sigma": _SIGMA, "times": _TIMES, **_PREDICT},
    ),
    Method(
        name="rf",
        title="Rectified flow (first)",
        map="ODE",
        couples="independent",
        path="x_t = (1 − t)x0 + t·x1",
        objective="velocity regression",
        equation="E‖v(t, x_t) − (x1 − x0)‖²",
        paper="Liu et al. 2022, Flow Straight and Fast (2209.03003)",
        cost="one network evaluation and its gradient per step",
        avoid="as i-cfm, whose case σ = 0 it is; a second run with `--reflow` straightens its paths",
        recipe=Matching(
            make_path=lambda o: AffinePath(Linear(), sigma=0.0),
            make_coupling=lambda o: Independent(),
            make_baseline=lambda o, shape, latent: _independent_start(Linear(), shape, latent),
            make_schedule=lambda o: Linear(),
            independent=True,
        ),
        options={"times": _TIMES, **_PREDICT},
    ),
    Method(
        name="ot-cfm",
        title="Optimal-transport conditional flow matching",
        map="ODE",
        couples="optimal transport inside each batch, inside each class of a discrete condition",
        path="p_t(x|x0,x1) = N((1 − t)x0 + t·x1, σ² I)",
        objective="velocity regression",
        equation="E‖v(t, x_t) − (x1 − x0)‖²  with (x0, x1) from the batch's exact assignment on |x0 − x1|²",
        paper="Tong et al. 2023, Improving and Generalizing Flow-Based Generative Models (2302.00482), table 1",
        cost="as i-cfm, plus one exact assignment per step",
        avoid="batches are tiny, or the condition is continuous and must leave the source untouched",
        recipe=Matching(
            make_path=_linear,
            make_coupling=_optimal_plan,
            make_baseline=lambda o, shape, latent: _optimal_start(shape, latent),
            make_schedule=_linear_schedule,
        ),
        options={
            "sigma": _SIGMA,
            "times": _TIMES,
            "plan": Option(
                "assignment",
                "Of the rows of a batch (or `pool` batches); from the source itself to the data; with growth and loss.",
                choices=("assignment", "semidiscrete", "unbalanced"),
            ),
            "replacement": Option(False, "Draw pairs from the assignment with replacement, as published tables did."),
            "tolerance": Option(
                0.0,
                "How far the mean cost of a batch's assignment may lie above the best, as a share of it, to save time; "
                "0 is exact.",
            ),
            "share": Option(
                1.0, "Share of a batch that is paired, the cheapest; the rest gets weight zero.", exclusive=True
            ),
            "relaxation": Option(
                1.0, "What growth and loss cost in an unbalanced plan, as a share of the mean cost.", exclusive=True
            ),
            "bandwidth": Option(
                0.05, "Of a continuous condition, as a share of a typical distance; see `Conditioned`.", exclusive=True
            ),
            "chi_square": Option(0.05, "How uneven the semidiscrete plan may draw the data rows.", exclusive=True),
        },
    ),
    Method(
        name="sb-cfm",
        title="Schrödinger-bridge conditional flow matching",
        map="ODE",
        couples="entropic optimal transport with regulariser 2σ², inside each class of a discrete condition",
        path="p_t(x|x0,x1) = N((1 − t)x0 + t·x1, σ² t(1 − t) I)",
        objective="velocity regression, weighted by t(1 − t)",
        equation="E t(1 − t)‖v(t, x_t) − (1 − 2t)/(2t(1 − t))·(x_t − μ_t) − (x1 − x0)‖²",
        paper="Tong et al. 2023, Improving and Generalizing Flow-Based Generative Models (2302.00482), table 1",
        cost="as i-cfm, plus a log-domain Sinkhorn solve per step",
        avoid="σ is small against the data (the plan converges slowly), or sharp samples matter most",
        recipe=Matching(
            make_path=lambda o: BrownianBridge(sigma=o["sigma"]),
            make_coupling=lambda o: Classwise(Entropic.for_bridge(o["sigma"])),
            make_baseline=lambda o, shape, latent: _independent_start(Linear(), shape, latent),
        ),
        options={
            "sigma": Option(1.0, "Noise of the bridge, in standardised units.", exclusive=True),
            "times": _TIMES,
        },
    ),
    Method(
        name="sf2m",
        title="Simulation-free score and flow matching",
        map="ODE / SDE",
        couples="entropic optimal transport with regulariser 2σ², inside each class of a discrete condition",
        path="p_t(x|x0,x1) = N((1 − t)x0 + t·x1, σ_t² I), σ_t² = σ² t(1 − t)",
        objective="velocity regression, weighted by t(1 − t), and score regression, weighted by σ_t²",
        equation="E t(1 − t)‖v(t, x_t) − u_t‖² + c·‖σ_t s(t, x_t) + ε‖²  with  x_t = μ_t + σ_t ε and "
        "u_t = x1 − x0 + σ(1 − 2t)/(2√(t(1 − t)))·ε",
        paper="Tong et al. 2023, Simulation-Free Schrödinger Bridges via Score and Flow Matching (2307.03672)",
        cost="as sb-cfm, for two networks",
        avoid="no SDE is wanted (sb-cfm trains the same ODE for half), σ is small against the data, or sharp samples "
        "matter most",
        recipe=ScoreAndFlow(
            make_path=lambda o: BrownianBridge(sigma=o["sigma"]),
            make_coupling=lambda o: Classwise(Entropic.for_bridge(o["sigma"])),
            make_baseline=_bridge_start,
        ),
        options={
            "sigma": Option(1.0, "Noise of the bridge, in standardised units.", exclusive=True),
            "score_weight": Option(1.0, "Weight c of the score's term of the loss.", exclusive=True),
            "times": _TIMES,
        },
    ),
)
