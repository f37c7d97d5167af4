"""Damaged files for every reader: `python -m benchmarks.reliability.fuzz` writes results/reliability/fuzz.json and .md.

Each reader gets thousands of files made from small honest ones. A file passes when it is read, or refused with an
`AdvectError`, in time and memory below the bounds stated here, and nothing was run, written outside or left open. Files
are read in worker processes: one that dies or hangs is a finding with the number of its file, and the rest goes on.

    python -m benchmarks.reliability.fuzz                         # ten thousand files for each reader
    python -m benchmarks.reliability.fuzz --files 300             # a quick look; the record is not touched
    python -m benchmarks.reliability.fuzz --readers npy --show 17 # one file again, with what it does

A record may be made in pieces: `--files 5000 --record`, then `--first 5000 --files 5000 --record`.
"""

import argparse
import collections
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from advect.decoding import guard
from benchmarks.reliability import nursery
from benchmarks.reliability.cases import READERS, make_case
from benchmarks.reliability.nursery import Nursery
from benchmarks.reliability.seeds import CANARY, seeds_as_text, seeds_of_text

RESULTS = Path(__file__).parents[1] / "results" / "reliability"
SECONDS = 10.0
"""Longest time for one file; after twice that the worker ends itself."""
MEBIBYTES = 400
"""Most memory that reading one file may take beside what the process held before."""
TIMES = 4
"""Likewise for each MiB of a large file."""
ADDRESS_SPACE = 8 << 30
FILES = 10_000


# ---- the worker


