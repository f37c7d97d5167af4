"""The page of a comparison: one file with nothing to load, the verdict first; escaped as the page of a run is."""

from pathlib import Path

from advect.errors import ShapeError
from advect.files import write_bytes
from advect.report.comparison.content import ComparisonContent, MethodRow
from advect.report.comparison.figures import (
    curve_figure,
    likelihood_figure,
    metrics_figure,
    samples_figure,
)
from advect.report.comparison.table import blocks
from advect.report.images import grid_image, natural_bounds, png_bytes
from advect.report.ink import clean, data_uri
from advect.report.moving import moving_side_by_side
from advect.report.numerals import number, plus_minus
from advect.report.page import behaviour, environment
from advect.report.parts import Card, figure_card
from advect.report.values import pair_to_draw

_PICTURES = 36


def write_comparison(content: ComparisonContent, path: Path | str) -> Path:
    """Render ``content`` and write it to ``path``, whole or not at all.

    Raises:
        WriteError: If the file cannot be written.
    """
    return write_bytes(path, render_comparison(content).encode("utf-8"))


def render_comparison(content: ComparisonContent) -> str:
    """The page as text: one HTML document with its own script, no outside address, and nothing unescaped."""
    return (
        environment()
        .get_template("comparison.html.j2")
        .render(
            c=content,
            blocks=blocks(content.rows, content.label),
            likelihood=_likelihood(content),
            metrics=_metrics(content),
            costs=_costs(content),
            samples=_samples(content),
            motion=moving_side_by_side(content.motions, [row.method for row in content.rows]),
            **behaviour(),
        )
    )


def _likelihood(content: ComparisonContent) -> Card | None:
    found = [(row.method, row.likelihood) for row in content.rows if row.likelihood and row.likelihood.value]
    if not found:
        return None
    told = [
        f"{clean(name)} {plus_minus(cell.value.mean, cell.standard_error)}, difference {number(cell.difference)}"
        for name, cell in found
        if cell.value
    ]
    caption = (
        "Right: the mean over held-out rows of the difference to the best method on the same row. Blue: not told from "
        "the best at two standard errors over rows. The bars hold rows and seeds."
    )
    return figure_card(
        likelihood_figure(content.rows), f"Held-out log-likelihoods: {'; '.join(told)}.", caption=caption, wide=True
    )


def _metrics(content: ComparisonContent) -> Card | None:
    if not any(row.metrics for row in content.rows):
        return None
    told = [
        f"{clean(row.method)}: "
        + ", ".join(f"{clean(cell.metric.name)} {number(cell.metric.value)}" for cell in row.metrics)
        for row in content.rows
        if row.metrics
    ]
    caption = (
        "Band: real rows against real rows, two standard deviations either way; a mark inside it cannot be told from "
        "real rows. Dashed: a Gaussian fit. Error bars: spread over seeds."
    )
    return figure_card(metrics_figure(content.rows), ". ".join(told) + ".", caption=caption, wide=True)


def _costs(content: ComparisonContent) -> tuple[Card, ...]:
    if not any(row.point for row in content.rows):
        return ()
    told = "; ".join(_curve_words(row) for row in content.rows if row.point or row.curve)
    axes = (
        ("network evaluations per row", "Against evaluations", lambda point: point.nfe),
        ("seconds per 1000 rows", "Against time", lambda point: point.seconds),
    )
    caption = (
        "Curves: a fixed solver with 2 to 64 evaluations. Stars: the run's own setting. A single sign: a map that is "
        "one pass. Band: real rows against real rows."
    )
    return tuple(
        figure_card(
            curve_figure(content.rows, content.ruler, place, words),
            f"Error of samples against {words}. {told}.",
            heading=heading,
            caption=caption,
        )
        for words, heading, place in axes
    )


def _curve_words(row: MethodRow) -> str:
    points = row.curve or ((row.point,) if row.point else ())
    return f"{clean(row.method)}: " + ", ".join(f"{number(p.error)} at {number(p.nfe)}" for p in points)


def _samples(content: ComparisonContent) -> tuple[Card, ...]:
    """Held-out rows and samples of each method: grids of pictures, or clouds of two columns."""
    if content.real is None or not content.samples:
        return ()
    if content.image:
        try:
            return _pictures(content)
        except ShapeError:
            return ()  # pixels in a shape no picture has
    pair = pair_to_draw(content.real)
    if pair is None:
        return ()
    alt = f"Clouds of {clean(pair[1])} against {clean(pair[0])}: real rows, then samples of each method, in one frame."
    more = "" if len(content.real.names) == 2 else " Of the columns of numbers, these two depend most on one another."
    caption = f"Each dot is a row; darker means denser, on one scale for all.{more}"
    figure = samples_figure(content.real, content.samples, pair)
    return (figure_card(figure, alt, caption=caption, wide=True),)


def _pictures(content: ComparisonContent) -> tuple[Card, ...]:
    assert content.real is not None
    bounds = content.bounds or natural_bounds(content.real)
    cards = []
    for name, table in (("real rows", content.real), *content.samples.items()):
        image = grid_image(table, columns=6, bounds=bounds, limit=_PICTURES)
        alt = f"A grid of {min(table.num_rows, _PICTURES)} pictures: {clean(name)}."
        cards.append(Card(data_uri(png_bytes(image), "image/png"), alt, image.width, image.height, heading=name))
    return tuple(cards)
