"""The model a training gives back: a trained flow that speaks the user's kind of data."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advect.api.notebook import model_table
from advect.api.plotting import Plotting
from advect.data import read_like, read_table, to_container
from advect.errors import ConfigError, RunFolderError, UnsupportedError
from advect.files import atomic_folder, write_text
from advect.methods import Parts
from advect.records import Estimate, Table
from advect.run import CONFIG, EVALUATION, METRICS, Artefact, RunFolder, write_artefact
from advect.run.card import render_values
from advect.run.sink import render_history
from advect.training import generator_for
from advect.workflows.between import followed, move
from advect.workflows.complete import complete
from advect.workflows.evaluate import evaluate_table
from advect.workflows.generate import SolverChoice, condition_vectors, generate
from advect.workflows.open import open_run
from advect.workflows.picture_features import given_features
from advect.workflows.score import score
from advect.workflows.snapshots import timeline_of
from advect.workflows.solver_error import solver_error
from advect.workflows.streams import SAMPLE
from advect.workflows.transport import transport
from advect.workflows.velocity import annotate, velocities


class Model(Plotting):
    """A trained flow that speaks the user's kind of data.

    Rows go in as any kind of data and come out as the kind the model was trained on. All log-probabilities are in nats,
    in the units of the data.
    """

    def __init__(self, artefact: Artefact) -> None:
        self.artefact = artefact

    @property
    def flow(self) -> torch.nn.Module:
        """The `Flow` inside, which speaks tensors of coordinates."""
        return self.artefact.flow

    @property
    def config(self) -> Mapping:
        """The resolved settings, as in ``config.toml``."""
        return self.artefact.config

    @property
    def evaluation(self) -> Mapping:
        """Held-out figures, if they were computed."""
        return self.artefact.evaluation

    def sample(
        self,
        num_rows: int,
        condition: Any = None,
        *,
        guidance: float = 0.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        solver: str | None = None,
        steps: int | None = None,
        tolerance: float | None = None,
        noise: float | None = None,
        schedule: str | None = None,
        seed: int = 0,
        at: Any = None,
    ) -> Any:
        """Draw rows, as the kind of data the model was trained on.

        Args:
            num_rows: How many; with several times so many at each, time after time: the same rows on their way.
            condition: One value for all rows (``7``, ``"label=7"``), an array or frame with one per row, or None to
                draw conditions as they occurred in training.
            guidance: Weight w of classifier-free guidance, (1 + w)·conditional − w·unconditional.
            guidance_interval: Times between which it applies.
            solver: Another solver than the run's, see `solvers.SOLVERS`.
            steps: Its steps (fixed-step solvers).
            tolerance: Its tolerance (adaptive solvers).
            noise: Strength of its noise (stochastic solvers).
            schedule: Name of another schedule to run the model on, see `paths.SCHEDULES`.
            seed: Of the draw.
            at: A time of a model with times, seen or not, or several; frames then have the column of times.

        Raises:
            ConfigError: Settings that contradict one another, or that this model cannot use.
            UnsupportedError: A schedule for a model that was not trained on an affine path.
        """
        choice = SolverChoice(
            solver, steps, tolerance, guidance, guidance_interval=guidance_interval, schedule=schedule, noise=noise
        )
        given, times = self._condition(condition), () if at is None else several(at)
        drawn = generate(self.artefact, num_rows, condition=given, choice=choice, seed=seed, at=times)
        return _given_back(drawn.table, self.artefact.schema.container)

    def complete(
        self,
        rows: Any,
        *,
        draws: int = 1,
        noise: float = 0.0,
        condition: Any = None,
        solver: str | None = None,
        steps: int | None = None,
        tolerance: float | None = None,
        seed: int = 0,
    ) -> Any:
        """Draw what is unknown in given rows given what is known, as the kind of data the model was trained on.

        Args:
            rows: With gaps where unknown: empty cells or absent columns of a frame or file, NaN in an array.
            draws: Completions of each row; they stand together.
            noise: Standard deviation of the known numbers, in their own units.
            condition: As in `sample`.
            solver: Another solver than ``adams3-straight``.
            steps: Its steps; 48 by default.
            tolerance: Its tolerance (adaptive solvers).
            seed: Of every draw.

        Raises:
            UnsupportedError: The model does not know its score, see `flows.observed`.
        """
        choice = SolverChoice(solver, steps, tolerance)
        given = self._condition(condition)
        done = complete(self.artefact, rows, draws=draws, noise=noise, condition=given, choice=choice, seed=seed)
        return _given_back(done.table, self.artefact.schema.container)

    def log_prob(self, data: Any, condition: Any = None, *, seed: int = 0) -> Any:
        """Log-probability ``(rows,)`` in nats; NaN in failed rows, −∞ for rows that cannot occur."""
        value = self.score(data, condition, seed=seed).value
        return value if isinstance(data, torch.Tensor) else value.numpy()

    def score(
        self, data: Any, condition: Any = None, *, importance_samples: int | None = None, seed: int = 0
    ) -> Estimate:
        """Log-probability with standard error, status and network evaluations per row.

        Args:
            data: Rows.
            condition: One value per row, where the model has a condition that is not among the columns.
            importance_samples: Draws per row for discrete columns, gaps and codes; by default 1 where nothing is drawn,
                4 where coding draws, 64 where the model does (`vae`: the score is then a lower bound).
            seed: Of those draws.
        """
        table = self._rows(data, condition)
        return score(self.artefact, table, importance_samples=importance_samples, seed=seed).estimate

    def solver_error(
        self, data: Any, condition: Any = None, *, importance_samples: int | None = None, seed: int = 0
    ) -> torch.Tensor:
        """What the solver adds to the error of `score`, ``(rows,)`` in nats: the change under a tenth of its tolerance.

        The arguments are those of `score`, and so are the draws; models without an ODE have 0.
        """
        table = self._rows(data, condition)
        scored = score(self.artefact, table, importance_samples=importance_samples, seed=seed)
        return solver_error(self.artefact, table, scored, seed=seed)

    def encode(self, data: Any, condition: Any = None, *, seed: int = 0) -> np.ndarray:
        """Rows to the source: ``(rows, coordinates)``, standard normal if the model is right."""
        moved = transport(self.artefact, self._rows(data, condition), to="source", seed=seed)
        modelled = len(moved.table.columns) - len(set(moved.table.names) & self._given_names)
        columns = tuple(moved.table.columns)[:modelled]
        if any(c.dtype.kind not in "biuf" for c in columns):
            raise UnsupportedError(
                "the source is a data set with columns of text, which an array cannot hold",
                where="encode",
                remedy='Use model.transport(rows, to="source").',
            )
        return np.stack([np.asarray(c, dtype=np.float64) for c in columns], 1)

    def decode(self, latent: Any, condition: Any = None) -> Any:
        """Source rows ``(rows, coordinates)``, as `encode` gives them, back to rows of data."""
        table = read_table(np.asarray(latent).reshape(len(latent), -1), min_rows=1)
        moved = transport(self.artefact, self._given(table, condition), to="target")
        return _given_back(moved.table, self.artefact.schema.container)

    def transport(
        self, data: Any, *, to: Any = "target", start: Any = None, condition: Any = None, seed: int = 0
    ) -> Any:
        """Move rows of one population onto the other, for models trained with a source data set, or between times.

        Args:
            data: Rows.
            to: ``source`` or ``target``; of a model with times also one of them, seen or not.
            start: The time the rows are of; None for the times in their own column, or the end opposite to ``to``.
            condition: One value per row, where the condition is not among the columns.
            seed: Of the noise inside discrete cells.
        """
        moved = move(self.artefact, self._rows(data, condition), start=start, to=to, seed=seed)
        return _given_back(moved.table, self.artefact.schema.container)

    @torch.no_grad()
    def trajectory(
        self,
        start: Any,
        times: Sequence[Any] | torch.Tensor | None = None,
        *,
        origin: Any = None,
        condition: Any = None,
        seed: int = 0,
    ) -> np.ndarray:
        """Rows on their way from source to data: ``(times, rows, *coordinates)`` in the units of the data.

        Args:
            start: How many rows to draw at the source; for a model with times also rows to start from.
            times: Rising: from 0 (source) to 1 (data) in quarters, or for a model with times in the user's units, all
                times of the data by default.
            origin: The time of the rows to start from; by default the first.
            condition: As in `sample`; of given rows one value per row, where it is not among their columns.
            seed: Of the draw.
        """
        if self.times is not None:
            rows = start if isinstance(start, int) else self._rows(start, condition)
            given = self._condition(condition) if isinstance(start, int) else None
            asked = None if times is None else [float(t) if not isinstance(t, str) else t for t in times]
            return followed(self.artefact, rows, asked, origin=origin, condition=given, seed=seed)
        generator = generator_for(seed, SAMPLE)
        vectors = condition_vectors(self.artefact, start, self._condition(condition), generator)
        grid = torch.as_tensor((0, 0.25, 0.5, 0.75, 1) if times is None else times, dtype=torch.float32)
        if not bool(((grid >= 0) & (grid <= 1)).all()):
            raise ConfigError(
                f"the times {grid.tolist()} leave the way from 0 (source) to 1 (data)",
                where="times",
                remedy="Give rising times from 0 to 1: nothing was learnt beyond.",
            )
        states = self.artefact.flow.trajectory(start, grid, vectors, generator=generator)
        return self.artefact.codec.in_units(states.double().cpu().numpy())

    def velocity(self, data: Any, *, at: Any = None, condition: Any = None) -> np.ndarray:
        """Velocity ``(rows, columns)`` of rows at their time, in the units of the data per unit of its times.

        Args:
            data: Rows, with their column of times where ``at`` is not given.
            at: The time of all of them.
            condition: One value per row, where the model has a condition that is not among the columns.
        """
        return velocities(self.artefact, self._rows(data, condition), at=at).values

    def growth(self, data: Any, *, at: Any = None) -> np.ndarray:
        """Growth rate ``(rows,)`` of rows at their time, relative to all rows, per unit of the data's times.

        Args:
            data: Rows, with their column of times where ``at`` is not given.
            at: The time of all of them.

        Raises:
            UnsupportedError: The plan of this model neither makes nor loses mass.
        """
        found = velocities(self.artefact, self._rows(data, None), at=at).growth
        if found is None:
            raise UnsupportedError(
                "this model carries every row at its own weight, so nothing grows",
                where="growth",
                remedy='Train with plan="unbalanced" and time_key.',
            )
        return found

    def annotate(self, cells: Any, *, at: Any = None, genes: bool = True) -> None:
        """Put velocities into an AnnData: ``obsm["velocity_pca"]``, ``layers["velocity"]`` through the loadings, and
        ``obs["growth_rate"]`` where the plan makes and loses mass.

        Args:
            cells: An AnnData with the representation that the model was trained on.
            at: The time of all cells; by default the column of times in ``obs`` tells it.
            genes: Whether the layer is wanted.
        """
        annotate(self.artefact, cells, at=at, genes=genes)

    @property
    def times(self) -> tuple[float, ...] | None:
        """The times of the data, in the user's units, left-out ones too; None for a model without times."""
        timeline = timeline_of(self.artefact)
        return None if timeline is None else timeline.times

    def evaluate(
        self, data: Any, reference: Any, condition: Any = None, *, seed: int = 0, features: Any = None
    ) -> Mapping:
        """Figures on held-out rows, with training rows as reference for floor and Gaussian fit.

        ``condition`` has one value per held-out row, where the condition is not among the columns. With ``features``
        pictures are compared by them too: a callable of ``(rows, channels, height, width)`` float32 in the units of the
        data, or the ``features.safetensors`` of a run.
        """
        held_out = self._given(read_table(data), condition)
        pictured = None if features is None else given_features(features, held_out.event_shape)
        return evaluate_table(self.artefact, held_out, read_table(reference), seed=seed, features=pictured)

    def save(self, path: str | Path) -> Path:
        """Write the model as a run folder that `load` and the command open.

        Raises:
            RunFolderError: The folder is there already and holds something.
        """
        folder = RunFolder(path)
        if folder.state not in ("absent", "empty"):
            raise RunFolderError(
                "this folder is there already", where=str(path), remedy="Choose another name, or remove it first."
            )
        with atomic_folder(path) as temporary:
            inside = RunFolder(temporary)
            write_text(inside.file(CONFIG), render_values(self.artefact.config))
            write_text(inside.file(METRICS), render_history(self.artefact.history))
            if self.artefact.evaluation:
                inside.write_json(EVALUATION, self.artefact.evaluation)
            write_artefact(inside, self.artefact)
        return folder.path

    def __repr__(self) -> str:
        schema, config = self.artefact.schema, self.artefact.config
        shape = f"pictures {schema.event_shape}" if schema.image else f"{len(schema.columns)} columns"
        return f"Model({config['method']}, {shape}, {config['data']['rows']} rows of {config['data']['origin']})"

    def _repr_html_(self) -> str:
        """What a notebook shows: method, data, training, held-out likelihood, and what can be called."""
        return model_table(self.artefact)

    # Rows and conditions

    @property
    def _given_names(self) -> set[str]:
        return {column.name for column in self.artefact.schema.condition}

    def _rows(self, data: Any, condition: Any) -> Table:
        return self._given(read_like(data, self.artefact.schema), condition)

    def _given(self, table: Table, condition: Any) -> Table:
        if condition is None:
            return table
        return replace(table, sides={**table.sides, **self._sides(condition, table.num_rows)})

    def _condition(self, condition: Any) -> Any:
        """A condition for sampling: an array or frame becomes a table, a single value stays."""
        if condition is None or isinstance(condition, str | int | float | bool | Table | Mapping):
            return condition
        if hasattr(condition, "columns"):
            return read_table(condition, min_rows=1)
        if np.ndim(condition) == 0:  # a number of NumPy's or torch's own
            return condition.item()
        given = self._sides(condition, len(condition))
        columns = tuple(given.values())
        dtypes = tuple(str(c.dtype) if c.dtype.kind != "O" else "str" for c in columns)
        return Table(tuple(given), columns, "numpy", (len(columns),), dtypes, origin="condition")

    def _sides(self, condition: Any, num_rows: int) -> dict[str, np.ndarray]:
        names = [c.name for c in self.artefact.schema.condition]
        if not names:
            raise ConfigError("a condition was given, and this model has none", where="condition")
        if hasattr(condition, "columns"):
            given = read_table(condition, min_rows=1)
            refuse_other_length(given.num_rows, num_rows)
            return dict(zip(given.names, given.columns, strict=True))
        values = condition if isinstance(condition, np.ndarray) else np.asarray(condition)
        values = np.broadcast_to(values, (num_rows,)) if values.ndim == 0 else values
        refuse_other_length(len(values), num_rows)
        flat = values.reshape(num_rows, -1)
        if flat.shape[1] != len(names):
            raise ConfigError(
                f"{len(names)} condition columns are needed, {flat.shape[1]} were given", where="condition"
            )
        return {name: flat[:, i] for i, name in enumerate(names)}


def load(path: str | Path, *, network: torch.nn.Module | None = None) -> "Model":
    """Open a run folder.

    Args:
        path: What ``advect train --out`` or `Model.save` wrote.
        network: The module, for runs trained with one of the user's own.

    Raises:
        RunFolderError: No finished run, or a damaged one.
    """
    return Model(open_run(path, parts=Parts(network=network)))


def refuse_other_length(found: int, num_rows: int) -> None:
    """Raise `ConfigError` unless there is one condition per row."""
    if found != num_rows:
        raise ConfigError(f"{found} conditions were given for {num_rows} rows", where="condition")


def several(given: Any) -> tuple[Any, ...]:
    """One value or several as a tuple."""
    return (given,) if isinstance(given, str) or np.ndim(given) == 0 else tuple(given)


def _given_back(table: Table, container: str) -> Any:
    """Rows as the kind of object the model was trained on; for files with named columns a frame, if pandas is here."""
    if container in ("csv", "tsv", "parquet") and find_spec("pandas") is not None:
        return to_container(table, "pandas")
    return to_container(table, container)
