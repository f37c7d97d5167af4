"""The table of a comparison as text: the same heads and cells on the terminal and on the page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from advect.report.comparison.content import LikelihoodCell, MethodRow, Spread
from advect.report.numerals import NOTHING, grouped, number, percent, plus_minus
from advect.report.verdict import judge

SHOWN_METRICS = ("sliced Wasserstein-2", "energy distance", "classifier two-sample test")
"""The metrics with a column of their own where they were computed; all of them are in the files and on the page."""
SHORT = {"sliced Wasserstein-2": "sliced W2", "classifier two-sample test": "classifier"}


@dataclass(frozen=True)
class Cell:
    """A cell of the table.

    Attributes:
        text: What it says.
        mark: ``✓`` where it cannot be told from the best (likelihood) or from real rows (metrics), ``?`` where seeds
            vary too much to tell; else empty.
        detail: More, where there is room for it.
    """

    text: str
    mark: str = ""
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.mark}".rstrip()


@dataclass(frozen=True)
class Block:
    """Some columns of the table, for every method: what is good, or what it costs.

    Attributes:
        title: What it tells.
        heads: Names of the columns.
        rows: One per method.
        references: What real rows and a Gaussian fit get, below the methods.
        reasons: Method to the reason why it has no figures.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    references: tuple[tuple[Cell, ...], ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)


def blocks(rows: Sequence[MethodRow], label: str | None = None) -> tuple[Block, Block]:
    """The table in two parts that each fit a terminal: quality and cost."""
    cost = ("method", "parameters", "steps", "steps/s", "training s", "s per 1000", "evaluations", "straightness")
    costs = Block("cost", cost, tuple(_cost(row) for row in rows), reasons=_reasons(rows))
    return _quality_block(rows, label), costs


def _quality_block(rows: Sequence[MethodRow], label: str | None) -> Block:
    known = {cell.metric.name for row in rows for cell in row.metrics}
    metrics = [name for name in SHOWN_METRICS if name in known]
    heads = ["method", "log-likelihood", "to the best", *(SHORT.get(name, name) for name in metrics)]
    columns: list[Callable[[MethodRow], Cell]] = [_name, likelihood_cell, lambda row: difference_cell(row.likelihood)]
    columns += [partial(metric_cell, name=name) for name in metrics]
    some = {name: _marks(rows, name) for name in metrics}
    real = [Cell("real rows"), Cell(""), Cell(""), *(Cell(plus_minus(*some[name][:2])) for name in metrics)]
    gaussian = [Cell("Gaussian fit"), _gaussian(rows), Cell(""), *(Cell(number(some[name][2])) for name in metrics)]
    closest = next((row.closest for row in rows if row.closest), None)
    if closest is not None:
        heads.append("near copies")
        columns.append(closest_cell)
        real.append(Cell(percent(closest.real_near_share)))
        gaussian.append(Cell(""))
    learned = next((row.synthetic for row in rows if row.synthetic), None)
    if learned is not None:
        heads.append(f"{learned.measure} of {label}")
        columns.append(synthetic_cell)
        real.append(Cell(number(learned.real)))
        gaussian.append(Cell(""))
    cells = tuple(tuple(column(row) for column in columns) for row in rows)
    references = (tuple(real), tuple(gaussian)) if metrics else ()
    return Block("quality", tuple(heads), cells, references, _reasons(rows))


def _marks(rows: Sequence[MethodRow], name: str) -> tuple[float | None, float | None, float | None]:
    """Floor, its spread and ceiling of a metric; the same rows gave them for every method."""
    metric = next(cell.metric for row in rows for cell in row.metrics if cell.metric.name == name)
    return metric.floor, metric.floor_error, metric.ceiling


def _gaussian(rows: Sequence[MethodRow]) -> Cell:
    found = [row.likelihood.gaussian for row in rows if row.likelihood and row.likelihood.gaussian is not None]
    return Cell(number(found[0], 4) if found else "")


def _cost(row: MethodRow) -> tuple[Cell, ...]:
    parameters = Cell(NOTHING if row.parameters is None else grouped(row.parameters))
    steps = Cell(NOTHING if row.steps is None else grouped(round(row.steps.mean)))
    nfe = Cell(NOTHING if row.nfe is None else number(row.nfe.mean) if row.nfe.mean else "one pass")
    costs = (row.rate, row.training_seconds, row.sampling_seconds)
    return (_name(row), parameters, steps, *(spread_cell(s) for s in costs), nfe, spread_cell(row.straightness))


def _name(row: MethodRow) -> Cell:
    count = len(row.runs)
    return Cell(row.method, detail="" if count in (0, row.asked) else f"{count} of {row.asked} seeds")


def _reasons(rows: Sequence[MethodRow]) -> dict[str, str]:
    return {row.method: " ".join(row.failures) or "not trained yet" for row in rows if not row.runs}


def spread_cell(spread: Spread | None) -> Cell:
    """Mean ± spread over seeds."""
    return Cell(NOTHING) if spread is None else Cell(plus_minus(spread.mean, spread.spread))


def likelihood_cell(row: MethodRow) -> Cell:
    """The mean with its standard error over rows; its label and the spread over seeds as detail."""
    cell = row.likelihood
    if cell is None:
        return Cell(NOTHING)
    if cell.value is None:
        return Cell("none", detail=cell.reason)
    seeds = "" if cell.value.spread is None else f"seeds ± {number(cell.value.spread, 2)}"
    left = f"{cell.left_out} rows left out" if cell.left_out else ""
    detail = "; ".join(part for part in (cell.label, seeds, left) if part)
    return Cell(plus_minus(cell.value.mean, cell.standard_error), detail=detail)


def difference_cell(cell: LikelihoodCell | None) -> Cell:
    """The paired difference to the best."""
    if cell is None or cell.difference is None:
        return Cell(NOTHING)
    if cell.best:
        return Cell("best", "✓")
    mark = "✓" if cell.tied else "?" if cell.undecided else ""
    return Cell(plus_minus(cell.difference, cell.difference_error), mark)


def metric_cell(row: MethodRow, name: str) -> Cell:
    """A metric over seeds; ✓ where it cannot be told from real rows."""
    found = next((cell for cell in row.metrics if cell.metric.name == name), None)
    if found is None:
        return Cell(NOTHING)
    return Cell(plus_minus(found.metric.value, found.spread), "✓" if judge(found.metric).passed else "")


def closest_cell(row: MethodRow) -> Cell:
    """Share of samples that are as near to a training row as few held-out rows are."""
    found = row.closest
    if found is None:
        return Cell(NOTHING)
    as_few = found.near_share - found.real_near_share <= 2 * found.near_error
    detail = f"median {number(found.median)}, real {number(found.real_median)}"
    return Cell(percent(found.near_share), "✓" if as_few else "", detail)


def synthetic_cell(row: MethodRow) -> Cell:
    """Score of a predictor that learned from samples."""
    found = row.synthetic
    if found is None:
        return Cell(NOTHING)
    return Cell(number(found.synthetic), detail=f"best constant {number(found.guess)}")
