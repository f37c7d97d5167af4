"""Chunks that are shared out: what comes out does not depend on who computes which."""

import threading
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from advect.flows import ContinuousMap, Flow, StandardNormal
from advect.records import Mapped
from advect.solvers import Adaptive, HutchinsonDivergence
from advect.training import Workers
from advect.transforms import Bijection, Compose
from advect.workflows.shared import runner_of

ROWS = 50


@dataclass(frozen=True)
class Thread(Workers):
    """One of several threads that exchange bytes as processes do."""

    board: list[bytes] = field(default_factory=list)
    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))

    def exchange(self, content: bytes) -> list[bytes]:
        self.board[self.rank] = content
        self.barrier.wait(timeout=20)
        found = list(self.board)
        self.barrier.wait(timeout=20)
        return found


class Field(nn.Module):
    """v = sin(3 x), which no solver takes lightly."""

    def forward(self, t, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.sin(3 * x)


class Noisy(Bijection):
    """Adds noise both ways, and says so in its log-determinant."""

    def __init__(self) -> None:
        super().__init__((2,))

    def _encode(self, x, condition, log_det, generator):
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        return Mapped(x + noise, noise.sum(1), torch.zeros(len(x), dtype=torch.int8))

    _decode = _encode


def flow(chunk_rows: int, *parts: Bijection) -> Flow:
    ode = ContinuousMap(Field(), divergence=HutchinsonDivergence(3), likelihood_solver=Adaptive(rtol=1e-2, atol=1e-2))
    return Flow(StandardNormal((2,)).double(), Compose(*parts, ode), chunk_rows=chunk_rows)


def asked(flow: Flow) -> list[Tensor]:
    """Two rounds of everything, from one generator: the second sees where the first left it."""
    generator, found = torch.Generator().manual_seed(3), []
    with torch.no_grad():
        for _ in range(2):
            x = flow.draw(ROWS, generator=generator)
            scored = flow.score(x.value, generator=generator)
            rows, density = flow.sample_and_log_prob(ROWS, generator=generator)
            found += [x.value, x.status, scored.value, scored.standard_error, rows, density]
            if not any(isinstance(part, Noisy) for part in flow.map.modules()):  # where a way knows no generator
                found.append(flow.trajectory(ROWS, torch.linspace(0, 1, 3), generator=generator))
    return found


def by_threads(count: int, *options) -> list[list[Tensor]]:
    """What each of several threads gets that share a flow's chunks."""
    board, barrier = [b""] * count, threading.Barrier(count)
    answers: list[list[Tensor]] = [[] for _ in range(count)]

    def work(rank: int) -> None:
        shared = flow(*options)
        shared.runner = runner_of(Thread(rank, count, True, board, barrier))
        answers[rank] = asked(shared)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return answers


@pytest.mark.parametrize("parts", [(), (Noisy(),)], ids=["probes", "noise"])
@pytest.mark.parametrize(("count", "chunk_rows"), [(2, 16), (3, 16), (2, 64)], ids=["two", "three", "one-chunk"])
def test_shared_chunks_are_those_of_one_process_to_the_bit(count, chunk_rows, parts):
    alone = asked(flow(chunk_rows, *parts))
    for answer in by_threads(count, chunk_rows, *parts):
        assert len(answer) == len(alone)
        for mine, theirs in zip(answer, alone, strict=True):
            assert torch.equal(mine, theirs)


def test_the_draws_of_a_second_call_are_new_ones():
    """Also where every chunk has a generator of its own: the given one goes on."""
    first, second = torch.tensor(0.0), torch.tensor(0.0)
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(ROWS, 2).double()
    with torch.no_grad():
        first, second = (flow(16, Noisy()).score(x, generator=generator).value for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first[:16], first[16:32])


def test_what_draws_nothing_leaves_the_generator_alone():
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    with torch.no_grad():
        flow(16).decode(torch.zeros(ROWS, 2).double(), generator=generator)
    assert torch.equal(before, generator.get_state())
