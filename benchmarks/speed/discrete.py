"""E1 to E3: discrete flows of five transforms, hidden 64-64, eight bins, on batches of 512 standard-normal rows.

A training step is the mean negative log-likelihood, its gradient and the optimiser; advect's is that of its `Trainer`.
Sampling is without a graph. The networks of the peers differ in detail, their sizes are the same. Parameters are moved
off the identity first; a sampler is checked by the log-density its own flow gives to its samples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from advect.flows import Flow, StandardNormal
from advect.flows.architectures import autoregressive, coupling
from advect.objectives import MaximumLikelihood
from advect.training import Batches, DataRows, Trainer, TrainingConfig
from benchmarks.speed.harness import Contender, Goal, growth, task
from benchmarks.speed.rows import Row
from benchmarks.speed.training import ENDLESS, Silence

BATCH, TRANSFORMS, HIDDEN, BINS = 512, 5, 64, 8
OURS: dict[str, Callable[..., Any]] = {
    "realnvp": lambda d, g: coupling.realnvp(d, layers=TRANSFORMS, mixing="none", width=HIDDEN, generator=g),
    "nsf": lambda d, g: coupling.nsf(d, layers=TRANSFORMS, mixing="none", bins=BINS, width=HIDDEN, generator=g),
    "maf": lambda d, g: autoregressive.maf(d, layers=TRANSFORMS, width=HIDDEN, generator=g),
    "nsf-ar": lambda d, g: autoregressive.nsf_ar(d, layers=TRANSFORMS, bins=BINS, width=HIDDEN, generator=g),
}


@dataclass(frozen=True)
class Model:
    """A flow of some library: log-densities and draws."""

    module: nn.Module
    log_prob: Callable[[Tensor], Tensor]
    sample: Callable[[int], Tensor]
    setting: str = ""


def advect_model(kind: str, features: int) -> Model:
    """One of ours."""
    map = OURS[kind](features, torch.Generator().manual_seed(0))
    flow = _moved(Flow(StandardNormal((features,)), map))
    generator = torch.Generator().manual_seed(0)
    return Model(flow, flow.log_prob, lambda rows: flow.sample(rows, generator=generator))


def zuko_model(kind: str, features: int) -> Model:
    """zuko's, in which a coupling is an autoregressive layer of two passes."""
    import zuko

    sizes: dict[str, Any] = {"transforms": TRANSFORMS, "hidden_features": (HIDDEN, HIDDEN)}
    if kind.startswith("nsf"):
        sizes["bins"] = BINS
    if not kind.endswith(("-ar", "maf")):
        sizes["passes"] = 2
    flow = _moved((zuko.flows.NSF if kind.startswith("nsf") else zuko.flows.MAF)(features, **sizes))
    return Model(flow, lambda x: flow().log_prob(x), lambda rows: flow().sample((rows,)))


def nflows_model(kind: str, features: int) -> Model:
    """nflows', with reversals between layers."""
    from nflows import distributions, flows, transforms, utils
    from nflows.nn.nets import MLP

    class Plain(MLP):
        """Its MLP, with the context that its couplings hand over."""

        def forward(self, inputs: Tensor, context: Tensor | None = None) -> Tensor:
            return super().forward(inputs)

    def network(inputs: int, outputs: int) -> nn.Module:
        return Plain((inputs,), (outputs,), [HIDDEN, HIDDEN])

    layers: list[nn.Module] = []
    for step in range(TRANSFORMS):
        mask = utils.create_alternating_binary_mask(features, even=step % 2 == 0)
        layers.append(_nflows_layer(kind, features, mask, network))
        layers.append(transforms.ReversePermutation(features))
    flow = _moved(flows.Flow(transforms.CompositeTransform(layers), distributions.StandardNormal([features])))
    return Model(flow, flow.log_prob, lambda rows: flow.sample(rows))


def _nflows_layer(kind: str, features: int, mask: Tensor, network: Callable[[int, int], nn.Module]) -> nn.Module:
    from nflows import transforms as t

    spline: dict[str, Any] = {"num_bins": BINS, "tails": "linear", "tail_bound": 5.0}
    masked: dict[str, Any] = {"hidden_features": HIDDEN, "num_blocks": 2, "use_residual_blocks": False}
    if kind == "realnvp":
        return t.AffineCouplingTransform(mask, network)
    if kind == "nsf":
        return t.PiecewiseRationalQuadraticCouplingTransform(mask, network, **spline)
    if kind == "maf":
        return t.MaskedAffineAutoregressiveTransform(features, **masked)
    return t.MaskedPiecewiseRationalQuadraticAutoregressiveTransform(features=features, **spline, **masked)


def normflows_model(kind: str, features: int) -> Model | None:
    """normflows' couplings; its autoregressive layers are fast in the other direction and left out."""
    import normflows

    middle = (features + 1) // 2
    layers: list[nn.Module] = []
    for _ in range(TRANSFORMS):
        if kind == "realnvp":
            sizes = [middle, HIDDEN, HIDDEN, 2 * (features - middle)]
            layers.append(normflows.flows.AffineCouplingBlock(normflows.nets.MLP(sizes, init_zeros=True)))
        elif kind == "nsf":
            layers.append(
                normflows.flows.CoupledRationalQuadraticSpline(features, 2, HIDDEN, num_bins=BINS, tail_bound=5.0)
            )
        else:
            return None
        layers.append(normflows.flows.Permute(features, mode="swap"))
    base = normflows.distributions.DiagGaussian(features, trainable=False)
    flow = _moved(normflows.NormalizingFlow(base, layers))
    return Model(flow, flow.log_prob, lambda rows: flow.sample(rows)[0])


