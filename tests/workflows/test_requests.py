"""What is asked, and what becomes of it before the first step: settings sorted, data read, everything resolved."""

import math

import numpy as np
import pytest
import torch

from advect.errors import AdvectError, ConfigError, DataError, UnknownNameError
from advect.methods import METHODS
from advect.run import values
from advect.workflows.preflight import preflight
from advect.workflows.prepare import prepare
from advect.workflows.request import TrainRequest, choose_device, read_settings, sort_settings
from tests.workflows.tiny import mixed, moons, request


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": -5},
        {"budget_seconds": 0.0, "steps": None},
        {"budget_seconds": math.nan, "steps": None},
        {"budget_seconds": 5.0, "steps": 5},
        {"batch_size": 1},
        {"seed": -1},
        {"validation": 1.0},
        {"test": -0.1},
        {"test": math.nan},
    ],
    ids=str,
)
def test_requests_out_of_range(wrong):
    with pytest.raises(ConfigError):
        request(moons(), **wrong)


def test_a_batch_that_holds_rows_many_times_is_said_or_refused():
    (said,) = [f for f in prepare(request(moons(), batch_size=500)).findings if f.kind == "large batch"]
    rows = len(prepare(request(moons())).split.train)
    assert said.message == f"a batch of 500 rows holds each of the {rows} training rows {500 // rows} times"
    assert not [f for f in prepare(request(moons())).findings if f.kind == "large batch"]
    assert prepare(request(moons(), batch_size=10_000)).training.batch_size == 10_000
    with pytest.raises(ConfigError, match=rf"--batch-size: a batch of 30000 rows .* Give at most {rows}"):
        prepare(request(moons(), batch_size=30_000))


def test_one_training_row_is_refused():
    two = np.array([[0.0, 1.0], [1.0, 0.5]])
    with pytest.raises(DataError, match="of 2 rows 1 is held out, which leaves one to train on"):
        prepare(request(two))
    assert len(prepare(request(two, validation=0.0, test=0.0)).split.train) == 2


def test_unknown_names_in_a_request():
    with pytest.raises(UnknownNameError, match="Did you mean 'i-cfm'"):
        TrainRequest(moons(), method="i-cmf")
    with pytest.raises(UnknownNameError, match="Did you mean 'learning_rate'"):
        TrainRequest(moons(), training={"learning_rat": 0.1})
    with pytest.raises(UnknownNameError, match="mlp"):
        prepare(request(moons(), network="mpl-3x64"))
    with pytest.raises(UnknownNameError, match="Did you mean 'sigma'"):
        prepare(request(moons(), options={"sigm": 0.1}))


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(UnknownNameError, match="Did you mean 'cuda'"):
        choose_device("cuba")
    for name, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
        if not there:
            with pytest.raises(ConfigError, match=f"no {name} device"):
                choose_device(name)


def test_every_setting_goes_to_its_owner():
    ordered = sort_settings("i-cfm", {"sigma": 0.1, "ema_decay": 0.9, "condition_dropout": 0.2, "times": "uniform"})
    assert ordered.options == {"sigma": 0.1, "times": "uniform"}
    assert ordered.training == {"ema_decay": 0.9}
    assert ordered.settings == {"condition_dropout": 0.2}


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [("sigmaa", "sigma"), ("learning_rte", "learning_rate"), ("condition_dropot", "condition_dropout")],
)
def test_a_misspelt_setting_is_refused_with_the_nearest(misspelt, meant):
    """Trap A1: nothing is forwarded unread."""
    with pytest.raises(UnknownNameError, match=f"Did you mean '{meant}'"):
        sort_settings("i-cfm", {misspelt: 1})
    with pytest.raises(UnknownNameError, match=f"Did you mean '{meant}'"):
        read_settings("i-cfm", {misspelt: "1"})


def test_an_option_of_another_method_is_refused():
    assert "replacement" in METHODS["ot-cfm"].options
    with pytest.raises(UnknownNameError):
        sort_settings("i-cfm", {"replacement": True})


