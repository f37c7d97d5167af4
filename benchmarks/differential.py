"""The same weights in layers of zuko and nflows and in advect's: do they give the same answers?

Every peer layer is built, its weights are drawn at random, it is taken over by `advect.adapters`, and both are asked
about the same rows, in float64. What is compared, as |advect − peer| / max(1, |peer|), the largest over all rows:

    value, log-det      of data → noise
    inverse             advect's way back from the *peer's* noise, against the rows themselves
    inverse log-det     of it, against minus the peer's log-determinant of the way there
    peer's inverse      the peer's own way back against the rows: how well conditioned the question is

Run ``python -m benchmarks.differential``: some seconds. It writes ``results/differential.md`` and ``.json``, and fails
where an error is above 1e-6.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advect import files
from advect.adapters import from_nflows, from_zuko
from advect.adapters.agreement import difference
from advect.errors import missing_extra
from advect.flows import Flow
from benchmarks.cells import ROOT

COMMAND = "python -m benchmarks.differential"
RESULTS = ROOT / "benchmarks" / "results"
TOLERANCE = 1e-6
FEATURES = (2, 5)
CONDITIONS = (0, 3)
ROWS = 256
EDGES = (-5.0, 5.0, -3.0, 3.0, 0.0, 10.0)
HIDDEN = 16
SPREAD = 0.8  # of redrawn weights, times one over the root of their inputs

Encode = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""``encode(x, condition) -> (z, log|det|)``."""


@dataclass(frozen=True)
class Layer:
    """A layer of a peer.

    Attributes:
        peer: ``zuko`` or ``nflows``.
        name: What it is.
        build: ``build(features, condition) -> module``.
        conditional: Whether it can take a condition.
    """

    peer: str
    name: str
    build: Callable[[int, int], Any]
    conditional: bool = True


@dataclass(frozen=True)
class Errors:
    """The largest differences of one layer; ``peer_inverse`` is None where the peer's way back does not run."""

    peer: str
    layer: str
    features: int
    condition: int
    value: float
    log_det: float
    inverse: float
    inverse_log_det: float
    peer_inverse: float | None

    @property
    def worst(self) -> float:
        """The largest of advect's; NaN if one is."""
        found = torch.tensor([self.value, self.log_det, self.inverse, self.inverse_log_det])
        return float(found.max())


