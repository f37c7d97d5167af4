"""A resumable queue of benchmark cells: each in a process of its own, each result one JSON file.

A cell names a function and the settings it is called with. A worker process with one torch thread calls it and
writes what it returned, whole or not at all, together with all that is needed to read or repeat it: command, seed,
settings, versions, processor, date, time. A cell whose file is there is finished and never run again; a missing or
torn file means that the cell is still to be run. A file made with other settings stops the queue: results of two
protocols never meet in one folder.
"""

import argparse
import hashlib
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from advect import files
from advect.errors import AdvectError, ConfigError

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PACKAGES = ("advect", "torch", "numpy", "scipy", "POT", "torchcfm")
PEERS = ("flow_matching", "torchdyn", "torchdiffeq", "torchode", "lapx", "zuko", "nflows", "normflows", "torchflows")
RECORD_KEYS = frozenset(
    {"cell", "command", "seed", "date", "seconds", "cpu_seconds", "versions", "machine", "settings", "figures"}
)
ERROR_LINES = 20
REFUSED = 2  # the exit code of a request that cannot be met


@dataclass(frozen=True)
class Cell:
    """One piece of work.

    Attributes:
        name: Of the result file, without its ending.
        work: ``module:function``; called with the settings, it returns figures that JSON can hold.
        settings: Everything that decides the figures, ``seed`` among them; plain JSON values.
        command: The line that runs this cell alone.
    """

    name: str
    work: str
    settings: Mapping[str, Any]
    command: str

    def file(self, folder: Path) -> Path:
        """Where the result belongs."""
        return folder / f"{self.name}.json"


def read_record(path: Path) -> dict[str, Any] | None:
    """The record in a result file; None where there is no file or not a whole record in it."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) and record.keys() >= RECORD_KEYS else None


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All whole records of a folder, by file name."""
    records = [read_record(path) for path in sorted(folder.glob("*.json"))]
    return [record for record in records if record is not None]


def is_finished(cell: Cell, folder: Path) -> bool:
    """Whether the cell's result is there.

    Raises:
        ConfigError: The result there was made with other settings.
    """
    record = read_record(cell.file(folder))
    if record is None:
        return False
    asked = json.loads(json.dumps(cell.settings))  # tuples become lists, as in the file
    found = record["settings"]
    if isinstance(found.get("options"), dict) and isinstance(asked.get("options"), dict):
        # An option that came later was at its default when there was none: it changes nothing there.
        asked["options"] = {name: value for name, value in asked["options"].items() if name in found["options"]}
    if found != asked:
        names = [name for name in sorted(found.keys() | asked.keys()) if found.get(name) != asked.get(name)]
        seen = ", ".join(f"{name} {found.get(name)!r} instead of {asked.get(name)!r}" for name in names)
        raise ConfigError(
            f"the result was made with other settings ({seen})",
            where=cell.file(folder).name,
            remedy="Choose another folder with --out, or move the old results away.",
        )
    return True


def run_queue(
    cells: Sequence[Cell],
    folder: Path,
    *,
    jobs: int = 1,
    say: Callable[[str], None] = print,
    on_result: Callable[[], None] = lambda: None,
) -> list[str]:
    """Run the cells that are not finished, in order, ``jobs`` at a time; return the names of those that failed.

    Args:
        cells: What to run.
        folder: Where the results are.
        jobs: Processes at a time.
        say: Gets a line per cell.
        on_result: Called after every new result, one call at a time.

    A failed cell leaves no file and does not stop the others. Interrupting the queue loses the running cells only.

    Raises:
        ConfigError: ``jobs`` below one, or a result made with other settings.
    """
    if jobs < 1:
        raise ConfigError(f"jobs must be at least 1, not {jobs}", where="jobs")
    waiting = [cell for cell in cells if not is_finished(cell, folder)]
    say(f"{len(cells) - len(waiting)} of {len(cells)} cells are finished, {len(waiting)} to run, {jobs} at a time")
    failed: list[str] = []
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(_run, cell, folder): cell for cell in waiting}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                cell, error = futures[future], future.result()
                if error:
                    failed.append(cell.name)
                record = read_record(cell.file(folder))
                outcome = f"failed\n{error}" if error or not record else f"done in {record['seconds']:.0f} s"
                say(f"[{number}/{len(waiting)}] {cell.name}: {outcome}")
                on_result()
        except KeyboardInterrupt:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return failed


