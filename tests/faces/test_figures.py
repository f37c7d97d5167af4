"""The figures stand whatever the columns hold: gaps, extremes, hostile names, nothing at all."""

import base64
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from advect.records import Table
from advect.report import DensityGrid, Motion
from advect.report.content import ErrorCurve, FigureCurve, History, Likelihood, Regression
from advect.report.curves import error_figure, figures_figure, history_figure, likelihood_figure, regression_figure
from advect.report.density import density_card, density_figure
from advect.report.figures import matrix_columns, matrix_figure, scatter_figure, trajectory_figure
from advect.report.ink import REAL, SAMPLES, figure_uri, label
from advect.report.marginals import MOST_PANELS, marginals_figure
from advect.report.moving import moving
from advect.report.numerals import number, percent, plus_minus
from advect.report.strips import Clouds, strip_figure
from advect.report.values import Frame, bins, numbers, shares

UNIT = Frame(np.zeros(2), np.ones(2))

HOSTILE = [
    "<script>alert(1)</script>", "$\\frac{", "$x", "a$b$c", "\\$", "_hidden", "", "\n\r\t", "\x00", "名前", "😀",
    "\ud800", "{{ 7*7 }}", "a" * 500, "\u202egnp.exe", "%s {0}", "\\", "^_^", "$$",
]  # fmt: skip


def table(columns, names=None):
    columns = tuple(np.asarray(c) for c in columns)
    names = tuple(f"x{i}" for i in range(len(columns))) if names is None else tuple(names)
    return Table(names, columns, "csv", (len(columns),), tuple(str(c.dtype) for c in columns))


def draw(figure):
    """Render for real: a figure that only fails when drawn has failed."""
    uri = figure_uri(figure)
    return base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")).decode()


def texts(figure):
    from matplotlib.text import Text

    return [t.get_text() for t in figure.findobj(Text) if t.get_text()]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_the_figures_are_invisible_to_pyplot_and_leave_its_settings_alone(rng):
    import matplotlib
    import matplotlib.pyplot as plt

    before = dict(matplotlib.rcParams)
    pair = table(rng.normal(size=(2, 50)))
    for figure in (scatter_figure(pair, pair), marginals_figure(pair, pair), matrix_figure(pair, pair)):
        draw(figure)
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def test_a_users_style_does_not_reach_the_report(rng):
    """With LaTeX switched on by the user every text would need a LaTeX that is not there."""
    import matplotlib

    pair = table(rng.normal(size=(2, 50)))
    plain = draw(scatter_figure(pair, pair))
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "black", "font.size": 30}):
        assert draw(scatter_figure(pair, pair)) == plain


def test_matplotlib_pillow_and_jinja_are_not_imported_before_they_are_needed():
    code = (
        "import sys, advect.report, advect.report.figures, advect.report.curves;"
        "sys.exit(any(m in sys.modules for m in ('matplotlib', 'PIL', 'jinja2')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_equal_content_gives_equal_bytes(rng):
    pair = table(rng.normal(size=(3, 200)))
    assert figure_uri(marginals_figure(pair, pair), "png") == figure_uri(marginals_figure(pair, pair), "png")
    assert figure_uri(matrix_figure(pair, pair)) == figure_uri(matrix_figure(pair, pair))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_drawn_as_they_are(name, rng):
    real = table([rng.normal(size=40), rng.normal(size=40), rng.normal(size=40)], [name, "b", "c"])
    for figure in (
        scatter_figure(real, real, (name, "b")),
        marginals_figure(real, real),
        matrix_figure(real, real),
        trajectory_figure(rng.normal(size=(4, 9, 2)), (name, "b")),
        error_figure([ErrorCurve(name, (1, 2), (3, 4), name)]),
        strip_figure([Clouds(rng.normal(size=(3, 9, 2)), [name] * 3, name)], (name, "b"), None, UNIT),
        density_figure(DensityGrid((np.arange(5.0), np.arange(4.0)), rng.normal(size=(4, 5)), (name, "b"))),
    ):
        assert "<script" not in draw(figure)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_categories(name):
    words = np.array([name, "b", None, name], object)
    draw(marginals_figure(table([words]), table([words])))


@given(st.text(max_size=40))
@settings(max_examples=200)
def test_labels_are_short_single_lines_without_mathematics(text):
    from matplotlib.cbook import is_math_text

    shown = label(text)
    assert not is_math_text(shown)
    assert len(shown.splitlines()) <= 1
    assert len(shown.replace("\\$", "$")) <= 26


def test_labels_keep_dollars_and_ordinary_letters():
    assert label("price in $") == "price in \\$"
    assert label("température °C") == "température °C"


@pytest.mark.parametrize("width", [1, 2, 3, 7, 24, 25, 100])
def test_any_number_of_columns_and_the_rest_is_named(width, rng):
    real, samples = table(rng.normal(size=(width, 30))), table(rng.normal(size=(width, 20)))
    figure = marginals_figure(real, samples, across=6)
    assert sum(len(axes.patches) > 0 for axes in figure.axes) == min(width, MOST_PANELS)
    said = [t for t in texts(figure) if "columns" in t]
    assert said == ([f"the first {MOST_PANELS} of {width} columns"] if width > MOST_PANELS else [])
    assert len(matrix_columns(real, samples)) == min(width, 5)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(0), np.full(5, 3.0), np.full(5, np.nan), np.array([1.0]), np.array([np.inf, -np.inf, np.nan]),
        np.array([1e300, -1e300, 0.0]), np.array([1.7e308, -1.7e308]), np.array([5e-324, 0.0]),
        np.array([1e-310, 3e-310]),
        1e9 + np.array([0.0, 1e-6, 2e-6]), 1e16 + np.array([0.0, 2.0, 4.0]), np.array([0.0] * 999 + [1.0]),
        np.arange(5, dtype=np.int8), np.array([2**63 - 1, -(2**63)]), np.array([True, False]),
        np.arange(300, dtype=np.uint8),
        np.array([np.nan, 1.0, 2.0], np.float32), np.array([None, None], object), np.array([], object),
    ],
    ids=lambda v: f"{v.dtype}-{len(v)}-{v[:1]}",
)  # fmt: skip
def test_any_values(values, rng):
    other = rng.normal(size=len(values))
    first, second = table([values, other]), table([values[::-1], other])
    for figure in (
        marginals_figure(first, second),
        matrix_figure(first, second),
        matrix_figure(first, second, ["x0", "x1"]) if values.dtype.kind in "iuf" else scatter_figure(first, second),
        scatter_figure(first, second),
        marginals_figure(first, None),
    ):
        draw(figure)


