"""The Python face: `fit`, `load` and the `Model` they return, which speaks the user's kind of data."""

from advect.api.fitting import fit
from advect.api.model import Model, load

__all__ = ["Model", "fit", "load"]
