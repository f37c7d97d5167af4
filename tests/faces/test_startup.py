"""Starting costs little: help does not load torch, and the package loads no optional library. Asserted on modules."""

import os
import subprocess
import sys

import pytest

from advect import cli

HEAVY = ("pandas", "polars", "pyarrow", "matplotlib", "sklearn", "ot", "rich", "cyclopts", "scipy", "PIL", "jinja2")


def modules_after(code: str, tmp_path) -> set[str]:
    """Top-level modules that are loaded once ``code`` has run in a fresh process."""
    report = "import sys; sys.stderr.write('\\n'.join({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, cwd=tmp_path, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        [],
        *([verb, "--help"] for verb in ("train", "sample", "score", "transport", "compare", "doctor")),
    ],
    ids=" ".join,
)
def test_help_does_not_load_torch(arguments, tmp_path):
    loaded = modules_after(f"from advect.cli.app import run\nassert run({arguments!r}) == 0", tmp_path)
    assert loaded.isdisjoint({"torch", "numpy", "scipy", "pandas", "matplotlib", "jaxtyping"})
    assert "cyclopts" in loaded  # so that the assertion above looked at the right thing


@pytest.mark.parametrize(
    "arguments", [["trian"], ["train"], ["train", "moons", "--stpes", "3"], ["sample", "run", "-n", "x"]]
)
def test_usage_errors_do_not_load_torch(arguments, tmp_path):
    code = f"""
import contextlib, io
from advect.cli.app import run
with contextlib.redirect_stderr(io.StringIO()):
    assert run({arguments!r}) == 2
"""
    loaded = modules_after(code, tmp_path)
    assert "torch" not in loaded


def test_importing_advect_loads_no_optional_library(tmp_path):
    assert modules_after("import advect", tmp_path).isdisjoint({*HEAVY, "torch", "numpy"})


def test_using_advect_loads_no_optional_library(tmp_path):
    """The names themselves need torch and SciPy; frames, plots and the face's libraries stay out."""
    loaded = modules_after("import advect\nadvect.fit, advect.load, advect.Model", tmp_path)
    assert loaded.isdisjoint({"pandas", "polars", "pyarrow", "matplotlib", "sklearn", "ot", "rich", "cyclopts"})
    assert "torch" in loaded


def test_the_module_is_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "advect", "--version"], capture_output=True, text=True, cwd=tmp_path, timeout=100
    )
    assert done.returncode == 0
    assert done.stdout.strip()[0].isdigit()


@pytest.mark.parametrize(
    ("load", "given", "expected"),
    [
        (0.1, {}, {}),
        (5.0, {}, {"GOMP_SPINCOUNT": cli.BUSY_SPINS}),
        (5.0, {"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        (5.0, {"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
    ],
)
def test_on_a_busy_machine_threads_wait_asleep_unless_told_otherwise(monkeypatch, load, given, expected):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # a copy: what is written does not stay
    cli._share_the_cores()
    assert {name: os.environ[name] for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY") if name in os.environ} == expected
