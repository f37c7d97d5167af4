"""``advect report``."""

from advect.cli.codes import DONE
from advect.cli.console import show, show_json
from advect.cli.options import Json, Run


def report(run: Run, /, *, json: Json = False) -> int:
    """Write the page of a run: verdict, pictures, figures, configuration."""
    from advect.workflows.again import report_run

    files = report_run(run)
    if json:
        show_json({"files": files})
    else:
        for name, path in files.items():
            show(f"{name}: {path}")
    return DONE
