"""Chains of maps: order, signs, merged records, conditions, and members that are not our class."""

import math
from dataclasses import replace

import pytest
import torch

from advect.errors import ConfigError, ShapeError
from advect.records import Mapped, Status
from advect.transforms import Bijection, Columnwise, Compose, Precision, Standardise, mapped

FLOAT64 = torch.float64


def shift(amount: float, scale: float = 1.0) -> Standardise:
    return Standardise(torch.tensor([amount], dtype=FLOAT64), torch.tensor([scale], dtype=FLOAT64))


class Foreign:
    """A map by protocol alone, with a solver's report: z = 2x, or 2x + condition."""

    def __init__(self, error: float = 0.0, nfe: int = 5, status: Status = Status.OK) -> None:
        self.error, self.count, self.status, self.seen = error, nfe, status, []

    def encode(self, x, condition=None, *, log_det=True, generator=None):
        return self._map(x, condition, log_det, generator, 2.0)

    def decode(self, z, condition=None, *, log_det=True, generator=None):
        return self._map(z, condition, log_det, generator, 0.5)

    def _map(self, x, condition, log_det, generator, factor):
        self.seen.append((condition, generator))
        rows = len(x)
        value = x * factor if condition is None else x * factor + condition
        status = torch.zeros(rows, dtype=torch.int8)
        status[:1] = int(self.status)
        return Mapped(
            value,
            torch.full((rows,), math.log(factor), dtype=x.dtype) if log_det else None,
            status,
            standard_error=torch.full((rows,), self.error, dtype=x.dtype) if log_det else None,
            nfe=torch.full((rows,), self.count),
        )


class Conditional(Bijection):
    """z = x + condition."""

    def __init__(self) -> None:
        super().__init__((1,), condition_shape=(1,))

    def _encode(self, x, condition, log_det, generator):
        return mapped(x + condition, x.new_zeros(len(x)) if log_det else None)

    def _decode(self, z, condition, log_det, generator):
        return mapped(z - condition, z.new_zeros(len(z)) if log_det else None)


class Marked(Bijection):
    """The identity with a status."""

    def __init__(self, *status: Status) -> None:
        super().__init__((1,))
        self.marks = torch.tensor([int(s) for s in status], dtype=torch.int8)

    def _encode(self, x, condition, log_det, generator):
        return mapped(x, x.new_zeros(len(x)) if log_det else None, self.marks)

    def _decode(self, z, condition, log_det, generator):
        return self._encode(z, condition, log_det, generator)


def test_encode_runs_in_order_and_decode_backwards():
    """(x − 1)/2 and then (· − 10)/5: 21 → 10 → 0; the log-determinant is −log 2 − log 5."""
    chain = Compose(shift(1, 2), shift(10, 5))
    out = chain.encode(torch.tensor([[21.0]], dtype=FLOAT64))
    assert out.value.item() == 0
    assert math.isclose(out.log_abs_det_jacobian.item(), -math.log(10), rel_tol=1e-14)
    assert chain.decode(out.value).value.item() == 21
    assert out.nfe is None
    assert out.standard_error is None


def test_records_of_other_classes_are_merged():
    """Errors 3 and 4 make 5, evaluations add, the generator travels, the log-determinants add with their sign."""
    generator = torch.Generator().manual_seed(0)
    first, second = Foreign(3.0, 10), Foreign(4.0, 7)
    chain = Compose(first, shift(1.0), second)
    x = torch.ones(3, 1, dtype=FLOAT64)
    out = chain.encode(x, generator=generator)
    assert torch.equal(out.value, torch.full((3, 1), 2.0, dtype=FLOAT64))
    torch.testing.assert_close(out.standard_error, torch.full((3,), 5.0, dtype=FLOAT64))
    assert out.nfe.tolist() == [17] * 3
    torch.testing.assert_close(out.log_abs_det_jacobian, torch.full((3,), math.log(4), dtype=FLOAT64))
    assert first.seen == [(None, generator)]
    torch.testing.assert_close(chain.decode(out.value).log_abs_det_jacobian, -out.log_abs_det_jacobian)
    assert chain.encode(x, log_det=False).log_abs_det_jacobian is None


