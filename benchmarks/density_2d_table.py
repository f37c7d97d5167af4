"""Table and figures of `benchmarks.density_2d`, made from its result files alone."""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from advect.errors import ConfigError
from advect.files import write_bytes, write_text
from benchmarks.density_table import made_on
from benchmarks.packed import unpack

Record = Mapping[str, Any]

PANEL_COLUMNS = 6
DOTS = 75  # per inch; a picture of 24 panels stays well below 300 kB
MOST_STAGES = 8  # panels of the picture of layers
COLOURS = 128
AVERAGED = ("parameters", "training_seconds", "training_cpu_seconds", "steps")  # figures shown as means over the sets


def write_table(
    path: Path,
    records: Iterable[Record],
    *,
    tasks: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    seconds: float,
) -> None:
    """Write the table of what there is: one line per method, its KL on each task.

    Raises:
        ConfigError: Results of one row were made with different settings.
    """
    rows = group(records)
    wanted = {(task, method, seed) for task in tasks for method in methods for seed in seeds}
    held = {(task, method, record["seed"]) for (task, method), row in rows.items() for record in row}
    state = "Complete" if wanted <= held else "**Partial**"
    head = ["method", "seeds", *tasks, "parameters", "training s", "CPU s", "steps", "ended"]
    lines = [
        "# Densities in the plane",
        "",
        f"Written by `python -m benchmarks.density_2d`; do not edit. {state}: {len(wanted & held)} of {len(wanted)} "
        f"cells; a whole row holds the seeds {', '.join(map(str, seeds))}.",
        "",
        "KL of the exact density from the learned one, in nats ± standard error over 10,000 fresh rows (averaged over "
        "the seeds); 0 is perfect. A KL in brackets leaves out rows that the model gave no value.",
        "",
        _line(head),
        _line(["---"] * len(head)),
    ]
    names = [*methods, *sorted({method for _, method in rows} - set(methods))]
    for method in names:
        of_method = [record for task in tasks for record in rows.get((task, method), ())]
        counts = sorted({len(rows.get((task, method), ())) for task in tasks})
        count = "–".join(map(str, {counts[0]: 0, counts[-1]: 0}))
        cells = [method, f"{count} of {max(len(seeds), counts[-1])}"]
        cells += [_kl(rows.get((task, method), ()), seconds) for task in tasks]
        cells += [_mean(of_method, name) for name in AVERAGED]
        cells += [", ".join(sorted({record["figures"]["ended"] for record in of_method})) or "–"]
        lines.append(_line(cells))
    lines += ["", *_notes(rows, seconds)]
    write_text(path, "\n".join(lines) + "\n")


