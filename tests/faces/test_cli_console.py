"""What the command shows, and how every way of ending becomes an exit code."""

import json
import math
import os
import pty
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from advect.cli import look
from advect.cli.app import run
from advect.cli.console import duration, say, say_error, show_json, show_pairs, show_rows, show_table
from advect.cli.listener import TerminalListener, progress_line
from advect.cli.options import seconds
from advect.errors import ConfigError
from advect.progress import Progress
from advect.records import Table


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (0, "0 s"),
        (0.0123, "0.012 s"),
        (1.4, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (math.nan, "an unknown time"),
        (math.inf, "an unknown time"),
    ],
)
def test_durations(given, text):
    assert duration(given) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [("90", 90), ("90s", 90), ("2m", 120), ("2 min", 120), ("1h30m", 5400), ("1.5h", 5400), ("2M", 120)],
)
def test_durations_are_read(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "soon", "2x", "-5s", "m", "1h30q", "0", "0s", "nan", "inf"])
def test_other_durations_are_refused(text):
    with pytest.raises(ConfigError, match="--budget"):
        seconds(text)


def progress(step: int, steps: int = 1000) -> Progress:
    shares = {"network": 0.6, "coupling": 0.2, "data": 0.15, "optimiser": 0.02}
    return Progress(step=step, steps=steps, loss=0.41234, rate=310.4, seconds_left=(steps - step) / 310, shares=shares)


def test_the_live_line_has_loss_rate_and_time_left():
    assert progress_line(progress(380)) == (
        "step 380/1000  loss 0.4123  310 steps/s  2 s left  network 60%, coupling 20%, data 15%"
    )
    assert "  310 steps/s (79k rows/s)  2 s left" in progress_line(replace(progress(380), rows_per_second=79360.0))
    assert "under 1 s left" in progress_line(progress(999))
    assert "done" in progress_line(progress(1000))


def test_the_live_line_of_several_processes_has_the_rows_of_all_and_the_shares_of_each():
    both = replace(
        progress(380), rows_per_second=2483.2, processes=({"network": 0.6}, {"network": 0.55, "messages": 1})
    )
    assert progress_line(both) == (
        "step 380/1000  loss 0.4123  310 steps/s (2483 rows/s)  2 s left  network 60/55%, coupling 0/0%, data 0/0%"
    )
    many = replace(both, processes=tuple({"network": 0.1 * n} for n in range(1, 9)))
    assert "network 10%…80%, " in progress_line(many)


def test_without_a_terminal_there_is_a_line_every_tenth(capsys):
    listener = TerminalListener()
    for step in range(1, 1001):
        listener.progress(progress(step))
    listener.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split()[1] for line in captured.err.splitlines()] == [f"{n}/1000" for n in range(100, 1001, 100)]


def test_quiet_shows_notes_only(capsys):
    listener = TerminalListener(quiet=True)
    listener.phase("reading")
    listener.progress(progress(1000))
    listener.note("a note")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "a note\n")


def test_on_a_terminal_the_line_is_written_over_and_ended_before_other_text():
    code = (
        "from tests.faces.test_cli_console import progress, TerminalListener\n"
        "listener = TerminalListener()\n"
        "for step in (100, 200, 1000): listener.progress(progress(step))\n"
        "listener.note('after')\n"
    )
    shown = in_a_terminal([sys.executable, "-c", code], columns=60)
    live, after = shown.split("\r\n")[:2]
    assert after.strip() == "after"
    lines = live.split("\r\x1b[2K")[1:]
    assert [line.split()[1] for line in lines] == ["100/1000", "200/1000", "1000/1000"]
    assert all(len(line) < 60 for line in lines)  # a line that wraps could not be written over


def in_a_terminal(command: list[str], *, columns: int) -> str:
    """What a command writes to a pseudo-terminal of this width."""
    parent, child = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "LINES": "40", "TERM": "xterm"}
    process = subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment)
    os.close(child)
    shown = b""
    try:
        while block := os.read(parent, 4096):
            shown += block
    except OSError:  # the other end was closed
        pass
    os.close(parent)
    assert process.wait(60) == 0, shown.decode()
    return shown.decode()


@pytest.mark.parametrize("verb", ["methods", "data", "explain ot-cfm"])
def test_tables_fit_a_terminal_of_a_hundred_columns(verb):
    shown = in_a_terminal([sys.executable, "-m", "advect", *verb.split()], columns=100)
    plain = [line.rstrip() for line in shown.replace("\x1b[1m", "").replace("\x1b[0m", "").split("\r\n")]
    assert len(plain) > 5
    assert max(map(len, plain)) <= 104  # the line on files may run over: it is made to be copied


def test_json_is_json(capsys):
    show_json({"a": math.nan, "b": np.float32(0.5), "c": [np.int64(3), -math.inf, None, True], "d": {"π": "σ"}})
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": None, "b": 0.5, "c": [3, None, None, True], "d": {"π": "σ"}}
    assert out.count("\n") == 1


def test_text_is_shown_as_it_is(capsys):
    """Brackets and colons of a user's names are no markup."""
    say("[bold]x[/] :smile: [/nothing]")
    say_error("column '[red]a':\n  line two")
    captured = capsys.readouterr()
    assert captured.err == "[bold]x[/] :smile: [/nothing]\nerror: column '[red]a': line two\n"


def test_tables_are_tab_separated_where_there_is_no_terminal(capsys):
    show_table(["a", "[b]"], [["1", ":x:"], ["", "2"]])
    show_pairs([("name", "value"), ("longer name", "other")])
    assert capsys.readouterr().out == "a\t[b]\n1\t:x:\n\t2\n  name         value\n  longer name  other\n"


def test_rows_are_shown_with_gaps_empty_and_the_rest_counted(capsys):
    values = np.array([1.5, math.nan, *range(18)])
    words = np.array(["a", None, *["b"] * 18], dtype=object)
    flags = np.array([True, False] * 10)
    show_rows(Table(("x", "w", "f"), (values, words, flags), "csv", (3,), ("float64", "str", "bool")))
    captured = capsys.readouterr()
    assert captured.out.splitlines()[:3] == ["x\tw\tf", "1.5\ta\ttrue", "\t\tfalse"]
    assert len(captured.out.splitlines()) == 11
    assert "10 of 20" in captured.err


# Ways to end


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "Interrupted"),
        (MemoryError(), 2, "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 2, "not enough memory"),
        (ConfigError("a fault of yours", remedy="Mend it."), 2, "a fault of yours. Mend it."),
        (ZeroDivisionError("a fault of ours"), 70, "report it"),
    ],
)
def test_every_way_to_end_is_one_line_and_a_code(raised, code, words, monkeypatch, capsys):
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.delenv("ADVECT_TRACEBACK", raising=False)
    monkeypatch.setattr(look, "show_table", fail)
    assert run(["data"]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert words in captured.err
    assert captured.err.count("\n") == 1


def test_a_fault_of_ours_can_be_traced(monkeypatch):
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setenv("ADVECT_TRACEBACK", "1")
    monkeypatch.setattr(look, "show_table", fail)
    with pytest.raises(ZeroDivisionError):
        run(["data"])


def test_a_reader_that_goes_away_is_no_error(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "advect", "data"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        timeout=100,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_terminal_without_greek_shows_question_marks(tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "advect", "explain", "sb-cfm"],
        capture_output=True,
        cwd=tmp_path,
        env=environment,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert b"Schr?dinger" in done.stdout
