"""The run folder: which state it is in, who may write, what is refused, and the configuration as text."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
import tomllib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advect.errors import AdvectError, RunFolderError
from advect.files import atomic_path, write_text
from advect.progress import Progress
from advect.run import (
    CHECKPOINT,
    CONFIG,
    METRICS,
    MODEL,
    FolderSink,
    MemorySink,
    RunFolder,
    Setting,
    differences,
    read_checkpoint,
    read_config,
    read_history,
    render,
    values,
)


def test_states(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.state == "absent"
    folder.path.mkdir()
    assert folder.state == "empty"
    (folder.path / ".lock").touch()
    (folder.path / f".{CONFIG}.abc").touch()  # left by a crash while the configuration was written
    assert folder.state == "empty"
    (folder.path / CONFIG).touch()
    assert folder.state == "started"
    (folder.path / MODEL).touch()
    assert folder.state == "finished"
    (folder.path / CONFIG).unlink()
    assert folder.state == "foreign"
    other = RunFolder(tmp_path / "other")
    other.path.mkdir()
    (other.path / "thesis.tex").touch()
    assert other.state == "foreign"
    assert RunFolder(other.path / "thesis.tex").state == "foreign"


def test_what_is_no_finished_run_is_refused_with_the_reason(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RunFolderError, match="no such folder"):
        folder.require_run()
    folder.path.mkdir()
    with pytest.raises(RunFolderError, match="not a run folder"):
        folder.require_finished()
    (folder.path / CONFIG).touch()
    folder.require_run()
    with pytest.raises(RunFolderError, match=r"not finished.*same `advect train` command"):
        folder.require_finished()
    (folder.path / MODEL).touch()
    folder.require_finished()


HOLD = """
import sys, time
from advect.run import RunFolder
with RunFolder(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match="another process is writing"), RunFolder(tmp_path / "run").locked():
            pass
    finally:
        holder.kill()  # however it ends
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    with RunFolder(tmp_path / "run").locked():
        pass


