"""When particles are weighed."""

import pytest

from fktext.errors import UsageError
from fktext.smc.schedules import At, Every


def test_the_last_step_is_weighed_exactly_once():
    assert Every(20).weighings(1000) == tuple(range(20, 1001, 20))
    assert Every(30).weighings(100) == (30, 60, 90, 100)
    assert Every(500).weighings(100) == (100,)
    assert At([]).weighings(7) == (7,)
    assert At([7, 3, 3]).weighings(7) == (3, 7)


def test_windows():
    assert Every(10, start=20, end=50).weighings(100) == (30, 40, 50, 100)


@pytest.mark.parametrize("make", [lambda: Every(0), lambda: Every(5, start=9, end=9), lambda: At([0]).weighings(5)])
def test_impossible_schedules_are_refused(make):
    with pytest.raises(UsageError):
        make()
