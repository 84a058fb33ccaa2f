"""What was measured with a step beside losses: numbers of forgetting and of guards, as whoever decides has them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import msgspec

from penstock.learn.interface import Forgotten

GuardName = Literal["weights", "sources", "calibration", "collapse", "inputs", "forgetting", "latency"]


class Guard(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One guard's numbers. What has its default is left out."""

    name: GuardName
    """Says what the value is.

    ``weights``: the largest change of a weight in the step, relative to the largest weight before. ``sources``: the
    mean loss of a source beyond that of all others, of the source against which there is the most evidence.
    ``calibration``: of a fast update the mean of its chances minus the share that was right, over the newest look; of a
    new base its expected calibration error. ``collapse``: of the class that is answered least, the share of the answers
    of what it is compared with that is gone. ``inputs``: the population stability index of a feature. ``forgetting``:
    what a new base has lost on held-out old events. ``latency``: the share of comparisons in which a new base took
    longer than it may."""
    value: float | None
    """None where it is no finite number."""
    most: float | None = None
    """What the value may be before luck is counted; None where there is no limit."""
    beside: float | None = None
    """The same of what it is compared with, where the limit is one of the difference."""
    of: str = ""
    """The source, class or feature."""
    evidence: float | None = None
    """That it is beyond the limit, to 1, where the guard bets on it."""
    wanted: float | None = None
    """The evidence from which on it is acted upon."""
    events: int = 0
    """On how many it was measured, where that is not the step's own number."""
    beyond: bool = False
    """Whether the guard has found a fault by it."""

    @property
    def nearness(self) -> float:
        """How near it came to a fault: 1 where evidence or value are at their limit."""
        if self.beyond:
            return math.inf
        if self.value is None:
            return 0.0
        if self.evidence is not None and self.wanted:
            return self.evidence / self.wanted
        return (self.value - (self.beside or 0.0)) / self.most if self.most else 0.0


class Measured(msgspec.Struct, frozen=True, array_like=True):
    """What one entry of the step journal says was measured with it; nothing where it was not time for it."""

    guards: tuple[Guard, ...] = ()
    """Of what is served from the fast tier."""
    shadow: tuple[Guard, ...] = ()
    """Of a candidate with a new base of which something has become with the entry."""
    forgotten: Forgotten | None = None
    """What the look at the anchors showed."""
    forgetting_max: float | None = None
    """What may be lost on them; None where nobody looked."""


NOTHING = Measured()


def finite(value: float) -> float | None:
    """The number, or None where it is none."""
    return float(value) if math.isfinite(value) else None


def nearest(guards: Iterable[Guard]) -> tuple[Guard, ...]:
    """Of each guard the numbers that came the nearest to a fault, the newest of such; in the order of names."""
    found: dict[str, Guard] = {}
    for guard in guards:
        known = found.get(guard.name)
        if known is None or guard.nearness >= known.nearness:
            found[guard.name] = guard
    return tuple(found[name] for name in sorted(found))
