"""Sets larger than memory should hold: the resident memory of `advect train` over time, on a file of many GiB.

A file of random rows is written, `advect train` learns from it with a small network, as a user would start it, and
`RssAnon` of the process is read from /proc twice a second: memory that is the process's own, without the pages of the
mapped file, which the system drops when it likes. The file is deleted afterwards. Run
``python -m benchmarks.big_sets --folder DISK`` where DISK has room for the file.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advect.files import write_text
from advect.training.ahead import WAITING
from benchmarks.cells import ROOT, Cell, answer, command_line
from benchmarks.plane_train import made_on

COMMAND = "python -m benchmarks.big_sets"
RESULTS = ROOT / "benchmarks" / "results" / "big_sets"
LIMIT_MIB = 1536
SAMPLED_SECONDS = 0.5
BLOCK_BYTES = 1 << 28
KINDS: dict[str, dict[str, Any]] = {
    "table": {"event": [256], "dtype": "float32", "method": "ot-cfm", "network": "residual-2x64", "batch_size": 256},
    "pictures": {"event": [3, 16, 16], "dtype": "uint8", "method": "i-cfm", "network": "mlp-2x64", "batch_size": 128},
}
_PHASES = {"reading": "reading", "training": "step 1", "measuring": "measuring", "figures": "evaluating"}


def settings_of(kind: str, gib: float, steps: int) -> dict[str, Any]:
    """Everything that decides a cell's figures."""
    return {"kind": kind, "gib": gib, "steps": steps, "seed": 0} | KINDS[kind]


def plan(kinds: Sequence[str], gib: float, steps: Mapping[str, int]) -> list[Cell]:
    """One cell for each kind of set."""
    return [
        Cell(
            name=f"{kind}-{gib:g}",
            work="benchmarks.big_sets:run_cell",
            settings=settings_of(kind, gib, steps[kind]),
            command=f"{COMMAND} --kinds {kind} --gib {gib:g}",
        )
        for kind in kinds
    ]


def write_rows(path: Path, settings: Mapping[str, Any]) -> tuple[int, int]:
    """The file, block by block; its rows and bytes."""
    random, dtype = np.random.default_rng(settings["seed"]), np.dtype(settings["dtype"])
    event = tuple(settings["event"])
    each = dtype.itemsize * int(np.prod(event))
    rows = int(settings["gib"] * 2**30) // each
    block = BLOCK_BYTES // each
    target = np.lib.format.open_memmap(path, "w+", dtype, (rows, *event))
    if dtype.kind == "u":
        values = random.integers(0, 256, (block, *event), dtype=dtype)
    else:
        values = random.standard_normal((block, *event), dtype=np.float32)
    for start in range(0, rows, block):
        shift = random.integers(0, 255) if dtype.kind == "u" else np.float32(0.1 * random.standard_normal())
        target[start : start + block] = (values + dtype.type(shift))[: rows - start]
    target.flush()
    return rows, path.stat().st_size


def watched(command: Sequence[str]) -> dict[str, Any]:
    """Run a command; its memory over time, and what it said, with the seconds at which it said it."""
    started = time.perf_counter()
    samples: list[list[float]] = []
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | {"OMP_NUM_THREADS": "1"}) as child:
            while child.poll() is None:
                if (found := _memory(child.pid)) is not None:
                    where = os.fstat(said.fileno()).st_size
                    samples.append([round(time.perf_counter() - started, 2), *found, where])
                time.sleep(SAMPLED_SECONDS)
        said.seek(0)
        text = said.read().decode()
    if child.returncode:
        raise RuntimeError(text[-2000:])
    return {"samples": samples, "text": text, "seconds": time.perf_counter() - started}


