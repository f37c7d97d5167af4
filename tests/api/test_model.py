"""The Python face: any kind of rows in, the same kind out; what is saved is what was trained."""

import math
import tomllib

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import advect
from advect import AdvectError, Model
from advect.couplings import Assignment
from advect.errors import ConfigError, DataError, RunFolderError, UnknownNameError, UnsupportedError
from advect.paths import GaussianPath
from advect.records import Pairs, Status

QUICK = {"steps": 20, "batch_size": 32, "network": "residual-1x8", "method": "i-cfm"}


def fit(data, **more) -> Model:
    return advect.fit(data, **(QUICK | more))


def cloud(rows: int = 200, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.standard_normal((rows, 2)) @ [[1.0, 0.6], [0.0, 0.8]] + [1.0, -2.0]


def frame(rows: int = 200) -> pd.DataFrame:
    random = np.random.default_rng(0)
    rooms = pd.Series(random.integers(1, 7, rows), dtype="Int64")
    rooms[random.random(rows) < 0.2] = pd.NA
    place = pd.Series(pd.Categorical(random.choice(["low", "mid", "high"], rows), categories=["low", "mid", "high"]))
    place[random.random(rows) < 0.15] = None
    return pd.DataFrame(
        {
            "price": np.exp(random.standard_normal(rows)).astype(np.float32),
            "rooms": rooms,
            "place": place,
            "sold": random.random(rows) < 0.4,
            "floors": random.integers(1, 4, rows).astype(np.int16),
        }
    )


@pytest.fixture(scope="module")
def model() -> Model:
    return fit(cloud())


@pytest.fixture(scope="module")
def framed() -> Model:
    return fit(frame(), likelihood_tolerance=1e-4)


# Kinds of data


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_arrays(dtype):
    data = cloud().astype(dtype)
    model = fit(data)
    drawn = model.sample(7)
    assert isinstance(drawn, np.ndarray)
    assert (drawn.dtype, drawn.shape) == (dtype, (7, 2))
    value = model.log_prob(data[:5])
    assert isinstance(value, np.ndarray)
    assert (value.dtype, value.shape) == (np.float64, (5,))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_tensors(dtype):
    data = torch.tensor(cloud()).to(dtype).requires_grad_()
    model = fit(data)
    drawn = model.sample(7)
    assert isinstance(drawn, torch.Tensor)
    assert (drawn.dtype, drawn.shape) == (dtype, (7, 2))
    value = model.log_prob(data[:5])
    assert isinstance(value, torch.Tensor)
    assert value.shape == (5,)
    assert torch.isfinite(value).all()


def test_scalars():
    """Rows without an axis of their own."""
    data = cloud()[:, 0]
    model = fit(data)
    assert model.sample(6).shape == (6,)
    assert model.log_prob(data[:3]).shape == (3,)
    assert model.encode(data[:3]).shape == (3, 1)


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_pictures(kind):
    random = np.random.default_rng(0)
    pixels = random.integers(0, 17, (60, 1, 8, 8)).astype(np.uint8)
    data = pixels if kind == "array" else torch.from_numpy(pixels)
    model = fit(data, steps=3)
    drawn = model.sample(4)
    assert type(drawn) is type(data)
    assert drawn.shape == (4, 1, 8, 8)
    assert drawn.dtype == data.dtype
    assert drawn.min() >= 0
    assert drawn.max() <= 16
    estimate = model.score(data[:2], importance_samples=1)
    assert torch.isfinite(estimate.value).all()
    assert float(estimate.value.max()) < 0  # a probability of whole pixels
    assert model.encode(data[:2]).shape == (2, 64)
    assert model.trajectory(3, [0, 1]).shape == (2, 3, 1, 8, 8)
    assert "pictures (1, 8, 8)" in repr(model)


def assert_like(drawn, data) -> None:
    assert list(drawn.columns) == list(data.columns)
    assert list(drawn.dtypes) == list(data.dtypes)


def test_pandas(framed):
    data = frame()
    drawn = framed.sample(300)
    assert isinstance(drawn, pd.DataFrame)
    assert_like(drawn, data)
    assert list(drawn["place"].cat.categories) == ["low", "mid", "high"]
    assert drawn["rooms"].isna().any()
    assert drawn["place"].isna().any()
    assert not drawn[["price", "sold", "floors"]].isna().any().any()
    assert set(drawn["rooms"].dropna()) <= set(range(1, 7))
    estimate = framed.score(data.head(20))
    assert torch.isfinite(estimate.value).all()
    gaps = data.head(20)[["rooms", "place"]].isna().any(axis=1).to_numpy()
    assert (estimate.status.numpy() == np.where(gaps, Status.IMPUTED, Status.OK)).all()


def test_polars():
    levels = pl.Enum(["low", "mid", "high"])
    data = pl.from_pandas(frame()).with_columns(pl.col("place").cast(pl.String).cast(levels))
    model = fit(data)
    drawn = model.sample(100)
    assert isinstance(drawn, pl.DataFrame)
    assert drawn.schema == data.schema
    assert drawn["rooms"].null_count() > 0
    assert np.isfinite(model.log_prob(data.head(5))).all()


def test_columns_are_found_by_name(framed):
    """Order and extra columns of a frame do not matter, and any kind of frame will do."""
    data = frame().head(10)
    value = framed.log_prob(data)
    mixed_up = data[["sold", "floors", "price", "place", "rooms"]].assign(extra=1.0)
    assert np.array_equal(framed.log_prob(mixed_up), value)
    assert np.array_equal(framed.log_prob(pl.from_pandas(data)), value)
    with pytest.raises(DataError, match="price"):
        framed.log_prob(data.drop(columns="price"))


def test_files_and_names(tmp_path):
    frame().to_csv(tmp_path / "rows.csv", index=False)
    model = fit(tmp_path / "rows.csv", steps=3)
    drawn = model.sample(5)
    assert isinstance(drawn, pd.DataFrame)
    assert list(drawn.columns) == list(frame().columns)
    assert np.isfinite(model.log_prob(tmp_path / "rows.csv")).all()
    assert fit("moons", steps=2).sample(3).shape == (3, 2)


def test_one_row_is_enough_to_score(model):
    assert model.log_prob(cloud()[:1]).shape == (1,)
    with pytest.raises(DataError, match="no rows"):
        model.log_prob(cloud()[:0])


def test_data_are_not_changed():
    data = cloud()
    kept = data.copy()
    model = fit(data)
    model.score(data)
    model.encode(data)
    assert np.array_equal(data, kept)
    rows = frame()
    fit(rows, steps=2)
    pd.testing.assert_frame_equal(rows, frame())


# Verbs


def test_encode_and_decode(model):
    data = cloud()[:30]
    latent = model.encode(data)
    assert (latent.dtype, latent.shape) == (np.float64, (30, 2))
    # The adaptive solver at 1e-5 both ways, ten times that in float32.
    assert model.decode(latent) == pytest.approx(data, abs=2e-3)


def test_density_of_a_sample_agrees_with_its_way_back(model):
    """Trap L13: both directions see one density."""
    drawn = model.sample(20, seed=3)
    latent = model.encode(drawn)
    base = -0.5 * (latent**2).sum(1) - math.log(2 * math.pi)
    # log p(x) = log N(z) + log |dz/dx|, the latter from finite differences of encode in float32: a percent.
    step = 0.05
    columns = [(model.encode(drawn + s) - model.encode(drawn - s)) / (2 * step) for s in np.eye(2) * step]
    determinant = np.linalg.det(np.stack(columns, 2))
    assert model.log_prob(drawn) == pytest.approx(base + np.log(np.abs(determinant)), abs=0.1)


def test_trajectory(model):
    times = [0, 0.1, 0.5, 1]
    states = model.trajectory(50, times, seed=2)
    assert states.shape == (4, 50, 2)
    assert states[-1] == pytest.approx(model.sample(50, seed=2), abs=0.05)  # clipping to bounds apart, same rows
    # At time 0 the source stands in the units of the data: mean and spread of the data's scaling.
    assert states[0].mean(0) == pytest.approx(cloud().mean(0), abs=0.8)


def test_same_seed_same_rows(model):
    assert np.array_equal(model.sample(9, seed=1), model.sample(9, seed=1))
    assert not np.array_equal(model.sample(9, seed=1), model.sample(9, seed=2))


def test_solvers(model):
    default, fine = model.sample(20), model.sample(20, tolerance=1e-6)
    assert default == pytest.approx(fine, abs=0.05)
    assert model.sample(20, solver="heun", steps=50) == pytest.approx(fine, abs=0.02)
    with pytest.raises(UnknownNameError, match="heun"):
        model.sample(5, solver="huen", steps=5)
    with pytest.raises(AdvectError):
        model.sample(5, solver="heun", steps=5, tolerance=1e-3)


def test_evaluate(model):
    evaluation = model.evaluate(cloud(80, seed=4), cloud())
    assert evaluation["metrics"]
    assert evaluation["likelihood"]["rows"] == 80
    assert fit(cloud(), evaluate=True).evaluation["metrics"]
    assert model.evaluation == {}


def test_repr_names_method_and_data(model, framed):
    assert repr(model) == "Model(i-cfm, 2 columns, 200 rows of array)"
    assert "5 columns" in repr(framed)


# Refusals


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("stpes", "steps"),
        ("metod", "method"),
        ("condtion", "condition"),
        ("learning_rat", "learning_rate"),
        ("sigm", "sigma"),
        ("networks", "network"),
    ],
)
def test_a_misspelt_argument_is_refused_with_the_nearest(misspelt, meant):
    """Trap A1."""
    with pytest.raises(UnknownNameError, match=f"Did you mean '{meant}'"):
        fit(cloud(), **{misspelt: 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 1},
        {"steps": 5, "budget": 1.0},
        {"seed": -1},
        {"sigma": -0.1},
        {"learning_rate": 0.0},
        {"learning_rate": "fast"},
        {"condition_dropout": 2.0},
        {"condition": "colour"},
        {"weights": "w"},
        {"network": "mlp-0x5"},
        {"device": "gpu"},
        {"method": "diffusion"},
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(AdvectError):
        fit(cloud(), **wrong)


def test_wrong_data_are_refused():
    for bad in (np.array([[1.0, math.nan]] * 5), np.array([[1.0, math.inf]] * 5), np.zeros((1, 2)), np.zeros((0, 2))):
        with pytest.raises(DataError):
            fit(bad)
    with pytest.raises(AdvectError):
        fit(np.array([["a", object()]] * 5, dtype=object))


def test_conditions_for_a_model_without_any(model):
    for call in (
        lambda: model.sample(3, condition=1),
        lambda: model.sample(3, condition=[1, 2, 3]),
        lambda: model.log_prob(cloud()[:3], [1, 2, 3]),
        lambda: model.sample(3, guidance=1.0),
    ):
        with pytest.raises(ConfigError):
            call()


# Conditions

LABELS = np.random.default_rng(5).integers(0, 2, 300)


def two_classes() -> np.ndarray:
    return np.random.default_rng(6).standard_normal((300, 2)) + np.where(LABELS, 4.0, -4.0)[:, None]


LABEL_KINDS = {
    "array": LABELS,
    "list": LABELS.tolist(),
    "tensor": torch.from_numpy(LABELS),
    "series": pd.Series(LABELS),
    "column": LABELS.reshape(-1, 1),
    "words": np.array(["low", "high"])[LABELS],
    "list of words": ["high" if v else "low" for v in LABELS],
    "objects": np.array(["low", "high"], dtype=object)[LABELS],
    "truth": LABELS == 1,
}


@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_labels_beside_an_array(kind):
    given = LABEL_KINDS[kind]
    model = fit(two_classes(), condition=given, steps=150, learning_rate=1e-2)
    words = isinstance(given[0], str)
    low, high = ("low", "high") if words else (False, True) if kind == "truth" else (0, 1)
    for label, sign in ((low, -1), (high, 1)):
        drawn = model.sample(60, condition=label)
        assert drawn.shape == (60, 2)
        assert np.mean(np.sign(drawn[:, 0]) == sign) > 0.9
        as_scalar = np.asarray(label)[()]
        assert np.array_equal(model.sample(60, condition=as_scalar), drawn)
    each = [low, high] * 30
    drawn = model.sample(60, condition=each)
    assert np.mean(np.sign(drawn[:, 0]) == np.array([-1, 1] * 30)) > 0.9
    assert np.array_equal(model.sample(60, condition=np.array(each)), drawn)
    value = model.log_prob(two_classes()[:20], given[:20])
    swapped = model.log_prob(two_classes()[:20], [high if v == low else low for v in np.asarray(given[:20]).ravel()])
    assert np.median(value - swapped) > 1
    with pytest.raises(AdvectError):
        model.log_prob(two_classes()[:20])
    with pytest.raises(AdvectError):
        model.sample(3, condition="middle" if words else 7)


def test_torch_scalars_are_conditions_too():
    model = fit(two_classes(), condition=LABELS, steps=5)
    for label in (np.int64(1), torch.tensor(1), np.array(1)):
        assert np.array_equal(model.sample(5, condition=label), model.sample(5, condition=1))


def test_condition_columns_of_a_frame():
    data = frame()
    model = fit(data, condition=["place", "price"], steps=5)
    drawn = model.sample(40)
    assert set(drawn.columns) == set(data.columns)
    given = model.sample(10, condition={"place": "low", "price": 2.0})
    assert set(given["place"]) == {"low"}
    assert set(given["price"]) == {2.0}
    rows = data.head(10).dropna()
    each = model.sample(len(rows), condition=rows[["place", "price"]])
    assert list(each["place"]) == list(rows["place"])
    assert np.isfinite(model.log_prob(rows)).all()
    with pytest.raises(UnknownNameError, match="Did you mean 'place'"):
        fit(data, condition="plce")


def test_as_many_labels_as_rows():
    with pytest.raises(ConfigError, match="299 conditions were given for 300 rows"):
        fit(two_classes(), condition=LABELS[:-1])
    model = fit(two_classes(), condition=LABELS, steps=2)
    with pytest.raises(AdvectError):
        model.sample(5, condition=[0, 1])
    with pytest.raises(AdvectError):
        model.log_prob(two_classes()[:5], [0, 1])


def test_conditional_encode_and_decode():
    model = fit(two_classes(), condition=LABELS)
    data = two_classes()[:20]
    assert model.decode(model.encode(data, LABELS[:20]), LABELS[:20]) == pytest.approx(data, abs=5e-3)
    assert model.trajectory(4, [0, 1], condition=1).shape == (2, 4, 2)


def test_guidance():
    model = fit(two_classes(), condition=LABELS, steps=150, learning_rate=1e-2)
    plain, strong = model.sample(100, condition=1), model.sample(100, condition=1, guidance=2.0)
    assert not np.allclose(plain, strong)
    assert np.isfinite(strong).all()


def test_weights():
    """A column of weights: rows of weight zero are as good as absent, here all of one class."""
    data = pd.DataFrame(two_classes(), columns=["x", "y"]).assign(w=LABELS.astype(float))
    model = advect.fit(data, weights="w", method="i-cfm", steps=300, network="residual-1x16", learning_rate=2e-2)
    assert (model.sample(200)["x"] > 0).mean() > 0.9


# Two populations


def test_transport():
    """From a Gaussian to its shifted copy: the mean moves onto the target's."""
    source, target = cloud(400, seed=1), cloud(400, seed=2) + np.array([5.0, 0.0])
    model = fit(target, source=source, method="ot-cfm", steps=300, network="residual-2x32", learning_rate=5e-3)
    moved = model.transport(source)
    assert moved.mean(0) == pytest.approx(target.mean(0), abs=0.3)
    assert model.transport(target, to="source").mean(0) == pytest.approx(source.mean(0), abs=0.4)
    assert model.encode(target[:5]) == pytest.approx(model.transport(target[:5], to="source"))
    with pytest.raises(UnsupportedError, match="no density"):
        model.log_prob(target)
    with pytest.raises(UnknownNameError, match="Did you mean 'source'"):
        model.transport(source, to="sorce")
    with pytest.raises(ConfigError, match="standard-normal source only"):
        fit(target, source=source, method="fm")


def test_transport_of_frames():
    data = frame()
    model = fit(data, source=frame(150).sample(frac=1, random_state=0), steps=3)
    moved = model.transport(data.head(5))
    assert_like(moved, data)
    with pytest.raises(UnsupportedError, match="transport"):
        model.encode(data.head(5))


# Saving and loading


def assert_same(left: Model, right: Model, data) -> None:
    a, b = left.sample(25, seed=3), right.sample(25, seed=3)
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b)
    else:
        assert np.array_equal(np.asarray(a), np.asarray(b))
    assert np.array_equal(left.log_prob(data, seed=1), right.log_prob(data, seed=1))


