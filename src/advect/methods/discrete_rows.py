"""The rows of discrete normalizing flows: invertible layers fitted by maximum likelihood, with their words."""

from functools import partial
from typing import Any

from advect.flows.architectures.autoregressive import iaf, maf, nsf_ar, umnn
from advect.flows.architectures.coupling import flowpp, nice, nsf, realnvp
from advect.flows.architectures.image import glow, notes_realnvp, realnvp_image
from advect.flows.architectures.lowrank import planar, radial, sylvester
from advect.flows.architectures.residual import residual
from advect.methods.discrete import DiscreteLikelihood, PictureAssembly, VectorAssembly
from advect.methods.likelihood import GRADIENT_CLIP
from advect.methods.option import Option
from advect.methods.row import Method
from advect.transforms import Bijection

_row = partial(
    Method,
    objective="maximum likelihood",
    equation="−E log p(x)  with  log p(x) = log N(z; 0, I) + log |det ∂z/∂x|,  z = encode(x)",
)

# Rates found by trial: 1e-3, the loop's own, was behind in equal steps.
_BRISK = {"gradient_clip": GRADIENT_CLIP, "learning_rate": 3e-3}
_QUICK = {"gradient_clip": GRADIENT_CLIP, "learning_rate": 5e-3}
_BINS = Option(8, "Bins of each spline.", minimum=2)
_BOUND = Option(5.0, "Half the box of the splines, in standard deviations; outside they are straight.", exclusive=True)
_SCALE = Option(3.0, "Largest log-scale of one layer, in nats.", exclusive=True)
_MIXING = Option("lu", "What stands between layers: lu, permutation or none.", choices=("lu", "permutation", "none"))
_ACTIVATION = Option(
    "silu",
    "What bends in the networks of vectors: silu, or gelu, which costs twice as much.",
    choices=("silu", "gelu"),
    earlier="gelu",
)
_AFFINE = ("layers", "mixing", "log_scale_bound", "activation")


def _layers(default: int, minimum: int = 1) -> Option:
    return Option(default, "Number of layers.", minimum=minimum)


def _glow(*shapes: Any, steps_per_scale: int, **options: Any) -> Bijection:
    """`glow`, whose ``steps`` are no optimiser steps."""
    return glow(*shapes, steps=steps_per_scale, **options)


def _notes(*shapes: Any, scales: int, couplings: int, **options: Any) -> Bijection:
    """`notes_realnvp` with the notes' sizes: six couplings, one resolution."""
    return notes_realnvp(*shapes, **options)


_FORMS = {"multi-scale": realnvp_image, "notes": _notes}


def _realnvp_picture(*shapes: Any, form: str, **options: Any) -> Bijection:
    return _FORMS[form](*shapes, **options)


LOW_RANK = (
    _row(
        name="planar",
        title="Planar flow",
        map="layers z = x + u·tanh(w·x + b), low-rank Jacobian",
        paper="Rezende & Mohamed 2015, Variational Inference with Normalizing Flows (1505.05770), eq. 10–12",
        cost="a dot product per layer; sampling solves one scalar equation per layer",
        avoid="there are more than a few coordinates: every layer bends along one direction only",
        recipe=DiscreteLikelihood(VectorAssembly(planar, ("layers",)), training=_QUICK),
        options={"layers": _layers(32)},
    ),
    _row(
        name="radial",
        title="Radial flow",
        map="layers that contract or expand around a centre, low-rank Jacobian",
        paper="Rezende & Mohamed 2015, Variational Inference with Normalizing Flows (1505.05770), eq. 13–14",
        cost="a distance per layer; sampling solves one scalar equation per layer",
        avoid="there are more than a few coordinates: every layer acts around one centre only",
        recipe=DiscreteLikelihood(VectorAssembly(radial, ("layers",)), training=_QUICK),
        options={"layers": _layers(32)},
    ),
    _row(
        name="sylvester",
        title="Sylvester flow",
        map="layers z = x + Q R tanh(R̃ Qᵀ x + b), determinant identity of Sylvester",
        paper="van den Berg et al. 2018, Sylvester Normalizing Flows (1803.05649), eq. 7–14",
        cost="a few products with small matrices per layer; sampling solves d scalar equations per layer",
        avoid="sampling must be fast, or the condition decides much: it moves the bends only",
        recipe=DiscreteLikelihood(VectorAssembly(sylvester, ("layers", "variant")), training=_QUICK),
        options={
            "layers": _layers(16),
            "variant": Option(
                "householder",
                "How the directions are kept orthogonal: orthogonal, householder or triangular.",
                choices=("orthogonal", "householder", "triangular"),
            ),
        },
    ),
)

