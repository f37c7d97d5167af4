"""The compiled files of this checkout, built once for all tests that look at them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from advect.transforms import kernel

ROOT = Path(__file__).parent.parent.parent


def build(folder, **environment):
    """What an installation does with the kernels."""
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", folder / "lib", "--build-temp", folder / "temp"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The package's folder with what this checkout compiles; beside the sources it may be older, or not there."""
    pytest.importorskip("setuptools")
    if shutil.which("c++") is None and shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("kernel")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder / "lib" / "advect"


@pytest.fixture(params=kernel.compiled.SETS)
def instructions(request, built, monkeypatch):
    """Each instruction set of the compiled layers in turn, where this processor and this compiler have it."""
    monkeypatch.setattr(kernel, "LIBRARY", built / "transforms" / "layers_kernel.so")
    monkeypatch.setenv("ADVECT_KERNEL", request.param)
    if kernel.instruction_set() != request.param:
        pytest.skip(f"no {request.param} here")
    return request.param
