"""Gaussian baselines: fits, and the untrained flow."""

import pytest
import torch

from advect.errors import ConfigError, DataError, ShapeError
from advect.flows import (
    ContinuousMap,
    Flow,
    GaussianBaseline,
    OptimalGaussianBaseline,
    StandardNormal,
    VelocityField,
    fit_gaussian,
)
from advect.networks import MLP
from advect.paths.schedule import Linear, Trigonometric
from advect.solvers import Adaptive, ExactDivergence
from advect.transforms import Compose, Standardise

TIGHT = Adaptive(rtol=1e-10, atol=1e-10)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def skewed_rows(n: int = 3000) -> torch.Tensor:
    """Correlated and far from Gaussian."""
    raw = normal(n, 3).exp()
    return raw @ normal(3, 3, seed=1) + 4.0


def zero_network(*event: int) -> torch.nn.Module:
    network = MLP(event, width=8, depth=2, generator=seeded()).double()
    network.output.weight.zero_()
    network.output.bias.zero_()
    return network


BASELINES = {
    "velocity": lambda rows: (GaussianBaseline.fit(rows, Linear()), "velocity", Linear()),
    "x1": lambda rows: (GaussianBaseline.fit(rows, Linear()), "x1", Linear()),
    "noise": lambda rows: (GaussianBaseline.fit(rows, Trigonometric()), "noise", Trigonometric()),
    "optimal": lambda rows: (OptimalGaussianBaseline.fit(rows), "velocity", Linear()),
}


@pytest.mark.parametrize("name", BASELINES)
def test_an_untrained_flow_is_the_gaussian_fit(name):
    """Trap O4: with a network that returns zero, log_prob is the fitted Gaussian's to 1e-6, in the units of
    the data, and samples have
    the data's mean and covariance."""
    data = skewed_rows()
    scaling = Standardise(data.mean(0), data.std(0))
    baseline, what, schedule = BASELINES[name](scaling.encode(data).value)
    # The margin cuts the path before its end; a Gaussian's own velocity has no pole there, so it may be small.
    field = VelocityField(zero_network(3), baseline=baseline, parameterisation=what, schedule=schedule, margin=1e-9)
    flow = Flow(
        StandardNormal((3,)).double(), Compose(scaling, ContinuousMap(field, solver=TIGHT, likelihood_solver=TIGHT))
    )
    mean, covariance = fit_gaussian(scaling.encode(data).value)
    covariance = data.std(0).diag() @ covariance @ data.std(0).diag()
    law = torch.distributions.MultivariateNormal(data.mean(0) + data.std(0) * mean, covariance)
    assert (flow.log_prob(data[:100]) - law.log_prob(data[:100])).abs().max() < 1e-6
    rows = flow.sample(3000, generator=seeded(2))
    # Mean: five standard errors. Covariance of n Gaussian rows: each entry to about √2 σ²/√n = 2.6 %, five of
    # these, and the shrinkage of about d/n.
    assert ((rows.mean(0) - data.mean(0)).abs() < 5 * data.std(0) / 3000**0.5).all()
    scale = data.std(0).unsqueeze(1) * data.std(0)
    assert ((rows.T.cov() - data.T.cov()).abs() < 0.13 * scale).all()


@pytest.mark.parametrize("event", [(), (1,), (3,), (2, 2, 2), (300,)])
def test_any_event_and_its_divergence(event):
    """Flattened events, the diagonal form above 256, and the trace against autograd."""
    rows = normal(40, *event) * 0.7 + 1.0
    x = normal(3, *event, seed=1)
    for baseline in (GaussianBaseline.fit(rows, Linear()), OptimalGaussianBaseline.fit(rows)):
        assert (baseline.directions is None) == (x[0].numel() > 256)
        for t in (0.0, 0.4, 1.0, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)):
            assert baseline(t, x).shape == x.shape
            brute = ExactDivergence()(lambda t, x, c=None, b=baseline: b(t, x, c), t, x, None, None)[1].squeeze(1)
            assert (baseline.divergence(t, x) - brute).abs().max() < 1e-9 * (1 + brute.abs().max())


def test_fit_is_the_sample_covariance_when_there_are_many_rows():
    """Shrinkage vanishes like d/rows."""
    rows = skewed_rows(20000)
    mean, covariance = fit_gaussian(rows)
    assert (mean - rows.mean(0)).abs().max() < 1e-12
    sample = rows.T.cov(correction=0)
    assert (covariance - sample).abs().max() < 1e-3 * sample.abs().max()


@pytest.mark.parametrize(
    "rows",
    [
        normal(3, 20),  # fewer rows than columns
        normal(50, 1) @ torch.ones(1, 4, dtype=torch.float64),  # one direction only
        torch.ones(5, 3, dtype=torch.float64),  # all alike
        normal(1, 3),  # a single row
        normal(30, 2) * torch.tensor([1e-9, 1e3], dtype=torch.float64),
    ],
)
def test_degenerate_rows_give_a_usable_baseline(rows):
    """Positive, well-conditioned, finite everywhere, in float32 too."""
    for dtype in (torch.float64, torch.float32):
        baseline = GaussianBaseline.fit(rows.to(dtype), Linear())
        assert baseline.spectrum.min() > 0
        assert baseline.spectrum.max() / baseline.spectrum.min() < 1e6 * rows.shape[1] * 1.01
        for t in (0.0, 0.5, 1.0):
            assert torch.isfinite(baseline(t, rows.to(dtype))).all()


@pytest.mark.parametrize("width", [3, 300])
def test_stored_state_loads_into_the_standard_form(width):
    """What a run folder does: build the empty form, load the numbers."""
    rows, x = normal(40, width), normal(4, width, seed=1)
    fitted = GaussianBaseline.fit(rows, Linear())
    empty = GaussianBaseline.standard((width,), Linear()).double()
    assert (empty(0.3, x) - (2 * 0.3 - 1) / (0.3**2 + 0.7**2) * x).abs().max() < 1e-12
    empty.load_state_dict(fitted.state_dict())
    assert torch.equal(empty(0.3, x), fitted(0.3, x))
    optimal = OptimalGaussianBaseline.standard((width,)).double()
    assert optimal(0.3, x).abs().max() < 1e-6  # nothing moves; float32 identity
    optimal.load_state_dict(OptimalGaussianBaseline.fit(rows).state_dict())
    assert torch.equal(optimal(0.3, x), OptimalGaussianBaseline.fit(rows)(0.3, x))


def test_refusals():
    """Shapes, definiteness, non-finite rows, no rows."""
    with pytest.raises(ShapeError, match="covariance has shape"):
        GaussianBaseline(torch.zeros(2), torch.eye(3), Linear())
    with pytest.raises(ConfigError, match="not positive definite"):
        OptimalGaussianBaseline(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(DataError, match="row 1"):
        fit_gaussian(torch.tensor([[0.0], [float("nan")]]))
    with pytest.raises(DataError, match="no rows"):
        fit_gaussian(torch.zeros(0, 2))
