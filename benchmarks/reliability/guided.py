"""Files that coverage leads to: atheris (the extra `fuzz`) changes honest files and keeps what reaches new code.

    python -m benchmarks.reliability.guided                        # each reader for a minute; writes the record
    python -m benchmarks.reliability.guided --readers csv --seconds 10 --out FOLDER

Only readers that are written in Python are run, in a process of their own each; a file fails as in `fuzz`. Half of the
changes are blind ones of libFuzzer, half are those that `fuzz` makes, which know the format.
"""

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.reliability import damaged_files as files
from benchmarks.reliability import damaged_runs as runs
from benchmarks.reliability.cases import READERS
from benchmarks.reliability.fuzz import RESULTS
from benchmarks.reliability.seeds import CANARY

SECONDS, SLOWEST, MEBIBYTES = 60, 20, 1500  # the last counts the whole process, with torch
SEED = 1
LONGEST = 20_000  # bytes of an input
MODEL = "model.safetensors"

Change = Callable[[random.Random, bytes], bytes]


def _whole(place: str) -> Callable[[Path, bytes], Path]:
    def write(folder: Path, data: bytes) -> Path:
        (folder / place).write_bytes(data)
        return folder / place

    return write


def _in_a_run(place: str, *, whole: bool) -> Callable[[Path, bytes], Path]:
    """One file of a run folder, whose others are honest where it is read whole."""

    def write(folder: Path, data: bytes) -> Path:
        root = folder / "run"
        if not root.exists():
            root.mkdir()
            for name, content in runs.run_seed("ot-cfm") if whole else ():
                (root / name).parent.mkdir(exist_ok=True)
                (root / name).write_bytes(content)
        (root / place).write_bytes(data)
        return root

    return write


def _of_weights(draw: random.Random, data: bytes) -> bytes:
    return runs.damaged_tensors(draw, data, [data])


# How an input becomes a file, and the changes that know the format.
PLACES: dict[str, tuple[Callable[[Path, bytes], Path], Change]] = {
    "csv": (_whole("a.csv"), lambda draw, data: files.csv(draw, [data])),
    "npy": (_whole("a.npy"), lambda draw, data: files.npy(draw, [data])),
    "npz": (_whole("a.npz"), lambda draw, data: files.npz(draw, [data])),
    "idx": (_whole("a.idx"), lambda draw, data: files.plain(draw, [data])),
    "toml": (_in_a_run("config.toml", whole=False), lambda draw, data: files.plain(draw, [data])),
    "safetensors": (_whole(MODEL), _of_weights),
    "run": (_in_a_run(MODEL, whole=True), _of_weights),
}


def seeds(reader: str) -> list[bytes]:
    """Honest inputs."""
    if reader == "run":
        return [dict(runs.run_seed("ot-cfm"))[MODEL]]
    if reader in ("toml", "safetensors"):
        name = "config.toml" if reader == "toml" else MODEL
        return [dict(runs.run_seed(method))[name] for method in ("ot-cfm", "nsf")]
    return READERS[reader].seeds()


# ---- the process that reads


def read(reader: str, data: bytes, folder: Path) -> None:
    """Read an input as a file.

    Raises:
        AssertionError: A refusal without a place, or something was run.
    """
    from advect.errors import AdvectError

    try:
        READERS[reader].read(PLACES[reader][0](folder, data))
    except AdvectError as error:
        if not error.where:
            raise AssertionError(f"no place in {error.message!r}") from error
    if Path(CANARY).exists():
        raise AssertionError("something in the file was run")


