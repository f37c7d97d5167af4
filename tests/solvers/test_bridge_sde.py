"""The SDE of a bridge: right marginals for every g, in both directions, at every number of steps."""

import math

import pytest
import torch

from advect.errors import ConfigError, UnsupportedError
from advect.flows import BridgeBaseline
from advect.paths import BrownianBridge
from advect.solvers import Adaptive, BridgeSDE, Euler, ExactDivergence, KineticEnergy, make_solver
from advect.typing import Solver, batch_time

DOUBLE = torch.float64
MEAN = torch.tensor([1.0, -0.5], dtype=DOUBLE)
SPREAD = torch.tensor([1.5, 0.4], dtype=DOUBLE)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(batch, seed=0):
    return torch.randn(batch, 2, dtype=DOUBLE, generator=seeded(seed))


def gaussian(sigma=1.0):
    return BridgeBaseline(MEAN, SPREAD.square(), sigma)


def moments(t, sigma=1.0):
    """Mean and standard deviation of the Gaussian bridge, in the symbols of Bunne et al. 2202.05722."""
    between = (sigma**4 + 4 * SPREAD**2).sqrt()
    return t * MEAN, ((1 - t) ** 2 + t**2 * SPREAD**2 + t * (1 - t) * between).sqrt()


class Pairs:
    """The exact field of four bridges: any ends, no Gaussian among them, and a score like 1/σ_t at both."""

    x0 = torch.tensor([[-3.0, 0.0], [-3.0, 2.0], [0.0, -2.0], [1.0, 1.0]], dtype=DOUBLE)
    x1 = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 0.0], [-2.0, 0.0]], dtype=DOUBLE)
    shares = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=DOUBLE)

    def __init__(self, diffusion):
        self.diffusion, self.path = diffusion, BrownianBridge(diffusion)

    def __call__(self, t, x, condition=None):
        share = self._posterior(t, x)
        every = [self.path.velocity(batch_time(t, x), x, *self._ends(i, x)) for i in range(4)]
        return (torch.stack(every) * share).sum(0)

    def score(self, t, x, condition=None):
        time = batch_time(t, x).unsqueeze(1)
        variance = self.diffusion**2 * time * (1 - time)
        every = [((1 - time) * a + time * b - x) / variance for a, b in (self._ends(i, x) for i in range(4))]
        return (torch.stack(every) * self._posterior(t, x)).sum(0)

    def draw(self, t, batch):
        which = torch.multinomial(self.shares, batch, replacement=True, generator=seeded(7))
        time = torch.full((batch,), t, dtype=DOUBLE)
        return self.path.sample(time, self.x0[which], self.x1[which], generator=seeded(8)).x

    def _ends(self, i, x):
        return self.x0[i].expand_as(x), self.x1[i].expand_as(x)

    def _posterior(self, t, x):
        time = batch_time(t, x)
        every = [self.path.log_density(time, x, b, a) for a, b in (self._ends(i, x) for i in range(4))]
        return (torch.stack(every) + self.shares.log().unsqueeze(1)).softmax(0).unsqueeze(2)


# What 100 steps may add to or take from a standard deviation: measured with 200 000 rows, rounded up.
BIAS = {0.0: 0.01, 0.5: 0.01, 1.0: 0.025, 2.0: 0.13}


@pytest.mark.parametrize("g", BIAS)
def test_every_diffusion_keeps_the_marginals(g):
    """traps M2, M3, M4: mean and standard deviation of an exact field's samples at all requested times, on the grid
    and off it, the last step being one of the grid.

    20 000 rows know a standard deviation to 0.5 %, a mean to 0.7 % of it; four of these are allowed besides the bias.
    """
    times = torch.tensor([0.0, 0.137, 0.5, 0.873, 0.995, 1.0], dtype=DOUBLE)
    result = BridgeSDE(100, diffusion=g)(gaussian(), rows(20_000), times=times, generator=seeded(1))
    for state, t in zip(result.states, times.tolist(), strict=True):
        mean, std = moments(t)
        assert float((state.std(0) / std - 1).abs().max()) < 4 * 0.005 + BIAS[g], t
        assert float(((state.mean(0) - mean) / std).abs().max()) < 4 * 0.0071 + 0.01, t
    assert torch.equal(result.states[-1], result.state)
    assert result.nfe.tolist() == [200] * 20_000


@pytest.mark.parametrize("g", [0.5, 1.0, 2.0])
def test_backwards_from_data_to_source(g):
    """In falling time with −v, to the standard normal; 80 steps lost up to 3.6 % of a standard deviation (g = 2)."""
    mean, std = moments(1.0)
    result = BridgeSDE(80, diffusion=g)(gaussian(), mean + std * rows(20_000), 1.0, 0.0, generator=seeded(1))
    assert float((result.state.std(0) - 1).abs().max()) < 4 * 0.005 + {0.5: 0.01, 1.0: 0.01, 2.0: 0.04}[g]
    assert float(result.state.mean(0).abs().max()) < 4 * 0.0071


@pytest.mark.parametrize("g", [0.5, 1.0, 2.0])
def test_bias_of_the_spread_shrinks_with_the_step(g):
    """trap M4, weak order 1: a quarter of the bias at four times the steps, where there is any: at t = 0.9 and at 1.

    80 000 rows know a standard deviation to 0.25 %.
    """
    times, x, biases = torch.tensor([0.9, 1.0], dtype=DOUBLE), rows(80_000), []
    for n in (40, 160):
        states = BridgeSDE(n, diffusion=g)(gaussian(), x, times=times, generator=seeded(n)).states
        found = [state.std(0) / moments(t)[1] - 1 for state, t in zip(states, (0.9, 1.0), strict=True)]
        biases.append(float(torch.stack(found).abs().max()))
    assert biases[0] > 4 * 0.0025
    assert biases[1] < 0.4 * biases[0] + 4 * 0.0025


