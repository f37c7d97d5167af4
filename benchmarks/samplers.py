"""Samplers at equal error: what advect recommends, torchdiffeq's dopri5, diffusers' flow-match Euler and Heun.

A flow-matching model is trained on two, 43 and 64 coordinates (moons, a prefix of MiniBooNE, 8 × 8 digits). On the same
trained field and the same starts, the error of a sampler is the root mean square distance of its ends, per coordinate
in standardised units, from a solve of a float64 copy at 1e-9. advect's setting is the one its calibration chose; each
peer gets the cheapest of its settings that is at least as accurate. Evaluations of the network and wall time: rounds
interleaved in shuffled order in one process, one thread, median of paired ratios with quartiles.

Run ``python -m benchmarks.samplers``; what is finished is not run again.
"""

import argparse
import copy
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import advect
from advect.errors import ConfigError, missing_extra
from advect.files import write_text
from advect.solvers import Adaptive, make_solver
from advect.workflows.calibrate import calibrate
from benchmarks.cells import ROOT, Cell, read_records, run_and_tabulate
from benchmarks.plane_train import made_on

SETS = {"moons": 2, "miniboone": 43, "digits": 64}
STEPS = {"moons": 3000, "miniboone": 3000, "digits": 3000}
ROWS, ROUNDS = 1000, 15
TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 1e-6)
PEER_STEPS = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1000)
COMMAND = "python -m benchmarks.samplers"
RESULTS = ROOT / "benchmarks" / "results" / "samplers"


@dataclass(frozen=True)
class Contender:
    """A way to the end.

    Attributes:
        name: Of the table.
        setting: In words.
        run: From the starts to the ends.
    """

    name: str
    setting: str
    run: Callable[[Tensor], Tensor]


class Counting(nn.Module):
    """The field, with its calls counted."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field, self.calls = field, 0

    def forward(self, t: Any, x: Tensor, condition: Tensor | None = None) -> Tensor:
        self.calls += 1
        return self.field(t, x, condition)


def rows_of(name: str) -> Any:
    """What is trained on.

    Raises:
        ConfigError: The folder of larger data sets is not known.
    """
    if name != "miniboone":
        return name
    if "ADVECT_DATA" not in os.environ:
        raise ConfigError("this set is in the folder of larger data sets", remedy="Set ADVECT_DATA to it.")
    with np.load(Path(os.environ["ADVECT_DATA"]) / "miniboone_prefix" / "miniboone_prefix.npz") as archive:
        return archive["data"]


def torchdiffeq_dopri5(field: nn.Module, tolerance: float) -> Contender:
    """One error norm for the whole batch, as it is."""
    from torchdiffeq import odeint

    def run(x: Tensor) -> Tensor:
        times = torch.tensor([0.0, 1.0])
        return odeint(field, x, times, method="dopri5", rtol=tolerance, atol=tolerance)[-1]

    return Contender("torchdiffeq dopri5", f"tolerance {tolerance:g}", run)


def diffusers_sampler(kind: str, field: nn.Module, steps: int) -> Contender:
    """The scheduler's own loop at shift 1; its σ is our 1 − t, so its prediction is minus our velocity."""
    import diffusers

    scheduler_type = getattr(diffusers, f"FlowMatch{kind}DiscreteScheduler")

    def run(x: Tensor) -> Tensor:
        scheduler = scheduler_type()
        scheduler.set_timesteps(steps)
        for timestep in scheduler.timesteps:
            velocity = field(1 - timestep / scheduler.config.num_train_timesteps, x)
            x = scheduler.step(-velocity, timestep, x).prev_sample
        return x

    return Contender(f"diffusers {kind}", f"{steps} steps", run)


def advect_sampler(field: nn.Module, name: str, steps: int, schedule: Any) -> Contender:
    """A solver of ours."""
    solver = make_solver(name, steps=steps, schedule=schedule)
    return Contender("advect", f"{name}, {steps} steps", lambda x: solver(field, x).state)


def cheapest(candidates: Sequence[Contender], field: Counting, start: Tensor, exact: Tensor, target: float) -> Any:
    """The first candidate, cheap ones first, whose error is at most the target; None where none is."""
    for contender in candidates:
        field.calls = 0
        error = float((contender.run(start) - exact).square().mean().sqrt())
        if error <= target:
            return contender, error, field.calls
    return None


