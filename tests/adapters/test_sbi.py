"""Our flows under sbi's contract: shapes, densities, and posteriors that are right where the truth is known."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from advect.adapters import density_estimator, from_nflows, from_zuko
from advect.adapters import sbi as adapter
from advect.errors import ConfigError, ShapeError, UnknownNameError
from advect.evaluation.calibration import expected_coverage, rank_uniformity, sbc_ranks
from advect.flows import Flow, StandardNormal
from advect.methods import METHODS, Blueprint, build, full_flow, get_method, resolve_options
from advect.transforms import Standardise

sbi_inference = pytest.importorskip("sbi.inference")
BoxUniform = pytest.importorskip("sbi.utils").BoxUniform
posterior_nn = pytest.importorskip("sbi.neural_nets").posterior_nn
ConditionalDensityEstimator = pytest.importorskip("sbi.neural_nets.estimators.base").ConditionalDensityEstimator

NOISE = 0.5
PICTURES = {"glow"}
LIKELIHOOD = [name for name, row in METHODS.items() if row.recipe.has_tractable_density and name not in PICTURES]
SMALL = {"network": "mlp-2x8", "seed": 0}


class Silent:
    """A tracker of sbi's that writes nothing."""

    log_dir = None

    def log_metric(self, name, value, step=None): ...

    def log_metrics(self, metrics, step=None): ...

    def log_params(self, params): ...

    def add_figure(self, name, figure, step=None): ...

    def flush(self): ...


def simulations(rows=60, parameters=2, shape=(3,), seed=0):
    """Parameters with a mean and a scale of their own, observations of any shape that depend on them."""
    generator = torch.Generator().manual_seed(seed)
    theta = 3 + 2 * torch.randn(rows, parameters, generator=generator)
    x = 10 * torch.randn(rows, *shape, generator=generator) + theta.mean(1).reshape(-1, *[1] * len(shape))
    return theta, x


