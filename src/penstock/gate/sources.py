"""Who sends what: a source whose labels contradict what everyone else's labels support is no longer believed. Pure."""

from __future__ import annotations

from collections.abc import Collection
from math import exp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.events import Strings
from penstock.gate.guards import named
from penstock.gate.sequential import Alarm, HarmProcess
from penstock.learn.measured import Guard

Array = NDArray[np.float64]

LONG_MEMORY = 512.0
"""Events over which the usual loss of a source fades by a factor e."""
SHORT_MEMORY = 32.0
"""Events over which a source's share of the stream fades by a factor e: how soon a flood is over."""
OTHERS_MIN = 32.0
"""Faded events of other sources without which there is nothing to compare a source with."""
OTHERS_RECENT_MIN = 4.0
"""Faded recent events of other sources that say whether these have changed lately as well."""
FLOOD_SHARE = 0.1
"""Share of the recent events from which on a source is looked at: less can do little harm."""
QUIET_SHARE = 0.03
"""Share of the recent events below which a flood is over: one of the last 32 events."""
EXCESS = 0.15
"""Loss by which a source may be worse than all others together before its labels count as disagreeing with them."""
START_SCALE = 8.0
"""A source is suspected from its first events on more than a version is, since sending costs nothing."""
SOURCES_MAX = 256
"""Sources that are remembered; the one that has been quiet the longest is forgotten first."""
ALARM_EVENTS = 1000.0
"""Events of a source among which the chance that it is found to contradict what is served, and does not, is alpha."""
AGREED = 50.0
"""Evidence, to 1, with which the labels of a source that is not believed agree again."""
DOUBLINGS_MAX = 10
"""Of the patience with a source that is found again and again."""
EVENTS, LOSS, BY_GOOD = 0, 1, 2
"""Sums of a source: its events, their losses by what is served, and by the last known good version."""
SHORT = 3
"""By long memory first, and from this column on by short memory."""


