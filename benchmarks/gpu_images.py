"""Training a U-Net on pictures, on a graphics card: advect beside a plain torchcfm loop, and each switch by itself.

    python -m benchmarks.gpu_images            # on a card: torchcfm's CIFAR-10 network, batch 128
    python -m benchmarks.gpu_images --small    # the small form, which is also what a machine without a card gets

Both train the same network (`unet-torchcfm` gives torchcfm's answers with its weights) at the same batch, with Adam,
the same rate, the gradient cut at norm one and averaged weights. Told are time and pictures per second of a step, the
most memory of a step, and the share of the card's matrix-product peak: arithmetic counted by torch's flop counter,
divided by time and by what one large bfloat16 product reaches on the same card in the same run. The first contender is
measured again at the end: how far its two figures lie apart is what a difference must exceed.
"""

import argparse
import copy
import gc
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from advect.couplings import Independent
from advect.files import write_text
from advect.flows import ContinuousMap, Flow, StandardNormal, VelocityField
from advect.networks import UNet, UNetSize
from advect.networks.names import UNETS
from advect.objectives import VelocityMatching
from advect.paths import linear
from advect.training import Batches, DataRows, Trainer, TrainingConfig

SHAPE = (3, 32, 32)
RATE, EMA = 2e-4, 0.9999
SMALL = UNetSize(32, (1, 2), 1, attention=(1,), head_channels=32, dropout=0.1, scales=False, time_features=32)


@dataclass(frozen=True)
class Form:
    """How large the measurement is: network, rows per step, steps timed, steps of the curves, size of the product."""

    name: str
    size: UNetSize
    batch: int
    timed: int
    curve: int
    product: int


FULL = Form("unet-torchcfm", UNETS["unet-torchcfm"], 128, 50, 500, 8192)
REDUCED = Form("a small U-Net", SMALL, 8, 3, 20, 1024)


@dataclass(frozen=True)
class Measured:
    """What one contender took; `failed` says why where it could not be measured."""

    name: str
    seconds: float = float("nan")
    memory: float | None = None
    losses: Sequence[float] = ()
    failed: str = ""


class Curve:
    """A sink that keeps the mean training losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def progress(self, progress: Any) -> None: ...

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """The mean since the last call."""
        self.losses.append(values["train_loss"])

    def checkpoint(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, object]) -> None: ...

    def close(self) -> None: ...


@dataclass
class Contender:
    """A training of ``steps`` steps that gives its mean losses, ten in all.

    Attributes:
        name: What the table calls it.
        make: ``make(steps) -> run``; the first steps of a run may be slower.
        settings: Of advect's loop, for the record.
    """

    name: str
    make: Callable[[int], Callable[[], list[float]]]
    settings: Mapping[str, Any] = field(default_factory=dict)


def pictures(device: torch.device) -> tuple[Tensor, str]:
    """Pictures in [−1, 1], and where they are from: CIFAR-10 where `ADVECT_DATA` has it, else coloured waves."""
    path = Path(os.environ.get("ADVECT_DATA", ""), "cifar10", "cifar10_lossless_subset.npz")
    if os.environ.get("ADVECT_DATA") and path.is_file():
        found = torch.from_numpy(np.load(path)["x_train"]).permute(0, 3, 1, 2)
        return (found.float() / 127.5 - 1).contiguous().to(device), f"{len(found)} pictures of CIFAR-10"
    generator = torch.Generator().manual_seed(0)
    turns, phases = (torch.rand((4096, 3, 1, 1), generator=generator) * 6 for _ in range(2))
    rows, columns = torch.linspace(0, 1, 32).reshape(-1, 1), torch.linspace(0, 1, 32)
    return (turns * rows + phases * columns + phases).sin().to(device), "4096 coloured waves"


def ours(form: Form, data: Tensor, *, graphs: bool = False, **settings: Any) -> Callable[[int], Any]:
    """advect's loop with these settings; with ``graphs`` the network's passes are CUDA graphs."""

    def make(steps: int) -> Callable[[], list[float]]:
        network = UNet(SHAPE, size=form.size, generator=torch.Generator().manual_seed(0)).to(data.device)
        flow = Flow(StandardNormal(SHAPE), ContinuousMap(VelocityField(network), event_shape=SHAPE)).to(data.device)
        rows = DataRows(lambda index, generator: data[index.to(data.device)], len(data))
        sink = Curve()
        config = TrainingConfig(
            steps=steps,
            batch_size=form.batch,
            learning_rate=RATE,
            warmup_steps=0,
            decay="constant",
            weight_decay=0.0,
            betas=(0.9, 0.999),
            ema_decay=EMA,
            validation_every=max(1, steps // 10),
            **settings,
        )
        batches = Batches(rows, form.batch, 0, source=flow.base, coupling=Independent())
        trainer = Trainer(flow, VelocityMatching(linear()), batches, config, sink, note=_complain)
        if graphs:
            flow.train()
            _graphed(network, form.batch, data.device)

        def run() -> list[float]:
            trainer.run()
            return sink.losses

        return run

    return make


def _complain(text: str) -> None:
    """A switch that could not be kept must not be measured as if it had been."""
    raise RuntimeError(text)


def _graphed(network: UNet, batch: int, device: torch.device) -> None:
    """Replace the network's passes by CUDA graphs of both directions, captured under bfloat16."""
    plain = network.forward

    class Passes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return plain(t, x)

    # Weights cast once and kept by autocast would be cast outside of the graph.
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        samples = (torch.rand(batch, device=device), torch.randn((batch, *SHAPE), device=device))
        graphed: Any = torch.cuda.make_graphed_callables(Passes().train(), samples)

    def forward(t: Tensor, x: Tensor, condition: Tensor | None = None) -> Tensor:
        ready = network.training and torch.is_grad_enabled() and len(x) == batch
        return graphed(t, x) if ready else plain(t, x, condition)

    network.forward = forward


