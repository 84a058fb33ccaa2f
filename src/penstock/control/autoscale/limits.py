"""What holds a count back: the memory of recommendations, the rate of change, and the smallest and largest count.

The rules are those of Kubernetes' ``horizontal.go``. An entry of exactly a window's age is outside of a window that
``behavior`` sets, and inside of the controller's own; it is outdated, so that its place may be used again, when it is
older than the window."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import msgspec

from penstock.control.autoscale.arithmetic import INT32_MAX, INT32_MIN, ceiling

Select = Literal["Max", "Min", "Disabled"]
Reason = Literal["DesiredWithinRange", "TooFewReplicas", "TooManyReplicas", "ScaleUpLimit", "ScaleDownLimit"]

T = TypeVar("T")

UNLIMITED_UP_TO = 4
"""Without ``behavior`` a step may reach twice the count, or so many."""


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much may change within a period."""

    type: Literal["Pods", "Percent"]
    value: int
    period_s: float


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One direction of ``behavior``; what is None has the default of that direction."""

    stabilization_s: float | None = None
    select: Select | None = None
    policies: tuple[Policy, ...] | None = None
    tolerance: float | None = None


DEFAULT_UP = Rules(
    stabilization_s=0.0,
    select="Max",
    policies=(Policy(type="Pods", value=4, period_s=15.0), Policy(type="Percent", value=100, period_s=15.0)),
)
DEFAULT_DOWN = Rules(select="Max", policies=(Policy(type="Percent", value=100, period_s=15.0),))
"""Its window is the controller's own."""