@torch.no_grad()
def run_cell(settings: Mapping[str, Any]) -> dict[str, Any]:
    """One set: train, find equal errors, time."""
    try:
        import diffusers  # noqa: F401
        import torchdiffeq  # noqa: F401
    except ImportError as error:
        raise missing_extra("diffusers and torchdiffeq", "bench", "the peers of this benchmark") from error
    torch.set_num_threads(1)
    with torch.enable_grad():
        model = advect.fit(rows_of(settings["set"]), method="i-cfm", steps=settings["steps"], seed=settings["seed"])
    found = calibrate(model.artefact)
    ode = model.artefact.flow.ode
    assert found is not None
    assert ode is not None
    plain = ode.field
    generator = torch.Generator().manual_seed(settings["seed"])
    start = torch.randn((settings["rows"], *(ode.event_shape or ())), generator=generator)
    fine = Adaptive("dopri5", rtol=1e-9, atol=1e-9)(copy.deepcopy(plain).double(), start.double())
    exact = fine.state.float()
    field = Counting(plain)
    ours = advect_sampler(field, found.chosen.solver, found.chosen.steps, getattr(plain, "schedule", None))
    target = float((ours.run(start) - exact).square().mean().sqrt())
    field.calls = 0
    ours.run(start)
    chosen = {"advect": (ours, target, field.calls)}
    candidates = {
        "torchdiffeq dopri5": [torchdiffeq_dopri5(field, tolerance) for tolerance in TOLERANCES],
        "diffusers Euler": [diffusers_sampler("Euler", field, n) for n in PEER_STEPS],
        "diffusers Heun": [diffusers_sampler("Heun", field, n) for n in PEER_STEPS],
    }
    for name, options in candidates.items():
        chosen[name] = cheapest(options, field, start, exact, target)
    raced = {name: entry for name, entry in chosen.items() if entry is not None}
    seconds: dict[str, list[float]] = {name: [] for name in raced}
    order = list(raced)
    shuffle = random.Random(settings["seed"])
    for _ in range(settings["rounds"]):
        shuffle.shuffle(order)
        for name in order:
            started = time.perf_counter()
            raced[name][0].run(start)
            seconds[name].append(time.perf_counter() - started)
    figures: dict[str, Any] = {"target": target, "enough": found.enough, "coordinates": start[0].numel()}
    for name, entry in chosen.items():
        if entry is None:
            figures[name] = None
            continue
        ratios = [own / base for own, base in zip(seconds[name], seconds["advect"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        figures[name] = {
            "setting": entry[0].setting,
            "error": entry[1],
            "evaluations": entry[2],
            "seconds": statistics.median(seconds[name]),
            "ratio": middle,
            "ratio_quartiles": [low, high],
        }
    return figures


def write_table(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """The table, from the results alone."""
    lines = [
        "# Samplers at equal error",
        "",
        f"Written by `{COMMAND}`; do not edit. i-cfm trained on each set; error: root mean square distance from a "
        "float64 solve at 1e-9, standardised units; each peer at its cheapest setting that is at least as accurate as "
        f"what advect recommends after training. {ROWS} rows, one thread, {ROUNDS} interleaved rounds; time ratio: to "
        "advect, median (quartiles) of paired rounds.",
        "",
        "| set | coordinates | sampler | setting | error | evaluations | seconds | time ratio |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in SETS:
        for record in (r for r in records if r["settings"]["set"] == name):
            figures = record["figures"]
            for sampler in ("advect", "torchdiffeq dopri5", "diffusers Euler", "diffusers Heun"):
                entry = figures[sampler]
                head = f"| {name} | {figures['coordinates']} | {sampler} |"
                if entry is None:
                    lines.append(f"{head} none of its settings is as accurate | – | – | – | – |")
                    continue
                low, high = entry["ratio_quartiles"]
                lines.append(
                    f"{head} {entry['setting']} | {entry['error']:.2g} | {entry['evaluations']} "
                    f"| {entry['seconds']:.3g} | {entry['ratio']:.2f} ({low:.2f} to {high:.2f}) |"
                )
    lines += ["", made_on(records, len(SETS))] if records else []
    write_text(path, "\n".join(lines) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where a cell failed, 2 where the request is refused."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS))
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results; the table is OUT.md")
    parser.add_argument("--table", action="store_true", help="run nothing, write the table from the results there are")
    given = parser.parse_args(arguments)
    table = given.out.with_name(f"{given.out.name}.md")
    cells = [
        Cell(
            name=name,
            work="benchmarks.samplers:run_cell",
            settings={"set": name, "seed": 0, "steps": STEPS[name], "rows": ROWS, "rounds": ROUNDS},
            command=f"{COMMAND} --sets {name}",
        )
        for name in given.sets
    ]

    def tabulate() -> None:
        write_table(table, read_records(given.out))

    return run_and_tabulate(cells, given.out, tabulate, table_only=given.table)


if __name__ == "__main__":
    sys.exit(main())
