"""The table of methods and its constructor: the only room with names.

`METHODS` holds the rows, `build` makes a flow, its objective and its coupling from one; after it only objects travel.
"""

from advect.methods.blueprint import Blueprint, Built, Parts
from advect.methods.build import build, build_flow, full_flow, resolve_blueprint
from advect.methods.option import Option, Options
from advect.methods.recipe import Recipe
from advect.methods.row import Method
from advect.methods.table import METHODS, explanation, get_method, resolve_options

__all__ = [
    "METHODS",
    "Blueprint",
    "Built",
    "Method",
    "Option",
    "Options",
    "Parts",
    "Recipe",
    "build",
    "build_flow",
    "explanation",
    "full_flow",
    "get_method",
    "resolve_blueprint",
    "resolve_options",
]
