"""The compiled files of this checkout, built once for all tests that look at them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from advect.transforms import kernel

ROOT = Path(__file__).parent.parent.parent


PACKAGE = ROOT / "src" / "advect"
COMPILED = (
    "couplings/assignment_kernel.so",
    "couplings/scaling_kernel.so",
    "transforms/layers_kernel.so",
    "networks/perceptron_kernel.so",
    "networks/residual_kernel.so",
    "networks/norm_kernel.so",
    "networks/attention_kernel.so",
    "networks/convolution_kernel.so",
    "training/advance_kernel.so",
)


def fresh():
    """Whether what lies beside the sources was made of them: an installation has just compiled it."""
    made = [PACKAGE / name for name in COMPILED]
    sources = [ROOT / "setup.py", *PACKAGE.rglob("*.cpp"), *PACKAGE.rglob("*.h")]
    if not all(path.exists() for path in made):
        return False
    return min(path.stat().st_mtime for path in made) > max(path.stat().st_mtime for path in sources)


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
    """The package's folder with what this checkout compiles; compiled anew where it is older than its sources."""
    if fresh():
        return PACKAGE
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