def test_text_is_read_as_values():
    texts = {
        "sigma": "0.25",
        "times": "logit-normal",
        "warmup_steps": "7",
        "betas": "[0.8, 0.9]",
        "decay": "'constant'",
        "baseline": "false",
        "learning_rate": "1e-2",
    }
    ordered = read_settings("i-cfm", texts)
    assert ordered.options == {"sigma": 0.25, "times": "logit-normal"}
    assert ordered.training == {"warmup_steps": 7, "betas": (0.8, 0.9), "decay": "constant", "learning_rate": 0.01}
    assert ordered.settings == {"baseline": False}


@pytest.mark.parametrize(
    "texts",
    [
        {"learning_rate": "fast"},
        {"warmup_steps": "2.5"},
        {"warmup_steps": "true"},
        {"betas": "0.9"},
        {"betas": "['a', 'b']"},
        {"baseline": "maybe"},
        {"condition_dropout": "[1]"},
        {"likelihood_solver": "5"},
    ],
    ids=str,
)
def test_values_of_the_wrong_kind_are_refused_by_name(texts):
    with pytest.raises(ConfigError, match=next(iter(texts))):
        read_settings("i-cfm", texts)


@pytest.mark.parametrize(
    "settings",
    [
        {"condition_dropout": 1.5},
        {"likelihood_tolerance": 0.0},
        {"likelihood_tolerance": -1e-5},
        {"likelihood_solver": "dorpi5"},
    ],
    ids=str,
)
def test_model_settings_out_of_range(settings):
    with pytest.raises(AdvectError):
        prepare(request(mixed(), condition=("place",), settings=settings))


