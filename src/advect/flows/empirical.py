"""The exact marginal field of a data set: what flow matching would learn with infinite capacity.

Data y_1 … y_n with weights p_i, source N(0, I), affine path x_t = α x1 + σ x0 with independent ends. Given x1 = y_i the
law of x_t is N(α y_i, σ² I), so p_t is a mixture of n Gaussians and everything about it is a softmax over the data:

    w_i(x)   = softmax_i(log p_i − |x − α y_i|² / 2σ²)
    D(t, x)  = Σ w_i y_i                                     the denoiser E[x1 | x_t = x]
    v(t, x)  = α' D + σ' E,      E = (x − α D)/σ             the noise E[x0 | x_t = x]
    ∇ log p  = −E/σ
    div v    = d σ'/σ + (α'σ − ασ')(α/σ³) Σ w_i |y_i − D|²   (from ∂D/∂x = (α/σ²) Cov_w(y))

(Lipman et al. 2022, eq. 8, with the empirical measure for q.) A path with constant noise s besides has √(σ² + s²) in
the place of σ (`paths.Widened`).

Ends. At t = 0 with α = 0 the weights are p_i and D is the mean of the data. As σ → 0 the weights fall on the nearest
point; where σ = 0 the law itself is the set of points, and v has a limit only on them: E is taken as 0 there, its limit
on a data point. A flow therefore stops at `interval[1]`, where its law is the data blurred by σ.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from advect.errors import ConfigError, DataError, UnsupportedError
from advect.flows.streaming import Moments, PreparedRows, softmax_moments
from advect.paths import Widened
from advect.typing import Schedule

SMALLEST_EXPONENT_SCALE = (
    1e-8  # σ in the softmax is never smaller, in units of the data's own scale (or of the source's)
)
DEFAULT_END = 1 - 1e-3  # where a flow stops if σ(1) = 0: a blur of 1e-3 on the linear path


class EmpiricalField(nn.Module):
    """Exact velocity, denoiser, score and log-density of a data set under an affine Gaussian path.

    Data rows are streamed in blocks and query rows in chunks (`flows.streaming`), so memory stays bounded whatever
    the numbers of both (with gradients on, autograd keeps every block). Distances are taken between centred rows in
    float64, whatever the dtype of the input: in float32 their cancellation would drown the exponent once σ is small.

    Args:
        data: ``(rows, *event)``.
        schedule: α and σ of the path; see `of_path`.
        weights: ``(rows,)`` how often each row counts, at least 0, in any unit; None for equal ones.
        block_rows: Data rows handled at a time.
        end: Last time a flow integrates to where σ(1) = 0; its law there is the data blurred by σ(end).
        copy: Keep a copy of the data. Without one they stay where they are, in a memory-mapped file say, and must not
            change.

    Attributes:
        interval: Times between which a flow integrates the field.
    """

    data: Tensor
    centre: Tensor
    log_weights: Tensor
    has_score = True

    def __init__(
        self,
        data: Float[Tensor, "rows *event"],
        schedule: Schedule,
        *,
        weights: Float[Tensor, " rows"] | None = None,
        block_rows: int = 2048,
        end: float = DEFAULT_END,
        copy: bool = True,
    ) -> None:
        super().__init__()
        if not data.shape[0]:
            raise DataError("An empirical field needs at least one row, and there is none", where="data")
        if block_rows < 1 or not 0.0 < end <= 1.0:
            raise ConfigError(
                f"block_rows is {block_rows} and end is {end}",
                where="EmpiricalField",
                remedy="Give block_rows ≥ 1 and 0 < end ≤ 1.",
            )
        self.schedule, self.block_rows = schedule, block_rows
        self.event_shape = tuple(data.shape[1:])
        shares = _shares(weights, data)
        centre, spread = self._centre_and_spread(data.detach(), shares)
        self.register_buffer("data", data.detach().clone() if copy else data.detach())
        self.register_buffer("centre", centre.to(data.dtype), persistent=False)
        self.register_buffer("log_weights", shares.log(), persistent=False)
        self.smallest_sigma = SMALLEST_EXPONENT_SCALE * max(spread, 1.0)
        vanishes = float(schedule.sigma(torch.ones((), dtype=torch.float64))) < self.smallest_sigma
        self.interval = (0.0, end if vanishes else 1.0)
        self._prepared: tuple[tuple, PreparedRows] | None = None

    @classmethod
    def of_path(cls, path: object, data: Float[Tensor, "rows *event"], **options: Any) -> "EmpiricalField":
        """The field of a data set under a path object with a standard-normal source and independent pairs.

        Args:
            path: An affine one: it has a ``schedule`` and perhaps constant noise ``sigma``, or a ``pull``.
            data: ``(rows, *event)``.
            options: Further arguments of the class.

        Raises:
            UnsupportedError: The path is not affine, so given a data row its points are no Gaussian of one width.
        """
        schedule = getattr(path, "schedule", None)
        if schedule is None and hasattr(path, "pull"):
            schedule = path.pull.clock()
        if schedule is None:
            raise UnsupportedError(
                f"a {type(path).__name__} is not affine: its points are not α x1 + σ x0 + noise",
                where="EmpiricalField.of_path",
                remedy="Take an AffinePath, LipmanPath or WeightedPull.",
            )
        noise = float(getattr(path, "sigma", 0.0))
        return cls(data, Widened(schedule, noise) if noise else schedule, **options)

    def forward(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Marginal velocity; the condition plays no part."""
        return self._velocity(self._weights_of_time(t, x), x, None)

    def divergence(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> Float[Tensor, " batch"]:
        """Trace of the velocity's Jacobian, from the trace of the posterior covariance.

        Raises:
            UnsupportedError: Where σ = 0.
        """
        return self.velocity_and_divergence(t, x, condition)[1]

    def velocity_and_divergence(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, " batch"]]:
        """Both in one pass over the data.

        Raises:
            UnsupportedError: Where σ = 0.
        """
        times = self._weights_of_time(t, x)
        alpha, sigma, alpha_dot, sigma_dot = times
        self._refuse_points(sigma, "divergence")
        known = self._posterior(alpha, sigma, x)
        rotation = alpha_dot * sigma - alpha * sigma_dot
        width = math.prod(self.event_shape)
        trace = width * sigma_dot / sigma + rotation * alpha / sigma**3 * known.variance
        return self._velocity(times, x, known), trace.squeeze(1).to(x.dtype)

    def _velocity(self, times: tuple[Tensor, ...], x: Tensor, known: Moments | None) -> Tensor:
        alpha, sigma, alpha_dot, sigma_dot = times
        denoised = (self._posterior(alpha, sigma, x) if known is None else known).mean
        noise = _noise(alpha, sigma, self._flat(x), denoised)
        return (alpha_dot * denoised + sigma_dot * noise).reshape(x.shape).to(x.dtype)

    def denoiser(self, t: Tensor | float, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
        """E[x1 | x_t = x]; the nearest data point where σ = 0."""
        alpha, sigma, _, _ = self._weights_of_time(t, x)
        return self._posterior(alpha, sigma, x).mean.reshape(x.shape).to(x.dtype)

    def score(self, t: Tensor | float, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
        """∇ log p_t(x).

        Raises:
            UnsupportedError: Where σ = 0.
        """
        alpha, sigma, _, _ = self._weights_of_time(t, x)
        self._refuse_points(sigma, "score")
        denoised = self._posterior(alpha, sigma, x).mean
        return (-_noise(alpha, sigma, self._flat(x), denoised) / sigma).reshape(x.shape).to(x.dtype)

    def log_density(self, t: Tensor | float, x: Float[Tensor, "batch *event"]) -> Float[Tensor, " batch"]:
        """Log p_t(x) in nats.

        Raises:
            UnsupportedError: Where σ = 0.
        """
        alpha, sigma, _, _ = self._weights_of_time(t, x)
        self._refuse_points(sigma, "log-density")
        log_sum = self._posterior(alpha, sigma, x).log_sum
        offset = self._flat(x) - alpha * self.centre
        width = math.prod(self.event_shape)
        log_norm = width * (0.5 * math.log(2 * math.pi) + sigma.log())
        return (log_sum - offset.square().sum(1, True) / (2 * sigma**2) - log_norm).squeeze(1).to(x.dtype)

    def sample(self, t: float, num_rows: int, *, generator: Generator | None = None) -> Float[Tensor, "batch *event"]:
        """Draw ``(num_rows, *event)`` from p_t: data rows times α, and noise of spread σ."""
        time = torch.tensor(t, dtype=torch.float64)
        alpha, sigma = float(self.schedule.alpha(time)), float(self.schedule.sigma(time))
        place = self.data.device if generator is None else generator.device
        chosen = torch.multinomial(self.log_weights.exp().to(place), num_rows, True, generator=generator)
        noise = torch.randn(num_rows, *self.event_shape, generator=generator, dtype=self.data.dtype, device=place)
        return alpha * self.data[chosen.to(self.data.device)] + sigma * noise.to(self.data.device)

    def _posterior(self, alpha: Tensor, sigma: Tensor, x: Tensor) -> Moments:
        """What the data behind x are: mean, total variance, log Σ p_i exp ℓ_i up to a term that all rows share.

        The rounding of the variance, 1e-16 |y − c|², is multiplied by α/σ³ in the divergence and reduced by the
        integral over time to 1e-16 |y − c|²/σ² nats, 1e-8 at the default end for data ten units wide.
        """
        offset = self._flat(x) - alpha * self.centre
        precision = sigma.clamp(min=self.smallest_sigma) ** -2
        known = softmax_moments(self._rows(), offset, alpha, precision)
        return Moments(known.mean + self.centre, known.variance, known.log_sum)

    def _rows(self) -> PreparedRows:
        """The data prepared for streaming, anew where they have moved or changed."""
        key = (self.data.data_ptr(), self.data._version, self.data.dtype, self.data.device)
        if self._prepared is None or self._prepared[0] != key:
            flat = self.data.reshape(self.data.shape[0], math.prod(self.event_shape))
            self._prepared = key, PreparedRows(flat, self.centre, self.log_weights.double(), self.block_rows)
        return self._prepared[1]

    def _centre_and_spread(self, data: Tensor, shares: Tensor) -> tuple[Tensor, float]:
        """Mean ``(width,)`` and root mean square distance from it, read in blocks."""
        width = math.prod(self.event_shape)
        blocks = list(zip(data.split(self.block_rows), shares.split(self.block_rows), strict=True))

        def averaged(of: Callable[[Tensor], Tensor]) -> Tensor:
            return torch.stack([share @ of(block.reshape(-1, width).double()) for block, share in blocks]).sum(0)

        centre = averaged(lambda rows: rows)
        return centre, float(averaged(lambda rows: (rows - centre).square().sum(1)).sqrt())

    def _weights_of_time(self, t: Tensor | float, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """α, σ, α', σ' as float64 ``(batch, 1)``; a float32 time keeps its own rounding."""
        times = torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(x.shape[0]).unsqueeze(1)
        s = self.schedule
        return s.alpha(times), s.sigma(times), s.alpha_derivative(times), s.sigma_derivative(times)

    def _flat(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], math.prod(self.event_shape)).to(torch.float64)

    def _refuse_points(self, sigma: Tensor, asked: str) -> None:
        if bool((sigma == 0).any()):
            raise UnsupportedError(
                f"Where σ = 0 the law is a set of points and has no {asked}",
                where=asked,
                remedy="Ask at an earlier time, or use a schedule with σ(1) > 0.",
            )

    def extra_repr(self) -> str:
        """Size, for ``print``."""
        return f"rows={self.data.shape[0]}, event_shape={self.event_shape}, block_rows={self.block_rows}"


def _noise(alpha: Tensor, sigma: Tensor, x: Tensor, denoised: Tensor) -> Tensor:
    """E[x0 | x_t = x]; 0 where σ = 0."""
    vanishes = sigma == 0
    return torch.where(vanishes, 0.0, (x - alpha * denoised) / torch.where(vanishes, 1.0, sigma))


def _shares(weights: Tensor | None, data: Tensor) -> Tensor:
    """Weights ``(rows,)`` in float64 that sum to one."""
    if weights is None:
        return torch.full((data.shape[0],), 1 / data.shape[0], dtype=torch.float64, device=data.device)
    weights = weights.detach().double().to(data.device)
    if not bool((weights >= 0).all() and weights.isfinite().all() and weights.sum() > 0):
        raise DataError(
            "Weights must be finite and at least 0, and not all 0", where="weights", remedy="Drop rows that count 0."
        )
    return weights / weights.sum()
