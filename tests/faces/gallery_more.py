"""More bad input: files that lie, times, devices, comparisons, and what is asked from Python."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.faces.gallery_cases import Case, Damage, array, noise, text
from tests.faces.made_runs import QUICK

TIMED = "".join(f"{day},{(7 * i) % 11 / 3 + day:.2f},{(5 * i) % 13 / 4:.2f}\n" for day in (0, 2, 5) for i in range(20))
TIMED_TRAIN = f"train timed.csv --time-key day {QUICK} --method ot-cfm --out timed"


def content(name: str, data: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(data)


def lying_header(folder: Path) -> None:
    np.save(folder / "a.npy", np.ones((40, 2)))
    data = (folder / "a.npy").read_bytes()
    (folder / "a.npy").write_bytes(data.replace(b"(40, 2)", b"(4000000000, 2)".ljust(7), 1)[: len(data)])


def packed_zeros(folder: Path) -> None:
    np.savez_compressed(folder / "a.npz", X=np.zeros(1 << 16))
    data = (folder / "a.npz").read_bytes()
    (folder / "a.npz").write_bytes(data[: len(data) // 2])


def two_arrays(folder: Path) -> None:
    np.savez(folder / "a.npz", left=np.eye(5), right=np.eye(6))


def pictures(folder: Path, *, good: int, bad: int) -> None:
    from PIL import Image

    (folder / "pictures").mkdir()
    for number in range(good):
        Image.fromarray(noise_picture(number)).save(folder / f"pictures/{number}.png")
    for number in range(bad):
        (folder / f"pictures/bad{number}.png").write_bytes(noise(300))


def noise_picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (8, 8)).astype(np.uint8)


def white(folder: Path) -> None:
    from PIL import Image

    Image.new("L", (9, 9), 255).save(folder / "a.png")


IDX = b"\0\0\x08\x03" + struct.pack(">III", 4_000_000_000, 28, 28) + bytes(100)
WIDE = np.zeros((2, (1 << 20) + 1), np.uint8)

LIES = [
    Case("a header that lies", "train a.npy", "a.npy", "cut short or damaged", lying_header),
    Case("an archive cut in half", "train a.npz", "a.npz", "fetch or save it again", packed_zeros),
    Case("an archive of two arrays", "train a.npz", "a.npz", "Say which", two_arrays),
    Case("an idx header that lies", "train a.idx", "a.idx", "damaged", content("a.idx", IDX)),
    Case("an array too wide", "train a.npy", "a.npy", "transpose", array("a.npy", WIDE)),
    Case(
        "parquet that is text",
        "train a.parquet",
        "a.parquet",
        "fetch or save it again",
        text("a.parquet", "a,b\n1,2\n"),
    ),
    Case("cells that are text", "train a.h5ad", "a.h5ad", "fetch or save it again", text("a.h5ad", "a,b\n1,2\n")),
    Case("a pipe in place of a file", "train a.csv", "a.csv", "ordinary file", lambda f: os.mkfifo(f / "a.csv")),
    Case("UTF-16", "train a.csv", "a.csv", "UTF-8", content("a.csv", "a,b\n1,2\n3,4\n".encode("utf-16"))),
    Case("NUL bytes", "train a.csv", "a.csv", "text", content("a.csv", b"a,b\n1,\x002\n3,4\n")),
    Case(
        "decimal commas",
        "train a.csv",
        "line 2",
        "decimal points",
        text("a.csv", "a;b\n1,5;2\n2,5;3\n1;4\n2;3\n3;1\n4;2\n"),
    ),
    Case(
        "terminal codes in a name", "train a.csv", "\\x1b[2J", "own name", text("a.csv", "\x1b[2J,\x1b[2J\n1,2\n3,4\n")
    ),
    Case("a white picture", "train a.png", "a.png", "dark", white),
    Case(
        "pictures most of which are damaged",
        "train pictures",
        "pictures",
        "remove them",
        lambda f: pictures(f, good=2, bad=3),
    ),
    Case("a folder without pictures", "train foreign", "foreign", "Known endings"),
]

TIMES = [
    Case("no column of times", "train cloud.csv --time-key day", "'day'", "Known", None),
    Case("a time after the last", "sample timed --at 9 -n 5", "9", "0 to 5"),
    Case("a time before the first", "sample timed --at -1 -n 5", "-1", "0 to 5"),
    Case("a time in words", "sample timed --at soon -n 5", "soon", "0"),
    Case("a time of a model without times", "sample run --at 1 -n 5", "--at", "--time-key"),
    Case("a velocity of a model without times", "velocity run houses.csv", "run", "--time-key"),
    Case("a time to leave out that is not there", f"{TIMED_TRAIN}2 --leave-out 3", "3", "0"),
    Case("transport from a time outside", "transport timed timed.csv --from 9 --to 5", "9", "0 to 5"),
    Case("transport backwards in words", "transport timed timed.csv --from 0 --to later", "later", "0"),
]

MACHINES = [
    Case("a graphics card that is not there", "train houses.csv --device cuda:99", "--device", "cpu"),
    Case("a device of another kind", "train houses.csv --device tpu", "tpu", "cpu"),
]

MORE_VERBS = [
    Case("compare: an unknown method", "compare cloud.csv --methods nsf,mfa --out c", "mfa", "maf"),
    Case("compare: a seed in words", "compare cloud.csv --methods nsf --seeds one --out c", "--seeds", "whole"),
    Case("compare: no methods", "compare cloud.csv --out c", "--methods", "compare --help"),
    Case(
        "compare: steps and budget", "compare cloud.csv --methods nsf --steps 5 --budget 2m --out c", "--budget", "one"
    ),
    Case("animate: no frames", "animate run --frames 0", "--frames", "at least"),
    Case("animate: negative rows", "animate run --rows -3", "--rows", "at least"),
    Case("score: tolerance of zero", "score run houses.csv --tol 0", "--tol", "positive"),
    Case("score: tolerance in words", "score run houses.csv --tol small", "small", "number"),
    Case("complete: draws of zero", "sample run --given houses.csv --draws 0", "--draws", "at least 1"),
    Case(
        "weights of a negative count",
        "train a.csv --weights n",
        "'n'",
        "not negative",
        text("a.csv", "x,n\n" + "".join(f"{i / 3},{i - 2}\n" for i in range(30))),
    ),
    Case("verify: an unknown method", "verify ot-cmf", "ot-cmf", "ot-cfm"),
    Case(
        "a batch larger than memory",
        f"train houses.csv {QUICK} --batch-size 100000000000000",
        "--batch-size",
        "at most",
    ),
]

COMMANDS = [*LIES, *TIMES, *MACHINES, *MORE_VERBS]


@dataclass(frozen=True)
class Call:
    """A refusal from Python.

    Attributes:
        name: Of the test.
        code: What is called; shown on the page and evaluated with ``advect``, ``np``, ``torch`` and models by name.
        place: Text that says where; must stand in the message.
        remedy: Text that says what to do; must stand in the message.
    """

    name: str
    code: str
    place: str
    remedy: str


CALLS = [
    Call("one number", "advect.fit(np.array(3.0))", "array", "shape (rows, columns)"),
    Call("one sample", "advect.fit(np.ones((1, 3)))", "array", "at least 2 rows"),
    Call("no rows", "advect.fit(np.ones((0, 3)))", "array", "at least 2 rows"),
    Call("no columns", "advect.fit(np.ones((5, 0)))", "array", "shape (rows, columns)"),
    Call("NaN", "advect.fit(np.array([[1.0, np.nan], [2.0, 3.0]]))", "row 0", "is a gap"),
    Call("a list", "advect.fit([[1, 2], [3, 4]])", "list", "NumPy array"),
    Call("a sparse tensor", "advect.fit(torch.eye(5).to_sparse())", "tensor", "to_dense"),
    Call("steps of zero", "advect.fit(np.eye(9), steps=0)", "steps", "at least 1"),
    Call("an unknown setting", "advect.fit(np.eye(9), sigam=0.1)", "sigam", "sigma"),
    Call("an unknown method", "advect.fit(np.eye(9), method='ot-cmf')", "ot-cmf", "ot-cfm"),
    Call("a negative count", "model.sample(-5)", "-n", "1"),
    Call("a count of zero", "model.sample(0)", "-n", "1"),
    Call("rows of another width", "model.log_prob(np.ones((4, 7)))", "7", "2"),
    Call("pictures for a table", "model.log_prob(np.ones((4, 3, 8, 8)))", "(3, 8, 8)", "2"),
    Call("latent rows of another width", "model.decode(np.ones((4, 3)))", "3", "2"),
    Call("times outside", "model.trajectory(10, times=[0.0, 1.5])", "1.5", "0"),
    Call("times that turn", "model.trajectory(10, times=[0.0, 0.7, 0.3])", "times", "Sort them"),
    Call("a condition for a model without", "model.sample(3, condition='BAY')", "condition", "Train with"),
    Call("no run", "advect.load('nowhere')", "nowhere", "advect train"),
    Call("a device that is not there", "advect.fit(np.eye(9), device='cuda:99')", "device", "cpu"),
]
