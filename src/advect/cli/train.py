"""``advect train``."""

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from advect.cli.console import TerminalListener, duration, say, show, show_json, show_preflight
from advect.cli.options import Json, Seed, seconds
from advect.errors import unknown_name

INTERRUPTED = 130


def train(
    data: Annotated[str, Parameter(help="A file (csv, tsv, parquet, npy, npz, also .gz) or a built-in name.")],
    *,
    method: Annotated[str, Parameter(help="A row of `advect methods`.")] = "ot-cfm",
    out: Annotated[Path | None, Parameter(help="Run folder; by default runs/DATA-METHOD.")] = None,
    condition: Annotated[
        tuple[str, ...], Parameter(help="Column that is given, not modelled; may be repeated.", negative="")
    ] = (),
    source: Annotated[str | None, Parameter(help="Rows to start from in place of Gaussian noise.")] = None,
    weights: Annotated[str | None, Parameter(help="Column of row weights.")] = None,
    steps: Annotated[int | None, Parameter(help="Optimiser steps; 5000 when no budget is given.")] = None,
    budget: Annotated[str | None, Parameter(help="Wall time for everything, such as 2m, in place of steps.")] = None,
    batch_size: Annotated[int | None, Parameter(help="Rows per step.")] = None,
    network: Annotated[str, Parameter(help="Such as residual-3x256 or mlp-3x64.")] = "auto",
    seed: Seed = 0,
    device: Annotated[str, Parameter(help="auto, cpu, cuda or mps.")] = "auto",
    set: Annotated[
        tuple[str, ...],
        Parameter(name="--set", help="NAME=VALUE of the method or loop, such as sigma=0.1.", negative=""),
    ] = (),
    dry_run: Annotated[bool, Parameter(help="Say what would happen, and stop.", negative="")] = False,
    restart: Annotated[bool, Parameter(help="Move an old run aside and start afresh.", negative="")] = False,
    json: Json = False,
) -> int:
    """Learn a distribution from rows.

    The same command continues a run that was interrupted, and says so when it is done.
    """
    started = time.monotonic()
    from advect.workflows.fit import train as run_training
    from advect.workflows.preflight import preflight
    from advect.workflows.request import TrainRequest, read_settings

    settings = read_settings(method, _pairs(set))
    request = TrainRequest(
        data=data,
        method=method,
        out=out if out is not None else default_folder(data, method),
        condition=condition,
        weights=weights,
        source=source,
        steps=steps,
        budget_seconds=None if budget is None else seconds(budget),
        batch_size=batch_size,
        network=network,
        seed=seed,
        device=device,
        restart=restart,
        options=settings.options,
        training=settings.training,
        settings=settings.settings,
    )
    if dry_run:
        plan = preflight(request, started=started)
        if json:
            show_json(vars(plan) | {"findings": [vars(f) for f in plan.findings]})
        else:
            show_preflight(plan, show)
            show()
            show(plan.config.rstrip())
        return 0
    return _run(request, run_training, json, started)


def _run(request, run_training, json: bool, started: float) -> int:  # noqa: ANN001 - their modules are not imported yet
    from advect.cli.interrupt import asked_to_stop

    with asked_to_stop() as stop:
        result = run_training(request, listener=TerminalListener(quiet=json), stop=stop, started=started)
    if json:
        show_json(
            {
                "state": result.state,
                "run": result.folder,
                "step": result.step,
                "steps": result.steps,
                "seconds": result.seconds,
                "evaluation": result.evaluation,
                "files": result.files,
                "next_commands": list(result.next_commands),
            }
        )
    else:
        _show(result)
    return INTERRUPTED if result.state == "interrupted" else 0


def _show(result) -> None:  # noqa: ANN001
    from advect.workflows.evaluate import figures

    if result.state == "interrupted":
        say(f"Stopped at step {result.step} of {result.steps}; everything is kept. The same command continues.")
        return
    if result.state == "already finished":
        show(f"This run is finished ({result.step} steps). Train on with --out of another name, or --restart.")
    else:
        show(f"Trained {result.step} steps in {duration(result.seconds)}: {result.folder}")
    for name, text in figures(result.evaluation):
        show(f"  {name:<28} {text}")
    for name, path in result.files.items():
        show(f"{name}: {path}")
    show("Next:")
    for command in result.next_commands:
        show(f"  {command}")


def default_folder(data: str, method: str) -> Path:
    """``runs/DATA-METHOD``.

    >>> default_folder("tables/houses.csv.gz", "ot-cfm").as_posix()
    'runs/houses-ot-cfm'
    """
    name = Path(data.replace(":", "-")).name.split(".")[0] or "data"
    return Path("runs") / f"{name}-{method}"


def _pairs(texts: tuple[str, ...]) -> dict[str, str]:
    result = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise unknown_name("setting", text, ["NAME=VALUE"], where="--set")
        result[name.strip()] = value.strip()
    return result