def torchcfm_loop(form: Form, data: Tensor) -> Callable[[int], Any]:
    """A plain loop of torchcfm's example: its matcher, its network, Adam, the gradient cut, averaged weights."""
    import torchcfm
    from torchcfm.models.unet.unet import UNetModelWrapper

    size = form.size

    def make(steps: int) -> Callable[[], list[float]]:
        torch.manual_seed(0)
        model = UNetModelWrapper(
            dim=SHAPE,
            num_channels=size.channels,
            num_res_blocks=size.blocks,
            channel_mult=list(size.multipliers),
            num_head_channels=size.head_channels,
            attention_resolutions=",".join(str(32 // 2**level) for level in size.attention),
            dropout=size.dropout,
        ).to(data.device)
        average = copy.deepcopy(model)
        matcher = torchcfm.ConditionalFlowMatcher(sigma=0.0)
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE)

        def run() -> list[float]:
            losses = []
            for _ in range(steps):
                optimizer.zero_grad()
                x1 = data[torch.randint(len(data), (form.batch,), device=data.device)]
                t, xt, ut = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
                loss = torch.mean((model(t, xt) - ut) ** 2)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                with torch.no_grad():
                    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                        kept.mul_(EMA).add_(new, alpha=1 - EMA)
                losses.append(loss.detach())
            return [float(part.mean()) for part in torch.stack(losses).tensor_split(min(10, steps))]

        return run

    return make


def contenders(form: Form, data: Tensor, *, compiled: bool) -> list[Contender]:
    """torchcfm, advect in the same arithmetic, and each switch by itself on top of bfloat16."""
    card = data.device.type == "cuda"
    half = {"precision": "bfloat16"}
    rows: list[tuple[str, dict[str, Any]]] = [
        ("advect", {}),
        ("advect, bfloat16", half),
        ("advect, bfloat16, channels last", half | {"channels_last": True}),
        ("advect, bfloat16, checkpoint", half | {"checkpoint": True}),
    ]
    if compiled:
        rows.append(("advect, bfloat16, compile", half | {"compile": True}))
        rows.append(("advect, bfloat16, channels last, compile", half | {"channels_last": True, "compile": True}))
    found = [Contender("torchcfm", torchcfm_loop(form, data))]
    found += [Contender(name, ours(form, data, **settings), settings) for name, settings in rows]
    if card:
        found.append(Contender("advect, bfloat16, CUDA graphs", ours(form, data, graphs=True, **half), half))
    return found


def waited(device: torch.device) -> float:
    """The time, once everything asked of the device is done; without a card the processor's, for busy machines."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(contender: Contender, form: Form, device: torch.device, *, curve: bool) -> Measured:
    """Time of a step from two runs of different lengths, so that set-up drops out; memory of the longer one."""
    cuda = device.type == "cuda"
    try:
        run = contender.make(2)
        run()  # kernels chosen, networks compiled
        seconds = []
        for steps in (2, 2 + form.timed):
            run = contender.make(steps)
            gc.collect()
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
            started = waited(device)
            run()
            seconds.append(waited(device) - started)
        memory = torch.cuda.max_memory_allocated(device) / 2**30 if cuda else None
        losses = contender.make(form.curve)() if curve else []
    except (RuntimeError, ImportError) as error:
        reason = str(error).strip().splitlines()
        return Measured(contender.name, failed=reason[0][:120] if reason else type(error).__name__)
    return Measured(contender.name, (seconds[1] - seconds[0]) / form.timed, memory, losses[:10])


def peak(form: Form, device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of one large matrix product: the best of five."""
    a, b = (torch.randn((form.product, form.product), device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        started = waited(device)
        a @ b
        best = min(best, waited(device) - started)
    return 2 * form.product**3 / best


def step_operations(form: Form) -> int:
    """Floating-point operations of the network's two passes over one batch, multiplications and additions apart."""
    network = UNet(SHAPE, size=form.size)
    with FlopCounterMode(display=False) as counter:
        network(torch.rand(1), torch.randn(1, *SHAPE)).sum().backward()
    return counter.get_total_flops() * form.batch


def table(
    form: Form, measured: Sequence[Measured], operations: int, top: Mapping[str, float], told: Sequence[str]
) -> str:
    """The record as Markdown."""
    base = next((one.seconds for one in measured if one.name == "torchcfm"), float("nan"))
    lines = ["# A training step on pictures", "", *told, ""]
    lines += [f"Peak of a product: {', '.join(f'{name} {value / 1e12:.3g} TFLOP/s' for name, value in top.items())}."]
    lines += [f"A step on {form.batch} pictures: {operations / 1e12:.3g} TFLOP in the network.", ""]
    lines += ["| loop | ms a step | pictures/s | torchcfm = 1 | of the bfloat16 peak | memory |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for one in measured:
        if one.failed:
            lines.append(f"| {one.name} | not measured: {one.failed} | | | | |")
            continue
        share = operations / one.seconds / top["bfloat16"]
        memory = "–" if one.memory is None else f"{one.memory:.2f} GiB"
        lines.append(
            f"| {one.name} | {1000 * one.seconds:.4g} | {form.batch / one.seconds:.4g} | {base / one.seconds:.2f} | "
            f"{share:.1%} | {memory} |"
        )
    curves = [one for one in measured if len(one.losses)]
    if curves:
        count = min(len(one.losses) for one in curves)
        lines += ["", f"Mean training loss by tenths of {form.curve} steps (different draws, the same law):", ""]
        lines += [f"| tenth | {' | '.join(one.name for one in curves)} |", f"| --- |{' --- |' * len(curves)}"]
        lines += [f"| {i + 1} | {' | '.join(f'{one.losses[i]:.4f}' for one in curves)} |" for i in range(count)]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_images", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--small", action="store_true", help="the small form, on a card too")
    parser.add_argument("--compile", action="store_true", help="compile on a processor too, which takes minutes")
    parser.add_argument("--batch", type=int, help="pictures per step")
    parser.add_argument("--out", type=Path, help="a file for the table")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    card = device.type == "cuda"
    form = REDUCED if options.small or not card else FULL
    form = Form(**{**vars(form), "batch": options.batch or form.batch})
    machine = torch.cuda.get_device_name(device) if card else f"{platform.machine()}, {torch.get_num_threads()} threads"
    if not card:
        print("There is no NVIDIA card here: this is the small form, on the processor.", flush=True)
    data, source = pictures(device)
    told = [f"{machine}; torch {torch.__version__}; {form.name}, 3 × 32 × 32, {source}, batch {form.batch}."]
    if not card:
        told.append("No NVIDIA card: the small form, in seconds of the processor. It says little about a card.")
    top = {str(kind).removeprefix("torch."): peak(form, device, kind) for kind in (torch.float32, torch.bfloat16)}
    operations = step_operations(form)
    queue = contenders(form, data, compiled=card or options.compile)
    measured = []
    for contender in queue:
        curve = contender.name in ("torchcfm", "advect", "advect, bfloat16")
        measured.append(measure(contender, form, device, curve=curve))
        print(f"{contender.name}: {measured[-1].failed or f'{1000 * measured[-1].seconds:.4g} ms a step'}", flush=True)
    again = measure(queue[0], form, device, curve=False)
    measured.append(Measured("torchcfm, again", again.seconds, again.memory, failed=again.failed))
    text = table(form, measured, operations, top, told)
    print(text)
    if options.out is not None:
        write_text(options.out, text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
