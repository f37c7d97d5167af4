"""A velocity field in the plane that a page can evaluate: a small network between affine maps, tabulated in time.

At a time τ_k of the grid the velocity of a point z in the coordinates of the ODE is

    v(z) = drift_k + slope_k z + gain_k · N(φ_k, scale_k z)

with N a network of linear layers and φ_k its features of time. Every field of the library whose baseline is affine has
this form: what a network predicts, the schedule and its clock are in the tables. In the units of the data the point is

    x = bend(matrix z + offset),      bend(u) = u, or location + spread · sinh(u) in a heavy-tailed column.

`trace` does here, in float64, what the page's script does there; whoever fills the record compares it with the flow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from advect.report.packing import text64


def _sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(a, -700, 700)))


def _silu(a: np.ndarray) -> np.ndarray:
    return a * _sigmoid(a)


def _selu(a: np.ndarray) -> np.ndarray:
    return 1.0507009873554805 * np.where(a > 0, a, 1.6732632423543772 * np.expm1(np.minimum(a, 0)))


def _elu(a: np.ndarray) -> np.ndarray:
    return np.where(a > 0, a, np.expm1(np.minimum(a, 0)))


def _softplus(a: np.ndarray) -> np.ndarray:
    return np.logaddexp(a, 0)


# Those that a page's script knows; ``silu`` is also what the residual network uses.
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "selu": _selu,
    "silu": _silu,
    "elu": _elu,
    "tanh": np.tanh,
    "softplus": _softplus,
}


@dataclass(frozen=True)
class PlaneNetwork:
    """The network between the affine maps.

    Attributes:
        kind: ``mlp`` (`networks.MLP`) or ``residual`` (`networks.ResidualMLP`).
        activation: One of `ACTIVATIONS`.
        layers: Pairs of weight ``(outputs, inputs)`` and bias ``(outputs,)``, numbers of float32. Of an MLP in order;
            of a residual network: time, modulation, input, then inner and outer of each block, then output.
    """

    kind: str
    activation: str
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]


@dataclass(frozen=True)
class TimeTables:
    """What depends on time alone: n steps, 2n + 1 rows, at the steps and half-way between them.

    Attributes:
        times: ``(2n + 1,)`` from the first to the last time of the ODE.
        features: ``(2n + 1, f)`` time as the network sees it.
        drift: ``(2n + 1, 2)``.
        slope: ``(2n + 1, 2, 2)``.
        gain: ``(2n + 1,)``.
        scale: ``(2n + 1,)``.
    """

    times: np.ndarray
    features: np.ndarray
    drift: np.ndarray
    slope: np.ndarray
    gain: np.ndarray
    scale: np.ndarray

    @property
    def finite(self) -> bool:
        """Whether every number is."""
        parts = (self.times, self.features, self.drift, self.slope, self.gain, self.scale)
        return all(bool(np.isfinite(part).all()) for part in parts)


@dataclass(frozen=True)
class OuterMap:
    """Between the coordinates of the ODE and the units of the data.

    Attributes:
        matrix: ``(2, 2)``.
        offset: ``(2,)``.
        bend: ``(2, 2)``: location and spread of each column; a spread of 0 for a column that is not bent.
    """

    matrix: np.ndarray
    offset: np.ndarray
    bend: np.ndarray

    def to_data(self, z: np.ndarray) -> np.ndarray:
        """Points ``(rows, 2)`` from the coordinates of the ODE to the units of the data."""
        u = z @ self.matrix.T + self.offset
        location, spread = self.bend.T
        return np.where(spread > 0, location + spread * np.sinh(np.clip(u, -300, 300)), u)

    def from_data(self, x: np.ndarray) -> np.ndarray:
        """The inverse of `to_data`."""
        location, spread = self.bend.T
        u = np.where(spread > 0, np.arcsinh((x - location) / np.where(spread > 0, spread, 1.0)), x)
        return np.linalg.solve(self.matrix, (u - self.offset).T).T


@dataclass(frozen=True)
class PlaneField:
    """See the module."""

    network: PlaneNetwork
    tables: TimeTables
    outer: OuterMap

    @property
    def steps(self) -> int:
        """Steps of the grid."""
        return (len(self.tables.times) - 1) // 2


def velocity(field: PlaneField, place: int, z: np.ndarray) -> np.ndarray:
    """Velocity ``(rows, 2)`` at row ``place`` of the tables."""
    at, network = field.tables, field.network
    seen = at.scale[place] * z
    output = (_mlp if network.kind == "mlp" else _residual)(network, at.features[place], seen)
    return at.drift[place] + z @ at.slope[place].T + at.gain[place] * output


def _linear(layer: tuple[np.ndarray, np.ndarray], h: np.ndarray) -> np.ndarray:
    weight, bias = layer
    return h @ weight.T + bias


def _mlp(network: PlaneNetwork, features: np.ndarray, z: np.ndarray) -> np.ndarray:
    h = np.concatenate([z, np.broadcast_to(features, (len(z), len(features)))], 1)
    for layer in network.layers[:-1]:
        h = ACTIVATIONS[network.activation](_linear(layer, h))
    return _linear(network.layers[-1], h)


def _residual(network: PlaneNetwork, features: np.ndarray, z: np.ndarray) -> np.ndarray:
    time, modulation, first, *inside, last = network.layers
    parts = np.split(_linear(modulation, _silu(_linear(time, features))), len(inside))
    h = _linear(first, z)
    for inner, outer, gain, shift in zip(inside[::2], inside[1::2], parts[::2], parts[1::2], strict=True):
        u = _linear(inner, _silu(h))
        h = h + _linear(outer, _silu((1 + gain) * u + shift))
    return _linear(last, _silu(h))


def trace(field: PlaneField, z: np.ndarray, start: int, end: int) -> np.ndarray:
    """Classic Runge–Kutta steps from grid step ``start`` to ``end``, in either direction; the states on the way.

    Args:
        field: The field.
        z: ``(rows, 2)`` in the coordinates of the ODE.
        start: Step of the grid, 0 at the source, n at the data.
        end: Likewise.

    Returns:
        ``(|end − start| + 1, rows, 2)``.
    """
    states, way = [z], 1 if end > start else -1
    for step in range(start, end, way):
        here, middle, there = 2 * step, 2 * step + way, 2 * (step + way)
        h = field.tables.times[there] - field.tables.times[here]
        z = states[-1]
        k1 = velocity(field, here, z)
        k2 = velocity(field, middle, z + h / 2 * k1)
        k3 = velocity(field, middle, z + h / 2 * k2)
        k4 = velocity(field, there, z + h * k3)
        states.append(z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
    return np.stack(states)


def packed_field(field: PlaneField) -> dict[str, Any]:
    """The record for the page's script: sizes as they are, numbers as text."""
    network, at, outer = field.network, field.tables, field.outer
    weights = np.concatenate([part.ravel() for layer in network.layers for part in layer]).astype(np.float32)
    tables = np.column_stack([at.times, at.drift, at.slope.reshape(-1, 4), at.gain, at.scale, at.features])
    return {
        "kind": network.kind,
        "activation": network.activation,
        "shapes": [layer[0].shape for layer in network.layers],
        "weights": text64(weights),
        "rows": len(at.times),
        "tables": text64(tables.astype(np.float64)),
        "matrix": outer.matrix.tolist(),
        "offset": outer.offset.tolist(),
        "bend": outer.bend.tolist(),
    }
