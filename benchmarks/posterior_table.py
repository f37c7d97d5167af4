"""The table of `benchmarks.posterior`, made from its result files: C2ST, published figures, verdicts."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advect.errors import ConfigError
from advect.files import write_text
from benchmarks.density_table import made_on

Record = Mapping[str, Any]
Key = tuple[str, int, str]  # task, simulations, method

ERRORS_THAT_COUNT = 2.0
KNOWN_FAILURE = ("two_moons", 10_000, 0.9)  # a user's flow matching; ours must stay below
MATCHING = ("ot-cfm", "i-cfm")


@dataclass(frozen=True)
class Compared:
    """Difference of two mean C2ST over the same observations, first minus second; lower is better.

    Attributes:
        mean: Of the differences.
        error: Its standard error over the observations.
    """

    mean: float
    error: float

    @property
    def verdict(self) -> str:
        """``at or below``, ``equal`` (above, within two standard errors) or ``above``."""
        if self.mean <= 0:
            return "at or below"
        return "equal" if self.mean <= ERRORS_THAT_COUNT * self.error else "above"


def compared(first: Sequence[float], second: Sequence[float]) -> Compared:
    """Pair by observation; without an error for a single one."""
    differences = [a - b for a, b in zip(first, second, strict=True)]
    spread = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return Compared(statistics.fmean(differences), spread)


def scores(row: Sequence[Record]) -> list[float]:
    """C2ST of each observation, averaged over the seeds."""
    return [statistics.fmean(values) for values in zip(*(record["figures"]["c2st"] for record in row), strict=True)]


def write_table(
    path: Path,
    records: Iterable[Record],
    *,
    published: Mapping[str, Mapping[int, float]],
    ours: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    observations: int,
    samples: int,
) -> None:
    """Write the table of what there is.

    Args:
        path: The Markdown file.
        records: Results of cells.
        published: Task to simulations to the published mean of NPE.
        ours: advect's methods.
        methods: Those of a whole table.
        seeds: Likewise.
        observations: Of the protocol; others are shown and not judged.
        samples: Likewise.

    Raises:
        ConfigError: Results of one row were made with different settings.
    """
    rows: dict[Key, list[Record]] = {}
    for record in sorted(records, key=lambda record: record["seed"]):
        settings = record["settings"]
        rows.setdefault((settings["task"], settings["simulations"], settings["method"]), []).append(record)
    for row in rows.values():
        _check_alike(row)
    budgets = sorted({budget for known in published.values() for budget in known})
    wanted = {(t, b, m, s) for t in published for b in budgets for m in methods for s in seeds}
    held = {(*key, record["seed"]) for key, row in rows.items() for record in row}
    state = "Complete" if wanted <= held else "**Partial**"
    lines = [
        "# Posteriors of simulators",
        "",
        f"Written by `python -m benchmarks.posterior`; do not edit. {state}: {len(wanted & held)} of {len(wanted)} "
        f"cells; a whole row holds the seeds {', '.join(map(str, seeds))}.",
        "",
        "C2ST, mean over the observations ± standard error; 0.5 is perfect, 1 is worst. The better of advect's models "
        "should be at or below sbi's NPE of the same run.",
        "",
        *_summary(rows, published, budgets, ours, methods, (observations, samples)),
        "",
        *_failure(rows),
        *_details(rows, published, budgets, ours, methods),
        "",
        *_notes([record for row in rows.values() for record in row], observations, samples),
    ]
    write_text(path, "\n".join(lines) + "\n")


def _check_alike(row: Sequence[Record]) -> None:
    kinds = [{k: v for k, v in record["settings"].items() if k != "seed"} for record in row]
    for record, kind in zip(row, kinds, strict=True):
        if kind != kinds[0]:
            raise ConfigError(
                f"its settings differ from those of {row[0]['cell']}",
                where=record["cell"],
                remedy="Keep the results of each protocol in a folder of their own (--out).",
            )


def _summary(
    rows: Mapping[Key, Sequence[Record]],
    published: Mapping[str, Mapping[int, float]],
    budgets: Sequence[int],
    ours: Sequence[str],
    methods: Sequence[str],
    protocol: tuple[int, int],
) -> list[str]:
    names = _columns(rows, ours, methods)
    peers = [name for name in methods if name not in ours]
    head = ["task", "simulations", *names, "published NPE", *(f"best of advect against {peer}" for peer in peers)]
    lines = [_line(head), _line(["---"] * len(head))]
    for task, known in published.items():
        for budget in budgets:
            here = {name: rows[task, budget, name] for name in names if (task, budget, name) in rows}
            cells = [task, f"{budget:,}", *(_mean(here.get(name, ())) for name in names)]
            cells.append(f"{known[budget]:.3f}" if budget in known else "–")
            cells += [judgement(here, ours, peer, protocol) for peer in peers]
            lines.append(_line(cells))
    return lines


def judgement(rows: Mapping[str, Sequence[Record]], ours: Sequence[str], peer: str, protocol: tuple[int, int]) -> str:
    """The better of advect's models against one peer, in words."""
    mine = [name for name in ours if rows.get(name)]
    if not mine or not rows.get(peer):
        return "no result"
    settings = [record["settings"] for name in (*mine, peer) for record in rows[name]]
    if len({(s["observations"], s["c2st_samples"]) for s in settings}) > 1:
        return "not judged (different protocols)"
    best = min(mine, key=lambda name: statistics.fmean(scores(rows[name])))
    difference = compared(scores(rows[best]), scores(rows[peer]))
    figure = f"{best} {difference.mean:+.3f} ± {difference.error:.3f}"
    found = (settings[0]["observations"], settings[0]["c2st_samples"])
    if found != protocol:
        return f"{figure}: not judged ({found[0]} observations, {found[1]} draws)"
    words = {"at or below": "pass", "equal": "pass (equal)", "above": "**fail**"}
    return f"{figure}: {words[difference.verdict]}"


