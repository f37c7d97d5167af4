"""The pictures of a model show the numbers that the model gives, and leave matplotlib as they found it."""

import math
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.quiver import Quiver

import advect
from advect import AdvectError, Model
from advect.errors import ConfigError, UnknownNameError, UnsupportedError
from advect.report.density import DEEPEST, mass_levels
from advect.solvers import make_solver
from advect.workflows.plots import data_velocity

QUICK = {"steps": 20, "batch_size": 32, "network": "residual-1x8", "method": "i-cfm"}
LAYERS = {"steps": 20, "batch_size": 32, "method": "realnvp"}


def rows(count: int = 300) -> pd.DataFrame:
    """One column with a heavy tail, which preprocessing bends, and one without."""
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "price": np.exp(1.5 * random.standard_normal(count)),
            "area": random.normal(60, 20, count),
            "place": random.choice(["coast", "island"], count),
            "floors": random.integers(1, 4, count),
        }
    )


def plane() -> pd.DataFrame:
    return rows()[["price", "area"]]


@pytest.fixture(scope="module")
def ode() -> Model:
    return advect.fit(plane(), **QUICK)


@pytest.fixture(scope="module")
def layered() -> Model:
    return advect.fit(plane(), **LAYERS)


@pytest.fixture(scope="module")
def given() -> Model:
    return advect.fit(rows()[["price", "area", "place"]], condition="place", **QUICK)


@pytest.fixture(scope="module")
def mixed() -> Model:
    return advect.fit(rows(), **QUICK)


@pytest.fixture(scope="module")
def digits() -> Model:
    return advect.fit("digits", **(QUICK | {"network": "mlp-1x8", "steps": 5}))


def collection(figure: Figure, kind: type, panel: int = 0):
    return next(c for c in figure.axes[panel].collections if isinstance(c, kind))


def points_of(figure: Figure, panel: int = 0) -> np.ndarray:
    """The points of a scatter in order: dense ones are drawn last."""
    return ordered(np.asarray(collection(figure, PathCollection, panel).get_offsets()))


def ordered(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.T)]


def grid_of(figure: Figure) -> tuple[np.ndarray, np.ndarray]:
    """The grid points ``(n, 2)`` of a heat map and its values ``(n,)``."""
    image = figure.axes[0].images[0]
    values = np.ma.getdata(image.get_array())
    left, right, bottom, top = image.get_extent()
    axes = []
    for low, high, count in ((left, right, values.shape[1]), (bottom, top, values.shape[0])):
        half = (high - low) / count / 2
        axes.append(np.linspace(low + half, high - half, count))
    return np.stack(np.meshgrid(*axes), -1).reshape(-1, 2), values.ravel()


def shown(values: np.ndarray) -> np.ndarray:
    """Log-densities as they are drawn: what is far below the highest is one colour."""
    return np.maximum(values, values.max() - DEEPEST - 1)


# Density


@pytest.mark.parametrize("kind", ["ode", "layered"])
def test_the_heat_map_is_the_models_log_density(kind, request):
    model = request.getfixturevalue(kind)
    figure = model.plot_density(resolution=12)
    points, values = grid_of(figure)
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("price", "area")
    assert len(values) == 144
    # The grid is read off the extent of the picture, to some 1e-15 of it.
    assert np.allclose(
        values, shown(model.log_prob(pd.DataFrame(points, columns=["price", "area"]))), rtol=0, atol=1e-6
    )


def test_columns_turn_the_heat_map(layered):
    points, values = grid_of(layered.plot_density(("area", "price"), resolution=8))
    turned = pd.DataFrame(points, columns=["area", "price"])
    assert np.allclose(values, shown(layered.log_prob(turned)), rtol=0, atol=1e-6)


def test_the_frame_holds_the_mass(layered):
    """The sum over the grid is the mass of the frame, which the share of samples in it estimates independently."""
    points, values = grid_of(layered.plot_density(resolution=160))
    x, y = np.unique(points[:, 0]), np.unique(points[:, 1])
    mass = float(np.exp(values).sum()) * (x[1] - x[0]) * (y[1] - y[0])
    drawn = layered.sample(4000, seed=9).to_numpy()
    inside = float(((drawn > points.min(0)) & (drawn < points.max(0))).all(1).mean())
    # Binomial error of the share, 5 standard deviations at 0.98, and half a cell of the rectangle rule at each edge.
    assert abs(mass - inside) < 5 * math.sqrt(0.02 / 4000) + 0.01
    assert inside > 0.95


