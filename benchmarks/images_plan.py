"""Which pictures, which methods, which budgets: the cells of `images`."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.cells import ROOT, Cell

SETS: Mapping[str, Mapping[str, Any]] = {
    "fashion": {"file": "fashion_mnist/train-images-idx3-ubyte.gz", "label": "label", "drawn": True},
    "mnist": {"file": "mnist/train-images-idx3-ubyte.gz", "label": "label", "drawn": True},
    # The lossless part of the training set, 8068 pictures: no figure compares with one of the whole set.
    "cifar-part": {"file": "cifar10/cifar10_lossless_subset.npz:x_train", "label": "y_train", "drawn": False},
}
COMMANDS = {  # of a longer run
    **dict.fromkeys(("fashion", "mnist"), "advect train train-images-idx3-ubyte.gz"),
    "cifar-part": "advect train cifar10_lossless_subset.npz:x_train",
}
OVER_TIME = {"network": "unet-tiny", "precision": "bfloat16"}
COUPLINGS = {"network": "auto", "precision": "float32"}
METHODS: Mapping[str, Mapping[str, Any]] = {
    "ot-cfm": OVER_TIME,
    "i-cfm": OVER_TIME,
    "vp": OVER_TIME,
    "realnvp": COUPLINGS,
    "glow": COUPLINGS | {"also_scored": 1000},
    "notes": COUPLINGS
    | {
        "called": "notes",
        "method": "realnvp",
        "options": {"form": "notes"},
        "training": {"learning_rate": 1e-3},
        "also_scored": 1000,
    },
}
BUDGET, BATCH, SAMPLES, SCORED, GUIDANCE = 60.0, 16, 200, 8, 1.0
LONGER, LONGER_BATCH = 300.0, 64  # seconds and rows for flows of couplings by themselves
TOLERANCE, PROBES = 1e-3, 2
COMMAND = "python -m benchmarks.images"
RESULTS = ROOT / "benchmarks" / "results" / "images"


def settings_of(data: str, method: str, budget: float) -> dict[str, Any]:
    """Everything that decides a cell's figures."""
    return {
        "set": data,
        **{name: SETS[data][name] for name in ("file", "label", "drawn")},
        "method": method,
        **METHODS[method],
        "seed": 0,
        "budget": budget,
        "batch_size": BATCH if budget == BUDGET else LONGER_BATCH,
        "samples": SAMPLES,
        "scored": SCORED,
        "tolerance": TOLERANCE,
    }


def label_of(settings: Mapping[str, Any]) -> str:
    """What a table calls the contender; a budget of its own is told."""
    name = settings.get("called", settings["method"])
    return name if settings["budget"] in (0.0, BUDGET) else f"{name}-{settings['budget']:g}"


def plan(sets: Sequence[str], methods: Sequence[str], budget: float) -> list[Cell]:
    """The cells, set by set."""
    return [
        Cell(
            name=f"{data}-{method}" + ("" if budget == BUDGET else f"-{budget:g}"),
            work="benchmarks.images:run_cell",
            settings=settings_of(data, method, budget),
            command=f"{COMMAND} --sets {data} --methods {method} --budget {budget:g}",
        )
        for data in sets
        for method in methods
    ]


def run_cell_of(data: str, run: str) -> Cell:
    """The cell of a run of the command, of the name ``run``: how it was trained is in its folder."""
    words = f"{COMMANDS[data]} --method ot-cfm --network unet-tiny --condition {SETS[data]['label']}"
    own = {"batch_size": BATCH, "run": run, "command": words}
    settings = settings_of(data, "ot-cfm", 0.0) | own
    return Cell(f"{data}-run", "benchmarks.images:measure_run", settings, f"{COMMAND} --sets {data} --run RUN")


def guided_name(data: str) -> str:
    """The picture of a run's guided samples."""
    return f"{data}_guided.png"


def whole() -> int:
    """Cells of a whole table: all methods alike, longer ones of couplings, a run of the command for each set."""
    return len(SETS) * len(METHODS) + 2 * 2 + len(SETS)