def work(reader: str, words: Sequence[str]) -> None:
    """Follow the code until the time is up; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["advect.data", "advect.run", "advect.workflows.open", "advect.decoding"]):
        import advect.data
        import advect.run
        import advect.workflows.open  # noqa: F401
    change = PLACES[reader][1]

    def changed(data: bytes, most: int, seed: int) -> bytes:
        draw = random.Random(seed)
        if draw.random() < 0.5:
            return atheris.Mutate(data, most)
        try:
            return change(draw, data)[:most]
        except (ValueError, LookupError, TypeError, OSError, EOFError, RuntimeError, zipfile.BadZipFile):
            return atheris.Mutate(data, most)  # the change wants an honest file
        except Exception as error:  # of the many that packed data raise, such as those of zlib and struct
            if type(error).__name__ != "error":
                raise
            return atheris.Mutate(data, most)

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        place = Path(folder)
        atheris.Setup([sys.argv[0], *words], lambda data: read(reader, data, place), custom_mutator=changed)
        atheris.Fuzz()


# ---- the process that counts


def guided(reader: str, seconds: int) -> dict[str, Any]:
    """The figures of one reader after so many seconds."""
    with tempfile.TemporaryDirectory(prefix="advect-guided-") as scratch:
        corpus, found = Path(scratch) / "corpus", Path(scratch) / "found"
        corpus.mkdir()
        found.mkdir()
        for number, data in enumerate(seeds(reader)):
            (corpus / str(number)).write_bytes(data)
        words = [f"-max_total_time={seconds}", f"-timeout={SLOWEST}", f"-rss_limit_mb={MEBIBYTES}"]
        words += [f"-seed={SEED}", f"-max_len={LONGEST}", "-print_final_stats=1", f"-artifact_prefix={found}/"]
        command = [sys.executable, "-m", "benchmarks.reliability.guided", "--worker", reader, *words, str(corpus)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        kept = [{"name": path.name, "bytes": path.read_bytes().hex()} for path in sorted(found.iterdir())]
        return figures(reader, seconds, done.returncode, done.stdout) | {"found": kept}


def figures(reader: str, seconds: int, code: int, said: str) -> dict[str, Any]:
    """What libFuzzer says of a run.

    Raises:
        RuntimeError: It never began.
    """
    stats = {name: int(value) for name, value in re.findall(r"^stat::(\w+):\s+(\d+)", said, re.M)}
    cover = [(int(a), int(b)) for a, b in re.findall(r"cov: (\d+) ft: \d+ corp: (\d+)", said)]
    if not cover:
        raise RuntimeError(f"{reader} never began: {said[-2000:]}")
    return {
        "reader": reader,
        "seconds": seconds,
        "code": code,
        "files": stats.get("number_of_executed_units", 0),
        "slowest_seconds": stats.get("slowest_unit_time_sec", 0),
        "peak_mebibytes": stats.get("peak_rss_mb", 0),
        "reached_by_honest_files": cover[0][0],
        "reached": cover[-1][0],
        "kept": cover[-1][1],
        "problem": "" if code == 0 else _problem(said),
    }


def _problem(said: str) -> str:
    """What ended the process: the exception of the reader, or libFuzzer's own word."""
    found = re.search(r"Uncaught Python exception.*?(?=^==\d+==)", said, re.M | re.S)
    return found[0].strip() if found else "\n".join(re.findall(r"^SUMMARY.*$", said, re.M)) or said[-1500:]


def page(records: Sequence[Mapping[str, Any]]) -> str:
    """The record as Markdown."""
    bad = sum(bool(r["problem"]) for r in records)
    lines = [
        "# Damaged files that coverage leads to",
        "",
        f"Written by `python -m benchmarks.reliability.guided`. **{'Pass' if not bad else 'Fail'}**: {bad} of "
        f"{len(records)} readers met a file that was neither rows nor a refusal that names the place, took more "
        f"than {SLOWEST} s, or brought the process (with torch) beyond {MEBIBYTES} MiB. Places are those that atheris "
        "counts in the code of the readers; kept are files that reached a new one.",
        "",
        "| reader | time | files | places of honest files | places reached | files kept | slowest | most memory |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {r['reader']} | {r['seconds']} s | {r['files']:,} | {r['reached_by_honest_files']:,} | {r['reached']:,} "
        f"| {r['kept']:,} | {r['slowest_seconds']} s | {r['peak_mebibytes']:,} MiB |"
        for r in records
    ]
    problems = [f"- {r['reader']}: {r['problem'].strip().splitlines()[-1]}" for r in records if r["problem"]]
    return "\n".join([*lines, *(["", *problems] if problems else [])]) + "\n"


def record(records: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write figures and page; those of other readers are kept."""
    path = folder / "guided.json"
    kept = {r["reader"]: r for r in (json.loads(path.read_text()) if path.exists() else [])}
    kept |= {r["reader"]: r for r in records}
    ordered = [kept[name] for name in PLACES if name in kept]
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(ordered, indent=1) + "\n")
    (folder / "guided.md").write_text(page(ordered))


def main() -> int:
    """The command."""
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], sys.argv[3:])
        return 0
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--readers", nargs="+", default=list(PLACES), choices=list(PLACES))
    words.add_argument("--seconds", type=int, default=SECONDS)
    words.add_argument("--out", type=Path, default=RESULTS)
    given = words.parse_args()
    problems = 0
    for reader in given.readers:
        made = guided(reader, given.seconds)
        print(json.dumps({k: v for k, v in made.items() if k != "found"}, indent=1), flush=True)
        record([made], given.out)
        problems += bool(made["problem"])
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
