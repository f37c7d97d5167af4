"""The sections of the page, each from the content to parts and sentences; None where there is nothing to say."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from advect.errors import ShapeError
from advect.records import Table
from advect.report.content import DataSummary, History, ReportContent
from advect.report.curves import (
    error_figure,
    figures_figure,
    history_figure,
    likelihood_figure,
    regression_figure,
)
from advect.report.figures import (
    matrix_columns,
    matrix_figure,
    scatter_figure,
    share_outside,
    trajectory_figure,
)
from advect.report.images import NEAREST_COLUMNS, grid_image, natural_bounds, over_nearest, png_bytes
from advect.report.ink import clean, data_uri
from advect.report.marginals import MOST_PANELS, marginals_figure
from advect.report.numerals import grouped, listed, number, percent, plus_minus
from advect.report.parts import Card, Preview, column_words, figure_card, gap_words, kinds_words, preview
from advect.report.values import is_numeric, names_of
from advect.report.verdict import judge

# So many columns and scores stand open on the page; the rest is one click away, and on paper open as well.
OPEN_COLUMNS, OPEN_ROWS = 12, 16
FEWEST_POINTS = 3  # of a curve
_PICTURES = 64
_PATHS = 60


@dataclass(frozen=True)
class Pictures:
    """Samples beside real rows.

    Attributes:
        lead: What is seen.
        pairs: Large cards: scatter, matrix, grids of pictures.
        columns: One small card per column.
        more_columns: The same, folded away.
        note: What was left out.
    """

    lead: str
    pairs: tuple[Card, ...] = ()
    columns: tuple[Card, ...] = ()
    more_columns: tuple[Card, ...] = ()
    note: str = ""


def pictures(content: ReportContent) -> Pictures | None:
    """The first thing a reader wants to see."""
    real, samples = content.real, content.samples
    if real is None and samples is None:
        return None
    if not (real and real.num_rows) and not (samples and samples.num_rows):
        return Pictures("There are no rows to draw: neither samples nor held-out rows were given.")
    if content.data.image or (samples is not None and samples.image):
        try:
            return _image_pictures(content.data, real, samples, content.nearest)
        except ShapeError:
            pass  # pixels in a shape no picture has are shown as columns
    return _table_pictures(real, samples)


def _image_pictures(
    data: DataSummary, real: Table | None, samples: Table | None, nearest: np.ndarray | None = None
) -> Pictures:
    lows = [c.minimum for c in data.columns if c.minimum is not None]
    highs = [c.maximum for c in data.columns if c.maximum is not None]
    bounds = (float(min(lows)), float(max(highs))) if lows and highs else None
    known = [table for table in (real, samples) if table is not None]
    if bounds is None or not bounds[0] < bounds[1]:
        bounds = natural_bounds(known[0])
    cards = []
    for table, who in ((real, "real rows"), (samples, "samples")):
        if table is not None:
            image = grid_image(table, columns=8, bounds=bounds, limit=_PICTURES)
            count = min(table.num_rows, _PICTURES)
            alt = f"A grid of {count} pictures, {who}. Black is {number(bounds[0])}, white {number(bounds[1])}."
            source = data_uri(png_bytes(image), "image/png")
            cards.append(Card(source, alt, image.width, image.height, heading=who))
    if samples is not None and nearest is not None and min(samples.num_rows, len(nearest)):
        image = grid_image(over_nearest(samples, nearest), columns=NEAREST_COLUMNS, bounds=bounds, limit=_PICTURES)
        alt = "Samples, and under each the training picture whose pixels are nearest to it."
        caption = "Every second row is of training pictures: the one nearest to the sample above it, by pixels."
        source = data_uri(png_bytes(image), "image/png")
        heading = "samples over their nearest training pictures"
        cards.append(Card(source, alt, image.width, image.height, heading=heading, caption=caption))
    return Pictures("Held-out pictures drawn at random, and the first samples: none were chosen.", tuple(cards))


def _table_pictures(real: Table | None, samples: Table | None) -> Pictures:
    names = names_of(real, samples)
    numeric = [name for name in names if is_numeric(real, samples, name)]
    pairs = []
    if len(numeric) == 2 and len(names) == 2:
        pairs.append(_scatter_card(real, samples, numeric[0], numeric[1]))
    matrix = matrix_columns(real, samples)
    if len(matrix) >= 2 and len(names) > 2:
        pairs.append(_matrix_card(real, samples, matrix))
    shown = [_column_card(real, samples, name) for name in names[:MOST_PANELS]]
    note = f"The first {len(shown)} of {len(names)} columns are drawn." if len(names) > len(shown) else ""
    counts = [
        f"{grouped(table.num_rows)} {who}" for table, who in ((real, "held-out rows"), (samples, "samples")) if table
    ]
    lead = f"{listed(counts).capitalize()}, in the units of the data."
    open_ = OPEN_COLUMNS if len(shown) > OPEN_COLUMNS + 2 else len(shown)
    return Pictures(lead, tuple(pairs), tuple(shown[:open_]), tuple(shown[open_:]), note)


def _scatter_card(real: Table | None, samples: Table | None, first: str, second: str) -> Card:
    alt = (
        f"Two scatter plots of {clean(second)} against {clean(first)} in one frame, real rows left, samples right; "
        "darker where rows are denser."
    )
    caption = "Each dot is a row; darker means denser, on one scale for both."
    return figure_card(scatter_figure(real, samples, (first, second)), alt, caption=caption)


def _matrix_card(real: Table | None, samples: Table | None, names: tuple[str, ...]) -> Card:
    shown = listed([clean(name) for name in names], 5)
    alt = f"Scatter matrix of {shown}: real rows below the diagonal, samples above."
    caption = (
        f"Pairs of columns, left to right: {shown}. Real rows stand below the diagonal and samples above it, "
        "mirrored: the halves are each other's reflection when the samples are right."
    )
    return figure_card(matrix_figure(real, samples, names), alt, heading="Pairs of columns", caption=caption, wide=True)


def _column_card(real: Table | None, samples: Table | None, name: str) -> Card:
    figure = marginals_figure(real, samples, [name], across=1, titles=False)
    remarks = [gap_words(real, samples, name)]
    if is_numeric(real, samples, name):
        left = share_outside(real, samples, name)
        if max(left) > 0.011:  # the frame itself leaves out the outer percent
            remarks.append(f"outside the frame: {percent(left[0])} of real rows, {percent(left[1])} of samples")
    caption = "; ".join(remark for remark in remarks if remark)
    return figure_card(figure, column_words(real, samples, name), heading=name, caption=caption)


def previews(content: ReportContent) -> tuple[tuple[str, Preview], ...]:
    """The first rows of both tables as text; not for pictures."""
    if content.data.image:
        return ()
    pair = (("Held-out rows", content.real), ("Samples", content.samples))
    return tuple((who, preview(table, columns=8)) for who, table in pair if table is not None and table.num_rows)


def tiles(content: ReportContent) -> tuple[tuple[str, str, str], ...]:
    """The few numbers at the top: (what, number, remark)."""
    data = content.data
    found = [("rows", grouped(data.rows), "")]
    if data.image and data.event_shape:
        found.append(("pixels", _pixels(data.event_shape), ""))
    else:
        found.append(("columns", grouped(len(data.columns)), ""))
    judgements = [judge(metric) for metric in content.metrics]
    tested = sum(j.tested for j in judgements)
    if tested:
        passed = sum(j.passed for j in judgements)
        found.append(("tests passed", f"{passed} of {tested}", "like real rows"))
    if content.likelihood is not None:
        error = content.likelihood.standard_error
        what = "held-out log-likelihood" if content.likelihood.elbo is None else "lower bound of the log-likelihood"
        found.append((what, plus_minus(content.likelihood.mean, error), "nats per row"))
    if content.history is not None and content.history.seconds is not None:
        found.append(("training time", duration(content.history.seconds), ""))
    return tuple(found)


def _pixels(event_shape: tuple[int, ...]) -> str:
    """Height × width, and the channels where there are several."""
    if len(event_shape) == 3 and event_shape[0] == 1:
        event_shape = event_shape[1:]
    return " × ".join(str(n) for n in event_shape)


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(8.4), duration(119.6), duration(7300)
    ('8.4 s', '2 min 0 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{number(seconds, 2)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


_KINDS = {
    "log-density": "This is the log of a probability density, in the units of the data: it may be positive.",
    "log-probability": "Every column is discrete, so this is the log of a probability: never positive.",
    "mixed": "Discrete columns give a probability and continuous ones a density; this is the log of their product.",
}


def likelihood(content: ReportContent) -> tuple[str, ...]:
    """The likelihood in sentences, first the number, then what it means."""
    found = content.likelihood
    if found is None:
        return ()
    sentences = [
        f"{plus_minus(found.mean, found.standard_error)} nats per row, "
        f"the mean over {grouped(found.rows)} held-out rows."
    ]
    if found.bits_per_dim is not None:
        sentences.append(f"That is {number(found.bits_per_dim)} bits per dimension.")
    sentences += _against_gaussian(content)
    sentences.append(_KINDS.get(found.kind, found.kind))
    if found.elbo is not None:
        sentences.append(
            "The model draws codes, so its log-likelihood is not known: the figure is a lower bound of it, by "
            f"K = {found.bound_draws} importance-weighted codes per row. The evidence lower bound (one code) is "
            f"{number(found.elbo)}."
        )
    if found.dequantisation is not None:
        sentences.append(
            f"Discrete columns were dequantised with K = {found.dequantisation} importance samples per row; the figure "
            "rises a little as K grows."
        )
    if found.failed_rows:
        sentences.append(
            f"{grouped(found.failed_rows)} rows have no value and are left out of the mean: read it with care."
        )
    return tuple(sentences)


def likelihood_card(content: ReportContent) -> Card | None:
    """The same as a picture, where there is a Gaussian fit to stand beside."""
    found = content.likelihood
    if found is None or found.gaussian is None:
        return None
    alt = (
        f"Held-out log-likelihood: model {plus_minus(found.mean, found.standard_error)}, Gaussian fit "
        f"{plus_minus(found.gaussian, found.gaussian_error)} nats per row."
    )
    return figure_card(likelihood_figure(found), alt)


def _against_gaussian(content: ReportContent) -> list[str]:
    found = content.likelihood
    if found is None or found.gaussian is None:
        return []
    gaussian = plus_minus(found.gaussian, found.gaussian_error)
    gain, error = found.difference, found.difference_error
    if gain is None:
        gain, error = found.mean - found.gaussian, None
        if found.standard_error is not None:
            error = float(np.hypot(found.standard_error, found.gaussian_error or 0.0))
    clear = abs(gain) > 2 * (error or 0.0)
    word = "not clearly different" if not clear else "better" if gain > 0 else "worse"
    return [
        f"A Gaussian fitted to the training rows gets {gaussian}; the model's difference to it is "
        f"{plus_minus(gain, error)} nats per row: {word}."
    ]


def training(content: ReportContent) -> Card | None:
    """The curve of training."""
    history = content.history
    if history is None or not (len(history.steps) or len(history.validation_steps)):
        return None
    falls = [_fall("Training loss", history.loss), _fall("Validation loss", history.validation_loss)]
    alt = " ".join(["Loss against training step.", *falls])
    kept = f" The weights of step {grouped(history.best_step)} were kept." if history.best_step is not None else ""
    averages = f" {history.averages}" if history.averages else ""
    caption = (
        "A loss does not go to zero: part of it is noise that no network can predict. What counts is that the "
        f"validation loss does not rise again.{kept}{averages}{_time_spent(history)}"
    )
    return figure_card(history_figure(history), (alt + kept).strip(), caption=caption)


def _time_spent(history: History) -> str:
    """Where the loop's time went, largest share first; what is below half a hundredth is not named."""
    told = sorted(((share, name) for name, share in history.shares.items() if share >= 0.005), reverse=True)
    text = f" Where the time went: {', '.join(f'{name} {percent(share)}' for share, name in told)}." if told else ""
    if history.product_share is not None:
        text += f" The device multiplied at {percent(history.product_share)} of its rate in one large product."
    return text + (f" {history.skipped} steps did not fit float16 and were skipped." if history.skipped else "")


