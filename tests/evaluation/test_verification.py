"""`verify`: every built-in path passes, every wrong field of a gallery is caught with the right diagnosis, and a right
field plus one that moves no density passes. The gallery's truths are the formulas of its own few lines, in float64."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import advect
from advect.errors import ConfigError, ShapeError
from advect.evaluation.verification import Verification, verify_path
from advect.evaluation.verification.verify import reference_pairs
from advect.paths import AffinePath, BrownianBridge, Clock, LipmanPath, linear
from advect.records import Bridge
from advect.typing import expand_time
from tests.laws.test_path_laws import CASES

TURN = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 0]]).double()


@dataclass
class Changed:
    """A right path whose velocity is changed: ``change(t, x, x0, x1, u)`` with u(t, x) the right one."""

    path: Any
    change: Any
    density: bool = True
    forwarded: tuple[str, ...] = field(default=("start", "end", "time_weight"))

    def __getattr__(self, name):
        if name in self.forwarded or (name == "log_density" and self.density):
            return getattr(self.path, name)
        raise AttributeError(name)

    def velocity(self, t, x, x0, x1):
        right = lambda t, x: self.path.velocity(t.reshape(-1), x, x0, x1)  # noqa: E731
        return self.change(expand_time(t, x1), x, x0, x1, right)

    def sample(self, t, x0, x1, *, generator=None):
        drawn = self.path.sample(t, x0, x1, generator=generator)
        return Bridge(drawn.t, drawn.x, self.velocity(t, drawn.x, x0, x1), None, x0, x1)


def clocked():
    """The straight segment with the clock 1 − (1 − t)²(1 + t)."""
    return AffinePath(Clock(lambda t: (1 - t) ** 2 * (1 + t)))


# Laws that must fail, and words of the advice. The advice is the one of the first continuity line that fails.
GALLERY = {
    "x1 − x as a velocity": (
        Changed(linear(), lambda t, x, x0, x1, u: x1 - x),
        {"continuity", "continuity (weak form)", "arrival"},
        "u/(1 − t)",
    ),
    "x1 − x, samples alone": (
        Changed(linear(), lambda t, x, x0, x1, u: x1 - x, density=False),
        {"continuity (weak form)", "arrival"},
        "displacement",
    ),
    "sign": (
        Changed(LipmanPath(), lambda t, x, x0, x1, u: -u(t, x)),
        {"direction", "continuity", "continuity (weak form)", "arrival"},
        "sign is swapped",
    ),
    "velocity of another time": (
        Changed(LipmanPath(), lambda t, x, x0, x1, u: u(1 - t, x)),
        {"continuity", "continuity (weak form)"},
        "the time 1 − t",
    ),
    "sign and time": (
        Changed(LipmanPath(), lambda t, x, x0, x1, u: -u(1 - t, x)),
        {"direction", "continuity", "continuity (weak form)", "arrival"},
        "running from the data to the source",
    ),
    "chain factor of a clock": (
        Changed(clocked(), lambda t, x, x0, x1, u: x1 - x0, density=False),
        {"continuity (weak form)"},
        "chain factor",
    ),
    "twice too fast": (
        Changed(BrownianBridge(1.0), lambda t, x, x0, x1, u: 2 * u(t, x)),
        {"continuity", "continuity (weak form)"},
        "2 times what it should be",
    ),
    "spread of a bridge, σ' doubled": (
        Changed(BrownianBridge(1.0), lambda t, x, x0, x1, u: 2 * u(t, x) - (x1 - x0)),
        {"continuity", "continuity (weak form)"},
        "the weight of x − mean",
    ),
    "spread of a bridge, σ' forgotten": (
        Changed(BrownianBridge(1.0), lambda t, x, x0, x1, u: x1 - x0),
        {"continuity", "continuity (weak form)"},
        "the weight of x − mean",
    ),
    "weight of the source": (
        Changed(LipmanPath(), lambda t, x, x0, x1, u: x1 - 0.5 * x0, density=False),
        {"continuity (weak form)", "arrival"},
        "the weight of x0",
    ),
    "rotation about the wrong place": (
        Changed(LipmanPath(), lambda t, x, x0, x1, u: u(t, x) + x @ TURN.to(x.dtype)),
        {"continuity", "continuity (weak form)"},
        "None of the usual",
    ),
}


@pytest.mark.parametrize("name", GALLERY)
def test_a_wrong_field_is_caught_with_its_diagnosis(name):
    path, laws, words = GALLERY[name]
    found = verify_path(path, rows=1024)
    assert not found.passed
    broken = {check.law: check for check in found.failures}
    assert set(broken) == laws, str(found)
    advice = next(broken[law].fix for law in ("continuity", "continuity (weak form)") if law in broken)
    assert words in advice, advice
    for law in ("continuity", "continuity (weak form)"):
        if law in broken:
            check = broken[law]
            assert check.value > check.tolerance > 0
            assert 0 < check.t < 1
            assert check.reason
    if "arrival" in broken and "x1 − x" in name:  # 1/e of x0 is left
        assert "0.368" in broken["arrival"].message


def built_in_cases():
    """The paths of the path laws. Some end away from the data on purpose, and must fail there and nowhere else."""
    short = {
        "pull 1": {"end", "arrival"},
        "pull regularised": {"end", "arrival"},
        "shortened": {"start"},  # a tenth of x1 at the start
        "gaussian, given pair": {"end", "arrival"},  # a blur of a tenth that nobody announced
        "gaussian, given data": {"end", "arrival"},
    }
    return [pytest.param(name, short.get(name, set()), id=name) for name in CASES]


@pytest.mark.parametrize(("name", "broken"), built_in_cases())
def test_built_in_paths_pass(name, broken):
    found = verify_path(CASES[name].make())
    assert {check.law for check in found.failures} == broken, str(found)
    assert found["continuity"].status == "pass"
    assert found["continuity"].value < 1e-8  # exact derivatives; rounding over the narrowest width


@pytest.mark.parametrize(
    "path",
    [
        # Given the data row x − t x1 is a centred Gaussian, which a rotation about its mean leaves as it is.
        Changed(LipmanPath(), lambda t, x, x0, x1, u: u(t, x) + (x - t * x1) @ TURN.to(x.dtype)),
        Changed(linear(), lambda t, x, x0, x1, u: u(t, x) + (x - t * x1) @ TURN.to(x.dtype), density=False),
        Changed(BrownianBridge(), lambda t, x, x0, x1, u: u(t, x) + (x - t * x1 - (1 - t) * x0) @ TURN.to(x.dtype)),
    ],
    ids=["density", "samples alone", "bridge"],
)
def test_a_field_is_not_unique(path):
    assert verify_path(path).passed


def test_a_field_that_is_right_on_the_whole_passes_with_a_note():
    """The marginal field of a data set in place of the field of each pair: right for these rows, and said so."""
    from advect.flows import EmpiricalField
    from advect.paths import Linear

    data = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [0.5, -2.0]]).double()
    marginal = EmpiricalField(data, Linear())

    class Averaged:
        def sample(self, t, x0, x1, *, generator=None):
            x = expand_time(t, x1) * x1 + (1 - expand_time(t, x1)) * x0
            return x, marginal(t, x)

    found = verify_path(Averaged(), data=data)
    assert found.passed, str(found)
    assert found["continuity (weak form)"].status == "note"
    assert "on the whole" in found["continuity (weak form)"].message


def test_fresh_noise_in_the_target_is_no_error():
    """The first meaning of a noisy x1 − x0: the same minimiser, found by a noisier regression."""

    class Noisy:
        def sample(self, t, x0, x1, *, generator=None):
            x = linear().sample(t, x0, x1).x
            return x, x1 - x0 + torch.randn(x1.shape, generator=generator, dtype=x1.dtype)

    assert verify_path(Noisy()).passed


def test_a_path_that_looks_at_its_neighbours_or_at_no_generator():
    class Leaking:
        def sample(self, t, x0, x1, *, generator=None):
            return linear().sample(t, x0, x1).x, x1.mean(0, keepdim=True) - x0

    class Global:
        def sample(self, t, x0, x1):
            noise = 0.1 * torch.randn_like(x1)
            return linear().sample(t, x0, x1).x + expand_time(t * (1 - t), x1) * noise, x1 - x0 + noise * expand_time(
                1 - 2 * t, x1
            )

    assert {check.law for check in verify_path(Leaking()).failures} == {"continuity (weak form)"}
    state = torch.get_rng_state()
    assert verify_path(Global()).passed
    assert torch.equal(state, torch.get_rng_state())


class Reversed:
    """Data at t = 0."""

    def sample(self, t, x0, x1, *, generator=None):
        time = expand_time(t, x1)
        return time * x0 + (1 - time) * x1, x0 - x1


def test_time_running_the_other_way_is_named():
    found = verify_path(Reversed())
    assert {check.law for check in found.failures} == {"start", "end", "direction"}
    assert all("other way" in check.fix for check in found.failures)


class BridgeWithoutLimits:
    """Trap P1: the Schrödinger bridge divided by t(1 − t) as it stands, or with a small number added."""

    def __init__(self, guard):
        self.guard = guard

    def sample(self, t, x0, x1, *, generator=None):
        time = expand_time(t, x1)
        noise = (time * (1 - time)).sqrt() * torch.randn(x1.shape, generator=generator, dtype=x1.dtype)
        u = x1 - x0 + (1 - 2 * time) / (2 * time * (1 - time) + self.guard) * noise
        return (1 - time) * x0 + time * x1 + noise, u


def test_a_bridge_without_its_limits_is_caught():
    found = verify_path(BridgeWithoutLimits(0.0))
    assert {check.law for check in found.failures} == {"singular times", "target variance"}
    assert found["singular times"].t == 0.0
    assert "leave out the term" in found["singular times"].fix
    # A small number added hides the division by zero, not the infinite mean of the loss.
    guarded = verify_path(BridgeWithoutLimits(1e-8))
    assert {check.law for check in guarded.failures} == {"target variance"}
    assert "time_weight" in guarded["target variance"].fix


def test_parts_that_do_not_belong_together_are_caught():
    class Disagreeing:
        def sample(self, t, x0, x1, *, generator=None):
            return LipmanPath(0.1).sample(t, x0, x1)

        velocity = LipmanPath(0.3).velocity
        log_density = LipmanPath(0.3).log_density
        end = LipmanPath(0.1).end

    found = verify_path(Disagreeing())
    # Velocity and density fit one another, and so do samples with theirs.
    # The field ends with more blur than end() says.
    assert {check.law for check in found.failures} == {"agreement", "density", "score", "arrival"}


def test_numbers_taken_out_of_tensors_do_not_condemn_a_path():
    """Gradients that stop inside a path's code are replaced by differences."""

    class Detached:
        def velocity(self, t, x, x0, x1):
            return torch.stack([(x1[i] - x[i].detach()) / (1 - t[i].item()) for i in range(len(x))])

        def log_density(self, t, x, x1, x0=None):
            return linear().log_density(t, x, x1)

    assert verify_path(Detached())["continuity"].status == "pass"


