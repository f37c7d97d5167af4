"""What a request may ask of a run, and that the answer is the model's."""

import base64
import json

import numpy as np
import pytest

from advect import load
from advect.data import read_table
from advect.errors import ConfigError
from advect.report.packing import NOWHERE
from advect.run import RunFolder
from advect.solvers import SOLVERS
from advect.studio.bench import Bench
from advect.studio.knobs import EVALUATIONS, MOST_GUIDANCE
from advect.studio.views import FRAMES, GRID, PICTURE_FRAMES, views_of
from advect.studio.wish import as_command
from advect.workflows.predictions import VIEWS
from tests.faces.made_runs import houses
from tests.workflows.tiny import moons, run


def digits(rows=60):
    return np.random.default_rng(0).integers(0, 17, (rows, 8, 8)).astype(np.uint8)


RUNS = {
    "plane": {"data": moons},
    "houses": {"condition": ("place",)},
    "scale": {"condition": ("age",), "method": "fm"},
    "optimal": {"data": moons, "method": "ot-cfm"},
    "bridge": {"data": moons, "method": "sf2m"},
    "layers": {"data": moons, "method": "nsf", "network": "mlp-1x8", "steps": 3},
    "jump": {"data": moons, "method": "gan", "network": "mlp-1x8", "steps": 3},
    "pictures": {"data": digits, "method": "i-cfm", "network": "mlp-1x8", "steps": 5},
    "days": {"method": "ot-cfm", "time_key": "day"},
    "one column": {"data": lambda: moons()[:, :1]},
}


def days():
    """Three clouds that wander, as a table with a column of days."""
    rng = np.random.default_rng(1)
    rows = [(*(rng.normal(size=2) + day), day) for day in (0, 1, 3) for _ in range(60)]
    return "x,y,day\n" + "".join(f"{x:.4f},{y:.4f},{day}\n" for x, y, day in rows)


@pytest.fixture(scope="module")
def benches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    houses(folder / "houses.csv", 200)
    (folder / "days.csv").write_text(days())
    made = {}
    for name, how in RUNS.items():
        how = dict(how)
        rows = how.pop("data", None)
        out = folder / name
        file = str(folder / ("days.csv" if "time_key" in how else "houses.csv"))
        data = file if rows is None else read_images(rows()) if name == "pictures" else rows()
        run(data, out=out, **how)
        made[name] = Bench(RunFolder(out))
    return made


def read_images(pixels):
    table = read_table(pixels.reshape(len(pixels), -1).astype(np.int64))
    return table.__class__(table.names, table.columns, "numpy", (8, 8), table.dtypes, image=True, origin="digits")


def wished(bench, **asked):
    return bench.wish(json.dumps(asked).encode())


def unpacked(said, key="states"):
    """The numbers that the page's script reads, ``(rows, columns)``, and a step of each column."""
    whole = np.frombuffer(base64.b64decode(said[key]), "<u2").reshape(-1, len(said["low"])).astype(float)
    low, high = np.array(said["low"]), np.array(said["high"])
    values = low - (high - low) + 3 * (high - low) * whole / (NOWHERE - 1)
    return np.where(whole == NOWHERE, np.nan, values), 3 * (high - low) / (NOWHERE - 1)


# --- rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plane", "optimal", "bridge", "layers", "jump", "one column"])
def test_rows_are_those_of_the_model(benches, name):
    """The very rows of `Model.sample` with the same seed, to a step of 16 bits over the frame."""
    bench = benches[name]
    model = load(bench.folder.path)
    said = bench.draw(wished(bench, rows=40, seed=5))
    exact = np.asarray(model.sample(40, seed=5), dtype=float)
    found, step = unpacked(said)
    inside = (exact > 2 * np.array(said["low"]) - np.array(said["high"])) & (
        exact < 2 * np.array(said["high"]) - np.array(said["low"])
    )
    assert inside.mean() > 0.9
    assert (np.abs(found - exact)[inside] <= np.broadcast_to(0.51 * step, exact.shape)[inside]).all()
    other = bench.draw(wished(bench, rows=40, seed=6))
    assert other["states"] != said["states"]


def test_solver_effort_and_tolerance(benches):
    bench = benches["plane"]
    model = load(bench.folder.path)
    cases = {
        ("euler", "evaluations", 7): {"solver": "euler", "steps": 7},
        ("heun", "evaluations", 7): {"solver": "heun", "steps": 3},
        ("rk4", "evaluations", 2): {"solver": "rk4", "steps": 1},
        ("tsit5", "tolerance", 1e-3): {"solver": "tsit5", "tolerance": 1e-3},
        ("sde", "evaluations", 12): {"solver": "sde", "steps": 12},
    }
    for (solver, knob, value), how in cases.items():
        said = bench.draw(wished(bench, rows=30, seed=2, solver=solver, **{knob: value}))
        exact = np.asarray(model.sample(30, seed=2, **how), dtype=float)
        found, step = unpacked(said)
        assert (np.abs(found - exact) <= 0.51 * step).mean() > 0.95, solver
        if knob == "evaluations" and value > 2:
            assert said["nfe"] <= value + 2  # once more at either end


