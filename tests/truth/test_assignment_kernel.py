"""The compiled assignment solver against SciPy and its own dual numbers, for every instruction set it has here."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from advect.compiled import BFLOAT16_SETS
from advect.couplings import Assignment, cost, kernel
from advect.couplings.exact import solve_assignment, solve_plainly
from advect.couplings.squared_pairs import pair_squared
from advect.errors import ConfigError, DataError
from tests.truth.conftest import build

EPS = np.finfo(np.float64).eps


@pytest.fixture(scope="session")
def library(built):
    """The solver of this checkout."""
    return built / "couplings" / "assignment_kernel.so"


@pytest.fixture(params=kernel.SETS)
def instructions(request, library, monkeypatch):
    """Each instruction set in turn, where this processor and this compiler have it."""
    monkeypatch.setattr(kernel, "LIBRARY", library)
    monkeypatch.setenv("ADVECT_KERNEL", request.param)
    if kernel.instruction_set() != request.param:
        pytest.skip(f"no {request.param} here")
    return request.param


@pytest.fixture
def compiled(library, monkeypatch):
    """The solver as it chooses itself."""
    monkeypatch.setattr(kernel, "LIBRARY", library)
    monkeypatch.delenv("ADVECT_KERNEL", raising=False)
    assert kernel.instruction_set() is not None


def squared(x, y):
    return ((x[:, None] - y[None]) ** 2).sum(2)


def bordered(random, n):
    """As `Partial` builds it: rows and columns that cost nothing, and a corner that is forbidden."""
    matrix, spare = random.random((n, n)), max(1, n // 5)
    matrix[-spare:], matrix[:, -spare:], matrix[-spare:, -spare:] = 0, 0, 2 * n
    return matrix


MATRICES = {
    "normal": lambda r, n: r.standard_normal((n, n)),
    "few values": lambda r, n: r.integers(0, 3, (n, n)).astype(float),
    "constant": lambda r, n: np.full((n, n), 3.7),
    "zero": lambda r, n: np.zeros((n, n)),
    "1e-300": lambda r, n: r.random((n, n)) * 1e-300,
    "1e-30": lambda r, n: r.random((n, n)) * 1e-30,
    "1e30": lambda r, n: r.random((n, n)) * 1e30,
    "1e300": lambda r, n: r.random((n, n)) * 1e300,
    "far from zero": lambda r, n: 1e8 + r.random((n, n)),
    "negative": lambda r, n: -1e3 * r.random((n, n)),
    "many sizes": lambda r, n: np.exp(8 * r.standard_normal((n, n))),
    "all optimal": lambda r, n: r.random((n, 1)) + r.random((1, n)),
    "products": lambda r, n: np.outer(np.arange(1.0, n + 1), np.arange(1.0, n + 1)),
    "a dear row": lambda r, n: np.where(np.arange(n)[:, None] == 0, 1e25, r.random((n, n))),
    "a dear column": lambda r, n: np.where(np.arange(n)[None] == 0, 1e25, r.random((n, n))),
    "forbidden pairs": lambda r, n: np.where(r.random((n, n)) < 0.3, 1e12, r.random((n, n))),
    "copies of rows": lambda r, n: np.repeat(r.random((n, n)), 4, axis=0)[:n],
    "bordered": bordered,
    "duplicates": lambda r, n: squared(r.integers(0, 3, (n, 2)).astype(float), r.integers(0, 3, (n, 2)).astype(float)),
    "same points": lambda r, n: (lambda x: squared(x, x))(r.standard_normal((n, 3))),
    "line": lambda r, n: np.abs(r.standard_normal((n, 1)) - r.standard_normal((1, n))),
    "plane": lambda r, n: squared(r.standard_normal((n, 2)), 0.3 * r.standard_normal((n, 2)) + 2),
    "many dimensions": lambda r, n: squared(r.standard_normal((n, 40)), r.standard_normal((n, 40))),
    "heavy tails": lambda r, n: squared(r.standard_t(1.2, (n, 3)), r.standard_t(1.2, (n, 3))),
}


@pytest.mark.parametrize("name", MATRICES)
def test_the_solver_is_optimal_and_proves_it(name, instructions):
    """Cost as SciPy's, and a dual value from the returned prices that meets it, both summed here in float64.

    Sums of n terms, each a cost and a price of a relative rounding of 2⁻⁵³ or two, agree to a few EPS of their sizes.
    """
    random = np.random.default_rng(0)
    for n in (2, 3, 16, 17, 33, 64, 65, 130, 257):
        matrix = MATRICES[name](random, n)
        solved = kernel.solve(matrix.copy())
        assert solved is not None
        assert sorted(solved.columns) == list(range(n))
        found, best = matrix[np.arange(n), solved.columns].sum(), matrix[linear_sum_assignment(matrix)].sum()
        dual = (matrix + solved.prices).min(1).sum() - solved.prices.sum()
        size = np.abs(matrix[np.arange(n), solved.columns]).sum() + np.abs(solved.prices).sum()
        assert abs(found - best) <= 20 * EPS * size, n
        assert abs(found - dual) <= 20 * EPS * size, n
        assert abs(solved.total - found) <= 20 * EPS * size


@pytest.mark.parametrize("name", ["plane", "many dimensions", "duplicates", "same points", "zero", "line"])
def test_float32_costs_are_solved_exactly_as_they_are(name, instructions):
    random = np.random.default_rng(1)
    for n in (2, 31, 64, 200):
        matrix = MATRICES[name](random, n).astype(np.float32)
        solved = kernel.solve(matrix.copy())
        exact = matrix.astype(np.float64)
        best = exact[linear_sum_assignment(exact)].sum()
        assert solved.total == pytest.approx(best, rel=1e-13, abs=1e-13)
        assert solved.relative_gap <= 1e-12


@pytest.mark.parametrize("tolerance", [0.1, 0.01, 1e-4])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize(
    "name", ["plane", "many dimensions", "heavy tails", "bordered", "duplicates", "zero", "normal"]
)
def test_a_tolerance_is_kept_and_the_gap_is_an_upper_bound(name, kind, tolerance, instructions):
    random = np.random.default_rng(2)
    for n in (40, 300):
        matrix = MATRICES[name](random, n).astype(kind)
        if kind == np.float32:
            matrix = matrix - matrix.min()
        solved = kernel.solve(matrix.copy(), tolerance=tolerance)
        exact = matrix.astype(np.float64)
        best = exact[linear_sum_assignment(exact)].sum()
        excess = exact[np.arange(n), solved.columns].sum() - best
        room = 1e-6 * (abs(best) + np.abs(solved.prices).sum())  # the gap is summed from float32 prices
        assert excess <= solved.gap + room
        assert excess <= tolerance * abs(solved.total) + room


def test_all_instruction_sets_find_the_same_cost(library, monkeypatch):
    monkeypatch.setattr(kernel, "LIBRARY", library)
    matrix = MATRICES["plane"](np.random.default_rng(3), 300)
    totals = []
    for name in kernel.SETS:
        monkeypatch.setenv("ADVECT_KERNEL", name)
        totals.append(kernel.solve(matrix).total)
    assert totals == pytest.approx(totals[:1] * 3, rel=1e-14)


def rows(n, dim, seed=0, apart=1.0):
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(n, dim, generator=generator)
    x1 = 0.5 * torch.randn(n, dim, generator=generator) + apart * torch.sign(torch.randn(n, 1, generator=generator))
    return x0, x1


@pytest.mark.parametrize("dim", [1, 2, 50, 300])
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_the_coupling_is_that_of_the_plain_way(dim, shift, compiled, monkeypatch):
    """Trap C5 as well: rows far from the origin, where the shortcut for squared distances loses digits."""
    x0, x1 = (x + shift for x in rows(150, dim))
    fast = Assignment().draw(x0, x1)
    monkeypatch.setenv("ADVECT_KERNEL", "none")
    plain = Assignment().draw(x0, x1)
    assert torch.equal(fast.index0, plain.index0)
    assert "relative_gap" not in plain.report
    assert 0 <= fast.report["relative_gap"] <= 1e-12
    for figure in ("mean_cost", "independent_cost"):  # both in float64, of rows that surround the origin
        assert fast.report[figure] == pytest.approx(plain.report[figure], rel=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("dim", "shift"), [(2, 0.0), (2, 1e3), (50, 0.0), (784, 0.0), (784, 30.0)])
def test_a_rough_coupling_keeps_its_tolerance(dim, shift, dtype, compiled):
    """At 784 coordinates the products are in bfloat16 where the processor has it."""
    x0, x1 = ((10 * x + shift).to(dtype) for x in rows(256, dim))
    best = Assignment().draw(x0, x1).report
    rough = Assignment(tolerance=0.01).draw(x0, x1)
    exact = (x0[rough.index0].double() - x1.double()).square().sum(1).mean()
    assert sorted(rough.index0.tolist()) == list(range(256))
    # a few roundings of float32 of |x0|² + |x1|², which is at most some ten times the mean cost here
    assert rough.report["mean_cost"] == pytest.approx(float(exact), rel=1e-5)
    assert float(exact) <= 1.01 * best["mean_cost"]
    assert rough.report["relative_gap"] <= 0.011
    assert rough.report["independent_cost"] == pytest.approx(best["independent_cost"], rel=1e-3)


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25])
@pytest.mark.parametrize("noise", [0.0, 1e-6, 1e-3])
def test_rows_too_near_for_float32_are_paired_in_float64(scale, noise, compiled):
    """Pairs a millionth of the spread apart, and rows whose squares float32 does not hold."""
    generator = torch.Generator().manual_seed(0)
    x0 = scale * torch.randn(200, 5, generator=generator, dtype=torch.float64)
    order = torch.randperm(200, generator=generator)
    x1 = x0[order] + scale * noise * torch.randn(200, 5, generator=generator, dtype=torch.float64)
    pairs = Assignment(tolerance=0.01).draw(x0, x1)
    assert torch.equal(pairs.index0, order)


def test_scalars_and_pictures_are_rows_too(compiled):
    x0, x1 = rows(60, 12)
    expected = Assignment().draw(x0, x1).index0
    assert torch.equal(Assignment().draw(x0.reshape(60, 2, 2, 3), x1.reshape(60, 2, 2, 3)).index0, expected)
    scalars = Assignment().draw(x0[:, 0], x1[:, 0])
    order0, order1 = x0[:, 0].argsort(), x1[:, 0].argsort()  # on a line the sorted pairing is optimal
    assert torch.equal(scalars.index0[order1], order0)


@pytest.mark.parametrize("dim", [2, 20, 300])
@pytest.mark.parametrize("tolerance", [0.0, 0.01])
def test_one_row_and_rows_that_are_not_finite(tolerance, dim, compiled):
    coupling = Assignment(tolerance=tolerance)
    assert coupling.draw(torch.zeros(1, dim), torch.ones(1, dim)).index0.tolist() == [0]
    x0, x1 = rows(20, dim)
    for wrong in (torch.inf, torch.nan):
        x1[7, 1] = wrong
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            with pytest.raises(DataError, match="data row 7"):
                coupling.draw(x0.to(dtype), x1.to(dtype))
    x1[7, 1] = 3e38  # finite, and so is the answer, though float32 cannot hold a square
    x1[8, 1] = 3e38
    assert sorted(coupling.draw(x0, x1).index0.tolist()) == list(range(20))


@pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
def test_a_tolerance_that_means_nothing_is_refused(tolerance):
    with pytest.raises(ConfigError, match="tolerance"):
        Assignment(tolerance=tolerance)


def test_other_costs_and_multiples_of_rows(compiled):
    x0, x1 = rows(120, 3)
    generator = torch.Generator().manual_seed(0)
    for coupling in (Assignment(cost="distance"), Assignment(cost="distance", tolerance=0.01)):
        best = solve_plainly(cost.COSTS["distance"](x0, x1).T.numpy().copy())
        matrix = cost.COSTS["distance"](x0, x1).T.numpy()
        least = matrix[np.arange(120), best].mean()
        assert coupling.draw(x0, x1).report["mean_cost"] <= (1 + coupling.tolerance) * least * (1 + 1e-12)
    assert len(Assignment(tolerance=0.01).draw(x0, x1[:40], generator=generator).index0) == 40


def test_the_plain_way_is_taken_where_there_is_no_library(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel, "LIBRARY", tmp_path / "absent.so")
    assert kernel.instruction_set() is None
    assert pair_squared(*rows(20, 2)) is None
    matrix = MATRICES["plane"](np.random.default_rng(0), 80)
    assert np.array_equal(solve_assignment(matrix.copy()), linear_sum_assignment(matrix)[1])


def test_an_instruction_set_is_named_or_refused(compiled, monkeypatch):
    monkeypatch.setenv("ADVECT_KERNEL", "plain")
    assert kernel.instruction_set() == "plain"
    monkeypatch.setenv("ADVECT_KERNEL", "none")
    assert kernel.instruction_set() is None
    monkeypatch.setenv("ADVECT_KERNEL", "sse")
    with pytest.raises(ConfigError, match="sse"):
        kernel.instruction_set()


@pytest.mark.slow
def test_an_installation_without_a_compiler_goes_on(tmp_path):
    pytest.importorskip("setuptools")
    done = build(tmp_path, PATH=str(tmp_path), CC="absent-cc", CXX="absent-c++")
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*.so"))


@pytest.mark.parametrize("features", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [2, 7, 64, 130])
def test_points_are_paired_as_their_distances_are(instructions, rows, features):
    """From the points or from the matrix: the same least cost, also far from the origin."""
    rng = np.random.default_rng(rows + features)
    x, y = rng.standard_normal((2, rows, features)) + 1e3
    solved = kernel.solve_points(*map(torch.from_numpy, (x, y)))
    matrix = ((x[:, None] - y[None]) ** 2).sum(2)
    best = matrix[linear_sum_assignment(matrix)].sum()
    assert sorted(solved.columns) == list(range(rows))
    assert matrix[range(rows), solved.columns].sum() == pytest.approx(best, rel=1e-12)
    assert solved.total == pytest.approx(best, rel=1e-12)
    assert solved.mean == pytest.approx(matrix.mean(), rel=1e-12)
    bound = (matrix + solved.prices).min(1).sum() - solved.prices.sum()
    assert bound == pytest.approx(best, rel=1e-9)
    rough = kernel.solve_points(*map(torch.from_numpy, (x, y)), tolerance=0.05)
    assert matrix[range(rows), rough.columns].sum() <= 1.05 * best * (1 + 1e-6)


def test_points_too_large_to_be_squared_are_left_to_others(compiled):
    x = torch.full((4, 2), 1e200, dtype=torch.float64)
    assert kernel.solve_points(x, x) is None


def test_a_library_from_before_goes_the_other_way(compiled, monkeypatch):
    """One that was built before the solver of points was written pairs by products."""
    x0, x1 = torch.randn((2, 40, 2), generator=torch.Generator().manual_seed(0))
    new = pair_squared(x0, x1)
    monkeypatch.setattr("advect.couplings.squared_pairs.solve_points", lambda *_, **__: None)
    old = pair_squared(x0, x1)
    assert new.mean_cost == pytest.approx(old.mean_cost, rel=1e-12)
    assert new.independent_cost == pytest.approx(old.independent_cost, rel=1e-12)


@pytest.mark.parametrize("width", [256, 263])
def test_rows_are_rounded_as_torch_does(instructions, width):
    """To bfloat16, to the nearest with ties to even; norms of sixteen sums in float32 against float64."""
    x = torch.randn(9, width, generator=torch.Generator().manual_seed(0))
    x[0, :4] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 1 + 2**-8 + 2**-20])  # three ties
    centre = torch.zeros(width)
    centre[7:] = x[1, 7:]
    rounded, norms = kernel.rounded_rows(x, centre)
    assert torch.equal(rounded, (x - centre).bfloat16())
    assert torch.allclose(norms.double(), (x - centre).double().square().sum(1), rtol=1e-6)
    turned = kernel.rounded_rows(x.T.contiguous().T, centre)  # read by torch: its rows are not in their plain order
    assert torch.equal(turned[0], rounded)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    expected = float((x[order].double() - 2 * x.double()).square().sum())
    assert kernel.total_apart(x, 2 * x, order) == pytest.approx(expected, rel=1e-6)
    assert kernel.total_apart(x.T.contiguous().T, 2 * x, order) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", BFLOAT16_SETS)
def test_distances_are_those_of_rounded_rows(name, library, monkeypatch):
    """Products of the moved rows in bfloat16, norms of them in float32, about some centre near that of all."""
    monkeypatch.setattr(kernel, "LIBRARY", library)
    monkeypatch.setenv("ADVECT_KERNEL", name)
    for num, dim in ((2, 256), (31, 263), (33, 300), (70, 784)):
        x, y = (1000 + points for points in rows(num, dim))
        found = kernel.rounded_distances(x, y)
        if found is None:
            pytest.skip(f"no {name} here")
        step = max(1, num // 64)
        centre = (x[::step] + y[::step]).sum(0) / (2 * len(x[::step]))
        moved = [points - centre for points in (x, y)]
        near = [points.bfloat16().double() for points in moved]
        norms = [points.double().square().sum(1) for points in moved]
        expected = norms[0][:, None] + norms[1] - 2 * near[0] @ near[1].T
        # the centre differs by a few roundings of float32 at 1000, a tenth of one of bfloat16 at 1, here and there
        assert np.abs(found[0] - expected.numpy()).max() <= 2e-3 * found[1]
        assert found[1] == pytest.approx(float(norms[0].sum() + norms[1].sum()) / num, rel=1e-3)
        assert np.abs(found[0] - (x[:, None] - y).double().square().sum(2).numpy()).max() <= 2**-6 * found[1]


@pytest.mark.parametrize("rounded", [True, False])
def test_a_rough_coupling_is_found_without_these_products(rounded, compiled, monkeypatch):
    """By torch's product where it has one of bfloat16 numbers, else in float32."""
    x0, x1 = (10 * x + 30 for x in rows(256, 300))
    best = Assignment().draw(x0, x1).report["mean_cost"]
    if not rounded:
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setenv("ADVECT_KERNEL", "avx512")
    report = Assignment(tolerance=0.01).draw(x0, x1).report
    assert best * (1 - 1e-5) <= report["mean_cost"] <= 1.01 * best
    assert report["relative_gap"] <= 0.011