def group(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """Records by task and method, by seed inside.

    Raises:
        ConfigError: Two of one row differ in more than the seed.
    """
    rows: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(records, key=lambda record: record["seed"]):
        rows.setdefault((record["settings"]["task"], record["settings"]["method"]), []).append(record)
    for row in rows.values():
        kinds = [{k: v for k, v in record["settings"].items() if k != "seed"} for record in row]
        for record, kind in zip(row, kinds, strict=True):
            if kind != kinds[0]:
                raise ConfigError(
                    f"its settings differ from those of {row[0]['cell']}",
                    where=record["cell"],
                    remedy="Keep the results of each protocol in a folder of their own (--out).",
                )
    return rows


def _kl(row: Sequence[Record], seconds: float) -> str:
    if not row:
        return "–"
    values = [record["figures"] for record in row]
    error = sum(f["kl_error"] ** 2 for f in values) ** 0.5 / len(values)
    text = f"{sum(f['kl'] for f in values) / len(values):.3f} ± {error:.3f}"
    text = f"({text})" if any(f["failed"] for f in values) else text
    trained = row[0]["settings"]["seconds"]
    return text if trained == seconds else f"{text} [{trained:g} s]"


def _mean(records: Sequence[Record], name: str) -> str:
    values = [record["figures"][name] for record in records]
    return f"{sum(values) / len(values):.0f}" if values else "–"


def _notes(rows: Mapping[tuple[str, str], Sequence[Record]], seconds: float) -> list[str]:
    found = [record for row in rows.values() for record in row]
    entropies = {record["settings"]["task"]: record["figures"]["entropy"] for record in found}
    lines = [
        "## Notes",
        "",
        f"- Every method trains for {seconds:g} s on one thread with its default settings, batches of 512, on 20,000 "
        "rows, standardised; steps and times are means over the four sets.",
        "- The density of the spiral is an integral along its arm, computed by Gauss–Legendre quadrature; the other "
        "three are closed forms.",
        "- The checkerboard has edges and the rings a thin band: no smooth map has KL zero there.",
        "- Entropies of the targets on the test rows, in nats: "
        + (", ".join(f"{task} {value:.3f}" for task, value in entropies.items()) or "not known yet")
        + ".",
        "- Figures: one picture of learned densities per set, `density_2d/SET.png`, and points on their way through "
        "the layers of a flow, `density_2d/layers-METHOD.png`.",
    ]
    lines += [f"- {line}" for line in made_on(found)]
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_figures(
    folder: Path,
    records: Iterable[Record],
    truths: Mapping[str, np.ndarray],
    windows: Mapping[str, float],
    methods: Sequence[str],
) -> list[Path]:
    """The pictures of what there is, of the first seed of each row, methods in this order; the files written."""
    found = group(records)
    rows = {key: found[key] for key in sorted(found, key=lambda key: methods.index(key[1]))}
    written = []
    for task, truth in truths.items():
        grids = {method: unpack(row[0]["figures"]["grid"]) for (of, method), row in rows.items() if of == task}
        if grids:
            kls = {method: row[0]["figures"]["kl"] for (of, method), row in rows.items() if of == task}
            titles = {method: f"{method}, KL {kls[method]:.3f}" for method in grids}
            picture = draw_densities(truth, {titles[m]: grid for m, grid in grids.items()})
            written.append(_save(folder / f"{task}.png", picture))
    layered = sorted({method for (_, method), row in rows.items() if "stages" in row[0]["figures"]})
    for method in layered:
        clouds = {t: unpack(rows[t, method][0]["figures"]["stages"]) for t in truths if (t, method) in rows}
        written.append(_save(folder / f"layers-{method}.png", draw_layers(clouds, windows)))
    return written


def draw_densities(truth: np.ndarray, learned: Mapping[str, np.ndarray]) -> bytes:
    """Densities ``exp(log-density)`` on one scale, the truth first; a PNG."""
    from matplotlib.figure import Figure

    panels = {"exact": truth, **learned}
    columns = min(PANEL_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(1.8 * columns, 2.0 * lines), dpi=DOTS)
    _tighten(figure, 2.0 * lines)
    axes = np.atleast_1d(figure.subplots(lines, columns)).ravel()
    top = float(np.exp(truth).max())
    for axis in axes:
        axis.set_axis_off()
    for axis, (title, log_density) in zip(axes, panels.items(), strict=False):
        axis.imshow(np.exp(log_density), origin="lower", cmap="viridis", vmin=0, vmax=top)
        axis.set_title(title, fontsize=8)
    return _png(figure)


def draw_layers(clouds: Mapping[str, np.ndarray], windows: Mapping[str, float]) -> bytes:
    """Points from the source (left) to the data (right), coloured by their angle in the source; a PNG.

    Args:
        clouds: Task to ``(stages, points, 2)``; of many stages the first, the last and some between are shown.
        windows: Task to half the side of its panels.
    """
    from matplotlib.figure import Figure

    columns = min(MOST_STAGES, max(len(states) for states in clouds.values()))
    figure = Figure(figsize=(1.7 * columns, 1.9 * len(clouds)), dpi=DOTS)
    _tighten(figure, 1.9 * len(clouds))
    axes = figure.subplots(len(clouds), columns, squeeze=False)
    for line, (task, states) in zip(axes, clouds.items(), strict=True):
        chosen = np.unique(np.linspace(0, len(states) - 1, columns).round().astype(int))
        angle = np.arctan2(*(states[0] - states[0].mean(0)).T[::-1])
        for axis in line:
            axis.set_axis_off()
        for axis, stage in zip(line, chosen, strict=False):
            axis.scatter(*states[stage].T, c=angle, cmap="hsv", s=2, linewidths=0)
            axis.set_xlim(-windows[task], windows[task])
            axis.set_ylim(-windows[task], windows[task])
            axis.set_aspect("equal")
            last = len(states) - 1
            axis.set_title({0: "source", last: task}.get(int(stage), f"layer {stage} of {last}"), fontsize=8)
    return _png(figure)


def _tighten(figure: Any, height: float) -> None:
    """Panels close together, with room for their titles; heights in inches."""
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1 - 0.25 / height, hspace=0.15, wspace=0.05)


def _png(figure: Any) -> bytes:
    """A small picture: a palette instead of true colours."""
    from PIL import Image

    buffer, small = BytesIO(), BytesIO()
    figure.savefig(buffer, format="png")
    Image.open(buffer).convert("RGB").quantize(COLOURS).save(small, format="png", optimize=True)
    return small.getvalue()


def _save(path: Path, content: bytes) -> Path:
    write_bytes(path, content)
    return path