def test_conditions_and_guidance(benches):
    bench = benches["houses"]
    model = load(bench.folder.path)
    (column,) = bench.knobs.conditions
    assert set(column.labels) == {"BAY", "INLAND", "ISLAND"}
    place = column.labels.index("BAY")
    wish = wished(bench, rows=25, seed=1, condition=[place], guidance=1.5)
    assert wish.condition == {"place": "BAY"}
    said = bench.draw(wish)
    exact = model.sample(25, "BAY", guidance=1.5, seed=1)
    prices = np.asarray(exact["price"], dtype=float)
    found, step = unpacked(said)
    at = said["names"].index("price")
    assert (np.abs(found[:, at] - prices) <= 0.51 * step[at] + 0.006).mean() > 0.9  # written with two decimals
    assert "--condition place=BAY" in said["command"]
    assert "--guidance 1.5" in said["command"]
    assert said["labels"][said["names"].index("garden")] == ["false", "true"]


def test_a_number_as_condition(benches):
    bench = benches["scale"]
    (column,) = bench.knobs.conditions
    assert column.labels == ()
    assert column.low < 30 < column.high
    said = bench.draw(wished(bench, rows=10, condition=[31.5]))
    assert "age=31.5" in said["command"]
    left_open = bench.draw(wished(bench, rows=10, condition=[None]))  # the column has gaps
    assert left_open["states"] != said["states"]


def test_times(benches):
    """Rows of a time that is asked for, beside held-out rows of that time; without being asked, the last."""
    bench = benches["days"]
    model = load(bench.folder.path)
    assert bench.knobs.times == ("0", "1", "3")
    for place, time in enumerate(bench.knobs.times):
        wish = wished(bench, rows=20, seed=3, time=place)
        said = bench.draw(wish)
        exact = model.sample(20, seed=3, at=time)
        found, step = unpacked(said)
        numbers = np.stack([np.asarray(exact[name], dtype=float) for name in ("x", "y")], 1)
        assert (np.abs(found - numbers) <= 0.51 * step + 6e-5).mean() > 0.95
        real = bench.real_rows(wish)
        assert real.num_rows == said["real_rows"] == 6
        assert np.abs(np.median(np.stack(real.columns), 1) - float(time)).max() < 1.5
        assert f"--at {time}" in said["command"]
    assert bench.draw(wished(bench, rows=20, seed=3))["states"] == said["states"]
    assert views_of(bench, wished(bench))["captions"][0] == "day 0"
    with pytest.raises(ConfigError, match="no times"):
        wished(benches["plane"], time=0)


def test_real_rows_are_of_the_same_condition(benches):
    bench = benches["houses"]
    for place, label in enumerate(bench.knobs.conditions[0].labels):
        real = bench.real_rows(wished(bench, condition=[place]))
        column = real.sides["place"] if "place" in real.sides else real.columns[real.names.index("place")]
        assert set(column) == {label}
    assert bench.real_rows(wished(bench)).num_rows == bench.held_out.num_rows


def test_the_frame_stays(benches):
    """Axes do not jump while sliders move, and what is outside is counted."""
    bench = benches["plane"]
    said = [bench.draw(wished(bench, rows=50, seed=seed, solver="euler", evaluations=1)) for seed in (0, 1)]
    assert said[0]["low"] == said[1]["low"]
    found, _ = unpacked(said[0])
    beyond = (found < said[0]["low"]) | (found > said[0]["high"])
    assert said[0]["outside"] == beyond.sum(0).tolist()


def test_pictures(benches):
    bench = benches["pictures"]
    said = bench.draw(wished(bench, rows=9, seed=4))
    assert (said["kind"], said["height"], said["width"], said["channels"]) == ("pictures", 8, 8, 1)
    exact = np.asarray(load(bench.folder.path).sample(9, seed=4), dtype=float).reshape(9, 8, 8)
    low, high = bench.bounds
    found = np.frombuffer(base64.b64decode(said["states"]), np.uint8).reshape(9, 8, 8)
    np.testing.assert_array_equal(found, np.rint(255 * (exact - low) / (high - low)))


# --- what applies ----------------------------------------------------------------------------------------------------


def test_knobs_that_apply(benches):
    names = {name: {solver.name for solver in bench.knobs.solvers} for name, bench in benches.items()}
    assert names["layers"] == names["jump"] == set()
    assert names["plane"] == set(SOLVERS) - {"bridge-sde"}
    assert names["optimal"] == set(SOLVERS) - {"bridge-sde", "ancestral", "sde"}  # no score to add noise with
    assert "bridge-sde" in names["bridge"]
    assert not names["bridge"] & {"ddim", "dpm++2m", "unipc"}
    assert benches["houses"].knobs.guidance
    assert not benches["plane"].knobs.guidance
    assert benches["plane"].knobs.own.name in SOLVERS
    assert benches["layers"].knobs.own is None


