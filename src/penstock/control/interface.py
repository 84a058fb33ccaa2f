"""The door of the controller: what a decision is carried out by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from penstock.publish.allowance import Allowance


class Actuator(Protocol):
    """Makes what was decided so. Every call says what is to be, and not what is to be changed: made twice it is as made
    once, and made after a crash it mends what was half done."""

    def allow(self, allowances: Mapping[str, Allowance]) -> None:
        """What each service may do from now on. Its learner, consolidator and servers follow within a second or so."""
        ...

    def serve_with(self, workers: int | None) -> None:
        """How many server workers there are to be; None for as many as were asked for. Requests under way are
        finished, and one worker always stays."""
        ...
