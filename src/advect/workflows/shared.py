"""A model whose rows are shared out over processes: each computes some of the chunks, and all of them get all results.

Every process asks the same of the model in the same order. Draws that come before the chunks are made by each for all
rows, those inside a chunk from the chunk's own generator (`flows.turns`), and chunks are the same whoever computes
them: what comes out is that of one process to the bit.
"""

from collections.abc import Callable

from safetensors.torch import load, save

from advect.flows.turns import Record, Runner, in_turn
from advect.run import Artefact
from advect.training import Workers


def share_out(artefact: Artefact, workers: Workers) -> Artefact:
    """Let the processes share the rows of everything that is asked of a model from now on."""
    artefact.flow.runner = runner_of(workers)
    return artefact


def runner_of(workers: Workers) -> Runner:
    """What computes the chunks of a flow with these processes."""
    return in_turn if workers.count == 1 else _Shared(workers)


class _Shared:
    """Chunks go to the processes in turn, each request beginning with the process at which the last one ended."""

    def __init__(self, workers: Workers) -> None:
        self.workers, self.next = workers, 0

    def __call__(self, work: Callable[[int], Record], chunks: int) -> list[Record]:
        """The records of all chunks, on all processes.

        Raises:
            LostWorkerError: A process is gone.
        """
        workers, first = self.workers, self.next
        self.next = (first + chunks) % workers.count
        own = {n: work(n) for n in range(chunks) if (first + n) % workers.count == workers.rank}
        # As safetensors: what other processes send is numbers, and nothing that could run.
        tensors = {
            f"{n} {name}": t.detach().cpu().contiguous() for n, record in own.items() for name, t in record.items()
        }
        records: list[Record] = [{} for _ in range(chunks)]
        for content in workers.exchange(save(tensors)):
            for label, tensor in load(content).items():
                number, _, name = label.partition(" ")
                records[int(number)][name] = tensor
        return records
