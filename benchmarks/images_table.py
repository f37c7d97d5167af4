"""The table of `images`, written from the records alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from advect.files import write_text
from benchmarks.images_plan import BUDGET, COMMAND, GUIDANCE, PROBES, TOLERANCE, guided_name, label_of, whole
from benchmarks.plane_train import made_on


def write_table(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """The tables, from the results alone."""
    lines = [
        "# Pictures",
        "",
        f"Written by `{COMMAND}`; do not edit. Every method has the same budget of processor time, the same pictures "
        "and classes, and is measured by the same rule; what a budget this small shows is how fast a method learns, "
        "not how far it goes.",
        "",
        "- **bits/dim**: uniform dequantisation, one draw for each picture (K = 1): an upper bound of the code "
        f"length; ± is the standard error over the pictures, which are the same for all. ODEs: dopri5 at "
        f"{TOLERANCE:g}, {PROBES} probes of the trace. Lower is better.",
        "- **Fréchet**: squared, of 64 features (of unit mean square) of a small classifier of the training "
        "labels; ± by the bootstrap, in brackets real against real pictures at the same number. Biased upward at few "
        "pictures, value and floor alike.",
        "- **kernel**: unbiased MMD² of the same features, cubic kernel, in thousandths.",
        "- **precision, recall, coverage** of the same features with five neighbours, real pictures in brackets.",
        f"- A name with a number was trained for so many seconds in place of {BUDGET:g}. **notes** is `realnvp --set "
        "form=notes`: six couplings with 3×3 convolutions at one resolution, Adam at 1e-3.",
        "- **sampling**: processor milliseconds a picture, and evaluations of the network.",
        "",
    ]
    for name in dict.fromkeys(record["settings"]["set"] for record in records):
        lines += _set_table(name, [r for r in records if r["settings"]["set"] == name])
    lines += [made_on(records, whole())] if records else []
    write_text(path, "\n".join(lines).rstrip() + "\n")


def _set_table(name: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    facts = records[0]["figures"]["features"]
    lines = [
        f"## {name}",
        "",
        f"Features: {facts['features']}. {records[0]['figures']['features']['samples']} samples against "
        f"{facts['held_out']} held-out pictures in two halves.",
        "",
        "| method | steps | training, s | bits/dim | Fréchet | kernel × 1000 | precision | recall | coverage | "
        "near copies | sampling, ms (evaluations) |",
        "|" + " --- |" * 11,
    ]
    for record in sorted(records, key=lambda r: (r["settings"].get("run") is not None, r["cell"])):
        figures, settings = record["figures"], record["settings"]
        seconds = figures.get("training_cpu_seconds", figures.get("training_seconds"))
        label = label_of(settings) + (", a longer run" if "run" in settings else "")
        planned = figures.get("planned_steps", figures["steps"])
        steps = str(figures["steps"]) + ("" if planned == figures["steps"] else f" of {planned}, stopped")
        how = " by the clock" if "training_seconds" in figures else ""
        lines.append(_line(label, figures, steps, f"{seconds:.0f}{how}"))
        if "guided" in figures:
            lines.append(_line(f"{label}, guidance {GUIDANCE:g}", figures["guided"], "", ""))
    return [*lines, "", *_coupling_words(records), *_run_words([r for r in records if "run" in r["settings"]])]


def _coupling_words(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Flows of couplings are scored in one pass: their bits per dimension on many pictures, and where samples are."""
    lines = []
    for record in records:
        figures, settings = record["figures"], record["settings"]
        if "bits_of_many" in figures:
            many, name = figures["bits_of_many"], f"{settings['set']}-{label_of(settings)}.png"
            shown = f"; the first 16 samples: [images/{name}](images/{name})" if settings["drawn"] else ""
            lines.append(
                f"- {label_of(settings)}: {many['mean']:.3f} ± {many['error']:.3f} bits/dim on {many['rows']} held-out "
                f"pictures, {figures['steps']} steps of {settings['batch_size']}{shown}."
            )
    return [*lines, ""] if lines else []


def _run_words(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The command behind the longer run, and its picture."""
    lines = []
    for record in records:
        settings, planned = record["settings"], record["figures"]["planned_steps"]
        name = guided_name(settings["set"])
        lines += [
            f"The longer run: `{settings['command']} --steps {planned} --batch-size {settings['batch_size']} --set "
            f"precision={settings['precision']} --seed {settings['seed']}`, on one core of a busy machine. "
            "Guided samples, a class a row, none chosen: "
            f"[images/{name}](images/{name}).",
            "",
        ]
    return lines


def _line(label: str, figures: Mapping[str, Any], steps: str, seconds: str) -> str:
    found = {metric["name"]: metric for metric in figures["metrics"]}

    def against(name: str, factor: float = 1.0, digits: int = 2) -> str:
        metric = found[f"{name} of features"]
        return (
            f"{factor * metric['value']:.{digits}f} ± {factor * metric['error']:.{digits}f} "
            f"({factor * metric['floor']:.{digits}f})"
        )

    bits_text = "" if "bits" not in figures else f"{figures['bits']['mean']:.2f} ± {figures['bits']['error']:.2f}"
    near = found["near-copy share"]
    each = 1000 * figures["sampling_cpu_seconds"] / figures["features"]["samples"]
    cells = (
        label,
        steps,
        seconds,
        bits_text,
        against("Fréchet distance"),
        against("kernel distance", 1000, 0),
        against("precision"),
        against("recall"),
        against("coverage"),
        f"{near['value']:.3f} ({near['floor']:.3f})",
        f"{each:.0f} ({figures['network_evaluations']:.0f})",
    )
    return "| " + " | ".join(cells) + " |"
