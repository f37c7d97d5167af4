"""What a flow refuses, shares, chunks and reports."""

import pytest
import torch
from torch import Tensor, nn

from advect.errors import ConfigError, ShapeError, UnsupportedError
from advect.flows import ContinuousMap, Flow, OptimalGaussianBaseline, StandardNormal, VelocityField
from advect.networks import MLP
from advect.records import Mapped, Status
from advect.solvers import RK4, Adams3, Adaptive, Chunked, Euler, HutchinsonDivergence, KineticEnergy
from advect.transforms import Bijection, Compose, Standardise


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


class Counted(nn.Module):
    """v = x / 2, and the sizes of the batches it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, t, x: Tensor, condition: Tensor | None = None) -> Tensor:
        self.sizes.append(len(x))
        return x / 2 if condition is None else x / 2 + condition


def scaled_flow(field: nn.Module, **options) -> Flow:
    scaling = Standardise(torch.tensor([1.0, 2.0]).double(), torch.tensor([3.0, 0.5]).double())
    return Flow(StandardNormal((2,)).double(), Compose(scaling, ContinuousMap(field)), **options)


def discrete_flow() -> Flow:
    return Flow(StandardNormal((2,)).double(), Compose(Standardise(torch.zeros(2), torch.ones(2))))


def test_rows_go_through_in_chunks():
    """Trap O11: no call sees more rows than a chunk, whatever the verb; the results are joined in order."""
    field = Counted()
    flow = scaled_flow(field, chunk_rows=16)
    x, condition = normal(50, 2), normal(50, 2, seed=1)
    density = flow.log_prob(x, condition)
    flow.draw(50, condition, generator=seeded())
    flow.encode(x, condition)
    flow.trajectory(50, torch.linspace(0, 1, 3), condition, generator=seeded())
    flow.sample_and_log_prob(50, condition, generator=seeded())
    assert max(field.sizes) <= 16
    whole = scaled_flow(field, chunk_rows=50).log_prob(x, condition)
    assert (density - whole).abs().max() < 1e-10


def test_default_chunks_follow_the_size_of_a_row():
    """Thousands of points, tens of pictures."""
    sizes = [Flow(StandardNormal(e), ContinuousMap(Counted())).chunk_rows for e in [(2,), (784,), (3, 256, 256)]]
    assert sizes == [2048, 167, 64]


def test_velocity_is_the_field_of_the_ode():
    """In the coordinates of the ODE."""
    flow = scaled_flow(Counted())
    x = normal(3, 2)
    assert torch.equal(flow.velocity(0.3, x), x / 2)


def test_trajectory_goes_through_maps_on_both_sides_of_the_ode():
    """x(t) = decode of everything before the ODE, applied to the ODE's state; v = x/2 grows by e^{t/2}."""
    before = Standardise(normal(2, seed=1), normal(2, seed=2).abs() + 0.5)
    after = Standardise(normal(2, seed=3), normal(2, seed=4).abs() + 0.5)
    ode = ContinuousMap(Counted(), solver=Adaptive(rtol=1e-9, atol=1e-9))
    flow = Flow(StandardNormal((2,)).double(), Compose(before, Compose(ode, after)))
    z, times = normal(4, 2, seed=5), torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    states = flow.trajectory(z, times)
    inner = after.decode(z).value
    for time, state in zip(times, states, strict=True):
        assert (state - before.decode(inner * torch.exp(time / 2)).value).abs().max() < 1e-7


def test_encoding_trajectory_runs_back():
    """Falling times give the way from data to source; rising ones are refused with a remedy."""
    ode = ContinuousMap(Counted(), likelihood_solver=Adaptive(rtol=1e-9, atol=1e-9))
    x, times = normal(4, 2), torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    states = ode.trajectory(x, times, direction="encode")
    for time, state in zip(times, states, strict=True):
        assert (state - x * torch.exp((time - 1) / 2)).abs().max() < 1e-7
    with pytest.raises(ConfigError, match="Sort"):
        ode.trajectory(x, times.flip(0), direction="encode")


@pytest.mark.parametrize("verb", ["trajectory", "velocity", "with_options"])
def test_discrete_maps_have_no_path(verb):
    """The reason and the remedy."""
    flow = discrete_flow()
    calls = {
        "trajectory": lambda: flow.trajectory(2, torch.linspace(0, 1, 3), generator=seeded()),
        "velocity": lambda: flow.velocity(0.5, normal(2, 2)),
        "with_options": lambda: flow.with_options(solver=Euler(steps=2)),
    }
    with pytest.raises(UnsupportedError, match=f"^{verb}.*discrete layers.*Use encode"):
        calls[verb]()
    assert flow.ode is None


