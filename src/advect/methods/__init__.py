"""The table of methods and its constructor: the only room with names.

`METHODS` holds the rows, `build` makes a flow, its objective and its coupling from one; after it only objects travel.
"""

from advect.methods.build import Blueprint, Built, Parts, build, build_flow, full_flow
from advect.methods.row import Method, Option, Options
from advect.methods.table import METHODS, explanation, get_method, resolve_options

__all__ = [
    "METHODS",
    "Blueprint",
    "Built",
    "Method",
    "Option",
    "Options",
    "Parts",
    "build",
    "build_flow",
    "explanation",
    "full_flow",
    "get_method",
    "resolve_options",
]
