"""``advect train``."""

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from advect.cli.codes import DONE, INTERRUPTED
from advect.cli.console import duration, say, show, show_json, show_pairs, show_text
from advect.cli.listener import TerminalListener, show_preflight
from advect.cli.options import Count, Json, Seed, flag, pairs, seconds, whole

if TYPE_CHECKING:
    from advect.workflows.fit import TrainResult
    from advect.workflows.request import TrainRequest

TimeKey = Annotated[
    str | None,
    Parameter(help="Column or array of times: learn a flow from each time to the next (numbers, or day4, 4h, …)."),
]
LeaveOut = Annotated[
    tuple[str, ...],
    Parameter(
        help="Time that is not trained on but told by the model, for the figures; may be repeated.",
        negative="",
        show_default=False,
    ),
]

Spline = Annotated[bool, flag("Paths are smooth curves through all times, not straight lines between two.")]
Reflow = Annotated[
    Path | None, Parameter(help="Train on pairs that this run's flow makes, so that its paths become straight.")
]
Pairs = Annotated[
    int | None,
    Parameter(name="--pairs", help="How many pairs; ten per training row when nothing is said."),
    Count,
]
SplitSeed = Annotated[int | None, Parameter(help="Seed of the split alone; by default --seed.", converter=whole(0))]
AsDensity = Annotated[bool, flag("The data is a picture whose darkness is the density of points in the plane.")]
Mirror = Annotated[bool, Parameter(name="--flip", help="Mirror half of the pictures, anew in every step.", negative="")]
Latent = Annotated[
    bool, flag("Train a small autoencoder of pictures first, and the flow on its codes; --set latent_… sets it up.")
]
Representation = Annotated[
    str | None,
    Parameter(name="--rep", help="Representation of cells (.h5ad): a key of obsm, or X; by default X_pca."),
]


def train(
    data: Annotated[
        str, Parameter(help="A file (csv, tsv, parquet, npy, npz, h5ad, also .gz) or a name of `advect data`.")
    ],
    /,
    *,
    method: Annotated[str, Parameter(help="A row of `advect methods`.")] = "ot-cfm",
    out: Annotated[Path | None, Parameter(help="Run folder; by default runs/DATA-METHOD.")] = None,
    condition: Annotated[
        tuple[str, ...],
        Parameter(help="Column that is given, not modelled; may be repeated.", negative="", show_default=False),
    ] = (),
    source: Annotated[str | None, Parameter(help="Rows to start from in place of Gaussian noise.")] = None,
    weights: Annotated[str | None, Parameter(help="Column of row weights.")] = None,
    rep: Representation = None,
    time_key: TimeKey = None,
    leave_out: LeaveOut = (),
    spline: Spline = False,
    reflow: Reflow = None,
    pairs_made: Pairs = None,
    steps: Annotated[int | None, Parameter(help="Optimiser steps; 5000 when no budget is given."), Count] = None,
    budget: Annotated[
        str | None, Parameter(help="Wall time for everything, such as 90s, 2m or 1h30m, in place of steps.")
    ] = None,
    batch_size: Annotated[int | None, Parameter(help="Rows per step; 256 when nothing is said."), Count] = None,
    network: Annotated[str, Parameter(help="Such as residual-3x256 or mlp-3x64.")] = "auto",
    seed: Seed = 0,
    split_seed: SplitSeed = None,
    device: Annotated[str, Parameter(help="auto, cpu, cuda or mps.")] = "auto",
    settings: Annotated[
        tuple[str, ...],
        Parameter(
            name="--set",
            help="NAME=VALUE of the method (see `advect explain`) or the loop, such as sigma=0.1; may be repeated.",
            negative="",
            show_default=False,
        ),
    ] = (),
    mirror: Mirror = False,
    latent: Latent = False,
    as_density: AsDensity = False,
    dry_run: Annotated[bool, flag("Say what would happen, and stop.")] = False,
    restart: Annotated[bool, flag("Move an old run aside and start afresh.")] = False,
    json: Json = False,
) -> int:
    """Learn a distribution from rows.

    The same command continues a run that was interrupted, and says so when it is done.
    """
    started = time.monotonic()
    from advect.data.silhouette import require_picture
    from advect.workflows.autoencoding import autoencoding, split_off
    from advect.workflows.request import TrainRequest, read_settings, read_value

    if as_density:
        require_picture(data)
    coding, others = split_off(pairs(settings))
    request = TrainRequest(
        data=data,
        method=method,
        out=out if out is not None else default_folder(data, method),
        condition=condition,
        weights=weights,
        source=source,
        key=rep,
        time_key=time_key,
        leave_out=leave_out,
        spline=spline,
        reflow=reflow,
        pairs=pairs_made,
        steps=steps,
        budget_seconds=None if budget is None else seconds(budget),
        batch_size=batch_size,
        network=network,
        seed=seed,
        split_seed=split_seed,
        device=device,
        restart=restart,
        flip=mirror,
        latent=autoencoding(latent, {name: read_value(text) for name, text in coding.items()}),
        **vars(read_settings(method, others)),
    )
    return _dry_run(request, json, started) if dry_run else _run(request, json, started)