class SourceWatch:
    """Finds sources whose labels contradict what everyone else's labels support.

    A source that sends at least a tenth of the recent events, and less than all others together, is looked at in two
    ways, both times by its losses beyond the mean loss of all others plus 0.15:

    - *by the last known good version*, which it has not taught: an e-process (HarmProcess). The k-th source that is
      looked at is tested at level alpha / (k (k + 1)), so that all together keep alpha, but for the error of the
      others' mean. This finds floods, whatever they teach the model.
    - *by what is served*, which knows the stream as it is now: an Alarm. This finds who contradicts others in a stream
      that changes, where the last known good version is wrong of everybody. It is the sooner of the two, and patient
      with what is hard: where the model expected to lose more than others usually do, that is what counts.

    A source is believed again when it has gone quiet, when what is learned of the others alone agrees with it, or after
    ``patience`` of its events: it may be a change that has to be learned. From then on it is looked at by what is
    served alone; where that has learned from it and is still contradicted, the patience doubles. Where all events have
    one source, or none, there is nobody to compare with and nothing is ever suspected."""

    def __init__(self, alpha: float, patience: int) -> None:
        self._alpha = alpha
        self._patience = patience
        self._slots: dict[str | None, int] = {}
        self._sums: Array = np.zeros((0, 2 * SHORT))
        self._looked_at = 0
        self._processes: dict[str | None, tuple[int, HarmProcess]] = {}
        self._alarms: dict[str | None, Alarm] = {}
        self._floods: dict[str | None, tuple[int, Alarm]] = {}
        """Of each source that is not believed now: its events since then, and the evidence that it agrees again."""
        self.guard: Guard | None = None
        """The source against which the newest events say the most; None where none was looked at with them."""
        self._heard: dict[str | None, int] = {}
        """Sources that outlasted the patience, and how often, until they go quiet."""

    @property
    def floods(self) -> list[str | None]:
        """Sources that are not believed now, the first to be found first."""
        return list(self._floods)

    def described(self, but: Collection[str | None] = ()) -> str:
        """The floods in words, with their numbers, ``but`` for these; empty where there is none."""
        told = []
        for source in self._floods:
            if source in but:
                continue
            slot = self._slots[source]
            events, loss = self._sums[slot, [SHORT + EVENTS, SHORT + LOSS]].tolist()
            share = events / self._sums[:, SHORT + EVENTS].sum()
            others = self._others(slot, self._sums, LOSS)
            against = "" if others is None else f" against {others:.2f} of all others"
            loss /= max(events, 1e-9)
            told.append(f"{named(source)} sends {share:.0%} of recent events with loss {loss:.2f}{against}")
        return "; ".join(told)

    def take(
        self, sources: Strings | None, losses: Array, good: Array | None = None, expected: Array | None = None
    ) -> NDArray[np.bool_] | None:
        """(n,) which events are believed, or None for all of them: by (n,) losses of what is served, those of the
        last known good version, where there is one, and those that what is served expected, where it says so."""
        self.guard = None
        n, by_good = len(losses), losses if good is None else good
        distinct: list[str | None] = [None] if sources is None else list(dict.fromkeys(sources))
        slots = [self._slot(source) for source in distinct]
        long, short = exp(-n / LONG_MEMORY), exp(-n / SHORT_MEMORY)
        if len(self._slots) == 1:
            # The usual case, for which arrays are slow.
            lost = float(np.add.reduce(losses))
            more = (n, lost, lost if by_good is losses else float(np.add.reduce(by_good))) * 2
            fades = (long,) * SHORT + (short,) * SHORT
            self._sums[0] = [s * fade + new for s, fade, new in zip(self._sums[0].tolist(), fades, more, strict=True)]
            return None
        self._sums[:, :SHORT] *= long
        self._sums[:, SHORT:] *= short
        places = _places(sources, distinct, n)
        # What the others usually lose is taken from before the step, so that the step does not vouch for itself.
        before = self._sums.copy()
        sums = np.array([[len(own := losses[at]), own.sum(), by_good[at].sum()] for at in places])
        for slot, own_sums in zip(slots, sums, strict=True):
            self._sums[slot, SHORT:] += own_sums
        recent = self._sums[:, SHORT + EVENTS].sum()
        for source, slot, at, own_sums in zip(distinct, slots, places, sums, strict=True):
            if source in self._floods:
                self._hear(source, slot, losses[at], before)
            elif source in self._slots and self._sums[slot, SHORT + EVENTS] >= FLOOD_SHARE * recent:
                # A step with more sources than are remembered has forgotten some of its own.
                of_own = losses[at], None if good is None else good[at], 0.0 if expected is None else expected[at]
                if self._is_contradicting(source, slot, before, *of_own):
                    self._floods[source] = len(losses[at]), Alarm()
                    self._processes.pop(source, None)
                    self._alarms.pop(source, None)
            if source not in self._floods:
                self._sums[slot, :SHORT] += own_sums
        self._believe_again(recent)
        if not self._floods:
            return None
        believed = np.ones(n, np.bool_)
        for source, at in zip(distinct, places, strict=True):
            if source in self._floods:
                believed[at] = False
        return believed

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        return {
            "sources": sorted(self._slots, key=self._slots.__getitem__),
            "sums": self._sums.tolist(),
            "looked_at": self._looked_at,
            "processes": [[source, rank, process.save()] for source, (rank, process) in self._processes.items()],
            "alarms": [[source, alarm.save()] for source, alarm in self._alarms.items()],
            "floods": [[source, events, agrees.save()] for source, (events, agrees) in self._floods.items()],
            "heard": [[source, times] for source, times in self._heard.items()],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        if "alarms" not in state:
            # A state of before what is served looked at sources, too: everybody is believed again.
            return
        self._slots = {source: slot for slot, source in enumerate(state["sources"])}
        self._sums = np.array(state["sums"], np.float64).reshape(-1, 2 * SHORT)
        self._looked_at = state["looked_at"]
        self._processes = {}
        for source, rank, saved in state["processes"]:
            process = HarmProcess(START_SCALE)
            process.load(saved)
            self._processes[source] = rank, process
        self._alarms = {source: Alarm.of(saved) for source, saved in state["alarms"]}
        self._floods = {source: (events, Alarm.of(saved)) for source, events, saved in state["floods"]}
        self._heard = dict(state["heard"])

    def _slot(self, source: str | None) -> int:
        slot = self._slots.get(source)
        if slot is None:
            if len(self._slots) >= SOURCES_MAX:
                return self._replace_quietest(source)
            slot = self._slots[source] = len(self._slots)
            self._sums = np.vstack([self._sums, np.zeros((1, 2 * SHORT))])
        return slot

    def _replace_quietest(self, source: str | None) -> int:
        slot = int(np.argmin(self._sums[:, EVENTS] + self._sums[:, SHORT + EVENTS]))
        quietest = next(name for name, taken in self._slots.items() if taken == slot)
        for known in (self._slots, self._processes, self._alarms, self._floods, self._heard):
            known.pop(quietest, None)
        self._slots[source] = slot
        self._sums[slot] = 0.0
        return slot

    def _others(self, slot: int, before: Array, loss: int, *, lately: bool = False) -> float | None:
        """Mean loss of all other sources; None where they say too little, with ``lately`` also where they have said too
        little lately.

        If what they lost lately is more it counts instead, since a change of the world reaches everyone."""
        events, lost = before[:, [EVENTS, loss]].sum(axis=0) - before[slot, [EVENTS, loss]]
        if events < max(OTHERS_MIN, before[slot, EVENTS]):
            return None
        believed = np.ones(len(self._sums), np.bool_)
        believed[[slot, *(self._slots[source] for source in self._floods)]] = False
        recent_events, recent_lost = self._sums[believed][:, [SHORT + EVENTS, SHORT + loss]].sum(axis=0)
        if recent_events < OTHERS_RECENT_MIN:
            return None if lately else float(lost / events)
        return float(max(lost / events, recent_lost / recent_events))

    def _is_contradicting(
        self,
        source: str | None,
        slot: int,
        before: Array,
        losses: Array,
        by_good: Array | None,
        expected: Array | float,
    ) -> bool:
        """Whether there is enough evidence of it, these events of its own included."""
        others = self._others(slot, before, LOSS, lately=True)
        if others is not None:
            alarm, usual = self._alarms.setdefault(source, Alarm()), np.maximum(others, expected)
            evidence = alarm.take(losses / (usual + EXCESS))
            if self._measured(source, losses - usual, evidence, ALARM_EVENTS / self._alpha):
                return True
        if by_good is None or source in self._heard:
            return False
        others = self._others(slot, before, BY_GOOD)
        if others is None:
            return False
        if source not in self._processes:
            self._looked_at += 1
            self._processes[source] = self._looked_at, HarmProcess(START_SCALE)
        rank, process = self._processes[source]
        evidence = process.take((by_good - others - EXCESS) / (1.0 + EXCESS))
        return self._measured(source, by_good - others, evidence, rank * (rank + 1) / self._alpha)

    def _measured(self, source: str | None, excess: Array, evidence: float, wanted: float) -> bool:
        """Whether there is enough evidence; takes note of the numbers where they are the worst of these events."""
        found = Guard(
            name="sources",
            value=float(np.add.reduce(excess)) / len(excess),
            most=EXCESS,
            of=source or "",
            evidence=evidence,
            wanted=wanted,
            events=len(excess),
            beyond=evidence >= wanted,
        )
        if self.guard is None or found.nearness > self.guard.nearness:
            self.guard = found
        return found.beyond

    def _hear(self, source: str | None, slot: int, losses: Array, before: Array) -> None:
        """More events of a source that is not believed."""
        events, agrees = self._floods[source]
        others = self._others(slot, before, LOSS, lately=True)
        if others is not None and others + EXCESS < 1.0:
            agrees.take((1.0 - losses) / (1.0 - others - EXCESS))
        self._floods[source] = events + len(losses), agrees

    def _believe_again(self, recent: float) -> None:
        for source in [*self._heard]:
            if source not in self._floods and self._is_quiet(source, recent):
                del self._heard[source]
        for source, (events, agrees) in [*self._floods.items()]:
            times = self._heard.get(source, 0)
            if self._is_quiet(source, recent) or agrees.value >= AGREED:
                del self._floods[source]
            elif events >= self._patience << min(times, DOUBLINGS_MAX):
                del self._floods[source]
                self._heard[source] = times + 1

    def _is_quiet(self, source: str | None, recent: float) -> bool:
        return bool(self._sums[self._slots[source], SHORT + EVENTS] < QUIET_SHARE * recent)


def _places(sources: Strings | None, distinct: list[str | None], n: int) -> list[NDArray[np.intp] | slice]:
    """Where in the step the events of each source are, in their order."""
    if sources is None or len(distinct) == 1:
        return [slice(None)]
    if len(distinct) == n:
        return [slice(i, i + 1) for i in range(n)]
    number = {source: i for i, source in enumerate(distinct)}
    codes = np.fromiter((number[source] for source in sources), np.intp, n)
    return [*np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])]