def perturbed(estimator, size=0.3):
    """Every parameter moved, so that nothing is the identity and the condition matters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter.add_(
                size * torch.randn(parameter.shape, generator=generator) / max(1, parameter.shape[-1]) ** 0.5
            )
    return estimator.eval()


def make(method="nsf", theta=None, x=None, **options):
    given = simulations()
    options = SMALL | ({"layers": 2} if "layers" in METHODS[method].options else {}) | options
    return density_estimator(method, **options)(given[0] if theta is None else theta, given[1] if x is None else x)


@pytest.mark.parametrize("method", LIKELIHOOD)
def test_every_likelihood_row_keeps_the_contract(method):
    settings = {} if METHODS[method].recipe.settings.get("solver", "ode") is None else {"likelihood_tolerance": 1e-3}
    estimator = make(method, settings=settings)
    assert isinstance(estimator, ConditionalDensityEstimator)
    theta, x = simulations(4)
    estimator.train()
    loss = estimator.loss(theta, x)
    assert loss.shape == (4,)
    loss.mean().backward()
    gradients = [p.grad for p in estimator.parameters() if p.requires_grad]
    assert all(g is None or g.isfinite().all() for g in gradients)
    assert any(g is not None and g.abs().max() > 0 for g in gradients)
    estimator.eval()
    with torch.no_grad():
        assert estimator.log_prob(theta[None], x).shape == (1, 4)
        assert estimator.log_prob(theta[None], x).isfinite().all()
        draws = estimator.sample((5,), x)
    assert draws.shape == (5, 4, 2)
    assert draws.isfinite().all()


@pytest.mark.parametrize("parameters", [1, 2])
def test_log_prob_is_that_of_the_flow_built_by_hand(parameters):
    theta, x = simulations(parameters=parameters)
    estimator = make("nsf", theta, x)
    scale = Standardise(theta.mean(0), theta.std(0))
    blueprint = Blueprint(
        "nsf", resolve_options(get_method("nsf"), {"layers": 2}), "mlp-2x8", (parameters,), 3, condition_dropout=0.0,
        solver=None, steps=None, likelihood_solver=None, likelihood_tolerance=None,
    )  # fmt: skip
    core = build(blueprint, seed=0, latent=(theta - theta.mean(0)) / theta.std(0)).core
    flow = perturbed(full_flow(core, scale))
    perturbed(estimator.net)
    seen = (x - x.mean(0)) / x.std(0)
    # float32, and the same numbers in another order of operations
    assert torch.allclose(estimator.log_prob(theta, x)[0], flow.log_prob(theta, seen), atol=1e-4)
    assert torch.allclose(estimator.loss(theta, x), -flow.log_prob(theta, seen), atol=1e-4)


def test_densities_integrate_to_one_in_the_units_of_the_input():
    estimator = perturbed(make("nsf")).double()
    axis = torch.linspace(-25, 31, 281, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        log_prob = estimator.log_prob(grid[:, None], torch.full((1, 3), 4.0, dtype=torch.float64))
    # 0.2 a cell, against deviations of about 2: the sum of a smooth function is as good as its integral
    assert float(log_prob.exp().sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1.0, abs=2e-3)


# input's leading sizes, condition's, those of the result
SHAPES = [
    ((7, 4), (4,), (7, 4)),
    ((4,), (4,), (1, 4)),
    ((7, 1), (4,), (7, 4)),
    ((7, 4), (1,), (7, 4)),
    ((7, 4), (7, 4), (7, 4)),
    ((7, 4), (1, 4), (7, 4)),
    ((1, 1), (7, 4), (7, 4)),
]


@pytest.mark.parametrize("event", [(3,), (2, 5), (1, 4, 4)])
@pytest.mark.parametrize(("leading", "given", "result"), SHAPES)
def test_shapes_of_log_prob(leading, given, result, event):
    estimator = perturbed(make("realnvp", x=simulations(shape=event)[1]))
    generator = torch.Generator().manual_seed(2)
    theta = torch.randn(*leading, 2, generator=generator)
    x = torch.randn(*given, *event, generator=generator)
    found = estimator.log_prob(theta, x)
    assert found.shape == result
    assert estimator.inverse_transform(theta, x).shape == (*result, 2)
    # the same pair by pair
    thetas = (theta if len(leading) == 2 else theta[None]).expand(*result, 2)
    conditions = x.expand(*result, *event)
    for place in ((0, 0), (result[0] - 1, result[1] - 1)):
        alone = estimator.log_prob(thetas[place][None], conditions[place][None])
        assert torch.allclose(found[place], alone[0, 0], atol=1e-4)


@pytest.mark.parametrize("sample_shape", [(), (3,), (3, 2)])
def test_shapes_of_draws_and_which_condition_they_belong_to(sample_shape):
    theta, x = simulations(400)
    estimator = make("maf", theta, x)
    far = torch.stack([x.mean(0) - 60, x.mean(0) + 60])  # conditions so far apart that draws tell them
    perturbed(estimator, 0.8)
    torch.manual_seed(0)
    draws, log_prob = estimator.sample_and_log_prob(sample_shape, far)
    assert draws.shape == (*sample_shape, 2, 2)
    assert log_prob.shape == (*sample_shape, 2)
    assert estimator.sample(sample_shape, far).shape == draws.shape
    again = estimator.log_prob(draws.reshape(-1, 2, 2), far)
    assert torch.allclose(again.reshape(log_prob.shape), log_prob, atol=1e-3)
    swapped = estimator.log_prob(draws.reshape(-1, 2, 2), far.flip(0))
    assert not torch.allclose(swapped, again, atol=0.1)


@pytest.mark.parametrize(
    ("verb", "theta", "x"),
    [
        ("log_prob", (5, 4, 3), (4, 3)),  # one parameter too many
        ("log_prob", (5, 4, 2), (4, 2)),  # one observation too few
        ("log_prob", (6, 5, 4, 2), (4, 3)),
        ("log_prob", (5, 4, 2), (3, 3)),  # batches that do not go together
        ("log_prob", (2,), (4, 3)),
        ("log_prob", (5, 4, 2), (3,)),
        ("loss", (5, 4, 2), (4, 3)),
        ("loss", (4, 2), (4, 4, 3)),
    ],
)
def test_other_shapes_are_refused(verb, theta, x):
    with pytest.raises(ShapeError, match="density estimator"):
        getattr(make("realnvp"), verb)(torch.zeros(theta), torch.zeros(x))


def test_a_draw_needs_a_batch_of_conditions():
    with pytest.raises(ShapeError, match=r"expected \(batch, 3\)"):
        make("realnvp").sample((5,), torch.zeros(3))


class Counting(nn.Module):
    """An embedding of pictures that counts the rows it has seen."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3)
        self.rows = 0
        self.largest = 0.0

    def forward(self, x):
        self.rows += len(x)
        self.largest = float(x.abs().max())
        return self.layer(x)  # (batch, 2, 2, 2), flattened by the adapter


