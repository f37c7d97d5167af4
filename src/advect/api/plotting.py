"""The pictures of a model: samples, density, ways from source to data, velocity."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from advect.errors import ConfigError
from advect.report import figures, plots
from advect.report.density import density_figure
from advect.report.images import grid_image, natural_bounds
from advect.report.values import is_numeric
from advect.run import Artefact
from advect.workflows.plots import Ways, axis_names, chosen, density_grid, samples_and_real, velocity_grid, ways
from advect.workflows.report import pixel_bounds

if TYPE_CHECKING:
    import matplotlib.figure

ROWS, PICTURES, WAYS, STRIPS = 1000, 64, 150, 6
MOST_STAGES = 8
STRIP_TIMES = 9


class Plotting:
    """What a `Model` can draw. Every method returns a `matplotlib.figure.Figure` that pyplot knows nothing of.

    Nothing is shown and no setting of matplotlib is changed: save a figure with ``figure.savefig(path)``, or leave it
    at the end of a notebook cell. ``seed`` decides every draw.
    """

    artefact: Artefact

    def _condition(self, condition: Any) -> Any:
        raise NotImplementedError

    def plot_samples(
        self, n: int | None = None, *, real: Any = None, columns: Any = None, condition: Any = None, seed: int = 0
    ) -> "matplotlib.figure.Figure":
        """Samples beside real rows: a scatter of two columns, a scatter matrix of up to five, a panel per column, or
        pictures in a grid.

        Args:
            n: How many samples, and at most how many real rows; 1000, or 64 pictures.
            real: Rows to stand beside; False for none. None looks for held-out rows of the run, if no condition is
                given.
            columns: Names: two numeric ones give a scatter, three to five a scatter matrix, others a histogram or
                bars each. By default all columns.
            condition: As in `sample`.
            seed: Of every draw.

        Raises:
            AdvectError: Unknown columns, rows that do not fit.
        """
        schema = self.artefact.schema
        if schema.image and columns is not None:
            raise ConfigError("pictures have no columns to choose", where="columns", remedy="Leave it out.")
        names = schema.names if columns is None else chosen(schema.names, columns)
        count = n if n is not None else PICTURES if schema.image else ROWS
        samples, held_out = samples_and_real(
            self.artefact, count, real, condition=self._condition(condition), seed=seed
        )
        if schema.image:
            bounds = pixel_bounds(schema) or natural_bounds(samples if held_out is None else held_out)
            sheets = [] if held_out is None else [(np.asarray(grid_image(held_out, bounds=bounds)), "real pictures")]
            return plots.sheet_figure([*sheets, (np.asarray(grid_image(samples, bounds=bounds)), "samples")])
        plain = all(is_numeric(held_out, samples, name) for name in names)
        if plain and len(names) == 2:
            pair = (names[0], names[1])
            if held_out is None:
                return plots.cloud_figure(samples, pair)
            return figures.scatter_figure(held_out, samples, pair)
        if plain and columns is not None and 2 < len(names) <= figures.MOST_MATRIX_COLUMNS:
            if held_out is None:
                return plots.corner_figure(samples, names)
            return figures.matrix_figure(held_out, samples, names)
        return figures.marginals_figure(held_out, samples, names)

    def plot_density(
        self, columns: Any = None, *, resolution: int | None = None, condition: Any = None, seed: int = 0
    ) -> "matplotlib.figure.Figure":
        """The density of a model of one or two continuous columns: a curve, or a heat map of the log-density.

        The map shows nats, down to 10 below the highest, with contours around half, 90 % and 99 % of the mass in the
        frame; grey is where the solver failed.

        Args:
            columns: The two columns in the order of the axes.
            resolution: Points along each axis: 64 of a map, 401 of a curve.
            condition: One value for the whole picture, where the model has a condition.
            seed: Of the draws that find the frame.

        Raises:
            UnsupportedError: More columns, discrete ones, or a model without a density.
        """
        grid = density_grid(
            self.artefact, columns=columns, resolution=resolution, condition=self._condition(condition), seed=seed
        )
        return density_figure(grid)

    def plot_trajectories(
        self,
        n: int | None = None,
        *,
        times: Sequence[float] | np.ndarray | torch.Tensor | None = None,
        columns: Any = None,
        condition: Any = None,
        seed: int = 0,
    ) -> "matplotlib.figure.Figure":
        """Rows on their way from source to data: lines where the model has an ODE, a cloud after each layer otherwise.

        A model of one column is drawn against time, one of pictures as strips.

        Args:
            n: How many rows; 150 lines, 1000 points of clouds, 6 strips.
            times: Rising times in [0, 1] at which an ODE is looked at; by default 33, or 9 of pictures.
            columns: The two coordinates to draw, or one; by default the first two.
            condition: As in `sample`.
            seed: Of the draw; the rows are those of `trajectory` and `sample`.

        Raises:
            UnsupportedError: The model is no flow.
        """
        schema, flow = self.artefact.schema, self.artefact.flow
        if flow.ode is None and times is not None:
            raise ConfigError(
                "this model is made of discrete layers: its rows have no times",
                where="times",
                remedy="Leave them out; a cloud is drawn after each layer.",
            )
        if schema.image and columns is not None:
            raise ConfigError("pictures have no columns to choose", where="columns", remedy="Leave it out.")
        names = tuple(c.name for c in self.artefact.codec.coordinates)
        shown = names[:2] if columns is None else chosen(names, columns)
        if len(shown) > 2:
            raise ConfigError(f"{len(shown)} columns were named", where="columns", remedy="Name one or two.")
        default = STRIPS if schema.image else WAYS if flow.ode is not None or len(shown) == 1 else ROWS
        found = ways(
            self.artefact,
            default if n is None else n,
            times=np.linspace(0, 1, STRIP_TIMES if schema.image else 33).tolist() if times is None else times,
            condition=self._condition(condition),
            seed=seed,
        )
        stops = _some(len(found.places), STRIP_TIMES if schema.image else MOST_STAGES)
        captions = [_caption(place, found.layers) for place in found.places.tolist()]
        if schema.image:
            return self._strips(found, captions, stops if found.layers else np.arange(len(captions)))
        places = [names.index(name) for name in shown]
        titles = [axis_names(self.artefact)[place] for place in places]
        states = found.states.reshape(*found.states.shape[:2], -1)[:, :, places]
        if len(places) == 1:
            along = "time t" if found.layers is None else "layers behind"
            return plots.threads_figure(states[..., 0], found.places, titles[0], along)
        if found.layers is None:
            return plots.ways_figure(states, found.places, (titles[0], titles[1]))
        return plots.stages_figure(states[stops], [captions[i] for i in stops], (titles[0], titles[1]))

    def plot_velocity(
        self, time: float = 0.5, *, n: int = 500, resolution: int = 20, condition: Any = None, seed: int = 0
    ) -> "matplotlib.figure.Figure":
        """The velocity of a model of two continuous columns at one time, as arrows over the rows on their way then.

        Args:
            time: From 0 (source) to 1 (data).
            n: How many rows are drawn.
            resolution: Arrows along each axis.
            condition: One value for the whole picture, where the model has a condition.
            seed: Of the draw; the rows are those of `trajectory`.

        Raises:
            UnsupportedError: The model has no ODE, or not two continuous columns.
        """
        grid = velocity_grid(
            self.artefact, time, n=n, resolution=resolution, condition=self._condition(condition), seed=seed
        )
        return plots.velocity_figure(grid.points, grid.velocity, grid.cloud, grid.names, time)

    def _strips(self, found: Ways, captions: list[str], stops: np.ndarray) -> "matplotlib.figure.Figure":
        """Pictures on their way, each a row of the sheet."""
        rows = found.states[stops].swapaxes(0, 1).reshape(-1, *found.states.shape[2:])
        sheet = np.asarray(grid_image(rows, columns=len(stops), bounds=pixel_bounds(self.artefact.schema)))
        # "layer 3 of 9" is wider than a picture.
        words = captions if found.layers is None else [captions[0], *map(str, range(1, found.layers)), captions[-1]]
        ticks = [((i + 0.5) / len(stops), words[stop]) for i, stop in enumerate(stops)]
        width = float(np.clip(0.68 * len(stops), 2.0, 6.5))
        below = "" if found.layers is None else "layers behind"
        return plots.sheet_figure([(sheet, "from source to data")], ticks=ticks, below=below, width=width)


def _some(count: int, most: int) -> np.ndarray:
    """At most so many places of ``count``, evenly spaced, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _caption(place: float, layers: int | None) -> str:
    if layers is None:
        return f"t = {place:.3g}"
    return "source" if place == 0 else "data" if place == layers else f"layer {place:.0f} of {layers}"
