"""``python -m benchmarks.reliability``: the long forms, as a queue of cells; the table is written after each."""

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell, run_and_tabulate
from benchmarks.reliability.table import write_table

HOME = Path(__file__).parents[1] / "results" / "reliability"
PARTS = ("kills", "operations", "places", "resumes", "memory", "earlier")
MEMORY_SECONDS, MEMORY_PAUSE = 3600.0, 2.0


def cells(parts: tuple[str, ...], memory_seconds: float, memory_pause: float) -> list[Cell]:
    """The cells of some parts, in the order in which they are run."""
    made: list[Cell] = []

    def add(part: str, name: str, work: str, **settings: Any) -> None:
        if part in parts:
            command = f"python -m benchmarks.reliability --parts {part}"
            if part == "memory":
                command += f" --memory-seconds {memory_seconds:g} --memory-pause {memory_pause:g}"
            made.append(Cell(f"{part}-{name}", f"benchmarks.reliability.{work}", settings, command))

    for seed, (job, kills) in enumerate(_KILLS):
        add("kills", f"{job}-{seed}", "kills:random_kills", job=job, kills=kills, seed=seed)
    for job, stride in (("steps", 1), ("sample", 1), ("figures", 7), ("compare", 25)):
        add("operations", job, "kills:every_operation", job=job, first=0, stride=stride, seed=0)
    for job in ("train", "sample"):
        add("places", f"full-{job}", "places:full_disk", job=job, sizes=list(_SIZES), seed=0)
    add("places", "small-disk", "places:small_disk", job="train", kilobytes=[8, 12, 16, 20, 24, 28, 32], seed=0)
    add("places", "other", "places:other_places", seed=0)
    add("resumes", "call", "long_runs:resumed", **{"as": "call"}, pieces=1000, steps_each=1, seed=0)
    add("resumes", "process", "long_runs:resumed", **{"as": "process"}, pieces=30, steps_each=20, seed=0)
    add("memory", "loop", "long_runs:memory", seconds=memory_seconds, pause=memory_pause, seed=0)
    add("earlier", "folders", "earlier:opened", seed=0)
    return made


_KILLS = (("train", 50), ("train", 50), ("figures", 20), ("sample", 40), ("sample", 30), ("compare", 10), ("train", 10))
_SIZES = (0, 100, 300, 1_000, 2_000, 3_000, 5_000, 8_000, 12_000, 20_000, 24_000)


def main() -> int:
    """Run what is left of the cells that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to run")
    parser.add_argument("--memory-seconds", type=float, default=MEMORY_SECONDS, help="length of the memory loop")
    parser.add_argument(
        "--memory-pause", type=float, default=MEMORY_PAUSE, help="seconds between two runs of the memory loop"
    )
    parser.add_argument("--out", type=Path, default=HOME, help="folder of the results")
    parser.add_argument("--table", action="store_true", help="only write the table from the results there are")
    asked = parser.parse_args()
    table = asked.out.with_suffix(".md")
    return run_and_tabulate(
        cells(tuple(asked.parts), asked.memory_seconds, asked.memory_pause),
        asked.out,
        lambda: write_table(asked.out, table),
        table_only=asked.table,
    )


if __name__ == "__main__":
    sys.exit(main())