class Behavior(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Both directions as the user wrote them."""

    scale_up: Rules | None = None
    scale_down: Rules | None = None

    def filled(self, downscale_stabilization_s: float) -> tuple[Rules, Rules]:
        """The rules up and down without anything left open."""
        up, down = _filled(self.scale_up, DEFAULT_UP), _filled(self.scale_down, DEFAULT_DOWN)
        if down.stabilization_s is None:
            down = msgspec.structs.replace(down, stabilization_s=downscale_stabilization_s)
        return up, down


class Recommendation(msgspec.Struct, frozen=True):
    """A count that the metrics asked for, and when."""

    replicas: int
    t: float


class Event(msgspec.Struct, frozen=True):
    """So many replicas more, or fewer, and when."""

    change: int
    t: float
    outdated: bool = False


class Events(msgspec.Struct, frozen=True, kw_only=True):
    """The changes that were made, by direction."""

    up: tuple[Event, ...] = ()
    down: tuple[Event, ...] = ()


def clamp(current: int, desired: int, smallest: int, largest: int) -> tuple[int, Reason]:
    """The count within its bounds, and within one step's reach, where there is no ``behavior``."""
    reach = max(2 * current, UNLIMITED_UP_TO)
    if desired < smallest:
        return smallest, "TooFewReplicas"
    if desired > min(largest, reach):
        return (reach, "ScaleUpLimit") if largest > reach else (largest, "TooManyReplicas")
    return desired, "DesiredWithinRange"


def stabilize(
    desired: int, history: Sequence[Recommendation], window_s: float, now: float
) -> tuple[int, tuple[Recommendation, ...]]:
    """The highest of the recommendations within the window, and the history with this one, without ``behavior``."""
    since = now - window_s
    highest = max([desired, *(past.replicas for past in history if past.t >= since)])
    return highest, _remembered(history, [past.t < since for past in history], Recommendation(desired, now))


def stabilize_with(
    current: int, desired: int, up: Rules, down: Rules, history: Sequence[Recommendation], now: float
) -> tuple[int, tuple[Recommendation, ...]]:
    """The count nearest to the current one that both windows allow, and the history with this recommendation."""
    up_since, down_since = now - (up.stabilization_s or 0.0), now - (down.stabilization_s or 0.0)
    lowest = min([desired, *(past.replicas for past in history if past.t > up_since)])
    highest = max([desired, *(past.replicas for past in history if past.t > down_since)])
    outdated = [past.t < up_since and past.t < down_since for past in history]
    # First up to what every recommendation agreed on, then down: the second wins where the two would cross.
    return min(max(current, lowest), highest), _remembered(history, outdated, Recommendation(desired, now))


def limit_rate(
    current: int, desired: int, smallest: int, largest: int, up: Rules, down: Rules, events: Events, now: float
) -> tuple[int, Reason]:
    """The count within its bounds and within what the policies still allow."""
    if desired > current:
        reach = max(upper_limit(current, events, up, now), current)
        if desired > min(largest, reach):
            return (reach, "ScaleUpLimit") if largest > reach else (largest, "TooManyReplicas")
    elif desired < current:
        reach = min(lower_limit(current, events, down, now), current)
        if desired < max(smallest, reach):
            return (reach, "ScaleDownLimit") if smallest < reach else (smallest, "TooFewReplicas")
    return desired, "DesiredWithinRange"


def upper_limit(current: int, events: Events, rules: Rules, now: float) -> int:
    """The largest count that the policies allow; a percentage is rounded up, or one replica could never become two."""
    if rules.select == "Disabled":
        return current
    choose: Callable[[int, int], int] = min if rules.select == "Min" else max
    limit = INT32_MAX if rules.select == "Min" else INT32_MIN
    for policy in rules.policies or ():
        start = _count_at_start(current, events, policy.period_s, now)
        share = 1.0 + policy.value / 100.0
        limit = choose(limit, start + policy.value if policy.type == "Pods" else ceiling(start * share))
    return limit


def lower_limit(current: int, events: Events, rules: Rules, now: float) -> int:
    """The smallest count that the policies allow; a percentage loses its fraction."""
    if rules.select == "Disabled":
        return current
    choose: Callable[[int, int], int] = max if rules.select == "Min" else min
    limit = INT32_MIN if rules.select == "Min" else INT32_MAX
    for policy in rules.policies or ():
        start = _count_at_start(current, events, policy.period_s, now)
        share = 1.0 - policy.value / 100.0
        limit = choose(limit, start - policy.value if policy.type == "Pods" else math.trunc(start * share))
    return limit


def changed_within(events: Sequence[Event], period_s: float, now: float) -> int:
    """How many replicas changed within a period."""
    return sum(event.change for event in events if event.t > now - period_s)


def remember(before: int, after: int, up: Rules, down: Rules, events: Events, now: float) -> Events:
    """The events with a change that was made."""
    if after > before:
        return msgspec.structs.replace(events, up=_with(events.up, after - before, up, now))
    return msgspec.structs.replace(events, down=_with(events.down, before - after, down, now))


def _filled(rules: Rules | None, defaults: Rules) -> Rules:
    if rules is None:
        return defaults
    given = {name: value for name, value in msgspec.structs.asdict(rules).items() if value is not None}
    return msgspec.structs.replace(defaults, **given)


def _count_at_start(current: int, events: Events, period_s: float, now: float) -> int:
    return current - changed_within(events.up, period_s, now) + changed_within(events.down, period_s, now)


def _with(events: Sequence[Event], change: int, rules: Rules, now: float) -> tuple[Event, ...]:
    longest_s = max((policy.period_s for policy in rules.policies or ()), default=0.0)
    marked = [Event(e.change, e.t, outdated=e.outdated or e.t < now - longest_s) for e in events]
    return _remembered(marked, [event.outdated for event in marked], Event(change, now))


def _remembered(entries: Sequence[T], outdated: Sequence[bool], entry: T) -> tuple[T, ...]:
    """The entries with one more, in the place of the last outdated one where there is any."""
    if True not in outdated:
        return (*entries, entry)
    place = len(outdated) - 1 - list(reversed(outdated)).index(True)
    return (*entries[:place], entry, *entries[place + 1 :])
