"""Switches of a training's arithmetic: the networks of a flow are changed from outside, and put back afterwards.

No network, path or objective knows of them. What is computed is the same up to rounding (with dropout, `compile` draws
other masks); weights keep their names, so a run opens with any of them on or off.

- ``channels_last``: weights of convolutions lie pixel by pixel in memory, which many kernels are written for.
- ``compile``: `torch.compile` of every network as a training step calls it. Where that fails, for want of a C++
  compiler perhaps, the training goes on without it and says so.
- ``checkpoint``: of every block of a network only its input is kept; the rest is computed again on the way back (Chen
  et al. 2016, arXiv 1604.06174). Memory is that of one block and the inputs, a step takes about a third longer.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from advect.errors import ConfigError
from advect.networks import TimedNetwork
from advect.training.average import WeightAverage
from advect.training.config import TrainingConfig
from advect.typing import DrawingObjective, Objective

_NAMES = ("network", "score_network")
"""What fields call the modules that they ask."""


def arithmetic(precision: str, device: torch.device) -> AbstractContextManager:
    """The arithmetic of the training loss."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


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
    networks, changed = networks_of(flow), []
    if config.checkpoint:
        for block in (block for network in networks for block in blocks_of(network)):
            block.forward = partial(_again, block.forward)
            changed.append(block)
    if config.compile:
        for network in networks:
            network.forward = _Compiled(network, note)
            changed.append(network)
    if config.channels_last:
        lay_out(flow, optimizer, averages, torch.channels_last)
    try:
        yield
    finally:
        if config.channels_last:
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


def _again(forward: Callable[..., Any], *arguments: Any) -> Any:
    """``forward``, of which only the arguments are kept where a gradient is wanted; dropout is the same twice."""
    if not torch.is_grad_enabled():
        return forward(*arguments)
    return checkpoint(forward, *arguments, use_reentrant=False)


class _Compiled:
    """A network's ``forward``, compiled for training; validation and figures are too few to pay for it.

    Args:
        network: Whose.
        note: Told where it failed.
    """

    def __init__(self, network: nn.Module, note: Callable[[str], None]) -> None:
        self.network, self.note = network, note
        self.plain: Callable[..., Any] = network.forward
        self.compiled: Callable[..., Any] | None = torch.compile(self.plain)

    def __call__(self, *arguments: Any) -> Any:
        """The network's answer."""
        if self.compiled is None or not (self.network.training and torch.is_grad_enabled()):
            return self.plain(*arguments)
        try:
            return self.compiled(*arguments)
        except Exception as error:
            # An error of the network's own is raised again here, by the network itself.
            answer = self.plain(*arguments)
            self.compiled = None
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            self.note(
                f"The network could not be compiled ({reason}); training goes on without. Compiling needs a C++ "
                "compiler, on a graphics card Triton too."
            )
            return answer