def test_prepared_rows_are_standardised_and_paired_with_their_side_columns():
    prepared = prepare(request(moons(500), seed=3))
    assert sorted(np.concatenate([prepared.split.train, prepared.split.validation, prepared.split.test])) == list(
        range(500)
    )
    generator = torch.Generator().manual_seed(0)
    latent = prepared.train.draw(torch.arange(prepared.train.num_rows), generator)
    assert latent.dtype == torch.float32
    assert torch.allclose(latent.mean(0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(latent.std(0), torch.ones(2), atol=2e-3)  # 1/n or 1/(n − 1)
    assert torch.equal(prepared.train.draw(torch.tensor([5, 2]), generator), latent[[5, 2]])


def test_discrete_columns_draw_fresh_noise_each_time():
    prepared = prepare(request(mixed()))
    index = torch.arange(20)
    first, second = (prepared.train.draw(index, torch.Generator().manual_seed(s)) for s in (0, 1))
    names = [c.name for c in prepared.codec.coordinates]
    exact = names.index("price")
    assert torch.equal(first[:, exact], second[:, exact])
    assert (first != second).any(0).sum() == len(names) - 1
    again = prepared.train.draw(index, torch.Generator().manual_seed(0))
    assert torch.equal(first, again)


def test_conditions_and_weights_stay_with_their_rows():
    table = mixed()
    prepared = prepare(request(table, condition=("place",)))
    encoded = prepared.condition.encode(table).float()[prepared.split.train]
    assert torch.equal(prepared.train.condition, encoded)
    assert "place" not in [c.name for c in prepared.schema.columns]


def weighted(values) -> np.ndarray:
    rows = np.empty(len(values), dtype=[("x", "f8"), ("y", "f8"), ("w", np.asarray(values).dtype)])
    data = moons(len(values))
    rows["x"], rows["y"], rows["w"] = data[:, 0], data[:, 1], values
    return rows


def test_weights():
    values_of_w = np.arange(100.0)
    prepared = prepare(request(weighted(values_of_w), weights="w"))
    assert prepared.train.weight.tolist() == values_of_w[prepared.split.train].tolist()
    with pytest.raises(UnknownNameError, match="column 'v'"):
        prepare(request(weighted(values_of_w), weights="v"))
    with pytest.raises(DataError, match="not negative"):
        prepare(request(weighted(-values_of_w), weights="w"))
    with pytest.raises(DataError, match="weight zero"):
        prepare(request(weighted(0 * values_of_w), weights="w"))
    with pytest.raises(DataError, match="must be numbers"):
        prepare(request(mixed(), weights="place"))


def test_validation_rows_without_weight_choose_nothing():
    """A loss over rows of weight zero is the same for any weights of the network."""
    split = prepare(request(weighted(np.ones(100)), weights="w")).split
    mask = np.ones(100)
    mask[split.validation] = 0
    assert prepare(request(weighted(mask), weights="w")).validate is None


def test_every_default_is_written_down():
    """Trap O12: batch, average, clip and schedule are in the configuration."""
    config = values(prepare(request(moons())).sections)
    assert config["method"] == "i-cfm"
    assert {
        "steps",
        "batch_size",
        "learning_rate",
        "warmup_steps",
        "decay",
        "gradient_clip",
        "ema_decay",
        "betas",
    } <= set(config["training"])
    assert {"sha256", "rows", "columns", "split", "validation", "test"} <= set(config["data"])
    assert {"solver", "steps"} <= set(config["sampling"])
    assert {"solver", "tolerance"} <= set(config["likelihood"])
    plain = {"sigma": 0.0, "times": "uniform", "predict": "velocity", "weighting": "velocity"}
    assert config["options"] == plain


def test_fingerprint_follows_the_content():
    def hash_of(data, **more):
        return values(prepare(request(data, **more)).sections)["data"]["sha256"]

    data = moons()
    other = data.copy()
    other[7, 1] = np.nextafter(other[7, 1], 9)
    assert hash_of(data) == hash_of(data.copy())
    assert hash_of(data) != hash_of(other)


def test_files_are_remembered_with_their_place(tmp_path):
    np.savez(tmp_path / "rows.npz", left=moons(60), right=moons(60, seed=1))
    config = values(prepare(request(f"{tmp_path}/rows.npz:right")).sections)["data"]
    assert config["path"] == str(tmp_path / "rows.npz")
    assert config["key"] == "right"
    np.savetxt(tmp_path / "rows.csv", moons(60), delimiter=",", header="a,b", comments="")
    config = values(prepare(request(tmp_path / "rows.csv")).sections)["data"]
    assert config["path"] == str(tmp_path / "rows.csv")
    assert "key" not in config


def test_source_rows_must_fit_the_data():
    table = mixed()
    strange = mixed(seed=1)
    strange.columns[2][4] = "moon"
    with pytest.raises(DataError, match="source rows hold values that the data never has, first in row 4"):
        prepare(request(table, source=strange))


def test_preflight_tells_the_plan_and_changes_nothing():
    plan = preflight(request(mixed(), steps=123))
    assert plan.steps == 123
    assert plan.seconds == pytest.approx(123 * plan.seconds_per_step)
    assert plan.seconds_per_step > 0
    assert "300 rows" in plan.data
    assert "i-cfm" in plan.model
    assert any(finding.kind == "missing" for finding in plan.findings)
    assert "steps = 123  # given" in plan.config


def test_continuous_gives_whole_numbers_a_density():
    prepared = prepare(request(mixed(), continuous=True))
    kinds = {c.name: c.kind for c in prepared.schema.columns}
    assert kinds == {"price": "continuous", "rooms": "continuous", "place": "categorical", "sold": "continuous"}


def test_runs_of_several_seeds_can_share_their_held_out_rows():
    """The split follows its own seed where one is given, and the run remembers it."""
    seeds = ({"seed": 1, "split_seed": 5}, {"seed": 2, "split_seed": 5}, {"seed": 2})
    one, other, free = (prepare(request(moons(), **more)) for more in seeds)
    assert one.split.digest() == other.split.digest() != free.split.digest()
    assert values(one.sections)["data"]["split_seed"] == 5
    assert "split_seed" not in values(free.sections)["data"]
    with pytest.raises(ConfigError, match="--split-seed"):
        request(moons(), split_seed=-1)
