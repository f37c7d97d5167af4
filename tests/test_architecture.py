"""The house keeps its shape: few dependencies, named public things, small files, no drawer for odds and ends."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import advect

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "advect"
FILES = sorted(SOURCE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

each_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))


def package(requirement: str) -> str:
    return re.split(r"[<>=!~\[ ;]", requirement)[0]


def test_dependencies_are_these():
    """Trap A5: few of them, and a new one is a decision."""
    assert {package(r) for r in PROJECT["dependencies"]} == {
        *("torch", "numpy", "scipy", "cyclopts", "rich", "safetensors", "matplotlib", "Pillow", "jinja2"),
        *("jaxtyping", "tomli-w"),
    }
    extras = {"sklearn", "tables", "cells", "ot", "web", "test", "bench", "docs", "dev"}
    assert extras <= set(PROJECT["optional-dependencies"])


def test_dependencies_have_lower_bounds_and_no_pins():
    """Trap A5: a pin forces an old torch on everyone; only the command line's parser has a bound above."""
    for requirement in PROJECT["dependencies"]:
        assert ">=" in requirement, requirement
        assert "==" not in requirement, requirement
        assert "<" not in requirement or package(requirement) == "cyclopts", requirement


def test_public_names_are_these():
    """Trap A6: a name that goes is deprecated first; a name that comes is listed here."""
    assert advect.__all__ == ["AdvectError", "Flow", "FlowEstimator", "Model", "compare", "fit", "load", "verify"]
    for name in advect.__all__:
        assert getattr(advect, name).__doc__
        assert name in dir(advect)
    with pytest.raises(AttributeError, match="sampel"):
        _ = advect.sampel


@each_file
def test_files_and_functions_stay_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                lines -= first.end_lineno - first.lineno + 1
            assert lines <= 80, f"{node.name} has {lines} lines"


@each_file
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@each_file
def test_no_drawer_for_odds_and_ends(path):
    parts = {part.removesuffix(".py").strip("_") for part in path.relative_to(SOURCE).parts}
    assert not parts & {"utils", "util", "helpers", "helper", "misc", "common", "tools"}


@each_file
def test_names_on_a_doorplate_exist(path):
    """What a module lists in ``__all__`` is there, once."""
    listed = [
        ast.literal_eval(node.value)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    ]
    if not listed:
        return
    name = ".".join(("advect", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
    module = importlib.import_module(name)
    assert len(listed[0]) == len(set(listed[0]))
    assert [n for n in listed[0] if not hasattr(module, n)] == []


OPTIONAL = {"pandas", "polars", "pyarrow", "anndata", "ot", "sklearn", "sbi", "zuko", "nflows", "starlette", "uvicorn"}


def imported_at_import_time(tree: ast.Module):
    """Names of packages imported by statements outside functions."""
    todo = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


@each_file
def test_optional_packages_wait_until_they_are_needed(path):
    used = set(imported_at_import_time(ast.parse(path.read_text(encoding="utf-8"))))
    assert not used & OPTIONAL


@each_file
def test_direct_imports_are_declared(path):
    used = set(imported_at_import_time(ast.parse(path.read_text(encoding="utf-8"))))
    declared = {package(r).lower() for r in PROJECT["dependencies"]} | {"PIL", "tomli_w", "advect"}
    assert used - set(sys.stdlib_module_names) <= declared


def test_importing_advect_is_light():
    """Nothing heavy is loaded before the first name is used; with every name, still no optional package."""
    code = (
        "import sys, advect; assert 'torch' not in sys.modules; "
        "[getattr(advect, name) for name in advect.__all__]; "
        f"print(sorted(set(sys.modules) & {OPTIONAL | {'matplotlib', 'rich', 'cyclopts'}!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@each_file
def test_only_the_faces_print(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.relative_to(SOURCE).parts[0] == "cli":
        return
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"print", "sys.stdout.write", "sys.stderr.write", "pprint"}


GLOBAL_STATE = re.compile(
    r"torch\.(set_default_dtype|set_num_threads|use_deterministic_algorithms|set_default_device)\b"
    r"|np\.random\.(seed|rand|randn|shuffle|permutation|choice|normal|uniform)\b"
)


@each_file
def test_nobody_touches_global_state(path):
    assert not GLOBAL_STATE.search(path.read_text(encoding="utf-8"))