def _run(cell: Cell, folder: Path) -> str:
    """Run one cell in a process of its own; return what went wrong, or nothing."""
    if is_finished(cell, folder):  # a second queue on the same folder was faster
        return ""
    target = cell.file(folder).resolve()
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.cells", str(target)],
        input=json.dumps(asdict(cell)),
        env=os.environ | dict.fromkeys(ONE_THREAD, "1"),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if process.returncode == 0 and read_record(target) is not None:
        return ""
    last = "\n".join(process.stderr.splitlines()[-ERROR_LINES:])
    return f"exit status {process.returncode}\n{last}"


def work(cell: Cell, target: Path) -> None:
    """In the worker: call the cell's function and write its record. A figure that is no number is refused."""
    module, _, name = cell.work.partition(":")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    versions = _versions()  # before the work: the source that is about to be imported
    date, started, cpu = datetime.now(UTC), time.perf_counter(), time.process_time()
    figures = getattr(importlib.import_module(module), name)(cell.settings)
    record = {
        "cell": cell.name,
        "command": cell.command,
        "seed": cell.settings.get("seed"),
        "date": date.isoformat(timespec="seconds"),
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "versions": versions,
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": _threads(),
            "load_at_start": load,
        },
        "settings": cell.settings,
        "figures": figures,
    }
    files.write_text(target, json.dumps(record, indent=2, allow_nan=False) + "\n")


def _versions() -> dict[str, str]:
    """Of Python and the packages; advect's also by its source, because a version number covers many states of it."""
    found = {"python": platform.python_version(), "advect_source": _source_digest()}
    for package in (*PACKAGES, *PEERS):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # an optional one that this cell did without
            continue
    return found


def _source_digest() -> str:
    """Twelve hexadecimal digits over the names and contents of advect's modules."""
    home, digest = Path(files.__file__).parent, hashlib.sha256()
    for path in sorted(home.rglob("*.py")):
        digest.update(path.relative_to(home).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _processor() -> str:
    """The processor's model, as the system names it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _threads() -> int:
    """Threads that torch computed with; where it was not needed, those it was allowed."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None else int(os.environ.get("OMP_NUM_THREADS", "1"))


if __name__ == "__main__":
    work(Cell(**json.load(sys.stdin)), Path(sys.argv[1]))


def run_and_tabulate(
    cells: Sequence[Cell], folder: Path, tabulate: Callable[[], None], *, jobs: int = 1, table_only: bool = False
) -> int:
    """What a benchmark's command does: run what is left, write the table after every cell and at the end.

    Returns:
        The exit code: 1 where a cell failed, 2 where the request is refused.
    """

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        failed = [] if table_only else run_queue(cells, folder, jobs=jobs, say=say, on_result=tabulate)
        tabulate()
    except AdvectError as error:
        print(error, file=sys.stderr)
        return REFUSED
    say(f"table: {folder.name}.md" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def command_line(prog: str, doc: str | None, out: Path, *, takes: str = "one thread each") -> argparse.ArgumentParser:
    """The options every benchmark has; `answer` follows them.

    Args:
        prog: The command.
        doc: Of the benchmark's module; its first line is shown.
        out: Folder of the results.
        takes: What a process takes, in words.
    """
    parser = argparse.ArgumentParser(prog=prog, description=(doc or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=out, help="folder of the results; the table is OUT.md")
    parser.add_argument("--jobs", type=int, default=1, help=f"processes at a time, {takes}")
    parser.add_argument("--table", action="store_true", help="run nothing, write the table from the results there are")
    return parser


def answer(
    given: argparse.Namespace, cells: Sequence[Cell], write_table: Callable[[Path, list[dict[str, Any]]], None]
) -> int:
    """Run ``cells`` as the options of `command_line` say; ``write_table(path, records)`` writes OUT.md.

    Returns:
        The exit code, as of `run_and_tabulate`.
    """
    table = given.out.with_name(f"{given.out.name}.md")

    def tabulate() -> None:
        write_table(table, read_records(given.out))

    return run_and_tabulate(cells, given.out, tabulate, jobs=given.jobs, table_only=given.table)
