"""The table of methods: the only place with names.

A row says how a flow is built and trained, with the words that explain it. `advect methods` and `advect explain` print
the rows that the code runs on.
"""

from collections.abc import Mapping
from typing import Any

from advect.errors import ConfigError, unknown_name
from advect.methods.continuous_rows import CONTINUOUS
from advect.methods.contrast_rows import CONTRAST
from advect.methods.denoising_rows import DENOISING
from advect.methods.discrete_rows import DISCRETE
from advect.methods.matching_rows import MATCHING
from advect.methods.option import Option
from advect.methods.row import NONE, Method

METHODS: dict[str, Method] = {row.name: row for row in (*DISCRETE, *CONTINUOUS, *MATCHING, *DENOISING, *CONTRAST)}


_KNOWN = {
    "exact": "its value, with an error that is told",
    "bound": "a lower bound",
    "none": "none",
}


def get_method(name: str) -> Method:
    """The row called ``name``.

    Raises:
        UnknownNameError: There is none; the nearest name is offered.
    """
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


def resolve_options(method: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a method: the given ones checked, the rest by default.

    Raises:
        UnknownNameError: The method has no such option.
        ConfigError: A value has the wrong type or is out of range.
    """
    for name in given:
        if name not in method.options:
            raise unknown_name(f"option of {method.name}", name, method.options, where=name)
    return {name: _checked(name, option, given.get(name, option.default)) for name, option in method.options.items()}


def stored_options(method: Method, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a stored run, with what those mean that its version did not know yet."""
    return {name: o.earlier for name, o in method.options.items() if o.earlier is not None} | dict(stored)


def _checked(name: str, option: Option, value: Any) -> Any:
    expected = type(option.default)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, expected):
        word = {bool: "true or false", int: "a whole number", float: "a number"}.get(expected, "a word")
        raise ConfigError(f"{name} must be {word}, not {value!r}", remedy=option.meaning)
    if option.choices and value not in option.choices:
        raise unknown_name(name, value, option.choices, where=name)
    if expected in (float, int):
        low = value <= option.minimum if option.exclusive else value < option.minimum
        if not value < float("inf") or low:
            bound = f"{'above' if option.exclusive else 'at least'} {option.minimum:g}"
            raise ConfigError(f"{name} must be {bound}, not {value}", remedy=option.meaning)
    return value


def explanation(name: str) -> dict[str, Any]:
    """What `advect explain` says about a method, from the row that the code runs on.

    Raises:
        UnknownNameError: There is no such method.
    """
    method = get_method(name)
    options = {key: f"{option.meaning} Default {option.default!r}." for key, option in method.options.items()}
    facts = {
        "name": method.name,
        "title": method.title,
        "map": method.map,
        "coupling": method.couples,
        "path": method.path,
        "objective": method.objective,
        "equation": method.equation,
        "paper": method.paper,
        "cost": method.cost,
        "avoid when": method.avoid,
        "source": "any rows (--source)" if method.any_source else "a standard normal",
        "likelihood": _KNOWN[method.recipe.likelihood],
        "time": "t = 0 is the source, t = 1 the data" if method.recipe.has_ode else NONE,
    }
    # A row says nothing about what it does not have.
    return {key: value for key, value in facts.items() if value != NONE} | {"options": options}
