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
from benchmarks.speed.harness import Contender, Goal, growth, task
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
    features: int,
    depth: int,
    width: int,
    *,
    paired: bool = False,
    batch: int = BATCH,
    steps: int = STEPS,
    **settings: Any,
) -> Callable[[], None]:
    """``steps`` steps of advect's loop."""
    network = MLP((features,), depth=depth, width=width, generator=torch.Generator().manual_seed(0))
    flow = Flow(StandardNormal((features,)), ContinuousMap(VelocityField(network), event_shape=(features,)))
    data = points(features)
    rows = DataRows(lambda index, generator: data[index], len(data))
    batches = Batches(rows, batch, 0, source=flow.base, coupling=Assignment() if paired else Independent())
    config = TrainingConfig(steps=ENDLESS, batch_size=batch, validation_every=ENDLESS, **settings)
    trainer = Trainer(flow, VelocityMatching(linear(0.1)), batches, config, Silence())

    def run() -> None:
        done = count()
        trainer.run(stop=lambda: next(done) == steps)

    return run


def torchcfm_loop(
    features: int, depth: int, width: int, kind: str = "ConditionalFlowMatcher", *, batch: int = BATCH, **how: Any
) -> Callable[[], None]:
    """``steps`` steps of torchcfm's notebook; ``fused`` and ``autocast`` are what its users may add."""
    import torchcfm

    torch.manual_seed(0)
    matcher, data = getattr(torchcfm, kind)(sigma=0.1), points(features)
    layers: list[nn.Module] = [nn.Linear(features + 1, width)]
    for _ in range(depth - 1):
        layers += [nn.SELU(), nn.Linear(width, width)]
    model = nn.Sequential(*layers, nn.SELU(), nn.Linear(width, features))
    optimizer = torch.optim.Adam(model.parameters(), fused=how.get("fused"))

    def run() -> None:
        for _ in range(how.get("steps", STEPS)):
            optimizer.zero_grad()
            x0, x1 = torch.randn(batch, features), data[torch.randint(len(data), (batch,))]
            t, xt, ut = matcher.sample_location_and_conditional_flow(x0, x1)
            with torch.autocast("cpu", torch.bfloat16, enabled=how.get("autocast", False)):
                vt = model(torch.cat([xt, t[:, None]], dim=-1))
                loss = torch.mean((vt - ut) ** 2)
            loss.backward()
            optimizer.step()

    return run


def loops(
    settings: Mapping[str, Any],
    title: str,
    contenders: list[Contender],
    *goals: Goal,
    steps: int = STEPS,
) -> dict[str, Any]:
    """One block of contenders that each take ``steps`` steps."""
    rounds = 5 if settings["quick"] else 9
    return task(f"{steps} steps of {title}", contenders, goals, rounds=rounds, clock=settings["clock"])


def b1(settings: Mapping[str, Any]) -> dict[str, Any]:
    """I-CFM, the small network of the plane: next to no arithmetic, so the loop itself."""
    torch.set_num_threads(settings["threads"])
    contenders = [
        Contender("advect", our_loop(2, 3, 64), "as it is"),
        Contender("torchcfm", torchcfm_loop(2, 3, 64), "its notebook"),
        Contender("torchcfm fused", torchcfm_loop(2, 3, 64, fused=True), "with Adam(fused=True)"),
    ]
    # The marks of an eager step; those of a compiled one are 3 and 6.
    goal = Goal("advect", ("torchcfm",), 1.5, 3.0, label="advect, eager, against torchcfm")
    block = loops(settings, f"I-CFM, 2-D, 3×64, batch {BATCH}", contenders, goal)
    figures: dict[str, Any] = {"tasks": [block]}
    if not settings["quick"]:

        def at_batch(batch: int) -> list[Contender]:
            ours, theirs = our_loop(2, 3, 64, batch=batch), torchcfm_loop(2, 3, 64, batch=batch)
            return [Contender("advect", ours), Contender("torchcfm", theirs)]

        def at_depth(depth: int) -> list[Contender]:
            return [Contender("advect", our_loop(2, depth, 64)), Contender("torchcfm", torchcfm_loop(2, depth, 64))]

        figures["growth"] = [
            growth(f"the batch ({STEPS} steps)", (64, 256, 1024), at_batch, clock=settings["clock"]),
            growth(f"the depth ({STEPS} steps)", (1, 3, 6), at_depth, clock=settings["clock"]),
        ]
    return figures


def b2(settings: Mapping[str, Any]) -> dict[str, Any]:
    """OT-CFM: the same with an exact coupling of each batch."""
    torch.set_num_threads(settings["threads"])
    blocks = []
    for width, marks in ((64, (4.0, 8.0)), (256, (2.5, 4.0))):
        contenders = [
            Contender("advect", our_loop(2, 3, width, paired=True), "exact assignment of each batch"),
            Contender("torchcfm", torchcfm_loop(2, 3, width, OPTIMAL), "its notebook"),
        ]
        title = f"OT-CFM, 2-D, 3×{width}, batch {BATCH}"
        blocks.append(loops(settings, title, contenders, Goal("advect", ("torchcfm",), *marks)))
    return {"tasks": blocks}


def b3(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A wide network in bfloat16."""
    torch.set_num_threads(settings["threads"])
    contenders = [
        Contender("advect", our_loop(43, 5, 512, precision="bfloat16", steps=5), "precision=bfloat16"),
        Contender("advect float32", our_loop(43, 5, 512, steps=5), "as it is"),
        Contender("torchcfm", torchcfm_loop(43, 5, 512, steps=5), "its notebook"),
        Contender(
            "torchcfm autocast", torchcfm_loop(43, 5, 512, autocast=True, steps=5), "the loss under bfloat16 autocast"
        ),
    ]
    goals = (Goal("advect", ("torchcfm",), 2.5, 4.0), Goal("advect", ("torchcfm autocast",), 1.5, 2.2))
    return {"tasks": [loops(settings, f"I-CFM, 43-D, 5×512, batch {BATCH}", contenders, *goals, steps=5)]}


def a5(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What pairing costs where it is done on another thread, by the wall's clock: that is what waits."""
    torch.set_num_threads(1)
    contenders = [
        Contender("advect OT-CFM", our_loop(2, 3, 256, paired=True), "as it is, paired beside the loop"),
        Contender("advect OT-CFM pooled", our_loop(2, 3, 256, paired=True, pool=2), "pool=2, two batches together"),
        Contender("advect I-CFM", our_loop(2, 3, 256), "as it is"),
    ]
    goal = Goal("advect OT-CFM", ("advect I-CFM",), 1.15, 1.05, at_most=True, label="OT-CFM step over I-CFM step")
    wall = {**settings, "clock": "wall"}
    return {"tasks": [loops(wall, f"2-D, 3×256, batch {BATCH}, one thread for the loop", contenders, goal)]}


OPTIMAL = "ExactOptimalTransportConditionalFlowMatcher"

ROWS = (
    Row("A5", "a step with a pairing prepared beside the loop", f"{__name__}:a5"),
    Row("B1", "a step of flow matching, small network", f"{__name__}:b1"),
    Row("B2", "a step of OT-CFM", f"{__name__}:b2"),
    Row("B3", "a step in bfloat16, wide network", f"{__name__}:b3"),
)
