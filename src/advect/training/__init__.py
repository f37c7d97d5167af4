"""The one loop and what it needs: batches that depend on the step alone, averaged weights, exact resume.

Nothing here knows a method's name, a file format or a screen: batches and objectives come in, progress and
checkpoints leave through a `Sink`.
"""

from advect.training.average import WeightAverage
from advect.training.batches import Batches, BatchSource, DataRows, Drawing, Epochs, Fetching
from advect.training.chains import ChainBatches
from advect.training.config import TrainingConfig
from advect.training.half_lives import AveragedLoss, average_words, check_averages, lowest_losses
from advect.training.loop import Trainer
from advect.training.outcome import Outcome
from advect.training.pool import Pool
from advect.training.probes import Probe, Probes
from advect.training.schedule import learning_rate
from advect.training.seeding import generator_for, mix
from advect.training.snapshots import SnapshotBatches, Snapshots
from advect.training.state import TrainingState
from advect.training.switches import check_switches
from advect.training.taught import TaughtBatches, TaughtRows
from advect.training.workers import ALONE, LostWorkerError, Workers, first_to_speak, joined, launched

__all__ = [
    "ALONE",
    "AveragedLoss",
    "BatchSource",
    "Batches",
    "ChainBatches",
    "DataRows",
    "Drawing",
    "Epochs",
    "Fetching",
    "LostWorkerError",
    "Outcome",
    "Pool",
    "Probe",
    "Probes",
    "SnapshotBatches",
    "Snapshots",
    "TaughtBatches",
    "TaughtRows",
    "Trainer",
    "TrainingConfig",
    "TrainingState",
    "WeightAverage",
    "Workers",
    "average_words",
    "check_averages",
    "check_switches",
    "first_to_speak",
    "generator_for",
    "joined",
    "launched",
    "learning_rate",
    "lowest_losses",
    "mix",
]
