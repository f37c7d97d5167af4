"""Checkpoints in parts: whole or not at all, read by any number of processes, and never by running anything."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader

from advect.errors import RunFolderError
from advect.files import WriteError
from advect.progress import Window
from advect.run import LAST_SET, RunFolder, SetWriter, read_checkpoint, remove_sets, standing_of
from advect.training import ALONE, Workers
from tests.training.test_workers import environment


@dataclass(frozen=True)
class Told(Workers):
    """One of two processes whose agreement is taken for granted."""

    def leading(self, number: int) -> int:
        return 7

    def largest(self, *numbers: int) -> list[int]:
        return [int(number) for number in numbers]


def state(step: int = 5) -> tuple[dict[str, Tensor], dict]:
    """A state whose every number tells its step; with a number, an empty tensor and more rows than two parts share."""
    tensors = {
        "model.weight": torch.arange(15.0).reshape(5, 3) + step,
        "average.weight": torch.arange(15.0).reshape(5, 3) - step,
        "model.row": torch.full((1, 4), float(step), dtype=torch.float64),
        "optimizer.0.step": torch.tensor(float(step)),
        "none": torch.zeros(0, 2),
    }
    return tensors, {"step": step, "seconds": 0.1 * step, "best_value": None}


def windows(rank: int) -> dict[str, Window]:
    """Of two processes, as torch shares rows out: 3 and 2 of 5, 1 and 0 of 1."""
    rows = {"model.weight": (3, 2), "average.weight": (3, 2), "model.row": (1, 0)}
    return {n: Window(rank * max(r), r[rank], sum(r)) for n, r in rows.items()}


def written(folder: RunFolder, step: int = 5, count: int = 2) -> None:
    """A whole set by so many processes; the leader comes last, as the one that lets it count."""
    tensors, numbers = state(step)
    folder.path.mkdir(exist_ok=True)
    for rank in reversed(range(count)):
        writer = SetWriter(folder, Told(rank, count) if count > 1 else ALONE)
        own = windows(rank) if count > 1 else {}
        held = {n: t[own[n].first :][: own[n].rows] if n in own else t for n, t in tensors.items()}
        writer.begin(held, own, numbers)
        writer.settle(wait=True)


def assert_is(found: tuple[dict[str, Tensor], dict] | None, step: int) -> None:
    assert found is not None
    tensors, numbers = state(step)
    assert found[1] == numbers
    assert found[0].keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[0][name].dtype == tensor.dtype
        assert torch.equal(found[0][name], tensor)


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.mark.parametrize("count", [1, 2])
def test_what_several_wrote_is_read_as_a_whole_and_by_rows(folder, count):
    written(folder, count=count)
    assert_is(read_checkpoint(folder), 5)
    for rank in (0, 1):
        found = read_checkpoint(folder, lambda name, shape, rank=rank: windows(rank).get(name))
        assert found is not None
        for name, window in windows(rank).items():
            assert torch.equal(found[0][name], state()[0][name][window.first :][: window.rows])


def test_it_is_torch_s_own_safetensors_storage(folder):
    """And no file of it is a pickle."""
    written(folder)
    last = json.loads(folder.file(LAST_SET).read_text())
    place = folder.file(LAST_SET).parent / last["set"]
    assert sorted(p.name for p in place.iterdir()) == last["parts"] == ["1-of-2.safetensors", "2-of-2.safetensors"]
    expected = {name: tensor for name, tensor in state()[0].items() if tensor.ndim and len(tensor)}
    held = {name: torch.zeros_like(tensor) for name, tensor in expected.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that it loads by one process
        dcp.load(held, storage_reader=HuggingFaceStorageReader(str(place)), no_dist=True)
    assert all(torch.equal(held[name], expected[name]) for name in expected)


def test_two_sets_are_kept(folder):
    for step in (1, 2, 3, 4):
        written(folder, step)
    kept = sorted(path.name[:14] for path in folder.file(LAST_SET).parent.glob("set-*"))
    assert kept == ["set-0000000003", "set-0000000004"]
    assert_is(read_checkpoint(folder), 4)


def test_a_set_without_all_parts_does_not_count_and_is_cleared_away(folder):
    written(folder, 3)
    tensors, numbers = state(4)
    writer = SetWriter(folder, Told(0, 2))
    writer.begin(tensors, {}, numbers)
    assert writer._writing is not None
    writer._writing.result()  # written, and nobody said that the other one was
    assert_is(read_checkpoint(folder), 3)
    assert len([*folder.file(LAST_SET).parent.glob("set-*")]) == 2
    remove_sets(folder)
    assert len([*folder.file(LAST_SET).parent.glob("set-*")]) == 1
    assert_is(read_checkpoint(folder), 3)


def test_a_part_that_cannot_be_written_is_told_at_the_next_step(folder, monkeypatch):
    written(folder, 3)
    monkeypatch.setattr("advect.run.sets.save_file", _full_disk)
    writer = SetWriter(folder, ALONE)
    writer.begin(*_alone(4))
    with pytest.raises(WriteError, match="No space left"):
        writer.settle(wait=True)
    assert_is(read_checkpoint(folder), 3)


def _alone(step: int):
    tensors, numbers = state(step)
    return tensors, {}, numbers


def _full_disk(*_):
    raise OSError(28, "No space left on device")


def test_a_copy_is_written_and_not_what_became_of_it(folder):
    folder.path.mkdir()
    tensors, numbers = state(5)
    writer = SetWriter(folder, ALONE)
    writer.begin(tensors, {}, numbers)
    for tensor in tensors.values():
        tensor.zero_()
    writer.settle(wait=True)
    assert_is(read_checkpoint(folder), 5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda last: last | {"set": "../../elsewhere"}, "format"),
        (lambda last: last | {"parts": ["../../x.safetensors"]}, "format"),
        (lambda last: last | {"format": "advect-set-2"}, "format"),
        (lambda last: last | {"card": [1]}, "format"),
        (lambda last: last | {"parts": last["parts"][:1]}, "format"),
        (lambda last: last | {"parts": last["parts"][1:]}, "format"),
        (lambda last: last | {"parts": last["parts"] * 2}, "format"),
        (lambda last: last | {"parts": 2}, "damaged"),
        (lambda last: {}, "damaged"),
        (lambda last: [], "damaged"),
    ],
)
def test_a_damaged_list_is_told(folder, change, said):
    written(folder)
    last = json.loads(folder.file(LAST_SET).read_text())
    folder.file(LAST_SET).write_text(json.dumps(change(last)))
    with pytest.raises(RunFolderError, match=said):
        read_checkpoint(folder)


def test_a_part_of_other_rows_is_told(folder):
    written(folder)
    place = next(folder.file(LAST_SET).parent.glob("set-*"))
    shutil.copy(place / "1-of-2.safetensors", place / "2-of-2.safetensors")
    with pytest.raises(RunFolderError, match="rows of"):
        read_checkpoint(folder)


@pytest.mark.parametrize("damage", ["cut", "gone", "flipped"])
def test_a_damaged_part_is_told(folder, damage):
    written(folder)
    part = next(folder.file(LAST_SET).parent.glob("set-*/1-of-2.safetensors"))
    content = part.read_bytes()
    if damage == "gone":
        part.unlink()
    else:
        part.write_bytes(content[: len(content) // 2] if damage == "cut" else bytes([255]) + content[1:])
    with pytest.raises(RunFolderError, match="damaged"):
        read_checkpoint(folder)


def test_a_set_that_is_replaced_while_it_is_read_is_read_anew(folder, monkeypatch):
    from advect.run import sets

    written(folder, 1)
    read, times = sets.read_parts, []

    def replaced(paths, wanted):
        if not times:
            times.append(1)
            shutil.rmtree(paths[0].parent)
            written(folder, 2)
        return read(paths, wanted)

    monkeypatch.setattr(sets, "read_parts", replaced)
    assert_is(read_checkpoint(folder), 2)


def test_where_a_run_stands_is_read_from_it(folder):
    written(folder, 5)
    folder.file("config.toml").write_text("[training]\nsteps = 10\n")
    standing = standing_of(folder)
    assert (standing.step, standing.seconds, standing.steps) == (5, 0.5, 10)
    assert standing.age is not None
    assert standing.age < 60


WRITES = """
import sys, torch
from advect.run import RunFolder, SetWriter
from advect.training import ALONE
writer = SetWriter(RunFolder(sys.argv[1]), ALONE)
for step in range(1, 10**6):
    tensors = {str(k): torch.full((200, 50), float(step)) for k in range(20)}
    writer.begin(tensors, {}, {"step": step, "seconds": 0.0})
    for tensor in tensors.values():
        tensor.fill_(-1.0)
    writer.settle(wait=step % 2 == 0)
"""


@pytest.mark.slow
def test_killed_at_any_moment_the_last_whole_set_is_there(folder):
    """Several times over the same folder, at moments of their own."""
    folder.path.mkdir()
    for after in (0.05, 0.3):
        before = _changed(folder)
        with subprocess.Popen([sys.executable, "-c", WRITES, str(folder.path)], env=environment()) as process:
            begun = time.monotonic()
            while _changed(folder) == before:
                assert process.poll() is None
                assert time.monotonic() - begun < 100
                time.sleep(0.01)
            time.sleep(after)
            os.kill(process.pid, signal.SIGKILL)
        found = read_checkpoint(folder)
        assert found is not None
        assert len(found[0]) == 20
        assert all(bool((tensor == found[1]["step"]).all()) for tensor in found[0].values())


def _changed(folder: RunFolder) -> int:
    return folder.file(LAST_SET).stat().st_mtime_ns if folder.file(LAST_SET).exists() else 0
