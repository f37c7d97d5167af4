"""Shared settings: executed shape types, one torch thread, deterministic hypothesis profile, the data folder."""

import functools
import os
import socket
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping
import torch
from beartype import BeartypeConf, beartype
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

HERE = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::", "", None, socket.gethostname())


def refuse_network(event, arguments):
    """No test asks anything of the network; a server on this machine may be asked."""
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host not in HERE and not str(host).startswith("127."):
        raise RuntimeError(f"tests ask nothing of the network, and {host} was asked for")


sys.addaudithook(refuse_network)


def checked(function):
    """Beartype with PEP 484's numeric tower: where a float is asked for, an int will do."""
    return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)


CHECKED_CALLS = 5
_epoch = [0]
_made: dict[object, int] = {}  # how often a function was defined, by its code


def sparing(*, typechecker):
    """`jaxtyping.jaxtyped` for the first calls of each function in each test: the shapes of a solver's thousandth step
    are those of its first, and looking at all of them more than doubles the time of the tests."""

    def apply(target):
        if isinstance(target, type):
            return _jaxtyped(typechecker=typechecker)(target)
        # A function inside a function is made anew in every call of the outer one, and so would its checks be.
        made = _made[target.__code__] = _made.get(target.__code__, 0) + 1
        if made > CHECKED_CALLS:
            return target
        checking, seen = _jaxtyped(typechecker=typechecker)(target), [0, 0]

        @functools.wraps(target)
        def call(*args, **kwargs):
            if seen[0] != _epoch[0]:
                seen[:] = _epoch[0], 0
            if seen[1] >= CHECKED_CALLS:
                return target(*args, **kwargs)
            seen[1] += 1
            return checking(*args, **kwargs)

        return call

    return apply


def pytest_runtest_setup(item):
    """Every test looks anew."""
    _epoch[0] += 1


# Installed before the first import of advect, so that every annotated shape in it is executed by the tests.
_jaxtyped, jaxtyping.jaxtyped = jaxtyping.jaxtyped, sparing
install_import_hook("advect", "tests.conftest.checked")

torch.set_num_threads(1)
settings.register_profile(
    "advect", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], max_examples=50
)
settings.load_profile("advect")


@pytest.fixture
def generator() -> torch.Generator:
    """A fresh generator with a fixed seed."""
    return torch.Generator().manual_seed(0)


@pytest.fixture
def advect_data() -> Path:
    """The folder of larger data sets; skips where it is not given."""
    folder = os.environ.get("ADVECT_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("ADVECT_DATA is not set: the larger data sets are optional")
    return Path(folder)