def _memory(process: int) -> tuple[float, float] | None:
    """RssAnon and RssFile in MiB."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    found = [re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE) for name in ("RssAnon", "RssFile")]
    return None if None in found else tuple(int(match[1]) / 1024 for match in found if match)  # type: ignore[return-value]


def run_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One cell: write, train, watch, delete."""
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        rows, num_bytes = write_rows(Path(place, "rows.npy"), settings)
        written = time.perf_counter() - started
        command = [sys.executable, "-m", "advect", "train", f"{place}/rows.npy", "--out", f"{place}/run"]
        for name in ("method", "network", "batch_size", "steps"):
            command += [f"--{name.replace('_', '-')}", str(settings[name])]
        found = watched(command)
        card = json.loads(Path(place, "run", "evaluation.json").read_text())
        shares = {
            name: float(share) for name, share in re.findall(r"([a-z]+(?: [a-z]+)*) (\d+)%", _last_line(found["text"]))
        }
    return {
        "rows": rows,
        "bytes": num_bytes,
        "written_seconds": written,
        "seconds": found["seconds"],
        "samples": [sample[:3] for sample in found["samples"]],
        "phases": phases(found["samples"], found["text"]),
        "shares": shares,
        "held_out_rows": card["held_out_rows"],
        "rate": re.findall(r"\(([0-9.k]+) rows/s\)", found["text"])[-1],
    }


def _last_line(text: str) -> str:
    return [line for line in text.splitlines() if line.startswith("step ")][-1]


def phases(samples: Sequence[Sequence[float]], text: str) -> dict[str, dict[str, float]]:
    """Seconds, and the least and largest RssAnon, of each part of the run, told apart by what it had said by then."""
    places = {name: text.find(mark) for name, mark in _PHASES.items()}
    begun = sorted((place, name) for name, place in places.items() if place >= 0)
    found: dict[str, dict[str, float]] = {}
    for (place, name), (end, _) in zip(begun, [*begun[1:], (len(text) + 1, "")], strict=True):
        here = [(seconds, anon) for seconds, anon, _, said in samples if place < said <= end]
        if here:
            anon = [value for _, value in here]
            found[name] = {"seconds": here[-1][0] - here[0][0], "least": min(anon), "largest": max(anon)}
    return found


def write_table(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """The table, from the results alone."""
    lines = [
        "# Sets larger than memory should hold",
        "",
        f"Written by `{COMMAND}`; do not edit. `advect train` on a file of random rows, one thread; RssAnon (MiB) of "
        f"the process every {SAMPLED_SECONDS} s, by part of the run: least and largest. Bound: {LIMIT_MIB} MiB. "
        "Reading is everything before the first step: the pass for bounds and non-finite values, those for the rules "
        "and the scaling of columns, the digest of the file. Waiting: the share of training without rows to train on. "
        "Memory is what is measured here: seconds are those of processors that had other work too.",
        "",
        "| set | file | rows | steps | reading | training | solvers | figures, report | peak | rows/s | waiting |",
        "|" + " --- |" * 11,
    ]
    for record in sorted(records, key=lambda r: r["cell"]):
        f, s = record["figures"], record["settings"]
        told = [_phase(f["phases"].get(name)) for name in ("reading", "training", "measuring", "figures")]
        peak = max(anon for _, anon, _ in f["samples"])
        waiting = sum(share for name, share in f["shares"].items() if name.strip() == WAITING)
        verdict = "" if peak <= LIMIT_MIB else " (above)"
        event = " × ".join(map(str, s["event"]))
        cells = (
            f"{s['kind']}: {event} {s['dtype']}, {s['method']}, {s['network']}, batches of {s['batch_size']}",
            f"{f['bytes'] / 2**30:.2f} GiB",
            f"{f['rows']:,}",
            f"{s['steps']:,}",
            *told,
            f"{peak:.0f}{verdict}",
            f["rate"],
            f"{waiting:.0f}%",
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", made_on(records, len(KINDS))] if records else []
    write_text(path, "\n".join(lines) + "\n")


def _phase(found: Mapping[str, float] | None) -> str:
    return "–" if found is None else f"{found['least']:.0f} to {found['largest']:.0f} in {found['seconds']:.0f} s"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a cell failed, 2 where the request is refused."""
    parser = command_line(COMMAND, __doc__, RESULTS)
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=tuple(KINDS))
    parser.add_argument("--gib", type=float, default=8.0, help="size of the file")
    parser.add_argument("--steps", type=int, help="optimiser steps; 6000 for the table, 3000 for pictures")
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where the file is written, and deleted")
    given = parser.parse_args(arguments)
    os.environ["TMPDIR"] = given.folder  # of the processes that the cells run in
    steps = {"table": given.steps or 6000, "pictures": given.steps or 3000}
    return answer(given, plan(given.kinds, given.gib, steps), write_table)


if __name__ == "__main__":
    sys.exit(main())
