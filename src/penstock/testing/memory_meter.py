"""A memory twin of the meter's door: it says what it was told to."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.control.meter.reading import Allocation, Reading
from penstock.errors import MeterFailed


class MemoryMeter:
    """Implements Meter."""

    def __init__(self) -> None:
        self.at = 0.0
        """When it is asked, in seconds since 1970."""
        self.costs: dict[str, Mapping[str, float]] = {}
        """Of each day, what each name has cost."""
        self.fault = ""
        self.asked: list[str] = []

    def day(self, day: str) -> Reading:
        self.asked.append(day)
        if self.fault:
            raise MeterFailed(source="a test", reason=self.fault)
        return Reading(
            day=day,
            at=self.at,
            allocations=tuple(
                Allocation(name=name, by_resource={"cpu": cost}, amounts={"cpu": cost}, ran_s=3600.0, until=self.at)
                for name, cost in self.costs.get(day, {}).items()
            ),
        )

    def close(self) -> None:
        """Nothing is open."""
