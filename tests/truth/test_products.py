"""The compiled matrix products against NumPy's, for the instructions of this machine and for plain ones."""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

PROBE = Path(__file__).with_name("products_probe.cpp")
FLAGS = {
    "DEFAULT": [],
    "AVX2": ["-mavx2", "-mfma"],
    "AVX512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"],
}
PACKED, TURNED, AS_IT_LIES = range(3)


@pytest.fixture(scope="module", params=["plain", "best"])
def probe(request, tmp_path_factory):
    """The products as a library of their own."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    best = torch.backends.cpu.get_cpu_capability()
    flags = FLAGS.get(best, []) if platform.machine() in ("x86_64", "AMD64") else []
    if request.param == "best" and not flags:
        pytest.skip("nothing better than plain here")
    target = tmp_path_factory.mktemp("products") / "probe.so"
    flags = flags if request.param == "best" else []
    common = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Werror"]
    done = subprocess.run(
        [compiler, *common, *flags, str(PROBE), "-o", str(target)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(target))


def multiplied(probe, a, b, start, how):
    """S + A B, in rows of whole vectors, and how many columns of it count."""
    real = "float" if a.dtype == np.float32 else "double"
    lanes = getattr(probe, f"lanes_{real}")()
    rows, depth = a.shape
    columns = b.shape[1]
    room = -(-columns // lanes) * lanes
    padded = np.zeros((len(start), room), a.dtype)
    padded[:, :columns] = start
    out = np.full((rows, room), np.nan, a.dtype)
    given = {PACKED: b, TURNED: b.T, AS_IT_LIES: np.pad(b, ((0, 0), (0, room - columns)))}[how]
    given = np.ascontiguousarray(given)
    strides = [ctypes.c_int64(stride // a.itemsize) for stride in a.strides]
    getattr(probe, f"probe_{real}")(
        *map(ctypes.c_int64, (rows, room if how == AS_IT_LIES else columns, depth)),
        ctypes.c_void_p(a.ctypes.data),
        *strides,
        ctypes.c_void_p(given.ctypes.data),
        how,
        ctypes.c_void_p(padded.ctypes.data if len(start) else None),
        ctypes.c_int64(room if len(start) > 1 else 0),
        ctypes.c_void_p(out.ctypes.data),
    )
    assert np.isfinite(out).all()  # every number of every whole vector
    assert (out[:, columns:] == 0).all()
    return out[:, :columns]


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("how", [PACKED, TURNED, AS_IT_LIES])
@pytest.mark.parametrize("shape", [(1, 1, 1), (6, 32, 5), (7, 33, 64), (13, 130, 3), (4, 2, 0), (50, 64, 41)])
def test_a_product_is_that_of_numpy(probe, real, how, shape):
    rows, columns, depth = shape
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((rows, depth)).astype(real), rng.standard_normal((depth, columns)).astype(real)
    for left in (a, np.asfortranarray(a)):
        for start in (np.zeros((0, columns)), rng.standard_normal((1, columns)), rng.standard_normal((rows, columns))):
            start = start.astype(real)
            found = multiplied(probe, left, b, start, how)
            exact = a.astype(np.longdouble) @ b.astype(np.longdouble) + start.sum(
                0 if len(start) < 2 else (), dtype=np.longdouble
            )
            # Of n terms summed in any order, rounded each time: n eps times the sum of their sizes (Higham 2002).
            size = np.abs(a) @ np.abs(b) + (np.abs(start).sum(0) if len(start) < 2 else np.abs(start))
            assert (np.abs(found - exact) <= (depth + 1) * np.finfo(real).eps * size).all()


def test_a_row_says_the_same_whatever_stands_beside_it(probe):
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((11, 20)).astype(np.float32), rng.standard_normal((20, 40)).astype(np.float32)
    whole = multiplied(probe, a, b, np.zeros((0, 40), np.float32), TURNED)
    for row in range(11):
        assert (multiplied(probe, a[row : row + 1], b, np.zeros((0, 40), np.float32), TURNED) == whole[row]).all()
