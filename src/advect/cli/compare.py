"""``advect compare``."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from advect.cli.codes import DONE, INTERRUPTED
from advect.cli.console import duration, say, show, show_json, show_table, show_text
from advect.cli.listener import TerminalListener, finding_line
from advect.cli.options import Count, Json, Seed, flag, pairs, seconds
from advect.cli.train import default_folder
from advect.errors import ConfigError

if TYPE_CHECKING:
    from advect.workflows.compare import Comparison
    from advect.workflows.comparison.plan import Plan
    from advect.workflows.comparison.request import CompareRequest


def compare(
    data: Annotated[str, Parameter(help="A file (csv, tsv, parquet, npy, npz, also .gz) or a name of `advect data`.")],
    /,
    *,
    methods: Annotated[str, Parameter(help="Rows of `advect methods`, such as realnvp,nsf,cnf,i-cfm,ot-cfm.")],
    budget: Annotated[
        str | None, Parameter(help="Wall time of each training, figures not counted; 1m when nothing is said.")
    ] = None,
    steps: Annotated[
        int | None, Parameter(help="Optimiser steps of each training, in place of a budget."), Count
    ] = None,
    seeds: Annotated[int, Parameter(help="Trainings of each method."), Count] = 3,
    condition: Annotated[
        tuple[str, ...],
        Parameter(help="Column that is given, not modelled; may be repeated.", negative="", show_default=False),
    ] = (),
    label: Annotated[
        str | None, Parameter(help="Column that a predictor learns from samples and is tested on in real rows.")
    ] = None,
    batch_size: Annotated[
        int | None, Parameter(help="Rows per step; each method's own when nothing is said."), Count
    ] = None,
    out: Annotated[Path | None, Parameter(help="Folder of the comparison; by default runs/DATA-compare.")] = None,
    seed: Seed = 0,
    device: Annotated[str, Parameter(help="auto, cpu, cuda or mps.")] = "auto",
    settings: Annotated[
        tuple[str, ...],
        Parameter(
            name="--set",
            help="METHOD.NAME=VALUE: what `advect train --set` takes, for one of the methods; may be repeated.",
            negative="",
            show_default=False,
        ),
    ] = (),
    dry_run: Annotated[bool, flag("Say what would happen, and stop.")] = False,
    json: Json = False,
) -> int:
    """Train several methods under the same terms and set them side by side.

    The same command continues a comparison that was interrupted.
    """
    from advect.workflows.comparison.request import CompareRequest

    names = tuple(name.strip() for name in methods.split(",") if name.strip())
    request = CompareRequest(
        data=data,
        methods=names,
        out=out if out is not None else default_folder(data, "compare"),
        steps=steps,
        budget_seconds=None if budget is None else seconds(budget),
        seeds=seeds,
        seed=seed,
        condition=condition,
        label=label,
        batch_size=batch_size,
        device=device,
        settings=_by_method(settings),
    )
    return _dry_run(request, json) if dry_run else _run(request, json)


def _by_method(texts: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The texts of ``--set METHOD.NAME=VALUE`` by method and name."""
    from advect.workflows.request import read_value

    found: dict[str, dict[str, Any]] = {}
    for key, text in pairs(texts).items():
        method, dot, name = key.partition(".")
        if not (dot and method and name):
            raise ConfigError(
                f"{key}={text} does not say which method it is for",
                where="--set",
                remedy="Write it like --set nsf.bins=16.",
            )
        found.setdefault(method, {})[name] = read_value(text)
    return found


def _dry_run(request: "CompareRequest", json: bool) -> int:
    """Everything before the first training; nothing is written."""
    from advect.workflows.compare import plan_comparison

    plan = plan_comparison(request)
    if json:
        show_json(vars(plan) | {"findings": [vars(f) for f in plan.findings], "folder": request.out})
    else:
        _announce(plan, show_text)
        show(f"Folder: {request.out}")
    return DONE


def _run(request: "CompareRequest", json: bool) -> int:
    from advect.cli.interrupt import stop_on_signals
    from advect.workflows.compare import compare as run_comparison

    try:
        with stop_on_signals() as stop:
            listener = TerminalListener(quiet=json, on_phase=stop.phase)
            with closing(listener):
                result = run_comparison(request, listener=listener, stop=stop, announce=_announce)
    except KeyboardInterrupt:
        say("Interrupted. What was written before stays; the same command continues.")
        return INTERRUPTED
    if json:
        show_json({"folder": result.folder, **result.facts, "best": result.best, "files": result.files})
    else:
        _show(result)
    return INTERRUPTED if result.state == "interrupted" else DONE


def _announce(plan: "Plan", line: Callable[[str], None] = say) -> None:
    """What is about to happen; on standard error while it does."""
    line(plan.data)
    for finding in plan.findings:
        line(f"  {finding_line(finding)}")
    for method, reason in plan.refusals.items():
        line(f"  {method} is left out: {reason}")
    done = f", {plan.finished} done already" if plan.finished else ""
    left = f"about {duration(plan.seconds)} of training; figures come on top" if plan.seconds else "nothing to train"
    line(f"{plan.trainings} trainings{done}: {left}")


def _show(result: "Comparison") -> None:
    from advect.report.comparison.table import blocks

    if result.state == "interrupted":
        say("Interrupted; everything is kept. The same command continues. So far:")
    for block in blocks(result.rows, result.label):
        show_table(block.heads, [[str(cell) for cell in row] for row in (*block.rows, *block.references)])
        show()
    show_text(
        "Means over seeds. ± of the log-likelihood and of the difference is a standard error, elsewhere the spread "
        "over seeds. ✓: within two standard errors of the best likelihood; not told from real rows. ?: seeds vary "
        "too much to tell."
    )
    show()
    for sentence in result.verdict:
        show_text(sentence)
    for row in result.rows:
        for reason in row.failures:
            show_text(f"{row.method}: {reason}")
    for name, path in result.files.items():
        show(f"{name}: {path}")
    if result.next_commands:
        show("Next:")
        for command in result.next_commands:
            show(f"  {command}")
