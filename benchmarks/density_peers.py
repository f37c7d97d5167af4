"""The peers of `benchmarks.density`: flows of zuko and nflows as their own documentation and papers set them up.

They are trained by advect's loop, with advect's batches, averaging, cosine decay and best weights, for the same time;
their rate is the one their authors use. What differs is the model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from advect.errors import missing_extra
from advect.records import Batch
from benchmarks.density_train import Contender, versions

# Adam without weight decay or warm-up; gradients clipped at 5 as in the neural spline flows of Durkan et al.
ADAM = {"weight_decay": 0.0, "betas": (0.9, 0.999), "warmup_steps": 0, "gradient_clip": 5.0}


@dataclass(frozen=True)
class Peer:
    """A contender of another library.

    Attributes:
        package: Which.
        make: Builds the module with a ``log_prob``, from the number of columns and the sizes.
        sizes: What ``make`` is given.
        training: Settings of the loop.
        periodic: Whether it is a density of angles in [−π, π).
    """

    package: str
    make: Callable[..., nn.Module]
    sizes: Mapping[str, Any]
    training: Mapping[str, Any] = field(default_factory=lambda: {"learning_rate": 1e-3, **ADAM})
    periodic: bool = False


class _Zuko(nn.Module):
    """A lazy flow of zuko as a module with a `log_prob`."""

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow

    def log_prob(self, x: Tensor) -> Tensor:
        return self.flow().log_prob(x)


def _zuko(name: str) -> Callable[..., nn.Module]:
    def make(features: int, **sizes: Any) -> nn.Module:
        try:
            import zuko
        except ImportError as error:
            raise missing_extra("zuko", "bench", "this peer") from error
        return _Zuko(getattr(zuko.flows, name)(features, **sizes))

    return make


def _nflows_spline(features: int, *, steps: int, blocks: int, hidden: int, bins: int, box: float) -> nn.Module:
    """The coupling flow of the paper: permutation and LU, then a rational-quadratic coupling, ``steps`` times."""
    try:
        from nflows import distributions, flows, transforms, utils
        from nflows.nn.nets import ResidualNet
    except ImportError as error:
        raise missing_extra("nflows", "bench", "this peer") from error

    def network(inputs: int, outputs: int) -> nn.Module:
        return ResidualNet(inputs, outputs, hidden_features=hidden, num_blocks=blocks)

    def mixing() -> list[nn.Module]:
        return [transforms.RandomPermutation(features), transforms.LULinear(features, identity_init=True)]

    layers = []
    for step in range(steps):
        mask = utils.create_alternating_binary_mask(features, even=step % 2 == 0)
        coupling = transforms.PiecewiseRationalQuadraticCouplingTransform(
            mask, network, num_bins=bins, tails="linear", tail_bound=box, apply_unconditional_transform=True
        )
        layers += [*mixing(), coupling]
    base = distributions.StandardNormal([features])
    return flows.Flow(transforms.CompositeTransform([*layers, *mixing()]), base)


README_SIZES = {"transforms": 3, "hidden_features": [128, 128, 128]}  # the example of zuko's README

PEERS: dict[str, Peer] = {
    "zuko-maf": Peer("zuko", _zuko("MAF"), {"transforms": 5, "hidden_features": [128, 128]}),
    "zuko-nsf": Peer("zuko", _zuko("NSF"), README_SIZES),
    "nflows-nsf": Peer(
        "nflows",
        _nflows_spline,
        {"steps": 5, "blocks": 2, "hidden": 128, "bins": 8, "box": 3.0},
        {"learning_rate": 5e-4, **ADAM},
    ),
    "zuko-ncsf": Peer("zuko", _zuko("NCSF"), README_SIZES, periodic=True),
}
"""Name to peer; the last is for angles only."""


def negative_log_prob(flow: nn.Module, batch: Batch, *, generator: torch.Generator) -> Tensor:
    """The objective of a module that has a ``log_prob``."""
    return -flow.log_prob(batch.x1)  # type: ignore[operator]


def make_peer(name: str, features: int, *, seed: int, change: Callable[[Tensor], Tensor] = lambda x: x) -> Contender:
    """A peer with fresh weights; ``change`` brings standardised rows to those it models, of equal volume or not.

    Raises:
        MissingExtraError: Its library is not installed.
    """
    peer = PEERS[name]
    with torch.random.fork_rng():  # both libraries draw their weights from the global generator
        torch.manual_seed(seed)
        module = peer.make(features, **peer.sizes)
    return Contender(
        module,
        negative_log_prob,
        lambda x: module.log_prob(change(x)),
        change=change,
        about={"peer_versions": versions([peer.package])},
    )
