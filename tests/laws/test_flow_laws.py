"""Every flow × every law, in float64: what holds whatever the map is made of."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from advect.flows import (
    ContinuousMap,
    EmpiricalField,
    Flow,
    GaussianBaseline,
    Guided,
    OptimalGaussianBaseline,
    StandardNormal,
    VelocityField,
)
from advect.networks import MLP, ResidualMLP
from advect.paths.schedule import Linear, Trigonometric
from advect.solvers import Adaptive
from advect.transforms import Compose, Standardise

TIGHT, LOOSE = Adaptive(rtol=1e-8, atol=1e-8), Adaptive(rtol=1e-4, atol=1e-4)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def network(*event: int, condition: int = 0, gain: float = 1.0) -> nn.Module:
    net = MLP(event, condition, width=8, depth=2, activation="tanh", generator=seeded(3)).double()
    with torch.no_grad():
        net.output.weight *= gain
        net.output.bias *= gain
    return net


def continuous(field, *event: int) -> ContinuousMap:
    return ContinuousMap(field, event_shape=event, solver=TIGHT, likelihood_solver=TIGHT)


def plain(field, *event: int) -> Flow:
    return Flow(StandardNormal(event).double(), continuous(field, *event))


def standardised(field, width: int) -> Flow:
    scaling = Standardise(normal(width, seed=5), normal(width, seed=6).abs() + 0.5)
    return Flow(StandardNormal((width,)).double(), Compose(scaling, continuous(field, width)))


def gaussian(width: int, schedule) -> GaussianBaseline:
    return GaussianBaseline.fit(normal(50, width, seed=7) * 0.7 + 0.2, schedule)


def predicting(what: str) -> Flow:
    schedule = Trigonometric() if what in ("noise", "score") else Linear()
    field = VelocityField(
        network(2, gain=0.05), baseline=gaussian(2, schedule), parameterisation=what, schedule=schedule, margin=0.05
    )
    return plain(field, 2)


class NoDivergence(nn.Module):
    """A user's own network: no analytic divergence."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network(3)

    def forward(self, t, x, condition=None):
        return self.inner(t, x, condition)


FLOWS = {
    "network": lambda: plain(network(2), 2),
    "own module": lambda: plain(VelocityField(NoDivergence()), 3),
    "residual on a Gaussian, standardised": lambda: standardised(
        VelocityField(
            ResidualMLP((3,), width=8, blocks=1, generator=seeded()).double(),
            baseline=gaussian(3, Linear()),
            scale_input=True,
        ),
        3,
    ),
    "network on the optimal Gaussian, pictures": lambda: plain(
        VelocityField(network(2, 2, 2), baseline=OptimalGaussianBaseline.fit(normal(60, 2, 2, 2))), 2, 2, 2
    ),
    "scalars": lambda: plain(VelocityField(network())),
    "predicts x1": lambda: predicting("x1"),
    "predicts noise": lambda: predicting("noise"),
    "predicts score": lambda: predicting("score"),
    "predicts displacement": lambda: predicting("displacement"),
    "conditional": lambda: standardised(VelocityField(network(2, condition=3)), 2),
    "guided": lambda: standardised(Guided(VelocityField(network(2, condition=3)), 0.7), 2),
    "empirical": lambda: plain(EmpiricalField(normal(9, 2), Linear(), end=0.8), 2),
    "discrete": lambda: Flow(StandardNormal((2,)).double(), Standardise(normal(2), normal(2).abs() + 0.5)),
}
CONDITIONAL = ("conditional", "guided")
NUM_ROWS = 5


def condition_of(name: str, rows: int = NUM_ROWS) -> Tensor | None:
    return normal(rows, 3, seed=9) if name in CONDITIONAL else None


@pytest.fixture(params=FLOWS)
def name(request) -> str:
    return request.param


@pytest.fixture(autouse=True)
def no_gradients(request):
    with torch.set_grad_enabled("gradient" in request.node.name):
        yield


