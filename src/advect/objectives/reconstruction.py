"""What an autoencoder is trained on: pictures back from their codes, with codes kept small and smooth.

    E |x − D(E(x) + s ε)|² / d + λ |E(x)|² / k,    ε standard normal

d numbers in a picture, k in a code. Noise on the codes makes the decoder smooth where codes are dense; the penalty
keeps the codes from outgrowing the noise. Up to constants this is the bound of a variational autoencoder whose
posterior has the fixed spread s (Ghosh et al. 2020, arXiv 1903.12436, §3), with a small weight λ.
"""

from dataclasses import dataclass
from typing import cast

from torch import Generator, Tensor, nn

from advect.objectives.matching import mean_event
from advect.records import Batch
from advect.transforms import Autoencoder
from advect.transforms.latent import drawn_like


@dataclass(frozen=True)
class Reconstruction:
    """See above.

    Attributes:
        noise: s.
        penalty: λ.
    """

    noise: float = 0.1
    penalty: float = 1e-3

    def __call__(self, flow: nn.Module, batch: Batch, *, generator: Generator | None = None) -> Tensor:
        """Loss ``(batch,)``, in squared units of the autoencoder's pictures."""
        coder = cast("Autoencoder", flow)
        code = coder.encoder(batch.x1)
        noisy = code + self.noise * drawn_like(code, generator)
        return mean_event((batch.x1 - coder.decoder(noisy)).square()) + self.penalty * mean_event(code.square())
