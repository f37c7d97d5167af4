"""Full pages without a training behind them, with any words in every place that a stranger could write to."""

import dataclasses

import numpy as np

from advect.records import Column, Finding, Metric, Table
from advect.report import (
    DataSummary,
    DensityGrid,
    ErrorCurve,
    FigureCurve,
    History,
    Likelihood,
    Motion,
    Regression,
    ReportContent,
    verdict,
)
from advect.report.pairing import PairingCost

ATTACKS = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)",
    "</style><script>1</script>",
    "</title><script>1</script>", "<svg onload=alert(1)>", "javascript:alert(1)", "http://evil.example/x.png",
    "//evil.example/x.js", "{{ 7*7 }}{% include 'x' %}", "$\\frac{", "</pre><iframe src='https://evil.example'>",
    "&lt;script&gt;", "\x00\x1b[31m\u202e\ud800", "url(https://evil.example)", "-->", "]]>",
    "<base href='//evil.example/'>",
]  # fmt: skip


def table(columns, names, **more):
    columns = tuple(np.asarray(c) for c in columns)
    dtypes = tuple(str(c.dtype) for c in columns)
    return Table(tuple(names), columns, "csv", more.pop("event_shape", (len(columns),)), dtypes, **more)


METRICS = (
    Metric("sliced W2", 0.052, 0.004, 0.048, 0.006, 0.31, unit="standard deviations"),
    Metric("energy distance", 0.012, 0.001, 0.006, 0.001, 0.08),
    Metric("accuracy", 0.9, 0.01, 0.5, 0.01, 0.8),
)


def content_of(words="plain", width=2, rows=60):
    """A full page with ``words`` in every place a stranger could write to."""
    rng = np.random.default_rng(0)
    names = [f"{words}{i}" for i in range(width)] + [f"kind {words}"]
    categories = np.array([words, "other", None], object)

    def rows_of():
        return table([*rng.normal(size=(width, rows)), categories[rng.integers(0, 3, rows)]], names, origin=words)

    columns = tuple(Column(name, words, words, -1.0, 1.0, unit=words) for name in names[:-1])
    columns += (Column(names[-1], "categorical", words, categories=(words, "other"), missing=True),)
    metrics = tuple(dataclasses.replace(m, name=f"{m.name} {words}", unit=words) for m in METRICS)
    return ReportContent(
        title=words,
        method=words,
        explanation=words,
        data=DataSummary(words, rows, columns, {words: rows}, (width + 1,), condition=columns[:1], sha256=words),
        verdict=verdict(metrics),
        findings=(Finding(words, words, words, words),),
        metrics=metrics,
        likelihood=Likelihood(-1.0, 0.1, rows, -2.0, 0.1, 1.0, 0.1, 16, 2.0, 3, words),
        history=History(
            (1, 2, 3),
            (3.0, 2.0, 1.0),
            (3,),
            (1.1,),
            3,
            12.0,
            shares={"network": 0.8, "coupling": 0.2, "data": 0.001},
            figures=(figure_curve(words),),
        ),
        samples=rows_of(),
        real=rows_of(),
        regression=regression_of(words),
        motion=motion_of(words),
        density=density_of(words),
        pairing=(PairingCost(words, 1.0, 0.1, 3.0, 0.8, 0.9),),
        error_curves=(ErrorCurve(words, (1, 2, 4), (0.3, 0.2, 0.1), words, 2),),
        configuration=f'name = "{words}"\nsteps = 5\n',
        command=f"advect train {words}",
        next_commands=(f"advect sample {words}", "advect report run"),
        notes=(words, words),
        versions={words: words},
    )


def figure_curve(words="plain"):
    return FigureCurve(words, (1, 2, 3), (3.0, 2.0, 1.0), 0.5, words, 0.1)


def motion_of(words="plain", columns=2, rows=20, **more):
    states = np.random.default_rng(1).normal(size=(5, rows, columns))
    names = tuple(f"{words}{i}" for i in range(columns))
    captions = tuple(f"t = {i / 4:.2f}" for i in range(5))
    return Motion(states, captions, names, real=states[-1], note=words, why_stored=words, **more)


def pictures_of(event_shape, rows=6):
    states = np.random.default_rng(1).uniform(size=(5, rows, *event_shape))
    return Motion(states, tuple(f"t = {i / 4:.2f}" for i in range(5)), bounds=(0.0, 1.0))


def density_of(words="plain"):
    x, y = np.linspace(-2, 2, 12), np.linspace(-1, 1, 10)
    names = (f"{words}0", f"{words}1")
    return DensityGrid((x, y), -(x[None] ** 2) - 3 * y[:, None] ** 2, names, rows=np.zeros((5, 2)))


def text_of(words):
    """The same without figures, which take most of the time."""
    figures = ("samples", "real", "history", "motion", "density", "regression")
    whole = dataclasses.replace(content_of(words), pairing=())
    likelihood = dataclasses.replace(whole.likelihood, gaussian=None)
    return dataclasses.replace(whole, error_curves=(), likelihood=likelihood, **dict.fromkeys(figures))


def regression_of(words="plain"):
    times, gap, error = (0.2, 0.5, 0.8), (0.1, 0.2, 0.3), (0.01, 0.01, 0.02)
    return Regression(words, times, gap, error, (1.1, 1.2, 1.3), (1.0, 1.0, 1.0))


def images_of(event_shape, high=16):
    count = int(np.prod(event_shape))
    pixels = np.random.default_rng(0).integers(0, high + 1, (count, 40))
    names = [f"pixel{i}" for i in range(count)]
    rows = table(pixels, names, event_shape=event_shape, image=True)
    columns = tuple(Column(name, "integer", "int64", 0, high) for name in names)
    data = DataSummary("digits", 40, columns, {}, event_shape, image=True)
    return ReportContent("digits", "ot-cfm", "", data, samples=rows, real=rows)