def test_the_worst_status_of_a_row_wins_and_failed_rows_are_nan():
    first = Marked(Status.OK, Status.IMPUTED, Status.STIFF, Status.OUTSIDE_SUPPORT)
    second = Marked(Status.OK, Status.OUTSIDE_SUPPORT, Status.OK, Status.IMPUTED)
    for chain in (Compose(first, second), Compose(Compose(second), Compose(), first)):
        out = chain.encode(torch.ones(4, 1, dtype=FLOAT64))
        assert out.status.tolist() == [Status.OK, Status.OUTSIDE_SUPPORT, Status.STIFF, Status.OUTSIDE_SUPPORT]
        assert out.value.isnan().flatten().tolist() == [False, False, True, False]
        assert out.log_abs_det_jacobian.isnan().tolist() == [False, False, True, False]


def test_the_condition_goes_only_to_the_members_that_declare_it():
    """Trap T19: a plain map in the chain does not see it, a conditional one and an undeclared one do."""
    foreign = Foreign()
    condition = torch.tensor([[5.0]], dtype=FLOAT64)
    chain = Compose(shift(1.0), Conditional(), shift(0.0))
    assert chain.condition_shape == (1,)
    assert chain.encode(torch.ones(1, 1, dtype=FLOAT64), condition).value.item() == 5
    with pytest.raises(ShapeError, match="No condition"):
        chain.encode(torch.ones(1, 1, dtype=FLOAT64))
    with pytest.raises(ShapeError, match="expected none"):
        Compose(shift(1.0)).encode(torch.ones(1, 1, dtype=FLOAT64), condition)

    open_chain = Compose(shift(1.0), foreign)
    assert open_chain.condition_shape == "any"
    assert open_chain.encode(torch.ones(1, 1, dtype=FLOAT64), condition).value.item() == 5
    assert Compose(open_chain).encode(torch.ones(1, 1, dtype=FLOAT64), condition).value.item() == 5


def test_members_that_cannot_live_together_are_refused():
    other = Conditional()
    other.condition_shape = (2,)
    with pytest.raises(ConfigError, match="conditions of different shapes"):
        Compose(Conditional(), other)
    with pytest.raises(ConfigError, match="event shapes"):
        Compose(shift(1.0), Standardise(torch.zeros(2), torch.ones(2)))


def test_members_are_registered_and_move():
    chain = Compose(shift(1.0, 2.0), Compose(shift(3.0)))
    assert set(chain.state_dict()) == {"0.shift", "0.scale", "1.0.shift", "1.0.scale"}
    assert chain.float().maps[0].shift.dtype == torch.float32


def test_the_status_reaches_through_columnwise():
    marked = Marked(Status.OK, Status.OUTSIDE_SUPPORT)
    maps = Columnwise([([1], shift(1.0)), ([0], marked)], (2,))
    assert [indices for indices, _ in maps.groups] == [(1,), (0,)]
    assert [member for _, member in maps.groups] == list(maps.maps)
    out = maps.encode(torch.ones(2, 2, dtype=FLOAT64))
    assert out.status.tolist() == [Status.OK, Status.OUTSIDE_SUPPORT]
    assert torch.equal(out.value, torch.tensor([[1.0, 0.0]] * 2, dtype=FLOAT64))
    with pytest.raises(ShapeError, match="each of 2 once"):
        Columnwise([([1], shift(1.0))], (2,))


def test_precision_changes_the_dtype_and_nothing_else():
    """Scaling in float64 keeps digits that float32 rows would have lost before they were centred."""
    chain = Compose(shift(500_000.0, 0.01), Precision((1,)))
    x = torch.tensor([[500_000.0123]], dtype=FLOAT64)
    out = chain.encode(x)
    assert out.value.dtype == torch.float32
    assert math.isclose(out.value.item(), 1.23, rel_tol=1e-6)
    back = chain.decode(out.value)
    assert back.value.dtype == FLOAT64
    # 1.23 in float32 is known to 6e-8, times the scale.
    assert abs(back.value.item() - x.item()) < 1e-8
    assert math.isclose(out.log_abs_det_jacobian.item(), -back.log_abs_det_jacobian.item(), rel_tol=1e-14)


def test_a_record_is_never_changed_by_a_chain():
    member = Foreign()
    alone = member.encode(torch.ones(2, 1))
    assert torch.equal(Compose(member).encode(torch.ones(2, 1)).value, replace(alone).value)
