"""`python -m benchmarks.speed`: every row in a process of its own, results in JSON, the table from them."""

import argparse
import sys
from pathlib import Path

from benchmarks.cells import ROOT, read_records, run_and_tabulate
from benchmarks.speed.rows import all_rows
from benchmarks.speed.table import write_table

RESULTS = ROOT / "benchmarks" / "results" / "speed"


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
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--table", action="store_true", help="only write the table from the results there are")
    asked = parser.parse_args()
    cells = [rows[name].cell(quick=asked.quick, seed=asked.seed, clock=asked.clock) for name in asked.rows]
    asked.out.mkdir(parents=True, exist_ok=True)

    def tabulate() -> None:
        write_table(asked.out.with_suffix(".md"), read_records(asked.out), rows)

    return run_and_tabulate(cells, asked.out, tabulate, table_only=asked.table)


if __name__ == "__main__":
    sys.exit(main())
