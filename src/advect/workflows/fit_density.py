"""Learning a density that can be evaluated but not sampled: `fit` without rows.

The same rows of the table, the same loop, another objective: reverse KL, E_q[log q(x) − log p̃(x)], over draws of the
flow itself. Afterwards the draws' importance weights say how well it went: log Z with its error, and how many
independent draws the flow's draws are worth.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from advect.data import Codec
from advect.data.levels import ColumnCode
from advect.errors import ConfigError, TrainingError
from advect.evaluation import importance_diagnostics, importance_draws
from advect.flows import Flow
from advect.methods import Blueprint, build, full_flow, get_method, resolve_blueprint
from advect.objectives import ReverseKL
from advect.progress import Progress
from advect.records import Column, Schema
from advect.run import Artefact, MemorySink, values
from advect.run.card import Sections, Setting
from advect.training import Batches, DataRows, Trainer, TrainingConfig, generator_for
from advect.transforms import Precision, empty_preprocess
from advect.workflows.evaluate import finite
from advect.workflows.request import choose_device, training_config
from advect.workflows.settings import environment_settings, model_settings, solver_settings, training_settings
from advect.workflows.streams import EVALUATE

DEFAULT_METHOD = "nsf"
WEIGHED_DRAWS = 4096
_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class DensityRequest:
    """A training against an unnormalised log-density.

    Attributes:
        target: ``target(x) -> (batch,)``: log p̃ in nats at rows ``(batch, *event)``, differentiable by torch.
        event_shape: Shape of one row.
        method: Row of the table; one that is trained by its density.
        steps: Optimiser steps.
        batch_size: Draws per step.
        network: Name of the network.
        seed: Of every draw.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        options: Settings of the method's own.
        training: Settings of the loop.
        settings: Settings of the model.
    """

    target: Any
    event_shape: tuple[int, ...]
    method: str = DEFAULT_METHOD
    steps: int | None = None
    batch_size: int | None = None
    network: str = "auto"
    seed: int = 0
    device: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not callable(self.target):
            raise ConfigError(
                f"the target is a {type(self.target).__name__}, not a function of rows",
                where="target",
                remedy="Give a function that takes rows (batch, *event) and returns their log-density (batch,).",
            )
        if not self.event_shape or any(size < 1 for size in self.event_shape):
            raise ConfigError(
                f"the event shape is {self.event_shape}", where="event_shape", remedy="Give sizes such as (2,)."
            )
        if not get_method(self.method).recipe.has_tractable_density:
            raise ConfigError(
                f"{self.method} learns from rows, and there are none",
                where="method",
                remedy="Use a method that is trained by its likelihood, such as nsf, realnvp, iaf or cnf.",
            )


def fit_density(request: DensityRequest, *, progress: Callable[[Progress], None] | None = None) -> Artefact:
    """Train a flow against the target, in memory.

    The artefact's ``evaluation["target"]`` holds `importance_diagnostics` of fresh draws.

    Raises:
        AdvectError: Settings that must be mended, a target that is not a log-density, a training that diverged.
    """
    device = choose_device(request.device)
    blueprint = resolve_blueprint(
        request.method,
        request.options,
        event_shape=(math.prod(request.event_shape),),
        network=request.network,
        settings=request.settings,
    )
    training = training_config(
        request.method, request.training, steps=request.steps, batch_size=request.batch_size, seed=request.seed
    )
    built = build(blueprint, seed=request.seed)
    core = built.core.to(device)
    sink = MemorySink(progress or (lambda line: None))
    target = _flat_target(request)
    trainer = Trainer(
        core,
        ReverseKL(target),
        _batches(request, training, device, training.seed),
        training,
        sink,
        validation=_batches(request, training, device, training.seed + 1),
    )
    outcome = trainer.run()
    core.to("cpu").eval()
    evaluation = {"target": _weighed(core, target, request.seed)}
    codec = _codec(request.event_shape)
    outer = empty_preprocess(codec.coordinates, codec.event_shape).double()
    return Artefact(
        flow=full_flow(core, outer, Precision(codec.event_shape)).eval(),
        schema=codec.schema,
        codec=codec,
        condition=None,
        config=_config(request, blueprint, training, device)
        | {"outcome": {"step": outcome.step, "seconds": round(outcome.seconds, 3), "best_step": outcome.best_step}},
        history=tuple(sink.history),
        evaluation=finite(evaluation),
    )


def _batches(request: DensityRequest, training: TrainingConfig, device: torch.device, seed: int) -> Batches:
    """Batches that say how many draws to make; there are no rows."""
    row = torch.zeros(1, math.prod(request.event_shape), device=device)
    rows = DataRows(draw=lambda index, generator: row.expand(len(index), -1), num_rows=training.batch_size)
    return Batches(rows, training.batch_size, seed)


def _flat_target(request: DensityRequest) -> Callable[[Tensor], Tensor]:
    """The target on rows ``(batch, numbers)``, as the coordinates of every array are."""
    return lambda x: request.target(x.reshape(len(x), *request.event_shape))


@torch.no_grad()
def _weighed(core: Flow, target: Callable[[Tensor], Tensor], seed: int) -> dict[str, Any]:
    """What the importance weights of fresh draws say about the fit."""
    generator = generator_for(seed, EVALUATE)
    _, log_weights = importance_draws(core, target, WEIGHED_DRAWS, generator=generator)
    found = importance_diagnostics(log_weights.cpu())
    if found.log_normaliser == -math.inf:
        raise TrainingError(
            "no draw of the trained flow lies where the target has any density",
            where="target",
            remedy="Check the target's support, or let the flow start nearer to it.",
        )
    return asdict(found)


def _codec(event_shape: tuple[int, ...]) -> Codec:
    """Coordinates are the rows themselves: continuous, unbounded, unscaled."""
    count = math.prod(event_shape)
    columns = tuple(Column(f"x{i}", "continuous", "float32", minimum=-_LARGEST, maximum=_LARGEST) for i in range(count))
    schema = Schema(columns=columns, container="torch", event_shape=event_shape)
    return Codec(schema, tuple(ColumnCode("real", "standardise") for _ in columns))


def _config(
    request: DensityRequest, blueprint: Blueprint, training: TrainingConfig, device: torch.device
) -> dict[str, Any]:
    """The resolved settings, nested as in ``config.toml``."""
    count = math.prod(request.event_shape)
    sections: Sections = {
        "": {"method": Setting(request.method), "seed": Setting(request.seed)},
        "data": {name: Setting(v) for name, v in (("origin", "target"), ("rows", 0), ("columns", count))},
        "options": {name: Setting(value) for name, value in blueprint.options.items()},
        "model": model_settings(blueprint),
        "training": training_settings(training),
        **solver_settings(blueprint),
        "environment": environment_settings(device),
    }
    return values(sections)