def test_rows_of_ones_own_and_every_shape():
    for shape in ((), (2, 2), (1, 2, 3)):
        assert verify_path(BrownianBridge(), event_shape=shape, rows=256).passed
    data = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).numpy()
    found = advect.verify(linear(), data=data, source=data + 3, rows=512)
    assert found.passed
    assert found.event_shape == (4,)
    # A density given the data row presumes a standard-normal source, and this one is another.
    assert found["density"].status == "skipped"
    assert found["continuity"].status == "pass"


@pytest.mark.parametrize("data", [torch.zeros(1, 2), torch.full((1, 2), 5.0), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])])
def test_rows_that_are_alike_or_flat_are_no_failure(data):
    for path in (linear(), BrownianBridge(), linear(0.1)):
        found = verify_path(path, data=data.double(), rows=512)
        assert found.passed, str(found)


def test_wide_rows_are_fewer():
    """A picture of 3 × 24 × 24: no divergence of 1728 coordinates, and memory for a few hundred rows."""
    found = verify_path(LipmanPath(), event_shape=(3, 24, 24))
    assert found.passed, str(found)
    assert found.rows == 2**20 // 1728
    assert found["continuity"].status == "skipped"
    assert found["continuity (weak form)"].status == "pass"
    assert not verify_path(Reversed(), event_shape=(3, 24, 24)).passed


