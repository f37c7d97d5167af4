"""Starting costs little: help does not load torch, and the package loads no optional library. Asserted on modules."""

import subprocess
import sys

import pytest

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
