"""Small trainable things whose every number is known, for the tests of the loop."""

import torch
from torch import Tensor, nn

from advect.couplings import Assignment
from advect.flows import StandardNormal
from advect.objectives import VelocityMatching
from advect.paths import AffinePath, Linear
from advect.records import Batch
from advect.training import Batches, DataRows, Trainer, TrainingConfig


class Recorder:
    """A sink that keeps copies of everything it is sent."""

    def __init__(self):
        self.lines, self.history, self.checkpoints = [], [], []

    def progress(self, progress):
        self.lines.append(progress)

    def metrics(self, step, values):
        self.history.append({"step": step, **values})

    def checkpoint(self, tensors, state):
        self.checkpoints.append(({k: v.detach().clone() for k, v in tensors.items()}, dict(state)))

    def close(self):
        pass


class SmallField(nn.Module):
    """A velocity with hidden units, and dropout if asked for."""

    def __init__(self, width: int = 16, dropout: float = 0.0, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(width, 2))

    def velocity(self, t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.layers(torch.cat([x, t.reshape(-1, 1)], 1))


class Number(nn.Module):
    """One weight."""

    def __init__(self, start: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(start))


def rows_of(values: Tensor, **more) -> DataRows:
    """Rows that are what they are."""
    return DataRows(draw=lambda index, generator: values[index], num_rows=len(values), **more)


def cloud(num_rows: int = 100, seed: int = 0) -> Tensor:
    """Two clusters in the plane."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.where(torch.rand(num_rows, 1, generator=generator) < 0.5, -1.0, 1.0)
    return centre + 0.3 * torch.randn(num_rows, 2, generator=generator)


def matching_trainer(
    *, steps: int = 60, field: nn.Module | None = None, sink: Recorder | None = None, data: Tensor | None = None, **more
) -> Trainer:
    """OT-CFM on the cloud: 10 validations' worth of everything the loop does."""
    data = cloud() if data is None else data
    config = TrainingConfig(**{"steps": steps, "batch_size": 16, "learning_rate": 0.01, "validation_every": 7, **more})
    base = StandardNormal((2,))
    return Trainer(
        SmallField() if field is None else field,
        VelocityMatching(AffinePath(Linear())),
        Batches(rows_of(data), config.batch_size, config.seed, base, Assignment()),
        config,
        Recorder() if sink is None else sink,
        validation=Batches(rows_of(cloud(40, seed=1)), config.batch_size, config.seed + 1, base, Assignment()),
    )


def number_trainer(objective, data: Tensor, sink=None, *, module=None, validation=None, weight=None, **more) -> Trainer:
    """Trains one weight on an objective of the test's own, which sees the rows as they are."""
    config = TrainingConfig(**{"steps": 10, "batch_size": len(data), "weight_decay": 0.0, **more})
    return Trainer(
        Number() if module is None else module,
        objective,
        Batches(rows_of(data, weight=weight), config.batch_size, config.seed),
        config,
        Recorder() if sink is None else sink,
        validation=None if validation is None else Batches(rows_of(validation), len(validation), 1),
    )


def squares(flow: Number, batch: Batch, *, generator: torch.Generator | None = None) -> Tensor:
    """Loss per row: the squared distance between the weight and the row."""
    return (flow.weight - batch.x1).square()


def same(left: dict, right: dict) -> bool:
    """Whether two dictionaries of tensors are equal to the last bit, NaN equal to NaN."""
    return left.keys() == right.keys() and all(
        torch.equal(torch.nan_to_num(left[k], nan=123.0), torch.nan_to_num(right[k], nan=123.0)) for k in left
    )