def test_a_condition_picks_the_density(given):
    points, values = grid_of(given.plot_density(condition="island", resolution=8))
    expected = given.log_prob(pd.DataFrame(points, columns=["price", "area"]).assign(place="island"))
    assert np.allclose(values, shown(expected), rtol=0, atol=1e-6)
    with pytest.raises(ConfigError, match="condition="):
        given.plot_density()
    with pytest.raises(ConfigError, match="condition="):
        given.plot_velocity()


@pytest.mark.parametrize("data", [plane()[["area"]], plane()["area"].to_numpy()], ids=["frame", "scalars"])
def test_the_curve_is_the_density(data):
    model = advect.fit(data, **QUICK)
    figure = model.plot_density(resolution=50)
    x, y = figure.axes[0].lines[0].get_data()
    shaped = x.reshape(-1, 1) if data.ndim == 2 else x
    assert np.allclose(y, np.exp(model.log_prob(shaped)), rtol=1e-9)
    # The trapezium rule over a frame that leaves 0.4 % of 2000 samples out.
    assert np.trapezoid(y, x) == pytest.approx(1.0, abs=0.03)


def test_contours_are_drawn_at_those_levels(layered):
    figure = layered.plot_density(resolution=40)
    points, _ = grid_of(figure)
    values = layered.log_prob(pd.DataFrame(points, columns=["price", "area"]))
    assert sorted(mass_levels(values).values()) == pytest.approx(collection(figure, ContourSet).levels)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["50 %", "90 %", "99 %"]


# Ways


def test_ways_are_the_models_trajectories(ode):
    times = (0.0, 0.4, 1.0)
    figure = ode.plot_trajectories(7, times=np.array(times), seed=3)
    drawn = np.stack(collection(figure, LineCollection).get_segments(), 1)
    assert np.array_equal(drawn, ode.trajectory(7, times, seed=3))
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("price", "area")
    # A fixed-step solver that stops on the way is an integrator of its own; both are within its accuracy of each other.
    low, high = plane().min().to_numpy(), plane().max().to_numpy()
    spread = plane().std().to_numpy()
    assert np.allclose(np.clip(drawn[-1], low, high) / spread, ode.sample(7, seed=3) / spread, atol=0.01)


def test_ends_of_ways_are_marked(ode):
    figure = ode.plot_trajectories(5, times=(0.25, 0.5))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["t = 0.25", "t = 0.5"]
    dots = np.stack(figure.axes[0].lines[1].get_data(), 1)
    assert np.array_equal(dots, ode.trajectory(5, (0.25, 0.5))[-1])


def test_layers_are_panels_from_source_to_samples(layered):
    figure = layered.plot_trajectories(50, seed=4)
    assert figure.axes[0].get_title(loc="left") == "source"
    assert figure.axes[-1].get_title(loc="left") == "data"
    expected = layered.sample(50, seed=4).to_numpy()
    low, high = plane().min().to_numpy(), plane().max().to_numpy()
    drawn = np.clip(points_of(figure, -1), low, high)  # samples are clipped to what was observed
    assert np.allclose(np.sort(drawn, 0), np.sort(expected, 0), rtol=1e-6)


def test_one_column_is_drawn_against_time(ode, layered):
    figure = ode.plot_trajectories(6, columns="area")
    drawn = np.stack([line.get_ydata() for line in figure.axes[0].lines[:6]], 1)
    assert np.array_equal(drawn, ode.trajectory(6, np.linspace(0, 1, 33).tolist())[..., 1])
    assert layered.plot_trajectories(6, columns="area").axes[0].get_xlabel() == "layers behind"


def test_times_must_rise_and_belong_to_an_ode(ode, layered):
    for times in ((0.5,), (1, 0), (0, 2), (0, math.nan)):
        with pytest.raises(ConfigError, match="times"):
            ode.plot_trajectories(times=times)
    with pytest.raises(ConfigError, match="layers"):
        layered.plot_trajectories(times=(0, 1))


# Velocity


