"""``advect methods``, ``advect data`` and ``advect doctor``: what there is."""

from advect.cli.codes import DONE
from advect.cli.console import show, show_json, show_pairs, show_table
from advect.cli.options import Json


def methods(*, json: Json = False) -> int:
    """The table of methods."""
    from advect.methods import METHODS

    if json:
        names = ("name", "title", "map", "couples", "path", "objective", "paper")
        show_json({"methods": [{name: getattr(m, name) for name in names} for m in METHODS.values()]})
        return DONE
    show_table(["name", "method", "map and path"], [[m.name, m.title, m.gist] for m in METHODS.values()])
    show()
    show("advect explain NAME tells the theory; advect train DATA --method NAME uses it.")
    return DONE


def data(*, json: Json = False) -> int:
    """The built-in data sets."""
    from advect.data import BUILTINS

    heads = ["name", "what", "rows", "columns"]
    if json:
        rows = [(name, b.title, b.rows, b.columns) for name, b in BUILTINS.items()]
        show_json({"data": [dict(zip(heads, row, strict=True)) for row in rows]})
        return DONE
    show_table(heads, [[name, b.title, str(b.rows), str(b.columns)] for name, b in BUILTINS.items()])
    show()
    show("Files: .csv .tsv .parquet .npy .npz .h5ad, idx, a folder of pictures; tables and arrays also with .gz.")
    show("FILE.npz:KEY names an array inside, FOLDER:64 a size of pictures.")
    return DONE


def doctor(*, json: Json = False) -> int:
    """The state of this machine: versions, threads, devices, optional packages, the time of a training step."""
    from advect.workflows.doctor import examine

    facts = examine()
    if json:
        show_json(facts)
        return DONE
    show_pairs([(name, str(value)) for name, value in facts.items()], indent=0)
    return DONE
