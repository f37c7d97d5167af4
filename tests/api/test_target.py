"""`fit` against an unnormalised log-density: closed forms, and what is refused."""

import math

import pytest
import torch

import advect
from advect.errors import AdvectError, ConfigError, ShapeError

MEAN = torch.tensor([1.0, -2.0])
SPREAD = torch.tensor([0.5, 2.0])


def shifted(x: torch.Tensor) -> torch.Tensor:
    """N(MEAN, SPREAD²) times e³: log Z = 3."""
    z = (x - MEAN) / SPREAD
    return 3.0 - 0.5 * z.square().sum(1) - SPREAD.log().sum() - math.log(2 * math.pi)


@pytest.fixture(scope="module")
def fitted() -> advect.Model:
    return advect.fit(
        target=shifted, event_shape=(2,), method="realnvp", layers=2, steps=250, seed=0, learning_rate=1e-2
    )


def test_a_gaussian_is_found_with_its_normaliser(fitted):
    found = fitted.evaluation["target"]
    # 4096 weights of a flow near the target: the error printed is the one that counts.
    assert abs(found["log_normaliser"] - 3.0) < 5 * found["standard_error"] + 1e-3
    assert found["bound"] <= found["log_normaliser"]
    assert 0.9 * found["num_draws"] < found["effective_sample_size"] <= found["num_draws"] + 1e-6
    rows = fitted.sample(4000, seed=1)
    assert isinstance(rows, torch.Tensor)
    # Means of 4000 draws: five standard errors, and what 250 steps leave.
    assert ((rows.mean(0) - MEAN).abs() < 5 * SPREAD / 4000**0.5 + 0.05 * SPREAD).all()
    assert ((rows.std(0) / SPREAD - 1).abs() < 0.1).all()


def test_scores_are_in_the_units_of_the_target(fitted):
    rows = fitted.sample(300, seed=2)
    difference = fitted.log_prob(rows) - (shifted(rows) - 3.0)
    assert difference.mean().abs() < 0.05  # KL of the fit, from both sides


def test_far_draws_are_not_clipped(fitted):
    """There were no rows, so there are no observed bounds."""
    latent = torch.full((1, 2), 30.0)
    assert float(torch.as_tensor(fitted.decode(latent)).abs().max()) > 5


def test_it_is_saved_and_loaded(fitted, tmp_path):
    fitted.save(tmp_path / "run")
    again = advect.load(tmp_path / "run")
    assert torch.equal(again.sample(5, seed=3), fitted.sample(5, seed=3))
    assert again.evaluation["target"] == fitted.evaluation["target"]


def test_the_same_seed_gives_the_same_bits():
    one, two = (advect.fit(target=shifted, event_shape=(2,), steps=5, seed=4) for _ in range(2))
    assert torch.equal(one.sample(5), two.sample(5))


def test_pictures_and_odes_too():
    flat = lambda x: -0.5 * x.flatten(1).square().sum(1)  # noqa: E731
    model = advect.fit(target=flat, event_shape=(2, 2), method="cnf", steps=3, batch_size=16, seed=0)
    assert tuple(model.sample(3).shape) == (3, 2, 2)
    # log ∫ exp(−|x|²/2) over four coordinates; the untrained flow is the target, so the weights are all equal.
    assert model.evaluation["target"]["log_normaliser"] == pytest.approx(2 * math.log(2 * math.pi), abs=0.05)


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("not a function", {"target": 3, "event_shape": (2,)}),
        ("does not say the shape", {"target": shifted}),
        ("event shape is", {"target": shifted, "event_shape": ()}),
        ("learns from rows", {"target": shifted, "event_shape": (2,), "method": "ot-cfm"}),
        ("cannot be used with a target", {"target": shifted, "event_shape": (2,), "data": torch.zeros(3, 2)}),
        ("cannot be used with a target", {"target": shifted, "event_shape": (2,), "out": "run"}),
        ("cannot be used with a target", {"target": shifted, "event_shape": (2,), "network": torch.nn.Linear(2, 2)}),
        ("no rows to learn from", {}),
        ("event_shape belongs to a target", {"data": torch.zeros(30, 2), "event_shape": (2,)}),
    ],
)
def test_what_makes_no_sense_is_refused(words, given):
    with pytest.raises(ConfigError, match=words):
        advect.fit(**given, steps=2)


def test_a_target_that_is_no_log_density_is_refused():
    with pytest.raises(AdvectError, match="per row") as caught:
        advect.fit(target=lambda x: -x.square(), event_shape=(2,), steps=2)
    assert isinstance(caught.value, ShapeError)
    with pytest.raises(AdvectError, match="autograd"):
        advect.fit(target=lambda x: -x.detach().square().sum(1), event_shape=(2,), steps=2)