COUPLING = (
    _row(
        name="nice",
        title="NICE",
        map="additive couplings, which keep volume, then one scale per coordinate",
        paper="Dinh et al. 2015, NICE: Non-linear Independent Components Estimation (1410.8516), §3",
        cost="one small network per layer, both ways",
        avoid="the density has sharp or separate parts: volume cannot change inside",
        recipe=DiscreteLikelihood(VectorAssembly(nice, _AFFINE), training=_BRISK),
        options={"layers": _layers(8, minimum=2), "mixing": Option("none", _MIXING.meaning, choices=_MIXING.choices)}
        | {"log_scale_bound": _SCALE, "activation": _ACTIVATION},
    ),
    _row(
        name="realnvp",
        title="Real NVP",
        map="affine couplings with mixing between them; on pictures multi-scale with checkerboard and channel masks",
        paper="Dinh et al. 2017, Density estimation using Real NVP (1605.08803), eq. 7–8 and §3.6",
        cost="one small network per layer, both ways",
        avoid="the density has sharp or separate parts: a shift and a scale bend little per layer",
        recipe=DiscreteLikelihood(
            VectorAssembly(realnvp, _AFFINE),
            PictureAssembly(_realnvp_picture, ("form", "scales", "couplings")),
            training=_BRISK,
        ),
        options={
            "layers": _layers(8, minimum=2),
            "mixing": _MIXING,
            "log_scale_bound": _SCALE,
            "activation": _ACTIVATION,
            "form": Option(
                "multi-scale",
                "On pictures: multi-scale, or notes: six couplings with 3×3 convolutions at one resolution.",
                choices=tuple(_FORMS),
            ),
            "scales": Option(3, "Resolutions of a picture, at most.", minimum=1),
            "couplings": Option(3, "Couplings of each mask at each resolution of a picture.", minimum=2),
        },
    ),
    _row(
        name="glow",
        title="Glow",
        map="steps of ActNorm, invertible 1×1 convolution and affine coupling on pictures, multi-scale",
        paper="Kingma & Dhariwal 2018, Glow: Generative Flow with Invertible 1×1 Convolutions (1807.03039), table 1",
        cost="one small convolutional network per step, both ways",
        avoid="the rows are no pictures (use realnvp or nsf)",
        recipe=DiscreteLikelihood(None, PictureAssembly(_glow, ("scales", "steps_per_scale")), training=_BRISK),
        options={
            "scales": Option(3, "Resolutions of a picture, at most.", minimum=1),
            "steps_per_scale": Option(4, "Steps at each resolution.", minimum=1),
        },
    ),
    _row(
        name="nsf",
        title="Neural spline flow (coupling)",
        map="couplings by rational-quadratic splines with mixing between them",
        paper="Durkan et al. 2019, Neural Spline Flows (1906.04032), eq. 4–8",
        cost="one small network and one spline per layer, both ways",
        avoid="rows have hard edges or lie on a sheet: the map is smooth and invertible",
        recipe=DiscreteLikelihood(VectorAssembly(nsf, ("layers", "mixing", "bins", "bound")), training=_BRISK),
        options={"layers": _layers(6, minimum=2), "mixing": _MIXING, "bins": _BINS, "bound": _BOUND},
    ),
    _row(
        name="flowpp",
        title="Flow++",
        map="couplings by the distribution functions of logistic mixtures, with mixing between them",
        paper="Ho et al. 2019, Flow++ (1902.00275), eq. 7–8",
        cost="one small network per layer; sampling inverts every mixture numerically",
        avoid="sampling must be fast",
        recipe=DiscreteLikelihood(VectorAssembly(flowpp, ("layers", "mixing", "components")), training=_BRISK),
        options={
            "layers": _layers(6, minimum=2),
            "mixing": _MIXING,
            "components": Option(8, "Logistics in each mixture.", minimum=1),
        },
    ),
)

