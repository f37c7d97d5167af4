"""What spreading the weights over processes saves: memory of each process, on one machine, by gloo.

    alone    one process
    alike    two processes, each with all weights, averages and moments
    spread   two processes with half of them each (``--set shard=true``)

The same training of a wide network three times. Figures of every process: anonymous memory (RssAnon) before the model,
after the last step, the largest resident memory of the whole run; and the losses, which must agree.

Run ``python -m benchmarks.processes``; what is finished is not run again.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advect.files import write_text
from benchmarks.cells import ROOT, Cell, answer, command_line

COMMAND = "python -m benchmarks.processes"
RESULTS = ROOT / "benchmarks" / "results" / "processes"
LAYOUTS: Mapping[str, tuple[int, bool]] = {"alone": (1, False), "alike": (2, False), "spread": (2, True)}
SETTINGS = {"data": "moons", "method": "i-cfm", "network": "residual-3x2048", "batch_size": 32, "steps": 12, "seed": 0}
MEGABYTE = 2**20


def memory(name: str) -> float:
    """An entry of this process' status, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    line = next(line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 / MEGABYTE


def one_process(settings: Mapping[str, Any], note: Path) -> None:
    """The part of a process; its figures go to ``note`` with its rank."""
    import torch

    from advect.training import joined
    from advect.workflows.fit import train
    from advect.workflows.request import TrainRequest

    torch.set_num_threads(1)
    figures: dict[str, Any] = {"before_mb": memory("RssAnon")}
    seen: list[float] = []

    def stop() -> bool:
        seen.append(memory("RssAnon"))
        figures["step_mb"] = seen[-1]
        figures.setdefault("began", time.monotonic())
        figures["ended"] = time.monotonic()
        return False

    with joined() as workers:
        request = TrainRequest(
            settings["data"],
            method=settings["method"],
            network=settings["network"],
            steps=settings["steps"],
            batch_size=settings["batch_size"],
            seed=settings["seed"],
            out=note.parent / "run",
            training={"shard": settings["shard"], "validation_every": 4, "checkpoint_seconds": 1e6, "probe_share": 0.0},
        )
        train(request, evaluate=False, workers=workers, stop=stop)
    figures["most_mb"] = memory("VmHWM")
    figures["seconds_per_step"] = (figures.pop("ended") - figures.pop("began")) / (len(seen) - 1)
    note.with_name(f"{note.name}.{workers.rank}").write_text(json.dumps(figures), encoding="utf-8")


def measured(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A cell: one layout."""
    from advect.run import METRICS, MODEL, read_tensors

    with tempfile.TemporaryDirectory() as scratch:
        note = Path(scratch) / "note"
        launcher = [sys.executable]
        if settings["processes"] > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(settings["processes"])]
        line = [*launcher, "-m", "benchmarks.processes", "--part", json.dumps(dict(settings)), str(note)]
        subprocess.run(line, check=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})
        history = (note.parent / "run" / METRICS).read_text(encoding="utf-8").splitlines()
        tensors, _ = read_tensors(note.parent / "run" / MODEL)
        return {
            "parameters": sum(tensor.numel() for tensor in tensors.values()),
            "validation_losses": [json.loads(line)["validation_loss"] for line in history],
            "each": [
                json.loads(note.with_name(f"note.{rank}").read_text(encoding="utf-8"))
                for rank in range(settings["processes"])
            ],
        }


def cells() -> list[Cell]:
    """One a layout."""
    return [
        Cell(
            name,
            "benchmarks.processes:measured",
            SETTINGS | {"processes": count, "shard": shard},
            COMMAND,
        )
        for name, (count, shard) in LAYOUTS.items()
    ]


def write_table(path: Path, records: list[dict[str, Any]]) -> None:
    """The page of the results."""
    lines = [
        "# Weights spread over processes",
        "",
        f"Written by `{COMMAND}`: {SETTINGS['network']}, {SETTINGS['method']}, {SETTINGS['steps']} steps of "
        f"{SETTINGS['batch_size']} rows, gloo on one machine, one thread a process. MB are of 2²⁰ bytes: *steps* is "
        "anonymous memory at the last step less that before the model was made, *most* the largest resident memory of "
        "the whole run, start and end included.",
        "",
        "| layout | process | before | steps | most | s per step | validation losses |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    found = {record["cell"]: record["figures"] for record in records}
    for name in LAYOUTS:
        if name not in found:
            lines.append(f"| {name} | not run yet | | | | | |")
            continue
        losses = ", ".join(f"{loss:.7f}" for loss in found[name]["validation_losses"])
        for rank, one in enumerate(found[name]["each"]):
            lines.append(
                f"| {name} | {rank} | {one['before_mb']:.0f} | {one['step_mb'] - one['before_mb']:.0f} | "
                f"{one['most_mb']:.0f} | {one['seconds_per_step']:.2f} | {losses if rank == 0 else ''} |"
            )
    if found:
        size = next(iter(found.values()))["parameters"]
        lines += ["", f"{size:,} parameters: {4 * size / MEGABYTE:.0f} MB once."]
    write_text(path, "\n".join(lines) + "\n")


def main() -> int:
    """Run what is left, or the part of one process."""
    if sys.argv[1:2] == ["--part"]:
        one_process(json.loads(sys.argv[2]), Path(sys.argv[3]))
        return 0
    given = command_line(COMMAND, __doc__, RESULTS).parse_args()
    return answer(given, cells(), write_table)


if __name__ == "__main__":
    sys.exit(main())
