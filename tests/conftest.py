"""Shared settings: executed shape types, one torch thread, deterministic hypothesis profile, the data folder."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from beartype import BeartypeConf, beartype
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook


def checked(function):
    """Beartype with PEP 484's numeric tower: where a float is asked for, an int will do."""
    return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)


# Installed before the first import of advect, so that every annotated shape in it is executed by the tests.
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
