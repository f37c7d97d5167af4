"""The benchmark of the Gaussian bridge: its closed forms, and what a cell does."""

import math

import pytest
import torch

from benchmarks import gaussian_bridge as bench


def test_the_floor_is_what_exact_draws_cost():
    """Mean over 200 fits; each divergence is about half a χ² over n, with relative spread √(2/parameters)."""
    generator = torch.Generator().manual_seed(0)
    found = [bench.fitted_divergence(torch.randn(2000, 5, generator=generator) + 0.3, 0.3, 1.0) for _ in range(200)]
    expected = bench.floor(5, 2000)
    assert sum(found) / 200 == pytest.approx(expected, rel=5 * math.sqrt(2 / 20 / 200) + 0.02)


def test_the_divergence_is_torch_s_own():
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) @ torch.diag(
        torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    )
    fitted = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T, correction=0))
    exact = torch.distributions.MultivariateNormal(
        torch.full((3,), 0.2, dtype=torch.float64), 1.3 * torch.eye(3).double()
    )
    assert bench.fitted_divergence(x, 0.2, 1.3) == pytest.approx(
        float(torch.distributions.kl_divergence(fitted, exact)), rel=1e-10
    )


@pytest.mark.parametrize(("way", "dim"), [("none", 5), ("start", 3), ("rows", 3)])
def test_a_cell(way, dim, tmp_path):
    settings = bench.settings_of(dim, way, 0, 5)
    figures = bench.run_cell(settings)
    assert len(figures["sde"]["all"]) == 21
    # At t = 0 both are fresh draws of the source.
    assert figures["ode"]["all"][0] == figures["sde"]["all"][0] < 4 * figures["floor"]
    if way == "none":  # the Gaussian start is the closed form, up to its fit to 10,000 rows and the solver
        assert figures["ode"]["end"] < 4 * figures["floor"]
    if dim in bench.DIMS:
        machine = {"processor": "a processor", "cores": 2, "threads": 1}
        record = {"settings": settings, "figures": figures, "machine": machine, "date": "2026-01-01", "seed": 0}
        bench.write_table(tmp_path / "t.md", [record | {"versions": {"torch": "2.13.0"}}])
        assert "| 5 | none | 1 of 3 | ODE |" in (tmp_path / "t.md").read_text()
