"""The exact marginal field of a data set: what flow matching would learn with infinite capacity.

Data y_1 … y_n, source N(0, I), affine path x_t = α x1 + σ x0 with independent ends. Given x1 = y_i the law of
x_t is N(α y_i, σ² I), so p_t is a mixture of n Gaussians and everything about it is a softmax over the data:

    w_i(x)   = softmax_i(−|x − α y_i|² / 2σ²)
    D(t, x)  = Σ w_i y_i                                     the denoiser E[x1 | x_t = x]
    v(t, x)  = α' D + σ' E,      E = (x − α D)/σ             the noise E[x0 | x_t = x]
    ∇ log p  = −E/σ
    div v    = d σ'/σ + (α'σ − ασ')(α/σ³) Σ w_i |y_i − D|²   (from ∂D/∂x = (α/σ²) Cov_w(y))

(Lipman et al. 2022, eq. 8, with the empirical measure for q.)

Ends. At t = 0 (α = 0) the weights are equal and D is the mean of the data. As σ → 0 the weights fall on the
nearest point; where σ = 0 the law itself is the set of points, and v has a limit only on them: E is taken as
0 there, its limit on a data point. A flow therefore stops at `interval[1]`, where
its law is the data blurred by σ.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advect.errors import ConfigError, DataError, UnsupportedError
from advect.flows.base import StandardNormal
from advect.flows.continuous import ContinuousMap
from advect.flows.flow import Flow
from advect.solvers import ExactDivergence
from advect.typing import Schedule, Solver

SMALLEST_EXPONENT_SCALE = (
    1e-8  # σ in the softmax is never smaller, in units of the data's own scale (or of the source's)
)
DEFAULT_END = 1 - 1e-3  # where a flow stops if σ(1) = 0: a blur of 1e-3 on the linear path


class EmpiricalField(nn.Module):
    """Exact velocity, denoiser, score and log-density of a data set under an affine Gaussian path.

    The data are streamed in blocks with a running log-sum-exp, so memory is ``rows × block_rows`` numbers
    whatever the size of the set (with gradients on, autograd keeps every block). Distances are taken between
    centred rows in float64, whatever the dtype of the input: in float32 their cancellation would drown the
    exponent once σ is small.

    Args:
        data: ``(rows, *event)``.
        schedule: α and σ of the path.
        block_rows: Data rows handled at a time.
        end: Last time a flow integrates to where σ(1) = 0; its law there is the data blurred by σ(end).

    Attributes:
        interval: Times between which a flow integrates the field.
    """

    data: Tensor
    centre: Tensor
    has_score = True

    def __init__(
        self,
        data: Float[Tensor, "rows *event"],
        schedule: Schedule,
        *,
        block_rows: int = 2048,
        end: float = DEFAULT_END,
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
        exact = data.detach().reshape(data.shape[0], math.prod(self.event_shape)).to(torch.float64)
        centre = exact.mean(0)
        self.register_buffer("data", data.detach().clone())
        self.register_buffer("centre", centre.to(data.dtype), persistent=False)
        spread = float((exact - centre).square().sum(1).mean().sqrt())
        self.smallest_sigma = SMALLEST_EXPONENT_SCALE * max(spread, 1.0)
        vanishes = float(schedule.sigma(torch.ones((), dtype=torch.float64))) < self.smallest_sigma
        self.interval = (0.0, end if vanishes else 1.0)

    def forward(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Marginal velocity; the condition plays no part."""
        alpha, sigma, alpha_dot, sigma_dot = self._weights_of_time(t, x)
        denoised, _, _ = self._posterior(alpha, sigma, x)
        noise = _noise(alpha, sigma, self._flat(x), denoised)
        return (alpha_dot * denoised + sigma_dot * noise).reshape(x.shape).to(x.dtype)

    def divergence(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> Float[Tensor, " batch"]:
        """Trace of the velocity's Jacobian, from the trace of the posterior covariance.

        Raises:
            UnsupportedError: Where σ = 0.
        """
        alpha, sigma, alpha_dot, sigma_dot = self._weights_of_time(t, x)
        self._refuse_points(sigma, "divergence")
        _, variance, _ = self._posterior(alpha, sigma, x)
        rotation = alpha_dot * sigma - alpha * sigma_dot
        width = math.prod(self.event_shape)
        trace = width * sigma_dot / sigma + rotation * alpha / sigma**3 * variance
        return trace.squeeze(1).to(x.dtype)

    def denoiser(self, t: Tensor | float, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
        """E[x1 | x_t = x]; the nearest data point where σ = 0."""
        alpha, sigma, _, _ = self._weights_of_time(t, x)
        denoised, _, _ = self._posterior(alpha, sigma, x)
        return denoised.reshape(x.shape).to(x.dtype)

    def score(self, t: Tensor | float, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
        """∇ log p_t(x).

        Raises:
            UnsupportedError: Where σ = 0.
        """
        alpha, sigma, _, _ = self._weights_of_time(t, x)
        self._refuse_points(sigma, "score")
        denoised, _, _ = self._posterior(alpha, sigma, x)
        return (-_noise(alpha, sigma, self._flat(x), denoised) / sigma).reshape(x.shape).to(x.dtype)

    def log_density(self, t: Tensor | float, x: Float[Tensor, "batch *event"]) -> Float[Tensor, " batch"]:
        """Log p_t(x) in nats.

        Raises:
            UnsupportedError: Where σ = 0.
        """
        alpha, sigma, _, _ = self._weights_of_time(t, x)
        self._refuse_points(sigma, "log-density")
        _, _, log_sum = self._posterior(alpha, sigma, x)
        offset = self._flat(x) - alpha * self.centre
        width = math.prod(self.event_shape)
        log_norm = math.log(self.data.shape[0]) + width * (0.5 * math.log(2 * math.pi) + sigma.log())
        return (log_sum - offset.square().sum(1, True) / (2 * sigma**2) - log_norm).squeeze(1).to(x.dtype)

    def _posterior(self, alpha: Tensor, sigma: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean ``(batch, width)`` and total variance ``(batch, 1)`` of the data given x, and log Σ exp ℓ_i
        ``(batch, 1)``.

        ℓ_i = (α ⟨x − αc, y_i − c⟩ − α² |y_i − c|²/2)/σ² is the log-weight up to the term |x − αc|²/2σ² that
        all rows share. Mean and mean square are running averages over the blocks, each weighted by its share
        of the sum. The variance is their difference: its rounding error is about 1e-16 |y − c|², which the
        divergence multiplies by α/σ³ and the integral over time reduces to 1e-16 |y − c|²/σ² nats, 1e-8 at
        the default end for data ten units wide.
        """
        offset = self._flat(x) - alpha * self.centre
        precision = sigma.clamp(min=self.smallest_sigma) ** -2
        log_sum = torch.full_like(sigma, -torch.inf)
        mean, second = torch.zeros_like(offset), torch.zeros_like(sigma)
        for block in self.data.split(self.block_rows):
            rows = self._flat(block) - self.centre
            squares = rows.square().sum(1)
            logits = precision * alpha * (offset @ rows.T - alpha * squares / 2)
            block_sum = logits.logsumexp(1, keepdim=True)
            weights = (logits - block_sum).exp()
            total = torch.logaddexp(log_sum, block_sum)
            share = (block_sum - total).exp()
            mean = mean + share * (weights @ rows - mean)
            second = second + share * (weights @ squares.unsqueeze(1) - second)
            log_sum = total
        variance = (second - mean.square().sum(1, True)).clamp(min=0)
        return mean + self.centre, variance, log_sum

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


def empirical_flow(
    data: Float[Tensor, "rows *event"],
    schedule: Schedule,
    *,
    block_rows: int = 2048,
    end: float = DEFAULT_END,
    solver: Solver | None = None,
    likelihood_solver: Solver | None = None,
) -> Flow:
    """The flow of `EmpiricalField` from the standard normal: exact samples, densities and codes of blurred data.

    Args:
        data: ``(rows, *event)``.
        schedule: A path from N(0, I), so with α(0) = 0 and σ(0) = 1.
        block_rows: See `EmpiricalField`.
        end: See `EmpiricalField`.
        solver: See `ContinuousMap`.
        likelihood_solver: See `ContinuousMap`.

    A row many σ(end) away from every data point has a code far out in the source, behind sharp borders
    between the data points' shares of it: encoding it takes thousands of evaluations, or fails with a status.
    Choose an earlier ``end`` to score such.
    """
    field = EmpiricalField(data, schedule, block_rows=block_rows, end=end)
    base = StandardNormal(field.event_shape).to(data.device, data.dtype)
    ode = ContinuousMap(
        field,
        event_shape=field.event_shape,
        solver=solver,
        likelihood_solver=likelihood_solver,
        divergence=ExactDivergence(),  # analytic, so as cheap in any dimension as in two
    )
    return Flow(base, ode)
