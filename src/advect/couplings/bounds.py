"""What no coupling can fall below: lower bounds on the squared cost of transport between two sets of rows.

Beside the cost of a pairing they say how far it can be from the best one. All hold for any pairing of the very rows
given, whatever their distribution:

* **Gelbrich**: two distributions with these means and covariances are at least as far apart as the Gaussians with them,
  |m0 − m1|² + tr(S0 + S1 − 2(S0^½ S1 S0^½)^½) (Gelbrich 1990, "On a formula for the L² Wasserstein metric").
* **Lines**: |x0 − x1|² is the sum of its parts along the axes of any orthonormal frame, and along each a pairing
  costs at least what sorting does. The frames tried are the axes, the principal axes of both sets, and random ones.
* **Duals** (`dual_bound`): for any numbers g, mean_i min_j (c_ij − g_j) + mean_j g_j. Near-optimal numbers are read
  off the pairing itself (`duals`), which makes the bound tight in few dimensions.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from advect.couplings.cost import centred_rows
from advect.couplings.duals import graph_duals


def gelbrich_bound(x0: Float[Tensor, "source ..."], x1: Float[Tensor, "data ..."]) -> float:
    """Squared Wasserstein-2 distance of the Gaussian fits: a lower bound on the mean squared cost of any coupling."""
    flat0, flat1 = centred_rows(x0, x1)
    shift = float((flat0.mean(0) - flat1.mean(0)).square().sum())
    spread0, spread1 = (x - x.mean(0) for x in (flat0, flat1))
    # tr (S0^½ S1 S0^½)^½ is the sum of the singular values of A0 A1ᵀ for any roots Sᵢ = AᵢᵀAᵢ; triangular ones are
    # cheap.
    root0, root1 = (torch.linalg.qr(x, mode="r").R / math.sqrt(len(x)) for x in (spread0, spread1))
    cross = float(torch.linalg.svdvals(root0 @ root1.T).sum())
    own = float(spread0.square().sum() / len(x0) + spread1.square().sum() / len(x1))
    return max(0.0, shift + own - 2 * cross)


def line_bound(
    x0: Float[Tensor, "rows ..."], x1: Float[Tensor, "rows ..."], *, generator: Generator, frames: int = 4
) -> float:
    """The best sum of one-dimensional transport costs over orthonormal frames; equally many rows on both sides."""
    flat0, flat1 = centred_rows(x0, x1)
    dim = flat0.shape[1]
    both = torch.cat([flat0 - flat0.mean(0), flat1 - flat1.mean(0)])
    tried = [torch.eye(dim, dtype=torch.float64), torch.linalg.eigh((both.T @ both).cpu()).eigenvectors]
    for _ in range(frames):
        normal = torch.randn(dim, dim, generator=generator, device=generator.device, dtype=torch.float64)
        tried.append(torch.linalg.qr(normal.cpu()).Q)

    def along(frame: Tensor) -> float:
        axes = frame.to(flat0.device)
        return float(((flat0 @ axes).sort(0).values - (flat1 @ axes).sort(0).values).square().mean(0).sum())

    return max(along(frame) for frame in tried)


def lower_bound(x0: Float[Tensor, "source ..."], x1: Float[Tensor, "data ..."], *, generator: Generator) -> float:
    """The better of the two cheap bounds on the mean squared cost between equally many rows."""
    return max(gelbrich_bound(x0, x1), line_bound(x0, x1, generator=generator))


def dual_bound(
    x0: Float[Tensor, "rows ..."],
    x1: Float[Tensor, "rows ..."],
    index0: Int[Tensor, " rows"],
) -> float:
    """A lower bound on the mean squared cost of any one-to-one pairing, by duals read off a good one.

    Args:
        x0: Source rows.
        x1: Data rows, as many.
        index0: The source row of each data row: a permutation.
    """
    flat0, flat1 = (x.cpu().numpy() for x in centred_rows(x0, x1))
    return graph_duals(flat0[index0.cpu().numpy()], flat1)[1]
