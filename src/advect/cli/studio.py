"""``advect studio``."""

import sys
from typing import Annotated

from cyclopts import Parameter

from advect.cli.codes import DONE
from advect.cli.console import say, show_json
from advect.cli.options import Json, Run, whole


def studio(
    run: Run,
    /,
    *,
    port: Annotated[int, Parameter(help="Port of 127.0.0.1; 0 takes any that is free.", converter=whole(0))] = 0,
    open: Annotated[bool, Parameter(help="Show it in the browser of this machine.", negative="--no-open")] = True,
    json: Json = False,
) -> int:
    """Show the page of a run live: follow its training, draw with sliders, look at what its network says.

    It is served to this machine alone and writes nothing. Ctrl-C ends it.
    """
    from advect.studio import open_studio

    made = open_studio(run, port=port)
    if json:
        show_json({"url": made.link, "port": made.port, "run": run})
        sys.stdout.flush()  # it is wanted now, not when the studio ends
    say(f"Studio of {run}: {made.link}")
    say("The link is for this machine and for you: whoever has it can look at the run. Ctrl-C ends the studio.")
    made.serve(show=open)
    say("The studio is closed.")
    return DONE
