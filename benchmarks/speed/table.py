"""The table of the suite, from its JSON files alone."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from advect.files import write_text
from benchmarks.speed.rows import COMMAND, Row

INTRODUCTION = f"""# Speed beside peers

Written by `{COMMAND}` from JSON files; how it is measured is said in `benchmarks/README.md`. A value is
the median over rounds of paired ratios, with its quartiles; **bold** reaches "stretch", plain "must", *slanted* none.
"""


def write_table(path: Path, records: Sequence[Mapping[str, Any]], rows: Mapping[str, Row]) -> None:
    """Write the table of all records."""
    write_text(path, table(records, rows))


def table(records: Sequence[Mapping[str, Any]], rows: Mapping[str, Row]) -> str:
    """The whole page in Markdown."""
    parts = [INTRODUCTION, *_goals(records), ""]
    for record in records:
        title = rows[record["cell"]].title if record["cell"] in rows else ""
        parts += [f"## {record['cell']}: {title}", "", *_row(record)]
    return "\n".join(parts).rstrip() + "\n"


def _goals(records: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = ["| row | task | goal | measured | must | stretch |", "| --- | --- | --- | --- | --- | --- |"]
    for record in records:
        figures = record["figures"]
        found = [(block["task"], goal) for block in figures.get("tasks", ()) for goal in block["goals"]]
        found += [("", goal) for goal in figures.get("goals", ())]
        for where, goal in found:
            sign = "≤ " if goal["at_most"] else ""
            marks = [f"{sign}{goal[name]:g}{_unit(goal)}" for name in ("must", "stretch")]
            lines.append(f"| {record['cell']} | {where} | {goal['goal']} | {_value(goal)} | {' | '.join(marks)} |")
    return lines


def _unit(goal: Mapping[str, Any]) -> str:
    unit = goal["unit"]
    return unit if unit in ("×", "%") else f" {unit}"


def _value(goal: Mapping[str, Any]) -> str:
    value = goal["value"]
    mark = {"stretch": "**", "must": "", "missed": "*"}[goal["reached"]]
    return f"{mark}{value['median']:.3g}{_unit(goal)}{mark} ({value['low']:.3g}–{value['high']:.3g})"


def _row(record: Mapping[str, Any]) -> list[str]:
    machine, settings = record["machine"], record["settings"]
    load = machine["load_at_start"]
    loaded = "" if load is None else f", load {load:.1f} at the start"
    clock = {"wall": "wall clock", "cpu": "processor's clock"}[settings["clock"]]
    threads = f"{settings['threads']} thread{'s' if settings['threads'] > 1 else ''}"
    lines = [
        f"{machine['processor']}, {machine['cores']} cores{loaded}; {threads}, {clock}; {record['date'][:10]}.",
        "",
    ]
    for block in record["figures"].get("tasks", ()):
        lines += _block(block)
    for curve in record["figures"].get("growth", ()):
        lines += _curve(curve)
    return lines + [line for note in record["figures"].get("notes", ()) for line in (note, "")]


def _block(block: Mapping[str, Any]) -> list[str]:
    contenders = block["contenders"].items()
    unit = f" ({block['unit']})" if block["unit"] else ""
    lines = [f"**{block['task']}**, {block['rounds']} rounds", ""]
    lines += [
        f"| contender | setting | error{unit} | wall | processor | memory |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in contenders:
        error = "" if found["error"] is None else f"{found['error']:.2g}"
        memory = "" if found["peak_megabytes"] is None else f"{found['peak_megabytes']:.0f} MB"
        times = f"{_time(found['wall'])} | {_time(found['cpu'])}"
        lines.append(f"| {name} | {found['setting']} | {error} | {times} | {memory} |")
    return [*lines, ""]


def _curve(curve: Mapping[str, Any]) -> list[str]:
    points = curve["points"]
    names = list(dict.fromkeys(name for point in points for name in point["seconds"]))
    lines = [f"Growth along {curve['along']}", "", "| | " + " | ".join(str(point["at"]) for point in points) + " |"]
    lines.append("| --- |" + " --- |" * len(points))
    for name in names:
        cells = [_time(point["seconds"][name]) if name in point["seconds"] else "" for point in points]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _time(seconds: float) -> str:
    """Three digits, in the unit that suits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"
