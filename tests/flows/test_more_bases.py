"""Bases with a shape of their own, against SciPy and torch.distributions, and their draws against their densities."""

import copy
import math

import pytest
import torch
from safetensors.torch import load, save
from scipy import integrate, stats
from torch import distributions as td

from advect.errors import ConfigError, ShapeError
from advect.flows.base import StandardNormal
from advect.flows.bases import ConditionalNormal, DiagonalNormal, FullNormal, StudentT, Uniform
from advect.flows.flow import Flow
from advect.flows.mixture import GaussianMixture
from advect.flows.product import Product, Wrapped
from advect.records import Status
from advect.transforms import Compose, Standardise

FLOAT64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def perturbed(base: torch.nn.Module, by: float = 0.4) -> torch.nn.Module:
    """The base in float64 with weights that are not where it starts."""
    base, g = base.double(), seeded(5)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=g, dtype=FLOAT64))
    return base


def mixed_product(event: tuple[int, ...]) -> Product:
    assert event == (3,)
    return Product([((2,), StudentT((1,), 4.0)), ((0, 1), GaussianMixture((2,), 2, generator=seeded(1)))])


BASES = {
    "diagonal": lambda event: DiagonalNormal(event),
    "full": lambda event: FullNormal(event),
    "student": lambda event: StudentT(event, 4.0),
    "student-fixed": lambda event: StudentT(event, 4.0, learn_degrees=False),
    "mixture": lambda event: GaussianMixture(event, 3, generator=seeded(2)),
    "conditional": lambda event: ConditionalNormal(event, 2, width=8, generator=seeded(3)),
    "uniform": lambda event: Uniform(-1.0, 2.0, event),
    "wrapped": lambda event: Wrapped(
        td.Independent(td.Gumbel(torch.zeros(event, dtype=FLOAT64), torch.ones(event, dtype=FLOAT64)), len(event))
    ),
    "product": mixed_product,
}
each_base = pytest.mark.parametrize("name", BASES)


EVENTS = [
    pytest.param(name, event, id=f"{name}-{len(event)}")
    for name in BASES
    for event in (((3,),) if name == "product" else ((), (3,), (2, 1, 2)))
]


def condition_of(base, rows: int) -> torch.Tensor | None:
    shape = getattr(base, "condition_shape", None)
    return None if shape is None else torch.randn(rows, *shape, generator=seeded(9), dtype=FLOAT64)


