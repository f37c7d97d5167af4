"""Distance to the closest record, against cases counted by hand."""

import pytest
import torch

from advect.errors import ShapeError
from advect.evaluation import closest_record, nearest_distance


def column(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def test_distances_by_hand():
    train = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    rows = torch.tensor([[0.0, 1.0], [3.0, 4.0], [6.0, 8.0]])
    assert nearest_distance(rows, train).tolist() == [1.0, 0.0, 5.0]


def test_blocks_change_nothing():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1500, 3, generator=generator, dtype=torch.float64)
    records = torch.randn(2100, 3, generator=generator, dtype=torch.float64)
    direct = (rows[:, None] - records[None]).norm(dim=2).amin(1)
    torch.testing.assert_close(nearest_distance(rows, records), direct)


def test_figures_by_hand():
    train = column(0.0, 10.0)
    real = column(*(i / 100 for i in range(101)))  # distances 0, 0.01, … 1
    found = closest_record(column(0.0, 0.02, 0.5, 4.0), real, train)
    assert found.median == pytest.approx(0.02)  # torch's lower median of 0, 0.02, 0.5, 4
    assert found.real_median == pytest.approx(0.5)
    assert found.near_share == 0.5  # 0 and 0.02 lie below 0.05
    assert found.real_near_share == pytest.approx(6 / 101)


def test_a_model_that_copies_is_seen_and_one_that_learns_is_not():
    generator = torch.Generator().manual_seed(1)
    train, real, fresh = (torch.randn(2000, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    copies = closest_record(train[:1000], real, train)
    assert copies.near_share == 1.0
    assert copies.median == 0.0
    learned = closest_record(fresh, real, train)
    assert abs(learned.near_share - learned.real_near_share) < 4 * learned.near_error
    assert learned.median == pytest.approx(learned.real_median, rel=0.1)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ShapeError):
        nearest_distance(torch.zeros(2, 3), torch.zeros(0, 3))
    with pytest.raises(ShapeError):
        closest_record(torch.zeros(0, 3), torch.zeros(2, 3), torch.zeros(2, 3))