def _moved(module: Any) -> Any:
    """The module with its parameters a little off their start, which is the identity in several libraries."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    return module


PEERS: dict[str, Callable[[str, int], Model | None]] = {
    "zuko": zuko_model,
    "nflows": nflows_model,
    "normflows": normflows_model,
}


def step_of(model: Model, features: int) -> Callable[[], Any]:
    """A training step of a peer: its log-density and torch's Adam."""
    optimizer = torch.optim.Adam(model.module.parameters(), lr=1e-4)
    data = torch.randn((20_000, features), generator=torch.Generator().manual_seed(2))

    def run() -> None:
        optimizer.zero_grad()
        loss = -model.log_prob(data[torch.randint(len(data), (BATCH,))]).mean()
        loss.backward()
        optimizer.step()

    return run


def our_step(kind: str, features: int, **settings: Any) -> Callable[[], Any]:
    """A training step of advect's loop."""
    model = advect_model(kind, features)
    data = torch.randn((20_000, features), generator=torch.Generator().manual_seed(2))
    rows = DataRows(lambda index, generator: data[index], len(data))
    config = TrainingConfig(steps=ENDLESS, batch_size=BATCH, validation_every=ENDLESS, learning_rate=1e-4, **settings)
    trainer = Trainer(model.module, MaximumLikelihood(), Batches(rows, BATCH, 0), config, Silence())

    def run() -> None:
        steps = count()
        trainer.run(stop=lambda: next(steps) == 5)

    return run


def five(step: Callable[[], Any]) -> Callable[[], None]:
    """Five steps, as `our_step` takes them at a time."""

    def run() -> None:
        for _ in range(5):
            step()

    return run


def steps(settings: Mapping[str, Any], kind: str, features: int, marks: tuple[float, float]) -> dict[str, Any]:
    """Five training steps."""
    contenders = [Contender("advect", our_step(kind, features), "its loop")]
    for name, make in PEERS.items():
        model = make(kind, features)
        if model is not None:
            contenders.append(Contender(name, five(step_of(model, features)), "torch's Adam"))
    return task(
        f"5 training steps, {kind}, {features} coordinates, batch {BATCH}",
        contenders,
        [Goal("advect", tuple(c.name for c in contenders[1:]), *marks, label="against the best peer")],
        rounds=5 if settings["quick"] else 9,
        clock=settings["clock"],
        memory=not settings["quick"],
    )


@torch.no_grad()
def draws(settings: Mapping[str, Any], kind: str, features: int, marks: tuple[float, float]) -> dict[str, Any]:
    """Sampling one batch."""
    contenders = []
    for name, make in {"advect": advect_model, **PEERS}.items():
        model = make(kind, features)
        if model is not None:
            contenders.append(Contender(name, lambda model=model: model.sample(BATCH), error=_bad_share(model)))
    return task(
        f"{BATCH} samples, {kind}, {features} coordinates",
        contenders,
        [Goal("advect", tuple(c.name for c in contenders[1:]), *marks, label="against the best peer")],
        rounds=3 if settings["quick"] else 7,
        clock=settings["clock"],
        memory=not settings["quick"],
        unit="share of samples without a finite log-density",
        least=0.02,
    )


def _bad_share(model: Model) -> float:
    """The share of samples whose log-density is not finite."""
    return float((~model.log_prob(model.sample(BATCH)).isfinite()).float().mean())


def e1(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Training steps of spline flows."""
    torch.set_num_threads(settings["threads"])
    dims = (6, 43)
    blocks = [steps(settings, "nsf", d, (3.0, 5.0)) for d in dims]
    blocks += [steps(settings, "nsf-ar", d, (2.5, 5.0)) for d in dims]
    return {"tasks": blocks}


def e2(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling autoregressive flows."""
    torch.set_num_threads(settings["threads"])
    figures: dict[str, Any] = {
        "tasks": [draws(settings, "nsf-ar", 43, (20.0, 60.0)), draws(settings, "maf", 43, (6.0, 30.0))]
    }
    if not settings["quick"]:

        def make(features: int) -> list[Contender]:
            models = {"advect": advect_model("maf", features), "zuko": zuko_model("maf", features)}
            return [Contender(name, lambda model=model: model.sample(BATCH)) for name, model in models.items()]

        with torch.no_grad():
            figures["growth"] = [growth(f"coordinates ({BATCH} samples of maf)", (3, 6, 12, 24, 43), make)]
    return figures


def e3(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Affine couplings, both ways."""
    torch.set_num_threads(settings["threads"])
    blocks = [steps(settings, "realnvp", d, (1.9, 3.0)) for d in (6, 43)]
    return {"tasks": blocks + [draws(settings, "realnvp", d, (1.4, 3.0)) for d in (6, 43)]}


ROWS = (
    Row("E1", "a training step of spline flows", f"{__name__}:e1"),
    Row("E2", "samples of autoregressive flows", f"{__name__}:e2"),
    Row("E3", "affine couplings", f"{__name__}:e3"),
)