def _fall(name: str, values: Iterable[float]) -> str:
    finite = [v for v in values if np.isfinite(v)]
    return f"{name} from {number(finite[0])} to {number(finite[-1])}." if finite else ""


def on_the_way(content: ReportContent) -> Card | None:
    """The figures that were measured while the run trained; nothing where no curve has three points."""
    history = content.history
    curves = () if history is None else tuple(curve for curve in history.figures if len(curve.steps) >= FEWEST_POINTS)
    if history is None or not curves:
        return None
    told = []
    for curve in curves:
        words = clean(curve.label)
        told.append(_fall(f"{words[:1].upper()}{words[1:]}", curve.values))
        if curve.level is not None:
            told.append(f"{clean(curve.level_label)}: {number(curve.level)}.".capitalize())
    caption = (
        "Of the averaged weights, on the same rows and noise each time. The rows are few and the solver is coarse: the "
        "scores above are the ones to quote. Dashes: what a curve is judged by (band: two standard deviations)."
    )
    return figure_card(
        figures_figure(curves, best_step=history.best_step),
        " ".join(["Figures against training step.", *(t for t in told if t)]),
        heading="Figures on the way",
        caption=caption,
    )


def regression(content: ReportContent) -> Card | None:
    """What is left to learn, over time."""
    found = content.regression
    if found is None or not len(found.times):
        return None
    alt = (
        f"Mean squares over t, of {len(found.times)} spans of time. {_fall('Loss', found.loss)} "
        f"{_fall('Least possible loss', found.floor)} {_fall('Regression gap', found.gap)}"
    )
    caption = (
        "On average the loss is the sum of the two others: what no field can avoid, and how far this one is from the "
        "exact field of its training rows (band: two standard errors). A gap of 0 would be no feat: that field makes "
        "the training rows and nothing else."
    )
    return figure_card(regression_figure(found), alt, caption=caption)


