"""The torch.distributions face of a flow, against a normal law that torch knows too."""

import math

import pytest
import torch
from torch import distributions as td
from torch import nn

from advect.errors import ShapeError
from advect.flows import ContinuousMap, Flow, StandardNormal
from advect.flows.bases import ConditionalNormal, Uniform
from advect.flows.distribution import FlowDistribution
from advect.records import Mapped
from advect.transforms import Bijection, Compose, Standardise
from advect.transforms.bijection import mapped

FLOAT64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Placed(Bijection):
    """x = W c + e^s z: given c, a normal law with known mean and scale."""

    def __init__(self, event_shape: tuple[int, ...], condition_features: int) -> None:
        super().__init__(event_shape, (condition_features,))
        width = math.prod(event_shape)
        self.weight = nn.Parameter(torch.randn(width, condition_features, generator=seeded(1), dtype=FLOAT64))
        self.log_scale = nn.Parameter(torch.randn(event_shape, generator=seeded(2), dtype=FLOAT64) / 2)

    def mean(self, condition: torch.Tensor) -> torch.Tensor:
        """``(*batch, *event)``."""
        return (condition @ self.weight.T).reshape((*condition.shape[:-1], *self.event_shape))

    def _encode(self, x, condition, log_det, generator) -> Mapped:
        return mapped((x - self.mean(condition)) * (-self.log_scale).exp(), -self.log_scale.sum().expand(len(x)))

    def _decode(self, z, condition, log_det, generator) -> Mapped:
        return mapped(self.mean(condition) + z * self.log_scale.exp(), self.log_scale.sum().expand(len(z)))


def flow_of(event: tuple[int, ...]) -> Flow:
    return Flow(StandardNormal(event).double(), Placed(event, 2))


def pair(batch: tuple[int, ...], event: tuple[int, ...]) -> tuple[FlowDistribution, td.Distribution]:
    """The flow's distribution for a batch of conditions, and torch's own of the same law."""
    flow = flow_of(event)
    condition = torch.randn(*batch, 2, generator=seeded(3), dtype=FLOAT64)
    truth = td.Normal(flow.map.mean(condition), flow.map.log_scale.exp().expand((*batch, *event)))
    return flow.distribution(condition), td.Independent(truth, len(event))


