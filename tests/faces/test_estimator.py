"""`FlowEstimator`: scikit-learn's own checks, its tools, and the truth of what is estimated."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from advect import AdvectError, FlowEstimator

# Rounds of float64 arithmetic apart, but not of the solver: the same rows through the same steps.
SAME = {"rtol": 1e-10, "atol": 1e-10}


def tiny(**parameters) -> FlowEstimator:
    """A step or two of a tiny network whose last layer starts at zero: nearly the Gaussian fit."""
    settings = {"steps": 2, "batch_size": 32, "network": "residual-1x8", "random_state": 0}
    return FlowEstimator(**(settings | parameters))


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(60, 3)) * [1.0, 5.0, 0.2] + [0.0, 100.0, -3.0]


# scikit-learn's checks


# A looser solver makes the checks quicker and none of them easier.
QUICK = {"likelihood_tolerance": 1e-3}


@parametrize_with_checks([FlowEstimator(steps=5, batch_size=32, network="mlp-1x8", options=QUICK)])
def test_check_estimator(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:X (has|does not have)")  # some checks mix frames and arrays
@pytest.mark.parametrize(
    "name",
    [
        # Not part of check_estimator, since scikit-learn asks them of its own estimators only.
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_set_output_transform_polars",
        "check_global_output_transform_pandas",
        "check_global_set_output_transform_polars",
        "check_inplace_ensure_writeable",
    ],
)
def test_further_checks(name):
    if not hasattr(estimator_checks, name):
        pytest.skip(f"this scikit-learn has no {name}")
    getattr(estimator_checks, name)("FlowEstimator", tiny())


def test_works_where_scikit_learn_is_not_installed():
    program = """
import sys, warnings
import advect.estimator
assert not {"sklearn", "pandas", "polars"} & set(sys.modules), "imported at import time"
sys.modules["sklearn"] = sys.modules["pandas"] = sys.modules["polars"] = None
import numpy as np
from advect import AdvectError, FlowEstimator
X = np.random.default_rng(0).normal(size=(40, 2))
flow = FlowEstimator(steps=1, network="mlp-1x8", random_state=0)
try:
    flow.transform(X)
except AdvectError as error:
    assert isinstance(error, ValueError) and isinstance(error, AttributeError), type(error).__mro__
else:
    raise SystemExit("transform before fit")
print(flow.fit(X).score_samples(flow.sample(3)).shape)
flow.feature_names_in_ = np.array(["a", "b"], dtype=object)
with warnings.catch_warnings(record=True) as caught:
    flow.score(X)
print(caught[0].category.__name__, caught[0].filename)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["(3,)", "UserWarning", "<string>"]  # the warning points at the caller


# Truth


def gaussian(num_rows: int, seed: int) -> tuple[np.ndarray, stats._multivariate.multivariate_normal_frozen]:
    mixing = np.array([[2.0, 0.0, 0.0], [1.5, 1.0, 0.0], [-30.0, 10.0, 20.0]])
    law = stats.multivariate_normal([1.0, -4.0, 1000.0], mixing @ mixing.T)
    return law.rvs(num_rows, random_state=np.random.default_rng(seed)), law


def test_untrained_is_the_gaussian_fit():
    """Fitting 9 parameters to n rows costs about 9/(2n) = 0.0013 nats; one step of a tiny network adds little."""
    X, law = gaussian(4000, 0)
    fresh, _ = gaussian(2000, 1)
    flow = tiny(steps=1).fit(X)
    assert flow.score(fresh) == pytest.approx(law.logpdf(fresh).mean(), abs=0.02)
    # Not only the mean: row by row, where the row is not in a far tail.
    assert np.median(np.abs(flow.score_samples(fresh) - law.logpdf(fresh))) < 0.05


