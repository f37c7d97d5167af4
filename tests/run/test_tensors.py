"""Tensors on disk: every dtype and shape to the last bit, every float of the card, and no code."""

import ast
import json
import math
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import advect
from advect.errors import RunFolderError
from advect.run import load_weights, read_tensors, write_tensors

SOURCE = Path(advect.__file__).parent


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3, 4)], ids=str)
def test_every_dtype_and_shape(tmp_path, dtype, shape):
    values = 100 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    tensor = values.to(dtype)
    write_tensors(tmp_path / "t", {"a.b": tensor, "": tensor[..., :1] if shape else tensor}, {})
    back, _ = read_tensors(tmp_path / "t")
    assert back.keys() == {"a.b", ""}
    assert back["a.b"].dtype == dtype
    assert back["a.b"].shape == tensor.shape
    assert bits(back["a.b"]) == bits(tensor)


def test_special_numbers_survive(tmp_path):
    special = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308], dtype=torch.float64)
    write_tensors(tmp_path / "t", {"a": special, "b": special.float()}, {})
    back, _ = read_tensors(tmp_path / "t")
    assert bits(back["a"]) == bits(special)
    assert bits(back["b"]) == bits(special.float())


def test_shared_strided_and_tracked_tensors(tmp_path):
    """Views, transposes, expanded rows, weights with a gradient: what safetensors refuses is copied first."""
    base = torch.arange(12.0).reshape(3, 4)
    weight = torch.nn.Parameter(base.clone())
    tensors = {"a": base, "b": base.T, "c": base[1], "d": base[:, ::2], "e": base[:1].expand(5, 4), "f": weight * 2}
    write_tensors(tmp_path / "t", tensors, {})
    back, _ = read_tensors(tmp_path / "t")
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert not back["f"].requires_grad


@given(st.dictionaries(st.text(), st.floats(allow_nan=False) | st.integers() | st.text() | st.none() | st.booleans()))
def test_card_is_exact(tmp_path_factory, card):
    path = tmp_path_factory.mktemp("card") / "t"
    write_tensors(path, {}, card)
    back = read_tensors(path)[1]
    assert back == card
    for name, value in card.items():
        if isinstance(value, float):
            assert struct.pack("<d", back[name]) == struct.pack("<d", value)


def test_nested_card(tmp_path):
    card = {"a": [1, 2.5, "ü\n'\"", None, {"b": [0.1 + 0.2, 1e-320]}], "seconds": math.nan}
    write_tensors(tmp_path / "t", {"x": torch.ones(1)}, card)
    back = read_tensors(tmp_path / "t")[1]
    assert back["a"] == card["a"]
    assert math.isnan(back["seconds"])


def damage(good: bytes) -> dict[str, bytes]:
    return {
        "empty": b"",
        "short": good[:7],
        "cut header": good[:40],
        "cut data": good[:-3],
        "longer": good + b"\0\0",
        "random": bytes((7 * i + 13) % 256 for i in range(500)),
        "text": b"not tensors\n" * 20,
        "pickle": b"\x80\x04\x95" + b"." * 200,
        "huge header": struct.pack("<Q", 2**62) + good[8:],
    }


@pytest.mark.parametrize("kind", damage(b"x" * 100))
def test_damaged_files_are_refused(tmp_path, kind):
    path = write_tensors(tmp_path / "t", {"a": torch.arange(10.0)}, {"n": 1})
    path.write_bytes(damage(path.read_bytes())[kind])
    with pytest.raises(RunFolderError, match="damaged") as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)
    assert "--restart" in str(caught.value)


def test_missing_file_and_folder_in_its_place(tmp_path):
    with pytest.raises(RunFolderError, match="t is missing"):
        read_tensors(tmp_path / "t")
    (tmp_path / "t").mkdir()
    with pytest.raises(RunFolderError):
        read_tensors(tmp_path / "t")


def test_formats_from_elsewhere_are_refused(tmp_path):
    later, bare = '{"format": "advect-99", "card": {}}', '{"format": "advect-1"}'
    for number, header in enumerate([None, {}, {"format": "pt"}, {"advect": later}, {"advect": bare}, {"advect": "3"}]):
        path = tmp_path / f"{number}.safetensors"
        save_file({"a": torch.ones(2)}, path, metadata=header)
        with pytest.raises(RunFolderError, match="is not known to this version"):
            read_tensors(path)


@pytest.mark.parametrize("card", ["{", "[1]", '"text"', "3", "null"])
def test_a_damaged_card_is_refused(tmp_path, card):
    header = '{"format": "advect-1", "card": ' + card + "}"
    save_file({"a": torch.ones(2)}, tmp_path / "t", metadata={"advect": header})
    with pytest.raises(RunFolderError, match="damaged"):
        read_tensors(tmp_path / "t")


def test_weights_that_do_not_fit():
    module = torch.nn.Linear(2, 3)
    for tensors in ({}, {"weight": torch.ones(3, 2)}, {"weight": torch.ones(9, 9), "bias": torch.ones(3)}):
        with pytest.raises(RunFolderError, match="do not fit"):
            load_weights(module, tensors, "here")
    load_weights(module, {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}, "here")
    assert torch.equal(module.weight, torch.ones(3, 2))


def test_a_crash_keeps_the_old_tensors(tmp_path, monkeypatch):
    path = write_tensors(tmp_path / "t", {"a": torch.ones(2)}, {"n": 1})

    def half(where, content):
        with open(where, "wb") as stream:
            stream.write(content[: len(content) // 2])
        raise RuntimeError("killed")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(RuntimeError, match="killed"):
        write_tensors(path, {"a": torch.zeros(2)}, {"n": 2})
    monkeypatch.undo()
    tensors, card = read_tensors(path)
    assert card == {"n": 1}
    assert torch.equal(tensors["a"], torch.ones(2))


def imports_and_calls(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"{node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield f"allow_pickle={ast.unparse(node.value)}"


FORBIDDEN_ROOTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "_pickle"}
FORBIDDEN = {"torch.load", "torch.save", "eval", "exec", "importlib.reload", "np.save"}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_source_file_can_load_code(path):
    """Trap A7: neither pickle nor torch.load nor eval anywhere in the package."""
    used = set(imports_and_calls(ast.parse(path.read_text(encoding="utf-8"))))
    assert not {name for name in used if name.split(".")[0] in FORBIDDEN_ROOTS}
    assert not used & FORBIDDEN
    assert "allow_pickle=True" not in used


def test_json_is_what_a_card_is(tmp_path):
    """The header can be read by anything that knows safetensors: eight bytes of length, then JSON."""
    path = write_tensors(tmp_path / "t", {"a": torch.ones(2)}, {"n": 1})
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    assert json.loads(header["__metadata__"]["advect"]) == {"format": "advect-1", "card": {"n": 1}}


def test_same_content_same_bytes(tmp_path):
    """So that two runs, or a model and its copy, can be compared by their checksums."""
    tensors = {name: torch.full((3,), float(i)) for i, name in enumerate("hgfedcba")}
    card = {"z": 1, "a": [1.5, None]}
    written = {write_tensors(tmp_path / f"{i}", tensors, card).read_bytes() for i in range(8)}
    assert len(written) == 1
