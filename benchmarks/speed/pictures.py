"""B4: a training step on pictures, networks of one function.

torchcfm's U-Net as in its MNIST example, 28 × 28, 32 channels, multipliers 1, 2, 2, one block per level and attention
over all 784 pixels; advect's U-Net with the same sizes, one head, as many sines of the time, and the embedding added
before the second norm of a block, as torchcfm has it: the same function layer by layer (`tests/networks/test_unet.py`
brings the weights of one into the other), up to the frequencies of those sines, with as many parameters.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from itertools import count
from typing import Any

import torch

from advect.couplings import Independent
from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.networks.unet import UNet, UNetSize
from advect.objectives import VelocityMatching
from advect.paths import linear
from advect.training import Batches, DataRows, Trainer, TrainingConfig
from benchmarks.speed.harness import Contender, Goal, task
from benchmarks.speed.rows import Row
from benchmarks.speed.training import ENDLESS, Silence

SHAPE, BATCH = (1, 28, 28), 32
SIZE = UNetSize(32, (1, 2, 2), 1, attention=(0,), head_channels=64, scales=False, time_features=32)


def pictures() -> torch.Tensor:
    """Noise in the place of digits: time does not depend on what is seen."""
    return torch.rand((256, *SHAPE), generator=torch.Generator().manual_seed(0)) * 2 - 1


def our_step(**settings: Any) -> tuple[Any, int]:
    """One step of advect's loop, and the parameters of its network."""
    network = UNet(SHAPE, size=SIZE, generator=torch.Generator().manual_seed(0))
    flow = Flow(StandardNormal(SHAPE), ContinuousMap(VelocityField(network), event_shape=SHAPE))
    data = pictures()
    batches = Batches(
        DataRows(lambda index, generator: data[index], len(data)), BATCH, 0, source=flow.base, coupling=Independent()
    )
    config = TrainingConfig(steps=ENDLESS, batch_size=BATCH, validation_every=ENDLESS, **settings)
    trainer = Trainer(flow, VelocityMatching(linear()), batches, config, Silence())

    def run() -> None:
        steps = count()
        trainer.run(stop=lambda: next(steps) == 1)

    return run, sum(p.numel() for p in network.parameters())


def torchcfm_step(*, autocast: bool = False) -> tuple[Any, int]:
    """One step of torchcfm's example, and the parameters of its network."""
    import torchcfm
    from torchcfm.models.unet import UNetModel

    torch.manual_seed(0)
    model = UNetModel(dim=SHAPE, num_channels=32, num_res_blocks=1)
    matcher, data = torchcfm.ConditionalFlowMatcher(sigma=0.0), pictures()
    optimizer = torch.optim.Adam(model.parameters())

    def run() -> None:
        optimizer.zero_grad()
        x1 = data[torch.randint(len(data), (BATCH,))]
        t, xt, ut = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
            loss = torch.mean((model(t, xt) - ut) ** 2)
        loss.backward()
        optimizer.step()

    return run, sum(p.numel() for p in model.parameters())


def b4(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Both in float32, ours also in bfloat16."""
    torch.set_num_threads(settings["threads"])
    made = {
        "advect": our_step(),
        "advect bfloat16": our_step(precision="bfloat16"),
        "torchcfm": torchcfm_step(),
    }
    contenders = [Contender(name, run, f"{size:,} parameters") for name, (run, size) in made.items()]
    goals = [Goal("advect", ("torchcfm",), 1.7, 3.0), Goal("advect bfloat16", ("torchcfm",), 2.2, 3.0)]
    block = task(
        f"a step of I-CFM on 28 × 28 pictures, batch {BATCH}",
        contenders,
        goals,
        rounds=3 if settings["quick"] else 7,
        clock=settings["clock"],
    )
    return {"tasks": [block]}


ROWS = (Row("B4", "a step on pictures", f"{__name__}:b4"),)
