"""Operations of a step against closed forms, and the share that they are of what the device does."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from advect.cli.listener import progress_line
from advect.progress import Progress
from advect.training.work import Work, product_rate
from tests.training.small import SmallField, matching_trainer
from tests.training.test_switches import trainer

CPU = torch.device("cpu")


def look(made):
    """Have a trainer look at its work, beside a product that takes no time."""
    made.work = Work(CPU, "float32", side=64)
    made.work.wanted = True


def test_operations_of_a_known_step_are_the_closed_form():
    """Two layers, 3 → w → 2, on a batch of b rows: 2·b·inputs·outputs for the way there and as much for the gradient of
    each weight; on the way back to its inputs the second layer as much again, the first nothing."""
    width, batch = 16, 16
    made = matching_trainer(field=SmallField(width))
    look(made)
    made.run(stop=lambda: made.state.step == 2)
    first, second = 2 * batch * 3 * width, 2 * batch * width * 2
    assert made.work.operations == 2 * first + 3 * second


def test_of_blocks_that_are_computed_again_it_counts_them_again():
    counted = {}
    for settings in ((), ("checkpoint",)):
        made = trainer("dit", **dict.fromkeys(settings, True))
        look(made)
        made.run(stop=lambda made=made: made.state.step == 1)
        counted[settings] = made.work.operations
    assert counted["checkpoint",] > 1.2 * counted[()]


def test_a_graph_is_not_in_the_way(monkeypatch):
    """A compiled network shows no operations; the step that is counted goes without."""
    calls = []
    monkeypatch.setattr(torch, "compile", lambda forward, **_: lambda *given: calls.append(1) or forward(*given))
    plain, other = trainer(), trainer(compile=True)
    for made in (plain, other):
        look(made)
        made.run(stop=lambda made=made: made.state.step == 3)
    assert other.work.operations == plain.work.operations
    assert len(calls) == 2


def test_the_share_is_operations_times_rate_over_the_best(monkeypatch):
    work = Work(CPU, "float32")
    assert not work.wanted
    assert math.isnan(work.share(10.0))
    work.wanted, work.operations = True, 3 * 10**9
    monkeypatch.setattr("advect.training.work.product_rate", lambda *_: 6e10)
    assert work.share(10.0) == pytest.approx(0.5)
    monkeypatch.setattr("advect.training.work.product_rate", lambda *_: pytest.fail("it is measured once"))
    assert work.share(5.0) == pytest.approx(0.25)


def test_one_product_after_another_is_nearly_all_that_can_be_done():
    """The share of a loop of such products themselves: at most all, and a good part of it on a busy machine too."""
    side = 384
    layer, x = nn.Linear(side, side, bias=False), torch.ones(side, side)
    work = Work(CPU, "float32", side=side)
    work.wanted = True
    with torch.no_grad(), work.counted():
        layer(x)
    assert work.operations == 2 * side**3
    rate = product_rate(CPU, torch.float32, side)
    assert 1e8 < rate < 1e13
    assert 0.01 < work.share(rate / work.operations) < 100


def test_it_is_off_on_processors_and_shown_where_it_is_on():
    made = matching_trainer()
    outcome = made.run(stop=lambda: made.state.step == 1)
    assert made.work.operations is None
    assert math.isnan(outcome.product_share)
    line = Progress(2, 4, 1.0, 10.0, 1.0, {"network": 0.9})
    assert "products" not in progress_line(line)
    shown = progress_line(Progress(2, 4, 1.0, 10.0, 1.0, {"network": 0.9}, product_share=0.314, skipped=3))
    assert "31% of the device's products" in shown
    assert "3 skipped" in shown


def test_both_lines_of_a_training_have_the_share():
    made = matching_trainer(steps=5)
    look(made)
    outcome = made.run()
    assert made.sink.lines[-1].product_share > 0
    assert outcome.product_share > 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell")
def test_the_line_says_what_memory_the_process_takes():
    """Resident memory, as the system counts it: 200 MB that were written to are seen, up to what is freed meanwhile."""
    made = matching_trainer(steps=2)
    before = made.work.memory()
    held = torch.ones(50_000_000)
    assert 0.9 * 4 * len(held) < made.work.memory() - before < 1.5 * 4 * len(held)
    made.run()
    assert made.sink.lines[-1].memory > 4 * len(held)
    assert progress_line(Progress(2, 4, 1.0, 10.0, 1.0, {"network": 0.9}, memory=4.8e8)).endswith("network 90%  480 MB")
    assert progress_line(Progress(2, 4, 1.0, 10.0, 1.0, memory=1.23e10)).endswith("  12 GB")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell")
def test_where_the_system_does_not_tell_nothing_is_said(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    assert Work(CPU, "float32").memory() > 1e7
    monkeypatch.setattr(Path, "read_text", missing)
    assert math.isnan(Work(CPU, "float32").memory())
    assert "B" not in progress_line(Progress(2, 4, 1.0, 10.0, 1.0, {"network": 0.9}))
