"""The Python face: `fit`, `load`, `compare`, `verify`, and the `Model` that speaks the user's kind of data."""

from advect.api.comparing import compare
from advect.api.fitting import fit
from advect.api.model import Model, load
from advect.api.verifying import verify

__all__ = ["Model", "compare", "fit", "load", "verify"]
