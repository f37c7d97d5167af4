"""``advect methods``, ``advect data`` and ``advect doctor``: what there is."""

from advect.cli.console import show, show_json, show_table
from advect.cli.options import Json


def methods(*, json: Json = False) -> int:
    """The table of methods."""
    from advect.methods import METHODS

    rows = [[m.name, m.title, m.map, m.couples, m.path, m.objective] for m in METHODS.values()]
    heads = ["name", "method", "map", "coupling", "path", "objective"]
    if json:
        show_json({"methods": [dict(zip(heads, row, strict=True)) for row in rows]})
    else:
        show_table("Methods", heads, rows)
        show("advect explain NAME tells more.")
    return 0


def data(*, json: Json = False) -> int:
    """The built-in data sets."""
    from advect.data import BUILTINS

    rows = [[name, b.title, str(b.rows), str(b.columns)] for name, b in BUILTINS.items()]
    heads = ["name", "what", "rows", "columns"]
    if json:
        show_json({"data": [dict(zip(heads, row, strict=True)) for row in rows]})
    else:
        show_table("Built-in data", heads, rows)
        show("Files: .csv .tsv .parquet .npy .npz, also gzipped.")
    return 0


def doctor(*, json: Json = False) -> int:
    """The state of this machine: versions, threads, devices, optional packages, the time of a training step."""
    from advect.workflows.doctor import examine

    facts = examine()
    if json:
        show_json(facts)
        return 0
    for name, value in facts.items():
        show(f"{name:<22} {value}")
    return 0
