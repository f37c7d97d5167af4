"""The stochastic trace with most of its variance removed (Hutch++: Meyer, Musco, Musco & Woodruff, arXiv 2010.09649).

A sketch Y = Jᵀ S finds the directions Q = orth(Y) in which the Jacobian is large; there the trace is taken exactly,
and only what is left is estimated by probes g (their algorithm 1, with A = Jᵀ, whose products are backward passes):

    tr ∂v/∂x = tr Qᵀ Jᵀ Q + E[gᵀ P Jᵀ P g],   P = I − Q Qᵀ,   E[g gᵀ] = I .

Unbiased for every Q that does not depend on g. With k probes the relative error falls like 1/k where Hutchinson's falls
like 1/√k (theorem 1, for positive semidefinite matrices), and nothing is left where k reaches the rank of J.

What is fixed and what is not. S and g are drawn once per solve. Q follows the Jacobian and is found anew at each
evaluation, by a function of (t, x) without any draw: it enters through Q Qᵀ = Y (Yᵀ Y)⁻¹ Yᵀ alone, which is as smooth
as J wherever Y has full rank. A d×k matrix loses rank on a set of codimension d − k + 1 ≥ 2, which a path in time does
not meet, unless J itself has a rank below k — and then P Jᵀ = 0 and the estimate is exact whatever completes Q. So the
integrand stays smooth, and step control is not fooled.

The gradient is that with Q held. As E[g gᵀ] = I it is unbiased for the gradient of the trace, costs no backward pass
through the orthogonalisation, and stays finite where a Jacobian of low rank leaves that one without a derivative.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from advect.solvers.divergence import HutchinsonDivergence, drawn_before, gradient_of, linearised
from advect.typing import Field, sum_event


@dataclass(frozen=True, init=False)
class HutchPlusPlusDivergence:
    """The stochastic trace after the large directions were taken exactly; probes fixed for one solve.

    Exact up to rounding where ``probes`` is at least the rank of the Jacobian, and so always from d probes on. The
    spread over the probes gives the standard error (NaN for a single probe).

    Args:
        probes: k above: as many sketching vectors and as many probes of the rest; three backward passes per evaluation
            each (two for the sketch, one for the rest).
        distribution: Of the probes of the rest, ``rademacher`` (±1) or ``gaussian``. The sketch is Gaussian: a few ±1
            vectors in few dimensions are often dependent.

    Raises:
        ConfigError: Fewer than one probe.
        UnknownNameError: Another distribution.
    """

    num_probes: int
    distribution: str

    def __init__(self, probes: int = 2, distribution: str = "rademacher") -> None:
        rest = HutchinsonDivergence(probes, distribution)
        object.__setattr__(self, "num_probes", rest.num_probes)
        object.__setattr__(self, "distribution", rest.distribution)

    def probes(
        self, x: Float[Tensor, "batch *event"], generator: Generator | None = None
    ) -> Float[Tensor, "batch probes 2 *event"]:
        """Draw pairs ``(batch, probes, 2, *event)``: a vector of the sketch and a probe of the rest.

        Raises:
            ConfigError: No generator was given.
        """
        sketch = HutchinsonDivergence(self.num_probes, "gaussian").probes(x, generator)
        rest = HutchinsonDivergence(self.num_probes, self.distribution).probes(x, generator)
        return torch.stack([sketch, rest], dim=2)

    def __call__(
        self,
        field: Field,
        t: Tensor | float,
        x: Float[Tensor, "batch *event"],
        condition: Tensor | None,
        probes: Float[Tensor, "batch probes 2 *event"] | None,
    ) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, "batch probes"]]:
        """Velocity and one estimate per probe, all on the same Q; their mean is the estimate of the trace."""
        velocity, traces, _ = self.with_jacobian_norm(field, t, x, condition, probes)
        return velocity, traces

    def with_jacobian_norm(
        self,
        field: Field,
        t: Tensor | float,
        x: Float[Tensor, "batch *event"],
        condition: Tensor | None,
        probes: Float[Tensor, "batch probes 2 *event"] | None,
    ) -> tuple[Float[Tensor, "batch *event"], Float[Tensor, "batch probes"], Float[Tensor, " batch"]]:
        """The same with ‖Jᵀ Q‖²_F + E‖Jᵀ P g‖² = ‖∂v/∂x‖²_F, from the same backward passes."""
        probes = drawn_before(probes)
        with linearised(field, t, x, condition) as (point, velocity, graph):

            def transposed(vector: Tensor, *, graph: bool) -> Tensor:
                """Jᵀ times one vector per row, all ``(batch, size)``."""
                row = gradient_of(velocity, point, vector.reshape(x.shape), graph=graph)
                return torch.zeros_like(vector) if row is None else row.reshape(vector.shape)

            sketch, rest = probes.reshape(*probes.shape[:3], x.shape[1:].numel()).unbind(2)
            basis = orthonormal(torch.stack([transposed(s, graph=False) for s in sketch.unbind(1)], dim=2))
            directions = basis.unbind(2)
            inside = [transposed(q, graph=graph) for q in directions]
            outside = rest - (rest @ basis) @ basis.mT
            images = [transposed(g, graph=graph) for g in outside.unbind(1)]
        exact = _sum([(q * image).sum(1) for q, image in zip(directions, inside, strict=True)])
        left = torch.stack([(g * image).sum(1) for g, image in zip(outside.unbind(1), images, strict=True)], dim=1)
        squared = _sum([sum_event(image.square()) for image in inside])
        squared = squared + _sum([sum_event(image.square()) for image in images]) / self.num_probes
        return velocity if graph else velocity.detach(), exact.unsqueeze(1) + left, squared


def orthonormal(columns: Float[Tensor, "batch size vectors"]) -> Float[Tensor, "batch size directions"]:
    """An orthonormal basis, for each row, of a space that holds the columns; min(size, vectors) directions.

    Householder's: dependent columns are completed by some direction, never by a vector that is not orthonormal.
    """
    working = torch.promote_types(columns.dtype, torch.float32)
    return torch.linalg.qr(columns.detach().to(working)).Q.to(columns.dtype)


def _sum(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum(0)