def test_transform_is_standard_normal_and_comes_back():
    X, _ = gaussian(4000, 0)
    fresh, _ = gaussian(2000, 1)
    flow = tiny(steps=1).fit(X)
    latent = flow.transform(fresh)
    # Five standard errors of a mean, 1/√n, and of an entry of a covariance, at most √(2/n), for fit and fresh rows.
    error = np.sqrt(1 / 2000 + 1 / 4000)
    np.testing.assert_allclose(latent.mean(0), 0, atol=5 * error)
    np.testing.assert_allclose(np.cov(latent.T), np.eye(3), atol=5 * np.sqrt(2) * error)
    # The solver's tolerance is 1e-5 per step in standardised units; a few dozen steps there and back.
    back = flow.inverse_transform(latent)
    assert np.abs((back - fresh) / X.std(0)).max() < 2e-3
    assert np.median(np.abs((back - fresh) / X.std(0))) < 2e-4


def test_inverse_transform_is_not_cut_at_the_observed_bounds():
    X, _ = gaussian(300, 0)
    flow = tiny().fit(X)
    beyond = X.max(0, keepdims=True) + 0.3 * X.std(0)
    np.testing.assert_allclose(flow.inverse_transform(flow.transform(beyond)), beyond, atol=2e-3 * X.std(0).max())


def test_density_integrates_to_one():
    """A trained model in one dimension, on a grid that reaches far beyond the data."""
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(-4, 0.5, 300), rng.normal(3, 1.0, 300)])[:, None]
    flow = tiny(steps=100, learning_rate=1e-2, network="mlp-1x32", options={"warmup_steps": 10}).fit(X)
    grid = np.linspace(-25, 25, 2001)
    # Log-densities are within some 1e-4 nats (the solver's tolerance); kinks of the network add quadrature error.
    assert np.trapezoid(np.exp(flow.score_samples(grid[:, None])), grid) == pytest.approx(1.0, abs=5e-3)


def test_sample_follows_the_density():
    """E log p(x) under the model's own samples is minus the entropy, known for the Gaussian fit."""
    X, law = gaussian(4000, 0)
    drawn = tiny(steps=1).fit(X).sample(4000)
    # log p of a 3-dimensional Gaussian has variance 3/2: four standard errors of the mean of 4000 are 0.077.
    assert law.logpdf(drawn).mean() == pytest.approx(-law.entropy(), abs=0.1)
    np.testing.assert_allclose(drawn.mean(0), X.mean(0), atol=0.1 * X.std(0).max())


def test_units_shift_the_log_density(rows):
    """p_{cX}(c x) = p_X(x) / c in every column."""
    scale = np.array([1e3, 1e-2, 7.0])
    plain, scaled = tiny().fit(rows), tiny().fit(rows * scale)
    expected = plain.score_samples(rows) - np.log(scale).sum()
    np.testing.assert_allclose(scaled.score_samples(rows * scale), expected, atol=1e-3)


def test_whole_numbers_have_a_density_and_no_noise():
    X = np.random.default_rng(0).poisson(400, size=(2000, 1)).astype(float)
    flow = tiny(steps=1).fit(X)
    expected = stats.norm(X.mean(), X.std()).logpdf(X[:, 0])
    # The fit is of nine tenths of the rows: log-scale and mean move by some 1/√1800 standard deviations.
    assert np.abs(flow.score_samples(X) - expected).mean() < 0.02
    assert np.array_equal(flow.transform(X), flow.transform(X))
    np.testing.assert_allclose(flow.inverse_transform(flow.transform(X)), X, atol=2e-3 * X.std())


def test_constant_column(rows):
    rows[:, 1] = 7.25
    flow = tiny().fit(rows)
    latent = flow.transform(rows)
    assert latent.shape == rows.shape
    assert flow.n_features_out_ == 3
    assert np.array_equal(latent[:, 1], np.zeros(len(rows)))
    assert np.isfinite(flow.score_samples(rows)).all()
    assert np.array_equal(flow.sample(4)[:, 1], np.full(4, 7.25))
    without = tiny().fit(rows[:, [0, 2]])
    np.testing.assert_allclose(flow.score_samples(rows), without.score_samples(rows[:, [0, 2]]), **SAME)

    other = rows[:2].copy()
    other[0, 1] = 8.0
    assert flow.score_samples(other)[0] == -np.inf
    assert np.isfinite(flow.score_samples(other)[1])
    np.testing.assert_allclose(flow.inverse_transform(flow.transform(other)), other, atol=0.01)


