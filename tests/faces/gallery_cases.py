"""The gallery of bad input: what is done, and what the one paragraph must say about the place and the remedy."""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.faces.made_runs import QUICK

Damage = Callable[[Path], object]
HEAD = "price,rooms,place,garden,age\n"


@dataclass(frozen=True)
class Case:
    """One refusal.

    Attributes:
        name: Of the test.
        command: Without the leading ``advect``.
        place: Text that says where; must stand in the message.
        remedy: Text that says what to do; must stand in the message.
        damage: Done to the folder first.
    """

    name: str
    command: str
    place: str
    remedy: str
    damage: Damage | None = None


def text(name: str, content: str) -> Damage:
    return lambda folder: (folder / name).write_text(content)


def array(name: str, values: np.ndarray, *, pickled: bool = False) -> Damage:
    return lambda folder: np.save(folder / name, values, allow_pickle=pickled)


def with_value(value: float) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(50, 3))
    values[17, 2] = value
    return values


def noise(count: int) -> bytes:
    return np.random.default_rng(1).bytes(count)


def random_bytes(name: str) -> Damage:
    packed = name.endswith(".gz")
    return lambda folder: (folder / name).write_bytes(gzip.compress(noise(700)) if packed else noise(700))


def truncate(name: str) -> Damage:
    def cut(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:-200])

    return cut


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def cut_checkpoint(folder: Path) -> None:
    remove("run/model.safetensors")(folder)
    truncate("run/checkpoint/state.safetensors")(folder)


def random_weights(folder: Path) -> None:
    (folder / "run/model.safetensors").write_bytes(noise(900))


def corrupt_header(folder: Path) -> None:
    path = folder / "run/model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"columns", b"colunms"))


GAPS = "".join(f"{i / 7},\n" for i in range(30))
NAMES = "".join(f"row-{i:05d},{i / 7}\n" for i in range(3000))
OBJECTS = np.array([{"a": 1}, None], dtype=object)
DATES = np.arange(20).astype("datetime64[s]").reshape(-1, 1)
HUGE = np.linspace(1, 2, 60).reshape(-1, 2) * 1e300
ROWS = "".join(f"{0.37 * i:.2f},{(i * 7919) % 101 / 10:.1f}\n" for i in range(40))