def case(name: str, solver: Adaptive = TIGHT) -> tuple[Flow, Tensor, Tensor | None]:
    """A flow, rows of it, and their condition; laws of bits and bookkeeping need no tight solver."""
    flow = FLOWS[name]()
    if flow.ode is not None:
        flow = flow.with_options(solver=solver, likelihood_solver=solver)
    condition = condition_of(name)
    return flow, flow.sample(NUM_ROWS, condition, generator=seeded(1)), condition


def test_every_verb_answers(name):
    """Trap M14: every flow samples, scores, encodes and decodes; shapes, dtypes and statuses as promised."""
    flow, x, condition = case(name)
    assert x.shape == (NUM_ROWS, *flow.event_shape)
    assert x.dtype == torch.float64
    scored = flow.score(x, condition)
    assert torch.equal(scored.value, flow.log_prob(x, condition))
    assert torch.equal(scored.value, flow(x, condition))
    assert scored.value.shape == scored.standard_error.shape == scored.status.shape == (NUM_ROWS,)
    assert (scored.standard_error == 0).all()
    rows, density = flow.sample_and_log_prob(NUM_ROWS, condition, generator=seeded(1))
    drawn = flow.draw(NUM_ROWS, condition, generator=seeded(1))
    for mapped in (flow.encode(x, condition), flow.decode(x, condition), drawn):
        assert mapped.log_abs_det_jacobian is None
        assert mapped.value.shape == x.shape
        assert mapped.status.tolist() == [0] * NUM_ROWS
        assert torch.isfinite(mapped.value).all()
    assert (rows - x).abs().max() < 1e-6
    assert (density - scored.value).abs().max() < 1e-5


def test_decode_undoes_encode(name):
    """To fifty times the solver's tolerance, in the units of the data."""
    flow, x, condition = case(name)
    back = flow.decode(flow.encode(x, condition).value, condition)
    assert (back.value - x).abs().max() < 5e-7


def test_log_determinants_are_opposite(name):
    """Trap S6."""
    flow, x, condition = case(name)
    code = flow.encode(x, condition, log_det=True)
    back = flow.decode(code.value, condition, log_det=True)
    assert (code.log_abs_det_jacobian + back.log_abs_det_jacobian).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["network", "own module", "conditional"])
def test_log_determinants_are_opposite_with_large_weights(name):
    """Trap S6: also with network weights × 3."""
    flow, _, condition = case(name)
    for parameter in flow.parameters():
        parameter *= 3
    z = normal(NUM_ROWS, *flow.event_shape)
    there = flow.decode(z, condition, log_det=True)
    back = flow.encode(there.value, condition, log_det=True)
    assert (there.log_abs_det_jacobian + back.log_abs_det_jacobian).abs().max() < 1e-5
    assert (back.value - z).abs().max() < 1e-5
    assert there.log_abs_det_jacobian.abs().max() > 0.3


def test_log_determinant_equals_the_gradient_of_the_map(name):
    """Against log |det| of the Jacobian, row by row, by autograd through the solver."""
    flow, x, condition = case(name)
    x = x[:2].detach().requires_grad_()
    condition = None if condition is None else condition[:2]
    code = flow.encode(x, condition, log_det=True)
    d = math.prod(flow.event_shape)
    flat = code.value.reshape(2, d)
    rows = [torch.autograd.grad(flat[:, i].sum(), x, retain_graph=True)[0].reshape(2, d) for i in range(d)]
    brute = torch.linalg.slogdet(torch.stack(rows, 1)).logabsdet
    assert (code.log_abs_det_jacobian - brute).abs().max() < 1e-6


def test_density_is_that_of_the_code(name):
    """log p(x) = log N(encode(x)) + log |det|."""
    flow, x, condition = case(name)
    code = flow.encode(x, condition, log_det=True)
    z = code.value.reshape(NUM_ROWS, -1)
    base = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    assert (flow.log_prob(x, condition) - base - code.log_abs_det_jacobian).abs().max() < 1e-12


