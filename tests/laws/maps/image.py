"""Maps on pictures: couplings of both masks, odd and even sides and channels, multi-scale, logit, whole architectures.

Pictures are small, so that full Jacobians are affordable; weights are moved off their zero start by a seeded draw.
"""

import torch

from advect.flows.architectures.coupling import nsf
from advect.flows.architectures.image import dequantisation_noise, glow, notes_realnvp, realnvp_image
from advect.transforms.bijection import Bijection
from advect.transforms.dequantise import Logit
from advect.transforms.flatten import Flattened
from advect.transforms.image import ImageCoupling
from advect.transforms.multiscale import MultiScale
from advect.transforms.squeeze import Squeezed
from tests.laws.maps.case import Case

SMALL = {"width": 3, "kernels": (3, 1, 3)}
VECTOR = {"depth": 1, "width": 6}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def perturbed(map: Bijection, spread: float = 0.3) -> Bijection:
    """The map in float64 and in evaluation mode, each parameter moved by a seeded normal draw."""
    map = map.double().eval()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in map.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return map


def coupling(shape, condition_shape=None, **options) -> Bijection:
    return perturbed(ImageCoupling(shape, condition_shape, **SMALL, **options, generator=seeded()))


MAPS: dict[str, Case] = {
    "image-checkerboard": Case(lambda: coupling((1, 2, 2))),
    "image-checkerboard-flipped": Case(lambda: coupling((1, 2, 4), flip=True)),
    "image-checkerboard-odd": Case(lambda: coupling((1, 1, 3))),
    "image-checkerboard-odd-conditional": Case(lambda: coupling((2, 3, 1), (2,), flip=True)),
    "image-channel": Case(lambda: coupling((2, 1, 1), mask="channel")),
    "image-channel-odd": Case(lambda: coupling((3, 1, 2), mask="channel")),
    "image-channel-odd-conditional": Case(lambda: coupling((3, 2, 1), (1,), mask="channel", flip=True)),
    "image-picture-condition": Case(lambda: coupling((1, 2, 2), (2, 2, 2))),
    "image-picture-condition-channel": Case(lambda: coupling((2, 1, 2), (1, 1, 2), mask="channel")),
    "image-squeezed": Case(lambda: Squeezed(coupling((4, 1, 1), (2,), mask="channel"), (1, 2, 2))),
    "flattened": Case(lambda: perturbed(Flattened(nsf(4, 2, layers=2, **VECTOR, generator=seeded()), (1, 2, 2)))),
    "image-multiscale": Case(
        lambda: perturbed(MultiScale(coupling((2, 1, 2), mask="channel"), (3, 1, 2), **SMALL, generator=seeded()))
    ),
    "image-multiscale-conditional": Case(
        lambda: perturbed(
            MultiScale(coupling((1, 1, 2), (2,)), (2, 1, 2), (2,), width=3, kernels=(3, 3), generator=seeded())
        )
    ),
    "image-realnvp": Case(
        lambda: perturbed(realnvp_image((1, 4, 4), couplings=2, scales=2, **SMALL, generator=seeded()), 0.1)
    ),
    "image-realnvp-conditional": Case(
        lambda: perturbed(realnvp_image((1, 1, 3), 2, couplings=2, **SMALL, generator=seeded()), 0.1)
    ),
    "image-glow": Case(lambda: perturbed(glow((3, 2, 2), steps=2, **SMALL, generator=seeded()), 0.1)),
    "image-glow-conditional": Case(lambda: perturbed(glow((3, 1, 1), 2, steps=2, **SMALL, generator=seeded()), 0.1)),
    "image-notes": Case(lambda: perturbed(notes_realnvp((3, 1, 2), width=3, generator=seeded()), 0.1)),
    "image-dequantisation-noise": Case(
        lambda: perturbed(dequantisation_noise((1, 2, 2), couplings=2, width=3, generator=seeded()), 0.1)
    ),
    "logit": Case(lambda: Logit((3,), levels=4, alpha=0.05), mixed=True),
    "logit-picture": Case(lambda: Logit((1, 2, 2), levels=256, alpha=1e-6), mixed=True),
    "one-logit": Case(lambda: Logit((1,), levels=17, alpha=0.0), mixed=True),
}
