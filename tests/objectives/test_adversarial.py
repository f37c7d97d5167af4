"""The game as one loss: each side's gradient is its own, and the energy score is least for the right law."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advect.errors import ConfigError
from advect.flows import Flow, StandardNormal
from advect.flows.architectures.contrast import gan
from advect.objectives import Adversarial, energy_score
from advect.objectives.adversarial import discriminator_of
from advect.records import Batch
from advect.transforms import LULinear, Pushforward


def game(penalty: float, condition_features: int = 0) -> tuple[Flow, Adversarial, Batch]:
    generator = torch.Generator().manual_seed(0)
    map = gan(2, condition_features, code=3, depth=1, width=8, generator=generator)
    map.discriminator.perturb(1.0, generator=generator)
    flow = Flow(StandardNormal((3,)), map, event_shape=(2,)).double()
    condition = torch.randn(6, condition_features, dtype=torch.float64) if condition_features else None
    return flow, Adversarial(penalty), Batch(torch.randn(6, 2, dtype=torch.float64), condition=condition)


def by_hand(flow: Flow, batch: Batch, penalty: float, seed: int) -> tuple[Tensor, Tensor]:
    """The two sides written out, each as a function whose gradient is taken for its own parameters alone."""
    map = flow.map
    assert isinstance(map, Pushforward)
    z = flow.base.sample(len(batch.x1), generator=torch.Generator().manual_seed(seed))
    made, c = map.network(z, batch.condition), batch.condition
    discriminator = map.discriminator
    ahead = (discriminator(made, c) - discriminator(batch.x1, c)).squeeze(1)
    slopes = 0.0
    for rows in (batch.x1, made):
        for i in range(len(rows)):
            given = None if c is None else c[i : i + 1]
            slope = torch.autograd.functional.jacobian(
                lambda x, given=given: discriminator(x[None], given).squeeze(), rows[i].detach(), create_graph=True
            )
            slopes = slopes + slope.square().sum()
    return F.softplus(ahead).sum() + 0.5 * penalty * slopes, F.softplus(-ahead).sum()


@pytest.mark.parametrize("condition_features", [0, 2])
@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_each_side_gets_its_own_gradient(penalty: float, condition_features: int) -> None:
    flow, objective, batch = game(penalty, condition_features)
    flow.train()
    loss = objective(flow, batch, generator=torch.Generator().manual_seed(1))
    assert loss.shape == (6,)
    loss.sum().backward()
    map = flow.map
    assert isinstance(map, Pushforward)
    discriminator_side, generator_side = by_hand(flow, batch, penalty, seed=1)
    assert torch.allclose(loss.sum(), discriminator_side + generator_side, rtol=1e-12)
    for side, module in ((discriminator_side, map.discriminator), (generator_side, map.network)):
        parameters = list(module.parameters())
        expected = torch.autograd.grad(side, parameters, retain_graph=True, allow_unused=True)
        for parameter, gradient in zip(parameters, expected, strict=True):
            # A bias of the discriminator's last layer moves both judgements alike: no gradient reaches it by hand.
            wanted = torch.zeros_like(parameter) if gradient is None else gradient
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, wanted, atol=1e-10, rtol=1e-9)


def test_the_energy_score_is_the_double_sum() -> None:
    made, real = torch.randn(5, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    found = energy_score(made, real)
    for i in range(7):
        across = sum((made[j] - real[i]).norm() for j in range(5)) / 5
        within = sum((made[j] - made[k]).norm() for j in range(5) for k in range(5)) / 20
        assert torch.isclose(found[i], across - 0.5 * within, rtol=1e-12)
    assert energy_score(made[:1], real).isfinite().all()


def test_the_energy_score_has_its_value_at_the_right_law_and_a_higher_one_elsewhere() -> None:
    generator = torch.Generator().manual_seed(0)
    real, right = torch.randn(2, 2000, 1, generator=generator, dtype=torch.float64)
    score = energy_score(right, real)
    # E|X − Y| = 2/√π for independent standard normals; |X − Y| has a standard deviation of √(2 − 4/π) = 0.85, and
    # every row of 2000 counts once on each side.
    assert abs(score.mean() - 1 / math.sqrt(math.pi)) < 5 * 0.85 * math.sqrt(2 / 2000)
    for wrong in (right + 1, 3 * right, right.sign()):
        assert energy_score(wrong, real).mean() > score.mean() + 0.02


def test_out_of_training_the_loss_is_the_energy_score_with_the_condition_beside() -> None:
    flow, objective, batch = game(1.0, condition_features=2)
    flow.eval()
    with torch.no_grad():
        found = objective(flow, batch, generator=torch.Generator().manual_seed(3))
        made = flow.sample(6, batch.condition, generator=torch.Generator().manual_seed(3))
    assert batch.condition is not None
    expected = energy_score(torch.cat([made, batch.condition], 1), torch.cat([batch.x1, batch.condition], 1))
    assert torch.equal(found, expected)


def test_what_cannot_be_played_is_refused() -> None:
    with pytest.raises(ConfigError, match="penalty"):
        Adversarial(-1.0)
    with pytest.raises(ConfigError, match="no discriminator"):
        discriminator_of(Flow(StandardNormal((2,)), LULinear(2)))
    flow, _, _ = game(0.0)
    assert isinstance(discriminator_of(flow), nn.Module)
