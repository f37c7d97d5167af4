"""Exact velocities between Gaussians: where an untrained flow starts.

Independent coupling, affine path x_t = α x1 + σ x0 with x0 ~ N(0, I) and x1 ~ N(m, Σ): the marginal is N(αm,
α²Σ + σ²I) and its velocity is affine,

    v(t, x) = α' m + A(t) (x − α m),     A(t) = (α'α Σ + σ'σ I)(α² Σ + σ² I)⁻¹

(conditional mean of α' x1 + σ' x0 given x_t; Lipman et al. 2022, Theorem 1 with Gaussians). A commutes with
Σ, so in the eigenbasis it is one number per direction. At t = 1 it is (α'/α) I where σ = 0, at t = 0 it is
(σ'/σ) I where α = 0: finite for every schedule whose σ'σ is.

Optimal coupling: the Monge map of N(0, I) to N(m, Σ) is T(x0) = m + S x0 with S = Σ^{1/2} (Dowson & Landau
1982; Peyré & Cuturi 2019, remark 2.31); displacement interpolation x_t = (1−t) x0 + t T(x0) gives

    v(t, x) = m + A(t) (x − t m),        A(t) = (S − I)((1−t) I + t S)⁻¹ .

Entropic coupling with ε = 2σ² and Brownian bridges of rate σ in between: the marginals of the Schrödinger bridge from
N(0, I) to N(m, Σ) are N(t m, V) with V(t) = (1−t)² I + t² Σ + t(1−t) (σ⁴ I + 4Σ)^{1/2} (Bunne et al. 2202.05722;
all matrices commute with Σ), so

    v(t, x) = m + ½ V'(t) V(t)⁻¹ (x − t m),      ∇ log p_t(x) = −V(t)⁻¹ (x − t m) .

A network added to such a field only has to learn what is not Gaussian.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advect.errors import ConfigError, DataError, ShapeError
from advect.typing import Schedule

FULL_COVARIANCE_LIMIT = 256  # above it, d² numbers per map and 2d² operations per row no longer pay: diagonal
EIGENVALUE_FLOOR = 1e-6  # of the mean eigenvalue: condition number at most about d·1e6
OPEN_END_MARGIN = 1e-5  # distance kept in time from an end where the schedule has no finite derivative
SINGLE_POINT_VARIANCE = 1e-6  # rows that are all alike have no scale of their own


class _Gaussian(nn.Module):
    """An affine field that acts on each eigenvector of Σ by itself; children say how."""

    mean: Tensor
    spectrum: Tensor
    directions: Tensor | None

    def __init__(self, mean: Float[Tensor, "*event"], covariance: Tensor) -> None:
        super().__init__()
        width = mean.numel()
        if covariance.shape not in ((width,), (width, width)):
            raise ShapeError(
                f"The covariance has shape {tuple(covariance.shape)}, the mean has {width} entries",
                where="covariance",
                remedy=f"Give ({width}, {width}), or ({width},) for a diagonal one.",
            )
        if covariance.ndim == 2:
            spectrum, directions = torch.linalg.eigh(covariance.detach().to(torch.float64))
            directions = directions.to(mean.dtype)
        else:
            spectrum, directions = covariance.detach(), None
        if not bool((spectrum > 0).all()):
            raise ConfigError(
                f"The covariance is not positive definite: smallest eigenvalue {float(spectrum.min()):.3g}",
                where="covariance",
                remedy="Use GaussianBaseline.fit, which shrinks it, or add a small multiple of the identity.",
            )
        self.event_shape = tuple(mean.shape)
        self.register_buffer("mean", mean.detach().clone().reshape(width))
        self.register_buffer("spectrum", spectrum.to(mean.dtype, copy=True))
        self.register_buffer("directions", directions)

    def forward(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Velocity at ``t`` and ``x``; the condition plays no part."""
        centre, drift, slopes = self._coefficients(_column(t, x))
        return (drift + self._along(slopes, x.reshape(x.shape[0], self.mean.shape[0]) - centre)).reshape(x.shape)

    def divergence(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> Float[Tensor, " batch"]:
        """Trace of A(t), the same for every x."""
        return self._coefficients(_column(t, x))[2].sum(1).expand(x.shape[0])

    def _along(self, slopes: Tensor, offset: Tensor) -> Tensor:
        """``offset`` ``(batch, width)`` with each eigendirection scaled by its slope."""
        if self.directions is None:
            return slopes * offset
        directions = self.directions.to(offset.dtype)
        return (slopes * (offset @ directions)) @ directions.T

    def _coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean of x_t, its time derivative, and the eigenvalues of A(t), ``(batch or 1, width)``; t is a column."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Shape and form, for ``print``."""
        form = "diagonal" if self.directions is None else "full"
        return f"event_shape={self.event_shape}, covariance={form}"


class GaussianBaseline(_Gaussian):
    """Marginal velocity from N(0, I) to N(mean, Σ) for the independent coupling, on any affine schedule.

    Args:
        mean: ``(*event)``.
        covariance: ``(d, d)`` of the flattened event, positive definite; or ``(d,)`` for a diagonal one.
        schedule: α and σ of the path.

    Attributes:
        interval: Times between which a flow integrates the field: [0, 1], less 1e-5 at an end where the
            schedule has no finite derivative.

    Raises:
        ConfigError: If the covariance is not positive definite.
        ShapeError: If its shape does not fit the mean.
    """

    has_score = True

    def __init__(self, mean: Float[Tensor, "*event"], covariance: Tensor, schedule: Schedule) -> None:
        super().__init__(mean, covariance)
        self.schedule = schedule
        start, end = finite_ends(schedule)
        self.interval = (0.0 if start else OPEN_END_MARGIN, 1.0 if end else 1.0 - OPEN_END_MARGIN)

    @classmethod
    def fit(cls, x1: Float[Tensor, "rows *event"], schedule: Schedule) -> "GaussianBaseline":
        """Fit to data rows; see `fit_gaussian`."""
        return cls(*fit_gaussian(x1), schedule)

    @classmethod
    def standard(cls, event_shape: tuple[int, ...], schedule: Schedule) -> "GaussianBaseline":
        """Carry N(0, I) to itself: the form to load a stored state into."""
        return cls(*_standard(event_shape), schedule)

    def _coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        alpha_dot, sigma_dot = self.schedule.alpha_derivative(t), self.schedule.sigma_derivative(t)
        slopes = (alpha_dot * alpha * self.spectrum + sigma_dot * sigma) / (alpha**2 * self.spectrum + sigma**2)
        return alpha * self.mean, alpha_dot * self.mean, slopes


class OptimalGaussianBaseline(_Gaussian):
    """Velocity of the optimal-transport (Monge) map from N(0, I) to N(mean, Σ) along straight lines.

    Args:
        mean: ``(*event)``.
        covariance: ``(d, d)`` of the flattened event, positive definite; or ``(d,)`` for a diagonal one.

    Raises:
        ConfigError: If the covariance is not positive definite.
        ShapeError: If its shape does not fit the mean.
    """

    @classmethod
    def fit(cls, x1: Float[Tensor, "rows *event"]) -> "OptimalGaussianBaseline":
        """Fit to data rows; see `fit_gaussian`."""
        return cls(*fit_gaussian(x1))

    @classmethod
    def standard(cls, event_shape: tuple[int, ...]) -> "OptimalGaussianBaseline":
        """Carry N(0, I) to itself: the form to load a stored state into."""
        return cls(*_standard(event_shape))

    def _coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stretch = self.spectrum.sqrt()
        slopes = (stretch - 1) / ((1 - t) + t * stretch)
        return t * self.mean, self.mean, slopes


class BridgeBaseline(_Gaussian):
    """Velocity and score of the Schrödinger bridge from N(0, I) to N(mean, Σ).

    Args:
        mean: ``(*event)``.
        covariance: ``(d, d)`` of the flattened event, positive definite; or ``(d,)`` for a diagonal one.
        diffusion: σ of the Brownian motion, in units of the rows per √time.

    Raises:
        ConfigError: If the covariance is not positive definite.
        ShapeError: If its shape does not fit the mean.
    """

    has_score = True

    def __init__(self, mean: Float[Tensor, "*event"], covariance: Tensor, diffusion: float) -> None:
        super().__init__(mean, covariance)
        self.diffusion = diffusion

    @classmethod
    def fit(cls, x1: Float[Tensor, "rows *event"], diffusion: float) -> "BridgeBaseline":
        """Fit to data rows; see `fit_gaussian`."""
        return cls(*fit_gaussian(x1), diffusion)

    @classmethod
    def standard(cls, event_shape: tuple[int, ...], diffusion: float) -> "BridgeBaseline":
        """The bridge from N(0, I) to itself: the form to load a stored state into."""
        return cls(*_standard(event_shape), diffusion)

    def score(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> Float[Tensor, "batch *event"]:
        """∇ log p_t(x); the condition plays no part."""
        time = _column(t, x)
        offset = x.reshape(x.shape[0], self.mean.shape[0]) - time * self.mean
        return -self._along(1 / self._variances(time)[0], offset).reshape(x.shape)

    def _coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        variance, rate = self._variances(t)
        return t * self.mean, self.mean, rate / (2 * variance)

    def _variances(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues of V and of V'."""
        between = (self.diffusion**4 + 4 * self.spectrum).sqrt()
        variance = (1 - t) ** 2 + t**2 * self.spectrum + t * (1 - t) * between
        return variance, 2 * (t * self.spectrum - (1 - t)) + (1 - 2 * t) * between


def finite_ends(schedule: Schedule) -> tuple[bool, bool]:
    """Whether α' and σ' are finite at t = 0 and at t = 1."""
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    finite = schedule.alpha_derivative(ends).isfinite() & schedule.sigma_derivative(ends).isfinite()
    return bool(finite[0]), bool(finite[1])


def fit_gaussian(x1: Float[Tensor, "rows *event"]) -> tuple[Float[Tensor, "*event"], Tensor]:
    """Mean and a well-conditioned covariance of data rows.

    The full covariance (d ≤ 256) is shrunk towards its mean eigenvalue by the oracle-approximating amount
    (Chen et al. 2010, eq. 23), which vanishes like d/rows; eigenvalues are then kept above `EIGENVALUE_FLOOR`
    of their mean. Computed in float64, where the covariance ``(d, d)`` or ``(d,)`` stays; the mean
    ``(*event)`` takes the dtype of the rows.

    Raises:
        DataError: If there is no row, or a value is not finite.
    """
    if not x1.shape[0]:
        raise DataError("A Gaussian cannot be fitted to no rows", where="x1")
    if not bool(torch.isfinite(x1).all()):
        bad = int((~torch.isfinite(x1)).reshape(x1.shape[0], -1).any(1).nonzero()[0])
        raise DataError("A value is not finite", where=f"row {bad}", remedy="Remove or fill it first.")
    rows = x1.detach().reshape(x1.shape[0], -1).to(torch.float64)
    mean = rows.mean(0)
    centred = rows - mean
    if rows.shape[1] > FULL_COVARIANCE_LIMIT:
        variance = centred.square().mean(0)
        covariance = variance.clamp(min=_floor(variance))
    else:
        covariance = _shrunk(centred.T @ centred / rows.shape[0], rows.shape[0])
        spectrum, directions = torch.linalg.eigh(covariance)
        covariance = (directions * spectrum.clamp(min=_floor(spectrum))) @ directions.T
    return mean.reshape(x1.shape[1:]).to(x1.dtype), covariance


def _shrunk(covariance: Tensor, rows: int) -> Tensor:
    """Oracle-approximating shrinkage towards the mean eigenvalue."""
    width = covariance.shape[0]
    trace, square = covariance.trace(), covariance.square().sum()
    spread = (rows + 1 - 2 / width) * (square - trace**2 / width)
    wanted = (1 - 2 / width) * square + trace**2
    share = 0.0 if width == 1 else float((wanted / spread).clamp(max=1.0)) if spread > 0 else 1.0
    target = trace / width * torch.eye(width, dtype=covariance.dtype, device=covariance.device)
    return (1 - share) * covariance + share * target


def _floor(spectrum: Tensor) -> float:
    scale = float(spectrum.mean())
    return EIGENVALUE_FLOOR * scale if scale > 0 else SINGLE_POINT_VARIANCE


def _column(t: Tensor | float, x: Tensor) -> Tensor:
    """Times as ``(batch, 1)``, or ``(1, 1)`` where all rows share one."""
    return torch.as_tensor(t, dtype=x.dtype, device=x.device).reshape(-1, 1)


def _standard(event_shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    mean = torch.zeros(event_shape)
    width = mean.numel()
    return mean, torch.eye(width) if width <= FULL_COVARIANCE_LIMIT else torch.ones(width)