def zuko_layers() -> list[Layer]:
    """What is compared with zuko.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import zuko
    except ImportError as error:
        raise missing_extra("zuko", "bench", "this peer") from error
    flows, transforms = zuko.flows, zuko.transforms
    spline = {"univariate": transforms.MonotonicRQSTransform, "shapes": [(8,), (8,), (7,)]}
    sizes = {"hidden_features": (HIDDEN, HIDDEN + 3)}

    def made(features: int, condition: int, **options: Any) -> Any:
        return flows.MaskedAutoregressiveTransform(features, condition, **sizes, **options)

    def coupling(features: int, condition: int, **options: Any) -> Any:
        return flows.GeneralCouplingTransform(features, condition, **sizes, **options)

    def own(kind: Any, features: int, condition: int) -> Any:
        return flows.UnconditionalTransform(kind, torch.randn(features, features))

    def whole(kind: Any, features: int, condition: int) -> Any:
        return kind(features, condition, hidden_features=(HIDDEN,) * 2)

    return [
        Layer("zuko", "affine coupling", coupling),
        Layer("zuko", "additive coupling", partial(coupling, univariate=transforms.AdditiveTransform, shapes=[()])),
        Layer("zuko", "spline coupling", partial(coupling, **spline)),
        Layer("zuko", "affine MADE", made),
        Layer("zuko", "affine MADE, residual", partial(made, residual=True)),
        Layer("zuko", "spline MADE", partial(made, **spline)),
        Layer("zuko", "spline MADE, 2 passes", partial(made, passes=2, **spline)),
        Layer("zuko", "elementwise spline", lambda f, c: flows.ElementWiseTransform(f, c, **spline)),
        Layer("zuko", "LU", partial(own, transforms.LULinearTransform), conditional=False),
        Layer("zuko", "rotation", partial(own, transforms.RotationTransform), conditional=False),
        Layer("zuko", "flow: RealNVP", partial(whole, flows.RealNVP)),
        Layer("zuko", "flow: MAF", partial(whole, flows.MAF)),
        Layer("zuko", "flow: NSF", partial(whole, flows.NSF)),
    ]


def nflows_layers() -> list[Layer]:
    """What is compared with nflows.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        from nflows import transforms
        from nflows.flows import MaskedAutoregressiveFlow, SimpleRealNVP
        from nflows.nn.nets import ResidualNet
    except ImportError as error:
        raise missing_extra("nflows", "bench", "this peer") from error
    tails = {"tails": "linear", "tail_bound": 3.0, "num_bins": 8}

    def coupling(kind: Any, features: int, condition: int, **options: Any) -> Any:
        def network(inputs: int, outputs: int) -> Any:
            return ResidualNet(inputs, outputs, HIDDEN, context_features=condition or None)

        return kind(torch.arange(features) % 2, network, **options)

    def made(kind: Any, features: int, condition: int, **options: Any) -> Any:
        return kind(features=features, hidden_features=HIDDEN, context_features=condition or None, **options)

    affine, plain = transforms.MaskedAffineAutoregressiveTransform, {"use_residual_blocks": False}
    spline = transforms.MaskedPiecewiseRationalQuadraticAutoregressiveTransform
    spline_coupling = transforms.PiecewiseRationalQuadraticCouplingTransform
    return [
        Layer("nflows", "affine coupling", partial(coupling, transforms.AffineCouplingTransform)),
        Layer("nflows", "additive coupling", partial(coupling, transforms.AdditiveCouplingTransform)),
        Layer("nflows", "spline coupling", partial(coupling, spline_coupling, **tails)),
        Layer("nflows", "affine MADE", partial(made, affine, **plain)),
        Layer("nflows", "affine MADE, random masks", partial(made, affine, random_mask=True, **plain)),
        Layer("nflows", "affine MADE, residual", partial(made, affine)),
        Layer("nflows", "spline MADE, residual", partial(made, spline, **tails)),
        Layer("nflows", "LU", lambda f, c: transforms.LULinear(f, identity_init=False), conditional=False),
        Layer("nflows", "QR", lambda f, c: transforms.QRLinear(f, 3), conditional=False),
        Layer("nflows", "Householder", lambda f, c: transforms.HouseholderSequence(f, 3), conditional=False),
        Layer("nflows", "permutation", lambda f, c: transforms.RandomPermutation(f), conditional=False),
        Layer("nflows", "flow: SimpleRealNVP", lambda f, c: SimpleRealNVP(f, HIDDEN, 3, 2), conditional=False),
        Layer("nflows", "flow: MAF", lambda f, c: MaskedAutoregressiveFlow(f, HIDDEN, 3, 2), conditional=False),
    ]


PEERS = {"zuko": (zuko_layers, from_zuko), "nflows": (nflows_layers, from_nflows)}