FILES = [
    Case("missing file", "train nowhere.csv", "nowhere.csv", "no such file"),
    Case("missing file, near one", "train house.csv", "house.csv", "Did you mean houses.csv"),
    Case("missing folder", "train no/such/data.csv", "data.csv", "folder no/such does not exist"),
    Case("a folder", "train run", "run", "Known endings: .png"),
    Case("empty file", "train empty.csv", "empty.csv", "with rows in it", text("empty.csv", "")),
    Case("header only", "train head.csv", "head.csv", "with rows in it", text("head.csv", "a,b\n")),
    Case("one row", "train one.csv", "one.csv", "at least 2 rows", text("one.csv", "a,b\n1.5,2.5\n")),
    Case("two rows", "train two.csv", "two.csv", "at least 4 rows", text("two.csv", "a,b\n1.5,2.5\n2.5,1\n")),
    Case("infinity in an array", "train a.npy", "row 17", "column 'x2'", array("a.npy", with_value(np.inf))),
    Case("minus infinity", "train a.npy", "row 17", "column 'x2'", array("a.npy", with_value(-np.inf))),
    Case("NaN in an array", "train a.npy", "row 17", "column 'x2'", array("a.npy", with_value(np.nan))),
    Case("infinity in a table", "train a.csv", "line 4", "inf", text("a.csv", "a,b\n1.5,2\n2.5,3\n3,inf\n" + ROWS)),
    Case("text among numbers", "train a.csv", "line 42", "'n/k'", text("a.csv", "a,b\n" + ROWS + "1.5,n/k\n")),
    Case("ragged rows", "train a.csv", "line 42", "same number of cells", text("a.csv", "a,b\n" + ROWS + "1,2,3\n")),
    Case("equal column names", "train a.csv", "'b'", "own name", text("a.csv", "a,b,b\n1,2,3\n4,5,6\n7,8,9\n")),
    Case("nothing varies", "train a.csv", "a.csv", "differ", text("a.csv", "a,b\n" + "1.5,7\n" * 30)),
    Case("a column of gaps", "train a.csv", "'b'", "Leave", text("a.csv", "a,b\n" + GAPS)),
    Case("a name in every row", "train a.csv", "'id'", "Leave", text("a.csv", "id,x\n" + NAMES)),
    Case("object array", "train a.npy", "a.npy", "pickle", array("a.npy", OBJECTS, pickled=True)),
    Case("complex numbers", "train a.npy", "a.npy", "real", array("a.npy", np.ones((20, 2)) * 1j)),
    Case("dates", "train a.npy", "a.npy", "numbers", array("a.npy", DATES)),
    Case("huge values", "train a.npy", "column 'x0'", "larger unit", array("a.npy", HUGE)),
    Case("unknown kind of file", "train notes.txt", "notes.txt", "Known endings", text("notes.txt", "a\n1\n")),
    Case("unknown array", "train a.npz:wrong", "a.npz", "'wrong'", lambda f: np.savez(f / "a.npz", right=np.eye(5))),
    Case("unknown built-in", "train mooons", "mooons", "moons"),
    *(
        Case(f"random bytes as {ending}", f"train noise{ending}", f"noise{ending}", "", random_bytes(f"noise{ending}"))
        for ending in (".csv", ".tsv", ".npy", ".npz", ".parquet", ".csv.gz", ".tsv.gz", ".npy.gz", ".npz.gz")
    ),
    Case("not gzip", "train a.csv.gz", "a.csv.gz", "", text("a.csv.gz", "a,b\n1,2\n3,4\n")),
]

USAGE = [
    Case("unknown verb", "trian houses.csv", "'trian'", "Did you mean train"),
    Case("unknown first flag", "--hepl", "--hepl", "--help"),
    Case("unknown flag", "train houses.csv --stpes 3", "--stpes", "Did you mean --steps"),
    Case("no data", "train", "DATA", "advect train --help"),
    Case("a flag without value", "train houses.csv --steps", "--steps", "needs a value"),
    Case("one argument too many", "sample run more", "'more'", "advect sample --help"),
    Case("a flag twice", "train houses.csv --steps 3 --steps 4", "--steps", "once"),
    Case("unknown method", "train houses.csv --method ot-cmf", "ot-cmf", "Did you mean 'ot-cfm'"),
    Case("unknown method to explain", "explain i-cmf", "i-cmf", "Did you mean 'i-cfm'"),
    Case("unknown network", "train houses.csv --network mpl-2x8", "mpl-2x8", "mlp"),
    Case("unknown network size", "train houses.csv --network mlp-0x8", "mlp-0x8", "at least"),
    Case("unknown setting", "train houses.csv --set sigam=1", "sigam", "Did you mean 'sigma'"),
    Case("setting without value", "train houses.csv --set sigma", "--set", "NAME=VALUE"),
    Case("setting of another kind", "train houses.csv --set sigma=wide", "sigma", "a number"),
    Case("setting out of range", "train houses.csv --set sigma=-1", "sigma", "at least 0"),
    Case("learning rate", "train houses.csv --set learning_rate=0", "learning_rate", "positive"),
    Case("unknown device", "train houses.csv --device cdua", "cdua", "Did you mean 'cuda'"),
    Case("unknown condition column", "train houses.csv --condition plaice", "plaice", "'place'"),
    Case("unknown weights", "train houses.csv --weights wieght", "wieght", "--weights"),
    Case("negative weights", "train cloud.csv --weights x", "'x'", "not negative"),
    Case("steps of zero", "train houses.csv --steps 0", "--steps", "at least 1"),
    Case("negative steps", "train houses.csv --steps -5", "--steps", "at least 1"),
    Case("half a step", "train houses.csv --steps 1.5", "'1.5'", "whole number"),
    Case("steps in words", "train houses.csv --steps many", "'many'", "whole number"),
    Case("batch of one", "train houses.csv --batch-size 1", "--batch-size", "at least 2"),
    Case("batch far beyond the rows", "train houses.csv --batch-size 1000000", "--batch-size", "Give at most 96"),
    Case("negative seed", "train houses.csv --seed -1", "--seed", "at least 0"),
    Case("budget of nonsense", "train houses.csv --budget soon", "'soon'", "1h30m"),
    Case("budget of nothing", "train houses.csv --budget 0s", "--budget", "positive"),
    Case("steps and budget", "train houses.csv --steps 5 --budget 2m", "--budget", "Give one"),
    Case("source for Lipman", "train cloud.csv --method fm --source other.csv", "fm", "i-cfm"),
    Case("source of other columns", "train cloud.csv --source houses.csv", "houses.csv", "'x'"),
]

