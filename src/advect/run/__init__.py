"""The run folder: configuration, weights, history and checkpoints on disk. It implements `Sink` and builds nothing.

Tensors are safetensors with a JSON card, settings are TOML, figures are JSON: nothing that is read can run.
"""

from advect.run.artefact import Artefact, read_card, write_artefact
from advect.run.card import Setting, differences, read_config, render, values
from advect.run.folder import CHECKPOINT, CONFIG, EVALUATION, LAST_SET, METRICS, MODEL, REPORT, RunFolder
from advect.run.sets import SetWriter, remove_sets
from advect.run.sink import FolderSink, MemorySink, has_checkpoint, read_checkpoint, read_history
from advect.run.standing import Standing, standing_of
from advect.run.tensors import load_weights, read_tensors, write_tensors

__all__ = [
    "CHECKPOINT",
    "CONFIG",
    "EVALUATION",
    "LAST_SET",
    "METRICS",
    "MODEL",
    "REPORT",
    "Artefact",
    "FolderSink",
    "MemorySink",
    "RunFolder",
    "SetWriter",
    "Setting",
    "Standing",
    "differences",
    "has_checkpoint",
    "load_weights",
    "read_card",
    "read_checkpoint",
    "read_config",
    "read_history",
    "read_tensors",
    "remove_sets",
    "render",
    "standing_of",
    "values",
    "write_artefact",
    "write_tensors",
]
