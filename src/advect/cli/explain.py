"""``advect explain``."""

from typing import Annotated

from cyclopts import Parameter

from advect.cli.codes import DONE
from advect.cli.console import show, show_json, show_pairs
from advect.cli.options import Json


def explain(
    method: Annotated[str, Parameter(help="A row of `advect methods`.")],
    /,
    *,
    json: Json = False,
) -> int:
    """The theory of a method, from the same table the code runs on."""
    from advect.methods import explanation

    facts = explanation(method)
    if json:
        show_json(facts)
        return DONE
    show(f"{facts['name']}: {facts['title']}")
    show_pairs([(name, text) for name, text in facts.items() if name not in ("name", "title", "options")])
    if facts["options"]:
        show()
        show("Options (--set NAME=VALUE)")
        show_pairs(facts["options"].items())
    return DONE