def test_save_and_load(tmp_path, model, framed):
    for number, (trained, data) in enumerate(((model, cloud()[:10]), (framed, frame().head(10)))):
        path = trained.save(tmp_path / f"{number}")
        assert path == tmp_path / f"{number}"
        loaded = advect.load(path)
        assert_same(trained, loaded, data)
        assert loaded.config == trained.config
        assert repr(loaded) == repr(trained)
        stored = tomllib.loads((path / "config.toml").read_text())
        assert stored["method"] == "i-cfm"
        again = loaded.save(tmp_path / f"{number} again")
        assert (again / "model.safetensors").read_bytes() == (path / "model.safetensors").read_bytes()


def test_save_never_overwrites(tmp_path, model):
    model.save(tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(RunFolderError, match="there already"):
        fit(cloud(seed=1)).save(tmp_path / "run")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    (tmp_path / "empty").mkdir()
    model.save(tmp_path / "empty")


def test_saved_figures_come_back(tmp_path):
    model = fit(cloud(), evaluate=True)
    model.save(tmp_path / "run")
    assert advect.load(tmp_path / "run").evaluation == model.evaluation


def test_training_in_a_folder(tmp_path):
    inside, plain = fit(cloud(), out=tmp_path / "run"), fit(cloud())
    # A run measures which solver is enough; the model itself is the same.
    assert np.array_equal(inside.log_prob(cloud()[:5], seed=1), plain.log_prob(cloud()[:5], seed=1))
    given = {"solver": "adams3", "steps": 10, "seed": 3}
    assert np.array_equal(inside.sample(25, **given), plain.sample(25, **given))
    assert_same(inside, advect.load(tmp_path / "run"), cloud()[:5])
    assert_same(inside, fit(cloud(), out=tmp_path / "run"), cloud()[:5])  # finished: opened again
    with pytest.raises(RunFolderError, match=r"training\.steps: 20 → 21"):
        fit(cloud(), out=tmp_path / "run", steps=21)


def test_other_labels_are_another_run(tmp_path):
    fit(two_classes(), condition=LABELS, out=tmp_path / "run", steps=2)
    with pytest.raises(RunFolderError, match=r"data\.sha256"):
        fit(two_classes(), condition=1 - LABELS, out=tmp_path / "run", steps=2)


def test_load_refuses_what_is_no_run(tmp_path):
    with pytest.raises(RunFolderError, match="no such folder"):
        advect.load(tmp_path / "absent")
    with pytest.raises(RunFolderError, match="not a run folder"):
        advect.load(tmp_path)


# Objects of the user's own


class OwnNetwork(torch.nn.Module):
    """Any module called as network(t, x, condition)."""

    def __init__(self, conditions: int = 0):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(3 + conditions, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))

    def forward(self, t, x, condition=None):
        time = torch.as_tensor(t, dtype=x.dtype).expand(len(x)).reshape(-1, 1)
        return self.layers(torch.cat([x, time] if condition is None else [x, time, condition], 1))


