"""A flow as density estimator and transformer in scikit-learn's terms.

For a base density q and an invertible map z = encode(x),

    log p(x) = log q(encode(x)) + log |det ∂ encode(x) / ∂x|      (nats, in the units of X)

so one fitted model is a density estimator (`score_samples`, `sample`), and a transformer that makes its training law
standard normal (`transform`) and undoes that (`inverse_transform`). Every column is taken as continuous, whole numbers
too: scores are densities throughout, and the transformation is a function without noise. A column that never
changes in training has no density: its z is x minus the constant, as for `sklearn.preprocessing.StandardScaler`, and a
row with another value there has log-density −∞.

Training runs in float32, everything after it in float64: rows do not depend on their neighbours then.
"""

import copy
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from advect.api import Model
from advect.data.arrays import from_array
from advect.errors import ConfigError
from advect.estimator.habits import Habits, seed_from, whole
from advect.estimator.rows import check_names, check_width, feature_names, read_rows
from advect.flows import Flow
from advect.run import Artefact
from advect.training import generator_for
from advect.transforms import Precision
from advect.workflows.fit import train
from advect.workflows.generate import SolverChoice
from advect.workflows.open import rebuild
from advect.workflows.request import TrainRequest, choose_device, sort_settings
from advect.workflows.streams import SAMPLE, SCORE