@given(hnp.arrays(np.float64, st.integers(0, 30), elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_every_frame_is_finite_and_every_histogram_possible(values):
    column = numbers(table([values]), table([values[: len(values) // 2]]), "x0")
    assert np.isfinite([column.low, column.high]).all()
    if not column.empty and not column.constant:
        edges = bins(column)
        assert (np.diff(edges) > 0).all()
        inside = column.real[np.isfinite(column.real)]
        inside = inside[(inside >= column.low) & (inside <= column.high)]
        assert np.histogram(inside, edges)[0].sum() == len(inside)


def test_whole_numbers_get_a_bar_each():
    column = numbers(table([np.arange(10)]), table([np.arange(10)]), "x0")
    assert column.whole
    assert (bins(column) % 1 == 0.5).all()
    assert len(bins(column)) == 11


def test_many_whole_numbers_share_bars_equally():
    """Bars of unequal width in whole numbers would show a comb that the data does not have."""
    values = np.arange(1000)
    column = numbers(table([values]), table([values + 0.3]), "x0")  # whatever the samples are
    counts = np.histogram(values, bins(column))[0]
    assert len(set(counts[1:-1])) == 1


def test_a_far_row_does_not_squeeze_the_frame(rng):
    values = np.append(rng.normal(size=1000), 1e6)
    assert numbers(table([values]), table([values]), "x0").high < 10


def test_samples_that_miss_the_data_stay_in_sight(rng):
    column = numbers(table([rng.normal(size=500)]), table([rng.normal(size=500) + 50]), "x0")
    assert column.low < -1
    assert column.high > 51


def test_a_large_offset_is_named_on_the_axis():
    values = 1e9 + np.linspace(0, 1, 50)
    assert numbers(table([values]), table([values]), "x0").scale == "+ 1000000000"


def test_rare_categories_are_gathered_and_unknown_ones_counted():
    real = np.array([f"c{i:02d}" for i in range(20)] * 2 + ["c00"], object)
    names, real_shares, sample_shares = shares(real, np.array(["new", "c00"], object))
    assert names[0] == "c00"
    assert names[-1] == "13 others"
    assert sum(real_shares) == pytest.approx(1.0)
    assert sum(sample_shares) == pytest.approx(1.0)


def test_no_rows_say_so():
    empty = table([np.zeros(0), np.zeros(0)])
    assert "no rows to draw" in texts(marginals_figure(empty, empty))
    assert "no rows to draw" in texts(scatter_figure(empty, empty))
    assert "There are no columns to draw." in texts(marginals_figure(table([]), table([])))


def test_a_constant_column_says_its_value():
    pair = table([np.full(9, 4.0)])
    assert "always 4" in texts(marginals_figure(pair, pair))


def test_clouds_are_rasterised_so_that_pages_stay_small(rng):
    big = table(rng.normal(size=(2, 200_000)))
    assert len(figure_uri(scatter_figure(big, big))) < 600_000
    assert len(figure_uri(matrix_figure(big, big))) < 600_000


def test_the_denser_panel_is_the_darker_one(rng):
    """Both panels share one scale: equal clouds get equal colours, a wider cloud is nowhere darker."""
    narrow, wide = table(0.1 * rng.normal(size=(2, 2000))), table(rng.normal(size=(2, 2000)))
    left, right = scatter_figure(wide, narrow).axes[:2]
    assert left.collections[0].get_array().max() < right.collections[0].get_array().max()


def test_real_and_samples_differ_in_lightness_and_in_shape():
    """The two inks are told apart on grey paper: their luminances differ by more than the 3 : 1 of one to paper."""

    def luminance(colour):
        from matplotlib.colors import to_rgb

        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    assert luminance(SAMPLES) > 1.3 * luminance(REAL)
    for ink in (REAL, SAMPLES):  # WCAG's 3 : 1 for graphics on white
        assert 1.05 / (luminance(ink) + 0.05) > 3


@pytest.mark.parametrize(
    "history",
    [
        History(),
        History((1, 2, 3), (1.0, 0.5, 0.2)),
        History((1, 2, 3), (np.nan, np.inf, -np.inf), (1,), (2.0,)),
        History((1, 2), (-1.0, -2.0), (2,), (-1.5,), 2, 3.0),
        History((1,), (1.0,), best_step=1),
        History((1, 2, 3), (1e300, 1.0, 1e-300)),
        History((1, 2, 3), (1e300, -1e300, 0.0)),
        History((3, 1, 2), (1.0, 2.0), (), (5.0,)),
        History(range(5000), [0.0] * 5000),
    ],
)
def test_any_history(history):
    draw(history_figure(history))


def test_a_steep_loss_gets_a_log_axis_and_a_negative_one_does_not():
    steps = range(50)
    assert history_figure(History(steps, [10.0 ** (-i / 10) for i in steps])).axes[0].get_yscale() == "log"
    assert history_figure(History(steps, [5.0 - i for i in steps])).axes[0].get_yscale() == "linear"


@pytest.mark.parametrize("level", [None, 0.0, -1e300, np.inf, np.nan, 1e308])
@pytest.mark.parametrize("values", [(), (1.0,), (np.nan, np.inf, 1.0), (1e300, 1e-300, -1e300), (0.0, 0.0, 0.0)])
def test_any_figures_on_the_way(values, level):
    curve = FigureCurve("<b>", range(1, 1 + len(values)), values, level, "<i>", level, True)
    draw(figures_figure([curve, curve], best_step=2))
    draw(figures_figure([]))


@pytest.mark.parametrize("shape", [(5, 20, 2), (1, 1, 2), (0, 0, 2), (5, 20, 3), (4, 4)])
def test_trajectories_of_any_shape(shape, rng):
    paths = rng.normal(size=shape)
    draw(trajectory_figure(paths))
    draw(trajectory_figure(np.full(shape, np.nan)))


@pytest.mark.parametrize("log_density", [0.0, -np.inf, np.nan, 1e300, -1e300])
@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_any_density(log_density, scale, rng):
    """Flat, impossible or failed everywhere, and one such value among good ones."""
    x, y = scale * np.arange(4.0), np.arange(3.0)
    good = rng.normal(size=(3, 4))
    rows = np.array([[scale, 1.0], [np.nan, 0.0], [1e308, 1.0]])
    draw(density_figure(DensityGrid((x, y), np.full((3, 4), log_density), ("a", "b"), rows=rows)))
    good[1, 2] = log_density
    card = density_card(DensityGrid((x, y), good, ("a", "b"), rows=rows[:0]))
    assert ("could not be computed (8.3 % of the grid)" in card.caption) == np.isnan(log_density)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, 1e300, -1e300])
def test_any_strip(value, rng):
    states = rng.normal(size=(4, 9, 2))
    states[1:3, :, 0] = value
    motion = Motion(states, tuple("abcd"), ("x", "y"), real=states[0])
    assert moving(motion).still.alt.startswith("Scatter plots of y against x")
    draw(strip_figure([Clouds(states, "abcd"), Clouds(states[:2], "ab")], ("x", "y"), states[0], UNIT))
    assert moving(Motion(np.full((2, 3, 2), value), ("a", "b"), ("x", "y"))) is not None
    for wrong in (states[:, :, :1], states[0], np.zeros((4, 9, 1, 2, 2, 2))):
        assert moving(Motion(wrong, tuple("abcd"), ("x", "y"))) is None
    assert moving(Motion(states, tuple("abc"), ("x", "y"))) is None


@pytest.mark.parametrize("gap", [(0.1, 0.2), (0.0, 0.1), (np.nan, np.inf), (1e300, 1e-300), ()])
def test_any_gap_and_likelihood(gap):
    draw(regression_figure(Regression("w", range(len(gap)), gap, gap, gap, gap)))
    for mean in gap:
        draw(likelihood_figure(Likelihood(mean, mean, 10, mean, mean)))
        draw(likelihood_figure(Likelihood(mean, None, 10)))


def test_numbers_for_people():
    assert number(-0.5) == "−0.500"
    assert number(float("nan")) == "not a number"
    assert number(123456789) == "123456789"
    assert number(0.0) == "0"
    assert number(1e300) == "1e+300"
    assert plus_minus(1.0, float("nan")) == "1"
    assert plus_minus(12345.678, 123.0) == "12346 ± 123"
    assert percent(1.0) == "100 %"


@given(st.floats(allow_nan=True, allow_infinity=True), st.floats(allow_nan=True, allow_infinity=True))
def test_every_number_can_be_written(value, error):
    assert plus_minus(value, error)
    assert len(number(value)) < 20
