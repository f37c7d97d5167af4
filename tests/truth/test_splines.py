"""Paths bent onto splines: SciPy's spline, the slopes of finite differences, the continuity equation."""

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicHermiteSpline, CubicSpline
from scipy.stats import norm

from advect.couplings import Assignment
from advect.evaluation.verification import verify_path
from advect.objectives import VelocityMatching
from advect.objectives.matching import on_interval
from advect.paths import BrownianBridge, CurvedPath, bend, curved, linear
from advect.records import Batch
from advect.training import BatchSource, ChainBatches, DataRows, Snapshots, generator_for
from advect.training.chains import spline_slopes

POSITIONS = (0.0, 0.2, 0.5, 1.0)
MEANS, SPREADS = (0.0, 3.0, 2.0, -1.0), (1.0, 0.8, 1.5, 2.0)
ROWS = 150
QUANTILES = torch.from_numpy(norm.ppf((np.arange(ROWS) + 0.5) / ROWS))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator_for(seed), dtype=torch.float64)


def test_the_bend_makes_hermite_s_cubic():
    x0, x1, m0, m1 = (normal(7, 2, 3, seed=k) for k in range(4))
    for s in (0.0, 0.13, 0.5, 0.9, 1.0):
        times = torch.full((7,), s, dtype=torch.float64)
        shift, speed = bend(times, x0, x1, m0, m1)
        exact = CubicHermiteSpline([0, 1], np.stack([x0, x1]), np.stack([m0, m1]))
        np.testing.assert_allclose((1 - s) * x0 + s * x1 + shift, exact(s), atol=1e-13)
        np.testing.assert_allclose(x1 - x0 + speed, exact(s, 1), atol=1e-13)


@pytest.mark.parametrize("positions", [(0.0, 1.0), (0.0, 0.3, 1.0), POSITIONS])
def test_slopes_at_the_knots_are_those_of_the_natural_spline(positions):
    values = normal(len(positions), 5).numpy()
    found = spline_slopes(positions) @ values
    if len(positions) == 2:
        np.testing.assert_allclose(found, np.broadcast_to(values[1] - values[0], (2, 5)), atol=1e-13)
    else:
        spline = CubicSpline(positions, values, bc_type="natural")
        np.testing.assert_allclose(found, spline(positions, 1), atol=1e-12)
        np.testing.assert_allclose(spline([0, 1], 2), 0, atol=1e-10)


def source(batch_size: int = ROWS) -> ChainBatches:
    """Each snapshot is the quantiles of a Gaussian."""
    values = [m + s * QUANTILES[:, None] for m, s in zip(MEANS, SPREADS, strict=True)]
    rows = tuple(DataRows(lambda index, generator, v=v: v[index], ROWS) for v in values)
    return ChainBatches(Snapshots(rows, POSITIONS, (Assignment(),) * 3, smooth=True), batch_size, seed=0)


def batch(step: int = 0) -> Batch:
    feed, generator = source(), generator_for(0, step)
    assert isinstance(feed, BatchSource)
    return feed.draw(step, generator)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_points_lie_on_the_splines_of_mean_and_spread(share):
    """Optimal plans between quantiles keep ranks, and a spline is linear in its values."""
    drawn = batch()
    bridge = linear().sample(torch.full((ROWS,), share, dtype=torch.float64), drawn.x0, drawn.x1)
    bridge = curved(bridge, *drawn.slopes.unbind(1))
    time, length = on_interval(bridge.t, drawn.interval)
    mean, spread = (CubicSpline(POSITIONS, values, bc_type="natural") for values in (MEANS, SPREADS))
    starts = [POSITIONS.index(float(start)) for start in drawn.interval[:, 0]]
    assert set(starts) == {0, 1, 2}
    standard = (drawn.x0[:, 0].numpy() - np.take(MEANS, starts)) / np.take(SPREADS, starts)
    where = time.numpy()
    np.testing.assert_allclose(bridge.x[:, 0], mean(where) + spread(where) * standard, atol=1e-12)
    slope = (mean(where, 1) + spread(where, 1) * standard) * length.numpy()
    np.testing.assert_allclose(bridge.velocity[:, 0], slope, atol=1e-11)


