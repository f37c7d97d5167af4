"""A figure that a notebook shows by itself, also where pyplot was never imported.

This file alone imports matplotlib as it is loaded, and is loaded only when something is drawn.
"""

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_DPI = 110


class ShownFigure(Figure):
    """A `matplotlib.figure.Figure` on the Agg canvas, unknown to pyplot, that is a picture to a notebook."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height))
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        """Its pixels, which is what IPython asks an object for."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=_DPI)
        return buffer.getvalue()