@pytest.mark.parametrize(("far", "over"), [(0.0, 0.0), (3.0, 1.1), (30.0, 1.1)])
def test_rows_that_rounding_would_lose_are_paired_in_more_digits(far, over, compiled, monkeypatch):
    """A row far away on both sides moves the centre, from which all others look more alike; and where the gap is held
    against rounded costs.
    """
    monkeypatch.setattr("advect.couplings.squared_pairs._OVER", over)
    x0, x1 = rows(256, 300)
    x0[0] += far * 64
    x1[0] = x0[0] + 1e-3
    best = Assignment().draw(x0, x1).report["mean_cost"]
    report = Assignment(tolerance=0.01).draw(x0, x1).report
    assert report["mean_cost"] <= 1.01 * best
    assert report["relative_gap"] <= 0.011


@pytest.mark.parametrize("tolerance", [0.0, 0.01])
def test_all_instruction_sets_find_the_same_pairs(tolerance, library, monkeypatch):
    """Also among equal costs: the first of equal columns is taken, and rows bid in one order."""
    monkeypatch.setattr(kernel, "LIBRARY", library)
    random = np.random.default_rng(5)
    for name in ("duplicates", "few values", "plane", "heavy tails", "constant"):
        for n in (7, 200, 261, 800):
            matrix = MATRICES[name](random, n)
            found = []
            for instructions in kernel.SETS:
                monkeypatch.setenv("ADVECT_KERNEL", instructions)
                found.append(kernel.solve(matrix.copy(), tolerance=tolerance))
            assert all(np.array_equal(found[0].columns, one.columns) for one in found), (name, n)
            assert all(np.array_equal(found[0].prices, one.prices) for one in found), (name, n)
