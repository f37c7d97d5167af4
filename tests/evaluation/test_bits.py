"""Bits per dimension: closed forms, units, and rows that have no figure."""

import math

import pytest
import torch

from advect.errors import ConfigError, DataError, ShapeError
from advect.evaluation.bits import bits_per_dimension, bits_per_dimension_metric
from advect.flows.base import StandardNormal


def test_standard_normal_in_three_dimensions():
    """Trap L10: bits, not nats. At the mode −log₂ p/d is ½ log₂ 2π, on average over draws ½ log₂ 2πe."""
    base = StandardNormal((3,)).double()
    assert bits_per_dimension(base.log_prob(torch.zeros(1, 3).double()), 3).item() == pytest.approx(
        0.5 * math.log2(2 * math.pi), abs=1e-12
    )
    draws = base.sample(20_000, generator=torch.Generator().manual_seed(0))
    bits = bits_per_dimension(base.log_prob(draws), 3)
    # The entropy within four standard errors, themselves 1/√(2 · 3 · 20,000) / log 2 = 0.0042.
    error = (bits.std() / math.sqrt(len(bits))).item()
    assert error == pytest.approx(0.00416, rel=0.05)
    assert abs(bits.mean().item() - 0.5 * math.log2(2 * math.pi * math.e)) < 4 * error


def test_uniform_bytes_cost_eight_bits_in_either_unit():
    """256 equally likely levels: density 1/256 per level, or 1 per unit of x/256."""
    d = 5
    per_level = torch.full((4,), -d * math.log(256)).double()
    assert torch.allclose(bits_per_dimension(per_level, d), torch.full((4,), 8.0).double(), atol=1e-12)
    assert torch.allclose(bits_per_dimension(torch.zeros(4), d, levels_scale=256), torch.full((4,), 8.0).double())


def test_a_row_that_cannot_occur_costs_infinitely_many():
    assert bits_per_dimension(torch.tensor([-math.inf, -3.0]), 1).tolist()[0] == math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_failed_rows_are_counted_and_raised(bad):
    """Trap L8: three of twelve rows without a value; a mean over the other nine would be finite."""
    values = torch.full((12,), -2.0)
    values[[2, 5, 7]] = bad
    with pytest.raises(DataError, match=r"3 of 12 rows") as caught:
        bits_per_dimension(values, 2)
    assert "row 2" in str(caught.value)
    with pytest.raises(DataError, match=r"3 of 12 rows"):
        bits_per_dimension_metric(values, 2, dequantisation="uniform")


def test_the_metric_states_its_protocol():
    values = torch.tensor([-2.0, -4.0]) * math.log(2)
    metric = bits_per_dimension_metric(values, 2, dequantisation="variational", importance_samples=16, ceiling=4.0)
    assert metric.name == "bits per dimension (variational dequantisation, K = 16)"
    assert (metric.value, metric.unit, metric.better) == (pytest.approx(1.5), "bits per dimension", "lower")
    # Two figures, 1 and 2: standard deviation 1/√2, over √2.
    assert metric.error == pytest.approx(0.5)
    assert metric.ceiling == 4.0
    assert bits_per_dimension_metric(values[:1], 2, dequantisation="none").error is None


@pytest.mark.parametrize("options", [{"dimensions": 0}, {"dimensions": 2, "levels_scale": 0.0}])
def test_refuses_settings(options):
    with pytest.raises(ConfigError):
        bits_per_dimension(torch.zeros(1), **options)


def test_refuses_no_rows():
    with pytest.raises(ShapeError, match="no rows"):
        bits_per_dimension_metric(torch.zeros(0), 2, dequantisation="uniform")
