"""Our own autoscaler: as many replicas as would have been enough for what came lately, found by trying it.

The Horizontal Pod Autoscaler follows utilisation, which is past its maximum when requests begin to wait, and it grows
when it is too late by as long as a replica takes to start. This one remembers the latest requests, lets them arrive
once more at so many replicas, in memory, and takes the cheapest way in which no more of them would have waited too long
than may: a fixed count, or a floor above which the count follows the requests that are there. How bursty the traffic
is, how long requests take, and what it is worth to follow it when replicas start as slowly as they do, all comes from
that trial; there is nothing to tune but what the service promises. "Do not autoscale" is one of its answers. And since
what comes is not what came, the trial is held to more, or to less, than was promised until as many are late as were.

It decides for a queue in which who has waited too long goes behind those who have not (`simulate.queue`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.control.foresight.trial import Replicas, Trial, attempt

Floats = NDArray[np.float64]

LATELY = 4
"""The latest spell is this part of the history."""
CHANGE_MAX = 0.95
"""It changes from a fixed count to one that follows the requests, or back, where that costs less than this part: what
is to come differs from what was, and each change costs."""
RECKONING = 0.3
"""Of what a minute was late more, or less, than promised, so much is taken off what may be late in the next trial."""
STRAY_MAX = 4.0
"""Times what was promised may be late in a trial at most, and one over so many at least: bursts are in no hurry."""
SEEN_MIN = 30
"""Requests before the first trial: of fewer nothing can be said."""


class Settings(Replicas, frozen=True, kw_only=True):
    """What the service promises, and what is known of its replicas."""

    smallest: int = 1
    late_max: float = 0.01
    """The share of requests that may be late."""
    history_s: float = 1800.0
    """What is tried again. Bursts that come less often than this are not foreseen."""
    history_max: int = 50_000
    """Requests remembered at most, which bounds memory and time: beyond it the history is shorter."""
    review_s: float = 60.0
    """Between two trials."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """The service as it is now."""

    replicas: int
    """Asked for, ready or not."""
    working: int
    """Requests that are worked on."""
    waiting: int
    arrivals: Floats
    """When requests came since the last look, ascending."""
    services: Floats
    """How long those took that ended since then."""
    judged: int = 0
    """Requests of which it has become known since then whether they are late."""
    late: int = 0
    """Of these, those that are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is remembered from look to look."""

    arrivals: Floats = field(default_factory=lambda: np.empty(0))
    services: Floats = field(default_factory=lambda: np.empty(0))
    began_t: float | None = None
    """Of the first look."""
    reviewed_t: float | None = None
    floor: int = 0
    follows: bool = True
    """Whether the count follows the requests that are there, above the floor."""
    judged: int = 0
    late: int = 0
    """Since the last review."""
    may_be_late: float | None = None
    """The share that may be late in the trial; None before the first one."""
    wanted: tuple[tuple[float, int], ...] = ()
    """When how many were wanted, as far as that still holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a look decides, with why."""

    replicas: int
    floor: int
    follows: bool
    why: str
    memory: Memory


def step(seen: Seen, memory: Memory, now: float, settings: Settings) -> Decision:
    """One look. The first ones hold what is there, and grow where requests wait: nothing is known yet."""
    began_t = now if memory.began_t is None else memory.began_t
    memory = replace(
        memory,
        began_t=began_t,
        floor=memory.floor or seen.replicas,
        arrivals=_latest(memory.arrivals, seen.arrivals, now - settings.history_s, settings.history_max),
        services=np.concatenate([memory.services, seen.services])[-settings.history_max :],
    )
    since = memory.reviewed_t if memory.reviewed_t is not None else began_t
    knows = memory.reviewed_t is not None or min(len(memory.arrivals), len(memory.services)) >= SEEN_MIN
    memory = replace(memory, judged=memory.judged + seen.judged, late=memory.late + seen.late)
    if knows and now - since >= settings.review_s:
        memory = replace(memory, may_be_late=_may_be_late(memory, now, settings), judged=0, late=0)
        floor, follows = _review(memory, now, settings)
        memory = replace(memory, reviewed_t=now, floor=floor, follows=follows)
    here = math.ceil((seen.working + seen.waiting) / settings.concurrency)
    wants = max(memory.floor, here) if memory.follows else memory.floor
    held = tuple((t, count) for t, count in memory.wanted if now - t < settings.hold_s)
    memory = replace(memory, wanted=(*held, (now, wants)))
    count = min(max(settings.smallest, *(count for _, count in memory.wanted)), settings.largest)
    return Decision(
        replicas=count,
        floor=memory.floor,
        follows=memory.follows,
        why=_why(count, here, memory, settings),
        memory=memory,
    )


def _latest(before: Floats, new: Floats, since: float, most: int) -> Floats:
    both = np.concatenate([before, new])
    found: Floats = both[np.searchsorted(both, since, side="right") :][-most:]
    return found


def _why(count: int, here: int, memory: Memory, settings: Settings) -> str:
    if memory.reviewed_t is None:
        return f"{here} are needed now; too little was seen to let any of {memory.floor} go"
    if memory.follows and memory.floor < here == count:
        return f"{here} are needed now, above a floor of {memory.floor}"
    if count > memory.floor:
        return f"{count} were needed in the last {settings.hold_s:.0f} s, above a floor of {memory.floor}"
    way = "as a floor" if memory.follows else "whatever comes"
    promise = f"{settings.late_max:.1%} of the latest {len(memory.arrivals):,} requests"
    return f"{memory.floor} {way} would have kept late ones within {promise}"


def _may_be_late(memory: Memory, now: float, settings: Settings) -> float:
    """The share that may be late in the next trial: more than promised while fewer than promised really are, and less
    where more are, so that in the long run as many are as were promised, whatever comes (adaptive conformal inference:
    Gibbs and Candès, 2021). A review counts by its requests."""
    promised, share = settings.late_max, memory.may_be_late
    if share is None:
        return promised
    usual = len(memory.arrivals) / max(1.0, min(settings.history_s, now - (memory.began_t or 0.0)) / settings.review_s)
    step = RECKONING * (promised * memory.judged - memory.late) / max(usual, 1.0)
    return min(max(share + step, promised / STRAY_MAX), promised * STRAY_MAX)


def _review(memory: Memory, now: float, settings: Settings) -> tuple[int, bool]:
    """The floor, and whether to follow: the cheapest that would have kept the promise; the largest count where none
    would have."""
    spells = [_Spell(memory, now, length_s, settings) for length_s in (settings.history_s, settings.history_s / LATELY)]
    # Of the latest spell alone too, so that a rise counts before it is most of the history.
    fixed, floor = (max(spell.floor(follows, memory.floor) for spell in spells) for follows in (False, True))
    fixed_s, following_s = (
        spells[0].attempt(count, follows).replica_s for count, follows in ((fixed, False), (floor, True))
    )
    handicap = CHANGE_MAX if memory.follows else 1.0 / CHANGE_MAX
    return (floor, True) if following_s * handicap < fixed_s else (fixed, False)


class _Spell:
    """The requests of a while until now, and what they would have needed."""

    def __init__(self, memory: Memory, now: float, length_s: float, settings: Settings) -> None:
        arrivals = memory.arrivals[np.searchsorted(memory.arrivals, now - length_s) :]
        first = float(arrivals[0]) if len(arrivals) else now
        self._arrivals, self._duration_s, self._settings = arrivals - first, now - first, settings
        self._may_be_late = settings.late_max if memory.may_be_late is None else memory.may_be_late
        self._services = np.resize(memory.services[-len(arrivals) :], len(arrivals))

    def attempt(self, floor: int, follows: bool) -> Trial:
        return attempt(self._arrivals, self._services, self._duration_s, floor, follows, self._settings)

    def floor(self, follows: bool, near: int) -> int:
        """The least that would have kept the promise."""
        return least(lambda count: self.attempt(count, follows).late <= self._may_be_late, near, self._settings)


def least(is_enough: Callable[[int], bool], near: int, settings: Settings) -> int:
    """The least count that is enough, searched for from a near one in steps that double; the largest where none is."""
    low, high = settings.smallest, settings.largest
    at, stride = min(max(near, low), high), 1
    if is_enough(at):
        high = at
        while high > low and is_enough(max(low, high - stride)):
            high, stride = max(low, high - stride), 2 * stride
        low = max(low, high - stride + 1)
    else:
        low = min(at + 1, high)
        while low < high and not is_enough(min(high, low + stride - 1)):
            low, stride = min(high, low + stride), 2 * stride
        high = min(high, low + stride - 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle + 1, high)
    return low