def test_arrows_are_the_field(ode):
    figure = ode.plot_velocity(0.3, n=20, resolution=6, seed=5)
    quiver = collection(figure, Quiver)
    before, mid = ode.flow.split_at_ode("")[:2]
    points = torch.as_tensor(np.column_stack([quiver.X, quiver.Y]))
    inner = before.encode(points).value
    velocity = mid.field(0.3, inner).detach()
    step = 1e-2
    with torch.no_grad():
        ends = [before.decode(inner + sign * step * velocity).value for sign in (1, -1)]
    expected = ((ends[0] - ends[1]) / (2 * step)).numpy()
    drawn = np.column_stack([quiver.U, quiver.V])
    # Central differences: 1e-4 from the bend of the axis, 1e-5 from float32; beside the fastest arrow.
    assert np.abs(drawn - expected).max() < 1e-3 * np.abs(expected).max()
    assert np.array_equal(points_of(figure), ordered(ode.trajectory(20, [0.3], seed=5)[0]))


def test_rows_move_with_that_velocity(ode):
    """Along a way (x(t + h) − x(t − h)) / 2h is the field at x(t)."""
    h = 0.02
    exact = ode.flow.with_options(solver=make_solver("rk4", steps=50))
    with torch.no_grad():
        states = exact.trajectory(
            40, torch.tensor([0.5 - h, 0.5, 0.5 + h]), generator=torch.Generator().manual_seed(0)
        ).numpy()
    moved = (states[2] - states[0]) / (2 * h)
    field = data_velocity(ode.artefact, 0.5, torch.as_tensor(states[1]).double(), None)
    # h²/6 of the third derivative, and float32 states (1e-6 of a spread of 20) over 2h, beside the fastest row's 0.2.
    assert np.abs(moved - field).max() < 0.01 * np.abs(field).max()


@pytest.mark.parametrize("time", [-0.1, 1.5, math.nan])
def test_there_is_no_velocity_outside_the_interval(ode, time):
    with pytest.raises(ConfigError, match="time"):
        ode.plot_velocity(time)


# Columns far from zero


@pytest.fixture(scope="module")
def far() -> np.ndarray:
    """Like times in seconds: a thousand widths and more from zero, where float32 has no digits left."""
    return np.random.default_rng(0).normal([1.7e9, -4e6], [50.0, 10.0], (300, 2))


@pytest.mark.parametrize("settings", [QUICK, LAYERS], ids=["ode", "layers"])
def test_columns_far_from_zero_stay_in_their_units(far, settings):
    model = advect.fit(far, **settings)
    figure = model.plot_trajectories(20, times=(0, 1) if model.flow.ode else None, seed=1)
    ends = np.stack(figure.axes[0].lines[1].get_data(), 1) if model.flow.ode else points_of(figure, -1)
    clipped = np.clip(ends, far.min(0), far.max(0))  # as samples are
    # An integrator that stops on the way differs by less than a hundredth of the columns' spread.
    assert np.allclose(ordered(clipped), ordered(model.sample(20, seed=1)), rtol=0, atol=[0.5, 0.1])
    points, values = grid_of(model.plot_density(resolution=6))
    assert np.allclose(values, shown(model.log_prob(points)), rtol=0, atol=1e-3)
    if model.flow.ode:
        assert np.array_equal(ends, model.trajectory(20, (0, 1), seed=1)[-1])
        quiver = collection(model.plot_velocity(resolution=3), Quiver)
        assert (np.abs(quiver.X - 1.7e9) < 500).all()
        assert (np.abs(quiver.Y + 4e6) < 100).all()


# Samples


def test_two_columns_stand_beside_real_rows(ode):
    figure = ode.plot_samples(30, real=plane(), seed=2)
    assert [axes.get_title(loc="left").split("  ")[0] for axes in figure.axes] == ["real rows", "samples"]
    assert np.allclose(points_of(figure, 1), ordered(ode.sample(30, seed=2).to_numpy()))
    real = points_of(figure, 0)
    assert len(real) == 30
    assert np.isin(real[:, 0], plane()["price"]).all()


def test_samples_alone(ode):
    figure = ode.plot_samples(30, seed=2)  # the rows came from Python, and are not stored
    assert len(figure.axes) == 1
    assert np.allclose(points_of(figure), ordered(ode.sample(30, seed=2).to_numpy()))


def test_held_out_rows_of_the_run_are_found():
    model = advect.fit("moons", **QUICK)
    assert len(model.plot_samples(20).axes) == 2
    assert len(model.plot_samples(20, real=False).axes) == 1


