"""Conditioning a trained field on what was observed: inpainting, gaps, linear measurements. Nothing is trained.

Observed is y = A x1 + noise of standard deviation s. Tweedie moment projected diffusion (Boys et al. 2310.06721) takes
the data behind a point for Gaussian with the moments that the field itself knows (`flows.tweedie`), so that

    p(y | x_t) ≈ N(y; A D, A C Aᵀ + s²),       D_y = D + C Aᵀ (A C Aᵀ + s²)⁻¹ (y − A D) ≈ E[x1 | x_t, y].

D_y in place of D is the field of the posterior: v_y = v + (R/σ)(D_y − D) with R = α'σ − ασ'. It is exact where the data
are Gaussian. Elsewhere it is an approximation: towards the source D_y is linear regression on y, so that where what
is seen decides between separate modes, too many draws take the less likely one (docs/complete.md has figures).

Up to 64 observed numbers the matrix A C Aᵀ is taken whole, one vector–Jacobian product per number. Above, it is
replaced by the diagonal of its row sums, A C Aᵀ 1, the paper's approximation for many numbers, kept at or above what C
would be for independent data of unit variance (the variance r² of ΠGDM, Song et al. 2023), so that a row sum that
cancels cannot overshoot: two products in all.

Without noise v_y has a pole where σ = 0. The field is integrated up to σ = α/1000, where a sample is its data end with
a thousandth of the source on it, and a call beyond that time is answered as at it. At α = 0 everything is finite.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advect.errors import ConfigError, ShapeError
from advect.flows.tweedie import Tweedie, earliest, schedule_with_score, tweedie
from advect.paths import coefficients
from advect.typing import Field, batch_time, expand_time

WHOLE_LIMIT = 64  # observed numbers up to which A C Aᵀ is taken whole
NOISE_LEFT = 1e-3  # σ/α at the end
# Share of r² that is always added to A C Aᵀ. A learnt C may come out near 0 where it is not, and then divides: with
# 1e-5, 7 of 1500 completions of a small run on moons by 200 ancestral steps blew up, with 1e-3 none. On exact fields it
# is a slight noise that fades with σ.
LEAST = 1e-3


class Observed(nn.Module):
    """The velocity of the data given y = A x1 + noise.

    Args:
        field: The velocity of all data; it must have a ``schedule`` and ``has_score``.
        operator: A as ``(numbers, coordinates)`` on the flattened event, or ``(numbers,)`` indices of the coordinates
            that are observed themselves.
        y: ``(numbers,)``, the same for all rows; NaN for a number that was not observed. None: every row brings its
            own y and noise in front of its condition, see `pack`, and they follow it wherever a solver sorts rows.
        noise: Standard deviation, one number or ``(numbers,)``; used with ``y`` only.
        whole_limit: Observed numbers up to which A C Aᵀ is taken whole.

    Attributes:
        schedule: That of the field.
        has_score: True: the posterior has the same path.
        interval: Times between which a flow integrates the field; it ends where σ = α/1000.
        evaluations: Passes of the network per call, backward ones among them; at early times, where one more is made.

    Raises:
        UnsupportedError: The field does not know its score.
        ShapeError: An operator that is neither a matrix nor a list of indices, or y or noise of another length.
        ConfigError: A noise that is negative or not finite, or an operator with a value that is not finite.
    """

    operator: Tensor
    y: Tensor | None
    noise: Tensor
    has_score = True

    def __init__(
        self,
        field: Field,
        operator: Tensor,
        y: Tensor | None = None,
        noise: float | Tensor = 0.0,
        *,
        whole_limit: int = WHOLE_LIMIT,
    ) -> None:
        super().__init__()
        self.schedule = schedule_with_score(field, "Observed")
        selects = not operator.is_floating_point()
        if operator.ndim != (1 if selects else 2) or not len(operator):
            raise ShapeError(
                f"The operator has shape {tuple(operator.shape)} and dtype {operator.dtype}",
                where="operator",
                remedy="Give a matrix (numbers, coordinates), or whole indices (numbers,), at least one.",
            )
        if not bool(torch.isfinite(operator).all()):
            raise ConfigError("The operator holds a value that is not finite", where="operator")
        self.field, self.numbers, self.selects = field, len(operator), selects
        self.register_buffer("operator", operator.detach().clone(), persistent=False)
        self.register_buffer("y", None if y is None else self._checked(y.detach().clone(), "y"), persistent=False)
        spread = torch.as_tensor(noise, dtype=torch.float64).detach().clone()
        self.register_buffer("noise", check_noise(self._checked(spread, "noise")), persistent=False)
        self.whole = self.numbers <= whole_limit
        first, last = getattr(field, "interval", (0.0, 1.0))
        cut = self.schedule.time_of_log_snr(torch.tensor(-2 * math.log(NOISE_LEFT), dtype=torch.float64))
        self.interval = (first, min(last, float(cut)))
        products = self.numbers if self.whole else 2
        passes = 1 + (earliest(self.schedule) > first) + products
        self.evaluations = passes * getattr(field, "evaluations", 1)

    def forward(
        self, t: Tensor | float, x: Float[Tensor, "batch *event"], condition: Tensor | None = None
    ) -> Float[Tensor, "batch *event"]:
        """Velocity at ``t`` (scalar or ``(batch,)``) and ``x``."""
        y, noise, given = self._observations(x, condition)
        time = batch_time(t, x).clamp(*self.interval)
        known = torch.isfinite(y)
        data = tweedie(self.field, self.schedule, time, x, given)
        miss = torch.where(known, y - self._applied(data.mean.reshape(len(x), -1).double()), 0.0)
        correct = self._whole if self.whole else self._row_sums
        shift = correct(data, x, miss, known, noise.square()).to(x.dtype)
        gain = expand_time(coefficients("x1", "velocity", time, self.schedule)[1], x)
        return data.velocity + gain * shift.reshape(x.shape)

    def _whole(self, data: Tweedie, x: Tensor, miss: Tensor, known: Tensor, variance: Tensor) -> Tensor:
        """D_y − D ``(batch, coordinates)`` with the matrix A C Aᵀ."""
        rows = self._adjoint(torch.eye(self.numbers, dtype=torch.float64, device=x.device), x)
        spread = rows.to(x.dtype).unsqueeze(1).expand(-1, len(x), -1).reshape(-1, *x.shape)
        columns = data.product(spread).reshape(self.numbers, len(x), -1).permute(1, 0, 2).double()  # rows of A C
        matrix = self._applied(columns)
        both = known.unsqueeze(1) & known.unsqueeze(2)
        least = LEAST * data.scale.unsqueeze(1) * rows.square().sum(1)
        # A number that was not observed stands alone, with nothing to explain.
        added = torch.where(known, variance + least, 1.0)
        matrix = torch.where(both, (matrix + matrix.mT) / 2, 0.0)
        weights = _solved(matrix, added, miss)
        return (weights.unsqueeze(1) @ columns).squeeze(1)

    def _row_sums(self, data: Tweedie, x: Tensor, miss: Tensor, known: Tensor, variance: Tensor) -> Tensor:
        """The same with the row sums of A C Aᵀ on a diagonal."""
        ones = self._adjoint(known.double(), x).to(x.dtype).reshape(1, *x.shape)
        sums = self._applied(data.product(ones).reshape(len(x), -1).double())
        least = data.scale.unsqueeze(1) * self._sizes(x)
        weights = torch.where(known, miss / (torch.maximum(sums, least) + variance), 0.0)
        pulled = self._adjoint(weights, x).to(x.dtype).reshape(1, *x.shape)
        return data.product(pulled).reshape(len(x), -1).double()

    def _applied(self, values: Tensor) -> Tensor:
        """A times the last axis."""
        if self.selects:
            return values[..., self.operator]
        return values @ self.operator.to(values).T

    def _adjoint(self, values: Tensor, x: Tensor) -> Tensor:
        """Aᵀ times the last axis."""
        if not self.selects:
            return values @ self.operator.to(values)
        width = x[:1].numel() if len(x) else math.prod(x.shape[1:])
        return values.new_zeros(*values.shape[:-1], width).index_add(-1, self.operator, values)

    def _sizes(self, x: Tensor) -> Tensor:
        """|row|² of A, ``(numbers,)``."""
        if self.selects:
            return torch.ones(self.numbers, dtype=torch.float64, device=x.device)
        return self.operator.double().square().sum(1)

    def _observations(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """y and noise ``(batch, numbers)`` in float64, and the condition of the field itself."""
        width = math.prod(x.shape[1:])
        fits = int(self.operator.max()) < width if self.selects else self.operator.shape[1] == width
        if not fits:
            raise ShapeError(
                f"The operator does not fit rows of {width} coordinates",
                where="operator",
                remedy="Its columns, or its indices, are the coordinates of the flattened event.",
            )
        if self.y is not None:
            y = self.y.double().expand(len(x), -1)
            return y, self.noise.expand(len(x), self.numbers), condition
        if condition is None or condition.ndim != 2 or condition.shape[1] < 2 * self.numbers:
            found = "none" if condition is None else str(tuple(condition.shape))
            raise ShapeError(
                f"Each row brings {self.numbers} observed numbers in its condition, and the condition given is {found}",
                where="condition",
                remedy="Make it with Observed.pack(y, noise, condition).",
            )
        y, noise, own = condition.split([self.numbers, self.numbers, condition.shape[1] - 2 * self.numbers], 1)
        return y.double(), noise.double(), own if own.shape[1] else None

    def _checked(self, values: Tensor, name: str) -> Tensor:
        if values.ndim and tuple(values.shape) != (self.numbers,):
            raise ShapeError(
                f"{name} has shape {tuple(values.shape)}, expected ({self.numbers},)",
                where=name,
                remedy="One entry per observed number.",
            )
        return values

    @staticmethod
    def pack(
        y: Float[Tensor, "batch numbers"],
        noise: float | Tensor = 0.0,
        condition: Float[Tensor, "batch features"] | None = None,
    ) -> Float[Tensor, "batch packed"]:
        """The condition ``[y, noise, condition]`` of rows that each have observations of their own.

        Args:
            y: NaN for a number that was not observed in this row.
            noise: Standard deviation, broadcastable to ``y``.
            condition: What the field itself takes.

        Raises:
            ConfigError: A noise that is negative or not finite.
        """
        spread = check_noise(torch.as_tensor(noise, dtype=y.dtype, device=y.device)).expand(y.shape)
        return torch.cat([y, spread, *(() if condition is None else (condition.to(y.dtype),))], 1)

    def extra_repr(self) -> str:
        """Sizes and form, for ``print``."""
        return f"numbers={self.numbers}, covariance={'whole' if self.whole else 'row sums'}"


def check_noise(noise: Tensor) -> Tensor:
    """Raise `ConfigError` unless every standard deviation is a finite number of at least 0."""
    if bool(((noise >= 0) & torch.isfinite(noise)).all()):
        return noise
    raise ConfigError(
        f"The noise of the observations is {float(noise.min()):g}",
        where="noise",
        remedy="Give a standard deviation of at least 0.",
    )


def _solved(matrix: Tensor, added: Tensor, right: Tensor) -> Tensor:
    """(matrix + diag(added))⁻¹ right, ``(batch, numbers)``, with negative eigenvalues of ``matrix`` taken for 0.

    A covariance has none; that of a learnt field may, and only then is it decomposed.
    """
    factor, trouble = torch.linalg.cholesky_ex(matrix + torch.diag_embed(added))
    solution = torch.cholesky_solve(right.unsqueeze(2), factor).squeeze(2)
    bad = (trouble != 0) & torch.isfinite(matrix).flatten(1).all(1)
    if not bool(bad.any()):
        return solution
    values, vectors = torch.linalg.eigh(matrix[bad])
    sound = (vectors * values.clamp(min=0).unsqueeze(1)) @ vectors.mT + torch.diag_embed(added[bad])
    repaired = torch.linalg.solve(sound, right[bad])
    return solution.index_put((bad.nonzero().squeeze(1),), repaired)