def test_every_offered_solver_draws(benches):
    for name in ("plane", "bridge", "optimal"):
        bench = benches[name]
        for solver in bench.knobs.solvers:
            said = bench.draw(wished(bench, rows=3, solver=solver.name, evaluations=8, tolerance=1e-2))
            assert said["failed"] == 0, solver.name


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {"rows": 1.5}, {"rows": "10"}, {"rows": True}, {"rows": None}, {"rows": 5000}, {"rows": 0},
        {"seed": -1}, {"seed": 2**40}, {"seed": []}, {"solver": "eule"}, {"solver": 3}, {"solver": ["euler"]},
        {"solver": "euler", "evaluations": EVALUATIONS[-1] + 1}, {"solver": "euler", "evaluations": 0},
        {"solver": "tsit5", "tolerance": 1e-12}, {"solver": "tsit5", "tolerance": 10}, {"guidance": 1.0},
        {"guidance": MOST_GUIDANCE * 2}, {"guidance": "1"}, {"condition": [0]}, {"condition": "x"}, {"more": 1},
        {"out": "/tmp/x"},
    ],
)  # fmt: skip
def test_wishes_out_of_bounds(benches, asked):
    with pytest.raises(ConfigError):
        wished(benches["plane"], **asked)


@pytest.mark.parametrize("body", [b"", b"null", b"3", b"[]", b"{", b"\xff\xfe", b'{"rows": NaN}', b"[" * 5000])
def test_bodies_that_are_no_wish(benches, body):
    with pytest.raises(ConfigError):
        benches["plane"].wish(body)


@pytest.mark.parametrize("condition", [[], [3], [-1], [0, 0], [None], ["BAY"], [0.5], [True], {"place": 0}])
def test_conditions_out_of_bounds(benches, condition):
    with pytest.raises(ConfigError):
        wished(benches["houses"], condition=condition)


def test_numbers_that_are_none(benches):
    for value in ("NaN", "Infinity", "1e999"):
        with pytest.raises(ConfigError):
            benches["scale"].wish(f'{{"condition": [{value}]}}'.encode())


def test_the_command_is_quoted(benches):
    wish = wished(benches["plane"], rows=3)
    assert as_command(wish, "runs/a b; rm") == "advect sample 'runs/a b; rm' -n 3 --seed 0"


# --- the network -----------------------------------------------------------------------------------------------------


def test_views_in_the_plane(benches):
    bench = benches["plane"]
    said = views_of(bench, wished(bench, seed=2))
    assert (said["kind"], said["grid"], said["missing"]) == ("points", True, {})
    assert set(said["says"]) == set(VIEWS)
    points = np.frombuffer(base64.b64decode(said["points"]), "<u2")
    assert len(points) == FRAMES * GRID**2 * 2
    arrows = np.frombuffer(base64.b64decode(said["says"]["velocity"]), "<f4")
    assert np.isfinite(arrows).all()
    assert len(arrows) == len(points)
    assert views_of(bench, wished(bench, seed=2)) == said
    assert json.dumps(said)


def test_views_of_more_columns_and_of_a_condition(benches):
    bench = benches["houses"]
    said = views_of(bench, wished(bench))
    assert not said["grid"]
    assert said["names"] == ["price", "rooms", "age"]
    first = said["says"]["x1"]
    assert views_of(bench, wished(bench, condition=[0]))["says"]["x1"] != first
    assert views_of(bench, wished(bench, condition=[0], guidance=3.0))["says"]["x1"] != first


def test_views_of_pictures(benches):
    said = views_of(benches["pictures"], wished(benches["pictures"]))
    assert said["kind"] == "pictures"
    assert len(base64.b64decode(said["states"])) == PICTURE_FRAMES * said["rows"] * 64
    assert set(said["says"]) == set(VIEWS)


def test_where_there_is_nothing_to_look_at(benches):
    assert "layers" in views_of(benches["layers"], wished(benches["layers"]))["why"]
    assert "one jump" in views_of(benches["jump"], wished(benches["jump"]))["why"]
    assert "two columns" in views_of(benches["one column"], wished(benches["one column"]))["why"]
    assert set(views_of(benches["optimal"], wished(benches["optimal"]))["missing"]) == {"score"}
    assert set(views_of(benches["bridge"], wished(benches["bridge"]))["missing"]) == {"x1", "noise"}


def test_a_computation_is_given_up(benches):
    """What is called before every evaluation may end it, and is gone afterwards."""
    bench = benches["plane"]
    calls = []

    def stop():
        calls.append(1)
        if len(calls) == 5:
            raise KeyError("enough")

    unwatch = bench.watch(stop)
    with pytest.raises(KeyError, match="enough"):
        bench.draw(wished(bench, rows=3, solver="euler", evaluations=50))
    unwatch()
    bench.draw(wished(bench, rows=3, solver="euler", evaluations=50))
    assert len(calls) == 5
