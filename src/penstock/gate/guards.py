"""Guards: faults of an update that need no comparison of versions to be seen."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.events import Strings
from penstock.gate.sequential import HarmProcess

Array = NDArray[np.float64]

JUMP_MAX = 30.0
"""A step that moves a weight by thirty times the largest one is an explosion, not learning."""


def weights_fault(finite: bool, jump: float) -> str | None:
    """What is wrong with the updated weights, in words."""
    if not finite or not math.isfinite(jump):
        return "weights of the update are not finite"
    if jump > JUMP_MAX:
        return f"a weight moved by {jump:.3g} times the largest one in a single step (at most {JUMP_MAX:g})"
    return None


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


def named(source: str | None) -> str:
    """A source in words."""
    return "events without a source" if source is None else f"source {source!r}"


class SourceWatch:
    """Finds a source that floods the stream with labels that contradict what everyone else's labels support.

    Each event is scored by a version that the flood has not taught (the last known good one). A source that sends at
    least a tenth of the recent events is suspected by an e-process (see HarmProcess) on its loss minus the mean loss of
    all other sources, minus 0.15, unless it is more than all others together: then it is the stream. The k-th source
    that is looked at is tested at level alpha / (k (k + 1)), so that all together keep alpha, but for the error of the
    others' mean. It is believed again when it has gone quiet, when its labels agree again, or after ``patience``
    events: by then it is no burst but a change that has to be learned. Where all events have one source, or none, there
    is nobody to compare with and nothing is ever suspected."""

    def __init__(self, alpha: float, patience: int) -> None:
        self._alpha = alpha
        self._patience = patience
        self._slots: dict[str | None, int] = {}
        # Columns: events and loss by long memory, events and loss by short memory.
        self._sums: Array = np.zeros((0, 4))
        self._looked_at = 0
        self._processes: dict[str | None, tuple[int, HarmProcess]] = {}
        self._floods: dict[str | None, int] = {}
        """Events of each source that is not believed now, since then."""
        self._accepted: set[str | None] = set()
        """Sources whose flood outlasted the patience, until they go quiet."""

    @property
    def floods(self) -> list[str | None]:
        """Sources that are not believed now, the first to be found first."""
        return list(self._floods)

    def described(self, but: Collection[str | None] = ()) -> str:
        """The floods in words, with their numbers, ``but`` for these; empty where there is none."""
        floods = [source for source in self._floods if source not in but]
        if not floods:
            return ""
        total = self._sums[:, 2].sum()
        told = []
        for source in floods:
            slot = self._slots[source]
            others = self._others(slot, self._sums[:, :2])
            name = named(source)
            against = "" if others is None else f" against {others:.2f} of all others"
            share = self._sums[slot, 2] / total
            told.append(f"{name} sends {share:.0%} of recent events with loss {self._recent_loss(slot):.2f}{against}")
        return "; ".join(told)

    def take(self, sources: Strings | None, losses: Array) -> NDArray[np.bool_] | None:
        """(n,) which events are believed, or None for all of them."""
        n = len(losses)
        distinct: list[str | None] = [None] if sources is None else list(dict.fromkeys(sources))
        slots = [self._slot(source) for source in distinct]
        if len(self._slots) == 1:
            self._add(slots[0], n, float(losses.sum()))
            return None
        places = _places(sources, distinct, n)
        self._fade(n)
        # What the others usually lose is taken from before the step, so that the step does not vouch for itself.
        long = self._sums[:, :2].copy()
        for source, slot, place in zip(distinct, slots, places, strict=True):
            own = losses[place]
            self._sums[slot, 2:] += len(own), own.sum()
            if source in self._floods:
                self._floods[source] += len(own)
        recent = self._sums[:, 2].sum()
        for source, slot, place in zip(distinct, slots, places, strict=True):
            own = losses[place]
            if source not in self._floods:
                self._suspect(source, slot, own, long, recent)
            if source not in self._floods:
                self._sums[slot, :2] += len(own), own.sum()
        self._believe_again(recent)
        if not self._floods:
            return None
        believed = np.ones(n, np.bool_)
        for source, place in zip(distinct, places, strict=True):
            if source in self._floods:
                believed[place] = False
        return believed

    def save(self) -> dict[str, Any]:
        return {
            "sources": sorted(self._slots, key=self._slots.__getitem__),
            "sums": self._sums.tolist(),
            "looked_at": self._looked_at,
            "processes": [[source, rank, process.save()] for source, (rank, process) in self._processes.items()],
            "floods": [[source, events] for source, events in self._floods.items()],
            "accepted": sorted(self._accepted, key=lambda source: (source is not None, source)),
        }

    def load(self, state: dict[str, Any]) -> None:
        self._slots = {source: slot for slot, source in enumerate(state["sources"])}
        self._sums = np.array(state["sums"], np.float64).reshape(-1, 4)
        self._looked_at = state["looked_at"]
        self._processes = {}
        for source, rank, saved in state["processes"]:
            process = HarmProcess(START_SCALE)
            process.load(saved)
            self._processes[source] = rank, process
        self._floods = dict(state["floods"])
        self._accepted = set(state["accepted"])

    def _slot(self, source: str | None) -> int:
        slot = self._slots.get(source)
        if slot is None:
            if len(self._slots) >= SOURCES_MAX:
                return self._replace_quietest(source)
            slot = self._slots[source] = len(self._slots)
            self._sums = np.vstack([self._sums, np.zeros((1, 4))])
        return slot

    def _replace_quietest(self, source: str | None) -> int:
        slot = int(np.argmin(self._sums[:, 0] + self._sums[:, 2]))
        quietest = next(name for name, taken in self._slots.items() if taken == slot)
        del self._slots[quietest]
        self._processes.pop(quietest, None)
        self._floods.pop(quietest, None)
        self._accepted.discard(quietest)
        self._slots[source] = slot
        self._sums[slot] = 0.0
        return slot

    def _add(self, slot: int, n: int, loss: float) -> None:
        self._fade(n)
        self._sums[slot] += n, loss, n, loss

    def _fade(self, n: int) -> None:
        self._sums[:, :2] *= math.exp(-n / LONG_MEMORY)
        self._sums[:, 2:] *= math.exp(-n / SHORT_MEMORY)

    def _others(self, slot: int, long: Array) -> float | None:
        """Mean loss of all other sources, by the (m, 2) sums of the long memory; None where they say too little.

        If what they lost lately is more it counts instead, since a change of the world reaches everyone."""
        events, loss = long.sum(axis=0) - long[slot]
        if events < max(OTHERS_MIN, long[slot, 0]):
            return None
        believed = np.ones(len(self._sums), np.bool_)
        believed[[slot, *(self._slots[source] for source in self._floods)]] = False
        recent_events, recent_loss = self._sums[believed, 2:].sum(axis=0)
        if recent_events < OTHERS_RECENT_MIN:
            return float(loss / events)
        return float(max(loss / events, recent_loss / recent_events))

    def _recent_loss(self, slot: int) -> float:
        return float(self._sums[slot, 3] / max(self._sums[slot, 2], 1e-9))

    def _suspect(self, source: str | None, slot: int, own: Array, long: Array, recent: float) -> None:
        # A step with more sources than are remembered has forgotten some of its own.
        if source not in self._slots or source in self._accepted:
            return
        if self._sums[slot, 2] < FLOOD_SHARE * recent:
            return
        others = self._others(slot, long)
        if others is None:
            return
        if source not in self._processes:
            self._looked_at += 1
            self._processes[source] = self._looked_at, HarmProcess(START_SCALE)
        rank, process = self._processes[source]
        if process.take((own - others - EXCESS) / (1.0 + EXCESS)) >= rank * (rank + 1) / self._alpha:
            self._floods[source] = len(own)
            del self._processes[source]

    def _believe_again(self, recent: float) -> None:
        for source in [*self._accepted]:
            if self._sums[self._slots[source], 2] < QUIET_SHARE * recent:
                self._accepted.discard(source)
        for source, events in [*self._floods.items()]:
            slot = self._slots[source]
            others = self._others(slot, self._sums[:, :2])
            patient = events < self._patience
            agrees = events >= SHORT_MEMORY and others is not None and self._recent_loss(slot) < others + EXCESS / 2
            share = self._sums[slot, 2] / recent
            if share < QUIET_SHARE or agrees or not patient:
                del self._floods[source]
                if not patient:
                    self._accepted.add(source)


def _places(sources: Strings | None, distinct: list[str | None], n: int) -> list[NDArray[np.intp] | slice]:
    """Where in the step the events of each source are, in their order."""
    if sources is None or len(distinct) == 1:
        return [slice(None)]
    if len(distinct) == n:
        return [slice(i, i + 1) for i in range(n)]
    number = {source: i for i, source in enumerate(distinct)}
    codes = np.fromiter((number[source] for source in sources), np.intp, n)
    return [*np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])]