def _dry_run(request: "TrainRequest", json: bool, started: float) -> int:
    """Everything before the first step; nothing is written."""
    from advect.run import RunFolder
    from advect.workflows.preflight import preflight

    plan = preflight(request, started=started)
    state = RunFolder(str(request.out)).state
    if json:
        facts = vars(plan) | {"findings": [vars(f) for f in plan.findings], "run": request.out, "run_state": state}
        show_json(facts)
        return DONE
    show_preflight(plan, show_text)
    show(f"Run folder {request.out}: {_FOLDER_WORDS[state]}")
    show()
    show(plan.config.rstrip())
    return DONE


_FOLDER_WORDS = {
    "absent": "it would be made.",
    "empty": "it is empty and would be used.",
    "foreign": "this exists and is no run: it would be refused.",
    "started": "an unfinished run is there; with the same settings it would be continued.",
    "finished": "a finished run is there; with --restart it would be moved aside.",
}


def _run(request: "TrainRequest", json: bool, started: float) -> int:
    from advect.cli.interrupt import stop_on_signals
    from advect.training import joined
    from advect.workflows.fit import train as run_training

    try:
        with stop_on_signals() as stop, joined() as workers:
            listener = TerminalListener(quiet=json or not workers.leads, on_phase=stop.phase)
            with closing(listener):
                result = run_training(request, listener=listener, stop=stop, started=started, workers=workers)
    except KeyboardInterrupt:
        say("Interrupted. What was written before stays; the same command continues.")
        return INTERRUPTED
    if not workers.leads:
        return INTERRUPTED if result.state == "interrupted" else DONE
    if json:
        show_json(
            {("run" if name == "folder" else name): value for name, value in vars(result).items() if name != "artefact"}
        )
    else:
        _show(result)
    return INTERRUPTED if result.state == "interrupted" else DONE


def _show(result: "TrainResult") -> None:
    from advect.workflows.evaluate import figures

    if result.state == "interrupted":
        say(f"Stopped after step {result.step} of {result.steps}; everything is kept. The same command continues.")
        return
    if result.state == "already finished":
        show(
            f"{result.folder}: this run is finished ({result.step} steps). To train anew: --restart, or another --out."
        )
    else:
        show(f"Trained {result.step} steps in {duration(result.seconds)}: {result.folder}")
    show_pairs(figures(result.evaluation))
    for name, path in result.files.items():
        show(f"{name}: {path}")
    show("Next:")
    for command in result.next_commands:
        show(f"  {command}")


def default_folder(data: str, method: str) -> Path:
    """``runs/DATA-METHOD``.

    >>> default_folder("tables/houses.csv.gz", "ot-cfm").as_posix()
    'runs/houses-ot-cfm'
    >>> default_folder("cells.npz:pca", "fm").as_posix()
    'runs/cells-pca-fm'
    """
    file, _, key = data.replace(".h5ad:", ".npz:").partition(".npz:")
    name = Path(file).name.split(".")[0] or "data"
    return Path("runs") / "-".join(part for part in (name, key, method) if part)
