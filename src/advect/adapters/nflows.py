"""Flows of `nflows`, with their weights, as flows of advect. Read and compared with nflows 0.14.

What is called what there (trap P12):

- ``transform(inputs, context)`` goes *data → noise* and returns the log-determinant of that direction: our `encode`. A
  `CompositeTransform` is applied in its order, as in `Compose`; an `InverseTransform` turns one round;
- a context is the condition; there is no time;
- a mask is positive for the coordinates that *move* (zuko: for those that stay);
- the scale of an affine coupling is sigmoid(r + 2) + 0.001, at most 1.001; that of a masked affine layer is
  softplus(r) + 0.001. All-zero parameters are *not* the identity, also of splines;
- in an affine coupling all shifts come before all scales; everywhere else the numbers of a coordinate lie together;
- splines are the identity outside ±``tail_bound``, 1 unless said otherwise; logits are divided by √width where the
  network says its width. Without ``tails`` one works on the unit box only, and is refused.

Affine and spline functions keep nflows' parametrisation, so gradients are those of the original too; only linear layers
train in other coordinates from there on. Dropout is left out: a copy answers as the original does in evaluation mode.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advect.adapters.agreement import check_agreement
from advect.adapters.nflows_networks import MaskedResiduals, Residuals
from advect.adapters.passes import PassByPass
from advect.adapters.plain import comes_from, in_float64, like, refused
from advect.errors import ConfigError
from advect.flows import Flow, StandardNormal
from advect.flows.bases import DiagonalNormal
from advect.networks.dependence import chain
from advect.transforms import Bijection, Compose, Householder, LULinear, Permutation, Standardise
from advect.transforms.coupling import Coupling
from advect.transforms.inverse import Inverse
from advect.transforms.monotone import Monotone, Moved
from advect.transforms.scale import Shift
from advect.transforms.spline import through_knots

_LEAST_SCALE = 1e-3
_SIGMOID_START = 2.0


def from_nflows(origin: Any) -> Flow | Bijection:
    """An nflows flow as a `Flow`, or one of its transforms as a `Bijection`; the original is left as it was.

    Covered, on vectors: affine, additive and rational-quadratic couplings with a `ResidualNet`; masked affine and
    masked rational-quadratic autoregressive transforms; every linear transform (LU, QR, SVD, naive),
    `HouseholderSequence`, permutations, `PointwiseAffineTransform`; compositions and inverses of these. The base is a
    `StandardNormal` or a `DiagonalNormal`.

    Args:
        origin: The object; nflows itself is not imported.

    Returns:
        A `Flow` where ``origin`` has a base, else a `Bijection` whose `encode` is ``transform(inputs, context)``. Its
        weights are copies, of the same dtype and on the same device.

    Raises:
        UnsupportedError: A layer, network or base that is not covered, by name; or a copy whose answers differ.
    """
    flow = hasattr(origin, "_distribution")
    transform = origin._transform if flow else origin
    if flow and not isinstance(origin._embedding_net, nn.Identity):
        raise refused(
            origin._embedding_net, "The flow embeds its context; take over flow._transform, and embed the condition"
        )
    original = in_float64(transform)
    map = _map(original)
    shape = map.event_shape
    if shape is None:
        raise refused(transform, "Nothing in it says how many coordinates a row has")
    check_agreement(map, lambda x, condition: original(x, condition), f"nflows' {type(transform).__name__}")
    map = map.to(like(transform))
    return Flow(_base(origin._distribution, shape).to(like(transform)), map) if flow else map


class SigmoidScale(Monotone):
    """y = x (sigmoid(r + 2) + 0.001) + b: nflows' `AffineCouplingTransform`. The parameters are b and r."""

    num_parameters = 2

    def forward(self, x: Tensor, parameters: Tensor) -> Moved:
        """y and log ∂y/∂x; see `Monotone`."""
        shift, raw = parameters.unbind(-1)
        return _scaled(x, torch.sigmoid(raw + _SIGMOID_START) + _LEAST_SCALE, shift)

    def inverse(self, y: Tensor, parameters: Tensor) -> Moved:
        """x and log ∂x/∂y; see `Monotone`."""
        shift, raw = parameters.unbind(-1)
        return _unscaled(y, torch.sigmoid(raw + _SIGMOID_START) + _LEAST_SCALE, shift)


