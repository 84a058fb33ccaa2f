"""What every meter has to do, whoever counts: inherit `MeterConformance` in a test class and say how to make one.

::

    class TestMyMeter(MeterConformance):
        @pytest.fixture
        def counting(self):
            return MyCounting()
"""

from __future__ import annotations

import math
from typing import Protocol

import pytest

from penstock.control.interface import Meter
from penstock.control.meter.account import Metered
from penstock.control.meter.reading import Reading, restate
from penstock.errors import MeterFailed

YESTERDAY, TODAY = "2026-07-30", "2026-07-31"


class Counting(Protocol):
    """A meter, and whoever it asks."""

    meter: Meter

    def spend(self, day: str, name: str, cost: float) -> None:
        """From now on this is what it has cost on that day in all."""
        ...

    def wait(self, seconds: float) -> None:
        """Time passes on the meter's clock."""
        ...

    def fail(self) -> None:
        """From now on it does not say anything."""
        ...


def costs(reading: Reading) -> dict[str, float]:
    """What each name has cost."""
    return {each.name: sum(each.by_resource.values()) for each in reading.allocations}


class MeterConformance:
    """The contract of `penstock.control.interface.Meter`, as tests for pytest. They inherit a fixture ``counting``."""

    def test_a_day_says_what_each_has_cost_and_nothing_of_other_days(self, counting: Counting) -> None:
        counting.spend(TODAY, "shop", 2.5)
        counting.spend(TODAY, "fraud", 0.5)
        counting.spend(YESTERDAY, "shop", 40.0)
        today = counting.meter.day(TODAY)
        assert today.day == TODAY
        assert costs(today) == pytest.approx({"shop": 2.5, "fraud": 0.5})
        assert costs(counting.meter.day(YESTERDAY)) == pytest.approx({"shop": 40.0})
        for each in today.allocations:
            assert each.until <= today.at
            assert each.ran_s >= 0.0
            assert all(map(math.isfinite, (*each.by_resource.values(), *each.amounts.values())))

    def test_a_day_without_anything_is_empty(self, counting: Counting) -> None:
        assert counting.meter.day(TODAY).allocations == ()

    def test_asking_changes_nothing_and_a_later_answer_is_known_to_be_later(self, counting: Counting) -> None:
        counting.spend(TODAY, "shop", 2.5)
        first = counting.meter.day(TODAY)
        counting.wait(60.0)
        again = counting.meter.day(TODAY)
        assert costs(first) == costs(again)
        assert again.at >= first.at + 60.0
        counting.spend(TODAY, "shop", 1.5)
        counting.wait(60.0)
        restated = counting.meter.day(TODAY)
        metered = Metered()
        for reading in (first, restated, again):
            metered, _ = restate(metered, reading, ["shop"], {})
        assert metered.outside.days[TODAY].totals == pytest.approx({"shop": 1.5})

    def test_silence_is_an_error_that_says_who_is_silent_and_ends(self, counting: Counting) -> None:
        counting.spend(TODAY, "shop", 2.5)
        counting.fail()
        with pytest.raises(MeterFailed) as caught:
            counting.meter.day(TODAY)
        assert caught.value.details["source"]
        assert caught.value.details["reason"]
        assert caught.value.retryable

    def test_it_is_closed_once_it_has_been_asked_or_not(self, counting: Counting) -> None:
        counting.meter.close()