def test_options_make_a_copy_that_shares_the_parameters():
    """Trap O8: weights swapped by an average's context are those every copy samples with."""
    network = MLP((2,), width=8, depth=1, generator=seeded()).double()
    flow = scaled_flow(VelocityField(network)).eval()
    copy = flow.with_options(solver=Euler(steps=3), divergence=HutchinsonDivergence(2))
    assert not copy.training
    assert flow.ode.solver == Adams3(steps=32)
    assert copy.ode.solver == Euler(steps=3)
    assert copy.draw(2, generator=seeded()).nfe.tolist() == [3, 3]
    assert [id(p) for p in copy.parameters()] == [id(p) for p in flow.parameters()]
    assert list(copy.state_dict()) == list(flow.state_dict())
    before = copy.sample(2, generator=seeded())
    for parameter in network.parameters():
        parameter *= 2
    assert not torch.equal(copy.sample(2, generator=seeded()), before)
    with pytest.raises(TypeError, match="solvr"):
        flow.with_options(solvr=Euler(steps=3))


class Half(Bijection):
    """The identity where x > 0, outside its support elsewhere; fails where x > 9."""

    def _encode(self, x, condition, log_det, generator) -> Mapped:
        flat = x.flatten(1).amax(1)
        status = (flat <= 0) * int(Status.OUTSIDE_SUPPORT) + (flat > 9) * int(Status.NOT_CONVERGED)
        value = torch.where((flat > 9).unsqueeze(1), torch.nan, x)
        return Mapped(value, value.sum(1) * 0, status.to(torch.int8))

    _decode = _encode


def test_rows_outside_the_support_and_failed_rows():
    """−∞ with a status for the first, NaN with a status for the second, the others untouched (trap L14)."""
    flow = Flow(StandardNormal((1,)).double(), Half((1,)))
    found = flow.score(torch.tensor([[1.0], [-1.0], [10.0]], dtype=torch.float64))
    assert found.status.tolist() == [0, int(Status.OUTSIDE_SUPPORT), int(Status.NOT_CONVERGED)]
    assert torch.isfinite(found.value[0])
    assert found.value[1] == -torch.inf
    assert torch.isnan(found.value[2])


def test_nan_rows_do_not_touch_the_others():
    """Traps S5, L8: NaN with a status, never dropped."""
    flow = scaled_flow(Counted())
    x = normal(4, 2)
    broken = x.clone()
    broken[1, 0] = torch.nan
    found = flow.score(broken)
    assert (found.status >= int(Status.NAN_FIELD)).tolist() == [False, True, False, False]
    assert torch.isnan(found.value[1])
    assert torch.equal(found.value[[0, 2, 3]], flow.log_prob(x[[0, 2, 3]]))


def test_stochastic_trace_carries_its_error():
    """Above 64 dimensions the default trace is stochastic: it asks for a generator and prints an error."""
    flow = Flow(StandardNormal((65,)).double(), ContinuousMap(lambda t, x, condition=None: x.roll(1, 1) / 2 + x / 4))
    x = normal(3, 65)
    with pytest.raises(ConfigError, match="generator"):
        flow.log_prob(x)
    found = flow.score(x, generator=seeded())
    assert (found.standard_error > 0).all()
    # v = x/4 + shift/2: trace 65/4, seen exactly on the diagonal; the shift is the noise.
    base = flow.encode(x).value
    exact = flow.base.log_prob(base) - 65 / 4
    assert ((found.value - exact).abs() < 5 * found.standard_error).all()


def test_kinetic_energy_along_the_way():
    """∫|v|² dt of the optimal Gaussian flow is |T(z) − z|²: constant speed on straight lines."""
    field = OptimalGaussianBaseline(normal(2), torch.tensor([[2.0, 0.3], [0.3, 0.4]], dtype=torch.float64))
    ode = ContinuousMap(field, solver=RK4(steps=20))
    z = normal(5, 2, seed=1)
    solution = ode.integrate(z, direction="decode", along=[KineticEnergy()])
    assert (solution.along.squeeze(1) - (solution.state - z).square().sum(1)).abs().max() < 1e-5


def test_chunked_solvers_are_looked_into():
    """Trap L6 holds for a coarse solver inside a chunked one, with a grid as well as with a count."""
    field = Counted()
    grid = tuple(i / 4 for i in range(5))
    for solver in (Chunked(RK4(steps=4), rows=2), RK4(grid=grid)):
        flow = Flow(StandardNormal((1,)).double(), ContinuousMap(field, likelihood_solver=solver))
        with pytest.raises(ConfigError, match="4 steps"):
            flow.log_prob(normal(3, 1))
        rough = flow.with_options(coarse=True).encode(normal(3, 1), log_det=True)
        # The trace of v = x/2 is constant: no step size can make an error in it.
        assert (rough.log_abs_det_jacobian + 0.5).abs().max() < 1e-12
        assert rough.standard_error.max() < 1e-12


def test_refusals():
    """Shapes, counts and settings, each with what was given and what to do."""
    flow = scaled_flow(Counted())
    with pytest.raises(ShapeError, match=r"\(4, 3\), expected \(batch, 2\)"):
        flow.log_prob(normal(4, 3))
    with pytest.raises(ShapeError, match="3 rows, the data 4"):
        flow.log_prob(normal(4, 2), normal(3, 2))
    with pytest.raises(ConfigError, match="-5 rows"):
        flow.sample(-5, generator=seeded())
    with pytest.raises(ConfigError, match="chunk_rows"):
        Flow(flow.base, flow.map, chunk_rows=0)
    with pytest.raises(ConfigError, match="round-trip"):
        ContinuousMap(Counted(), round_trip=0.0)
