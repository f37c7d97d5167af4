"""Gradients without a graph: those of autograd, and only where they are."""

import pytest
import torch
from torch import nn

from advect.couplings import Assignment, Independent
from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.flows.baseline import GaussianBaseline
from advect.networks import MLP, ResidualMLP
from advect.networks.layers import ACTIVATIONS
from advect.objectives import BridgeWeight, Denoising, StratifiedTimes, VelocityMatching, regression_loss
from advect.paths import AffinePath, Linear, linear
from advect.records import Batch, Regression
from advect.training import Batches, Trainer, TrainingConfig
from advect.training import direct as module
from advect.typing import written_for
from tests.training.small import Recorder, cloud, rows_of, same


def regression(network, *, rows=64, weighted=False, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    condition = draw(rows, network.condition_features) if network.condition_features else None
    weight = draw(rows).square() if weighted else None
    event = network.event_shape
    return Regression(network, draw(rows).sigmoid(), draw(rows, *event), draw(rows, *event), condition, weight)


def both_ways(network, drawn, precision=None):
    """Loss and gradients by hand, and by autograd."""
    gradients = {p: torch.full_like(p, torch.nan) for p in network.parameters()}
    dtype = next(network.parameters()).dtype
    by_hand = network.regressor(gradients, precision or dtype)
    assert by_hand is not None
    loss = by_hand(drawn)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision is not None):
        plain = regression_loss(drawn).mean()
    plain.backward()
    return loss, plain.detach(), [(gradients[p], p.grad) for p in network.parameters()]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("condition", [0, 3])
def test_gradients_are_those_of_autograd_in_float64(activation, weighted, condition):
    network = MLP((2, 2), condition, width=12, depth=3, activation=activation, generator=torch.Generator()).double()
    agrees(network, weighted)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("condition", [0, 3])
@pytest.mark.parametrize("blocks", [1, 3])
def test_gradients_of_the_residual_network_too(weighted, condition, blocks):
    network = ResidualMLP((2, 2), condition, width=12, blocks=blocks, generator=torch.Generator()).double()
    nn.init.normal_(network.output.weight, generator=torch.Generator().manual_seed(1))  # it starts at zero
    agrees(network, weighted)


def agrees(network, weighted):
    loss, plain, pairs = both_ways(network, regression(network, weighted=weighted))
    assert loss == pytest.approx(float(plain), rel=1e-12)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_in_float32_differ_by_rounding():
    network = MLP((5,), width=32, depth=2, generator=torch.Generator())
    loss, plain, pairs = both_ways(network, regression(network, dtype=torch.float32))
    assert loss == pytest.approx(float(plain), rel=1e-5)
    for ours, theirs in pairs:  # sums of 64 rows, each rounded to 2⁻²⁴
        assert (ours - theirs).abs().max() < 64 * 2**-24 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("kind", [MLP, ResidualMLP])
