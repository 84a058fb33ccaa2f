"""The doors of the controller: what a decision is carried out by, and who else may count what is spent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from penstock.control.meter.reading import Reading
from penstock.publish.notices.allowance import Allowance
from penstock.publish.notices.costs import Costs


class Actuator(Protocol):
    """Makes what was decided so. Every call says what is to be, and not what is to be changed: made twice it is as made
    once, and made after a crash it mends what was half done."""

    def allow(self, allowances: Mapping[str, Allowance]) -> None:
        """What each service may do from now on. Its learner, consolidator and servers follow within a second or so."""
        ...

    def tell(self, costs: Mapping[str, Costs]) -> None:
        """What a second of each service's learning has cost, day by day."""
        ...

    def serve_with(self, workers: int | None) -> None:
        """How many server workers there are to be; None for as many as were asked for. Requests under way are
        finished, and one worker always stays."""
        ...


class Meter(Protocol):
    """Another system that says what has been spent, in place of what is counted here. It is asked by one thread."""

    def day(self, day: str) -> Reading:
        """What is known by now of this day in UTC, such as 2026-07-31; asked again it may say something else, and
        asking changes nothing. Raises MeterFailed where it does not say, or nothing that could be charged."""
        ...

    def close(self) -> None: ...