def test_the_same_seed_gives_the_same_record():
    one, two, other = (verify_path(BrownianBridge(), rows=256, seed=seed) for seed in (1, 1, 2))
    assert one == two
    assert one["continuity (weak form)"].value != other["continuity (weak form)"].value


def test_false_alarms_are_rare():
    """Fifty weak forms of a right path with noise: none fails (the chance of one is 5e-5 by the tolerance)."""
    from advect.evaluation.verification.probe import Probe
    from advect.evaluation.verification.weak import draw_windows, level_that_holds

    for seed in range(50):
        probe = Probe(BrownianBridge(), *reference_pairs(None, None, 256, (2,), seed), seed=seed)
        assert level_that_holds(probe, draw_windows(probe))[0] == "pair"


def test_a_small_error_is_found_with_more_rows():
    """A 500th too fast: invisible to 64 rows, caught by 4096; what is reported is the size of the error."""
    path = Changed(linear(), lambda t, x, x0, x1, u: 1.002 * (x1 - x0), density=False)
    assert verify_path(path, rows=64).passed
    found = verify_path(path)
    assert {check.law for check in found.failures} == {"continuity (weak form)"}
    assert "1.002 times" in found["continuity (weak form)"].fix


@pytest.mark.parametrize(
    ("path", "error", "word"),
    [
        (object(), ConfigError, "neither sample nor"),
        (linear, ConfigError, "neither sample nor"),
        (BrownianBridge, ConfigError, "is a class"),
    ],
)
def test_what_is_no_path_is_refused(path, error, word):
    with pytest.raises(error, match=word):
        advect.verify(path)


