"""From the results to the page: kills survived, places, pieces, memory, folders of earlier formats."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from advect.files import write_text
from benchmarks.cells import read_records

HEAD = """# Reliability

Written by `python -m benchmarks.reliability`, never by hand. A fault is a folder that could not be read, a file that
differed from that of a run nobody disturbed, an unclear refusal, or an exit code that should have been another.
"""


def write_table(folder: Path, path: Path) -> Path:
    """Write the page of a folder of results."""
    records = {record["cell"]: record for record in read_records(folder)}
    parts = [HEAD, *(section(records) for section in (_kills, _operations, _places, _resumes, _memory, _earlier))]
    return write_text(path, "\n".join(part for part in parts if part) + _machines(records.values()))


def _kills(records: dict[str, Any]) -> str:
    rows = []
    for name, record in _of(records, "kills-"):
        found = record["figures"]
        rows.append(
            (name, found["kills"], found["runs_compared"], found["files_compared"], found["faults"], _time(record))
        )
    total, faults = sum(row[1] for row in rows), sum(row[4] for row in rows)
    text = (
        "SIGKILL at moments that are uniform over the time a job takes; after at most six kills it is left to end, and "
        f"compared with an undisturbed one. **{total} kills, {faults} faults.**"
    )
    return _section("Kills at random moments", text, _JOB, rows)


def _operations(records: dict[str, Any]) -> str:
    rows = []
    for name, record in _of(records, "operations-"):
        found = record["figures"]
        rows.append((name, found["kills"], f"{found['runs_compared']} of {found['operations']}", found["faults"]))
    text = (
        "SIGKILL right before a chosen thing that the process does to a file (open, flush, rename, lock, make, "
        "remove); before a flush the file is cut in half first, as a loss of power may do. The order write, flush, "
        "rename, flush of the folder is checked too."
    )
    return _section("Kills at operations on files", text, ("job", "kills", "operations tried", "faults"), rows)


def _places(records: dict[str, Any]) -> str:
    rows = []
    for name, record in _of(records, "places-"):
        found = record["figures"]
        rows.append((name, found["tries"], found["refused"], len(found["faults"]), found.get("remark", "")))
    text = (
        "A limit on the size of files, a small file system in memory, a folder without rights, one that is removed or "
        "moved under a training, a second process, a wall clock that jumps by years."
    )
    return _section("Places", text, ("what", "tries", "refused with a message", "faults", "remark"), rows)


def _resumes(records: dict[str, Any]) -> str:
    rows = []
    for name, record in _of(records, "resumes-"):
        found = record["figures"]
        rows.append((name, found["pieces"], found["steps"], len(found["differing"]), _time(record)))
    text = "One training in pieces against one without a stop: weights, optimiser, history."
    return _section("Pieces", text, ("each piece is a", "pieces", "steps", "files that differ", "time"), rows)


def _memory(records: dict[str, Any]) -> str:
    rows, curves = [], []
    for name, record in _of(records, "memory-"):
        f = record["figures"]
        sizes = [f"{f[key]:.1f}" for key in ("mb_after_first", "mb_warm", "mb_end", "mb_most")]
        length, pause = f"{60 * f['hours']:.1f} min", f"{record['settings'].get('pause', 0.0):g} s"
        rows.append((name, length, pause, f["runs"], *sizes, f"{f['mb_per_1000_runs']:+.2f}", f["trainers_left"]))
        points = [f["curve"][round(i * (len(f["curve"]) - 1) / 11)] for i in range(12)]
        curves.append("Runs and MB: " + ", ".join(f"{n}: {mb:.1f}" for _, n, mb in points) + ".")
    text = (
        "Trainings of 40 steps one after another in one process, of four methods, in a folder and in memory. Resident "
        "memory in MB; warm is after a quarter of the runs; the pause stands between two runs. " + " ".join(curves)
    )
    heads = (
        "loop",
        "length",
        "pause",
        "runs",
        "first",
        "warm",
        "end",
        "most",
        "per 1000 runs after warm",
        "trainers left",
    )
    return _section("Memory", text, heads, rows)


def _earlier(records: dict[str, Any]) -> str:
    rows = [
        (entry["format"], entry["folder"], entry["kind"], entry["outcome"])
        for _, record in _of(records, "earlier-")
        for entry in record["figures"]["folders"]
    ]
    text = "Run folders that earlier states of the code wrote, opened by this one; what they say beside what they said."
    return _section("Folders of earlier formats", text, ("format", "folder", "kind", "outcome"), rows)


_JOB = ("job and seed", "kills", "runs compared", "files each", "faults", "time")


def _of(records: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    return [(name.removeprefix(prefix), record) for name, record in records.items() if name.startswith(prefix)]


def _time(record: Any) -> str:
    return f"{record['seconds'] / 60:.1f} min"


def _section(title: str, text: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    lines += [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return f"## {title}\n\n{text}\n\n" + "\n".join(lines) + "\n"


def _machines(records: Iterable[Any]) -> str:
    records = list(records)
    if not records:
        return ""
    names = sorted({f"{r['machine']['processor']}, {r['machine']['cores']} cores" for r in records})
    dates = sorted(r["date"][:10] for r in records)
    return f"\nMeasured on {'; '.join(names)}, one thread each, shared with other work; {dates[0]} to {dates[-1]}.\n"