def test_bfloat16_is_as_rough_as_autocast_and_no_rougher(kind):
    network = kind((5,), width=64, generator=torch.Generator())
    nn.init.normal_(network.output.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    drawn = regression(network, dtype=torch.float32, rows=256)
    exact = both_ways(network, drawn)[2]
    truth = torch.cat([theirs.flatten() for _, theirs in exact]).clone()
    network.zero_grad()
    rough = both_ways(network, drawn, torch.bfloat16)[2]
    ours, theirs = (torch.cat([pair[i].flatten() for pair in rough]) for i in (0, 1))
    error, usual = (ours - truth).norm(), (theirs - truth).norm()
    assert 0 < error < 1.5 * usual
    assert usual < 0.05 * truth.norm()


def test_another_number_of_rows_gets_other_buffers():
    network = MLP((2,), width=8, generator=torch.Generator()).double()
    gradients = {p: torch.empty_like(p) for p in network.parameters()}
    by_hand = network.regressor(gradients, torch.float64)
    for rows in (8, 3, 8):
        drawn = regression(network, rows=rows)
        assert float(by_hand(drawn)) == pytest.approx(float(regression_loss(drawn).detach().mean()), rel=1e-12)


def test_a_network_that_was_changed_says_nothing():
    def offered(network):
        return network.regressor({p: torch.empty_like(p) for p in network.parameters()}, torch.float32)

    assert offered(MLP((2,))) is not None
    assert offered(ResidualMLP((2,), width=8)) is not None
    normed = MLP((2,))
    nn.utils.parametrizations.weight_norm(normed.hidden[1])
    assert offered(normed) is None

    class Other(MLP):
        def _velocity(self, t, x, condition):
            return super()._velocity(t, x, condition) ** 2

    assert offered(Other((2,))) is None
    pruned = ResidualMLP((2,), width=8)
    pruned.outer[0] = nn.Sequential(pruned.outer[0])
    assert offered(pruned) is None
    learned = nn.Linear(1, 4)
    learned.features = 4
    assert offered(MLP((2,), time=learned)) is None


def test_a_method_is_written_for_those_of_its_own_class_and_above():
    class Parent:
        def plain(self): ...
        def fast(self): ...

    class Changed(Parent):
        def plain(self): ...

    class Both(Changed):
        def fast(self): ...

    assert [written_for(kind, "fast", "plain") for kind in (Parent, Changed, Both)] == [True, False, True]


def flow_of(network, *, baseline=None, **reading):
    field = VelocityField(network, baseline=baseline, **reading)
    return Flow(StandardNormal((2,)), ContinuousMap(field, event_shape=(2,)))


BASELINE = GaussianBaseline(torch.tensor([0.3, -0.2]), torch.tensor([[1.0, 0.4], [0.4, 0.8]]), Linear())
DENOISERS = [
    (Denoising(AffinePath(Linear()), prediction), {"parameterisation": prediction})
    for prediction in ("noise", "x1", "velocity")
]
MATCHERS = [(VelocityMatching(linear(0.1)), {}), (VelocityMatching(linear(), weight=BridgeWeight()), {})]


@pytest.mark.parametrize(("objective", "reading"), [*MATCHERS, *DENOISERS])
@pytest.mark.parametrize("baseline", [None, BASELINE])
def test_a_regression_is_the_loss(objective, reading, baseline):
    baseline = None if baseline is None else BASELINE.double()
    flow = flow_of(MLP((2,), generator=torch.Generator()).double(), baseline=baseline, **reading)
    x0, x1 = torch.randn((2, 32, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = objective.draw(Batch(x1=x1, x0=x0), generator=torch.Generator().manual_seed(2))
    found = objective.regression(flow, drawn)
    assert found is not None
    torch.testing.assert_close(regression_loss(found), objective.loss(flow, drawn), rtol=1e-10, atol=1e-12)
    BASELINE.float()


def test_an_interval_is_part_of_the_regression():
    flow, objective = flow_of(MLP((2,), generator=torch.Generator()).double()), VelocityMatching(linear())
    x0, x1 = torch.randn((2, 32, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    interval = torch.tensor([[0.25, 0.75]], dtype=torch.float64).expand(32, 2)
    drawn = objective.draw(Batch(x1=x1, x0=x0, interval=interval), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(regression_loss(objective.regression(flow, drawn)), objective.loss(flow, drawn))


def test_what_is_no_such_error_is_none():
    bound = torch.randn((2, 8, 2), generator=torch.Generator().manual_seed(1))
    batch = Batch(x1=bound[0], x0=bound[1])
    objective = VelocityMatching(linear())
    drawn = objective.draw(batch, generator=torch.Generator())
    noise = flow_of(MLP((2,)), parameterisation="noise")  # a velocity is then a multiple of what the network says
    assert objective.regression(noise, drawn) is None

    class Doubled(VelocityMatching):
        def loss(self, flow, drawn):
            return 2 * super().loss(flow, drawn)

    assert Doubled(linear()).regression(flow_of(MLP((2,))), drawn) is None


def trainer_of(network=None, *, coupling=None, objective=None, sink=None, weight=None, flow=None, **more):
    network = network or MLP((2,), width=16, generator=torch.Generator().manual_seed(0))
    config = TrainingConfig(**{"steps": 40, "batch_size": 16, "learning_rate": 0.01, "validation_every": 15, **more})
    base = StandardNormal((2,))
    batches = Batches(rows_of(cloud(), weight=weight), 16, config.seed, base, coupling or Independent())
    return Trainer(
        flow or flow_of(network, baseline=BASELINE),
        objective or VelocityMatching(linear(0.1)),
        batches,
        config,
        sink or Recorder(),
        validation=Batches(rows_of(cloud(40, seed=1)), 16, config.seed + 1, base, Independent()),
    )


class Uses:
    """Counts the losses that were had without a graph, and those asked for in vain."""

    def __init__(self, monkeypatch):
        self.found, self.asked, plain = 0, 0, module.Direct.loss

        def counted(direct, batch, generator):
            self.asked += 1
            loss = plain(direct, batch, generator)
            self.found += loss is not None
            return loss

        monkeypatch.setattr(module.Direct, "loss", counted)


@pytest.mark.parametrize("coupling", [Independent(), Assignment()])
@pytest.mark.parametrize("times", ["one by one", "together"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_training_ends_where_the_plain_one_ends(monkeypatch, coupling, times, weighted):
    weight = torch.linspace(0.1, 2.0, 100) if weighted else None
    objective = VelocityMatching(linear(0.1), **({"times": StratifiedTimes()} if times == "together" else {}))
    uses = Uses(monkeypatch)
    ours = trainer_of(coupling=coupling, objective=objective, weight=weight)
    ours.run()
    assert uses.found == uses.asked == 40
    monkeypatch.setattr(module.Direct, "loss", lambda direct, batch, generator: None)
    plain = trainer_of(coupling=coupling, objective=objective, weight=weight)
    plain.run()
    a, b = (nn.utils.parameters_to_vector(t.flow.parameters()) for t in (ours, plain))
    # 40 steps of at most 0.01 each, whose gradients differ by rounding (2⁻²⁴ and the optimiser's division).
    assert (a - b).abs().max() < 1e-4
    assert ours.sink.history[-1]["train_loss"] == pytest.approx(plain.sink.history[-1]["train_loss"], rel=1e-4)


@pytest.mark.parametrize("coupling", [Independent(), Assignment()])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [MLP, ResidualMLP])
def test_a_continued_run_ends_in_the_same_bits(coupling, precision, kind):
    def made(**more):
        network = kind((2,), width=16, generator=torch.Generator().manual_seed(0))
        return trainer_of(network, coupling=coupling, precision=precision, **more)

    whole = made()
    whole.run()
    sink, done = Recorder(), iter(range(100))
    first = made(sink=sink)
    first.run(stop=lambda: next(done) == 23)
    second = made()
    second.state.load(*sink.checkpoints[-1])
    second.run()
    assert same(second.state.tensors(), whole.state.tensors())


def test_the_plain_way_is_taken_where_something_would_be_missed(monkeypatch):
    uses = Uses(monkeypatch)
    heard = []
    listened = trainer_of(steps=3)
    listened.flow.map.field.network.register_forward_hook(lambda *_: heard.append(1))
    listened.run()
    assert heard
    trainer_of(steps=3, microbatch=4).run()
    assert uses.asked == 0
    partly = flow_of(MLP((2,), width=8))
    partly.map.field.network.output.requires_grad_(False)
    trainer_of(flow=partly, steps=3).run()
    assert uses.found == 0
    assert uses.asked == 3
    later = trainer_of(steps=6)
    done = iter(range(100))
    later.run(stop=lambda: next(done) == 3)
    assert uses.found == 3
    later.flow.map.field.network.hidden[0].weight.requires_grad_(False)
    later.run()
    assert uses.found == 3


def test_weights_that_were_moved_are_found_again():
    """Whoever gives the parameters other storage between two runs trains that storage."""
    ours, plain = trainer_of(steps=20), trainer_of(steps=20)
    done = iter(range(100))
    ours.run(stop=lambda: next(done) == 7)
    for parameter in ours.flow.parameters():
        parameter.data = parameter.data.clone()
    ours.run()
    plain.run()
    assert same(ours.state.tensors(), plain.state.tensors())


def test_a_gradient_that_is_not_finite_stops_before_the_step():
    from advect.errors import TrainingError

    network = MLP((2,), width=16, generator=torch.Generator().manual_seed(0))
    trainer = trainer_of(network, steps=20)
    with torch.no_grad():
        network.hidden[0].weight[0, 0] = torch.inf
    before = [p.clone() for p in network.parameters()]
    with pytest.raises(TrainingError, match="not finite"):
        trainer.run()
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
