"""``advect sample``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from advect.cli.codes import DONE
from advect.cli.console import columns_json, duration, say, show_json, show_rows
from advect.cli.options import Condition, Count, Json, Number, Positive, Run, Seed
from advect.errors import ConfigError

if TYPE_CHECKING:
    from advect.workflows.generate import Generated

Given = Annotated[
    Path | None,
    Parameter(
        help="A table with the run's columns in which empty cells and absent columns (NaN in arrays and pictures) "
        "are unknown: each row is completed given what is there, in place of -n new rows."
    ),
]
At = Annotated[
    tuple[str, ...],
    Parameter(
        help="Time of a run that was trained with --time-key, seen or not; may be repeated: the same rows on their "
        "way.",
        negative="",
        show_default=False,
    ),
]
Solver = Annotated[
    str | None,
    Parameter(
        help="euler, midpoint, heun, rk4, adams3, bosh3, dopri5, tsit5; on affine paths also ddim, dpm++2m, "
        "dpm++2s, deis, unipc, adams3-straight, adams3-noise, edm-heun, ancestral, sde; of sf2m also "
        "bridge-sde. Not given: what was enough after training."
    ),
]
Noise = Annotated[
    float | None,
    Parameter(help="Noise of a stochastic solver: η of ancestral, churn of edm-heun, g of bridge-sde."),
    Number,
]


def sample(
    run: Run,
    /,
    *,
    rows: Annotated[
        int | None, Parameter(name=["--rows", "-n"], help="Number of rows; 1000 by default."), Count
    ] = None,
    at: At = (),
    given: Given = None,
    draws: Annotated[int | None, Parameter(help="Completions of each row of --given; 1 by default."), Count] = None,
    observed_noise: Annotated[
        float | None, Parameter(help="Standard deviation of the given numbers, in their own units."), Number
    ] = None,
    condition: Condition = None,
    guidance: Annotated[
        float | None,
        Parameter(help="Weight w of classifier-free guidance, or of --guide-with (1 where none is given); 0 is none."),
        Number,
    ] = None,
    guide_with: Annotated[
        Path | None,
        Parameter(help="A weaker run on the same data to push away from: v + w (v − v_weak) (autoguidance)."),
    ] = None,
    guidance_interval: Annotated[
        tuple[float, float] | None, Parameter(help="Two times in [0, 1] between which guidance applies.")
    ] = None,
    solver: Solver = None,
    steps: Annotated[int | None, Parameter(help="Steps of a fixed-step solver."), Count] = None,
    tol: Annotated[float | None, Parameter(help="Tolerance of an adaptive solver."), Positive] = None,
    noise: Noise = None,
    schedule: Annotated[
        str | None,
        Parameter(help="Run the model on another schedule: linear, lipman, cosine, vp, subvp, ve, edm or ddpm."),
    ] = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        Parameter(
            help="File to write, by its ending: csv, tsv, parquet, npy, npz, h5ad; for pictures also png (a grid), or "
            "a new folder."
        ),
    ] = None,
    json: Json = False,
) -> int:
    """Draw new rows from a run, or complete given ones, as the same kind of table."""
    from advect.training import joined
    from advect.workflows.complete import complete
    from advect.workflows.generate import SolverChoice, generate
    from advect.workflows.open import open_run
    from advect.workflows.report import check_destination, write_samples
    from advect.workflows.shared import share_out
    from advect.workflows.snapshots import last_time

    _refuse_contradictions(given, rows, at, draws, observed_noise)
    with joined() as workers:
        artefact = share_out(open_run(run), workers)
        if out is not None:
            check_destination(out, pictures=artefact.schema.image)
        weak = None if guide_with is None else open_run(guide_with)
        weight = float(weak is not None) if guidance is None else guidance
        between = guidance_interval or (0.0, 1.0)
        choice = SolverChoice(solver, steps, tol, weight, between, schedule, noise, weak)
        if given is None:
            count, times = 1000 if rows is None else rows, at or last_time(artefact)
            drawn = generate(artefact, count, condition=condition, choice=choice, seed=seed, at=times)
        else:
            drawn = complete(
                artefact,
                str(given),
                draws=1 if draws is None else draws,
                noise=observed_noise or 0.0,
                condition=condition,
                choice=choice,
                seed=seed,
            )
    if not workers.leads:
        return DONE
    if out is not None:
        write_samples(drawn.table, out, artefact.schema)
    _show(drawn, out, seed, json)
    return DONE


def _refuse_contradictions(
    given: Path | None, rows: int | None, at: tuple[str, ...], draws: int | None, observed_noise: float | None
) -> None:
    """Settings of new rows with ``--given``, and those of ``--given`` without it."""
    if given is not None:
        if rows is not None:
            raise ConfigError("-n and --given contradict one another", where="-n", remedy="Say how often with --draws.")
        if at:
            raise ConfigError("--at and --given contradict one another", where="--at", remedy="Give one of them.")
    elif draws is not None or observed_noise is not None:
        raise ConfigError(
            "there are no given rows",
            where="--draws" if draws is not None else "--observed-noise",
            remedy="Name them with --given FILE.",
        )


def _show(drawn: "Generated", out: Path | None, seed: int, json: bool) -> None:
    """What came out: the rows, where they are not written, and what they cost."""
    rows = drawn.table.num_rows
    note = f"{rows} rows, {drawn.nfe:.0f} network evaluations each, {duration(drawn.seconds)}"
    if drawn.failed:
        note += f"; {drawn.failed} rows have no value: the solver failed on them"
    for text in drawn.notes:
        say(text)
    say(note + (f": {out}" if out else ""))
    if json:
        facts = {"rows": rows, "nfe": drawn.nfe, "seconds": drawn.seconds, "failed_rows": drawn.failed, "seed": seed}
        show_json(facts | ({"columns": columns_json(drawn.table)} if out is None else {"out": out}))
    elif out is None:
        show_rows(drawn.table)
