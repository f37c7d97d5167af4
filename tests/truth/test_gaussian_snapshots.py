"""Snapshots that are Gaussians N(m_k, s_k² I) with optimal transport between neighbours: everything is known.

The optimal map between two of them is affine, so the law at share s of an interval is N((1 − s) m_k + s m_{k+1},
((1 − s) s_k + s s_{k+1})² I), with the velocity ((m_{k+1} − m_k) + (s_{k+1} − s_k) ξ)/h of the standardised point ξ.
"""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from advect.couplings import Assignment
from advect.evaluation.snapshots import interpolated, snapshot_distances
from advect.flows import ContinuousMap, EmpiricalBase, Flow
from advect.objectives import BridgeMatching, VelocityMatching
from advect.objectives.matching import on_interval
from advect.paths import BrownianBridge, linear
from advect.records import Batch
from advect.solvers import Adaptive
from advect.training import DataRows, SnapshotBatches, Snapshots, generator_for

MEANS, SPREADS, POSITIONS = (0.0, 3.0, 2.0), (1.0, 0.5, 2.0), (0.0, 0.3, 1.0)
ROWS = 200
QUANTILES = torch.from_numpy(norm.ppf((np.arange(ROWS) + 0.5) / ROWS))  # of N(0, 1), float64


def at(t: float) -> tuple[float, float]:
    """Mean and spread at a time, piecewise linear."""
    return float(np.interp(t, POSITIONS, MEANS)), float(np.interp(t, POSITIONS, SPREADS))


class Exact(torch.nn.Module):
    """The velocity above, with the score of the marginals of a Brownian bridge as `marginal_score` where asked."""

    def forward(self, t, x, condition=None):
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(x))
        k = (t >= POSITIONS[1]).long()
        places, means, spreads = (torch.tensor(v, dtype=torch.float64) for v in (POSITIONS, MEANS, SPREADS))
        length = places[k + 1] - places[k]
        share = (t - places[k]) / length
        mean, spread = torch.lerp(means[k], means[k + 1], share), torch.lerp(spreads[k], spreads[k + 1], share)
        standard = (x - mean[:, None]) / spread[:, None]
        return ((means[k + 1] - means[k])[:, None] + (spreads[k + 1] - spreads[k])[:, None] * standard) / length[
            :, None
        ]

    velocity = forward


def batches(batch_size: int = ROWS) -> SnapshotBatches:
    """Each snapshot is the quantiles of its Gaussian; a batch holds all of them."""
    values = [m + s * QUANTILES[:, None] for m, s in zip(MEANS, SPREADS, strict=True)]
    rows = tuple(DataRows(lambda index, generator, v=v: v[index], ROWS) for v in values)
    return SnapshotBatches(Snapshots(rows, POSITIONS, (Assignment(),) * 2), batch_size, seed=0)


def drawn(step: int) -> Batch:
    source, generator = batches(), generator_for(0, step)
    return source.draw(step, generator)


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_points_of_a_batch_are_the_quantiles_of_the_law_at_their_time(step, share):
    batch = drawn(step)
    bridge = linear().sample(torch.full((ROWS,), share, dtype=torch.float64), batch.x0, batch.x1)
    time, length = on_interval(bridge.t, batch.interval)
    mean, spread = at(float(time[0]))
    # Of quantiles the optimal plan pairs equal ranks: exact but for rounding.
    torch.testing.assert_close(bridge.x.sort(0).values, mean + spread * QUANTILES[:, None], atol=1e-12, rtol=0)
    # ends belong to the interval itself, not to the next one: ask the exact field inside
    inside = time.clamp(float(batch.interval[0, 0]) + 1e-12, float(batch.interval[0, 1]) - 1e-12)
    expected = length[:, None] * Exact()(inside, bridge.x)
    torch.testing.assert_close(bridge.velocity, expected, atol=1e-9, rtol=0)


