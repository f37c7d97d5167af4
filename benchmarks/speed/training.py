"""B1 to B4 and A5: a training step with everything it needs, beside torchcfm's loop.

A call is a number of whole steps: rows, noise, times, pairing, loss, gradients, optimiser. advect's are those of its
`Trainer`, with what that does besides: gradient clipping, averaged weights, the rate of the step, the running loss.
torchcfm's are those of its notebooks: its matcher, the mean squared error, torch's Adam.
"""

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from advect.couplings import Assignment, Independent
from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.networks import MLP
from advect.objectives import VelocityMatching
from advect.paths import linear
from advect.training import Batches, DataRows, Trainer, TrainingConfig
from benchmarks.speed.harness import Contender, Goal, task
from benchmarks.speed.rows import Row

STEPS = 50
"""Steps of one call."""
ENDLESS = 10**7
BATCH = 256


class Silence:
    """A sink that keeps nothing."""

    def progress(self, progress: Any) -> None: ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def checkpoint(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, object]) -> None: ...

    def close(self) -> None: ...


def points(features: int, rows: int = 20_000) -> Tensor:
    """Eight Gaussians in the plane; in more dimensions a Gaussian mixture of eight at random places."""
    generator = torch.Generator().manual_seed(0)
    angles = torch.arange(8) * (torch.pi / 4)
    centres = torch.stack([angles.cos(), angles.sin()], 1) * 1.4
    if features != 2:
        centres = torch.randn((8, features), generator=generator)
    chosen = torch.randint(8, (rows,), generator=generator)
    return centres[chosen] + 0.1 * torch.randn((rows, features), generator=generator)


def our_loop(
    features: int, depth: int, width: int, *, paired: bool = False, batch: int = BATCH, **settings: Any
) -> Callable[[], None]:
    """`STEPS` steps of advect's loop."""
    network = MLP((features,), depth=depth, width=width, generator=torch.Generator().manual_seed(0))
    flow = Flow(StandardNormal((features,)), ContinuousMap(VelocityField(network), event_shape=(features,)))
    data = points(features)
    rows = DataRows(lambda index, generator: data[index], len(data))
    batches = Batches(rows, batch, 0, source=flow.base, coupling=Assignment() if paired else Independent())
    config = TrainingConfig(steps=ENDLESS, batch_size=batch, validation_every=ENDLESS, **settings)
    trainer = Trainer(flow, VelocityMatching(linear(0.1)), batches, config, Silence())

    def run() -> None:
        steps = count()
        trainer.run(stop=lambda: next(steps) == STEPS)

    return run


def torchcfm_loop(
    features: int, depth: int, width: int, kind: str = "ConditionalFlowMatcher", *, batch: int = BATCH, **how: Any
) -> Callable[[], None]:
    """`STEPS` steps of torchcfm's notebook; ``fused`` and ``autocast`` are what its users may add."""
    import torchcfm

    torch.manual_seed(0)
    matcher, data = getattr(torchcfm, kind)(sigma=0.1), points(features)
    layers: list[nn.Module] = [nn.Linear(features + 1, width)]
    for _ in range(depth - 1):
        layers += [nn.SELU(), nn.Linear(width, width)]
    model = nn.Sequential(*layers, nn.SELU(), nn.Linear(width, features))
    optimizer = torch.optim.Adam(model.parameters(), fused=how.get("fused"))

    def run() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            x0, x1 = torch.randn(batch, features), data[torch.randint(len(data), (batch,))]
            t, xt, ut = matcher.sample_location_and_conditional_flow(x0, x1)
            with torch.autocast("cpu", torch.bfloat16, enabled=how.get("autocast", False)):
                vt = model(torch.cat([xt, t[:, None]], dim=-1))
                loss = torch.mean((vt - ut) ** 2)
            loss.backward()
            optimizer.step()

    return run


def b1(settings: Mapping[str, Any]) -> dict[str, Any]:
    """I-CFM, the small network of the plane: next to no arithmetic, so the loop itself."""
    torch.set_num_threads(settings["threads"])
    contenders = [
        Contender("advect", our_loop(2, 3, 64), "as it is"),
        Contender("torchcfm", torchcfm_loop(2, 3, 64), "its notebook"),
        Contender("torchcfm fused", torchcfm_loop(2, 3, 64, fused=True), "with Adam(fused=True)"),
    ]
    block = task(
        f"{STEPS} steps of I-CFM, 2-D, 3×64, batch {BATCH}",
        contenders,
        [Goal("advect", ("torchcfm",), 3.0, 6.0)],
        rounds=7 if settings["quick"] else 15,
        clock=settings["clock"],
    )
    return {"tasks": [block]}


ROWS = (Row("B1", "a step of flow matching, small network", f"{__name__}:b1"),)
