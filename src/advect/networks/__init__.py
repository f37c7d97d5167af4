"""Networks: ``network(t, x, condition) -> (batch, *event)``, with no time convention and no loss.

`MLP` is the plain network of the flow-matching papers, `ResidualMLP` the default for tables; both know their exact
divergence. `UNet` and `DiffusionTransformer` are for pictures. `make_network` builds any of them from a name such as
``mlp-3x64``; any `torch.nn.Module` with the same call may take their place.
"""

from advect.networks.angles import AngleConditioner
from advect.networks.conditioner import Conditioner
from advect.networks.conv import ConvNet
from advect.networks.convolutional import PictureClassifier, PictureDecoder, PictureEncoder
from advect.networks.embed import FourierTime, RawTime
from advect.networks.field import FieldNetwork
from advect.networks.lipschitz import LipschitzConv2d, LipschitzLinear
from advect.networks.lipschitz_network import LipschitzNetwork, lipschitz_convolutions, lipschitz_mlp
from advect.networks.masked import MaskedMLP
from advect.networks.mlp import MLP
from advect.networks.names import NETWORKS, make_network, resolve_network
from advect.networks.potential import Potential
from advect.networks.residual import ResidualMLP
from advect.networks.timed import TimedNetwork
from advect.networks.transformer import DiffusionTransformer, DiTSize
from advect.networks.unet import UNet, UNetSize

__all__ = [
    "MLP",
    "NETWORKS",
    "AngleConditioner",
    "Conditioner",
    "ConvNet",
    "DiTSize",
    "DiffusionTransformer",
    "FieldNetwork",
    "FourierTime",
    "LipschitzConv2d",
    "LipschitzLinear",
    "LipschitzNetwork",
    "MaskedMLP",
    "PictureClassifier",
    "PictureDecoder",
    "PictureEncoder",
    "Potential",
    "RawTime",
    "ResidualMLP",
    "TimedNetwork",
    "UNet",
    "UNetSize",
    "lipschitz_convolutions",
    "lipschitz_mlp",
    "make_network",
    "resolve_network",
]