def test_the_exact_field_has_no_loss_and_another_one_has_its_displacement_for_loss():
    objective, exact = VelocityMatching(linear()), Exact()
    for step in range(4):
        batch = drawn(step)
        loss = objective(exact, batch, generator=generator_for(1, step))
        assert float(loss.max()) < 1e-20  # of the optimal plan's straight lines nothing is left to predict
        length = float(batch.interval[0, 1] - batch.interval[0, 0])

        class Shifted(torch.nn.Module):
            def velocity(self, t, x, condition=None):
                return exact(t, x) + 0.7

        loss = objective(Shifted(), batch, generator=generator_for(1, step))
        torch.testing.assert_close(loss, torch.full_like(loss, (0.7 * length) ** 2), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("time", [0.0, 0.1, 0.3, 0.55, 1.0])
def test_the_flow_up_to_a_time_has_the_law_at_that_time_and_back(time):
    solver = Adaptive(rtol=1e-9, atol=1e-9)
    whole = Flow(EmpiricalBase(MEANS[0] + SPREADS[0] * QUANTILES[:, None]),
                 ContinuousMap(Exact(), event_shape=(1,), solver=solver, likelihood_solver=solver))  # fmt: skip
    part = whole.with_options(interval=(0.0, time))
    mean, spread = at(time)
    moved = part.decode(whole.base.points)
    # A step across the jump of the field has an error that its estimate, made for smooth fields, understates by up to
    # a few thousand times the 1e-9 asked for; everywhere else it is 1e-9.
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(moved.value, mean + spread * QUANTILES[:, None], **close)
    torch.testing.assert_close(part.encode(moved.value).value, whole.base.points, **close)
    determinant = part.map.decode(whole.base.points, log_det=True).log_abs_det_jacobian
    torch.testing.assert_close(determinant, torch.full_like(determinant, np.log(spread / SPREADS[0])), **close)


def test_between_two_inner_times():
    solver = Adaptive(rtol=1e-9, atol=1e-9)
    field = ContinuousMap(Exact(), event_shape=(1,), solver=solver, likelihood_solver=solver)
    (m0, s0), (m1, s1) = at(0.2), at(0.8)
    moved = field.with_options(interval=(0.2, 0.8)).decode(m0 + s0 * QUANTILES[:, None], log_det=False)
    torch.testing.assert_close(moved.value, m1 + s1 * QUANTILES[:, None], atol=1e-5, rtol=0)


def test_a_bridge_s_score_knows_no_speed_of_time():
    """The loss of velocity and score on an interval of length h is that on [0, 1] of the field sped up by h."""

    class Linear(torch.nn.Module):
        def __init__(self, length):
            super().__init__()
            self.length = length

        def velocity(self, t, x, condition=None):
            return (0.3 * x + 1.0) / self.length

        def marginal_score(self, t, x, condition=None):
            return 0.5 - 0.2 * x

    objective = BridgeMatching(BrownianBridge(sigma=0.4))
    batch = drawn(0)
    length = float(batch.interval[0, 1] - batch.interval[0, 0])
    on_part = objective(Linear(length), batch, generator=generator_for(5))
    on_whole = objective(Linear(1.0), Batch(x1=batch.x1, x0=batch.x0), generator=generator_for(5))
    torch.testing.assert_close(on_part, on_whole, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_interpolation_of_the_plan_is_the_displacement_interpolation(share):
    before, after = 1.0 + 0.5 * QUANTILES[:, None], -2.0 + 2.0 * QUANTILES[:, None]
    found = interpolated(before, after, share, generator=generator_for(0))
    expected = (1 - 3 * share) + (0.5 + 1.5 * share) * QUANTILES[:, None]
    torch.testing.assert_close(found.sort(0).values, expected, atol=1e-12, rtol=0)


def test_distances_at_a_time_against_their_truth():
    """W1 of two shifted Gaussians of one spread is the shift."""
    generator = torch.Generator().manual_seed(0)
    rows = 1000
    real = torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    right = torch.randn(rows, 1, generator=generator, dtype=torch.float64)
    found, count = snapshot_distances(real, {"right": right, "shifted": right + 0.8}, generator=generator)
    assert count == 500
    # E W1 of two samples of n of N(0, 1) is ∫ E|F_n − G_n| = ∫ 2 √(Φ(1−Φ)/(nπ)) dx = 2·1.615/√(nπ) = 0.081; the mean of
    # five that share their rows in part spreads by less than half of it.
    floor = 2 * 1.615 / np.sqrt(500 * np.pi)
    assert found["floor"].value == pytest.approx(floor, rel=0.5)
    assert found["right"].value == pytest.approx(floor, rel=0.5)
    # A shift far above the noise adds to nothing: the mean of the difference is left, of spread √(2/500).
    assert found["shifted"].value == pytest.approx(0.8, abs=4 * np.sqrt(2 / 500))


def test_a_time_with_further_real_rows_is_not_halved():
    generator = torch.Generator().manual_seed(0)
    real, reference = torch.zeros(10, 1), torch.ones(50, 1)
    found, count = snapshot_distances(
        real, {"model": torch.full((30, 1), 3.0)}, reference=reference, generator=generator
    )
    assert count == 10
    assert found["floor"].value == pytest.approx(1.0)
    assert found["model"].value == pytest.approx(3.0)