def test_a_table_has_a_panel_per_column_or_a_matrix(mixed):
    figure = mixed.plot_samples(40, real=rows())
    assert [axes.get_title(loc="left") for axes in figure.axes[:4]] == ["price", "area", "place", "floors"]
    columns = ["price", "area", "floors"]
    assert len(mixed.plot_samples(40, real=rows(), columns=columns).axes) == 9
    corner = mixed.plot_samples(40, columns=columns)
    below = np.asarray(collection(corner, PathCollection, 3).get_offsets())  # area against price
    assert np.allclose(below, mixed.sample(40)[["price", "area"]])
    alone = mixed.plot_samples(40)
    assert [text.get_text() for text in alone.legends[0].get_texts()] == ["samples"]
    assert len(mixed.plot_samples(40, columns="place").axes) == 1


def test_pictures_are_grids(digits):
    assert [axes.get_title(loc="left") for axes in digits.plot_samples(6).axes] == ["real pictures", "samples"]
    figure = digits.plot_trajectories(2, times=(0, 0.5, 1))
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["t = 0", "t = 0.5", "t = 1"]
    with pytest.raises(ConfigError, match="columns"):
        digits.plot_samples(columns="x0")


# What is refused


@pytest.mark.parametrize("method", ["gan", "vae"])
def test_what_is_no_flow_shows_its_samples_only(method):
    model = advect.fit(plane(), method=method, steps=5, batch_size=32)
    assert isinstance(model.plot_samples(10), Figure)
    for plot in (model.plot_density, model.plot_trajectories, model.plot_velocity):
        with pytest.raises(UnsupportedError, match=f"{method}.*plot_samples"):
            plot()


def test_a_source_of_rows_has_no_density():
    model = advect.fit(plane() + 3, source=plane(), **QUICK)
    with pytest.raises(UnsupportedError, match="data set"):
        model.plot_density()
    assert isinstance(model.plot_velocity(0.0, resolution=3), Figure)


def test_the_remedy_is_named(mixed, layered, digits):
    for model in (mixed, digits):
        for plot in (model.plot_density, model.plot_velocity):
            with pytest.raises(UnsupportedError, match="plot_samples"):
                plot()
    with pytest.raises(UnsupportedError, match="plot_trajectories"):
        layered.plot_velocity()
    with pytest.raises(UnsupportedError, match="integral"):
        layered.plot_density("price")


def test_bad_arguments_are_errors(ode):
    with pytest.raises(UnknownNameError, match=r"'prize'.*'price'"):
        ode.plot_samples(columns="prize")
    calls = [
        lambda: ode.plot_samples(0),
        lambda: ode.plot_samples(columns=()),
        lambda: ode.plot_samples(columns=("price", "price")),
        lambda: ode.plot_samples(real=rows()[["place"]]),
        lambda: ode.plot_samples(condition="coast"),
        lambda: ode.plot_density(resolution=1),
        lambda: ode.plot_trajectories(0),
        lambda: ode.plot_velocity(n=0),
        lambda: ode.plot_velocity(resolution=1),
    ]
    for call in calls:
        with pytest.raises(AdvectError):
            call()


# Manners


def test_the_seed_decides(ode):
    one, same, other = (points_of(ode.plot_samples(10, seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_global_state_stays_as_it_is(ode):
    from matplotlib import pyplot

    settings, state = dict(matplotlib.rcParams), torch.get_rng_state()
    with matplotlib.rc_context({"text.usetex": True, "figure.figsize": (1, 1)}):  # a user's style reaches no figure
        figure = ode.plot_samples(10)
        assert not figure.axes[0].xaxis.label.get_usetex()
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert dict(matplotlib.rcParams) == settings
    assert pyplot.get_fignums() == []
    assert torch.equal(torch.get_rng_state(), state)


def test_matplotlib_waits_until_something_is_drawn():
    program = (
        "import sys, advect, advect.api; assert 'matplotlib' not in sys.modules; "
        "advect.fit('moons', method='realnvp', steps=1).plot_samples(5); "
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_names_cannot_break_a_figure():
    model = advect.fit(plane().set_axis([r"$\frac{", "<b>\n"], axis=1), **QUICK)
    for figure in (model.plot_samples(5), model.plot_trajectories(5), model.plot_velocity(n=5, resolution=3)):
        assert figure._repr_png_()
