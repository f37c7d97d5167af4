"""``advect explain``."""

from typing import Annotated

from cyclopts import Parameter

from advect.cli.console import show, show_json
from advect.cli.options import Json


def explain(
    method: Annotated[str, Parameter(help="A row of `advect methods`.")],
    *,
    json: Json = False,
) -> int:
    """The theory of a method, from the same table the code runs on."""
    from advect.methods import explanation

    facts = explanation(method)
    if json:
        show_json(facts)
        return 0
    show(f"{facts['name']}: {facts['title']}")
    for name, value in facts.items():
        if name in ("name", "title", "options"):
            continue
        show(f"  {name:<11} {value}")
    if facts["options"]:
        show("  options")
        for name, text in facts["options"].items():
            show(f"    {name:<12} {text}")
    return 0