def test_only_constants_are_refused():
    with pytest.raises(AdvectError, match="every column is constant"):
        tiny().fit(np.ones((20, 2)))


def test_far_column_keeps_its_detail():
    """A column a million times farther from zero than it is wide."""
    X = np.random.default_rng(0).normal(size=(500, 1)) + 1e6
    flow = tiny(steps=1).fit(X)
    assert flow.score(X) == pytest.approx(stats.norm(X.mean(), X.std()).logpdf(X).mean(), abs=0.02)
    np.testing.assert_allclose(flow.inverse_transform(flow.transform(X)), X, atol=2e-3)
    assert flow.sample(300).std() == pytest.approx(1.0, abs=0.2)


# scikit-learn's tools


def test_pipeline(rows):
    pipeline = make_pipeline(StandardScaler(), tiny())
    pipeline.fit(rows)
    scaler, flow = pipeline[0], pipeline[-1]
    inner = flow.score_samples(scaler.transform(rows))
    assert np.array_equal(pipeline.score_samples(rows), inner)
    assert pipeline.score(rows) == pytest.approx(inner.mean())
    back = pipeline.inverse_transform(pipeline.transform(rows))
    np.testing.assert_allclose(back, rows, atol=2e-3 * rows.std(0).max())


def test_grid_search_finds_that_training_helps():
    """Two separated modes: the Gaussian start (one step) is beaten by a trained flow."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2)) * 0.3 + np.where(rng.random((400, 1)) < 0.5, -2.0, 2.0)
    flow = tiny(network="mlp-2x32", batch_size=64, learning_rate=1e-2, options=QUICK | {"ema_decay": 0.9})
    search = GridSearchCV(flow, {"steps": np.array([1, 400])}, cv=KFold(2, shuffle=True, random_state=0))
    search.fit(X)
    assert search.best_params_ == {"steps": 400}
    untrained, trained = search.cv_results_["mean_test_score"]
    # The modes have the mean log-density log ½ − log(2π·0.3²) − 1; training must close a third of the gap to it.
    truth = np.log(0.5) - np.log(2 * np.pi * 0.3**2) - 1
    assert trained - untrained > (truth - untrained) / 3
    assert np.isfinite(search.best_estimator_.score(X))


def test_cross_val_score_is_the_mean_log_density(rows):
    folds = KFold(3)
    scores = cross_val_score(tiny(), rows, cv=folds)
    for score, (train, test) in zip(scores, folds.split(rows), strict=True):
        assert score == pytest.approx(tiny().fit(rows[train]).score_samples(rows[test]).mean())


def test_parameters_are_stored_untouched_and_cloned(rows):
    options, steps = {"sigma": 0.05}, np.int64(2)
    flow = tiny(options=options, steps=steps, method="i-cfm")
    assert flow.options is options
    assert flow.steps is steps
    copied = clone(flow.fit(rows))
    assert copied.get_params() == flow.get_params()
    assert copied.options is not options
    assert not hasattr(copied, "model_")
    with pytest.raises(NotFittedError):
        copied.score(rows)
    assert repr(tiny(steps=7)) == "FlowEstimator(steps=7, batch_size=32, network='residual-1x8', random_state=0)"


def test_unknown_parameter_changes_nothing():
    flow = tiny()
    with pytest.raises(ValueError, match="Did you mean 'steps'"):
        flow.set_params(batch_size=8, step=3)
    assert flow.batch_size == 32


def test_options_reach_the_model(rows):
    flow = tiny(options={"likelihood_tolerance": 1e-3, "learning_rate": 0.5}).fit(rows)
    assert flow.model_.config["likelihood"]["tolerance"] == 1e-3
    assert flow.model_.config["training"]["learning_rate"] == 0.5
    with pytest.raises(AdvectError, match="likelihood_tolerance"):
        tiny(options={"likelihood_tolerence": 1e-3}).fit(rows)


def test_sampling_solver(rows):
    """One Euler step from z is z plus the velocity at t = 0; the default follows the field."""
    flow = tiny(method="i-cfm").fit(rows)
    fine = flow.sample(20)
    coarse = flow.set_params(solver="euler", sampling_steps=1).sample(20)
    finer = flow.set_params(solver="euler", sampling_steps=np.int64(400)).sample(20)
    spread = rows.std(0)
    assert np.abs((finer - fine) / spread).max() < 0.02  # first order: some 1/400
    assert np.abs((coarse - fine) / spread).max() > 0.2


# Randomness and state


def test_same_random_state_same_bits(rows):
    first, second = tiny().fit(rows), tiny().fit(rows)
    assert np.array_equal(first.score_samples(rows), second.score_samples(rows))
    assert np.array_equal(first.sample(5), second.sample(5))
    assert np.array_equal(first.sample(5), first.sample(5))
    assert not np.array_equal(first.sample(5), first.sample(5, random_state=1))
    assert not np.array_equal(first.score_samples(rows), tiny(random_state=1).fit(rows).score_samples(rows))


def test_generators_move_on_and_none_is_fresh(rows):
    for make in (np.random.RandomState, np.random.default_rng):
        flow = tiny().fit(rows).set_params(random_state=make(0))
        one, two = flow.sample(3), flow.sample(3)
        assert not np.array_equal(one, two)
        assert np.array_equal(one, flow.sample(3, random_state=make(0)))
    flow.set_params(random_state=None)
    assert not np.array_equal(flow.sample(3), flow.sample(3))


def test_global_generators_are_left_alone(rows):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002 - the state that must not move
    flow = tiny(random_state=None).fit(rows)
    flow.sample(3)
    flow.score(rows)
    assert torch.equal(torch_state, torch.get_rng_state())
    for before, after in zip(numpy_state, np.random.get_state(), strict=True):  # noqa: NPY002
        assert np.array_equal(before, after)


def test_pickle_and_copy_keep_every_bit(rows):
    frame = pd.DataFrame(rows, columns=["a", "b", "c"])
    flow = tiny(options={"sigma": 0.01}).fit(frame)
    for twin in (pickle.loads(pickle.dumps(flow)), copy.deepcopy(flow)):
        assert twin.get_params() == flow.get_params()
        assert list(twin.feature_names_in_) == ["a", "b", "c"]
        assert np.array_equal(twin.score_samples(frame), flow.score_samples(frame))
        assert np.array_equal(twin.sample(4), flow.sample(4))
        assert np.array_equal(twin.model_.log_prob(frame), flow.model_.log_prob(frame))
        assert twin.model_.config == flow.model_.config


def test_pickle_holds_no_code_of_the_network(rows):
    """Weights travel as arrays and are put into a model built anew: a newer version may change its classes."""
    text = pickle.dumps(tiny().fit(rows))
    assert b"advect.networks" not in text
    assert b"torch.nn" not in text
    assert b"_load_from_bytes" not in text


def test_model_can_be_saved_and_loaded(rows, tmp_path):
    import advect

    flow = tiny().fit(rows)
    loaded = advect.load(flow.model_.save(tmp_path / "run"))
    np.testing.assert_allclose(loaded.log_prob(rows), flow.score_samples(rows), atol=1e-3)  # float32 against float64


# Tables with names, and refusals


def test_feature_names(rows):
    frame = pd.DataFrame(rows, columns=["a", "b", "c"])
    flow = tiny().fit(frame)
    with pytest.raises(ValueError, match=r"feature names should match.*another order"):
        flow.transform(frame[["b", "a", "c"]])
    with pytest.raises(ValueError, match=r"feature names should match.*unseen: \['d'\]; missing: \['c'\]"):
        flow.score(frame.rename(columns={"c": "d"}))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        flow.transform(rows)
    flow.fit(rows)
    assert not hasattr(flow, "feature_names_in_")
    with pytest.warns(UserWarning, match="was fitted without feature names"):
        flow.transform(frame)


def test_set_output_keeps_the_index_and_survives_cloning(rows):
    frame = pd.DataFrame(rows, columns=["a", "b", "c"], index=np.arange(len(rows)) + 100)
    flow = clone(tiny().set_output(transform="pandas"))
    latent = flow.fit_transform(frame)
    assert list(latent.columns) == ["flowestimator0", "flowestimator1", "flowestimator2"]
    assert latent.index.equals(frame.index)
    assert isinstance(flow.set_output(transform="default").transform(frame), np.ndarray)
    with pytest.raises(ValueError, match="There is no container 'arrow'"):
        flow.set_output(transform="arrow")


def _with(rows: np.ndarray, value: object) -> np.ndarray:
    changed = rows.astype(object)
    changed[4, 1] = value
    return changed


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda X: X[0], ValueError, "Expected 2D array, got 1D.*Reshape your data"),
        (lambda X: X[:, :, None], ValueError, "Expected 2D array, got 3D"),
        (lambda X: X[:1], ValueError, "1 sample.*minimum of 2 is required"),
        (lambda X: X[:, :0], ValueError, "0 feature.*minimum of 1 is required"),
        (lambda X: _with(X, np.nan), ValueError, r"NaN in row 4 \(counted from 0\), column 1"),
        (lambda X: _with(X, -np.inf), ValueError, r"inf.* in row 4 \(counted from 0\), column 1"),
        (lambda X: _with(X, "north"), TypeError, "north"),
        (lambda X: X.astype(str), TypeError, "no numbers"),
        (lambda X: X.astype("datetime64[s]"), TypeError, "datetime64"),
        (lambda X: X * 1j, ValueError, "Complex data not supported"),
        (lambda X: [[1.0], [2.0, 3.0]], ValueError, "cannot be read as numbers"),
        (scipy.sparse.csr_matrix, TypeError, "Sparse data"),
    ],
)
def test_refusals(rows, change, kind, message):
    with pytest.raises(kind, match=message) as caught:
        tiny().fit(change(rows))
    assert isinstance(caught.value, AdvectError)
    assert isinstance(caught.value, ValueError)


def test_refusals_after_fit(rows):
    flow = tiny().fit(rows)
    for verb in (flow.transform, flow.inverse_transform, flow.score_samples):
        with pytest.raises(ValueError, match="X has 2 features, but FlowEstimator is expecting 3 features"):
            verb(rows[:, :2])
    with pytest.raises(ValueError, match="at least 1"):
        flow.sample(0)
    with pytest.raises(ValueError, match="whole number"):
        flow.sample(2.5)
    with pytest.raises(ValueError, match="steps must be a whole number, not 'many'"):
        tiny(steps="many").fit(rows)


@pytest.mark.parametrize("verb", ["transform", "inverse_transform", "score_samples", "score"])
def test_unfitted(rows, verb):
    with pytest.raises(NotFittedError, match="not fitted yet") as caught:
        getattr(tiny(), verb)(rows)
    assert isinstance(caught.value, AdvectError)


def test_other_kinds_of_rows(rows):
    """A single row, a list, a tensor and float32 give what the array gives."""
    flow = tiny().fit(rows)
    expected = flow.score_samples(rows)
    np.testing.assert_allclose(flow.score_samples(rows[:1]), expected[:1], **SAME)
    np.testing.assert_allclose(flow.score_samples(rows.tolist()), expected, **SAME)
    np.testing.assert_allclose(flow.score_samples(torch.tensor(rows)), expected, **SAME)
    # The columns are rounded to 24 bits, 1e-5 of the spread of the widest: some 1e-4 nats.
    np.testing.assert_allclose(flow.score_samples(rows.astype(np.float32)), expected, atol=1e-3)
    before = rows.copy()
    flow.transform(rows)
    assert np.array_equal(rows, before)
