"""Numbers in which pictures are compared: features of a small classifier, of a random network, or of the user's own.

Pixels are a poor measure of pictures. In their place stand, in this order:

    the user's own    ``module:callable``, called with pictures ``(rows, channels, height, width)`` float32 in the units
                      of the data; or the ``features.safetensors`` of another run
    a classifier      where rows have labels (the condition, or class folders): 64 numbers before its last layer; it
                      is trained here on the training rows by the one loop, the best weights by the validation rows, and
                      kept in the run folder with its accuracy on held-out rows
    a random network  of the same shape and seed 0, which is never trained, where there are no labels (Naeem et al.
                      2020, arXiv 2002.09797, §4.2, find random features fit for data that ImageNet knows nothing of)

Figures compare only under equal features: those of two runs on the same rows, split and seed are the same, and
``--features RUN/features.safetensors`` takes those of another run.
"""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advect.data import Split, find_array, sample_rows, take_rows
from advect.data.kinds import stack_numbers
from advect.errors import ConfigError, DataError, RunFolderError
from advect.networks import PictureClassifier
from advect.objectives import CrossEntropy
from advect.records import Schema, Table
from advect.run import MemorySink, RunFolder, load_weights, read_tensors, write_tensors
from advect.training import Batches, DataRows, Trainer, TrainingConfig, generator_for
from advect.workflows.bounded import described_by_file

FEATURES_FILE = "features.safetensors"
STEPS, BATCH = 500, 128
MOST_CLASSES, FEWEST_ROWS = 200, 20
_CLASSIFIER, _ROWS_AT_ONCE, _SIZE_ROWS = 18, 512, 5000  # the first a stream of `generator_for`


@dataclass(frozen=True)
class PictureFeatures:
    """Features of pictures.

    Attributes:
        of: ``(rows, channels, height, width)`` float32 to ``(rows, features)``.
        words: What they are.
        accuracy: Share of held-out rows that the classifier behind them gets right; None without one.
        rows: Held-out rows behind the accuracy.
        card: How they were made, as plain values.
        tensors: Weights to keep; empty where there is nothing to keep.
    """

    of: Callable[[Tensor], Tensor]
    words: str
    accuracy: float | None = None
    rows: int = 0
    card: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, table: Table) -> Tensor:
        """Features ``(rows, features)`` float64 of a table of pictures.

        Raises:
            DataError: They are no finite numbers, or not one row for each picture.
        """
        x = pixels(table)
        parts = [torch.as_tensor(self.of(part)) for part in x.split(_ROWS_AT_ONCE)]
        return checked_features(torch.cat(parts).double(), len(x), self.words)


def pixels(table: Table) -> Tensor:
    """Pictures as ``(rows, channels, height, width)`` float32, in the units of the data."""
    values = np.ascontiguousarray(stack_numbers(table.columns), dtype=np.float32)
    return torch.from_numpy(values).reshape(table.num_rows, *table.event_shape)


def checked_features(found: Tensor, rows: int, words: str) -> Tensor:
    """Features, if there is one finite row of at least one number for each picture.

    Raises:
        DataError: They are anything else.
    """
    if found.ndim != 2 or len(found) != rows or not found.shape[1] or not bool(torch.isfinite(found).all()):
        raise DataError(
            f"features of shape {tuple(found.shape)} for {rows} pictures, or not all finite",
            where=words,
            remedy="Give one row of finite numbers for each picture.",
        )
    return found


def label_of(table: Table, schema: Schema) -> str | None:
    """The column or side array that names the class of each picture: the only condition, or ``label``; else None."""
    names = [column.name for column in schema.condition] if len(schema.condition) == 1 else []
    for name in (*names, *(("label",) if "label" in table.sides else ())):
        values = find_array(table, name)
        if values is not None and 2 <= len(_classes(values)) <= MOST_CLASSES:
            return name
    return None


def _classes(values: np.ndarray) -> list[str]:
    """The classes of a side array by name; none where values are numbers on a scale."""
    if values.ndim != 1 or (values.dtype.kind == "f" and not np.equal(np.mod(values, 1), 0).all()):
        return []
    return sorted({str(value) for value in values.tolist() if value is not None})


