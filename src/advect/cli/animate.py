"""``advect animate``."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from advect.cli.codes import DONE
from advect.cli.console import say, show, show_json
from advect.cli.options import Condition, Count, Json, Positive, Run, Seed


def animate(
    run: Run,
    /,
    *,
    out: Annotated[
        Path | None, Parameter(help="File to write: .gif or .mp4; by default animation.gif in the run folder.")
    ] = None,
    rows: Annotated[
        int | None, Parameter(name=["-n", "--rows"], help="Points (1500), or pictures of the grid (32)."), Count
    ] = None,
    frames: Annotated[int, Parameter(help="States that are shown."), Count] = 60,
    seconds: Annotated[float, Parameter(help="From source to data."), Positive] = 4.0,
    columns: Annotated[
        str | None, Parameter(help="Two columns of a table, such as a,b; by default the first two.")
    ] = None,
    condition: Condition = None,
    seed: Seed = 0,
    json: Json = False,
) -> int:
    """Show rows on their way from source to data: a GIF, and an MP4 where ffmpeg is found."""
    from advect.workflows.animate import AnimateRequest
    from advect.workflows.animate import animate as run_animation

    named = () if columns is None else tuple(name.strip() for name in columns.split(",") if name.strip())
    files = run_animation(AnimateRequest(run, out, rows, frames, seconds, named, condition, seed))
    if json:
        show_json({"files": files})
        return DONE
    for name, path in files.items():
        show(f"{name}: {path}")
    if out is None and "mp4" not in files:
        say("There is no ffmpeg here, so no MP4 was written.")
    return DONE