FOLDERS = [
    Case("a file in place of the run", f"train houses.csv {QUICK} --out houses.csv", "houses.csv", "--out"),
    Case("a file in place of a folder", f"train houses.csv {QUICK} --out houses.csv/run", "houses.csv", "--out"),
    Case("a folder that is no run", f"train houses.csv {QUICK} --out foreign", "foreign", "--out"),
    Case("restart of what is no run", f"train houses.csv {QUICK} --out foreign --restart", "foreign", "--out"),
    Case("other settings", f"train houses.csv {QUICK} --seed 1 --out run", "seed: 0 → 1", "--restart"),
    Case("restart with bad data", "train nowhere.csv --out run --restart", "nowhere.csv", "no such file"),
    Case("not a run", "sample foreign", "foreign", "advect train"),
    Case("no folder", "score nothing houses.csv", "nothing", "advect train"),
    Case("unfinished run", "sample run", "run", "continues", remove("run/model.safetensors")),
    Case("weights cut short", "sample run", "model.safetensors", "--restart", truncate("run/model.safetensors")),
    Case("weights of random bytes", "score run houses.csv", "model.safetensors", "--restart", random_weights),
    Case("a damaged card", "sample run", "model.safetensors", "damaged", corrupt_header),
    Case(
        "garbage in config.toml",
        f"train houses.csv {QUICK} --out run",
        "config.toml",
        "--restart",
        text("run/config.toml", "method = ["),
    ),
    Case("garbage in metrics", "report run", "metrics.jsonl", "emove", text("run/metrics.jsonl", "{]\n")),
    Case(
        "garbage in evaluation",
        "sample run",
        "evaluation.json",
        "advect evaluate` makes it anew",
        text("run/evaluation.json", "{"),
    ),
    Case("config.toml missing", "sample run", "run", "advect train", remove("run/config.toml")),
    Case(
        "checkpoint cut short", f"train houses.csv {QUICK} --out run", "state.safetensors", "--restart", cut_checkpoint
    ),
    Case("data gone", "evaluate run", "houses.csv", "advect evaluate RUN DATA", remove("houses.csv")),
    Case("data changed", "report run", "houses.csv", "changed", text("houses.csv", "a,b\n1,2\n3,4\n5,6\n")),
]

