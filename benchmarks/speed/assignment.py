"""A1 to A4: pairs of a batch, rows in and indices out.

advect's is `Assignment.draw`, with its checks and its report. torchcfm's is `OTPlanSampler.sample_plan` with the exact
method, which draws pairs from the plan, with replacement. lapx and POT get the matrix of squared distances from
torch.cdist, in float64, as they ask for it; POT's plan is read off by argmax.

The error of a contender is how far its mean cost lies above the best, in float64, as a share of it. The best is known
from dual numbers: the compiled solver's prices give a lower bound on the float64 costs, computed here. torchcfm's has
no error: what it draws is not an assignment.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ot
import torch
from torch import Tensor

from advect.couplings import Assignment, centred_rows, squared_cost
from advect.couplings.kernel import instruction_set, solve
from benchmarks.speed.harness import Contender, Goal, growth, task
from benchmarks.speed.rows import Row
from benchmarks.speed.training import points

ROUGH = 0.01
SIZES_FEW, SIZES_MANY = ((256, 2), (512, 2), (1024, 2), (256, 50), (512, 50), (1024, 50)), ((256, 784), (1024, 784))
EXACT_GAP = 1e-6
"""Largest relative gap that counts as exact."""


def batch(rows: int, features: int) -> tuple[Tensor, Tensor]:
    """Standard normal source rows, and data rows of eight Gaussians."""
    generator = torch.Generator().manual_seed(rows + features)
    return torch.randn((rows, features), generator=generator), points(features, rows)


def lower_bound(x0: Tensor, x1: Tensor) -> float:
    """Of the mean squared distance of any assignment, from dual numbers and all costs in float64."""
    cost = squared_cost(*centred_rows(x0, x1)).T.contiguous().numpy()
    solved = solve(cost)
    assert solved is not None
    return ((cost + solved.prices).min(1).sum() - solved.prices.sum()) / len(cost)


def excess(x0: Tensor, x1: Tensor, index0: Tensor, bound: float) -> float:
    """How far the mean cost of the pairs lies above the bound, as a share of it."""
    return max(float((x0[index0].double() - x1.double()).square().sum(1).mean()) / bound - 1, 0.0)


def by_torchcfm(x0: Tensor, x1: Tensor) -> Contender:
    from torchcfm.optimal_transport import OTPlanSampler

    sampler = OTPlanSampler("exact")
    return Contender("torchcfm", lambda: sampler.sample_plan(x0, x1), "OTPlanSampler, exact; draws with replacement")


def by_lapx(x0: Tensor, x1: Tensor) -> Tensor:
    cost = torch.cdist(x1.double(), x0.double()).square().numpy()
    import lap  # of the extra `bench`

    return torch.from_numpy(lap.lapjvr(cost)[2].astype(np.int64))


def by_pot(x0: Tensor, x1: Tensor) -> Tensor:
    cost = torch.cdist(x1.double(), x0.double()).square().numpy()
    return torch.from_numpy(ot.emd([], [], cost, numItermax=10**7).argmax(1))


def contenders(rows: int, features: int, *, peers: bool = True) -> list[Contender]:
    """advect exactly and to `ROUGH`, torchcfm, lapx and POT on one batch."""
    x0, x1 = batch(rows, features)
    bound = lower_bound(x0, x1)
    exact, rough = Assignment(), Assignment(tolerance=ROUGH)
    found = [
        Contender("advect", lambda: exact.draw(x0, x1), "exact", excess(x0, x1, exact.draw(x0, x1).index0, bound)),
        Contender(
            f"advect, {ROUGH:.0%}",
            lambda: rough.draw(x0, x1),
            f"tolerance {ROUGH}",
            excess(x0, x1, rough.draw(x0, x1).index0, bound),
        ),
    ]
    assert found[0].error is not None
    assert found[0].error <= EXACT_GAP
    if not peers:
        return found
    return [
        *found,
        by_torchcfm(x0, x1),
        Contender("lapx", lambda: by_lapx(x0, x1), "lapjvr", excess(x0, x1, by_lapx(x0, x1), bound)),
        Contender("POT", lambda: by_pot(x0, x1), "emd, argmax", excess(x0, x1, by_pot(x0, x1), bound)),
    ]


def goals(features: int) -> Sequence[Goal]:
    """Those of the issue: A1 and A2 for exact pairs, A3 for rough ones, A4 for rough ones of many coordinates."""
    rough = f"advect, {ROUGH:.0%}"
    if features >= 784:
        return [Goal(rough, ("torchcfm",), 8, 15, label="A4: within 1 % against torchcfm")]
    return [
        Goal("advect", ("torchcfm",), 8, 20, label="A1: exact against torchcfm"),
        Goal("advect", ("lapx", "POT"), 2.5, 8, label="A2: exact against the best of lapx and POT"),
        Goal(rough, ("torchcfm",), 20, 30, label="A3: within 1 % against torchcfm"),
    ]


def measure(sizes: Sequence[tuple[int, int]], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tasks of these sizes."""
    warnings.filterwarnings("ignore", module="ot")
    quick, clock = settings["quick"], settings["clock"]
    return [
        task(
            f"{rows} pairs of {features} coordinates",
            contenders(rows, features),
            goals(features),
            rounds=5 if quick else 9,
            clock=clock,
            seed=settings["seed"],
            unit="above the best",
            memory=not quick,
        )
        for rows, features in sizes
    ]


def few(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A1 to A3, and how time grows with the rows."""
    figures: dict[str, Any] = {"tasks": measure(SIZES_FEW, settings), "notes": notes()}
    if not settings["quick"]:
        figures["growth"] = [
            growth(
                f"rows, {features} coordinates",
                (64, 128, 256, 512, 1024, 2048, 4096),
                # above, the others take seconds to a minute
                lambda rows, features=features: contenders(rows, features, peers=rows <= 1024),
                clock=settings["clock"],
            )
            for features in (2, 50)
        ]
    return figures


def many(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A4, and how time grows with the coordinates."""
    figures: dict[str, Any] = {"tasks": measure(SIZES_MANY, settings), "notes": notes()}
    if not settings["quick"]:
        along = growth(
            "coordinates, 256 rows",
            (2, 8, 32, 128, 512, 2048),
            lambda features: contenders(256, features),
            clock=settings["clock"],
        )
        figures["growth"] = [along]
    return figures


def notes() -> list[str]:
    """What the solver ran with."""
    rounded = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return [
        f"Assignment solver: {instruction_set() or 'SciPy'}; with a tolerance, products of 256 and more coordinates "
        f"are in {'bfloat16' if rounded else 'float32'}."
    ]


ROWS = (
    Row("A1-A3", "pairs of a batch, few coordinates", "benchmarks.speed.assignment:few"),
    Row("A4", "pairs of a batch, many coordinates", "benchmarks.speed.assignment:many"),
)
