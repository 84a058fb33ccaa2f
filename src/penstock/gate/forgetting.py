"""What becomes of an update that has lost some of what was known, by anchors: events that nobody learns."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from penstock.gate.interface import Interval
from penstock.gate.sequential import signed
from penstock.learn.interface import Forgotten
from penstock.spec import Gate as GateSettings

LIVE_EVENTS = 8
"""Such events in the stream since the last look that say whether anchors are of the past."""
REFUSED_MAX = 2
"""Times in a row that it is refused that a class, a slice or a regime is forgotten while the live stream gains by
it."""


class Remembering(NamedTuple):
    """What follows from a look at the anchors."""

    what: Literal["publish", "accept", "refuse"]
    """``publish``: nothing is shown to be lost; ``accept``: it is, and going back would not help; ``refuse``: the last
    known good version knows it still."""
    told: str
    """The same with its numbers, for people; no full stop."""


class ForgettingWatch:
    """Holds fast updates to ``forgetting_max``."""

    def __init__(self, settings: GateSettings) -> None:
        self._most = settings.forgetting_max
        self._looks = False
        """Whether somebody looks at anchors at all."""
        self._looked = False
        """Whether somebody has since the probation began."""
        self._is_lost = False
        """Whether the last look showed that more is lost than may be, and was not accepted."""
        self._refused, self._refusals = "", 0
        """Of what a loss was refused last, and how often in a row."""

    @property
    def may_become_good(self) -> bool:
        """What it has lost, if anything, is known of a version before others may go back to it."""
        return self._looked >= self._looks and not self._is_lost

    def begin_probation(self) -> None:
        """Another version is on probation."""
        self._looked = False

    def judge(self, forgotten: Forgotten, gain: Interval, *, has_good: bool) -> Remembering:
        """What becomes of an update that was looked at; ``gain`` is that of what is served on the live stream."""
        self._looks = self._looked = True
        self._is_lost = forgotten.is_shown and forgotten.lost > self._most
        told = self._lost(forgotten)
        if not self._is_lost:
            return Remembering("publish", told)
        knows = forgotten.than_good or 0.0
        if not has_good or knows <= self._most:
            return self._accepted(f"{told}, and no version is known that knows it better")
        if forgotten.live_events >= LIVE_EVENTS and forgotten.live_gain > self._most:
            # Such events still come, and going back would answer them worse: it is the anchors that are of the past.
            live = f"on {forgotten.live_events} such events of the stream what is served gains"
            return self._accepted(f"{told}; the world has changed: {live} {forgotten.live_gain:+.4f} an event")
        refusals = self._refusals if self._refused == forgotten.of else 0
        if refusals >= REFUSED_MAX and gain.low > 0.0:
            return self._accepted(
                f"{told}; it was refused {refusals} times, and the stream asks for it ({signed(gain)})"
            )
        self._refused, self._refusals = forgotten.of, refusals + 1
        return Remembering("refuse", f"{told}, and the last known good version is right on {knows:.1%} more of them")

    def save(self) -> list[Any]:
        """Plain values that survive MessagePack."""
        return [self._looks, self._looked, self._is_lost, self._refused, self._refusals]

    def load(self, state: list[Any]) -> None:
        """Become what was saved."""
        self._looks, self._looked, self._is_lost, self._refused, self._refusals = state

    def _accepted(self, told: str) -> Remembering:
        self._is_lost, self._refused, self._refusals = False, "", 0
        return Remembering("accept", told)

    def _lost(self, forgotten: Forgotten) -> str:
        of = f"{forgotten.of_anchors} of {forgotten.of}" if forgotten.of else f"{forgotten.anchors} anchors"
        told = f"{forgotten.lost:.3f} is lost on {of} (at most {self._most:g})"
        if forgotten.lost <= self._most:
            return told
        return f"{told}, {'beyond luck' if forgotten.is_shown else 'which may be luck'}"