def test_a_path_that_raises_or_returns_other_shapes_is_told():
    class Raising:
        def sample(self, t, x0, x1, *, generator=None):
            return {}["x"]

    class Misshapen:
        def sample(self, t, x0, x1, *, generator=None):
            return x1[:, 0], x1

    with pytest.raises(ConfigError, match="sample raised KeyError"):
        verify_path(Raising())
    with pytest.raises(ShapeError, match=r"sample's x is \(64,\)"):
        verify_path(Misshapen(), rows=64)
    with pytest.raises(ConfigError, match="at least 64"):
        verify_path(linear(), rows=3)
    with pytest.raises(ShapeError, match="one shape"):
        verify_path(linear(), source=torch.zeros(3, 2).double(), data=torch.zeros(3, 4).double())
    with pytest.raises(ConfigError, match="no setting 'sigma'"):
        advect.verify(linear(), sigma=1.0)


def test_the_record_prints_and_is_plain():
    found = verify_path(Changed(linear(), lambda t, x, x0, x1, u: x1 - x), rows=512, name="mine")
    assert isinstance(found, Verification)
    text = str(found)
    assert text.startswith("mine: broken")
    assert "u/(1 − t)" in text
    plain = found.plain()
    assert plain["passed"] is False
    assert {check["law"] for check in plain["checks"]} == {check.law for check in found.checks}