EVENTS = [(3,), (2, 2), ()]
BATCHES = [(), (4,), (2, 3), (0,)]


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("sample", [(), (5,), (2, 1)])
def test_shapes_and_values_are_torchs(event, batch, sample):
    """`sample_shape + batch_shape + event_shape`, and the log-densities of the known law."""
    ours, truth = pair(batch, event)
    assert ours.batch_shape == truth.batch_shape == torch.Size(batch)
    assert ours.event_shape == truth.event_shape == torch.Size(event)
    for verb in ("sample", "rsample"):
        x = getattr(ours, verb)(torch.Size(sample))
        assert x.shape == truth.sample(torch.Size(sample)).shape
        assert x.requires_grad == (verb == "rsample")
    found = ours.log_prob(x.detach())
    assert found.shape == torch.Size(sample + batch)
    if found.numel():
        torch.testing.assert_close(found, truth.log_prob(x.detach()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("value", "batch", "expected"),
    [
        ((3,), (4,), (4,)),
        ((4, 3), (), (4,)),
        ((5, 1, 3), (4,), (5, 4)),
        ((1, 3), (2, 4), (2, 4)),
        ((7, 2, 4, 3), (4,), (7, 2, 4)),
    ],
)
def test_values_broadcast_against_the_batch(value, batch, expected):
    """One observation under many conditions, many under one."""
    ours, truth = pair(batch, (3,))
    x = torch.randn(value, generator=seeded(5), dtype=FLOAT64)
    assert ours.log_prob(x).shape == expected
    torch.testing.assert_close(ours.log_prob(x), truth.log_prob(x), rtol=1e-10, atol=1e-10)


def test_shapes_that_do_not_fit_are_refused_as_by_torch():
    # Said aloud: some libraries switch PyTorch's checks off for the whole process when imported.
    ours = flow_of((3,)).distribution(torch.zeros(4, 2, dtype=FLOAT64), validate_args=True)
    for shape in ((3, 3), (4, 2), (4, 1), ()):
        with pytest.raises(ValueError, match=r"shape|dimension|event_dim"):
            ours.log_prob(torch.zeros(shape, dtype=FLOAT64))
    with pytest.raises(ValueError, match="support"):
        ours.log_prob(torch.full((4, 3), math.nan, dtype=FLOAT64))


def test_expand():
    """The condition is broadcast without a copy; draws within the batch are independent."""
    ours, truth = pair((3, 1), (2,))
    wide = ours.expand((5, 3, 4))
    assert wide.batch_shape == (5, 3, 4)
    assert wide.condition.untyped_storage().data_ptr() == ours.condition.untyped_storage().data_ptr()
    x = wide.rsample((2,))
    assert x.shape == (2, 5, 3, 4, 2)
    assert len(x.detach().reshape(-1, 2).unique(dim=0)) == 2 * 60
    torch.testing.assert_close(wide.log_prob(x), truth.expand((5, 3, 4)).log_prob(x))
    unconditional = Flow(StandardNormal((2,)), Compose()).distribution().expand((3,))
    assert unconditional.sample((4,)).shape == (4, 3, 2)
    assert unconditional.log_prob(torch.zeros(2)).shape == (3,)


def test_gradients_through_draws_and_densities():
    """Of E|x|² and of log p(x), to the flow and to the condition, against the law's own reparameterisation."""
    flow = flow_of((3,))
    condition = torch.randn(4, 2, generator=seeded(3), dtype=FLOAT64, requires_grad=True)
    wanted = [flow.map.weight, flow.map.log_scale, condition]

    torch.manual_seed(0)
    x = flow.distribution(condition).rsample((6,))
    torch.manual_seed(0)
    noise = torch.randn(24, 3, dtype=FLOAT64).reshape(6, 4, 3)
    own = flow.map.mean(condition) + flow.map.log_scale.exp() * noise
    torch.testing.assert_close(x, own)
    for found, expected in zip(
        torch.autograd.grad(x.square().sum(), wanted), torch.autograd.grad(own.square().sum(), wanted), strict=True
    ):
        torch.testing.assert_close(found, expected)

    truth = td.Independent(td.Normal(flow.map.mean(condition), flow.map.log_scale.exp()), 1)
    value = x.detach()
    for found, expected in zip(
        torch.autograd.grad(flow.distribution(condition).log_prob(value).sum(), wanted),
        torch.autograd.grad(truth.log_prob(value).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


def test_inside_torchs_own_wrappers():
    """`Independent`, `TransformedDistribution` and `MixtureSameFamily` over a flow equal those over the normal law."""
    ours, truth = pair((4,), (3,))
    x = torch.randn(4, 3, generator=seeded(5), dtype=FLOAT64)
    y = x.exp()
    weights = td.Categorical(logits=torch.randn(4, generator=seeded(6), dtype=FLOAT64))
    for wrap, value in (
        (lambda d: td.Independent(d, 1), x),
        (lambda d: td.TransformedDistribution(d, [td.transforms.ExpTransform()]), y),
        (lambda d: td.TransformedDistribution(d, [td.transforms.AffineTransform(1.0, 2.0, event_dim=1)]), x),
        (lambda d: td.MixtureSameFamily(weights, d), x[0]),
    ):
        a, b = wrap(ours), wrap(truth)
        assert a.batch_shape == b.batch_shape
        assert a.event_shape == b.event_shape
        torch.testing.assert_close(a.log_prob(value), b.log_prob(value), rtol=1e-10, atol=1e-10)
        assert a.sample((2,)).shape == b.sample((2,)).shape


def test_divergence_by_monte_carlo():
    """KL(flow ‖ N(0, I)) from draws and log-densities, within five standard errors of the closed form."""
    ours, truth = pair((), (3,))
    other = td.Independent(td.Normal(torch.zeros(3, dtype=FLOAT64), 1.0), 1)
    torch.manual_seed(0)
    x = ours.sample((20_000,))
    gap = (ours.log_prob(x) - other.log_prob(x)).detach()
    exact = td.kl_divergence(truth, other).detach()
    assert (gap.mean() - exact).abs() < 5 * gap.std() / math.sqrt(len(gap))


def test_outside_the_support_is_a_number():
    flow = Flow(Uniform(torch.zeros(2), torch.ones(2)), Compose())
    found = flow.distribution().log_prob(torch.tensor([[0.5, 0.5], [1.5, 0.5]]))
    assert found.tolist() == [0.0, -math.inf]


def test_draws_come_from_torchs_global_generator():
    distribution = Flow(StandardNormal((2,)), Compose()).distribution()
    torch.manual_seed(4)
    first = distribution.sample((3,))
    torch.manual_seed(4)
    assert torch.equal(first, distribution.sample((3,)))
    assert not torch.equal(first, distribution.sample((3,)))


def test_who_takes_the_condition():
    """The map, the base, or a field that does not say; refused where nobody does, or where it is missing."""
    c = torch.randn(5, 4, 2, generator=seeded(), dtype=FLOAT64)
    by_base = Flow(ConditionalNormal((3,), 2, generator=seeded()).double(), Standardise(torch.zeros(3), torch.ones(3)))
    assert by_base.distribution(c).batch_shape == (5, 4)

    def field(t, x, condition=None):
        return x * 0 if condition is None else x * 0 + condition.sum(1, keepdim=True)

    by_field = Flow(StandardNormal((3,)).double(), ContinuousMap(field))
    assert by_field.distribution(c).batch_shape == (5, 4)
    moved = by_field.distribution(c).log_prob(c.sum(-1, keepdim=True).expand(5, 4, 3))
    assert (moved + 1.5 * math.log(2 * math.pi)).abs().max() < 1e-4
    assert by_field.distribution().batch_shape == ()

    with pytest.raises(ShapeError, match="takes none"):
        Flow(StandardNormal((3,)), Compose()).distribution(c)
    with pytest.raises(ShapeError, match="No condition"):
        flow_of((3,)).distribution()
    with pytest.raises(ShapeError, match="expected"):
        flow_of((3,)).distribution(c[..., :1])


def test_shapes_are_checked_also_where_a_program_has_switched_torchs_checks_off():
    """Importing some libraries does that for the whole process."""
    ours, _ = pair((4,), (3,))
    before = torch.distributions.Distribution._validate_args
    try:
        torch.distributions.Distribution.set_default_validate_args(False)
        unchecked, _ = pair((4,), (3,))
        for shape in ((3, 3), (4, 2), (4, 1), ()):
            with pytest.raises(ValueError, match="event_shape"):
                unchecked.log_prob(torch.zeros(shape, dtype=FLOAT64))
    finally:
        torch.distributions.Distribution.set_default_validate_args(before)
    assert ours.log_prob(torch.zeros(4, 3, dtype=FLOAT64)).shape == (4,)