@pytest.mark.parametrize(("name", "event"), EVENTS)
@pytest.mark.parametrize("rows", [0, 1, 4])
def test_shapes_dtypes_and_the_given_generator(name, event, rows):
    """Any event rank and batches of 0 and 1; one seed, one answer; the global state is left alone."""
    base = perturbed(BASES[name](event))
    condition = condition_of(base, rows)
    before = torch.get_rng_state()
    z, again, other = (base.sample(rows, condition, generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert z.shape == (rows, *event)
    assert z.dtype == FLOAT64
    assert torch.equal(z, again)
    assert not rows or not torch.equal(z, other)
    for dtype in (torch.float64, torch.float32):
        log_prob = base.log_prob(z.detach().to(dtype), condition)
        assert log_prob.shape == (rows,)
        assert log_prob.dtype == dtype
        assert torch.isfinite(log_prob).all()


@pytest.mark.parametrize("name", [n for n in BASES if n != "wrapped"])  # whose dtype is the distribution's
def test_float32_bases_and_rows(name):
    base = BASES[name]((3,))
    condition = None if name != "conditional" else torch.zeros(5, 2)
    z = base.sample(5, condition, generator=seeded())
    assert z.dtype == torch.float32
    assert base.log_prob(z.detach(), condition).dtype == torch.float32


@each_base
def test_negative_counts_are_refused(name):
    base = BASES[name]((3,))
    with pytest.raises(ConfigError, match="-1 rows"):
        base.sample(-1, None, generator=seeded())


@each_base
def test_save_and_load(name):
    first, second = perturbed(BASES[name]((3,))), BASES[name]((3,)).double()
    state = first.state_dict()
    second.load_state_dict(load(save(state)) if state else state)
    condition = condition_of(first, 4)
    z = first.sample(4, condition, generator=seeded()).detach()
    assert torch.equal(first.log_prob(z, condition), second.log_prob(z, condition))


@pytest.mark.parametrize("name", [n for n in BASES if n != "product"])
def test_density_of_one_number_integrates_to_one(name):
    base = perturbed(BASES[name]((1,)))
    condition = condition_of(base, 1)

    def density(z: float) -> float:
        rows = torch.tensor([[z]], dtype=FLOAT64)
        return float(base.log_prob(rows, condition).detach().exp())

    # Split where the box of the uniform ends: quadrature does not like jumps.
    pieces = [(-math.inf, -1.0), (-1.0, 2.0), (2.0, math.inf)]
    total = sum(integrate.quad(density, a, b, epsabs=1e-10)[0] for a, b in pieces)
    assert abs(total - 1) < 1e-8


@pytest.mark.parametrize("name", [n for n in BASES if n != "uniform"])
def test_draws_follow_the_density(name):
    """E[q(z)/p(z)] = 1 over draws z ~ p, for a known q narrower than p: fails if draws and density disagree."""
    base = perturbed(BASES[name]((3,)))
    rows = 20_000
    condition = None if name != "conditional" else condition_of(base, 1).expand(rows, -1)
    z = base.sample(rows, condition, generator=seeded()).detach()
    centre, scale = z.median(0).values, 0.5 * (z.quantile(0.84, 0) - z.quantile(0.16, 0))
    narrow = td.Independent(td.Normal(centre, 0.6 * scale), 1)
    ratio = (narrow.log_prob(z) - base.log_prob(z, condition).detach()).exp()
    # Five standard errors: 6e-7 for a normal mean, and the seed is fixed.
    assert (ratio.mean() - 1).abs() < 5 * ratio.std() / math.sqrt(rows)
    assert ratio.std() / math.sqrt(rows) < 0.05


def test_uniform_draws_fill_their_box():
    base = Uniform(torch.tensor([-1.0, 5.0]), torch.tensor([2.0, 5.5])).double()
    z = base.sample(2000, generator=seeded())
    assert base.event_shape == (2,)
    for column, low, width in ((0, -1.0, 3.0), (1, 5.0, 0.5)):
        assert stats.kstest(z[:, column].numpy(), stats.uniform(low, width).cdf).pvalue > 1e-3


@pytest.mark.parametrize("event", [(), (4,), (2, 3)])
def test_normals_against_torch(event):
    base = perturbed(DiagonalNormal(event, mean=0.5, scale=2.0))
    z = 3 * torch.randn(6, *event, generator=seeded(), dtype=FLOAT64)
    exact = td.Independent(td.Normal(base.mean, base.scale), len(event)).log_prob(z)
    torch.testing.assert_close(base.log_prob(z), exact, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(DiagonalNormal((2,), scale=2.0).scale, torch.full((2,), 2.0), rtol=1e-6, atol=0)

    full = perturbed(FullNormal(event))
    exact = td.MultivariateNormal(full.mean, scale_tril=full.cholesky).log_prob(z.reshape(6, -1))
    torch.testing.assert_close(full.log_prob(z), exact, rtol=1e-11, atol=1e-11)
    assert torch.equal(full.cholesky.triu(1), torch.zeros_like(full.cholesky))


def test_full_normal_draws_have_its_covariance():
    """The sample covariance of n normal rows has entries with variance (σ_ii σ_jj + σ_ij²)/n."""
    base, rows = perturbed(FullNormal((3,))), 20_000
    z = base.sample(rows, generator=seeded()).detach()
    factor = base.cholesky.detach()
    covariance = factor @ factor.T
    variances = covariance.diagonal()
    error = ((variances.outer(variances) + covariance.square()) / rows).sqrt()
    assert ((torch.cov(z.T) - covariance).abs() < 5 * error).all()
    assert ((z.mean(0) - base.mean).abs() < 5 * (variances / rows).sqrt()).all()


def test_scales_keep_their_floor():
    """A column that does not vary drives the raw scale down without end, the scale only to the floor."""
    for base in (DiagonalNormal((2,)), FullNormal((2,)), StudentT((2,))):
        with torch.no_grad():
            for parameter in base.parameters():
                parameter.fill_(-1e4)
        z = torch.full((3, 2), -1e4)
        density = base.log_prob(z)
        assert torch.isfinite(density).all()
        assert (density <= 2 * math.log(1e3)).all()


@pytest.mark.parametrize("degrees", [0.5, 1.0, 2.5, 30.0, 1e6])
def test_student_density(degrees):
    base = StudentT((3,), torch.tensor([degrees, 3.0, 7.0]), learn_degrees=False).double()
    z = torch.tensor([[0.0, 0.0, 0.0], [1e-9, -2.0, 5.0], [-300.0, 40.0, 1e4]], dtype=FLOAT64)
    exact = stats.t.logpdf(z.numpy(), [degrees, 3.0, 7.0]).sum(1)
    # SciPy's own log-gammas lose 1e-9 at a million degrees.
    torch.testing.assert_close(base.log_prob(z), torch.from_numpy(exact), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(StudentT((1,), 5.0).degrees, torch.tensor([5.0]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("degrees", [0.5, 1.0, 4.0, 1e5])
def test_student_draws(degrees):
    """Bailey's polar form against the distribution function, also in float32."""
    z = StudentT((), degrees, learn_degrees=False).sample(4000, generator=seeded())
    assert torch.isfinite(z).all()
    assert stats.kstest(z.detach().numpy(), stats.t(degrees).cdf).pvalue > 1e-3


def test_student_density_far_out_in_float32():
    """A row at 1e30 has a finite log-density and finite gradients: its square would overflow."""
    base = StudentT((2,))
    z = torch.tensor([[1e30, -1e30], [0.0, 1e15]], requires_grad=True)
    density = base.log_prob(z)
    density.sum().backward()
    assert torch.isfinite(density).all()
    assert torch.isfinite(z.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in base.parameters())


def test_uniform_outside_its_box():
    """Trap L14: −∞ with a status outside the support, a number inside and on the edges, gradients finite throughout."""
    base = Uniform(-1.0, torch.tensor([1.0, 3.0])).double()
    z = torch.tensor(
        [[0.0, 0.0], [-1.0, 3.0], [1.0 + 1e-15, 0.0], [0.0, 1e4], [-math.inf, 0.0], [math.nan, 0.0]],
        dtype=FLOAT64,
        requires_grad=True,
    )
    found = base.log_prob(z)
    assert (found[:2] + math.log(8)).abs().max() < 1e-15
    assert (found[2:5] == -math.inf).all()
    assert found[5].isnan()
    (gradient,) = torch.autograd.grad(found[:5].sum(), z)
    assert (gradient[:5] == 0).all()

    score = Flow(base, Compose()).score(z.detach()[:5])
    assert torch.equal(score.value, found[:5])
    assert score.status.tolist() == [0, 0] + 3 * [int(Status.OUTSIDE_SUPPORT)]


def test_mixture_against_torch():
    base = perturbed(GaussianMixture((3,), 4, generator=seeded()))
    z = 3 * torch.randn(7, 3, generator=seeded(1), dtype=FLOAT64)
    parts = td.Independent(td.Normal(base.means, base.scales), 1)
    exact = td.MixtureSameFamily(td.Categorical(logits=base.logits), parts).log_prob(z)
    torch.testing.assert_close(base.log_prob(z), exact, rtol=1e-12, atol=1e-12)
    far = base.log_prob(torch.full((1, 3), 1e6, dtype=FLOAT64))
    assert torch.isfinite(far).all()


def test_mixture_draws_carry_the_gradient_of_every_parameter():
    """Of E[z1 z2² + z1]: Monte-Carlo gradients against the closed form, weights and coupling of coordinates included.

    Given the component the coordinates are independent: E = Σ π_k (m1 (m2² + s2²) + m1).
    """
    base, rows = perturbed(GaussianMixture((2,), 3, generator=seeded())), 40_000
    parameters = dict(base.named_parameters())

    def exact() -> torch.Tensor:
        (m1, m2), (_, s2) = base.means.T, base.scales.T
        return (base.logits.softmax(0) * (m1 * (m2**2 + s2**2) + m1)).sum()

    truth = torch.autograd.grad(exact(), list(parameters.values()))
    blocks = []
    for block in range(20):
        z = base.sample(rows // 20, generator=seeded(block))
        value = (z[:, 0] * z[:, 1] ** 2 + z[:, 0]).mean()
        blocks.append(torch.autograd.grad(value, list(parameters.values())))
    for name, expected, *found in zip(parameters, truth, *blocks, strict=True):
        found = torch.stack(found)
        error = found.std(0) / math.sqrt(20)
        # Student-t with 19 degrees: five standard errors are passed once in 1e4; the seeds are fixed.
        assert ((found.mean(0) - expected).abs() < 5 * error + 1e-12).all(), name
        assert expected.abs().max() > 20 * error.max(), f"{name}: nothing to see"


def test_mixture_draws_of_one_component_are_reparameterised_normals():
    """One component: the implicit derivative is exactly that of μ + σ ε."""
    base = perturbed(GaussianMixture((3,), 1, generator=seeded()))
    z = base.sample(50, generator=seeded())
    noise = ((z - base.means[0]) / base.scales[0]).detach()
    weights = torch.randn(50, 3, generator=seeded(1), dtype=FLOAT64)
    found = torch.autograd.grad((weights * z).sum(), [base.means, base.raw_scales])
    plain = torch.autograd.grad(
        (weights * (base.means[0] + base.scales[0] * noise)).sum(), [base.means, base.raw_scales]
    )
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_gradients_through_draws():
    """Same uniforms, nudged parameters: autograd through `sample` equals central differences."""
    for name in ("diagonal", "full", "student", "conditional"):
        base = perturbed(BASES[name]((3,)))
        condition = condition_of(base, 6)
        weights = torch.randn(6, 3, generator=seeded(1), dtype=FLOAT64)

        def value(module, condition=condition, weights=weights):
            return (weights * module.sample(6, condition, generator=seeded(4))).sum()

        gradients = torch.autograd.grad(value(base), list(base.parameters()))
        for index, gradient in enumerate(gradients):
            direction = torch.randn(gradient.shape, generator=seeded(2), dtype=FLOAT64)
            sides = []
            for sign in (1, -1):
                moved = copy.deepcopy(base)
                with torch.no_grad():
                    list(moved.parameters())[index].add_(sign * 1e-5 * direction)
                sides.append(value(moved).detach())
            # Central differences of step 1e-5: truncation about 1e-9 of the third derivative.
            expected = (sides[0] - sides[1]) / 2e-5
            torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-5, atol=1e-6)


def test_conditional_normal_follows_its_condition():
    base = perturbed(ConditionalNormal((2,), 3, generator=seeded()))
    c = torch.randn(4, 3, generator=seeded(1), dtype=FLOAT64)
    z = torch.randn(4, 2, generator=seeded(2), dtype=FLOAT64)
    assert not torch.allclose(base.log_prob(z, c), base.log_prob(z, c + 1))
    assert not torch.allclose(base.sample(4, c, generator=seeded()), base.sample(4, c + 1, generator=seeded()))
    torch.testing.assert_close(base.log_prob(z, c)[2:3], base.log_prob(z[2:3], c[2:3]), rtol=1e-12, atol=1e-12)
    fresh, standard = ConditionalNormal((2,), 3, generator=seeded()).double(), StandardNormal((2,)).double()
    torch.testing.assert_close(fresh.log_prob(z, c), standard.log_prob(z), rtol=1e-6, atol=1e-6)
    with pytest.raises(ShapeError, match="No condition"):
        base.log_prob(z)
    with pytest.raises(ShapeError, match="expected"):
        base.sample(4, c[:, :2], generator=seeded())


def test_conditional_base_under_an_unconditional_map():
    """The base uses the condition, so a map that takes none is not asked to."""
    base = perturbed(ConditionalNormal((2,), 3, generator=seeded()))
    flow = Flow(base, Standardise(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0])))
    c = torch.randn(4, 3, generator=seeded(1), dtype=FLOAT64)
    x, log_prob = flow.sample_and_log_prob(4, c, generator=seeded())
    torch.testing.assert_close(flow.log_prob(x, c), log_prob, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_prob, base.log_prob((x - torch.tensor([1.0, 2.0])) / 2, c) - 2 * math.log(2))
    plain = Flow(StandardNormal((2,)), Standardise(torch.zeros(2), torch.ones(2)))
    with pytest.raises(ShapeError, match="expected none"):
        plain.log_prob(torch.zeros(4, 2), c)


def test_wrapped_support_and_gradients():
    """Outside the support −∞ rather than an exception; NaN stays NaN; draws reach the distribution's tensors."""
    rate = torch.tensor([2.0, 3.0], dtype=FLOAT64, requires_grad=True)
    base = Wrapped(td.Independent(td.Exponential(rate), 1))
    z = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [math.nan, 1.0]], dtype=FLOAT64, requires_grad=True)
    found = base.log_prob(z)
    assert abs(found[0].item() - (math.log(6) - 8)) < 1e-12
    assert found[1] == -math.inf
    assert found[2].isnan()
    assert torch.isfinite(torch.autograd.grad(found[:2].sum(), z)[0]).all()
    drawn = base.sample(5, generator=seeded())
    (gradient,) = torch.autograd.grad(drawn.sum(), rate)
    torch.testing.assert_close(gradient, -(drawn / rate).sum(0))


def test_wrapped_without_generator_uses_the_global_state_and_matches_it():
    base = Wrapped(td.MultivariateNormal(torch.zeros(2), torch.eye(2)))
    torch.manual_seed(3)
    ours = base.sample(4)
    torch.manual_seed(3)
    assert torch.equal(ours, base.distribution.sample((4,)))


def test_product_is_the_sum_of_its_parts():
    student, mixture = StudentT((1,), 4.0).double(), GaussianMixture((2,), 2, generator=seeded(1)).double()
    base = Product([((1,), student), ((2, 0), mixture)])
    z = torch.randn(5, 3, generator=seeded(), dtype=FLOAT64)
    expected = student.log_prob(z[:, 1:2]) + mixture.log_prob(z[:, [2, 0]])
    torch.testing.assert_close(base.log_prob(z), expected)
    drawn, g = base.sample(5, generator=seeded(7)), seeded(7)
    first, second = student.sample(5, generator=g), mixture.sample(5, generator=g)
    assert torch.equal(drawn, torch.cat([second[:, 1:], first, second[:, :1]], 1))
    assert len(list(base.parameters())) == len(list(student.parameters())) + len(list(mixture.parameters()))


def test_every_parameter_gets_a_gradient():
    for name in BASES:
        base = perturbed(BASES[name]((3,)))
        condition = condition_of(base, 5)
        z = base.sample(5, condition, generator=seeded()).detach()
        base.log_prob(z, condition).sum().backward() if list(base.parameters()) else None
        for parameter_name, parameter in base.named_parameters():
            assert parameter.grad is not None, f"{name} {parameter_name}"
            assert parameter.grad.abs().max() > 0, f"{name} {parameter_name}"


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: DiagonalNormal((2,), scale=1e-4), ConfigError, "above its floor"),
        (lambda: DiagonalNormal((2,), mean=torch.zeros(3)), ShapeError, "broadcast"),
        (lambda: StudentT((2,), 0.1), ConfigError, "degrees of freedom"),
        (lambda: Uniform(1.0, 1.0, (2,)), ConfigError, "edges of the box"),
        (lambda: Uniform(-math.inf, 1.0), ConfigError, "edges of the box"),
        (lambda: GaussianMixture((2,), 0), ConfigError, "components is 0"),
        (lambda: ConditionalNormal((2,), 0), ConfigError, "use DiagonalNormal"),
        (lambda: Wrapped(td.Normal(torch.zeros(2), torch.ones(2))), ConfigError, "Independent"),
        (lambda: Product([((0, 2), StandardNormal((2,)))]), ConfigError, "exactly once"),
        (lambda: Product([((0, 1), StandardNormal((1,)))]), ConfigError, "2 coordinates"),
    ],
)
def test_refusals(build, error, message):
    with pytest.raises(error, match=message):
        build()