class Shuffled:
    """A coupling that keeps to the contract and does nothing clever."""

    def __init__(self):
        self.calls = 0

    def prepare(self, source, data, *, condition=None, generator=None):
        return self

    def draw(self, x0, x1, *, condition=None, generator=None):
        self.calls += 1
        order = torch.randperm(len(x1), generator=generator)
        return Pairs(order, torch.arange(len(x1)))


def test_own_network(tmp_path):
    network = OwnNetwork()
    start = {k: v.clone() for k, v in network.state_dict().items()}
    model = fit(cloud(), network=network)
    assert any(not torch.equal(start[k], v) for k, v in network.state_dict().items())
    model.save(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"OwnNetwork") as caught:
        advect.load(tmp_path / "run")
    assert "never imported" in caught.value.message
    assert_same(model, advect.load(tmp_path / "run", network=OwnNetwork()), cloud()[:5])


def test_own_network_with_a_condition():
    model = fit(two_classes(), condition=LABELS, network=OwnNetwork(conditions=3), steps=100, learning_rate=1e-2)
    assert model.config["model"]["condition_features"] == 3
    assert (model.sample(50, condition=1)[:, 0] > 0).mean() > 0.8


def test_own_path_and_coupling(tmp_path):
    path = GaussianPath(
        mean=lambda t, z: torch.sin(math.pi / 2 * t) * z.x1 + torch.cos(math.pi / 2 * t) * z.x0, std=lambda t, z: 0.01
    )
    coupling = Shuffled()
    model = fit(cloud(400), path=path, coupling=coupling, steps=400, network="residual-2x32", learning_rate=5e-3)
    assert coupling.calls >= 400
    drawn = model.sample(400)
    assert drawn.mean(0) == pytest.approx(cloud(400).mean(0), abs=0.3)
    assert np.cov(drawn.T) == pytest.approx(np.cov(cloud(400).T), abs=0.35)
    model.save(tmp_path / "run")
    assert_same(model, advect.load(tmp_path / "run"), cloud()[:5])
    assert model.config["model"]["path"].endswith("GaussianPath")
    assert model.config["model"]["coupling"].endswith("Shuffled")


def test_couplings_of_the_library_are_objects_too():
    model = fit(cloud(), coupling=Assignment())
    assert np.isfinite(model.sample(5)).all()


def test_progress_is_heard():
    lines = []
    fit(cloud(), progress=lines.append)
    assert (lines[-1].step, lines[-1].steps) == (20, 20)


def test_global_state_is_left_alone():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the global state is what is looked at
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()  # noqa: NPY002
    model = fit(cloud(), method="ot-cfm")
    model.sample(5)
    model.score(cloud()[:3])
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2] == torch.get_num_threads()
    assert torch.get_default_dtype() == torch.float32


def test_a_global_seed_decides_nothing():
    """Trap C4: only the seed that is given counts."""
    drawn = []
    for number in (1, 2):
        torch.manual_seed(number)
        np.random.seed(number)  # noqa: NPY002
        drawn.append(fit(cloud(), method="ot-cfm", seed=7).sample(10))
    assert np.array_equal(*drawn)
    assert not np.array_equal(drawn[0], fit(cloud(), method="ot-cfm", seed=8).sample(10))