def test_no_diffusion_is_eulers_method():
    """g = 0 draws nothing that counts, equals Euler's steps and so the ODE in the limit."""
    field, x = gaussian(), rows(50)
    found = BridgeSDE(40, diffusion=0.0)(field, x, generator=seeded())
    assert torch.equal(found.state, Euler(40)(field, x).state)
    fine = BridgeSDE(640, diffusion=0.0)(field, x, generator=seeded()).state
    truth = Adaptive("dopri5", 1e-9, 1e-9)(field, x).state
    errors = [float((state - truth).abs().max()) for state in (found.state, fine)]
    assert errors[1] < errors[0] / 12
    assert errors[1] < 3e-3


@pytest.mark.parametrize("g", [0.0, 0.3, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0), (0.2, 0.9)])
def test_samples_are_finite_at_every_number_of_steps(g, ends):
    """trap M6: no step can grow, whatever g."""
    x = MEAN + SPREAD * rows(200)
    for steps in (1, 2, 3, 11, 50):
        result = BridgeSDE(steps, diffusion=g)(gaussian(), x, *ends, generator=seeded())
        assert result.status.tolist() == [0] * 200
        assert float(result.state.abs().max()) < 12


@pytest.mark.parametrize("sigma", [0.5, 2.0])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
def test_ends_that_are_points(sigma, ratio):
    """Four bridges between points: each end gets its share, and for g ≥ σ is met exactly, however steep the score.

    4000 rows know a share to 0.8 %.
    """
    field = Pairs(sigma)
    x = field.draw(0.05, 4000)
    result = BridgeSDE(60, diffusion=ratio * sigma)(field, x, 0.05, 1.0, generator=seeded(2))
    ends = torch.unique(field.x1, dim=0)
    nearest = torch.cdist(result.state, ends)
    found = torch.bincount(nearest.argmin(1), minlength=3) / 4000
    expected = torch.tensor([field.shares[(field.x1 == end).all(1)].sum() for end in ends], dtype=DOUBLE)
    assert float((found - expected).abs().max()) < 4 * 0.008 + 0.02
    # Below σ the last step leaves no more than Euler's does, half of σ√h per coordinate, h = 0.95/60.
    left = 0.0 if ratio >= 1 else sigma * math.sqrt(0.95 / 60) / 2
    assert float((nearest.min(1).values.square().mean() / 2).sqrt()) < left + 1e-3 * sigma


def test_the_field_says_its_own_diffusion():
    """Without g it is the σ of the field: on a bridge with σ = 0.6 the same as g = 0.6."""
    field, x = gaussian(0.6), rows(20)
    plain, told = (BridgeSDE(9, diffusion=g)(field, x, generator=seeded()).state for g in (None, 0.6))
    assert torch.equal(plain, told)
    assert not torch.equal(plain, BridgeSDE(9, diffusion=0.7)(field, x, generator=seeded()).state)


def test_noise_belongs_to_the_place_in_the_batch():
    """A row that fails takes its noise along: the others' stays as it was. Requested times change nothing."""

    class Broken(BridgeBaseline):
        def score(self, t, x, condition=None):
            found = super().score(t, x, condition)
            return torch.where((float(t) > 0.4) & (x[:, :1] > 5), torch.nan, found)

    field, x = Broken(MEAN, SPREAD.square(), 1.0), rows(6)
    far = torch.cat([x[:2], x.new_full((1, 2), 60.0), x[2:]])
    whole = torch.cat([x[:2], x.new_zeros(1, 2), x[2:]])
    times = torch.tensor([0.33, 0.66], dtype=DOUBLE)
    found = BridgeSDE(10)(field, far, times=times, generator=seeded())
    expected = BridgeSDE(10)(field, whole, generator=seeded())
    kept = [0, 1, 3, 4, 5, 6]
    torch.testing.assert_close(found.state[kept], expected.state[kept], rtol=0, atol=1e-12)
    assert found.status.bool().tolist() == [i == 2 for i in range(7)]
    assert bool(found.state[2].isnan().all())


def test_by_name_and_what_is_refused():
    assert make_solver("bridge-sde", steps=7) == BridgeSDE(7)
    assert make_solver("bridge-sde", steps=7, noise=0.5) == BridgeSDE(7, diffusion=0.5)
    assert isinstance(BridgeSDE(3), Solver)
    x = rows(3)
    with pytest.raises(UnsupportedError, match=r"offers no score.*sf2m"):
        BridgeSDE(3)(lambda t, x, c=None: x, x, generator=seeded())
    with pytest.raises(UnsupportedError, match="moves the state alone"):
        BridgeSDE(3)(gaussian(), x, divergence=ExactDivergence())
    with pytest.raises(UnsupportedError, match="moves the state alone"):
        BridgeSDE(3)(gaussian(), x, along=(KineticEnergy(),))
    with pytest.raises(ConfigError, match="leaves the bridge"):
        BridgeSDE(3)(gaussian(), x, 0.0, 1.5, generator=seeded())
    for wrong in (-1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="diffusion"):
            BridgeSDE(3, diffusion=wrong)
