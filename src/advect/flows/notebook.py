"""A flow as a small table that a notebook shows. Every string is escaped, and nothing is fetched from anywhere."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from torch import nn

from advect.transforms.compose import members

MOST_PARTS = 6
_LEFT = "text-align:left;vertical-align:top"


def html_table(title: str, sentence: str, rows: Sequence[tuple[str, str]], calls: Iterable[str] = ()) -> str:
    """Lines of a name and a value under a title, as HTML that takes its colours from the notebook.

    Args:
        title: Bold, above.
        sentence: Below it.
        rows: Names and values, any text.
        calls: What may be called next, each shown as code.
    """
    lines = [(escape(name), escape(value)) for name, value in rows]
    codes = " ".join(f"<code>{escape(call)}</code>" for call in calls)
    lines += [("next", codes)] if codes else []
    body = "".join(
        f'<tr><th scope="row" style="{_LEFT}">{name}</th><td style="{_LEFT}">{value}</td></tr>' for name, value in lines
    )
    head = f"<strong>{escape(title)}</strong>" + (f"<br>{escape(sentence)}" if sentence else "")
    return f"<div>{head}<table>{body}</table></div>"


def count_parameters(module: nn.Module) -> int:
    """Numbers that training can change."""
    return sum(p.numel() for p in module.parameters())


def flow_table(flow: Any) -> str:
    """A `Flow` as such a table."""
    ode = flow.ode
    parts = [type(part).__name__ for part in members(flow.map)]
    counts = [(name, parts.count(name)) for name in dict.fromkeys(parts)]
    words = [name + (f" × {count}" if count > 1 else "") for name, count in counts[:MOST_PARTS]]
    rest = len(counts) - MOST_PARTS
    known = {"exact": "log-density", "bound": "a lower bound of the log-density", "none": "no log-density"}
    rows = [
        ("rows", f"shape {flow.event_shape}"),
        ("base", type(flow.base).__name__),
        ("map", ", ".join(words) + (f" and {rest} more kinds" if rest > 0 else "") or "identity"),
        ("parameters", f"{count_parameters(flow):,}"),
        ("knows", known[flow.likelihood]),
    ]
    rows += [("field", type(ode.field).__name__), ("solver", str(ode.solver))] if ode is not None else []
    return html_table("Flow", "", rows, flow_calls(flow))


def flow_calls(flow: Any) -> list[str]:
    """The verbs that this flow answers."""
    calls = ["sample(n)"]
    calls += ["log_prob(x)"] if flow.likelihood == "exact" else ["score(x)"] if flow.likelihood == "bound" else []
    calls += ["encode(x)", "decode(z)"] if getattr(flow.map, "likelihood", "exact") == "exact" else []
    return calls + (["trajectory(n, times)", "velocity(t, x)"] if flow.ode is not None else [])