def test_a_second_holder_in_one_process_is_refused(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        with pytest.raises(RunFolderError, match="another process"), RunFolder(tmp_path / "run").locked():
            pass
        with pytest.raises(RunFolderError, match="another process"):
            folder.move_aside()  # it is being written to
        assert folder.path.is_dir()
    with folder.locked():
        pass


def test_the_lock_is_released_by_an_error(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(ValueError, match="inside"), folder.locked():
        raise ValueError("inside")
    with folder.locked():
        pass


def test_a_lock_that_was_removed_keeps_nobody_from_a_new_one(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        (folder.path / ".lock").unlink()
        with RunFolder(tmp_path / "run").locked() as _:
            assert (folder.path / ".lock").exists()
        with pytest.raises(RunFolderError, match="moved or removed"):
            folder.destination(CONFIG)


@pytest.mark.parametrize("what", ["removed", "moved", "replaced"])
def test_a_folder_that_went_away_is_not_made_anew(tmp_path, what):
    """A folder with a checkpoint alone would be no run, and refused by the next command."""
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        sink = FolderSink(folder)
        sink.metrics(1, {"loss": 1.0})
        folder.path.rename(tmp_path / "aside")
        if what == "replaced":
            with RunFolder(tmp_path / "run").locked():
                pass
        if what == "removed":
            shutil.rmtree(tmp_path / "aside")
        for write in (
            lambda: sink.metrics(2, {"loss": 1.0}),
            lambda: sink.checkpoint({"w": torch.ones(2)}, {"step": 1}),
            lambda: folder.write_json("evaluation.json", {}),
        ):
            with pytest.raises(RunFolderError, match=r"removed while .* was to be written.*same command again"):
                write()
    assert [path.name for path in folder.path.rglob("*")] == ([".lock"] if what == "replaced" else [])


def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def none_here(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none_here)
    heard = []
    with RunFolder(tmp_path / "run").locked(heard.append):
        write_text(RunFolder(tmp_path / "run").file(CONFIG), "")
    assert len(heard) == 1
    assert "has no locks; let no second process write" in heard[0]


def test_taking_a_run_clears_away_what_a_killed_process_left(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        folder.write_json("evaluation.json", {})
        FolderSink(folder).checkpoint({"w": torch.ones(2)}, {})
        for place in (folder.path, folder.file(CHECKPOINT).parent):
            with atomic_path(place / "x") as mine:
                dead = mine.name.replace(f"-{os.getpid()}-", "-999999999-")
                (place / dead).touch()
    with folder.locked():
        assert not list(folder.path.rglob(".x*"))
        assert sorted(p.name for p in folder.path.iterdir()) == [".lock", "checkpoint", "evaluation.json", "x"]


def test_unwritable_places(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunFolderError, match=r"cannot be written.*--out"),
        RunFolder(tmp_path / "file" / "run").locked(),
    ):
        pass


def test_move_aside(tmp_path):
    names = []
    for number in range(3):
        folder = RunFolder(tmp_path / "run")
        folder.path.mkdir()
        (folder.path / CONFIG).write_text(str(number))
        names.append(folder.move_aside().name)
        assert not folder.path.exists()
    assert names == ["run.old-1", "run.old-2", "run.old-3"]
    assert (tmp_path / "run.old-2" / CONFIG).read_text() == "1"


def test_json_files(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_json("evaluation.json", {"a": [1, 2.5, None], "ü": "x"})
    assert folder.read_json("evaluation.json") == {"a": [1, 2.5, None], "ü": "x"}
    for content in (b"{", b"[1]", b"\xff\xfe", b""):
        (tmp_path / "evaluation.json").write_bytes(content)
        with pytest.raises(RunFolderError, match=r"evaluation\.json"):
            folder.read_json("evaluation.json")
    (tmp_path / "evaluation.json").unlink()
    with pytest.raises(RunFolderError, match="missing"):
        folder.read_json("evaluation.json")


HOSTILE = [
    "",
    " ",
    "a'b\"c",
    "line\nbreak\r\nand\ttab",
    "\\n \\u0041 \\",
    "# no comment",
    "] [section] = 3",
    "\x00\x1f\x7f\x85\u2028\u2029",
    "Łódź 東京 🏠 e\u0301",
    "'''\"\"\"",
]


@pytest.mark.parametrize("text", HOSTILE, ids=repr)
def test_configuration_holds_hostile_text(tmp_path, text):
    sections = {
        "": {"method": Setting(text), "seed": Setting(3, "of every draw", "given")},
        "data": {"origin": Setting(text, "where"), "condition": Setting([text, "b", text]), text or "k": Setting(1)},
    }
    (tmp_path / CONFIG).write_text(render(sections, head="first\nsecond"), encoding="utf-8")
    expected = {
        "method": text,
        "seed": 3,
        "data": {"origin": text, "condition": [text, "b", text], text or "k": 1},
    }
    assert read_config(RunFolder(tmp_path)) == values(sections) == expected


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.text(st.characters(exclude_categories=["Cs"]))
        | st.floats(allow_nan=False)
        | st.integers(-(2**63), 2**63 - 1)
        | st.booleans()
        | st.lists(st.floats(allow_nan=False)),
    )
)
def test_any_setting_survives(settings):
    sections = {"any": {name: Setting(value) for name, value in settings.items()}}
    back = tomllib.loads(render(sections, head="h"))["any"]
    assert back == settings
    assert [type(v) for v in back.values()] == [type(v) for v in settings.values()]


def test_every_setting_says_where_it_came_from():
    text = render(
        {"training": {"steps": Setting(5, "optimiser steps", "given"), "budget": Setting(None, "wall time")}},
        head="Head",
    )
    assert text.splitlines() == [
        "# Head",
        "",
        "[training]",
        "steps = 5  # given; optimiser steps",
        "# budget: not set. wall time",
    ]


def test_damaged_configuration(tmp_path):
    folder = RunFolder(tmp_path)
    for content in (b"a = ", b"\xff\xfe\x00", b"[a\n"):
        (tmp_path / CONFIG).write_bytes(content)
        with pytest.raises(RunFolderError, match=r"config\.toml"):
            read_config(folder)


def test_differences_name_every_change():
    old = {"method": "fm", "training": {"steps": 500, "decay": "cosine"}, "data": {"rows": 10}, "gone": 1}
    new = {"method": "i-cfm", "training": {"steps": 1000, "decay": "cosine", "seed": 1}, "data": {"rows": 10}}
    assert differences(old, new) == [
        "method: 'fm' → 'i-cfm'",
        "training.steps: 500 → 1000",
        "training.seed: not set → 1",
        "gone: 1 → not set",
    ]
    assert differences(old, old) == []
    assert differences({"a": {"b": 1}}, {"a": 2}) == ["a: {'b': 1} → 2"]


def test_history_lines_are_replaced_by_the_run_that_goes_on(tmp_path):
    sink = FolderSink(RunFolder(tmp_path))
    for step in (10, 20, 30):
        sink.metrics(step, {"validation_loss": step / 10, "train_loss": math.nan})
    assert [line["step"] for line in read_history(sink.folder)] == [10, 20, 30]
    assert read_history(sink.folder)[0] == {"step": 10, "validation_loss": 1.0, "train_loss": None}
    # After a crash the run goes on from step 15 and comes by 20 again.
    again = FolderSink(RunFolder(tmp_path))
    again.metrics(20, {"validation_loss": 7.0})
    assert [(line["step"], line["validation_loss"]) for line in read_history(sink.folder)] == [(10, 1.0), (20, 7.0)]
    for line in (tmp_path / METRICS).read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


@pytest.mark.parametrize("line", ["{", "[1]", "null", '{"loss": 1}', '{"step": "x"}', "3"])
def test_a_damaged_history_is_refused(tmp_path, line):
    (tmp_path / METRICS).write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl is damaged"):
        read_history(RunFolder(tmp_path))


def test_sinks_pass_on_progress_and_keep_checkpoints(tmp_path):
    heard = []
    progress = Progress(1, 2, 0.5, 10.0, 0.1)
    folder_sink, memory_sink = FolderSink(RunFolder(tmp_path), heard.append), MemorySink(heard.append)
    for sink in (folder_sink, memory_sink):
        sink.progress(progress)
        sink.metrics(3, {"a": 1.0, "b": math.inf})
        assert sink.history == [{"step": 3, "a": 1.0, "b": None}]
        sink.checkpoint({"w": torch.ones(2)}, {"step": 3})
        sink.close()
    assert heard == [progress, progress]
    tensors, numbers = read_checkpoint(RunFolder(tmp_path))
    assert numbers == {"step": 3}
    assert torch.equal(tensors["w"], torch.ones(2))
    assert read_checkpoint(RunFolder(tmp_path / "elsewhere")) is None
    (tmp_path / CHECKPOINT).write_bytes(b"half a file")
    with pytest.raises(AdvectError, match="damaged"):
        read_checkpoint(RunFolder(tmp_path))
