"""Invertible maps with their log-determinants: `encode` goes from data to source, `decode` back.

`Bijection` is the base that checks shapes once; `Compose` chains maps. Layers to learn: linear (`LULinear`, `QRLinear`,
`Householder`, `ActNorm`, `Invertible1x1`), coupling and autoregressive with any `Monotone` function (`Scale`,
`RationalQuadraticSpline`, `MixtureCDF`, `MonotoneIntegral`), low rank (`Planar`, `Radial`, `Sylvester`), `Residual`;
`Inverse` turns one round. Supports: `Box`, `Positive`, `Simplex`, `Circle`. `Standardise`, `Asinh`, `Cumulative` and
`Columnwise` bring the columns of a table to unit scale, and `fit_preprocess` chooses and fits them, so that scaling is
part of a flow's map and its densities stay in the user's units. `Precision` changes the dtype on the way.
`GaussianLatent`, `Pushforward` and `Autoencoder` stand in the place of a bijection without being one (`vae`, `gan`, and
flows on codes).
"""

from advect.transforms.actnorm import ActNorm
from advect.transforms.affine import Standardise
from advect.transforms.assorted import Assorted
from advect.transforms.autoencoder import Autoencoder
from advect.transforms.autoregressive import Autoregressive
from advect.transforms.bijection import ANY_CONDITION, Bijection, mapped, worst_status
from advect.transforms.compose import Compose
from advect.transforms.coupling import Coupling, Elementwise
from advect.transforms.cumulative import Cumulative
from advect.transforms.dequantise import Logit
from advect.transforms.flatten import Flattened
from advect.transforms.image import ImageCoupling
from advect.transforms.integral import MonotoneIntegral
from advect.transforms.inverse import Inverse
from advect.transforms.latent import GaussianLatent
from advect.transforms.linear import Invertible1x1, LULinear, Permutation, whitening
from advect.transforms.mixture import MixtureCDF
from advect.transforms.monotone import Monotone, Moved
from advect.transforms.multiscale import MultiScale
from advect.transforms.orthogonal import Householder, QRLinear
from advect.transforms.planar import Planar
from advect.transforms.precision import Precision
from advect.transforms.preprocess import Asinh, Columnwise, empty_preprocess, fit_preprocess
from advect.transforms.pushforward import Pushforward
from advect.transforms.radial import Radial
from advect.transforms.residual import Residual
from advect.transforms.residual_trace import ExactLogDet, LogDet, RouletteLogDet, SeriesLogDet
from advect.transforms.scale import Scale, Shift
from advect.transforms.spline import CircularSpline, RationalQuadraticSpline
from advect.transforms.squeeze import Squeezed
from advect.transforms.support import Box, Circle, Positive, Simplex
from advect.transforms.sylvester import Sylvester

__all__ = [
    "ANY_CONDITION",
    "ActNorm",
    "Asinh",
    "Assorted",
    "Autoencoder",
    "Autoregressive",
    "Bijection",
    "Box",
    "Circle",
    "CircularSpline",
    "Columnwise",
    "Compose",
    "Coupling",
    "Cumulative",
    "Elementwise",
    "ExactLogDet",
    "Flattened",
    "GaussianLatent",
    "Householder",
    "ImageCoupling",
    "Inverse",
    "Invertible1x1",
    "LULinear",
    "LogDet",
    "Logit",
    "MixtureCDF",
    "Monotone",
    "MonotoneIntegral",
    "Moved",
    "MultiScale",
    "Permutation",
    "Planar",
    "Positive",
    "Precision",
    "Pushforward",
    "QRLinear",
    "Radial",
    "RationalQuadraticSpline",
    "Residual",
    "RouletteLogDet",
    "Scale",
    "SeriesLogDet",
    "Shift",
    "Simplex",
    "Squeezed",
    "Standardise",
    "Sylvester",
    "empty_preprocess",
    "fit_preprocess",
    "mapped",
    "whitening",
    "worst_status",
]