def test_row_alone_equals_row_in_a_batch(name):
    """Trap S1, and chunks: neither the neighbours nor the size of a chunk changes a row."""
    flow, x, condition = case(name, LOOSE)
    together = flow.score(x, condition)
    small = Flow(flow.base, flow.map, chunk_rows=2).score(x, condition)
    assert (together.value - small.value).abs().max() < 1e-10
    for row in (0, 3):
        given = None if condition is None else condition[row : row + 1]
        alone = flow.score(x[row : row + 1], given)
        assert abs(alone.value - together.value[row]) < 1e-10
        assert alone.nfe is None or alone.nfe == together.nfe[row]


def test_one_seed_gives_the_same_bits(name):
    """And another seed gives other rows."""
    flow, x, condition = case(name, LOOSE)
    assert torch.equal(flow.sample(NUM_ROWS, condition, generator=seeded(1)), x)
    assert not torch.equal(flow.sample(NUM_ROWS, condition, generator=seeded(2)), x)


def test_state_survives_a_save(name):
    """A flow built alike with other numbers inside becomes the same through its state."""
    flow, x, condition = case(name, LOOSE)
    other = FLOWS[name]()
    for value in other.state_dict().values():
        value.mul_(0.5)
    if other.ode is not None:
        other = other.with_options(solver=LOOSE, likelihood_solver=LOOSE)
    other.load_state_dict(flow.state_dict())
    assert torch.equal(other.log_prob(x, condition), flow.log_prob(x, condition))
    assert torch.equal(copy.deepcopy(flow).log_prob(x, condition), flow.log_prob(x, condition))


def test_float32_is_kept(name):
    """Result dtype is that of the flow; values agree with float64 to float32's rounding through the solver."""
    flow, x, condition = case(name)
    exact = flow.log_prob(x, condition)
    single = flow.float()
    if single.ode is not None:
        single = single.with_options(
            solver=Adaptive(rtol=1e-5, atol=1e-5), likelihood_solver=Adaptive(rtol=1e-5, atol=1e-5)
        )
    given = None if condition is None else condition.float()
    density = single.log_prob(x.float(), given)
    assert density.dtype == single.sample(2, None if given is None else given[:2], generator=seeded()).dtype
    assert density.dtype == torch.float32
    assert (density.double() - exact).abs().max() < 2e-3


def test_no_rows(name):
    """A batch of zero is a batch."""
    flow = FLOWS[name]()
    condition = condition_of(name, 0)
    x = flow.sample(0, condition, generator=seeded())
    assert x.shape == (0, *flow.event_shape)
    assert flow.log_prob(x, condition).shape == (0,)


def test_trajectory_runs_from_source_to_sample(name):
    """First state: the source in the units of the data; last state: the sample."""
    flow, x, condition = case(name)
    if flow.ode is None:
        return
    times = torch.linspace(0, 1, 4, dtype=torch.float64)
    states = flow.trajectory(NUM_ROWS, times, condition, generator=seeded(1))
    assert states.shape == (4, *x.shape)
    assert (states[-1] - x).abs().max() < 1e-6
    z = flow.base.sample(NUM_ROWS, condition, generator=seeded(1))
    scaling = flow.map.maps[0] if isinstance(flow.map, Compose) else None
    start = z if scaling is None else scaling.decode(z).value
    assert (states[0] - start).abs().max() < 1e-12


def test_gradient_reaches_every_parameter(name):
    """Trap L7: of the log-density, for every parameter that the flow has."""
    flow, x, condition = case(name, LOOSE)
    parameters = list(flow.parameters())
    if not parameters:
        return
    gradients = torch.autograd.grad(flow.log_prob(x.detach(), condition).sum(), parameters, allow_unused=True)
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)
