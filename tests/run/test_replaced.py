"""A file that is replaced while it is read: what comes back is of one file, and no damage is claimed."""

import pytest
import torch

from advect.errors import RunFolderError
from advect.run import read_tensors, tensors, write_tensors


def test_a_file_replaced_in_the_middle_is_read_anew(tmp_path, monkeypatch):
    path, read, turns = tmp_path / "state", tensors._read, []
    write_tensors(path, {"a": torch.zeros(2)}, {"step": 1})

    def torn(where):
        turns.append(where)
        if len(turns) == 1:
            write_tensors(path, {"a": torch.ones(9)}, {"step": 2})
            raise RunFolderError("its size is another than its header says")
        if len(turns) == 2:
            found = read(where)
            write_tensors(path, {"a": torch.full((9,), 2.0)}, {"step": 3})
            return found
        return read(where)

    monkeypatch.setattr(tensors, "_read", torn)
    found, card = read_tensors(path)
    assert card == {"step": 3}
    assert torch.equal(found["a"], torch.full((9,), 2.0))
    assert len(turns) == 3


def test_damage_is_told_at_once(tmp_path):
    path = tmp_path / "state"
    path.write_bytes(b"no tensors")
    with pytest.raises(RunFolderError, match="damaged"):
        read_tensors(path)
