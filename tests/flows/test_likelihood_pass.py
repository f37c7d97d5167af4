"""The gradient of a likelihood without a graph: that of autograd, and only where every part is known."""

import copy

import pytest
import torch
from torch import nn

from advect.couplings import Independent
from advect.flows import Flow, StandardNormal
from advect.flows.architectures.autoregressive import maf
from advect.flows.architectures.coupling import flowpp, nice, nsf, realnvp
from advect.flows.likelihood_pass import likelihood_pass
from advect.networks.conditioner import Conditioner
from advect.objectives import MaximumLikelihood
from advect.records import Batch
from advect.training import Batches, DataRows, Trainer, TrainingConfig
from advect.transforms import Compose, kernel, whitening
from tests.training.small import Recorder

pytestmark = pytest.mark.skipif(kernel.instruction_set() is None, reason="nothing is compiled here")
FLOAT64 = torch.float64


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT64)


def flow_of(make=realnvp, features=5, conditions=0, **more):
    """Whitening and couplings with mixing, off the identity."""
    generator = torch.Generator().manual_seed(0)
    layers = make(features, conditions, layers=4, width=16, generator=generator, **more)
    for module in layers.modules():
        if isinstance(module, Conditioner):
            module.perturb(0.3, generator=generator)
    return Flow(StandardNormal((features,)), Compose(whitening(drawn(200, features)), layers)).double()


def by_hand(flow, batch):
    gradients = {p: torch.full_like(p, torch.nan) for p in flow.parameters()}
    step = likelihood_pass(flow, gradients)
    return None if step is None else (step(batch), list(gradients.values()))


@pytest.mark.parametrize("make", [realnvp, nsf])
@pytest.mark.parametrize("mixing", ["lu", "permutation", "none"])
@pytest.mark.parametrize("conditions", [0, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_and_gradients_are_those_of_autograd(make, mixing, conditions, weighted):
    flow = flow_of(make, conditions=conditions, mixing=mixing)
    weight = drawn(30, seed=2).abs() if weighted else None
    batch = Batch(x1=drawn(30, 5), condition=drawn(30, conditions, seed=1) if conditions else None, weight=weight)
    loss, gradients = by_hand(flow, batch)
    rows = MaximumLikelihood()(flow, batch)
    plain = rows.mean() if weight is None else (rows * weight).sum() / weight.sum()
    plain.backward()
    assert loss == pytest.approx(plain.item(), rel=1e-12)
    for ours, parameter in zip(gradients, flow.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-9, atol=1e-9)


def test_weights_of_zero_are_a_loss_of_zero():
    batch = Batch(x1=drawn(8, 5), weight=torch.zeros(8, dtype=FLOAT64))
    loss, gradients = by_hand(flow_of(), batch)
    assert loss == 0
    assert all((g == 0).all() for g in gradients)


def test_what_is_not_known_goes_the_plain_way():
    batch = Batch(x1=drawn(8, 5))
    assert by_hand(flow_of(), batch) is not None
    for make in (flowpp, nice):  # a numeric inverse; shifts have no compiled form and end in a scale without a network
        assert by_hand(flow_of(make), batch) is None
    alone = Flow(StandardNormal((5,)), maf(5, layers=2)).double()
    assert by_hand(alone, batch) is None

    class Other(Flow):
        def score(self, *arguments, **more):
            return super().score(*arguments, **more)

    same = flow_of()
    assert by_hand(Other(same.base, same.map), batch) is None
    first, *rest = same.map.maps
    twice = Flow(same.base, Compose(first, *rest, first))
    assert by_hand(twice, batch) is None
    small = Flow(same.base, same.map, chunk_rows=4)
    assert by_hand(small, batch)[0] is None

    class Doubled(MaximumLikelihood):
        def __call__(self, flow, batch, *, generator=None):
            return 2 * super().__call__(flow, batch, generator=generator)

    gradients = {p: torch.empty_like(p) for p in same.parameters()}
    assert MaximumLikelihood().direct(same, gradients) is not None
    assert Doubled().direct(same, gradients) is None


def trained(flow, **more):
    data = drawn(300, 5, seed=3).to(next(flow.parameters()).dtype)
    rows = DataRows(draw=lambda index, generator: data[index], num_rows=300)
    config = TrainingConfig(steps=25, batch_size=32, learning_rate=0.01, validation_every=10, **more)
    batches = Batches(rows, 32, 0, flow.base, Independent())
    trainer = Trainer(flow, MaximumLikelihood(), batches, config, Recorder())
    assert trainer.run().finished
    return torch.cat([p.detach().flatten() for p in flow.parameters()])


def test_a_training_ends_where_the_plain_one_ends(monkeypatch):
    flow = flow_of(nsf)
    same, hooked = copy.deepcopy(flow), copy.deepcopy(flow)
    start = torch.cat([p.detach().flatten() for p in flow.parameters()])
    fast = trained(flow)
    hooked.map.register_forward_hook(lambda *_: None)  # somebody listens: by a graph
    by_graph = trained(hooked)
    monkeypatch.setenv("ADVECT_KERNEL", "none")
    plain = trained(same)
    moved = (plain - start).norm()
    # Adam divides by the size of a gradient, so that the rounding of small ones grows: by 1e7 at most here.
    assert (fast - plain).norm() < 1e-8 * moved
    assert (by_graph - plain).norm() < 1e-8 * moved


def test_a_layer_put_in_between_two_runs_is_seen():
    flow = flow_of().float()
    trained(flow)
    layer = next(m for m in flow.modules() if isinstance(m, Conditioner))
    layer.hidden[0] = nn.Sequential(layer.hidden[0])  # has no pass of its own
    trained(flow)
    assert all(p.isfinite().all() for p in flow.parameters())
