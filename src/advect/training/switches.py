"""Switches of a training's arithmetic: the networks of a flow are changed from outside, and put back afterwards.

No network, path or objective knows of them. What is computed is the same up to rounding (with dropout, `compile` draws
other masks); weights keep their names, so a run opens with any of them on or off.

- ``channels_last``: weights of convolutions lie pixel by pixel in memory, which many kernels are written for.
- ``compile``: `torch.compile` of every network as a training step calls it. Where that fails, for want of a C++
  compiler perhaps, the training goes on without it and says so.
- ``checkpoint``: of every block of a network only its input is kept; the rest is computed again on the way back (Chen
  et al. 2016, arXiv 1604.06174). Memory is that of one block and the inputs, a step takes about a third longer.

Where weights are spread over processes (`sharding`), torch gathers those of a block before its ``forward`` and before
its way back, and these switches act on the ``forward`` in between: a block is recomputed while its weights are there,
and blocks are compiled one by one, since a graph cannot reach across a gathering. What is gathered lies in its plain
order, so ``channels_last`` lays out what convolutions are given in place of their weights; the kernels are the same.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from torch.utils.checkpoint import checkpoint

from advect.errors import ConfigError
from advect.networks import TimedNetwork
from advect.training.average import WeightAverage
from advect.training.config import TrainingConfig
from advect.typing import DrawingObjective, Objective

_NAMES = ("network", "score_network")
"""What fields call the modules that they ask."""

_GRAPHS = 8  # torch's own limit, for one module: other shapes, with and without a condition


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager:
    """The arithmetic of the training loss."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))


def networks_of(flow: nn.Module) -> list[nn.Module]:
    """The outermost networks of a flow: what a field calls its network, and every `TimedNetwork`."""
    found: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        for name, child in module.named_children():
            if name in _NAMES or isinstance(child, TimedNetwork):
                found.append(child)
            else:
                look(child)

    look(flow)
    return found


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The blocks of a network: the members of its lists of modules that are made of modules themselves."""
    found: list[nn.Module] = []

    def look(module: nn.Module, *, listed: bool) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                look(child, listed=True)
            elif listed and any(True for _ in child.children()):
                found.append(child)
            else:
                look(child, listed=False)

    look(network, listed=False)
    return found


def check_switches(flow: nn.Module, objective: Objective, config: TrainingConfig) -> None:
    """Refuse a switch that this flow has no use for.

    Raises:
        ConfigError: `compile` without a network that a step calls as a whole, `checkpoint` without blocks, or either
            for a loss that takes derivatives of the network by its inputs.
    """
    for name in ("compile", "checkpoint"):
        if getattr(config, name) and not isinstance(objective, DrawingObjective):
            raise ConfigError(
                f"{name} is for regressions, and this loss is none",
                where=name,
                remedy="Leave it out, or train by fm, i-cfm, ot-cfm or a diffusion.",
            )
    networks = networks_of(flow)
    if config.compile and not networks:
        raise ConfigError("there is no network to compile", where="compile", remedy="Leave it out.")
    if config.checkpoint and not any(blocks_of(network) for network in networks):
        raise ConfigError(
            "the network has no blocks whose insides could be computed again",
            where="checkpoint",
            remedy="Use it with a U-Net or a diffusion transformer, or give microbatch to save memory.",
        )


@contextmanager
def switched(
    flow: nn.Module,
    config: TrainingConfig,
    optimizer: torch.optim.Optimizer,
    averages: Sequence[WeightAverage],
    note: Callable[[str], None],
) -> Iterator[None]:
    """Inside the block the switches of the configuration are on.

    Args:
        flow: Whose networks are changed.
        config: Which switches.
        optimizer: Its state is laid out as the weights are.
        averages: Likewise.
        note: Told in a sentence where compiling failed.
    """
    networks, spread = networks_of(flow), any(isinstance(module, FSDPModule) for module in flow.modules())
    blocks = [block for network in networks for block in blocks_of(network)]
    changed: dict[nn.Module, None] = {}

    def change(module: nn.Module, way: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        module.forward = way(module.forward)
        changed[module] = None

    if config.channels_last and spread:
        for module in flow.modules():
            if isinstance(module, nn.Conv2d):
                change(module, lambda forward: partial(_pixel_by_pixel, forward))
    if config.checkpoint:
        for block in blocks:
            change(block, lambda forward: partial(_again, forward))
    if config.compile:
        graphs, once = blocks if spread else networks, _OnceSaid(note)
        for module in graphs:
            change(module, partial(_Compiled, module, once, len(graphs)))
    if config.channels_last and not spread:
        lay_out(flow, optimizer, averages, torch.channels_last)
    try:
        yield
    finally:
        if config.channels_last and not spread:
            lay_out(flow, optimizer, averages, torch.contiguous_format)
        for module in changed:
            del module.forward  # that of its class again


@torch.no_grad()
def lay_out(
    flow: nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: Sequence[WeightAverage],
    memory_format: torch.memory_format,
) -> None:
    """Weights of convolutions, their moments and averages in this order in memory; the fused optimiser takes all of one
    weight to lie alike."""

    def laid(value: Any) -> Any:
        four = isinstance(value, torch.Tensor) and value.ndim == 4
        return value.contiguous(memory_format=memory_format) if four else value

    for parameter in flow.parameters():
        parameter.data = laid(parameter.data)
        state = optimizer.state.get(parameter)
        if state:  # a new dictionary: the optimiser remembers tensors by it
            optimizer.state[parameter] = {key: laid(value) for key, value in state.items()}
    for average in averages:
        average.shadow = [laid(shadow) for shadow in average.shadow]


def _pixel_by_pixel(forward: Callable[..., Any], pictures: Tensor) -> Any:
    """A convolution's ``forward`` of pictures that lie pixel by pixel; what it gives then does too."""
    return forward(pictures.contiguous(memory_format=torch.channels_last))


