"""What scikit-learn expects of every estimator, apart from what it estimates: parameters, tags, containers, words.

A class that inherits from `Habits` passes as an estimator without scikit-learn being imported or even installed: its
conventions are names of methods and attributes. scikit-learn itself is imported only when it asks for tags.
"""

import inspect
import operator
import sys
from importlib import import_module
from typing import Any

import numpy as np
from jaxtyping import Float

from advect.errors import AdvectError, ConfigError, DataError, ShapeError, unknown_name

_CONTAINERS = ("default", "pandas", "polars")


class UnfittedError(AdvectError, ValueError, AttributeError):
    """`fit` has to come first. Where scikit-learn is loaded, its own ``NotFittedError`` as well."""


class Habits:
    """Parameters are the constructor's arguments, kept as attributes of their names; ``model_`` says it is fitted."""

    n_features_in_: int
    n_features_out_: int

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's parameters by name; there are no nested ones, so ``deep`` changes nothing."""
        return {name: getattr(self, name) for name in _parameters(type(self))}

    def set_params(self, **params: Any) -> "Habits":
        """Change parameters by name.

        Raises:
            UnknownNameError: There is no such parameter; nothing is changed then.
        """
        known = _parameters(type(self))
        for name in params:
            if name not in known:
                raise unknown_name("parameter", name, known, where=type(self).__name__)
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns of `transform`: the class in small letters and a number, as each mixes all columns.

        Raises:
            ShapeError: ``input_features``, which play no further part, are not as many as the columns of `fit`.
            DataError: They have other names.
        """
        self._require_fit("get_feature_names_out")
        if input_features is not None and len(input_features) != self.n_features_in_:
            raise ShapeError(
                f"input_features should have length equal to {self.n_features_in_}, not {len(input_features)}"
            )
        known = vars(self).get("feature_names_in_")
        if input_features is not None and known is not None and list(input_features) != known.tolist():
            raise DataError("input_features is not equal to feature_names_in_")
        stem = type(self).__name__.lower()
        return np.array([f"{stem}{i}" for i in range(self.n_features_out_)], dtype=object)

    def set_output(self, *, transform: Any = None) -> "Habits":
        """What `transform` returns: ``default`` (an array), ``pandas`` or ``polars``; None changes nothing."""
        if transform is not None:
            if transform not in _CONTAINERS:
                raise unknown_name("container", str(transform), _CONTAINERS, where="set_output")
            self._sklearn_output_config = {"transform": transform}  # under this name `sklearn.base.clone` keeps it
        return self

    def __repr__(self) -> str:
        defaults, given = _parameters(type(self)), self.get_params()
        changed = [f"{name}={value!r}" for name, value in given.items() if repr(value) != repr(defaults[name])]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_tags__(self) -> Any:
        utils: Any = import_module("sklearn.utils")
        return utils.Tags(
            estimator_type="density_estimator",
            target_tags=utils.TargetTags(required=False),
            transformer_tags=utils.TransformerTags(),
        )

    def __sklearn_is_fitted__(self) -> bool:
        return "model_" in vars(self)

    def _require_fit(self, verb: str) -> None:
        if not self.__sklearn_is_fitted__():
            name = type(self).__name__
            raise _unfitted_error()(f"This {name} instance is not fitted yet", where=verb, remedy="Call 'fit' first.")

    def _contained(self, result: Float[np.ndarray, "rows columns"], X: Any) -> Any:
        """An array in the container asked for with `set_output`, or with ``sklearn.set_config``."""
        chosen = vars(self).get("_sklearn_output_config", {}).get("transform")
        if chosen is None and "sklearn" in sys.modules:
            chosen = sys.modules["sklearn"].get_config()["transform_output"]
        if chosen in (None, "default"):
            return result
        names = self.get_feature_names_out().tolist()
        frames: Any = import_module(chosen)
        if chosen == "polars":
            return frames.DataFrame(result, schema=names)
        return frames.DataFrame(result, columns=names, index=X.index if isinstance(X, frames.DataFrame) else None)


def whole(name: str, value: Any) -> int:
    """A whole number of any kind, such as ``numpy.int64`` from a grid of parameters, as an ``int``.

    Raises:
        ConfigError: Anything else.
    """
    try:
        return operator.index(value)
    except TypeError as error:
        raise ConfigError(f"{name} must be a whole number, not {value!r}", where=name) from error


def seed_from(random_state: Any) -> int:
    """A seed from an integer, from a NumPy generator of either kind, or (None) from the system's entropy."""
    if random_state is None:
        random_state = np.random.default_rng()
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    return whole("random_state", random_state)


def _parameters(kind: type) -> dict[str, Any]:
    """Names and defaults of a constructor's parameters."""
    found = inspect.signature(kind).parameters.values()
    return {p.name: p.default for p in found}


def _unfitted_error() -> type[UnfittedError]:
    """`UnfittedError`, joined with scikit-learn's own where that is loaded: only then can anybody wait for it."""
    theirs = getattr(sys.modules.get("sklearn.exceptions"), "NotFittedError", None)
    return UnfittedError if theirs is None else type("UnfittedError", (UnfittedError, theirs), {})