class SoftplusScale(Monotone):
    """y = x (softplus(r) + 0.001) + b: nflows' `MaskedAffineAutoregressiveTransform`. The parameters are r and b."""

    num_parameters = 2

    def forward(self, x: Tensor, parameters: Tensor) -> Moved:
        """y and log ∂y/∂x; see `Monotone`."""
        raw, shift = parameters.unbind(-1)
        return _scaled(x, F.softplus(raw) + _LEAST_SCALE, shift)

    def inverse(self, y: Tensor, parameters: Tensor) -> Moved:
        """x and log ∂x/∂y; see `Monotone`."""
        raw, shift = parameters.unbind(-1)
        return _unscaled(y, F.softplus(raw) + _LEAST_SCALE, shift)


class SoftplusSpline(Monotone):
    """A rational-quadratic spline with derivatives softplus(r) + least: nflows' spline with linear tails.

    Args:
        bins: Number of bins K.
        bound: Half the side of the box.
        least_width: Least width of a bin, as a share of the box.
        least_height: Least height, likewise.
        least_derivative: Least derivative at a knot.
        gain: What logits of widths and heights are multiplied by.

    The parameters are K widths, K heights and K − 1 derivatives.
    """

    def __init__(
        self,
        bins: int,
        bound: float,
        *,
        least_width: float = 1e-3,
        least_height: float = 1e-3,
        least_derivative: float = 1e-3,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.bins, self.bound, self.gain = bins, bound, gain
        self.least_width, self.least_height, self.least_derivative = least_width, least_height, least_derivative
        self.num_parameters = 3 * bins - 1

    def forward(self, x: Tensor, parameters: Tensor) -> Moved:
        """y and log ∂y/∂x; see `Monotone`."""
        return through_knots(x, *self._knots(parameters))

    def inverse(self, y: Tensor, parameters: Tensor) -> Moved:
        """x and log ∂x/∂y; see `Monotone`."""
        return through_knots(y, *self._knots(parameters), inverse=True)

    def _knots(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        widths, heights, inner = parameters.split([self.bins, self.bins, self.bins - 1], -1)
        derivatives = F.pad(F.softplus(inner) + self.least_derivative, (1, 1), value=1.0)
        return self._places(widths, self.least_width), self._places(heights, self.least_height), derivatives

    def _places(self, raw: Tensor, least: float) -> Tensor:
        shares = least + (1 - self.bins * least) * (self.gain * raw).softmax(-1)
        inner = self.bound * (2 * shares[..., :-1].cumsum(-1) - 1)
        return F.pad(F.pad(inner, (1, 0), value=-self.bound), (0, 1), value=self.bound)


def _map(origin: Any) -> Bijection:
    """The counterpart of one transform."""
    name = type(origin).__name__
    if type(origin).__module__.split(".")[0] != "nflows" or name not in _COUNTERPARTS:
        raise refused(origin)
    return _COUNTERPARTS[name](origin)


def _composed(origin: Any) -> Bijection:
    return Compose(*(_map(part) for part in origin._transforms))


def _inverse(origin: Any) -> Bijection:
    return Inverse(_map(origin._transform))


def _coupling(origin: Any) -> Bijection:
    network = origin.transform_net
    if origin.unconditional_transform is not None:
        raise refused(origin.unconditional_transform, "The coordinates that stay are moved as well")
    if not comes_from(network, "nflows", "ResidualNet"):
        raise refused(network)
    kept, moved = origin.identity_features.tolist(), origin.transform_features.tolist()
    order = None
    if comes_from(origin, "nflows", "AffineCouplingTransform"):
        function, count = SigmoidScale(), len(moved)
        order = torch.arange(2 * count).reshape(2, count).T.flatten()  # shift and scale of a coordinate side by side
    elif comes_from(origin, "nflows", "AdditiveCouplingTransform"):
        function = Shift()
    else:
        function = _spline(origin, network)
    return Coupling(kept, moved, function, Residuals(network, order), network.context_features or 0)


def _autoregressive(origin: Any) -> Bijection:
    network = origin.autoregressive_net
    affine = comes_from(origin, "nflows", "MaskedAffineAutoregressiveTransform")
    function = SoftplusScale() if affine else _spline(origin, network)
    condition = network.context_layer.in_features if hasattr(network, "context_layer") else 0
    adjacency = chain(range(network.initial_layer.in_features))
    return PassByPass(function, MaskedResiduals(network), adjacency, condition)


def _spline(origin: Any, network: Any) -> Monotone:
    if origin.tails != "linear":
        raise refused(origin, "A spline without tails maps the unit box only, and refuses rows outside it")
    width = getattr(network, "hidden_features", None)
    return SoftplusSpline(
        origin.num_bins,
        float(origin.tail_bound),
        least_width=origin.min_bin_width,
        least_height=origin.min_bin_height,
        least_derivative=origin.min_derivative,
        gain=1.0 if width is None else 1 / math.sqrt(width),
    )


def _linear(origin: Any) -> Bijection:
    try:
        return LULinear.from_matrix(origin.weight().detach(), origin.bias)
    except ConfigError as error:
        raise refused(origin, error.what) from error


def _householder(origin: Any) -> Bijection:
    """z = H_K ⋯ H_1 x there, H_1 ⋯ H_K x here: the other order."""
    layer = Householder(origin.features, origin.num_transforms, generator=torch.Generator())
    layer.vectors = nn.Parameter(origin.q_vectors.detach().flip(0).T.clone())
    return layer


def _permutation(origin: Any) -> Bijection:
    if origin._dim != 1:
        raise refused(origin, f"It permutes axis {origin._dim}, not the coordinates of a vector")
    return Permutation(origin._permutation)


def _pointwise(origin: Any) -> Bijection:
    """y = scale · x + shift there, (x − shift)/scale here."""
    shift, scale = torch.broadcast_tensors(origin._shift, origin._scale)
    if shift.ndim != 1:
        raise refused(origin, f"Its shift and scale have {shift.ndim} axes, and do not say how long a row is")
    return Standardise(-shift / scale, 1 / scale)


_COUNTERPARTS: dict[str, Callable[[Any], Bijection]] = {
    "CompositeTransform": _composed,
    "InverseTransform": _inverse,
    "AffineCouplingTransform": _coupling,
    "AdditiveCouplingTransform": _coupling,
    "PiecewiseRationalQuadraticCouplingTransform": _coupling,
    "MaskedAffineAutoregressiveTransform": _autoregressive,
    "MaskedPiecewiseRationalQuadraticAutoregressiveTransform": _autoregressive,
    "LULinear": _linear,
    "QRLinear": _linear,
    "SVDLinear": _linear,
    "NaiveLinear": _linear,
    "HouseholderSequence": _householder,
    "Permutation": _permutation,
    "RandomPermutation": _permutation,
    "ReversePermutation": _permutation,
    "PointwiseAffineTransform": _pointwise,
}


def _scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Moved:
    return Moved(x * scale + shift, scale.log())


def _unscaled(y: Tensor, scale: Tensor, shift: Tensor) -> Moved:
    return Moved((y - shift) / scale, -scale.log())


def _base(base: Any, shape: tuple[int, ...]) -> StandardNormal | DiagonalNormal:
    """The base distribution."""
    if comes_from(base, "nflows", "StandardNormal"):
        return StandardNormal(shape)
    if comes_from(base, "nflows", "DiagonalNormal"):
        mean, scale = base.mean_.detach().reshape(shape), base.log_std_.detach().exp().reshape(shape)
        return DiagonalNormal(shape, mean=mean, scale=scale)
    raise refused(base, "Only a StandardNormal or a DiagonalNormal base is covered")