def test_curves_are_smooth_where_pieces_meet():
    """Slopes at the end of one piece, per unit of the flow's time, are those at the start of the next."""
    slopes = spline_slopes(POSITIONS)
    drawn = batch()
    length = (drawn.interval[:, 1] - drawn.interval[:, 0])[:, None]
    for k in (1, 2):
        start = torch.isclose(drawn.interval[:, 0], torch.tensor(POSITIONS[k], dtype=torch.float64))
        end = torch.isclose(drawn.interval[:, 1], torch.tensor(POSITIONS[k], dtype=torch.float64))
        for here, side in ((start, 0), (end, 1)):
            rows = (drawn.x0 if side == 0 else drawn.x1)[here]
            standard = (rows - MEANS[k]) / SPREADS[k]
            expected = slopes[k] @ np.array(MEANS) + slopes[k] @ np.array(SPREADS) * standard
            torch.testing.assert_close(drawn.slopes[here, side] / length[here], expected, atol=1e-11, rtol=0)


def test_the_loss_is_that_of_the_slope_on_the_curve():
    drawn = batch()
    mean, spread = (CubicSpline(POSITIONS, values, bc_type="natural") for values in (MEANS, SPREADS))

    class Exact(torch.nn.Module):
        def velocity(self, t, x, condition=None):
            t = t.numpy()
            standard = (x[:, 0].numpy() - mean(t)) / spread(t)
            return torch.from_numpy(mean(t, 1) + spread(t, 1) * standard)[:, None]

    loss = VelocityMatching(linear())(Exact(), drawn, generator=generator_for(1))
    assert float(loss.max()) < 1e-20


def slopes_of_rows(x0, x1):
    """Some slopes that depend on both rows."""
    return 2 * (x1 - x0) + 0.5 * x0.sin(), -(x1 - x0) + 0.3 * x1


@pytest.mark.parametrize("path", [linear(), linear(0.3), BrownianBridge(0.5)])
def test_a_bent_path_obeys_the_laws_of_paths(path):
    verification = verify_path(CurvedPath(path, slopes_of_rows), rows=2048, seed=0, name="curved")
    assert [check for check in verification.checks if check.status == "fail"] == []
    assert "pass" in {check.status for check in verification.checks if "continuity" in check.law}


def test_a_bend_without_its_speed_is_found_out():
    class Wrong(CurvedPath):
        def sample(self, t, x0, x1, *, generator=None):
            right, plain = super().sample(t, x0, x1, generator=generator), self.path.velocity(t, x0, x0, x1)
            return type(right)(right.t, right.x, plain, right.score, x0, x1)

    verification = verify_path(Wrong(linear(0.3), slopes_of_rows), rows=2048, seed=0, name="wrong")
    assert any(check.status == "fail" for check in verification.checks)


def test_batches_follow_the_step_and_weights_follow_the_chain():
    one, other = batch(3), batch(3)
    assert torch.equal(one.x0, other.x0)
    assert not torch.equal(one.x0, batch(4).x0)

    class Doubled(Assignment):
        def draw(self, x0, x1, *, condition=None, generator=None):
            pairs = super().draw(x0, x1, generator=generator)
            order = torch.arange(len(x1)).flip(0)
            return type(pairs)(pairs.index0[order], order, weight=1 + order.double())

    feed = source()
    feed.snapshots = Snapshots(feed.snapshots.rows, POSITIONS, (Assignment(), Doubled(), Assignment()), smooth=True)
    drawn = feed.draw(0, generator_for(0))
    assert drawn.weight.sort().values.tolist() == list(range(1, ROWS + 1))
    # Ranks are still kept along every chain, whatever order the pairs came in.
    piece = torch.tensor([POSITIONS.index(float(start)) for start in drawn.interval[:, 0]])
    means, spreads = (torch.tensor(v, dtype=torch.float64) for v in (MEANS, SPREADS))
    first = (drawn.x0[:, 0] - means[piece]) / spreads[piece]
    second = (drawn.x1[:, 0] - means[piece + 1]) / spreads[piece + 1]
    torch.testing.assert_close(first, second, atol=1e-12, rtol=0)
