"""Several processes at one piece of work, each with its share of the rows.

In a training every process makes all draws of a step, for the whole batch, and takes the loss of its rows; gradients
are added up. So the loss of a step does not depend on the number of processes beyond rounding, and all of them hold the
same weights at all times. `torchrun` says who is who in the environment; the messages are torch.distributed's (gloo on
processors, NCCL on NVIDIA cards).
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from advect.errors import AdvectError, ConfigError, TrainingError

PATIENCE_SECONDS = 60.0
"""How long a process waits for the others; a process that is gone is noticed at once by most of its neighbours."""

_ASKING_SECONDS = 5.0  # for the question who has told of an error

_REMEDY = "Give the same command again; a training continues from its last checkpoint."


class LostWorkerError(TrainingError):
    """Another process is gone, or did not answer in time."""


@dataclass(frozen=True)
class Workers:
    """The processes of a training, as one of them sees it. The default is a process by itself.

    Attributes:
        rank: Which of them this is; 0 leads: it writes the files and speaks.
        count: How many there are.
        connected: Whether messages are sent; without, a share is computed as ever and nothing is added up.
    """

    rank: int = 0
    count: int = 1
    connected: bool = True

    @property
    def leads(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def silent(self) -> "Workers":
        """The same share of the work without any message, to time steps by."""
        return replace(self, connected=False)

    def own(self, num_rows: int) -> slice:
        """This process' rows of a batch: all batches are shared out in pieces whose sizes differ by at most one."""
        return slice(num_rows * self.rank // self.count, num_rows * (self.rank + 1) // self.count)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over the processes; on all of them the same bits come out.

        Raises:
            LostWorkerError: A process is gone.
        """
        self._for_each_kind(tensors, lambda flat: dist.all_reduce(flat, dist.ReduceOp.SUM))

    def spread(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by the leader's.

        Raises:
            LostWorkerError: A process is gone.
        """
        self._for_each_kind(tensors, lambda flat: dist.broadcast(flat, 0))

    def largest(self, *numbers: int) -> list[int]:
        """The largest of the processes' numbers, place by place, on all of them."""
        if self.count == 1:
            return list(numbers)
        values = torch.tensor(numbers)
        self._for_each_kind([values], lambda flat: dist.all_reduce(flat, dist.ReduceOp.MAX))
        return values.tolist()

    def leading(self, number: int) -> int:
        """The leader's number, on all of them."""
        value = torch.tensor([number])
        self.spread([value])
        return int(value)

    def exchange(self, content: bytes) -> list[bytes]:
        """The content of every process, in their order, on all of them.

        Raises:
            LostWorkerError: A process is gone.
        """
        if self.count == 1 or not self.connected:
            return [content]
        place = _messages_on()
        lengths = [torch.zeros(1, dtype=torch.long, device=place) for _ in range(self.count)]
        with self.heard():
            dist.all_gather(lengths, torch.tensor([len(content)], device=place))
            longest = max(int(length) for length in lengths)
            own = torch.zeros(longest, dtype=torch.uint8)
            if content:
                own[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            parts = [torch.zeros(longest, dtype=torch.uint8, device=place) for _ in range(self.count)]
            if longest:
                dist.all_gather(parts, own.to(place))
        pairs = zip(parts, lengths, strict=True)
        return [part[: int(length)].cpu().numpy().tobytes() for part, length in pairs]

    @contextmanager
    def heard(self) -> Iterator[None]:
        """What torch says of a message that did not arrive becomes an error with a remedy.

        Raises:
            LostWorkerError: A process is gone.
        """
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, AdvectError) or not _is_of_messages(error):
                raise
            raise LostWorkerError(
                "another process is gone or does not answer",
                where=f"process {self.rank} of {self.count}",
                remedy=_REMEDY,
            ) from error

    def _for_each_kind(self, tensors: Sequence[Tensor], message: Callable[[Tensor], object]) -> None:
        """One message for all tensors of a device and dtype: many small ones would wait many times."""
        if self.count == 1 or not self.connected:
            return
        kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for tensor in tensors:
            kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor)
        for group in kinds.values():
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in group])
            carried = flat.to(_messages_on(), torch.uint8 if flat.dtype == torch.bool else flat.dtype)
            with self.heard():
                message(carried)
            parts = carried.to(flat).split([tensor.numel() for tensor in group])
            with torch.no_grad():
                for tensor, part in zip(group, parts, strict=True):
                    tensor.copy_(part.reshape(tensor.shape))


ALONE = Workers()


def launched(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several that torchrun started."""
    return environment.get("WORLD_SIZE", "1") not in ("", "1")


@contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[Workers]:
    """Meet the other processes; by oneself where torchrun started only one, or was not there at all.

    Raises:
        ConfigError: What torchrun leaves in the environment is not whole.
        LostWorkerError: The others did not come.
    """
    if not launched(environment):
        yield ALONE
        return
    try:
        rank, count = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local = int(environment.get("LOCAL_RANK", rank))
        host = environment["MASTER_ADDR"], environment["MASTER_PORT"]
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"several processes are asked for, but {error} is not told",
            where="WORLD_SIZE",
            remedy="Start with torchrun.",
        ) from error
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local % torch.cuda.device_count())
    try:
        store = _meeting_place(rank, count, PATIENCE_SECONDS)
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            store=dist.PrefixStore("advect", store),
            rank=rank,
            world_size=count,
            timeout=timedelta(seconds=PATIENCE_SECONDS),
        )
    except (RuntimeError, ValueError) as error:
        raise LostWorkerError(
            f"the {count} processes did not meet at {':'.join(host)}: {error}", where=f"process {rank}", remedy=_REMEDY
        ) from error
    try:
        yield Workers(rank, count)
    finally:
        dist.destroy_process_group()


def first_to_speak(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the first on its machine to tell of an error; the others then need not.

    An error comes to all processes alike, or to one, whose silence then is the others' error.
    """
    if not launched(environment):
        return True
    try:
        store = _meeting_place(int(environment["RANK"]), int(environment["WORLD_SIZE"]), _ASKING_SECONDS)
        return store.add(f"told on machine {environment.get('GROUP_RANK', 0)}", 1) == 1
    except (KeyError, ValueError, RuntimeError):  # nobody can be asked
        return True


def _meeting_place(rank: int, count: int, seconds: float) -> dist.Store:
    """The store through which the processes find one another; with torchrun it outlives each of them."""
    store, _, _ = next(rendezvous("env://", rank, count, timeout=timedelta(seconds=seconds)))
    return store


def _is_of_messages(error: RuntimeError) -> bool:
    """Whether an error of torch's is one of messages between processes: by its class, or by who says so."""
    text = str(error)
    return isinstance(error, dist.DistError) or any(name in text for name in ("gloo", "NCCL", "onnection", "imed out"))


def _messages_on() -> torch.device:
    """Where the tensors of messages must lie: NCCL sends from cards alone."""
    return torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