def work(reader: str, seed: int, numbers: Iterable[int], known: Any, out: Path, scratch: Path) -> None:
    """Read the files of these numbers; one line of JSON for each, and a line before it that says which is begun."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    decoders = Nursery(READERS[reader].decoders) if READERS[reader].decoders else None
    if decoders:
        guard.run_child = decoders.run_child
    scratch.mkdir(parents=True, exist_ok=True)
    os.chdir(scratch)
    _warm(reader, known, scratch, decoders)
    with out.open("a", buffering=1) as stream:
        for number in numbers:
            path = make_case(reader, known, seed, number, scratch / "case")
            stream.write(json.dumps({"begun": number}) + "\n")
            stream.write(json.dumps({"number": number, **attempt(reader, path, scratch, decoders)}) + "\n")


def _warm(reader: str, known: Any, scratch: Path, decoders: Nursery | None) -> None:
    """Read a few files first, so that imports do not count."""
    for number in range(3):
        attempt(reader, make_case(reader, known, -1, number, scratch / "case"), scratch, decoders)


def attempt(reader: str, path: Path, scratch: Path, decoders: Nursery | None = None) -> dict[str, Any]:
    """What became of one file; ``decoders`` is where its decoding processes come from, if not from the library."""
    from advect.errors import AdvectError

    signal.alarm(int(2 * SECONDS))  # not handled: it ends the worker, even inside a library
    before, files = _forget_peak(), _open_files()
    if decoders:
        decoders.forget()
    started, problem = time.perf_counter(), None
    try:
        READERS[reader].read(path)
        outcome = "read"
    except AdvectError as error:
        outcome = type(error).__name__
        problem = _bad_message(error)
    except Exception as error:
        outcome, problem = "fault", f"{type(error).__name__}: {str(error)[:200]} {_place(error)}"
    seconds = time.perf_counter() - started
    signal.alarm(0)
    megabytes = max((_status("VmHWM") - before) / 1024, decoders.mebibytes if decoders else 0.0, 0.0)
    if (scratch / CANARY).exists():
        problem = "something in the file was run"
        (scratch / CANARY).unlink()
    if seconds > SECONDS or megabytes > MEBIBYTES + TIMES * _size(path):
        problem = problem or f"took {seconds:.1f} s, {megabytes:.0f} MiB"
    if _open_files() > files:
        problem = problem or "left a file open"
    figures = {"seconds": round(seconds, 4), "mebibytes": round(megabytes, 1)}
    return {"outcome": outcome, "problem": problem, "child": decoders.ending if decoders else "", **figures}


def _bad_message(error: Any) -> str | None:
    """What is wrong with a message: a place that is missing, or characters that would steer a terminal."""
    if any((ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in error.message):
        return f"control characters in the message {error.message[:200]!r}"
    if not error.where:
        return f"no place in the message {error.message[:200]!r}"
    return None


def _place(error: BaseException) -> str:
    """The deepest line of advect's own that was running."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/advect/" in f.filename]
    return f"({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _size(path: Path) -> float:
    """MiB of a file, or of all in a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files) / (1 << 20)


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def _status(key: str) -> int:
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith(key))


def _forget_peak() -> int:
    """Begin a new peak of resident memory; returns what is held now, in KiB."""
    try:
        with open("/proc/self/clear_refs", "w") as stream:
            stream.write("5")
    except OSError:
        return _status("VmHWM")
    return _status("VmRSS")


# ---- the parent


def fuzz(reader: str, files: int, *, seed: int = 0, first: int = 0) -> list[dict[str, Any]]:
    """What became of each file; a worker that dies is a finding, and a new one goes on behind it."""
    with tempfile.TemporaryDirectory(prefix="advect-fuzz-") as folder:
        known, out = Path(folder) / "seeds", Path(folder) / "lines"
        known.write_text(seeds_as_text(READERS[reader].seeds()))
        found: list[dict[str, Any]] = []
        start = first
        while start < first + files:
            out.write_text("")
            words = [reader, seed, start, first + files, known, out, Path(folder) / "scratch"]
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.reliability.fuzz", "--worker", *map(str, words)], capture_output=True
            )
            lines = [json.loads(line) for line in out.read_text().splitlines()]
            found += [line for line in lines if "number" in line]
            if done.returncode == 0:
                break
            begun = [line["begun"] for line in lines if "begun" in line]
            if not begun:
                raise RuntimeError(f"the worker cannot start: {done.stderr.decode()[-2000:]}")
            how = "hangs" if done.returncode == -signal.SIGALRM else f"ends the process ({done.returncode})"
            if begun[-1] != (lines[-1].get("number")):
                found.append(
                    {"number": begun[-1], "outcome": "death", "problem": how, "seconds": 0.0, "mebibytes": 0.0}
                )
            start = begun[-1] + 1
    return found


def summary(reader: str, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of one reader."""
    slowest = max(found, key=lambda line: line["seconds"])
    largest = max(found, key=lambda line: line["mebibytes"])
    problems = [line for line in found if line["problem"]]
    return {
        "reader": reader,
        "files": len(found),
        "outcomes": dict(collections.Counter(line["outcome"] for line in found).most_common()),
        "seconds": slowest["seconds"],
        "slowest": slowest["number"],
        "mebibytes": largest["mebibytes"],
        "largest": largest["number"],
        "children": dict(collections.Counter(line["child"] for line in found if line.get("child"))),
        "problems": len(problems),
        "first_problems": [{"number": line["number"], "problem": line["problem"]} for line in problems[:10]],
    }


def joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one reader over its first files and those that follow them."""
    sums = {
        name: dict((collections.Counter(one[name]) + collections.Counter(other[name])).most_common())
        for name in ("outcomes", "children")
    }
    worst = {}
    for figure, number in (("seconds", "slowest"), ("mebibytes", "largest")):
        more = max(one, other, key=lambda s: s[figure])
        worst |= {figure: more[figure], number: more[number]}
    counts = {name: one[name] + other[name] for name in ("files", "problems")}
    first = [*one["first_problems"], *other["first_problems"]][:10]
    return {**one, **sums, **worst, **counts, "first_problems": first}


def page(summaries: Sequence[Mapping[str, Any]]) -> str:
    """The record as Markdown."""
    total, bad = sum(s["files"] for s in summaries), sum(s["problems"] for s in summaries)
    lines = [
        "# Damaged files",
        "",
        f"Written by `python -m benchmarks.reliability.fuzz`. {total:,} files; **{'Pass' if not bad else 'Fail'}**: "
        f"{bad} of them crashed, hung, took more than {SECONDS:g} s or {MEBIBYTES} MiB, ran something, left a file "
        "open, or ended in anything but rows or a refusal that names the place.",
        "",
        "Files for a decoder are read in processes of their own with the library's limits, at most "
        f"{nursery.FILES} files in one (the library begins one for each); a process that does not answer is ended "
        f"after {nursery.SECONDS:g} s, where the library waits a minute. A decoder "
        "that crashes or is ended becomes a refusal, and is counted.",
        "",
        "| reader | files | read | refused | decoders that ended | worst time | worst memory | problems |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for s in summaries:
        read = s["outcomes"].get("read", 0)
        refused = sum(n for name, n in s["outcomes"].items() if name.endswith("Error"))
        lines.append(
            f"| {s['reader']} | {s['files']:,} | {read:,} | {refused:,} | {sum(s['children'].values())} "
            f"| {s['seconds']:.2f} s "
            f"| {s['mebibytes']:.0f} MiB | {s['problems']} |"
        )
    lines += [
        "",
        *(f"- {s['reader']}, file {p['number']}: {p['problem']}" for s in summaries for p in s["first_problems"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def record(summaries: Sequence[Mapping[str, Any]], folder: Path = RESULTS, *, first: int = 0) -> None:
    """Write figures and page; figures of readers that were not run this time are kept.

    Args:
        summaries: New figures.
        folder: Where the record is.
        first: The number of their first file; beyond 0 they join those of the files before.

    Raises:
        ValueError: The record does not end there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "fuzz.json"
    kept = {s["reader"]: s for s in (json.loads(path.read_text()) if path.exists() else [])}
    if first:
        for s in summaries:
            if s["reader"] not in kept or kept[s["reader"]]["files"] != first:
                raise ValueError(f"the record of {s['reader']} does not end before file {first}")
        summaries = [joined(kept[s["reader"]], s) for s in summaries]
    kept |= {s["reader"]: s for s in summaries}
    ordered = [kept[name] for name in READERS if name in kept]
    path.write_text(json.dumps(ordered, indent=1) + "\n")
    (folder / "fuzz.md").write_text(page(ordered))


def show(reader: str, number: int, seed: int) -> None:
    """One file again, read in this process."""
    with tempfile.TemporaryDirectory() as folder:
        path = make_case(reader, READERS[reader].seeds(), seed, number, Path(folder) / "case")
        for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
            print(file, file.stat().st_size, file.read_bytes()[:300])
        print(READERS[reader].read(path))


def main() -> int:
    """The command."""
    if sys.argv[1:2] == ["--worker"]:
        reader, seed, start, stop, known, out, scratch = sys.argv[2:]
        seeds = seeds_of_text(Path(known).read_text())
        work(reader, int(seed), range(int(start), int(stop)), seeds, Path(out), Path(scratch))
        return 0
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--readers", nargs="+", default=list(READERS), choices=list(READERS))
    words.add_argument("--files", type=int, default=FILES)
    words.add_argument("--first", type=int, default=0)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--record", action="store_true", help="keep the figures of fewer files, or of those that follow")
    words.add_argument("--show", type=int)
    given = words.parse_args()
    if given.show is not None:
        show(given.readers[0], given.show, given.seed)
        return 0
    summaries = []
    for reader in given.readers:
        started = time.monotonic()
        summaries.append(summary(reader, fuzz(reader, given.files, seed=given.seed, first=given.first)))
        print(json.dumps(summaries[-1], indent=1), f"{time.monotonic() - started:.0f} s", flush=True)
        if given.record or (given.files >= FILES and given.first == 0):
            record(summaries[-1:], first=given.first)
    print(page(summaries))
    return 1 if any(s["problems"] for s in summaries) else 0


if __name__ == "__main__":
    sys.exit(main())
