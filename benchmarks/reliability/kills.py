"""Kills: at random moments, and right before each thing that is done to a file.

What is given again must end with the bits of what nobody disturbed, and no folder may be unreadable in between.
"""

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.reliability.children import Child
from benchmarks.reliability.folders import contents, differing, unreadable
from benchmarks.reliability.jobs import Ground, Job, job
from benchmarks.reliability.operations import Operation, kill_before, unflushed, watch

MOST_IN_ONE = 6  # kills of one run; the next attempt is then left alone
SHOWN = 20  # faults that are told in full


class Count:
    """Kills and what came of them."""

    def __init__(self, ground: Ground) -> None:
        self.ground, self.expected = ground, contents(ground.straight)
        self.kills = self.runs = 0
        self.seconds = 0.0
        self.faults: list[str] = []

    def killed(self, folder: Path) -> None:
        """A process was killed there."""
        self.kills += 1
        self.faults += [f"after kill {self.kills}: {fault}" for fault in unreadable(folder)]

    def finished(self, folder: Path, code: int, said: str) -> None:
        """The job was given again and left alone."""
        self.runs += 1
        if code != 0:
            self.faults.append(f"run {self.runs} ended with {code}: {said[-300:]}")
        else:
            other = differing(self.expected, contents(folder))
            self.faults += [f"run {self.runs}: {name} is not that of the straight run" for name in other]
        shutil.rmtree(folder)

    def figures(self) -> dict[str, Any]:
        """What a record holds."""
        return {
            "kills": self.kills,
            "runs_compared": self.runs,
            "faults": len(self.faults),
            "first_faults": self.faults[:SHOWN],
            "files_compared": len(self.expected),
            "straight_seconds": self.ground.ended.seconds,
            "straight_cpu_seconds": self.ground.ended.cpu_seconds,
        }


def random_kills(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A cell: kill a job at moments that are uniform over the time it takes, until there were so many kills."""
    moments = random.Random(settings["seed"])
    with tempfile.TemporaryDirectory() as scratch:
        ground = Ground(job(settings["job"]), Path(scratch))
        count = Count(ground)
        while count.kills < settings["kills"]:
            _one_run(ground, count, moments, settings["kills"])
        return count.figures()


def _one_run(ground: Ground, count: Count, moments: random.Random, kills: int) -> None:
    """One folder: attempts that are killed, and one that ends."""
    folder = ground.fresh()
    for attempt in range(MOST_IN_ONE + 1):
        alone = attempt == MOST_IN_ONE or count.kills >= kills
        limit = None if alone else moments.uniform(0, ground.ended.seconds)
        ended = Child(ground.job.work, folder).wait(limit)
        if not ended.killed:
            break
        count.killed(folder)
    count.finished(folder, ended.code, ended.said)


def every_operation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A cell: kill a job before its ``first`` operation on files, and every ``stride``-th after it."""
    with tempfile.TemporaryDirectory() as scratch:
        ground = Ground(job(settings["job"]), Path(scratch))
        count = Count(ground)
        operations = listed(ground)
        count.faults += unflushed(operations)
        for number in range(settings["first"], len(operations), settings["stride"]):
            _killed_before(number, ground, count)
        return count.figures() | {"operations": len(operations)}


def _killed_before(number: int, ground: Ground, count: Count) -> None:
    folder = ground.fresh()
    ended = Child(_killing(ground.job, number, folder), folder).wait()
    if ended.killed:
        count.killed(folder)
        ended = Child(ground.job.work, folder).wait()
    count.finished(folder, ended.code, ended.said)


def _killing(what: Job, number: int, folder: Path) -> Callable[[], int | None]:
    def work() -> int | None:
        watch(folder, kill_before(number, folder))
        return what.work()

    return work


def listed(ground: Ground) -> list[Operation]:
    """What an undisturbed job does to files, in order."""
    folder = ground.fresh()
    note = folder.parent / "operations.json"

    def work() -> int | None:
        done: list[Operation] = []
        watch(folder, done.append)
        code = ground.job.work()
        note.write_text(json.dumps([vars(operation) for operation in done]), encoding="utf-8")
        return code

    Child(work, folder).wait()
    return [Operation(**entry) for entry in json.loads(note.read_text(encoding="utf-8"))]