def cost(content: ReportContent) -> Card | None:
    """Error against network evaluations."""
    curves = [curve for curve in content.error_curves if len(curve.evaluations)]
    if not curves:
        return None
    told = [
        f"{clean(curve.label)}: {number(curve.errors[-1])} at {number(curve.evaluations[-1])} evaluations"
        for curve in curves
        if len(curve.errors)
    ]
    alt = "Error of the samples against network evaluations per sample. " + "; ".join(told) + "."
    chosen = any(curve.chosen is not None for curve in curves)
    caption = "How far samples lie from those of a fine solve. Where a curve turns flat, more evaluations buy nothing."
    return figure_card(error_figure(curves), alt, caption=caption + (" Dotted: the setting in use." if chosen else ""))


def paths(content: ReportContent) -> Card | None:
    """Paths from noise to samples, in two dimensions."""
    motion = content.motion
    if motion is None or motion.image or motion.layered or len(motion.names) != 2:
        return None
    start, end = (clean(word) for word in content.ends)
    alt = f"Paths of samples from {start} at t = 0 (grey rings) to {end} at t = 1 (filled dots)."
    caption = "Straighter paths need fewer solver steps."
    pair = (motion.names[0], motion.names[1])
    figure = trajectory_figure(motion.states[::2, :_PATHS], pair, start=content.ends[0])
    return figure_card(figure, alt, caption=caption)


def data_words(data: DataSummary) -> str:
    """The data in one sentence."""
    if data.image and data.event_shape:
        what = f"pictures of {_pixels(data.event_shape)} pixels"
    elif data.columns:
        what = f"rows with {kinds_words(data.columns)} column{'s' if len(data.columns) > 1 else ''}"
    else:
        what = "rows"
    split = ", ".join(f"{grouped(count)} {clean(part)}" for part, count in data.split.items())
    return f"{grouped(data.rows)} {what} from {clean(data.origin)}" + (f": {split}." if split else ".")
