"""Places that cannot be written, or not for long: a full disk, a folder without rights, one that goes away or is taken.

Each is refused with a message that says so and leaves what was there as it was; the same command then ends as if
nothing had been. A clock that jumps is not noticed at all.
"""

import os
import random
import re
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.reliability.children import Child, Ended, command
from benchmarks.reliability.folders import contents, differing, unreadable
from benchmarks.reliability.jobs import RUN, Ground, inside, job, training

NOBODY = 65534
SIZES = (0, 200, 1_000, 3_000, 5_000, 8_000, 20_000)  # bytes a file may have
REFUSED = 2
GONE = "moved or removed|No such file"  # the second where it went in the middle of a file


def full_disk(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A cell: the job where no file may be larger than so many bytes, then again without a limit."""
    with tempfile.TemporaryDirectory() as scratch:
        ground = Ground(job(settings["job"]), Path(scratch))
        expected, faults, refused = contents(ground.straight), [], 0
        for size in settings["sizes"]:
            folder = ground.fresh()
            ended = Child(_limited(ground.job.work, size), folder).wait()
            refused += ended.code == REFUSED
            faults += _badly_refused(ended, f"{size} bytes", "cannot be written") if ended.code else []
            faults += [f"{size} bytes: {fault}" for fault in unreadable(folder)]
            faults += _again(ground, folder, expected, f"{size} bytes")
        return {"tries": len(settings["sizes"]), "refused": refused, "faults": faults}


def _limited(work: Callable[[], int | None], size: int) -> Callable[[], int | None]:
    def limited() -> int | None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return _spoken(work)

    return limited


def _spoken(work: Callable[[], int | None]) -> int | None:
    """The work, with an error of advect's as a message and an exit code, as the command has it."""
    from advect.errors import AdvectError

    try:
        return work()
    except AdvectError as error:
        print(error, flush=True)
        return REFUSED


def _badly_refused(ended: Ended, what: str, words: str) -> list[str]:
    """What is wrong with a refusal: another exit code, no message, or a traceback."""
    # HDF5 tells of a file that it cannot close a second time, where nobody can catch it.
    traced = "Traceback" in ended.said and "Exception ignored" not in ended.said
    if ended.code != REFUSED or re.search(words, ended.said) is None or traced or "inside advect" in ended.said:
        return [f"{what}: ended with {ended.code}: {ended.said[-300:]}"]
    return []


def _again(ground: Ground, folder: Path, expected: dict[str, Any], what: str) -> list[str]:
    ended = Child(ground.job.work, folder).wait()
    if ended.code:
        return [f"{what}: given again it ended with {ended.code}: {ended.said[-300:]}"]
    return [f"{what}: {name} is not that of the straight run" for name in differing(expected, contents(folder))]


def small_disk(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A cell: the job on a file system in memory that is too small, which is then made larger; none where mounting is
    not allowed."""
    with tempfile.TemporaryDirectory() as scratch:
        ground = Ground(job(settings["job"]), Path(scratch))
        expected, faults, refused = contents(ground.straight), [], 0
        for blocks in settings["kilobytes"]:
            folder = Path(scratch) / f"disk-{blocks}"
            folder.mkdir()
            mount = ["mount", "-t", "tmpfs", "-o", f"size={blocks}k", "tmpfs", str(folder)]
            if subprocess.run(mount, capture_output=True, check=False).returncode:
                return {"tries": 0, "refused": 0, "faults": [], "remark": "no file system can be mounted here"}
            try:
                shutil.copytree(ground.start, folder, dirs_exist_ok=True)
                ended = Child(lambda: _spoken(ground.job.work), folder).wait()
                refused += ended.code == REFUSED
                faults += _badly_refused(ended, f"{blocks} kB", "No space left") if ended.code else []
                faults += [f"{blocks} kB: {fault}" for fault in unreadable(folder)]
                subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True, capture_output=True)
                faults += _again(ground, folder, expected, f"{blocks} kB")
            finally:
                subprocess.run(["umount", str(folder)], check=False, capture_output=True)
        return {"tries": len(settings["kilobytes"]), "refused": refused, "faults": faults}


def other_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A cell: a folder without rights, one moved or removed under a training, one that is taken, a clock that jumps."""
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        os.chmod(scratch, 0o755)  # for a process without rights
        ground = Ground(job("train"), Path(scratch))
        checks = (_without_rights, _removed, _moved, _taken, _jumping_clock)
        for check in checks:
            faults += check(ground)
    return {"tries": len(checks), "refused": len(checks) - 1, "faults": faults}


def _without_rights(ground: Ground) -> list[str]:
    """A finished run in a folder that may only be read: it is sampled, and nothing else is done to it."""
    folder = ground.fresh()
    Child(ground.job.work, folder).wait()
    before = contents(folder)

    practice = Path(shutil.copytree(folder, folder.with_name("practice")))

    def as_nobody(line: str) -> Callable[[], int | None]:
        def work() -> int | None:
            inside(command(line), practice)  # imports everything while that is still allowed
            if os.getuid() == 0:
                os.setuid(NOBODY)
            return command(line)()

        return work

    _allow(folder, 0o555, 0o444)
    sampled = Child(as_nobody(f"sample {RUN} -n 5 --json"), folder).wait()
    faults = [f"no rights: sampling ended with {sampled.code}: {sampled.said[-300:]}"] if sampled.code else []
    new = "train points.csv --method planar --steps 3 --out"
    for line in (f"report {RUN}", f"evaluate {RUN}", f"{new} {RUN} --restart", f"{new} new"):
        faults += _badly_refused(Child(as_nobody(line), folder).wait(), f"no rights, {line}", "cannot be written")
    _allow(folder, 0o755, 0o644)
    return faults + [f"no rights: {name} has changed" for name in differing(before, contents(folder))]


def _allow(folder: Path, folders: int, files: int) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(folders if path.is_dir() else files)


def _long_training() -> int | None:
    return _spoken(lambda: training(20_000, checkpoint_seconds=0.05))


def _begun(ground: Ground) -> tuple[Path, Child]:
    """A long training that has written its first checkpoint."""
    folder = ground.fresh()
    child = Child(_long_training, folder)
    for _ in range(6000):
        if (folder / RUN / "checkpoint/state.safetensors").exists():
            break
        time.sleep(0.01)
    return folder, child


def _removed(ground: Ground) -> list[str]:
    folder, child = _begun(ground)
    while (folder / RUN).exists():
        shutil.rmtree(folder / RUN, ignore_errors=True)
    faults = _badly_refused(child.wait(), "removed folder", GONE)
    return faults + (["removed folder: it was made anew"] if (folder / RUN).exists() else [])


def _moved(ground: Ground) -> list[str]:
    folder, child = _begun(ground)
    (folder / RUN).rename(folder / "elsewhere")
    faults = _badly_refused(child.wait(), "moved folder", GONE) + unreadable(folder)
    return faults + (["moved folder: it was made anew"] if (folder / RUN).exists() else [])


def _taken(ground: Ground) -> list[str]:
    """A second training is refused while the first runs, and a reader is not; a dead process holds nothing."""
    folder, child = _begun(ground)
    faults = _badly_refused(Child(_long_training, folder).wait(), "second process", "another process is writing")
    faults += unreadable(folder)
    child.wait(kill_after=0)
    ended = Child(lambda: _spoken(lambda: training(20_000, stop_after=1)), folder).wait()
    return faults + ([f"after a kill: {ended.said[-300:]}"] if ended.code else [])


def _jumping_clock(ground: Ground) -> list[str]:
    """The wall clock goes back and forth by years."""

    def work() -> int | None:
        draw, now = random.Random(0), time.time
        time.time = lambda: now() + draw.uniform(-1e8, 1e8)
        return ground.job.work()

    folder = ground.fresh()
    ended = Child(work, folder).wait()
    if ended.code:
        return [f"jumping clock: ended with {ended.code}: {ended.said[-300:]}"]
    return [f"jumping clock: {name} differs" for name in differing(contents(ground.straight), contents(folder))]