def test_an_embedding_sees_standardised_conditions_once_each_and_is_trained():
    theta, x = simulations(shape=(1, 4, 4))
    embedding = Counting().train()
    estimator = make("realnvp", theta, 1e4 + x, embedding_net=embedding)
    assert embedding.training  # as it was given
    assert estimator.embedding_net(1e4 + x).shape == (60, 8)
    assert embedding.largest < 6  # standard deviations
    before = embedding.rows
    perturbed(estimator).log_prob(theta[None, :4].expand(9, 4, 2), 1e4 + x[:4])
    assert embedding.rows - before == 4
    before = embedding.rows
    estimator.sample((100,), 1e4 + x[:4])
    assert embedding.rows - before == 4
    estimator.loss(theta, 1e4 + x).mean().backward()
    assert embedding.layer.weight.grad.abs().max() > 0


@pytest.mark.parametrize("kind", adapter.Z_SCORES)
def test_z_scoring(kind):
    rows = torch.tensor([[0.0, 100.0, 5.0], [2.0, 300.0, 5.0], [4.0, 500.0, 5.0], [math.nan, 0.0, 0.0]])
    scale = adapter.z_score(rows, kind)
    z = scale.encode(rows[:3]).value
    if kind == "independent":  # the last column is constant and keeps its scale
        assert torch.allclose(z, torch.tensor([[-1.0, -1, 0], [0, 0, 0], [1, 1, 0]]))
    elif kind == "structured":
        assert float(z.mean()) == pytest.approx(0.0, abs=1e-6)
        assert float(z.std()) == pytest.approx(1.0, abs=1e-5)
    else:
        assert torch.equal(z, rows[:3])


def test_initial_weights_follow_torchs_generator_or_the_seed():
    def weights(seed, manual):
        torch.manual_seed(manual)
        estimator = density_estimator("nsf", network="mlp-1x8", layers=2, seed=seed)(*simulations())
        return torch.cat([p.flatten() for p in estimator.parameters()])

    assert torch.equal(weights(None, 1), weights(None, 1))
    assert not torch.equal(weights(None, 1), weights(None, 2))
    assert torch.equal(weights(3, 1), weights(3, 2))


def test_what_cannot_be_asked():
    with pytest.raises(ConfigError, match="learns a velocity"):
        density_estimator("ot-cfm")
    with pytest.raises(UnknownNameError, match="nfs"):
        density_estimator("nfs")
    with pytest.raises(UnknownNameError, match="binz"):
        density_estimator("nsf", binz=8)
    with pytest.raises(UnknownNameError, match="z-scoring"):
        density_estimator("nsf", z_score_input="both")


def test_copies_and_pickles_answer_alike():
    estimator = perturbed(make("nsf"))
    theta, x = simulations(4)
    expected = estimator.log_prob(theta, x)
    for other in (copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator))):
        assert type(other) is type(estimator)
        assert torch.equal(other.log_prob(theta, x), expected)


