"""Codes drawn at random: what is a bound, when it is exact, and what has no likelihood at all."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from advect.errors import ConfigError, ShapeError, UnsupportedError
from advect.flows import Flow, StandardNormal
from advect.flows.architectures.contrast import gan, vae
from advect.transforms import Compose, Flattened, GaussianLatent, LULinear, Precision, Pushforward
from advect.transforms.latent import LOG_SPREAD, NOISE_FLOOR

NOISE = 0.7
# Orthogonal columns: the exact posterior of z has independent coordinates, as q has.
LOADINGS = torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.0, 2.0]], dtype=torch.float64)
SHIFT = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
PRECISION = 1 + LOADINGS.square().sum(0) / NOISE**2  # of the posterior of z given x (Bishop 2006, eq. 2.117)
LAW = MultivariateNormal(SHIFT, LOADINGS @ LOADINGS.T + NOISE**2 * torch.eye(3, dtype=torch.float64))


class Encoder(nn.Module):
    """The exact posterior, or one that is wrong by a shift of the mean and a factor of the spread."""

    def __init__(self, shift: float = 0.0, factor: float = 1.0) -> None:
        super().__init__()
        self.shift, self.factor = shift, factor

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        mean = (x - SHIFT) @ LOADINGS / NOISE**2 / PRECISION + self.shift
        log_spread = (self.factor * PRECISION.rsqrt()).log()
        return torch.cat([mean, LOG_SPREAD * torch.atanh(log_spread / LOG_SPREAD).expand_as(mean)], 1)


class Decoder(nn.Module):
    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return SHIFT + z @ LOADINGS.T


def linear_model(**wrong: float) -> Flow:
    map = GaussianLatent(Encoder(**wrong), Decoder(), 3, 2, noise=NOISE).double()
    with torch.no_grad():  # in float64, where the start was kept in float32
        map.log_noise.fill_(0.5 * math.log(NOISE**2 - NOISE_FLOOR**2))
    return Flow(StandardNormal((2,)).double(), map, event_shape=(3,))


def rows(count: int, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return LAW.sample((count,))


def test_with_the_exact_posterior_every_draw_is_the_log_density() -> None:
    x = rows(50)
    for seed in range(3):
        found = linear_model().log_prob(x, generator=torch.Generator().manual_seed(seed))
        assert torch.allclose(found, LAW.log_prob(x), atol=1e-12, rtol=0)  # sums of about ten terms of size ten


def test_the_mean_of_draws_is_below_by_the_divergence_of_the_wrong_posterior() -> None:
    shift, factor, draws = 0.4, 1.3, 20_000
    x = rows(1).expand(draws, -1)
    found = linear_model(shift=shift, factor=factor).log_prob(x, generator=torch.Generator().manual_seed(1))
    # KL of N(μ + shift, (factor τ)²) to N(μ, τ²), coordinate by coordinate.
    gap = (0.5 * (factor**2 - 1) - math.log(factor)) * 2 + 0.5 * shift**2 * PRECISION.sum()
    error = found.std() / math.sqrt(draws)
    assert abs(found.mean() - (LAW.log_prob(x[:1]) - gap)) < 5 * error
    # Mean of exp is unbiased whatever q: that of a q wider than the posterior has finite variance.
    weights = torch.exp(found - LAW.log_prob(x[:1]))
    assert abs(weights.mean() - 1) < 5 * weights.std() / math.sqrt(draws)


def test_rows_are_drawn_from_the_model() -> None:
    count = 40_000
    drawn = linear_model().sample(count, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(drawn.mean(0), SHIFT, atol=5 * float(LAW.covariance_matrix.diagonal().max() / count) ** 0.5)
    # The standard error of a covariance of Gaussians is at most √2 times the larger variance over √n.
    limit = 5 * math.sqrt(2 / count) * float(LAW.covariance_matrix.diagonal().max())
    assert torch.allclose(torch.cov(drawn.T), LAW.covariance_matrix, atol=limit)


def test_noise_starts_where_it_is_told_and_stays_above_its_floor() -> None:
    map = GaussianLatent(Encoder(), Decoder(), 3, 2, noise=NOISE).double()
    assert torch.allclose(map.noise, torch.full((3,), NOISE, dtype=torch.float64), rtol=1e-6)  # kept in float32
    with torch.no_grad():
        map.log_noise.fill_(-100.0)
    assert torch.allclose(map.noise, torch.full((3,), 0.01, dtype=torch.float64), rtol=1e-12)
    with pytest.raises(ConfigError, match=r"above 0\.01"):
        GaussianLatent(Encoder(), Decoder(), 3, 2, noise=0.005)


def test_the_density_of_a_draw_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="many codes"):
        linear_model().sample_and_log_prob(3)


def test_likelihood_is_known_as_well_as_by_the_worst_part() -> None:
    codes, made, plain = vae(3), gan(3), LULinear(3)
    assert Flow(StandardNormal((3,)), Compose(plain)).likelihood == "exact"
    assert Flow(StandardNormal((3,)), Compose(plain, codes)).likelihood == "bound"
    assert Flow(StandardNormal((3,)), Flattened(Compose(plain, codes), (3,))).likelihood == "bound"
    assert Flow(StandardNormal((3,)), Compose(made)).likelihood == "none"


@pytest.mark.parametrize("make", [vae, gan])
@pytest.mark.parametrize("event", [(), (3,), (1, 3, 3)])
def test_codes_of_another_size_than_rows(make, event: tuple[int, ...]) -> None:
    features = math.prod(event)
    generator = torch.Generator().manual_seed(0)
    inner = make(features, 2, code=4, generator=generator)
    map = Compose(Precision(event), inner if event == (features,) else Flattened(inner, event))
    flow = Flow(StandardNormal((4,)), map, event_shape=event)
    condition = torch.randn(5, 2, generator=generator)
    drawn = flow.sample(5, condition, generator=generator)
    assert drawn.shape == (5, *event)
    assert drawn.isfinite().all()
    other = flow.sample(5, condition + 1, generator=generator)
    assert other.shape == (5, *event)
    with pytest.raises(ShapeError, match="4"):
        flow.decode(torch.zeros(5, 3), condition)
    if make is vae:
        codes = flow.encode(drawn, condition, generator=generator).value
        assert codes.shape == (5, 4)


def test_made_rows_are_the_maker_of_the_source() -> None:
    map = gan(3, code=2, generator=torch.Generator().manual_seed(0))
    z = torch.randn(4, 2)
    assert torch.equal(map.decode(z, log_det=False).value, map.network(z, None))
    flow = Flow(StandardNormal((2,)), map, event_shape=(3,))
    for refused in (lambda: flow.log_prob(torch.zeros(1, 3)), lambda: flow.encode(torch.zeros(1, 3))):
        with pytest.raises(UnsupportedError, match="no likelihood"):
            refused()
    with pytest.raises(UnsupportedError, match="no log-density"):
        flow.sample_and_log_prob(3)


def test_sizes_are_checked() -> None:
    with pytest.raises(ConfigError, match="codes 0"):
        Pushforward(Decoder(), Decoder(), 3, 0)
    with pytest.raises(ConfigError, match="codes 0"):
        GaussianLatent(Encoder(), Decoder(), 3, 0)