@torch.no_grad()
def redraw(module: Any, seed: int) -> Any:
    """The module in float64 with random weights: those of matrices of a layer SPREAD/√inputs, all others SPREAD/2."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    for parameter in module.parameters():
        scale = SPREAD / parameter.shape[1] ** 0.5 if parameter.ndim == 2 else SPREAD / 2
        parameter.normal_(0, scale, generator=generator)
    return module


def theirs(peer: str, module: Any) -> Encode:
    """The peer's own way from data to noise; of a flow the log-determinant holds the log-density."""

    def by_zuko(x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        if hasattr(module, "base"):
            flow = module(condition)
            return flow.transform(x), flow.log_prob(x)
        return module(condition).call_and_ladj(x)

    def by_nflows(x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        if hasattr(module, "_distribution"):
            return module.transform_to_noise(x, condition), module.log_prob(x, condition)
        return module(x, condition)

    return by_zuko if peer == "zuko" else by_nflows


def peer_inverse(peer: str, module: Any, z: Tensor, condition: Tensor | None, x: Tensor) -> float | None:
    """The error of the peer's own way back; None where it calls what this torch no longer has (nflows' LU and QR)."""
    try:
        if peer == "zuko":
            done = module(condition)
            return difference(getattr(done, "transform", done).inv(z), x)
        return difference(getattr(module, "_transform", module).inverse(z, condition)[0], x)
    except (AttributeError, RuntimeError):
        return None


def rows(features: int, condition: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Rows within and without the boxes of splines, some exactly on an edge, and their conditions."""
    generator = torch.Generator().manual_seed(seed)
    x = 2.5 * torch.randn(ROWS, features, generator=generator, dtype=torch.float64)
    for row, edge in enumerate(EDGES):
        x[row] = edge
        x[row + len(EDGES), row % features] = edge
    drawn = torch.randn(ROWS, condition, generator=generator, dtype=torch.float64)
    return x, drawn if condition else None


@torch.no_grad()
def compare(layer: Layer, features: int, condition: int, seed: int = 0) -> Errors:
    """One layer with random weights, here and there."""
    torch.manual_seed(seed)  # peers draw masks and permutations from the global generator
    module = redraw(layer.build(features, condition), seed)
    ours = PEERS[layer.peer][1](module)
    x, c = rows(features, condition, seed + 1)
    z, log_det = theirs(layer.peer, module)(x, c)
    there = ours.encode(x, c, log_det=True)
    back = ours.decode(z, c, log_det=True)
    forward, backward = there.log_abs_det_jacobian, back.log_abs_det_jacobian
    assert forward is not None
    assert backward is not None
    if isinstance(ours, Flow):
        forward, backward = ours.log_prob(x, c), backward - ours.base.log_prob(z, c)
    return Errors(
        layer.peer,
        layer.name,
        features,
        condition,
        difference(there.value, z),
        difference(forward, log_det),
        difference(back.value, x),
        difference(backward, -log_det),
        peer_inverse(layer.peer, module, z, c, x),
    )


def run(peers: Sequence[str] = tuple(PEERS)) -> list[Errors]:
    """Every layer of the peers in every size, with and without a condition."""
    found = []
    for peer in peers:
        for layer, features, condition in product(PEERS[peer][0](), FEATURES, CONDITIONS):
            if layer.conditional or not condition:
                found.append(compare(layer, features, condition))
    return found


def table(found: Sequence[Errors], versions: dict[str, str]) -> str:
    """The results as a page: the worst of all sizes for each layer."""
    worst = max(found, key=lambda errors: errors.worst)
    passed = all(errors.worst <= TOLERANCE for errors in found)
    lines = [
        "# Differential: advect's layers with the weights of zuko's and nflows'",
        "",
        f"Written by `{COMMAND}`; do not edit. {'**Pass**' if passed else '**Fail**'}: {len(found)} comparisons in "
        f"float64, the largest error is {worst.worst:.1e} ({worst.peer}, {worst.layer}); accepted is {TOLERANCE:.0e}.",
        "",
        f"Largest |advect − peer| / max(1, |peer|) over {ROWS} rows (some on the edges and far outside the boxes of "
        f"splines), d = {' and '.join(map(str, FEATURES))}, with and without a condition of {max(CONDITIONS)} numbers "
        "where the layer takes one; weights random. The inverse is advect's way back from the peer's noise, held "
        "against the rows themselves, as is the peer's own. For a flow the log-determinant includes the base: it is "
        "the log-density.",
        "",
        "| peer | layer | comparisons | value | log-det | inverse | inverse log-det | peer's inverse |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for peer, name in dict.fromkeys((errors.peer, errors.layer) for errors in found):
        group = [errors for errors in found if (errors.peer, errors.layer) == (peer, name)]
        columns = ("value", "log_det", "inverse", "inverse_log_det")
        figures = [f"{max(getattr(errors, column) for errors in group):.1e}" for column in columns]
        back = [errors.peer_inverse for errors in group if errors.peer_inverse is not None]
        figures.append(f"{max(back):.1e}" if back else "does not run")
        lines.append(f"| {peer} | {name} | {len(group)} | {' | '.join(figures)} |")
    lines += ["", "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where an error is above the tolerance."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    out = parser.parse_args(arguments).out
    torch.set_num_threads(1)
    found = run()
    versions = {package: metadata.version(package) for package in ("advect", "torch", "zuko", "nflows")}
    record = {
        "command": COMMAND,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "tolerance": TOLERANCE,
        "settings": {"rows": ROWS, "features": FEATURES, "conditions": CONDITIONS, "dtype": "float64", "seed": 0},
        "errors": [asdict(errors) for errors in found],
    }
    files.write_text(out / "differential.json", json.dumps(record, indent=1) + "\n")
    files.write_text(out / "differential.md", table(found, versions))
    print(table(found, versions))
    return 0 if all(errors.worst <= TOLERANCE for errors in found) else 1


if __name__ == "__main__":
    sys.exit(main())
