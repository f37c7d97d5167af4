"""The distribution function of a mixture of logistics, as a map of the line onto itself.

    y = logit(F(x)) exp(a) + b,   F(x) = Σ_k π_k σ(u_k),  u_k = (x − μ_k) exp(−s_k)   (Ho et al. 2019, 1902.00275, §3.2)

Where F is within rounding of 0 or 1 its logit is lost, so F and 1 − F are both kept as logarithms. The slope needs no
difference of large numbers either: with F' = f and 1/(F(1 − F)) = 1/F + 1/(1 − F),

    ∂ logit F/∂x = f/F + f/(1 − F) = Σ_k exp(−s_k) (q_k σ(−u_k) + r_k σ(u_k)),

where q_k is the share of component k in F and r_k its share in 1 − F. There is no closed inverse; it is searched.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from advect.errors import ConfigError
from advect.records import Status
from advect.solvers.inverse import Root, bracketed_root
from advect.transforms.monotone import Monotone, Moved

_WIDTH = 64.0  # of the first bracket, whose middle is the guess: widening it would cost every point two evaluations
_NEWTON_ITERATIONS = 9  # most points are found by then; the last take up to 60


class MixtureCDF(Monotone):
    """A mixture of logistics through its distribution function, the logit, and an affine map.

    Args:
        components: Number of logistics K.
        bound: Largest |s_k| and |a| in nats.

    The parameters are K weights (softmax), K places, K log-scales, the log-scale a and the shift b. Zeros are the
    identity: every component is then the standard logistic, whose distribution function the logit undoes. But
    components that coincide have the same gradient and move together for ever, so training begins from `start`.
    """

    def __init__(self, components: int = 8, bound: float = 4.0) -> None:
        super().__init__()
        if components < 1 or not 0 < bound < float("inf"):
            raise ConfigError(
                f"{components} components with log-scales up to {bound!r}",
                where="MixtureCDF",
                remedy="Choose at least 1 component and a positive bound.",
            )
        self.components, self.bound = components, bound
        self.num_parameters = 3 * components + 2

    def start(self, spread: float = 2.0) -> Tensor:
        """Parameters ``(num_parameters,)`` that put the places evenly from −spread to spread, all else zero.

        The map then moves no point by more than ``spread``: F lies between σ(x − spread) and σ(x + spread).
        """
        parameters = torch.zeros(self.num_parameters)
        if self.components > 1:
            parameters[self.components : 2 * self.components] = torch.linspace(-spread, spread, self.components)
        return parameters

    def forward(self, x: Tensor, parameters: Tensor) -> Moved:
        """y and log ∂y/∂x; see `Monotone`."""
        value, log_slope = self._mixture(parameters).value_and_log_slope(x.reshape(-1))
        return Moved(value.reshape(x.shape), log_slope.reshape(x.shape))

    def inverse(self, y: Tensor, parameters: Tensor) -> Moved:
        """x and log ∂x/∂y; see `Monotone`. NaN, and not ``converged``, where no root was found."""
        mixture, flat = self._mixture(parameters), y.reshape(-1)
        root = mixture.search(flat)
        if torch.is_grad_enabled():  # once more from there, for the gradient of the implicit function
            start, tolerance = root.value.nan_to_num(0.0), 64 * torch.finfo(y.dtype).eps
            root = bracketed_root(mixture.value, flat, derivative=mixture.slope, start=start, tolerance=tolerance)
        converged = root.status == int(Status.OK)
        # A point without a root must not send its NaN into parameters that others share.
        log_slope = -mixture.value_and_log_slope(torch.where(converged, root.value, 0.0))[1]
        log_slope = torch.where(converged, log_slope, torch.nan)
        return Moved(root.value.reshape(y.shape), log_slope.reshape(y.shape), converged.reshape(y.shape))

    def _mixture(self, parameters: Tensor) -> "_Mixture":
        components = self.components
        first = parameters.reshape(-1, self.num_parameters).t().contiguous()  # points last: sums over k then run fast
        weights, places, log_scales, log_scale, shift = first.split([components] * 3 + [1, 1])
        return _Mixture(
            log_weights=weights.log_softmax(0),
            places=places,
            log_scales=_bounded(log_scales, self.bound),
            log_scale=_bounded(log_scale.squeeze(0), self.bound),
            shift=shift.squeeze(0),
        )


@dataclass(frozen=True)
class _Mixture:
    """One mixture for each point: the first three are ``(components, points)``, the others ``(points,)``."""

    log_weights: Tensor
    places: Tensor
    log_scales: Tensor
    log_scale: Tensor
    shift: Tensor

    def value(self, x: Tensor) -> Tensor:
        """logit(F(x)) exp(a) + b."""
        below, above = (self._log_sigmoids(x) + self.log_weights).logsumexp(1).unbind(0)
        return (below - above) * self.log_scale.exp() + self.shift

    def value_and_log_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The value and the logarithm of its derivative."""
        log_sigmoids = self._log_sigmoids(x)
        terms = log_sigmoids + self.log_weights
        below, above = terms.logsumexp(1).unbind(0)
        # log q_k and log r_k as log_softmax: a difference to `below` would lose them far out, where both are large.
        parts = terms.log_softmax(1) + log_sigmoids.flip(0) - self.log_scales
        log_slope = parts.flatten(0, 1).logsumexp(0) + self.log_scale
        return (below - above) * self.log_scale.exp() + self.shift, log_slope

    def slope(self, x: Tensor) -> Tensor:
        """The derivative of the value."""
        return self.value_and_log_slope(x)[1].exp()

    @torch.no_grad()
    def search(self, y: Tensor) -> Root:
        """The roots of value(x) = y: for most points in a few Newton steps, then for the rest by themselves."""
        first = {"start": self.guess(y), "width": _WIDTH, "max_iterations": _NEWTON_ITERATIONS}
        root = bracketed_root(self.value, y, derivative=self.slope, **first)
        late = (root.status != int(Status.OK)).nonzero().squeeze(1)
        if not late.numel():
            return root
        few = _Mixture(*(getattr(self, field.name)[..., late] for field in fields(self)))
        rest = bracketed_root(few.value, y[late], derivative=few.slope, start=few.guess(y[late]))
        joined = (getattr(root, field.name).clone() for field in fields(root))
        found = (getattr(rest, field.name) for field in fields(rest))
        return Root(*(into.index_copy_(0, late, part) for into, part in zip(joined, found, strict=True)))

    def guess(self, y: Tensor) -> Tensor:
        """A point near the root: the mean of what the components alone would give."""
        logit = (y - self.shift) * (-self.log_scale).exp()
        return (self.log_weights.exp() * (self.places + self.log_scales.exp() * logit)).sum(0)

    def _log_sigmoids(self, x: Tensor) -> Tensor:
        """log σ(u_k) and log σ(−u_k), ``(2, components, points)``."""
        u = (x - self.places) * (-self.log_scales).exp()
        return logsigmoid(torch.stack([u, -u]))


def _bounded(raw: Tensor, bound: float) -> Tensor:
    """``raw`` squeezed into (−bound, bound), with slope 1 at 0."""
    return raw / (1 + raw.abs() / bound)