def test_gradients_reach_inputs_for_samplers_that_need_them():
    estimator = perturbed(make("nsf")).double()
    theta, x = (t[:3].double().requires_grad_() for t in simulations())
    assert torch.autograd.gradcheck(lambda a, b: estimator.log_prob(a, b), (theta, x), atol=1e-5)


def linear_gaussian(rows, seed=0):
    """θ ~ N(0, I), x = θ + 0.5 ε: the posterior is N(0.8 x, 0.2 I)."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(rows, 2, generator=generator)
    return theta, theta + NOISE * torch.randn(rows, 2, generator=generator)


def posterior_of(x):
    share = 1 / (1 + NOISE**2)
    return Normal(share * x, math.sqrt(1 - share))


def trained(prior, theta, x, method="realnvp", **options):
    torch.manual_seed(0)
    inference = sbi_inference.NPE(
        prior,
        density_estimator=density_estimator(method, network="mlp-1x16", layers=3, seed=0, **options),
        show_progress_bars=False,
        tracker=Silent(),
    )
    with pytest.warns(UserWarning, match="Maximum number of epochs"):
        estimator = inference.append_simulations(theta, x).train(max_num_epochs=12, learning_rate=5e-3)
    return inference.build_posterior(estimator), estimator


@pytest.fixture(scope="module")
def gaussian():
    theta, x = linear_gaussian(1000)
    prior = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    return trained(prior, theta, x)


def test_sbi_trains_it_to_the_known_posterior(gaussian):
    posterior, _ = gaussian
    observed = torch.tensor([[1.0, -0.5]])
    draws = posterior.sample((2000,), x=observed, show_progress_bars=False)
    truth = posterior_of(observed)
    # 1000 simulations: means known to about 0.45/√1000 each, a little more from the network
    assert torch.allclose(draws.mean(0), truth.mean[0], atol=0.1)
    assert torch.allclose(draws.std(0), truth.stddev[0].expand(2), atol=0.06)
    points = truth.mean + torch.tensor([[0.0, 0.0], [0.3, -0.3], [-0.4, 0.2]])
    assert torch.allclose(posterior.log_prob(points, x=observed), truth.log_prob(points).sum(1), atol=0.25)


def test_many_observations_in_one_call(gaussian):
    posterior, _ = gaussian
    observed = torch.tensor([[-1.5, -1.5], [0.0, 0.0], [1.5, 1.5]])
    draws = posterior.sample_batched((1000,), x=observed, show_progress_bars=False)
    assert draws.shape == (1000, 3, 2)
    assert torch.allclose(draws.mean(0), posterior_of(observed).mean, atol=0.15)
    values = posterior.log_prob_batched(draws[:2], observed, norm_posterior=False)
    assert values.shape == (2, 3)


def test_the_trained_posterior_is_calibrated_and_a_narrowed_one_is_not(gaussian):
    _, estimator = gaussian
    theta, x = linear_gaussian(300, seed=9)
    torch.manual_seed(1)
    draws, log_probs = estimator.sample_and_log_prob((200,), x)
    ranks = sbc_ranks(draws.detach(), theta, generator=torch.Generator().manual_seed(0))
    p_values = rank_uniformity(ranks, 200, generator=torch.Generator().manual_seed(1))
    assert (p_values > 1e-3).all()
    truth = estimator.log_prob(theta, x)[0]
    coverage = expected_coverage(log_probs.detach(), truth.detach(), generator=torch.Generator().manual_seed(2))
    assert abs(coverage.excess) < 0.06
    middle = posterior_of(x).mean
    narrow = middle + 0.5 * (draws.detach() - middle)
    assert (rank_uniformity(sbc_ranks(narrow, theta), 200) < 1e-3).all()


def test_a_bounded_prior_cuts_off_what_leaks():
    generator = torch.Generator().manual_seed(3)
    theta = 2 * torch.rand(500, 2, generator=generator) - 1
    x = theta + 0.3 * torch.randn(500, 2, generator=generator)
    posterior, estimator = trained(BoxUniform(-torch.ones(2), torch.ones(2)), theta, x)
    observed = torch.tensor([[1.0, 1.0]])  # its posterior has its mode in the corner
    torch.manual_seed(0)
    free = estimator.sample((2000,), observed)[:, 0]
    inside = float((free.abs() <= 1).all(1).float().mean())
    assert inside < 0.95  # the flow itself leaks
    draws = posterior.sample((500,), x=observed, show_progress_bars=False)
    assert (draws.abs() <= 1).all()
    assert posterior.log_prob(torch.tensor([[1.2, 0.5]]), x=observed).tolist() == [-math.inf]
    point = torch.tensor([[0.8, 0.8]])
    raw = estimator.log_prob(point[None], observed)[0, 0].detach()
    # divided by the share inside, which both estimate from thousands of draws
    assert float(posterior.log_prob(point, x=observed) - raw) == pytest.approx(-math.log(inside), abs=0.1)


def test_it_learns_likelihoods_of_pictures_too():
    """NLE asks for the density of the observation given the parameters: roles change, shapes do not."""
    x, theta = simulations(shape=(1, 4, 4))[1], simulations()[0]
    for method in ("glow", "realnvp", "cnf"):
        estimator = make(method, theta=x, x=theta, settings={})
        assert estimator.input_shape == (1, 4, 4)
        assert estimator.loss(x[:3], theta[:3]).shape == (3,)
        with torch.no_grad():
            assert estimator.eval().sample((2,), theta[:3]).shape == (2, 3, 1, 4, 4)


def test_the_penalties_of_rnode_are_in_the_training_loss_only():
    estimator = perturbed(make("rnode", trace="exact", kinetic=10.0, settings={"likelihood_tolerance": 1e-5}))
    theta, x = simulations(4)
    with torch.no_grad():
        plain = estimator.loss(theta, x)
        assert torch.allclose(plain, -estimator.log_prob(theta, x)[0], atol=1e-4)
        assert (estimator.train().loss(theta, x) > plain + 1e-3).all()


@pytest.mark.filterwarnings("ignore:Maximum number of epochs")
def test_a_second_round_trains_on_atoms():
    """sbi's multi-round loss asks for densities of every parameter in the batch at every observation."""
    theta, x = linear_gaussian(200)
    prior = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
    torch.manual_seed(0)
    inference = sbi_inference.NPE(
        prior, density_estimator=density_estimator("realnvp", **SMALL), show_progress_bars=False, tracker=Silent()
    )
    inference.append_simulations(theta, x).train(max_num_epochs=1)
    proposal = inference.build_posterior().set_default_x(torch.zeros(1, 2))
    again = proposal.sample((100,), show_progress_bars=False)
    noise = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    inference.append_simulations(again, again + NOISE * noise, proposal=proposal)
    inference.train(max_num_epochs=1, training_batch_size=50)
    assert all(math.isfinite(loss) for loss in inference.summary["training_loss"])


@pytest.mark.parametrize("model", ["maf", "nsf", "zuko_maf", "zuko_nsf"])
def test_estimators_that_sbi_made_are_taken_over(model):
    """sbi's own are nflows' or zuko's; its embedding of the observation stays outside."""
    theta, x = simulations(shape=(4,))
    torch.manual_seed(0)
    estimator = posterior_nn(model)(theta, x)
    embedded = estimator.embedding_net(x)
    with torch.no_grad():
        expected = estimator.log_prob(theta, x)[0]
        if model.startswith("zuko"):
            found = from_zuko(estimator.net).log_prob(theta, embedded)
        else:
            ours = Flow(StandardNormal((2,)), from_nflows(estimator.net._transform))
            found = ours.log_prob(theta, embedded)
    assert torch.allclose(found, expected.to(found.dtype), atol=1e-4)  # float32