def kept_features(path: Path, event_shape: Sequence[int]) -> PictureFeatures:
    """The features that `trained_features` or `random_features` made, from their file.

    Raises:
        RunFolderError: The file is missing or damaged.
        ConfigError: They are of pictures of another shape.
    """
    tensors, card = read_tensors(path)
    shape, classes = card.get("event_shape"), card.get("classes")
    whole = isinstance(shape, list) and isinstance(classes, list) and len(classes) <= MOST_CLASSES
    if not whole or len(shape) != 3 or not all(isinstance(n, int) and 0 < n < 2**12 for n in shape):
        raise RunFolderError(f"{path.name} describes no features", where=str(path), remedy="Remove it.")
    if list(event_shape) != shape:
        raise ConfigError(
            f"these features are of pictures of shape {tuple(shape)}, and the run's are {tuple(event_shape)}",
            where=str(path),
            remedy="Take those of a run on pictures of the same size.",
        )
    with described_by_file(str(path), tensors.values()):
        network = _Scaled(tuple(shape), len(classes), 0)
    load_weights(network, tensors, str(path))
    return _features(network.eval(), {**card, "event_shape": shape, "classes": classes})


class _Scaled(nn.Module):
    """A classifier behind the mean and spread of the training pixels; its features by their own root mean square."""

    def __init__(self, event_shape: tuple[int, ...], classes: int, seed: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("size", torch.ones(()))
        self.network = PictureClassifier(event_shape, classes, torch.Generator().manual_seed(seed))

    def fit(self, x: Tensor) -> "_Scaled":
        self.mean, self.spread = x.mean(), x.std().clamp_min(1e-6)
        return self

    @torch.no_grad()
    def measure(self, x: Tensor) -> "_Scaled":
        """Take the size of features from training pictures: without it their unit would be an accident of training."""
        found = torch.cat([self.features(part) for part in x[:_SIZE_ROWS].split(_ROWS_AT_ONCE)])
        self.size = found.square().mean().sqrt().clamp_min(1e-6)
        return self

    def features(self, x: Tensor) -> Tensor:
        return self.network.features((x - self.mean) / self.spread) / self.size

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x - self.mean) / self.spread)


def _features(network: _Scaled, card: dict[str, Any]) -> PictureFeatures:
    accuracy, rows, classes = card.get("accuracy"), int(card.get("held_out_rows") or 0), card["classes"]
    if not classes:
        words = "64 features of a random network, never trained"
    else:
        words = f"64 features of a classifier of {card.get('label')}, {len(classes)} classes"
        words += "" if accuracy is None else f", right on {100 * accuracy:.1f} % of {rows} held-out pictures"
    return PictureFeatures(network.features, words, accuracy, rows, card, dict(network.state_dict()))


def random_features(table: Table) -> PictureFeatures:
    """Features of a network that is never trained; the seed is always 0.

    Args:
        table: Training rows, whose pixels give the scale.
    """
    x = pixels(table)
    network = _Scaled(tuple(table.event_shape), 0, 0).fit(x).measure(x).eval()
    return _features(network, {"event_shape": list(table.event_shape), "classes": [], "seed": 0})


def trained_features(table: Table, split: Split, label: str, *, seed: int = 0, steps: int = STEPS) -> PictureFeatures:
    """Features of a classifier that is trained here; the same rows, split and seed give the same.

    Args:
        table: All rows of a run, with their labels.
        split: Which of them train, choose the weights and are held out.
        label: Name of the column or side array with the class.
        seed: Of the weights and of the order of the rows.
        steps: Optimiser steps of `BATCH` pictures.
    """
    parts = {name: _held(table, getattr(split, name), seed) for name in ("train", "validation", "test")}
    classes = _classes(_labels(parts["train"], label))
    network = _Scaled(tuple(table.event_shape), len(classes), seed).fit(pixels(parts["train"]))

    def rows(part: Table) -> DataRows | None:
        x, chosen = pixels(part), _one_hot(_labels(part, label), classes)
        known = chosen.sum(1) > 0
        x, chosen = x[known], chosen[known]
        return DataRows(lambda index, _: x[index], len(x), chosen) if len(x) else None

    train, validate, held = (rows(parts[name]) for name in ("train", "validation", "test"))
    assert train is not None  # there are classes
    config = TrainingConfig(steps=steps, batch_size=BATCH, warmup_steps=50, ema_decay=0.99, seed=seed, probe_share=0.0)
    trainer = Trainer(
        network,
        CrossEntropy(),
        Batches(train, BATCH, seed),
        config,
        MemorySink(),
        validation=None if validate is None else Batches(validate, BATCH, seed + 1),
    )
    trainer.run()
    network.eval().measure(pixels(parts["train"]))
    card = {"event_shape": list(table.event_shape), "classes": classes, "label": label, "seed": seed, "steps": steps}
    if held is not None:
        card |= {"accuracy": _accuracy(network, held), "held_out_rows": held.num_rows}
    return _features(network, card)


