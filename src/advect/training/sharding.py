"""Weights that are spread over processes: each holds some rows of every tensor, and all of one block while it computes.

The sharding is torch's own (FSDP2, `torch.distributed.fsdp.fully_shard`), applied from outside: to every block that a
network lists in a `ModuleList`, and to the rest of the network as one more block. What the loop sees is a plain module
of the rows that this process holds, under the names of the whole tensors: averages, moments and checkpoints are made of
those. What lies outside of networks, or has no rows, is held by all.
"""

import copy
import ctypes
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from advect.errors import ConfigError
from advect.progress import Window
from advect.training.config import TrainingConfig
from advect.training.switches import blocks_of, networks_of
from advect.training.workers import Workers
from advect.typing import DrawingObjective, Objective

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h: blocks from this size on are mapped one by one; once set it stays
_LARGE = 2**20


@dataclass(frozen=True)
class _Spread:
    """A parameter that is spread out.

    Attributes:
        whole: That of the flow as it was given; empty while it is spread.
        across: As torch spreads it.
        held: The rows of this process, in the same memory.
        shape: Of the whole.
        window: Which rows are held.
    """

    whole: Tensor
    across: nn.Parameter
    held: nn.Parameter
    shape: torch.Size
    window: Window


class Shards:
    """A flow whose networks are spread over processes.

    Args:
        flow: The whole flow, the same on all processes. Its networks are empty until `restore`.
        workers: The processes; two or more.

    Attributes:
        flow: What to compute losses with; all processes must do so together.
        held: What this process holds, as a module without a computation.

    Raises:
        ConfigError: A flow without a field made of networks, or weights that torch cannot spread.
    """

    def __init__(self, flow: nn.Module, workers: Workers) -> None:
        networks = _networks(flow)
        self.workers = workers
        tensors = dict(flow.named_parameters()) | dict(flow.named_buffers())
        for tensor in tensors.values():  # one by one: together they would need room for all of them once more
            workers.spread([tensor.data])
        # The copy takes the tensors over, so that none is there twice.
        self.flow = copy.deepcopy(flow, {id(tensor): tensor for tensor in tensors.values()})
        # Networks end with a view, which torch warns of for the sake of who would change it in place: nobody does here.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
        device = next(flow.parameters()).device.type
        if device == "cpu":
            _give_back_what_is_freed()
        mesh = init_device_mesh(device, (workers.count,))
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        for name in networks:
            for block in _blocks(self.flow.get_submodule(name)):
                _spread_out(block, mesh)
                _empty(tensors, dict(self.flow.named_parameters()))
        self._by_name: dict[str, _Spread] = {}
        for name, parameter in self.flow.named_parameters():
            if isinstance(parameter, DTensor):
                window = _window(shapes[name][0], workers)
                held = nn.Parameter(_local(parameter), requires_grad=parameter.requires_grad)
                self._by_name[name] = _Spread(tensors[name], parameter, held, shapes[name], window)
        self.held = _without_computation(self.flow, {name: one.held for name, one in self._by_name.items()})
        self._trained = [name for name, p in self.held.named_parameters() if p.requires_grad]

    def collect(self) -> list[Tensor]:
        """After the backward passes: the gradients of what is held, put where an optimiser looks for them."""
        for one in self._by_name.values():
            one.held.grad = None if one.across.grad is None else _local(one.across.grad)
            one.across.grad = None
        spread = [one.held.grad for one in self._by_name.values() if one.held.grad is not None]
        torch._foreach_mul_(spread, self.workers.count)  # torch takes the mean over the processes
        return [p.grad for p in self.held.parameters() if p.grad is not None]

    def apart(self) -> list[Tensor]:
        """The gradients that are still to be added over the processes: torch does so for what is spread out."""
        held = self.held.named_parameters()
        return [p.grad for name, p in held if name not in self._by_name and p.grad is not None]

    def norm(self) -> Tensor:
        """The 2-norm of the gradients of the whole flow, the same on all processes."""
        total = torch.zeros(1)
        for name, parameter in self.held.named_parameters():
            if parameter.grad is not None and (name in self._by_name or self.workers.leads):
                total += torch.linalg.vector_norm(parameter.grad).square().to(total)
        self.workers.add([total])
        return total[0].sqrt()

    def windows(self, tensors: Mapping[str, Tensor]) -> dict[str, Window]:
        """Which rows those tensors of a `TrainingState` are that are not the same on all processes."""
        owners = ((name, tensor, self._owner(name)) for name, tensor in tensors.items())
        return {name: one.window for name, tensor, one in owners if one is not None and tensor.shape == one.held.shape}

    def wanted_rows(self, name: str, shape: Sequence[int]) -> Window | None:
        """Which rows to take of a whole tensor of a `TrainingState`; None for all of it."""
        one = self._owner(name)
        return one.window if one is not None and tuple(shape) == tuple(one.shape) else None

    def _owner(self, name: str) -> _Spread | None:
        """The parameter whose name stands behind a dot in that of a tensor, or whose place behind ``optimizer``."""
        first, _, rest = name.partition(".")
        if first == "optimizer":
            return self._by_name.get(self._trained[int(rest.partition(".")[0])])
        while name and name not in self._by_name:
            name = name.partition(".")[2]
        return self._by_name.get(name)

    def gather_anew(self) -> None:
        """After what is held was changed, or changed back: let no block go on with what it gathered before.

        A backward pass ends with that; a forward pass alone leaves the outermost block gathered.
        """
        for module in self.flow.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    @torch.no_grad()
    def restore(self) -> None:
        """Bring the weights together in the flow that was given, on the leader alone; all processes must call this."""
        for one in self._by_name.values():
            assert isinstance(one.across, DTensor)
            full = one.across.full_tensor()
            if self.workers.leads:
                one.whole.data = full


