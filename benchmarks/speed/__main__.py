"""`python -m benchmarks.speed`: every row in a process of its own, results in JSON, the table from them."""

import argparse
import sys
from pathlib import Path

from benchmarks.cells import ROOT, read_records, run_and_tabulate
from benchmarks.speed.rows import all_rows
from benchmarks.speed.table import write_table

RESULTS = ROOT / "benchmarks" / "results"


def main() -> int:
    """Run what is asked and write the table."""
    rows = {row.name: row for row in all_rows()}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument(
        "--rows", nargs="+", choices=list(rows), default=list(rows), metavar="ROW", help=", ".join(rows)
    )
    parser.add_argument("--quick", action="store_true", help="few rounds and no growth curves: minutes for all")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu on a busy machine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder of the results; by default one for each kind of run")
    parser.add_argument("--table", action="store_true", help="only write the table from the results there are")
    asked = parser.parse_args()
    cells = [rows[name].cell(quick=asked.quick, seed=asked.seed, clock=asked.clock) for name in asked.rows]
    kind = ["speed", *["quick"] * asked.quick, *["cpu"] * (asked.clock == "cpu")]
    folder = asked.out or RESULTS / "_".join(kind)
    folder.mkdir(parents=True, exist_ok=True)

    def tabulate() -> None:
        write_table(folder.with_suffix(".md"), read_records(folder), rows)

    return run_and_tabulate(cells, folder, tabulate, table_only=asked.table)


if __name__ == "__main__":
    sys.exit(main())
