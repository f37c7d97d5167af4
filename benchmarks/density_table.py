"""The table of `benchmarks.density`, made from its result files: means, paired differences, verdicts.

Two contenders are compared on the rows both have scored: their difference is the mean over rows of the difference of
log-likelihoods, its standard error that of this mean. A difference within two standard errors counts as equal.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from advect.errors import ConfigError
from advect.files import write_text
from benchmarks.packed import unpack

Record = Mapping[str, Any]
Row = Sequence[Record]

GAUSSIAN_PATCHES = (96.56, 0.02)  # nats: the Gaussian fit of these very patches, all test rows, and its tolerance
ERRORS_THAT_COUNT = 2.0


@dataclass(frozen=True)
class Layout:
    """What a whole table holds.

    Attributes:
        sets: Name to title and units, in the order of the table.
        sanity: Models that are judged by nobody.
        ours: advect's.
        peers: The others'.
        wanted: Models of each set.
        seeds: Of the training.
        seconds: Of the protocol; rows with another time are shown and not judged.
    """

    sets: Mapping[str, tuple[str, str]]
    sanity: Sequence[str]
    ours: Sequence[str]
    peers: Sequence[str]
    wanted: Mapping[str, Sequence[str]]
    seeds: Sequence[int]
    seconds: float


@dataclass(frozen=True)
class Paired:
    """Difference of two contenders on the same rows, in nats.

    Attributes:
        mean: First minus second.
        error: Standard error of the mean.
        rows: Rows both have a value for.
    """

    mean: float
    error: float
    rows: int

    @property
    def verdict(self) -> str:
        """``above``, ``equal`` (within two standard errors) or ``below``."""
        if abs(self.mean) <= ERRORS_THAT_COUNT * self.error:
            return "equal"
        return "above" if self.mean > 0 else "below"

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ± {self.error:.3f}"


def paired(first: np.ndarray, second: np.ndarray) -> Paired | None:
    """The difference on the rows both have scored; None for fewer than two."""
    count = min(len(first), len(second))
    difference = first[:count] - second[:count]
    difference = difference[np.isfinite(difference)]
    if len(difference) < 2:
        return None
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference))
    return Paired(float(difference.mean()), error, len(difference))


def log_prob_of(row: Row) -> np.ndarray:
    """Log-likelihood of each test row, averaged over the seeds."""
    values = [unpack(record["figures"]["log_prob"]) for record in row]
    count = min(map(len, values))
    return np.mean([value[:count] for value in values], axis=0)


def failures(row: Row) -> int:
    """Test rows without a value, over all seeds."""
    return sum(record["figures"]["failed"] for record in row)


def best_of(rows: Mapping[str, Row], names: Sequence[str]) -> str | None:
    """The one with the highest mean among those that gave every row a value, on the rows that all of them scored."""
    whole = {name: log_prob_of(rows[name]) for name in names if rows.get(name) and not failures(rows[name])}
    if not whole:
        return None
    count = min(map(len, whole.values()))
    return max(whole, key=lambda name: whole[name][:count].mean())


def write_table(path: Path, records: Iterable[Record], layout: Layout) -> None:
    """Write the table of what there is.

    Raises:
        ConfigError: Results of one row were made with different settings.
    """
    groups: dict[str, dict[str, list[Record]]] = {name: {} for name in layout.sets}
    for record in sorted(records, key=lambda record: record["seed"]):
        settings = record["settings"]
        groups[settings["set"]].setdefault(settings["model"], []).append(record)
    for rows in groups.values():
        for row in rows.values():
            _check_alike(row)
    lines = [
        "# Density estimation",
        "",
        "Written by `python -m benchmarks.density`; do not edit. " + _completeness(groups, layout),
        "",
        *_summary(groups, layout),
    ]
    for name, rows in groups.items():
        lines += ["", *_section(name, rows, layout)]
    lines += ["", *_notes(groups, layout)]
    write_text(path, "\n".join(lines) + "\n")


def _check_alike(row: Row) -> None:
    kinds = [{k: v for k, v in record["settings"].items() if k != "seed"} for record in row]
    for record, kind in zip(row, kinds, strict=True):
        if kind != kinds[0]:
            names = ", ".join(sorted(k for k in kind.keys() | kinds[0].keys() if kind.get(k) != kinds[0].get(k)))
            raise ConfigError(
                f"its settings differ from those of {row[0]['cell']} ({names})",
                where=record["cell"],
                remedy="Keep the results of each protocol in a folder of their own (--out).",
            )


def _completeness(groups: Mapping[str, Mapping[str, Row]], layout: Layout) -> str:
    wanted = {(name, model, seed) for name in groups for model in layout.wanted[name] for seed in layout.seeds}
    held = {(name, m, r["seed"]) for name, rows in groups.items() for m, row in rows.items() for r in row}
    state = "Complete" if wanted <= held else "**Partial**"
    seeds = ", ".join(map(str, layout.seeds))
    return f"{state}: {len(wanted & held)} of {len(wanted)} cells; a whole row holds the seeds {seeds}."


def _summary(groups: Mapping[str, Mapping[str, Row]], layout: Layout) -> list[str]:
    head = ["set", "cells", "advect's best", "log-likelihood", "best peer", "log-likelihood", "difference", "verdict"]
    lines = [
        "Mean log-likelihood of held-out rows in nats ± standard error, higher is better. The difference is paired, "
        "row by row; within two of its standard errors the two count as equal.",
        "",
        *_header(head),
    ]
    for name, rows in groups.items():
        wanted = layout.wanted[name]
        mine, other = best_of(rows, layout.ours), best_of(rows, layout.peers)
        held = f"{sum(model in rows for model in wanted)} of {len(wanted)}"
        shown = [f"{m}", _mean(rows[m])] if (m := mine) else ["–", "–"]
        shown += [f"{m}", _mean(rows[m])] if (m := other) else ["–", "–"]
        lines.append(_line([name, held, *shown, *judgement(rows, mine, other, layout)]))
    return lines


def judgement(rows: Mapping[str, Row], mine: str | None, other: str | None, layout: Layout) -> list[str]:
    """The difference of two contenders and what it means."""
    if mine is None or other is None:
        return ["–", "no result"]
    difference = paired(log_prob_of(rows[mine]), log_prob_of(rows[other]))
    if difference is None:
        return ["–", "no result"]
    clocks = {r["settings"]["clock"] for m in (mine, other) for r in rows[m]}
    if len(clocks) > 1:
        return [str(difference), "not judged (different clocks)"]
    odd = sorted({r["settings"]["seconds"] for m in (mine, other) for r in rows[m]} - {layout.seconds})
    if odd:
        return [str(difference), f"not judged ({', '.join(f'{s:g}' for s in odd)} s)"]
    words = {"above": "pass (above)", "equal": "pass (equal)", "below": "**fail** (below)"}
    missing = [m for m in layout.peers if m in layout.wanted[rows[mine][0]["settings"]["set"]] and not rows.get(m)]
    note = f", without {', '.join(missing)}" if missing else ""
    return [str(difference), words[difference.verdict] + note]


def _section(name: str, rows: Mapping[str, Row], layout: Layout) -> list[str]:
    title, units = layout.sets[name]
    head = ["model", "of", "seeds", "log-likelihood", "median", "− best peer", "rows", "failed"]
    head += ["steps", "best step", "training s", "CPU s", "parameters", "scoring s", "ended"]
    lines = [f"## {name}", "", f"{title[0].upper()}{title[1:]}; {units}.", "", *_header(head)]
    other = best_of(rows, layout.peers)
    base = log_prob_of(rows[other]) if other else None
    kinds = dict.fromkeys(layout.sanity, "sanity") | dict.fromkeys(layout.ours, "advect")
    extra = [model for model in rows if model not in layout.wanted[name]]
    for model in [*layout.wanted[name], *extra]:
        row, kind = rows.get(model, ()), kinds.get(model, "peer")
        cells = [model, kind, f"{len(row)} of {max(len(row), len(layout.seeds))}"]
        if not row:
            lines.append(_line([*cells, *["–"] * (len(head) - 3)]))
            continue
        difference = None if base is None or model == other else paired(log_prob_of(row), base)
        cells += [_mean(row), _figure(row, "median", 3), str(difference) if difference else "–"]
        cells += [_figure(row, "rows"), _figure(row, "failed"), _figure(row, "steps"), _figure(row, "best_step")]
        cells += [_figure(row, "training_seconds"), _figure(row, "training_cpu_seconds"), _figure(row, "parameters")]
        cells += [_figure(row, "scoring_seconds"), _ended(row)]
        lines.append(_line(cells))
    return lines + _checks(name, rows) + _estimated(rows)


def _checks(name: str, rows: Mapping[str, Row]) -> list[str]:
    """Figures of the sanity rows that are known beforehand."""
    lines = []
    for record in rows.get("gaussian", ())[:1]:
        figures = record["figures"]
        line = f"The Gaussian on all {figures['every_test_rows']} test rows: {figures['every_test_mean']:.3f} nats"
        if name == "bsds300_patches":
            known, tolerance = GAUSSIAN_PATCHES
            near = abs(figures["every_test_mean"] - known) <= tolerance
            line += f"; known: {known} ± {tolerance}, {'pass' if near else '**fail**'}"
        lines += ["", line + "."]
    for record in rows.get("mixture", ())[:1]:
        lines += ["", f"The mixture has {record['figures']['components']} parts."]
    return lines


def _estimated(rows: Mapping[str, Row]) -> list[str]:
    """Means whose log-determinants are estimates."""
    errors = {model: max(record["figures"]["estimator_error"] for record in row) for model, row in rows.items()}
    text = ", ".join(f"{model} {error:.3f}" for model, error in errors.items() if error > 0)
    if not text:
        return []
    return ["", f"Log-determinants that are estimated add to the error of the mean, in nats: {text}."]


def _notes(groups: Mapping[str, Mapping[str, Row]], layout: Layout) -> list[str]:
    found = [record for rows in groups.values() for row in rows.values() for record in row]
    lines = [
        "## Notes",
        "",
        f"- Every contender trains for {layout.seconds:g} s on one thread (the mixture stops before), in advect's "
        "loop: batches of 512, a cosine to zero that ends with the time, averaged weights, those of the best "
        "validation loss. Steps are planned from timed ones, and again at fixed shares of the time.",
        "- Rows are dequantised once with noise of their recording step and standardised by the training rows, alike "
        "for all. advect's flows start at the Gaussian fit of the training rows, as they do by default.",
        "- Peers: zuko's NSF with the sizes of its README (3 × 128-128-128), its MAF with 5 transforms × 128-128, "
        "nflows' coupling NSF with 5 steps of permutation, LU and residual networks of 2 × 128; Adam at 1e-3 (nflows "
        "5e-4), gradients clipped at 5. On angles zuko's circular NSF is a peer as well.",
        "- Test rows are a fixed random choice of at most 5,000; the scoring of slow models ends after its time, with "
        "the rows it has: comparisons use the rows both have. A model with failed rows is not taken for the best.",
        "- The best of either side is chosen by the same test rows it is judged by.",
    ]
    lines += [f"- {line}" for line in made_on(found)]
    return lines


def made_on(records: Iterable[Record]) -> list[str]:
    """Machines and versions of results, and what their seconds are."""
    machines, versions, clocks = {}, {}, set()
    for record in records:
        machine = record["machine"]
        kind = f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} thread per cell"
        machines[kind] = machines.get(kind, 0) + 1
        clocks.add(record["settings"].get("clock", "wall"))
        for name, version in {**record["versions"], **record["figures"].get("peer_versions", {})}.items():
            versions.setdefault(name, set()).add(version)
    if not machines:
        return []
    sources = versions.pop("advect_source", set())
    software = ", ".join(f"{name} {'/'.join(sorted(held))}" for name, held in versions.items())
    clock = {"wall": "the clock on the wall", "cpu": "the processor's own clock"}
    return [
        "Made on " + "; ".join(f"{kind} ({count} cells)" for kind, count in machines.items()) + f"; {software}; "
        f"{len(sources)} state{'s'[: len(sources) != 1]} of advect's source.",
        f"Training time is measured by {' and by '.join(clock[name] for name in sorted(clocks))}; CPU s is the "
        "processor's own time, less than the wall's where the machine was shared.",
    ]


def _ended(row: Row) -> str:
    return ", ".join(sorted({record["figures"].get("ended", "–") for record in row}))


def _mean(row: Row) -> str:
    """Mean over seeds with the standard error over rows; over the rest where rows failed."""
    values = log_prob_of(row)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return "no value"
    error = values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():.3f} ± {error:.3f}" + (" (of the rest)" if failures(row) else "")


def _figure(row: Row, name: str, digits: int = 0) -> str:
    values = [record["figures"].get(name) for record in row]
    held = [value for value in values if value is not None]
    return f"{sum(held) / len(held):.{digits}f}" if held else "–"


def _header(names: Sequence[str]) -> list[str]:
    return [_line(names), _line(["---"] * len(names))]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