def _again(forward: Callable[..., Any], *arguments: Any) -> Any:
    """``forward``, of which only the arguments are kept where a gradient is wanted; dropout is the same twice."""
    if not torch.is_grad_enabled():
        return forward(*arguments)
    return checkpoint(forward, *arguments, use_reentrant=False)


class _OnceSaid:
    """Passes on the first of many notes that say the same.

    Args:
        note: Where to.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note, self._said = note, False

    def __call__(self, text: str) -> None:
        if not self._said:
            self._said = True
            self._note(text)


class _Compiled:
    """A module's ``forward``, compiled for training; validation and figures are too few to pay for it.

    Args:
        module: A network, or a block of one.
        note: Told where it failed.
        graphs: How many modules are compiled. Those of one class share a list of graphs, in which torch keeps eight if
            it is not told (torch 2.13 can be), and leaves the rest as they are.
        forward: Of the module, as it is so far.
    """

    def __init__(
        self, module: nn.Module, note: Callable[[str], None], graphs: int, forward: Callable[..., Any]
    ) -> None:
        self.module, self.note, self.plain = module, note, forward
        told: dict[str, Any] = {}
        if graphs > 1 and "recompile_limit" in inspect.signature(torch.compile).parameters:
            told = {"recompile_limit": _GRAPHS + graphs}
        self.compiled: Callable[..., Any] | None = torch.compile(forward, **told)

    def __call__(self, *arguments: Any) -> Any:
        """What the module answers."""
        if self.compiled is None or not (self.module.training and torch.is_grad_enabled()):
            return self.plain(*arguments)
        if is_in_torch_dispatch_mode():  # who counts operations sees none of a graph
            return self.plain(*arguments)
        try:
            return self.compiled(*arguments)
        except Exception as error:
            # An error of the module's own is raised again here, by the module itself.
            answer = self.plain(*arguments)
            self.compiled = None
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            self.note(
                f"The network could not be compiled ({reason}); training goes on without. Compiling needs a C++ "
                "compiler, on a graphics card Triton too."
            )
            return answer