def _failure(rows: Mapping[Key, Sequence[Record]]) -> list[str]:
    """Whether flow matching repeats the failure that a user reported."""
    task, budget, limit = KNOWN_FAILURE
    found = [(name, statistics.fmean(scores(row))) for name in MATCHING if (row := rows.get((task, budget, name)))]
    return [
        line
        for name, value in found
        for line in (
            f"Flow matching ({name}, defaults) on {task} with {budget:,} simulations: {value:.3f}; the known failure "
            f"is {limit}: {'pass' if value < limit else '**fail**'}.",
            "",
        )
    ]


def _details(
    rows: Mapping[Key, Sequence[Record]],
    published: Mapping[str, Mapping[int, float]],
    budgets: Sequence[int],
    ours: Sequence[str],
    methods: Sequence[str],
) -> list[str]:
    head = ["task", "simulations", "method", "seeds", "C2ST by observation", "share inside the prior", "parameters"]
    head += ["steps or epochs", "training s", "CPU s", "sampling s"]
    lines = ["## Row by row", "", _line(head), _line(["---"] * len(head))]
    for task in published:
        for budget in budgets:
            for name in _columns(rows, ours, methods):
                row = rows.get((task, budget, name))
                if not row:
                    continue
                figures = [record["figures"] for record in row]
                steps = [f"{f['steps']}" if "steps" in f else f"{f['epochs']} epochs" for f in figures]
                cells = [task, f"{budget:,}", name, str(len(row)), " ".join(f"{s:.3f}" for s in scores(row))]
                cells += [f"{statistics.fmean(s for f in figures for s in f['inside_share']):.3f}"]
                cells += [str(figures[0]["parameters"]), ", ".join(steps)]
                for key in ("training_seconds", "training_cpu_seconds", "sampling_seconds"):
                    cells.append(f"{statistics.fmean(f[key] for f in figures):.0f}")
                lines.append(_line(cells))
    return lines


def _columns(rows: Mapping[Key, Sequence[Record]], ours: Sequence[str], methods: Sequence[str]) -> list[str]:
    """The methods of a whole table, and optional ones that have results."""
    extra = [name for name in ours if name not in methods and any(key[2] == name for key in rows)]
    mine = [name for name in methods if name in ours]
    return [*mine, *extra, *(name for name in methods if name not in ours)]


def _notes(found: Sequence[Record], observations: int, samples: int) -> list[str]:
    lines = [
        "## Notes",
        "",
        f"- Protocol: {samples:,} draws against {samples:,} reference draws, scaled by the reference, scikit-learn's "
        "MLPClassifier with two hidden layers of 10·d ReLU units, Adam, max_iter 10,000, accuracy of 5 folds; mean "
        f"over the first {observations} of the ten published observations (references of the others are not at hand).",
        "- advect: `advect.fit(parameters, condition=observations, method=...)` with default settings, observations "
        "scaled before. It keeps a tenth of the simulations for validation and a tenth for testing.",
        "- sbi: `NPE` with default settings; `sbi-npe` is its default estimator (maf), `sbi-npe-nsf` the spline flow.",
        "- Draws outside the support of a uniform prior are drawn again, for every contender.",
        "- Published: NPE in sbibm's result file, mean of ten observations (Lueckmann et al. 2021, 2101.04653).",
        "- The standard error is over the observations, which differ in difficulty; a difference is paired by "
        "observation, and one above zero within two of its standard errors is called equal.",
    ]
    return lines + [f"- {line}" for line in made_on(found)]


def _mean(row: Sequence[Record]) -> str:
    if not row:
        return "–"
    values = scores(row)
    spread = f" ± {statistics.stdev(values) / math.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
