"""Run folders that were written once and are never written again: every later state of the code opens them."""

import json
import shutil

import pytest
import torch

from advect.errors import RunFolderError
from advect.run import MODEL, RunFolder, read_tensors, write_tensors
from advect.workflows.open import open_run
from benchmarks.reliability.earlier import HOME, KINDS, differences, expected, folders

MOST_BYTES = 60_000


def test_every_kind_is_kept():
    kept = {folder.name for folder in folders() if folder.parent.name == "advect-1"}
    assert kept >= set(KINDS)


@pytest.mark.parametrize("folder", folders(), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_earlier_folder_opens_and_says_what_it_said(folder):
    if folder.name == "cells":
        pytest.importorskip("anndata")
    assert not differences(folder)


@pytest.mark.parametrize("folder", folders(), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_kept_folder_is_small(folder):
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < MOST_BYTES


def test_a_difference_would_be_seen(tmp_path):
    """The comparison is not one that everything passes: a weight that moves a little changes what is said."""
    folder = shutil.copytree(HOME / "advect-1" / "ode", tmp_path / "ode")
    tensors, card = read_tensors(folder / "run" / MODEL)
    moved = {name: t + 0.01 if t.is_floating_point() and t.ndim == 2 else t for name, t in tensors.items()}
    write_tensors(folder / "run" / MODEL, moved, card)
    assert set(differences(folder)) == {"samples differs", "log_prob differs"}
    facts = expected(folder)
    facts["said"]["samples"].pop("x")
    (folder / "expected.json").write_text(json.dumps(facts))
    assert "samples differs" in differences(folder)


def test_a_later_format_is_refused_with_the_remedy(tmp_path, monkeypatch):
    folder = shutil.copytree(HOME / "advect-1" / "ode" / "run", tmp_path / "run")
    tensors, card = read_tensors(folder / MODEL)
    monkeypatch.setattr("advect.run.tensors.FORMAT", "advect-2")
    write_tensors(folder / MODEL, tensors, card)
    monkeypatch.undo()
    with pytest.raises(RunFolderError, match=r"reads 'advect-1'.*Use the version of advect that wrote it, or a newer"):
        open_run(folder)


def test_an_earlier_folder_is_opened_where_it_cannot_be_written(tmp_path):
    """Nothing is written by reading: neither a lock nor anything else."""
    folder = shutil.copytree(HOME / "advect-1" / "layers" / "run", tmp_path / "run")
    before = sorted(path.name for path in folder.rglob("*"))
    assert torch.isfinite(next(iter(open_run(folder).flow.parameters()))).all()
    assert sorted(path.name for path in folder.rglob("*")) == before
    assert RunFolder(folder).state == "finished"
