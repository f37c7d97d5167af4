"""The ground floor: errors carry place and remedy, time broadcasts by one rule, records keep their shapes."""

import pytest
import torch

from advect.errors import AdvectError, DataError, RunFolderError, UnknownNameError, nearest, unknown_name
from advect.records import Status
from advect.typing import batch_time, expand_time, sum_event


def test_message_has_place_what_and_remedy():
    error = DataError("12 is not a number", where="houses.csv, row 3", remedy="Remove it.")
    assert str(error) == "houses.csv, row 3: 12 is not a number. Remove it."
    assert isinstance(error, ValueError)


def test_os_errors_keep_our_message():
    assert str(RunFolderError("no run here", where="runs/a")) == "runs/a: no run here."


def test_unknown_names_offer_the_nearest():
    assert nearest("ot-cmf", ["i-cfm", "ot-cfm"]) == "ot-cfm"
    with pytest.raises(UnknownNameError, match="Did you mean 'ot-cfm'"):
        raise unknown_name("method", "ot-cmf", ["i-cfm", "ot-cfm"])
    assert issubclass(UnknownNameError, AdvectError)


@pytest.mark.parametrize("event", [(), (2,), (3, 4), (3, 4, 5), (1, 2, 3, 4)])
@pytest.mark.parametrize("time", [0.5, torch.tensor(0.5), torch.linspace(0, 1, 7)])
def test_one_broadcasting_rule(event, time):
    """Trap P4: t is broadcast by one rule for event ranks 0 to 4."""
    x = torch.zeros(7, *event, dtype=torch.float64)
    assert (x + expand_time(time, x)).shape == x.shape
    assert expand_time(time, x).dtype == torch.float64
    assert batch_time(time, x).shape == (7,)
    assert sum_event(x).shape == (7,)


def test_failed_status_is_everything_without_a_value():
    assert not Status.OK.failed
    assert not Status.IMPUTED.failed
    assert Status.NAN_FIELD.failed
    assert Status.STEP_LIMIT.failed