def _held(table: Table, rows: np.ndarray, seed: int) -> Table:
    """These rows; of a set on disk no more than can be looked at together."""
    return sample_rows(take_rows(table, rows), generator_for(seed, _CLASSIFIER, 1))


def _labels(table: Table, label: str) -> np.ndarray:
    values = find_array(table, label)
    if values is None:
        raise DataError(f"there is no {label!r}", where=table.origin)
    return values


def _one_hot(values: np.ndarray, classes: Sequence[str]) -> Tensor:
    """``(rows, classes)``; a row of zeros for a class that training has not."""
    place = {name: i for i, name in enumerate(classes)}
    found = torch.zeros(len(values), len(classes))
    for row, value in enumerate(values.tolist()):
        if str(value) in place:
            found[row, place[str(value)]] = 1.0
    return found


@torch.no_grad()
def _accuracy(network: _Scaled, rows: DataRows) -> float:
    assert rows.condition is not None
    index = torch.arange(rows.num_rows)
    right = [
        network(rows.draw(part, generator_for(0, _CLASSIFIER))).argmax(1) == rows.condition[part].argmax(1)
        for part in index.split(_ROWS_AT_ONCE)
    ]
    return float(torch.cat(right).double().mean())


def own_features(name: str) -> PictureFeatures:
    """The user's own ``module:callable``, looked for in the working folder too.

    Raises:
        ConfigError: There is no such module, or nothing of this name that can be called in it.
    """
    module_name, _, attribute = name.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{name} cannot be imported ({error})",
            where="--features",
            remedy="Name MODULE:CALLABLE of a module in the working folder or an installed one.",
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise ConfigError(f"{name} cannot be called", where="--features", remedy="Name a function of pictures.")
    return PictureFeatures(found, f"features of {name}", card={"own": name})


def named_features(name: str, event_shape: Sequence[int]) -> PictureFeatures:
    """``module:callable``, or a file of kept features.

    Raises:
        ConfigError: There is no such thing, or it is of pictures of another shape.
        RunFolderError: The file is missing or damaged.
    """
    return kept_features(Path(name), event_shape) if name.lower().endswith(".safetensors") else own_features(name)


def given_features(given: Any, event_shape: Sequence[int]) -> PictureFeatures:
    """As `named_features`, or of a callable itself."""
    if callable(given):
        return PictureFeatures(given, "features of your own")
    return named_features(str(given), event_shape)


def run_features(
    table: Table, split: Split, schema: Schema, *, seed: int, folder: RunFolder | None = None
) -> PictureFeatures:
    """The features of a run, made, and kept in its folder, where they are not there yet.

    Args:
        table: All rows of the run.
        split: How they were split.
        schema: Of the run.
        seed: Of a classifier that is trained.
        folder: Where they are kept; None keeps none.
    """
    if folder is not None and folder.file(FEATURES_FILE).exists():
        return kept_features(folder.file(FEATURES_FILE), table.event_shape)
    train = _held(table, split.train, seed)
    label = label_of(train, schema) if len(split.train) >= FEWEST_ROWS else None
    found = random_features(train) if label is None else trained_features(table, split, label, seed=seed)
    if folder is not None and os.access(folder.path, os.W_OK):  # of a run that is only read they are made every time
        write_tensors(folder.destination(FEATURES_FILE), found.tensors, found.card)
    return found
