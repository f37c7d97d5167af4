"""Rounds of the scaling iteration, compiled and by torch, against the same rounds written out in the log domain."""

import math

import pytest
import torch

from advect.couplings import compiled_scaling
from advect.couplings.scaling import balanced, unbalanced

ALWAYS = {"few": 10, "patience": math.inf}  # never ended for being slow


def costs(num0, num1, scale, *, apart=0.0, seed=0):
    """Squared distances in units of ε, of which one source row and one data row may lie far off."""
    generator = torch.Generator().manual_seed(seed)
    x0, x1 = (torch.randn(n, 2, generator=generator, dtype=torch.float64) for n in (num0, num1))
    x0[-1] += apart
    x1[0] -= apart
    return scale * (x0[:, None] - x1).square().sum(2)


CASES = {
    "one pair": costs(1, 1, 1.0),
    "no whole vector": costs(3, 5, 2.0),
    "fewer rows than columns": costs(33, 70, 1.0),
    "more rows than columns": costs(130, 41, 4.0),
    "a batch": costs(128, 128, 3.0),
    "a small regularisation": costs(40, 40, 3000.0),
    "rows beyond the range of a number": costs(20, 24, 50.0, apart=30.0),
    "all the same": torch.full((9, 17), 7.0, dtype=torch.float64),
}


@pytest.fixture(params=["none", *compiled_scaling.compiled.SETS])
def way(request, built, monkeypatch):
    """Torch, and each instruction set in turn."""
    monkeypatch.setattr(compiled_scaling, "LIBRARY", built / "couplings" / "scaling_kernel.so")
    monkeypatch.setenv("ADVECT_KERNEL", request.param)
    if (compiled_scaling.instruction_set() or "none") != request.param:
        pytest.skip(f"no {request.param} here")
    return request.param


def column_error(scaled, g):
    """Half the sum of the differences between column masses, the rows being exact, and 1/n1."""
    masses = torch.softmax(g - scaled, 1).mean(0)
    return 0.5 * float((masses - 1 / len(masses)).abs().sum())


# Both follow the same iteration, which contracts: what rounding does in one round, some units of the largest exponent,
# is not made larger by the next.
def rounding(scaled):
    return 1e-13 * (100 + float(scaled.max()))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rounds", [1, 2, 25])
def test_rounds_that_keep_mass(way, case, rounds):
    scaled = CASES[case]
    start = scaled.amin(0)
    found, count = balanced(scaled, start, target=1e-300, most=rounds, **ALWAYS)
    g, spent = start, 0
    while spent < rounds and column_error(scaled, g) > 1e-300:
        f = math.log(scaled.shape[1]) - torch.logsumexp(g - scaled, 1)
        g, spent = math.log(scaled.shape[0]) - torch.logsumexp(f[:, None] - scaled, 0), spent + 1
    assert (found - g).abs().max() <= rounding(scaled)
    assert count == rounds or column_error(scaled, found) <= 1e-13  # it may come to rest before


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reach", [0.3, 50.0])
def test_rounds_that_make_and_lose_mass(way, case, reach):
    scaled, rounds = CASES[case], 25
    f, g, change, count = unbalanced(scaled, reach, tolerance=1e-300, most=rounds)
    damped, (num0, num1) = reach / (1 + reach), scaled.shape
    other_f, other_g = scaled.new_zeros(num0), scaled.new_zeros(num1)
    for _ in range(count):
        before = other_f
        other_f = -damped * (torch.logsumexp(other_g - scaled, 1) - math.log(num1))
        other_g = -damped * (torch.logsumexp(other_f[:, None] - scaled, 0) - math.log(num0))
        masses = [torch.logsumexp(-dual / reach, 0) - math.log(len(dual)) for dual in (other_f, other_g)]
        shift = reach / 2 * (masses[0] - masses[1])
        other_f, other_g = other_f + shift, other_g - shift
    assert (f - other_f).abs().max() <= rounding(scaled)
    assert (g - other_g).abs().max() <= rounding(scaled)
    assert change == pytest.approx(float((other_f - before).abs().max()), abs=rounding(scaled))
    assert count == rounds or change <= 1e-300


def test_rounds_end_at_the_error_asked_for(way):
    scaled = CASES["a batch"]
    g, rounds = balanced(scaled, scaled.amin(0), target=1e-4, most=1000, **ALWAYS)
    assert column_error(scaled, g) <= 1e-4 * (1 + 1e-6)
    before, fewer = balanced(scaled, scaled.amin(0), target=1e-300, most=rounds - 2, **ALWAYS)
    assert fewer == rounds - 2
    assert column_error(scaled, before) > 1e-4


def test_slow_rounds_end_early(way):
    """Two clusters that hardly exchange mass: the error falls by a millionth a round."""
    scaled = costs(40, 40, 3000.0)
    _, rounds = balanced(scaled, scaled.amin(0), target=1e-12, most=10_000, few=10, patience=50)
    assert 10 < rounds < 10_000
    quick = CASES["all the same"]
    assert balanced(quick, quick.amin(0), target=1e-9, most=10, few=0, patience=0)[1] == 1
