"""Every coupling × every law."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from advect.couplings import (
    Assignment,
    Classwise,
    Conditioned,
    Entropic,
    Independent,
    Partial,
    Semidiscrete,
    Unbalanced,
    periodic_cost,
)
from advect.errors import AdvectError, ConfigError, DataError, ShapeError

COUPLINGS = {
    "independent": Independent(),
    "assignment": Assignment(),
    "assignment by distance": Assignment(cost="distance"),
    "assignment of many rows": Assignment(exact_rows=7),
    "assignment by a cost of one's own": Assignment(cost=periodic_cost(7.0)),
    "assignment with replacement": Assignment(replacement=True),
    "partial": Partial(0.75),
    "conditioned": Conditioned(),
    "unbalanced": Unbalanced(),
    "semidiscrete": Semidiscrete(),
    "entropic": Entropic(0.5),
    "bridge": Entropic.for_bridge(1.0),
    "classwise independent": Classwise(Independent()),
    "classwise assignment": Classwise(Assignment()),
    "classwise entropic": Classwise(Entropic(0.5)),
}
# By what they promise: all but the first group keep data rows in place, the second uses each source row once as well.
DRAWS_DATA = {"assignment with replacement"}
PERMUTES = {
    "independent",
    "assignment",
    "assignment of many rows",
    "assignment by a cost of one's own",
    "assignment by distance",
    "partial",
    "conditioned",
    "semidiscrete",
    "classwise independent",
    "classwise assignment",
}
# Nothing is left to chance where a cost decides.
LOOKS_ONLY = {
    "assignment",
    "assignment by distance",
    "assignment by a cost of one's own",
    "partial",
    "conditioned",
    "semidiscrete",
}
LOOKS = [name for name in COUPLINGS if name != "independent"]

every = pytest.mark.parametrize("name", COUPLINGS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(num: int, *event: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(num, *event, generator=seeded(seed), dtype=dtype)


def classes(name: str, num: int, kinds: int = 3) -> torch.Tensor | None:
    """A condition for those couplings that look at one."""
    return torch.arange(num) % kinds if name.startswith("classwise") else None


@every
def test_indices_are_indices_and_data_rows_keep_their_place(name):
    """trap C2: every data row is used once; every source row too, where that is promised."""
    x0, x1 = rows(96, 2, seed=1), rows(96, 2, seed=2)
    pairs = COUPLINGS[name].draw(x0, x1, condition=classes(name, 96), generator=seeded())
    assert pairs.index0.dtype == pairs.index1.dtype == torch.int64
    assert pairs.index0.shape == pairs.index1.shape == (96,)
    assert ((pairs.index0 >= 0) & (pairs.index0 < 96)).all()
    assert torch.equal(pairs.index1, torch.arange(96)) == (name not in DRAWS_DATA)
    if name in PERMUTES:
        assert torch.equal(pairs.index0.sort().values, torch.arange(96))


@every
@pytest.mark.parametrize("event", [(), (1,), (3,), (2, 3), (3, 4, 4), (1, 2, 3, 2)])
def test_any_event_shape(name, event):
    """traps C3 and C6: scalars of shape (B,) up to rank 4, and flattening changes nothing."""
    x0, x1 = rows(24, *event, seed=1), rows(24, *event, seed=2)
    condition = classes(name, 24)
    pairs = COUPLINGS[name].draw(x0, x1, condition=condition, generator=seeded())
    flat = COUPLINGS[name].draw(x0.reshape(24, -1), x1.reshape(24, -1), condition=condition, generator=seeded())
    assert x1[pairs.index1].shape == x1.shape
    assert torch.equal(pairs.index0, flat.index0)
    assert torch.equal(pairs.index1, flat.index1)


@every
def test_same_seed_same_pairs_and_no_other_generator(name):
    """trap C4: NumPy's and torch's global states are neither used nor moved."""
    x0, x1, condition = rows(64, 2, seed=1), rows(64, 2, seed=2), classes(name, 64)
    np.random.seed(1)  # noqa: NPY002 - the global state is what is being disturbed
    torch.manual_seed(1)
    first = COUPLINGS[name].draw(x0, x1, condition=condition, generator=seeded(7))
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(2)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    second = COUPLINGS[name].draw(x0, x1, condition=condition, generator=seeded(7))
    assert torch.equal(first.index0, second.index0)
    assert torch.equal(first.index1, second.index1)
    assert np.array_equal(before[0], np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())


@pytest.mark.parametrize("name", LOOKS)
def test_pairs_do_not_move_with_the_origin(name):
    """trap C5: float32 rows a thousand units away. On a grid of 1/256 the shift itself is exact in float32."""
    x0, x1 = ((rows(128, 3, seed=s) * 256).round() / 256 for s in (1, 2))
    condition = classes(name, 128)
    near = COUPLINGS[name].draw(x0, x1, condition=condition, generator=seeded())
    far = COUPLINGS[name].draw(x0 + 1000, x1 + 1000, condition=condition, generator=seeded())
    assert torch.equal(near.index0, far.index0)
    assert torch.equal(near.index1, far.index1)


@every
def test_one_index_moves_every_tensor(name):
    """trap C7: rows, labels and any extra tensor agree after pairing, on both sides."""
    x0, x1 = rows(60, 2, seed=1), rows(60, 2, seed=2)
    label0, label1, extra1 = x0[:, 0] > 0, x1[:, 0] > 0, x1.sum(1)
    pairs = COUPLINGS[name].draw(x0, x1, condition=classes(name, 60), generator=seeded())
    assert torch.equal(label0[pairs.index0], x0[pairs.index0][:, 0] > 0)
    assert torch.equal(label1[pairs.index1], x1[pairs.index1][:, 0] > 0)
    assert torch.equal(extra1[pairs.index1], x1[pairs.index1].sum(1))


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_no_graph_and_no_change_to_the_rows(name, dtype):
    """trap C14: rows that need gradients give indices without a graph, and are left as they were."""
    x0, x1 = rows(40, 2, seed=1).to(dtype).requires_grad_(), rows(40, 2, seed=2).to(dtype).requires_grad_()
    kept0, kept1 = x0.detach().clone(), x1.detach().clone()
    pairs = COUPLINGS[name].draw(x0, x1, condition=classes(name, 40), generator=seeded())
    assert not pairs.index0.requires_grad
    assert not pairs.index1.requires_grad
    assert torch.equal(x0.detach(), kept0)
    assert torch.equal(x1.detach(), kept1)
    assert all(isinstance(value, float) for value in pairs.report.values())


@pytest.mark.parametrize("name", [n for n in LOOKS if n != "classwise independent"])
def test_the_report_says_what_was_gained(name):
    """trap C16: the cost of the plan stands beside that of pairing at random, and is below it."""
    x0, x1 = rows(64, 2, seed=1), rows(64, 2, seed=2) + 3
    report = COUPLINGS[name].draw(x0, x1, condition=classes(name, 64), generator=seeded()).report
    assert 0 < report["mean_cost"] < report["independent_cost"]


@pytest.mark.parametrize("name", ["assignment", "entropic"])
def test_an_ignored_condition_is_noted(name):
    """trap C10: a condition that meets plain transport leaves a mark in the report."""
    x0, x1 = rows(16, 2, seed=1), rows(16, 2, seed=2)
    condition = torch.arange(16) % 2
    assert "ignored_condition" not in COUPLINGS[name].draw(x0, x1, generator=seeded()).report
    assert COUPLINGS[name].draw(x0, x1, condition=condition, generator=seeded()).report["ignored_condition"] == 1
    wrapped = Classwise(COUPLINGS[name]).draw(x0, x1, condition=condition, generator=seeded())
    assert "ignored_condition" not in wrapped.report


@every
def test_one_row(name):
    pairs = COUPLINGS[name].draw(rows(1, 2), rows(1, 2, seed=2), condition=classes(name, 1), generator=seeded())
    assert pairs.index0.tolist() == pairs.index1.tolist() == [0]


@pytest.mark.parametrize("name", [n for n in LOOKS if n != "classwise independent"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", ["source", "data"])
def test_rows_that_are_not_finite_are_refused_by_number(name, bad, side):
    x0, x1 = rows(12, 2, seed=1), rows(12, 2, seed=2)
    (x0 if side == "source" else x1)[5, 1] = bad
    with pytest.raises(DataError, match=f"{side} row"):
        COUPLINGS[name].draw(x0, x1, generator=seeded())


@pytest.mark.parametrize(
    "coupling", [Semidiscrete(), Classwise(Semidiscrete())], ids=["semidiscrete", "classwise semidiscrete"]
)
def test_what_has_to_be_prepared_draws_for_that(coupling):
    with pytest.raises(ConfigError, match="generator"):
        coupling.prepare(None, rows(8, 2))
    assert coupling.prepare(None, rows(8, 2), generator=seeded()) != coupling


@every
def test_empty_sides_are_refused(name):
    for x0, x1 in ((rows(0, 2), rows(4, 2)), (rows(4, 2), rows(0, 2))):
        with pytest.raises(ShapeError):
            COUPLINGS[name].draw(x0, x1, generator=seeded())


@pytest.mark.parametrize("name", [n for n in LOOKS if n != "classwise independent"])
def test_different_events_are_refused(name):
    with pytest.raises(ShapeError, match=r"\(2,\).*\(3,\)"):
        COUPLINGS[name].draw(rows(4, 2), rows(4, 3), generator=seeded())


@every
def test_a_random_pairing_without_a_generator_is_refused(name):
    x0, x1, condition = rows(8, 2, seed=1), rows(8, 2, seed=2), classes(name, 8, kinds=2)
    if name in LOOKS_ONLY:
        assert torch.equal(COUPLINGS[name].draw(x0, x1).index1, torch.arange(8))
        return
    with pytest.raises(ConfigError, match="generator"):
        COUPLINGS[name].draw(x0, x1, condition=condition)


@pytest.mark.parametrize("name", [n for n in COUPLINGS if n != "semidiscrete"])
def test_nothing_to_prepare(name):
    coupling = COUPLINGS[name]
    assert coupling.prepare(None, rows(8, 2)) == coupling


@pytest.mark.parametrize(("num0", "num1"), [(60, 20), (20, 60)])
@pytest.mark.parametrize("name", ["independent", "assignment", "assignment by distance"])
def test_multiples_keep_both_sides_balanced(name, num0, num1):
    """Each data row once; each source row equally often, at most once where there are enough."""
    pairs = COUPLINGS[name].draw(rows(num0, 2, seed=1), rows(num1, 2, seed=2), generator=seeded())
    assert torch.equal(pairs.index1, torch.arange(num1))
    uses = torch.bincount(pairs.index0, minlength=num0)
    if num0 >= num1:
        assert uses.max() == 1
    else:
        assert torch.equal(uses, torch.full((num0,), num1 // num0))


def test_numbers_that_do_not_divide_are_refused():
    with pytest.raises(ShapeError, match="30 source rows and 20 data rows"):
        Assignment().draw(rows(30, 2), rows(20, 2), generator=seeded())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Assignment(cost="sqared"),
        lambda: Entropic(0.0),
        lambda: Entropic(float("nan")),
        lambda: Entropic(1.0, tolerance=-1.0),
        lambda: Entropic(1.0, max_iterations=0),
        lambda: Entropic.for_bridge(-1.0),
    ],
)
def test_bad_settings_are_refused(make):
    with pytest.raises(AdvectError):
        make()


def test_an_unknown_cost_gets_the_nearest_name():
    with pytest.raises(AdvectError, match="Did you mean 'squared'"):
        Assignment(cost="sqared")


def test_import_touches_no_device_and_memory_stays_flat():
    """traps C13 and C14: no POT, no device; 1024 rows of 512 never form a (1024, 1024, 512) block (4 GiB)."""
    program = """
        import resource, sys, torch
        torch.set_num_threads(1)
        import advect.couplings as c
        import advect.evaluation
        assert not {"ot", "sklearn", "pandas", "polars", "pyarrow"} & set(sys.modules)
        assert not torch.cuda.is_initialized()
        generator = torch.Generator().manual_seed(0)
        x0, x1 = (torch.randn(1024, 512, generator=generator) for _ in range(2))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        c.Assignment().draw(x0, x1)
        c.Entropic(1e3).draw(x0, x1, generator=generator)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # A few float64 matrices of 8 MiB, the rows, and what the libraries load on first use.
    assert int(done.stdout) < 400
