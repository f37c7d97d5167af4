"""The validation loss is the mean over its batches of what the objective says of them, however it is had."""

import pytest
import torch

from advect.couplings import Independent
from advect.flows import StandardNormal
from advect.networks import MLP, ResidualMLP
from advect.objectives import StratifiedTimes, VelocityMatching
from advect.paths import linear
from advect.training import ALONE, Batches, TrainingConfig, generator_for
from advect.training.seeding import VALIDATION
from advect.training.shares import mean_loss
from advect.training.validation import NUMBERS, Validation

from .small import cloud, rows_of
from .test_direct import BASELINE, flow_of

COUNT, SEED = 3, 5


class Doubled(VelocityMatching):
    """Has another loss than that of what it draws."""

    def __call__(self, flow, batch, *, generator=None):
        return 2 * super().__call__(flow, batch, generator=generator)


class Many(VelocityMatching):
    """Draws and computes as its parent does; only the loss of what was drawn is its own."""

    def loss(self, flow, drawn):
        return 3 * super().loss(flow, drawn)


def batches_of(*, weighted=False, size=16):
    weight = torch.rand(100, generator=torch.Generator().manual_seed(2)) if weighted else None
    return Batches(rows_of(cloud(), weight=weight), size, 1, StandardNormal((2,)), Independent())


def both_ways(objective, network, *, batches=None, **settings):
    """The loss of two validations and by hand; how many rows the network saw in a call."""
    flow, seen = flow_of(network, baseline=BASELINE).eval(), []
    network.register_forward_hook(lambda module, given, said: seen.append(len(said)))
    batches = batches or batches_of()
    config = TrainingConfig(seed=SEED, **settings)

    def losses(batch, generator):
        yield mean_loss(objective, flow, batch, generator)

    with torch.no_grad():
        by_hand = [
            mean_loss(
                objective,
                flow,
                batches.draw(i, generator_for(SEED, VALIDATION, 0, i)),
                generator_for(SEED, VALIDATION, 1, i),
            )
            for i in range(COUNT)
        ]
        seen.clear()
        validation = Validation(flow, objective, batches, COUNT, config, losses, ALONE)
        found = [validation.loss()]
        validation.look_again()
        found += [validation.loss(), validation.loss()]
    return found, float(torch.stack(by_hand).mean()), set(seen)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", [MLP, ResidualMLP])
def test_rows_that_go_together_have_the_loss_of_their_batches(kind, weighted):
    network = kind((2,), width=16, generator=torch.Generator().manual_seed(0))
    found, by_hand, seen = both_ways(VelocityMatching(linear(0.1)), network, batches=batches_of(weighted=weighted))
    assert found == pytest.approx([by_hand] * 3, rel=1e-5)
    assert len(set(found)) == 1
    assert seen == {16 * COUNT}


@pytest.mark.parametrize(
    ("objective", "together"),
    [(Doubled(linear(0.1)), False), (Many(linear(0.1)), True), (VelocityMatching(linear(), StratifiedTimes()), True)],
)
def test_an_objective_is_asked_as_it_was_written(objective, together):
    network = MLP((2,), width=16, generator=torch.Generator().manual_seed(0))
    found, by_hand, seen = both_ways(objective, network)
    assert found == pytest.approx([by_hand] * 3, rel=1e-5)
    assert seen == {16 * COUNT if together else 16}


def test_many_rows_and_parts_of_batches_go_one_after_another():
    network = MLP((2,), width=8, generator=torch.Generator().manual_seed(0))
    size = NUMBERS // (2 * COUNT) + 1
    assert both_ways(VelocityMatching(linear()), network, batches=batches_of(size=size))[2] == {size}
    assert both_ways(VelocityMatching(linear()), network, microbatch=8)[2] == {16}
