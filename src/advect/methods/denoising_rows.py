"""The rows of diffusion: which schedule, prediction and weight a name stands for, with their words."""

from advect.methods.denoising import Denoising
from advect.methods.option import Option
from advect.methods.row import Method
from advect.objectives import WEIGHTINGS, LevelTimes, LogSnrNormalTimes, PowerTimes, UniformTimes
from advect.paths import (
    PREDICTIONS,
    DiscreteVariancePreserving,
    Karras,
    SmoothVariancePreserving,
    SubVariancePreserving,
    Trigonometric,
    VarianceExploding,
)

_COUPLES = "independent, Gaussian source"
# Where x starts at 50 or 80 times its final size the velocity as it is wants far more steps. On the other rows a net
# that predicts noise says little about the data where α is small, which the straightened path would be full of.
_STRAIGHT = {"solver": "adams3-straight"}


def _options(predict: str, **own: Option) -> dict[str, Option]:
    return {
        "predict": Option(predict, "What the network says.", choices=PREDICTIONS),
        "weighting": Option(
            "",
            "Weight of the loss: that of another prediction's plain squared error, or a function of the log "
            "signal-to-noise ratio; not set: the plain squared error of the prediction.",
            choices=("", *WEIGHTINGS),
        ),
        **own,
    }


_BETA = {
    "beta_min": Option(0.1, "β at the data.", exclusive=True),
    "beta_max": Option(20.0, "β at the noise.", exclusive=True),
}

DENOISING: tuple[Method, ...] = (
    Method(
        name="ddpm",
        title="Denoising diffusion with discrete levels (DDPM)",
        map="ODE",
        couples=_COUPLES,
        path="p_t(x|x1) = N(√ᾱ x1, (1 − ᾱ) I), ᾱ a product over 1000 levels",
        objective="noise regression",
        equation="E‖ε̂(t, x_t) − ε‖²  with  x_t = √ᾱ_i x1 + √(1 − ᾱ_i) ε, i one of the levels",
        paper="Ho et al. 2020, Denoising Diffusion Probabilistic Models (2006.11239), algorithm 1",
        cost="one network evaluation and its gradient per step",
        avoid="few evaluations per sample are wanted: its paths bend; the levels are training times only, sampling may "
        "use any",
        recipe=Denoising(
            make_schedule=lambda o: DiscreteVariancePreserving(o["levels"], o["beta_first"], o["beta_last"]),
            make_times=lambda schedule: LevelTimes(schedule),
        ),
        options=_options(
            "noise",
            levels=Option(1000, "Noise levels N.", minimum=2),
            beta_first=Option(1e-4, "β of the first level.", exclusive=True),
            beta_last=Option(0.02, "β of the last level, below 1.", exclusive=True),
        ),
    ),
    Method(
        name="vp",
        title="Variance-preserving diffusion",
        map="ODE",
        couples=_COUPLES,
        path="p_t(x|x1) = N(α x1, (1 − α²) I), α = exp(−½∫β), clock τ = (1 − t)²",
        objective="noise regression",
        equation="E‖ε̂(t, x_t) − ε‖²  with  x_t = α x1 + √(1 − α²) ε, τ uniform",
        paper="Song et al. 2021, Score-Based Generative Modeling through SDEs (2011.13456), equation 11",
        cost="one network evaluation and its gradient per step",
        avoid="few evaluations per sample are wanted: its paths bend",
        recipe=Denoising(
            make_schedule=lambda o: SmoothVariancePreserving(o["beta_min"], o["beta_max"]),
            make_times=lambda schedule: PowerTimes(2.0),
        ),
        options=_options("noise", **_BETA),
    ),
    Method(
        name="subvp",
        title="Sub-variance-preserving diffusion",
        map="ODE",
        couples=_COUPLES,
        path="p_t(x|x1) = N(α x1, (1 − α²)² I), α = exp(−½∫β)",
        objective="noise regression",
        equation="E‖ε̂(t, x_t) − ε‖²  with  x_t = α x1 + (1 − α²) ε",
        paper="Song et al. 2021, Score-Based Generative Modeling through SDEs (2011.13456), equation 29",
        cost="one network evaluation and its gradient per step",
        avoid="few evaluations per sample are wanted: its paths bend",
        recipe=Denoising(
            make_schedule=lambda o: SubVariancePreserving(o["beta_min"], o["beta_max"]),
            make_times=lambda schedule: UniformTimes(),
        ),
        options=_options("noise", **_BETA),
    ),
    Method(
        name="cosine",
        title="Diffusion on the cosine schedule",
        map="ODE",
        couples=_COUPLES,
        path="p_t(x|x1) = N(sin(πt/2) x1, cos²(πt/2) I)",
        objective="regression of EDM's output, here minus the v-prediction",
        equation="E‖v̂(t, x_t) − (α ε − σ x1)‖²  with  x_t = α x1 + σ ε",
        paper="Nichol & Dhariwal 2021 (2102.09672) for the schedule; Salimans & Ho 2022 (2202.00512) for v",
        cost="one network evaluation and its gradient per step",
        avoid="nothing in particular; with predict=velocity it is flow matching on the trigonometric path",
        recipe=Denoising(
            make_schedule=lambda o: Trigonometric(),
            make_times=lambda schedule: UniformTimes(),
        ),
        options=_options("edm"),
    ),
    Method(
        name="ve",
        title="Variance-exploding diffusion",
        map="ODE",
        couples=_COUPLES,
        path="p_t(x|x1) = N(x1, σ² I), σ = σ_max^(1 − t)·σ_min^t",
        objective="noise regression",
        equation="E‖ε̂(t, x_t) − ε‖²  with  x_t = x1 + σ ε",
        paper="Song et al. 2021, Score-Based Generative Modeling through SDEs (2011.13456), equation 9",
        cost="one network evaluation and its gradient per step",
        avoid="the start law matters: it keeps the mean of the data, which the base does not have",
        recipe=Denoising(
            make_schedule=lambda o: VarianceExploding(o["sigma_min"], o["sigma_max"]),
            make_times=lambda schedule: UniformTimes(),
            settings=_STRAIGHT,
        ),
        options=_options(
            "noise",
            sigma_min=Option(0.01, "Noise left at the data, in standardised units.", exclusive=True),
            sigma_max=Option(50.0, "Noise at the start, in standardised units.", exclusive=True),
        ),
    ),
    Method(
        name="edm",
        title="EDM: preconditioned denoising",
        map="ODE",
        couples=_COUPLES,
        path="p_t(x|x1) = N(x1, σ² I), σ^(1/ρ) linear in t",
        objective="regression of the preconditioned output F, D = c_skip x + c_out F",
        equation="E‖F̂(t, x_t) − (x1 − c_skip x_t)/c_out‖²  with  x_t = x1 + σ ε, ln σ ~ N(−1.2, 1.2²)",
        paper="Karras et al. 2022, Elucidating the Design Space of Diffusion Models (2206.00364), table 1",
        cost="one network evaluation and its gradient per step",
        avoid="nothing in particular; sample it with a solver made for affine paths",
        recipe=Denoising(
            make_schedule=lambda o: Karras(o["sigma_min"], o["sigma_max"], o["rho"]),
            make_times=lambda schedule: LogSnrNormalTimes(schedule),
            settings=_STRAIGHT,
        ),
        options=_options(
            "edm",
            sigma_min=Option(0.002, "Noise left at the data, in standardised units.", exclusive=True),
            sigma_max=Option(80.0, "Noise at the start, in standardised units.", exclusive=True),
            rho=Option(7.0, "ρ: larger ones put more steps near the data.", minimum=1.0),
        ),
    ),
)
