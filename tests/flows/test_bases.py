"""Source distributions."""

import pytest
import torch
from scipy import stats

from advect.errors import ConfigError, DataError, UnsupportedError
from advect.flows import ContinuousMap, EmpiricalBase, Flow, StandardNormal


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("event", [(), (3,), (2, 3, 3)])
def test_standard_normal_density(event):
    """Against SciPy, for any event rank."""
    base = StandardNormal(event).double()
    z = base.sample(7, generator=seeded())
    assert z.shape == (7, *event)
    assert z.dtype == torch.float64
    exact = torch.from_numpy(stats.norm.logpdf(z.numpy())).reshape(7, -1).sum(1)
    assert (base.log_prob(z) - exact).abs().max() < 1e-12


def test_standard_normal_draws_with_its_generator():
    """One seed, one answer; the global generator is not touched; dtype follows the module."""
    base = StandardNormal((4,))
    before = torch.get_rng_state()
    first, second, other = (base.sample(5, generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    assert base.to(torch.bfloat16).sample(2, generator=seeded()).dtype == torch.bfloat16
    assert not base.state_dict()


def test_empirical_base_draws_its_rows():
    """Each row is as likely as the other: χ² with 9 degrees of freedom, above 27.9 with probability 1e-3."""
    points = torch.arange(10.0).unsqueeze(1)
    drawn = EmpiricalBase(points).sample(2000, generator=seeded())
    counts = torch.bincount(drawn.squeeze(1).long(), minlength=10)
    assert ((counts - 200.0) ** 2 / 200).sum() < 27.9


def test_empirical_base_has_no_density():
    """The reason and the remedy reach the user through the flow."""
    flow = Flow(EmpiricalBase(torch.zeros(3, 2)), ContinuousMap(lambda t, x, condition=None: torch.ones_like(x)))
    assert (flow.sample(4, generator=seeded()) - 1).abs().max() < 1e-6
    with pytest.raises(UnsupportedError, match=r"no density.*Use sample"):
        flow.log_prob(torch.zeros(1, 2))


def test_empirical_base_loads_another_number_of_rows():
    """The stored rows replace the ones it was built with; other widths are refused."""
    stored = EmpiricalBase(torch.randn(7, 2, generator=seeded()))
    base = EmpiricalBase(torch.zeros(1, 2))
    base.load_state_dict(stored.state_dict())
    assert torch.equal(base.points, stored.points)
    with pytest.raises(RuntimeError, match="size mismatch"):
        EmpiricalBase(torch.zeros(1, 3)).load_state_dict(stored.state_dict())


def test_refusals():
    """No rows to draw from, and negative counts."""
    with pytest.raises(DataError, match="at least one row"):
        EmpiricalBase(torch.zeros(0, 2))
    for base in (StandardNormal((2,)), EmpiricalBase(torch.zeros(1, 2))):
        with pytest.raises(ConfigError, match="-1 rows"):
            base.sample(-1, generator=seeded())
