"""Flows of `zuko`, with their weights, as flows of advect. Read and compared with zuko 1.6.

What is called what there (trap P12):

- a lazy transform called with a context gives a `Transform`, which goes *data → noise*: our `encode`. A list of
  transforms is applied in its order, as in `Compose`;
- a context is the condition, appended to the numbers a network looks at;
- log-determinants are of the direction called, as here; there is no time;
- a mask is true for the coordinates that *stay* (nflows: for those that move);
- LU has its free diagonal in L, ours in U, and it may be negative: the product is taken over, not the factors;
- a rotation exp(A − Aᵀ) becomes a product of reflections.

Affine and spline functions keep zuko's parametrisation, so gradients are those of the original too; only linear layers
train in other coordinates from there on.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advect.adapters.agreement import check_agreement
from advect.adapters.passes import PassByPass
from advect.adapters.plain import Constant, Dense, Residual, comes_from, dense, in_float64, like, refused
from advect.flows import Flow, StandardNormal
from advect.flows.bases import DiagonalNormal
from advect.transforms import Bijection, Compose, Householder, LULinear, Permutation, Standardise
from advect.transforms.coupling import Coupling
from advect.transforms.inverse import Inverse
from advect.transforms.monotone import Monotone, Moved
from advect.transforms.scale import Shift
from advect.transforms.spline import through_knots

_SLOPE, _BOUND = 1e-3, 5.0  # defaults of zuko's univariate transforms
_AFFINE = 2  # numbers for shift and scale


def from_zuko(origin: Any) -> Flow | Bijection:
    """A zuko flow as a `Flow`, or one of its lazy transforms as a `Bijection`; the original is left as it was.

    Covered: `MaskedAutoregressiveTransform`, `GeneralCouplingTransform` and `ElementWiseTransform` with
    `MonotonicAffineTransform`, `MonotonicRQSTransform` or `AdditiveTransform`; `LULinearTransform`,
    `RotationTransform`, `PermutationTransform`, `AffineTransform`; compositions and inverses of these; so NICE,
    RealNVP, MAF and NSF. The base is a `DiagNormal`.

    Args:
        origin: The object; zuko itself is not imported.

    Returns:
        A `Flow` where ``origin`` has a base, else a `Bijection` whose `encode` is the transform's call. Its weights are
        copies, of the same dtype and on the same device.

    Raises:
        UnsupportedError: A layer, network or base that is not covered, by name; or a copy whose answers differ.
    """
    transform, base = (origin.transform, origin.base) if hasattr(origin, "base") else (origin, None)
    original = in_float64(transform)
    map = _map(original)
    shape = map.event_shape
    if shape is None:
        raise refused(transform, "Nothing in it says how many coordinates a row has")

    def theirs(x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        done = original(condition)
        z = done(x)
        log_det = done.log_abs_det_jacobian(x, z)
        return z, log_det.sum(1) if log_det.ndim > 1 else log_det

    check_agreement(map, theirs, f"zuko's {type(transform).__name__}")
    map = map.to(like(transform))
    return map if base is None else Flow(_base(base, shape), map)


class SoftScale(Monotone):
    """y = x exp(s) + b with s = r/(1 + |r/L|), L = −log(slope): zuko's `MonotonicAffineTransform`.

    Args:
        slope: Least slope; exp(s) lies between it and its inverse.

    The parameters are b and r.
    """

    num_parameters = _AFFINE

    def __init__(self, slope: float = _SLOPE) -> None:
        super().__init__()
        self.limit = -math.log(slope)

    def forward(self, x: Tensor, parameters: Tensor) -> Moved:
        """y and log ∂y/∂x = s; see `Monotone`."""
        shift, raw = parameters.unbind(-1)
        log_scale = _softly(raw, self.limit)
        return Moved(x * log_scale.exp() + shift, log_scale)

    def inverse(self, y: Tensor, parameters: Tensor) -> Moved:
        """x and log ∂x/∂y = −s; see `Monotone`."""
        shift, raw = parameters.unbind(-1)
        log_scale = _softly(raw, self.limit)
        return Moved((y - shift) * (-log_scale).exp(), -log_scale)


class SoftSpline(Monotone):
    """A rational-quadratic spline from softly bounded logits: zuko's `MonotonicRQSTransform`.

    Args:
        bins: Number of bins K.
        bound: Half the side of the box.
        slope: Least derivative; logits of widths and heights stay within half of −log(slope).

    The parameters are K widths, K heights and K − 1 derivatives. No bin has a least width.
    """

    def __init__(self, bins: int, bound: float = _BOUND, slope: float = _SLOPE) -> None:
        super().__init__()
        self.bins, self.bound, self.limit = bins, bound, -math.log(slope)
        self.num_parameters = 3 * bins - 1

    def forward(self, x: Tensor, parameters: Tensor) -> Moved:
        """y and log ∂y/∂x; see `Monotone`."""
        return through_knots(x, *self._knots(parameters))

    def inverse(self, y: Tensor, parameters: Tensor) -> Moved:
        """x and log ∂x/∂y; see `Monotone`."""
        return through_knots(y, *self._knots(parameters), inverse=True)

    def _knots(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        widths, heights, inner = parameters.split([self.bins, self.bins, self.bins - 1], -1)
        derivatives = F.pad(_softly(inner, self.limit), (1, 1)).exp()
        return self._places(widths), self._places(heights), derivatives

    def _places(self, raw: Tensor) -> Tensor:
        shares = _softly(raw, self.limit / 2).softmax(-1)
        inner = self.bound * (2 * shares[..., :-1].cumsum(-1) - 1)
        return F.pad(F.pad(inner, (1, 0), value=-self.bound), (0, 1), value=self.bound)


class Looking(nn.Module):
    """``network(x, condition) -> (batch, outputs)``: layers on the numbers of both, in their own dtype."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """``(batch, outputs)``."""
        h = x if condition is None else torch.cat([x, condition.to(x.dtype)], dim=1)
        return self.layers(h.to(next(self.parameters()).dtype)).to(x.dtype)


def _map(origin: Any) -> Bijection:
    """The counterpart of one lazy transform."""
    name = type(origin).__name__
    if type(origin).__module__.split(".")[0] != "zuko" or name not in _COUNTERPARTS:
        raise refused(origin)
    return _COUNTERPARTS[name](origin)


def _composed(origin: Any) -> Bijection:
    return Compose(*(_map(part) for part in origin.transforms))


def _inverse(origin: Any) -> Bijection:
    return Inverse(_map(origin.transform))


def _autoregressive(origin: Any) -> Bijection:
    function, layers = _function(origin), _layers(origin.hyper)
    seen = _first(layers).weight.shape[1]
    looks = _reach(layers, torch.eye(seen, dtype=torch.bool))
    features = len(looks) // function.num_parameters
    adjacency = looks[:, :features].unflatten(0, (features, -1)).any(1)
    return PassByPass(function, Looking(layers), adjacency, seen - features)


def _coupling(origin: Any) -> Bijection:
    function, layers = _function(origin), _layers(origin.hyper)
    kept, moved = origin.mask.nonzero().flatten().tolist(), (~origin.mask).nonzero().flatten().tolist()
    condition_features = _first(layers).weight.shape[1] - len(kept)
    return Coupling(kept, moved, function, Looking(layers), condition_features)


def _elementwise(origin: Any) -> Bijection:
    function = _function(origin)
    if hasattr(origin, "hyper"):
        layers = _layers(origin.hyper)
        network, condition_features = Looking(layers), _first(layers).weight.shape[1]
        outputs = [layer for layer in layers if isinstance(layer, Dense)][-1].weight.shape[0]
    else:
        values = torch.cat([p.flatten(1) if p.ndim > 1 else p.unsqueeze(1) for p in origin.phi], dim=1)
        network, condition_features, outputs = Constant(values.flatten()), 0, values.numel()
    return Coupling((), range(outputs // function.num_parameters), function, network, condition_features)


def _unconditional(origin: Any) -> Bijection:
    """A transform with tensors of its own and no network."""
    kind, values = origin.f, (*origin.args, *origin.kwargs.values())
    given = [value.detach() for value in values if isinstance(value, Tensor)]
    name = getattr(kind, "__name__", "") if len(given) == len(values) else ""
    if name == "PermutationTransform":
        return Permutation(given[0].long())
    if name == "LULinearTransform":
        lower, upper = given[0].tril(), given[0].triu(1) + torch.eye(len(given[0])).to(given[0])
        layer = LULinear.from_matrix(lower @ upper)
        layer.bias = None  # zuko has none
        return layer
    if name == "RotationTransform":
        return _rotation(given[0])
    if name == "AffineTransform" and list(origin.kwargs) in ([], ["loc", "scale"]) and given[0].ndim == 1:
        location, scale = given  # of y = location + scale · x
        if bool((scale > 0).all()):
            return Standardise(-location / scale, 1 / scale)
    raise refused(kind if isinstance(kind, type) else origin)


_COUNTERPARTS: dict[str, Callable[[Any], Bijection]] = {
    "LazyComposedTransform": _composed,
    "LazyInverse": _inverse,
    "MaskedAutoregressiveTransform": _autoregressive,
    "GeneralCouplingTransform": _coupling,
    "ElementWiseTransform": _elementwise,
    "UnconditionalTransform": _unconditional,
}


def _function(origin: Any) -> Monotone:
    """The monotone function of each coordinate, from a class of zuko or a `functools.partial` of one."""
    kind = getattr(origin.univariate, "func", origin.univariate)
    options = dict(getattr(origin.univariate, "keywords", {}))
    sizes = [math.prod(shape) for shape in origin.shapes]
    name = getattr(kind, "__name__", type(kind).__name__)
    if name == "MonotonicAffineTransform" and len(sizes) == _AFFINE and set(options) <= {"slope"}:
        return SoftScale(**options)
    if name == "MonotonicRQSTransform" and len(sizes) == 3 and set(options) <= {"slope", "bound"}:
        return SoftSpline(sizes[0], **options)
    if name == "AdditiveTransform" and not options:
        return Shift()
    raise refused(kind if isinstance(kind, type) else origin, f"The univariate transform {name} is not covered")


def _softly(raw: Tensor, limit: float) -> Tensor:
    """r/(1 + |r/L|): r near zero, never beyond ±L."""
    return raw / (1 + (raw / limit).abs())


def _layers(network: Any) -> nn.Sequential:
    """The layers of an MLP or a masked one."""
    copies: list[nn.Module] = []
    for layer in network:
        if comes_from(layer, "zuko", "Linear", "MaskedLinear"):
            copies.append(dense(layer))
        elif comes_from(layer, "zuko", "Residual"):
            copies.append(Residual(_layers(layer)))
        elif type(layer).__module__.startswith("torch.nn.modules.activation"):
            copies.append(copy.deepcopy(layer))
        else:
            raise refused(layer)
    return nn.Sequential(*copies)


def _first(layers: nn.Sequential) -> Dense:
    first = layers[0]
    assert isinstance(first, Dense)
    return first


def _reach(layers: nn.Module, known: Tensor) -> Tensor:
    """``(units, inputs)``: which inputs each unit of the last layer hears of, given those that reach the first."""
    if isinstance(layers, Dense):
        mask = torch.ones_like(layers.weight) if layers.mask is None else layers.mask
        return ((mask != 0).float() @ known.float()) > 0
    if isinstance(layers, Residual):
        return known | _reach(layers.inner, known)
    for layer in layers.children():
        known = _reach(layer, known)
    return known


def _rotation(skew: Tensor) -> Householder:
    """R = exp(A − Aᵀ) as reflections: H_{d−1} ⋯ H_1 R = D, the k-th taking column k to ±axis k, and D = diag(±1)."""
    left = torch.linalg.matrix_exp(skew - skew.mT)
    axes = torch.eye(len(left)).to(left)
    vectors: list[Tensor] = []
    for k in range(len(left) - 1):
        vector = left[:, k].clone()
        vector[:k] = 0  # up to rounding it is
        vector[k] += torch.copysign(vector.norm(), vector[k])  # the sign for which nothing cancels
        vectors.append(vector / vector.norm())
        left = left - 2 * torch.outer(vectors[-1], vectors[-1] @ left)
    vectors += [axis for axis, entry in zip(axes, left.diagonal(), strict=True) if entry < 0]
    layer = Householder(len(left), generator=torch.Generator())
    layer.vectors = nn.Parameter(torch.stack(vectors, dim=1) if vectors else axes[:, [0, 0]])  # twice is none
    return layer


def _base(base: Any, shape: tuple[int, ...]) -> StandardNormal | DiagonalNormal:
    """The base distribution, which must be a normal with independent coordinates."""
    kind = getattr(base, "f", None)
    if getattr(kind, "__name__", "") != "DiagNormal" or base.kwargs.keys() - {"loc", "scale"}:
        raise refused(kind if isinstance(kind, type) else base, "Only a DiagNormal base is covered")
    given = {**dict(zip(("loc", "scale"), base.args, strict=False)), **base.kwargs}
    mean, scale = given["loc"].detach(), given["scale"].detach()
    if bool((mean == 0).all() and (scale == 1).all()):
        return StandardNormal(shape).to(mean)
    return DiagonalNormal(shape, mean=mean, scale=scale).to(mean)