def spread_over(flow: nn.Module, objective: Objective, config: TrainingConfig, workers: Workers) -> Shards | None:
    """A flow spread over processes where that is asked for and there are several that talk; else None.

    Raises:
        ConfigError: A method, or settings, that cannot go with it.
    """
    if not config.shard or workers.count == 1 or not workers.connected:
        return None
    if not isinstance(objective, DrawingObjective):
        raise ConfigError(
            "the weights of this method cannot be spread over processes: its loss is not that of a network's output",
            where="shard",
            remedy="Leave shard out; every process then holds all the weights.",
        )
    if config.compile and not any(blocks_of(network) for network in networks_of(flow)):
        raise ConfigError(
            "the blocks of this network are single layers, each gathered by itself: nothing is left to compile",
            where="compile",
            remedy="Leave out compile or shard, or use a U-Net or a diffusion transformer.",
        )
    if config.microbatch and config.batch_size % workers.count:
        # Processes must pass through the network equally often.
        raise ConfigError(
            f"with microbatch a batch of {config.batch_size} rows cannot be shared by {workers.count} processes that "
            "share the weights too",
            where="microbatch",
            remedy=f"Take a --batch-size that {workers.count} divides, or leave microbatch out.",
        )
    return Shards(flow, workers)


def _networks(flow: nn.Module) -> list[str]:
    """The names of the networks of a flow's field: what it calls, and calls as a whole.

    Raises:
        ConfigError: There are none.
    """
    field = getattr(getattr(flow, "ode", None), "field", None)
    names = {id(module): name for name, module in flow.named_modules()}
    if isinstance(field, nn.Module):
        found = [
            names[id(child)]
            for name, child in field.named_children()
            if name.endswith("network") and any(True for _ in child.parameters())
        ]
        if found:
            return found
    raise ConfigError(
        "the weights of this method cannot be spread over processes: it trains no network of a velocity",
        where="shard",
        remedy="Leave shard out; every process then holds all the weights.",
    )


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """What is spread out by itself: the blocks that a network lists, and the network with what is left of it."""
    yield from _listed(network)
    yield network


def _listed(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the lists in a module, of lists of lists those of the inner ones."""
    lists = (nn.ModuleList, nn.ModuleDict)
    for child in module.children():
        if isinstance(module, lists) and not isinstance(child, lists):
            if any(True for _ in child.parameters()):
                yield child
        else:
            yield from _listed(child)


def _spread_out(block: nn.Module, mesh: DeviceMesh) -> None:
    numbers = {p for p in block.parameters() if p.ndim == 0}  # a number has no rows
    try:
        fully_shard(block, mesh=mesh, ignored_params=numbers)
    except (NotImplementedError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"torch cannot spread these weights over processes ({error})",
            where="shard",
            remedy="Leave shard out, or what lays the weights out in another way.",
        ) from error


def _give_back_what_is_freed() -> None:
    """Let glibc return large blocks to the system when they are freed.

    By default it learns to keep blocks of the size that gathered weights have, and holds more than is saved: with 16 MB
    each, 330 MB beside 240 in use.
    """
    try:
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE)
    except (OSError, AttributeError, TypeError):  # another library of C, which has its own way
        return


def _empty(whole: dict[str, Tensor], now: dict[str, nn.Parameter]) -> None:
    """Give up the memory of what has just been spread out."""
    for name, parameter in now.items():
        if isinstance(parameter, DTensor) and whole[name].numel():
            whole[name].data = whole[name].data.new_empty(0)


@torch.no_grad()
def _local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, in its memory."""
    assert isinstance(tensor, DTensor)
    return tensor.to_local()


def _window(rows: int, workers: Workers) -> Window:
    """The rows that torch gives to a process: as `torch.chunk` shares them out."""
    each = -(-rows // workers.count)
    first = min(workers.rank * each, rows)
    return Window(first, min(each, rows - first), rows)


def _without_computation(flow: nn.Module, held: dict[str, nn.Parameter]) -> nn.Module:
    """A module of a flow's tensors, by the same names, with some of its parameters replaced."""
    root = nn.Module()
    for path, module in flow.named_modules(remove_duplicate=False):
        place = root
        for part in filter(None, path.split(".")):
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                place.register_parameter(name, held.get(f"{path}.{name}".lstrip("."), parameter))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                place.register_buffer(name, buffer, persistent=name not in module._non_persistent_buffers_set)
    return root