VERBS = [
    Case("no rows wanted", "sample run -n 0", "-n", "at least 1"),
    Case("a negative number of rows", "sample run --rows -5", "--rows", "at least 1"),
    Case("too many rows for memory", "sample run -n 1e15", "", "fewer rows"),
    Case("unknown solver", "sample run --solver doprri5", "doprri5", "dopri5"),
    Case("tolerance of a fixed solver", "sample run --solver euler --tol 1e-5", "euler", "steps"),
    Case("steps of an adaptive solver", "sample run --solver dopri5 --steps 10", "dopri5", "tol"),
    Case("negative tolerance", "sample run --tol -1e-5", "--tol", "positive"),
    Case("tolerance of zero", "sample run --tol 0", "--tol", "positive"),
    Case("infinite tolerance", "sample run --tol inf", "--tol", "1e-5"),
    Case("solver steps of zero", "sample run --steps 0", "--steps", "at least 1"),
    Case("guidance without a condition", "sample run --guidance 1", "--guidance", "--condition"),
    Case("a condition for a model without", "sample run --condition BAY", "--condition", "Train with"),
    Case("unknown condition value", "sample conditional --condition INLAN", "INLAN", "'INLAND'"),
    Case("unknown condition name", "sample conditional --condition palce=BAY", "palce", "'place'"),
    Case("unknown ending of --out", "sample run --out new.xlsx", "new.xlsx", ".csv"),
    Case("no ending of --out", "score run houses.csv --out scores", "scores", ".csv"),
    Case("a picture of a table", "sample run --out new.png", "'.png'", ".csv"),
    Case("--out in a file", "sample run --out houses.csv/new.csv", "houses.csv/new.csv", "--out"),
    Case(
        "--out is a folder",
        "sample run --out folder.csv",
        "folder.csv",
        "Name a file",
        lambda f: (f / "folder.csv").mkdir(),
    ),
    Case(
        "missing column",
        "score run few.csv",
        "'age'",
        "few.csv",
        text("few.csv", "price,rooms,place,garden\n1.5,2,BAY,true\n"),
    ),
    Case(
        "misspelt column",
        "score run a.csv",
        "'prize'",
        "'price'",
        text("a.csv", "prize,rooms,place,garden,age\n1.5,2,BAY,true,3\n"),
    ),
    Case("wrong width", "score run wide.npy", "5", "wide.npy", array("wide.npy", np.ones((10, 7)))),
    Case("text for a number", "score run a.csv", "'cheap'", "price", text("a.csv", HEAD + "cheap,2,BAY,true,3\n")),
    Case(
        "condition missing from the data",
        "score conditional a.csv",
        "'place'",
        "a.csv",
        text("a.csv", "price,rooms,garden,age\n1.5,2,true,3\n"),
    ),
    Case(
        "an unknown condition in the data",
        "score conditional a.csv",
        "'SEA'",
        "INLAND",
        text("a.csv", HEAD + "1.5,2,SEA,true,3\n"),
    ),
    Case("importance samples", "score run houses.csv --importance-samples 0", "--importance-samples", "at least 1"),
    Case("score between two populations", "score moved cloud.csv", "source", "transport"),
    Case("unknown ending of an animation", "animate run --out a.avi", "--out", ".gif"),
    Case("an unknown column of an animation", "animate run --columns prize,rooms", "--columns", "'price'"),
    Case("one column of an animation", "animate run --columns price", "--columns", "Name two"),
    Case("an animation of no time", "animate run --seconds 0", "--seconds", "positive"),
    Case("a table as a density", "train houses.csv --as-density", "--as-density", ".png"),
    Case("a table mirrored", "train houses.csv --flip", "--flip", "Leave it out"),
    Case("a picture that is none", "train a.png", "a.png", "save it again", text("a.png", "words")),
    Case("a size of no pictures", "train run:big", "run", "at most"),
    Case("an unknown precision", "train houses.csv --set precision=half", "precision", "bfloat16"),
    Case("half-lives that are none", "train houses.csv --set ema=[0]", "ema", "[50, 500, 5000]"),
    Case("nothing to compute again", "train houses.csv --set checkpoint=true", "checkpoint", "U-Net"),
    Case("unknown direction", "transport run houses.csv --to tagret", "tagret", "'target'"),
    Case("too few latent columns", "transport run cloud.csv --to target", "cloud.csv", "--to source"),
    Case(
        "text in latent rows",
        "transport run z.csv --to target",
        "z.csv",
        "number",
        text("z.csv", "z0,z1,z2,z3,z4,z5\n1,2,3,4,5,a\n1,2,3,4,5,b\n"),
    ),
    Case(
        "one held-out row",
        "evaluate run one.csv",
        "one.csv",
        "at least 2",
        text("one.csv", HEAD + "1.5,2,BAY,true,3\n"),
    ),
]

CASES = [*FILES, *USAGE, *FOLDERS, *VERBS]
