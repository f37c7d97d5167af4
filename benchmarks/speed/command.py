"""F and G: the command itself, on a large table and at start-up."""

import csv
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.harness import spread, verdict
from benchmarks.speed.rows import Row

COLUMNS = 20


def write_rows(path: Path, rows: int) -> None:
    """Correlated Gaussian columns as text, six digits a number."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((COLUMNS, COLUMNS))
    with path.open("w", newline="", encoding="ascii") as file:
        csv.writer(file).writerow([f"column_{i}" for i in range(COLUMNS)])
        for start in range(0, rows, 50_000):
            block = rng.standard_normal((min(50_000, rows - start), COLUMNS)) @ mix
            np.savetxt(file, block, fmt="%.6g", delimiter=",")


def timed(command: Sequence[str], **environment: str) -> tuple[float, float, str]:
    """Seconds by the wall and by the processor of a command and its children, and all it said."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, cpu, done.stdout + done.stderr


PROBE = """
import sys, time
from advect.networks.field import FieldNetwork
from advect.networks.residual_inference import ResidualInference
from advect.training import clock, loop
started = time.perf_counter()
kept, passes, inside = [], [0.0], [False]

def counted(kind, name):
    # The time of the network's own passes while a validation runs.
    plain = getattr(kind, name)
    def timed(*given, **named):
        if not inside[0]:
            return plain(*given, **named)
        inside[0], begun = False, time.perf_counter()
        try:
            return plain(*given, **named)
        finally:
            passes[0] += time.perf_counter() - begun
            inside[0] = True
    setattr(kind, name, timed)

counted(FieldNetwork, "forward")
counted(ResidualInference, "__call__")
validate = loop.Trainer._validate
def validated(self):
    inside[0] = True
    try:
        return validate(self)
    finally:
        inside[0] = False
loop.Trainer._validate = validated
line = clock.Clock.line
def watched(self, *told):
    progress = line(self, *told)
    kept[:] = [progress.shares, time.perf_counter() - self._started, self._started - started, passes[0]]
    return progress
clock.Clock.line = watched
from advect.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
shares, seconds, before, passes = kept
print("SHARES", *(f"{name}={share:.6f}" for name, share in shares.items()))
print("LOOP", seconds, "BEFORE", before, "PASSES", passes / seconds)
"""


def f(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`advect train` on a long table: one pass over its rows.

    A validation, and a figure on the way, are passes of the network for the most part, and these are its arithmetic.
    """
    rows = 100_000 if settings["quick"] else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.csv"
        write_rows(path, rows)
        steps = rows // 256
        # The validation and the figures afterwards are no part of the loop that is judged.
        arguments = ["train", str(path), "--out", str(Path(folder) / "run"), "--steps", str(steps)]
        wall, cpu, said = timed([sys.executable, "-c", PROBE, *arguments])
    shares = {name: float(share) for name, share in re.findall(r"(\w+)=([\d.]+)", said.split("SHARES")[1])}
    found = re.search(r"LOOP (\S+) BEFORE (\S+) PASSES (\S+)", said)
    assert found is not None
    loop, before, passes = map(float, found.groups())
    outside = 100 * (1 - shares["network"] - passes)
    told = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
    one = {"median": outside, "low": outside, "high": outside}
    label = "share of the loop outside the network's arithmetic"
    return {
        "goals": [verdict(label, one, 15.0, 5.0, at_most=True, unit="%")],
        "notes": [
            f"{rows} rows of {COLUMNS} columns, {steps} steps of 256 rows: {wall:.1f} s in all, figures and "
            f"report included ({cpu:.1f} s of the processor); {before:.1f} s before the loop, {rows / before:.0f} rows "
            f"per second through start-up, reading and checking; {loop:.1f} s in the loop; "
            f"{rows / (before + loop):.0f} rows per second through all of these.",
            f"Where the loop's time went: {told}. Of validations and figures on the way {100 * passes:.1f} % of "
            "the loop are passes of the network, and not counted as outside it.",
        ],
    }


def g(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Start-up, by the processor's clock where asked."""
    rounds = 5 if settings["quick"] else 11
    place = 0 if settings["clock"] == "wall" else 1
    help_command = [sys.executable, "-m", "advect", "--help"]
    helps = [timed(help_command)[place] for _ in range(rounds)]
    beyond = []
    for _ in range(rounds):
        torch_alone = timed([sys.executable, "-c", "import torch"])[place]
        both = timed([sys.executable, "-c", "import torch, advect"])[place]
        beyond.append(both - torch_alone)
    everything = timed([sys.executable, "-c", "import torch, advect; advect.fit, advect.load"])[place]
    plain = statistics.median(timed([sys.executable, "-c", "import torch"])[place] for _ in range(3))
    return {
        "goals": [
            verdict("advect --help", spread(helps), 0.25, 0.15, at_most=True, unit="s"),
            verdict("import advect beyond torch", spread(beyond), 0.3, 0.1, at_most=True, unit="s"),
        ],
        "notes": [
            f"`import torch` alone takes {plain:.2f} s here; with `advect.fit` and `advect.load` looked up, which "
            f"loads what they need, {everything:.2f} s."
        ],
    }


ROWS = (
    Row("F", "the command on a long table", f"{__name__}:f"),
    Row("G", "start-up", f"{__name__}:g"),
)