AUTOREGRESSIVE = (
    _row(
        name="maf",
        title="Masked autoregressive flow",
        map="each coordinate shifted and scaled by those before it, the order reversed between layers",
        paper="Papamakarios et al. 2017, Masked Autoregressive Flow (1705.07057), eq. 3–4",
        cost="one masked network per layer; sampling goes through the coordinates one by one",
        avoid="sampling must be fast in many coordinates, or the density has separate parts (nsf-ar)",
        recipe=DiscreteLikelihood(VectorAssembly(maf, ("layers",)), training=_BRISK),
        options={"layers": _layers(5)},
    ),
    _row(
        name="iaf",
        title="Inverse autoregressive flow",
        map="a masked autoregressive flow turned round: fast sampling, slow scoring",
        paper="Kingma et al. 2016, Inverse Autoregressive Flow (1606.04934), eq. 10",
        cost="training and scoring go through the coordinates one by one; sampling is one pass per layer",
        avoid="training on data in many coordinates: maf is the same family in the cheap direction",
        recipe=DiscreteLikelihood(VectorAssembly(iaf, ("layers",)), training=_BRISK),
        options={"layers": _layers(5)},
    ),
    _row(
        name="nsf-ar",
        title="Neural spline flow (autoregressive)",
        map="each coordinate through a rational-quadratic spline given by those before it",
        paper="Durkan et al. 2019, Neural Spline Flows (1906.04032), eq. 4–8",
        cost="one masked network and one spline per layer; sampling goes through the coordinates one by one",
        avoid="sampling must be fast in many coordinates",
        recipe=DiscreteLikelihood(VectorAssembly(nsf_ar, ("layers", "bins", "bound")), training=_BRISK),
        options={"layers": _layers(5), "bins": _BINS, "bound": _BOUND},
    ),
    _row(
        name="umnn",
        title="Unconstrained monotonic neural network flow",
        map="each coordinate through the integral of a positive network given by those before it",
        paper="Wehenkel & Louppe 2019, Unconstrained Monotonic Neural Networks (1908.05164), eq. 1 and §4",
        cost="a quadrature of a small network per coordinate and layer; sampling inverts it numerically",
        avoid="time matters: a spline (nsf-ar) is evaluated once where this network is at every node of the quadrature",
        recipe=DiscreteLikelihood(VectorAssembly(umnn, ("layers",)), training=_BRISK),
        options={"layers": _layers(3)},
    ),
)

RESIDUAL = (
    _row(
        name="residual",
        title="Residual flow",
        map="blocks z = x + g(x) with g contractive",
        paper="Chen et al. 2019, Residual Flows for Invertible Generative Modeling (1906.02735), eq. 6–8",
        cost="a Jacobian per block in few coordinates, an unbiased series above; sampling iterates to a fixed point",
        avoid="sampling must be fast: each block is inverted by iteration",
        recipe=DiscreteLikelihood(VectorAssembly(residual, ("layers", "lipschitz", "activation")), training=_BRISK),
        options={
            "layers": _layers(8),
            "lipschitz": Option(0.97, "Bound on the Lipschitz constant of each block, below one.", exclusive=True),
            "activation": Option(
                "lipswish", "Of the networks: lipswish, or sine, which bends more.", choices=("lipswish", "sine")
            ),
        },
    ),
)

DISCRETE: tuple[Method, ...] = (*LOW_RANK, *COUPLING, *AUTOREGRESSIVE, *RESIDUAL)