class FlowEstimator(Habits):
    """A flow-based model of rows of numbers, for scikit-learn's pipelines and searches.

    Args:
        method: Row of the table of methods, see ``advect methods``.
        steps: Optimiser steps.
        batch_size: Rows per step.
        network: Name of the network; ``auto`` chooses by the shape of the data.
        learning_rate: Peak rate of the optimiser.
        solver: Solver that `sample` uses; None for the method's.
        sampling_steps: Its steps.
        random_state: Seed; a NumPy generator or ``RandomState`` from which one is drawn; None for a fresh one.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        options: Further settings by name, as the keyword arguments of `advect.fit`; they win over the ones above.

    Attributes:
        model_: The trained `advect.Model`; its own verbs know more, such as standard errors and `save`.
        n_features_in_: Columns seen in `fit`.
        n_features_out_: Columns of `transform`: as many.
        feature_names_in_: Their names, if all were text.

    A tenth of the rows given to `fit` chooses the best weights. Parameters are checked in `fit`, not before.

    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> flow = FlowEstimator(method="i-cfm", steps=5, network="mlp-1x8", random_state=0).fit(X)
    >>> flow.transform(X).shape, flow.score_samples(X).shape, flow.sample(3).shape
    ((200, 2), (200,), (3, 2))
    """

    # Anything may be given until `fit`: scikit-learn's convention, and the reason for the annotations.
    def __init__(
        self,
        method: Any = "ot-cfm",
        *,
        steps: Any = 2000,
        batch_size: Any = 256,
        network: Any = "auto",
        learning_rate: Any = 1e-3,
        solver: Any = None,
        sampling_steps: Any = None,
        random_state: Any = None,
        device: Any = "auto",
        options: Any = None,
    ) -> None:
        self.method = method
        self.steps = steps
        self.batch_size = batch_size
        self.network = network
        self.learning_rate = learning_rate
        self.solver = solver
        self.sampling_steps = sampling_steps
        self.random_state = random_state
        self.device = device
        self.options = options

    def fit(self, X: Any, y: Any = None) -> "FlowEstimator":
        """Learn the distribution of the rows of ``X``, ``(rows, columns)``; ``y`` is ignored.

        Raises:
            AdvectError: Rows or parameters that must be mended.
        """
        names = feature_names(X)
        rows = read_rows(X, least=2)
        settings = sort_settings(self.method, {"learning_rate": self.learning_rate, **(self.options or {})})
        request = TrainRequest(
            data=from_array(rows, names=names, origin="X"),
            method=self.method,
            steps=whole("steps", self.steps),
            batch_size=whole("batch_size", self.batch_size),
            network=self.network,
            seed=seed_from(self.random_state),
            device=self.device,
            test=0.0,  # held-out rows are the caller's business: cross-validation, train_test_split
            continuous=True,
            options=settings.options,
            training=settings.training,
            settings=settings.settings,
        )
        artefact = train(request, evaluate=False).artefact
        assert artefact is not None  # nothing asked the loop to stop
        self.n_features_in_ = self.n_features_out_ = rows.shape[1]
        vars(self).pop("feature_names_in_", None)
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        self._take(artefact)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """`fit`, then `transform` of the same rows."""
        return self.fit(X, y).transform(X)

    def score_samples(self, X: Any) -> Float[np.ndarray, " rows"]:
        """Log-density of every row in nats; −∞ off a constant column, NaN where the integration failed."""
        moved = self._known(X, "score_samples") - self._offset
        flow: Any = self._exact.flow
        with torch.no_grad():
            density = flow.score(self._tensor(moved), generator=generator_for(SCORE)).value.numpy(force=True)
        off = (moved[:, ~self._varies] != 0).any(1)
        return np.where(off, -np.inf, density)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-density of the rows in nats: higher is better, and folds of different size compare.

        That is `sklearn.mixture.GaussianMixture`'s convention; `sklearn.neighbors.KernelDensity` gives the sum.
        """
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: Any = 1, random_state: Any = None) -> Float[np.ndarray, "rows columns"]:
        """Draw ``(n_samples, n_features_in_)`` rows.

        Args:
            n_samples: How many, at least 1.
            random_state: As the parameter of the same name, in whose place it stands here; with an integer every call
                draws the same rows.
        """
        self._require_fit("sample")
        count = whole("n_samples", n_samples)
        if count < 1:
            raise ConfigError(f"n_samples must be at least 1, not {count}", where="sample")
        seed = seed_from(self.random_state if random_state is None else random_state)
        steps = None if self.sampling_steps is None else whole("sampling_steps", self.sampling_steps)
        flow = SolverChoice(self.solver, steps).applied(self._exact)
        with torch.no_grad():
            drawn = flow.draw(count, generator=generator_for(seed, SAMPLE)).value
        return self._with_constants(drawn, np.zeros((count, self.n_features_in_))) + self._offset

    def transform(self, X: Any) -> Any:
        """Rows to the source: ``(rows, n_features_out_)`` float64, standard normal where the model is right.

        A column that was constant in training gives its distance from the constant.
        """
        moved = self._known(X, "transform") - self._offset
        flow: Any = self._exact.flow
        with torch.no_grad():
            latent = flow.encode(self._tensor(moved)).value
        return self._contained(self._with_constants(latent, moved), X)

    def inverse_transform(self, X: Any) -> Float[np.ndarray, "rows columns"]:
        """Undo `transform`, up to the tolerance of the likelihood solver."""
        self._require_fit("inverse_transform")
        latent = read_rows(X)
        check_width(latent, self.n_features_out_, type(self).__name__)
        flow: Any = self._exact.flow
        if flow.ode is not None:  # sampling may be coarse; a round trip may not
            flow = flow.with_options(solver=flow.ode.likelihood_solver)
        with torch.no_grad():
            moved = flow.decode(self._tensor(latent)).value
        return self._with_constants(moved, latent) + self._offset

    # State: weights and settings as plain arrays, so that a model of one device opens on another

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in vars(self).items() if name not in ("model_", "_exact")}
        if self.__sklearn_is_fitted__():
            artefact = self.model_.artefact
            weights = {name: tensor.numpy(force=True) for name, tensor in artefact.flow.state_dict().items()}
            state["_stored"] = (
                weights,
                {f.name: getattr(artefact, f.name) for f in fields(artefact) if f.name != "flow"},
            )
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if "_stored" in state:
            weights, rest = vars(self).pop("_stored")
            tensors = {name: torch.from_numpy(values.copy()) for name, values in weights.items()}
            self._take(Artefact(flow=rebuild(tensors, rest["codec"], rest["config"]), **rest))

    def _take(self, artefact: Artefact) -> None:
        """Hold the model, its float64 twin, and what is taken off each column before the flow."""
        self.model_ = Model(artefact)
        self._exact = replace(artefact, flow=_double(artefact.flow, _place(self.device)))
        codes = list(zip(artefact.codec.codes, artefact.schema.columns, strict=True))
        self._varies = np.array([code.form != "constant" for code, _ in codes])
        self._offset = np.array([code.offset if code.form != "constant" else column.minimum for code, column in codes])

    # Between the columns of X and the coordinates of the flow, which has none for a constant column

    def _known(self, X: Any, verb: str) -> Float[np.ndarray, "rows columns"]:
        """The rows of ``X``, with the columns of `fit`."""
        self._require_fit(verb)
        known = vars(self).get("feature_names_in_")
        name = type(self).__name__
        check_names(feature_names(X), None if known is None else known.tolist(), name)
        rows = read_rows(X)
        check_width(rows, self.n_features_in_, name)
        return rows

    def _tensor(self, rows: Float[np.ndarray, "rows columns"]) -> Float[Tensor, "rows coordinates"]:
        device = next(iter(self._exact.flow.state_dict().values())).device
        return torch.as_tensor(np.ascontiguousarray(rows[:, self._varies]), device=device)

    def _with_constants(
        self, values: Float[Tensor, "rows coordinates"], rows: Float[np.ndarray, "rows columns"]
    ) -> Float[np.ndarray, "rows columns"]:
        """The coordinates at the places of their columns; the constant columns are those of ``rows``."""
        result = rows.copy()
        result[:, self._varies] = values.numpy(force=True)
        return result


def _place(device: Any) -> torch.device:
    """Where a fitted model computes: the device asked for, if it is here and knows float64; else the CPU."""
    try:
        found = choose_device(device)
    except ConfigError:  # trained elsewhere
        return torch.device("cpu")
    return found if found.type == "cuda" else torch.device("cpu")


def _double(flow: Flow, device: torch.device) -> Flow:
    """A copy of a flow that computes in float64."""
    twin = copy.deepcopy(flow).to(device, torch.float64)
    for part in twin.modules():
        if isinstance(part, Precision):
            part.inner = torch.float64
    return twin
