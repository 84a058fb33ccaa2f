"""The sieve: which labelled events are not to be learned, and why, decided before any of them is. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Strings
from penstock.gate.declared import Declared
from penstock.gate.guards import named
from penstock.learn.interface import Sifted
from penstock.learn.quarantine import Reason
from penstock.spec import Spec

Array = NDArray[np.float64]

WINDOW = 256.0
"""Labelled events over which a source's part in what is learned fades by a factor e."""
USUAL = 1024.0
"""The same of its share of what is sent: a source that has long sent most of the stream is no flood."""
USUAL_TIMES = 3.0
"""A source may have so many times what it usually sends for each event of all others: it comes in no even order."""
ALWAYS = 32.0
"""Events of the window that any source may have."""
ALONE_SHARE = 0.03
"""Share of the window that others send at least, or else a source is as good as alone and there is no bound."""
SOURCES_MAX = 256
"""Sources that are remembered; the one that sent the least lately is forgotten first."""


class Sieve:
    """Implements `penstock.learn.interface.Sieve` for one service."""

    def __init__(self, spec: Spec) -> None:
        self._declared = Declared(spec)
        self._influence = Influence(spec.gate.source_share_max)

    def look(self, batch: Batch, doubted: Collection[str | None]) -> Sifted | None:
        """What is to be set aside of these events, ``doubted`` being the sources that are not believed; None for
        nothing."""
        why: dict[int, tuple[Reason, str]] = {
            row: ("impossible", told) for row, told in self._declared.impossible(batch).items()
        }
        if doubted:
            for row, source in enumerate(batch.sources or [None] * len(batch)):
                if source in doubted and row not in why:
                    why[row] = "suspicious", f"{named(source)} is not believed"
        left = batch.sources
        if why:
            left = [None] * (len(batch) - len(why)) if left is None else [s for r, s in enumerate(left) if r not in why]
        places = [row for row in range(len(batch)) if row not in why] if why else range(len(batch))
        for place, told in self._influence.take(left, len(places)):
            why[places[place]] = "flood", told
        if not why:
            return None
        rows = sorted(why)
        kept = np.setdiff1d(np.arange(len(batch)), np.array(rows, np.intp))
        return Sifted(kept=kept, aside=tuple((row, *why[row]) for row in rows))

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        return self._influence.save()

    def load(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._influence.load(state)


class Influence:
    """How much of what is learned comes from one source.

    In a window of recent labelled events a source may have at most ``share_max`` of what was learned, or three times as
    much for each event of the others as it has long sent, if that is more. What comes beyond is set aside. Where a
    source is alone, or nearly, or no event has one, there is no bound; events without a source count as one."""

    def __init__(self, share_max: float) -> None:
        self._share_max = share_max
        self._slots: dict[str | None, int] = {}
        # Columns: learned in the window, sent in the window, sent by long memory.
        self._sums: Array = np.zeros((0, 3))

    def take(self, sources: Strings | None, n: int) -> list[tuple[int, str]]:
        """Places of those of n events that are too many, and why; the others count as learned."""
        if self._share_max >= 1.0 or not n:
            return []
        said: Strings = sources if sources is not None else [None] * n
        counts: dict[str | None, int] = {}
        for source in said:
            counts[source] = counts.get(source, 0) + 1
        self._sums *= (math.exp(-n / WINDOW), math.exp(-n / WINDOW), math.exp(-n / USUAL))
        if len(counts) == 1 and self._slots.keys() <= counts.keys():
            self._add(said[0], n, n)
            return []
        usual = self._sums[:, 2] / max(self._sums[:, 2].sum(), 1e-9)
        shares = {source: float(usual[self._slots[source]]) for source in counts if source in self._slots}
        for source, count in counts.items():
            self._add(source, 0, count)
        learned, sent = self._sums[:, 0].sum() + n, self._sums[:, 1].sum()
        room: dict[str | None, int] = {}
        for source, count in counts.items():
            own_learned, own_sent = self._sums[self._slots[source], :2].tolist()
            odds = max(_odds(self._share_max), USUAL_TIMES * _odds(shares.get(source, 0.0)))
            if sent - own_sent >= ALONE_SHARE * sent:
                others = learned - own_learned - count
                most = min(max(ALWAYS, odds * others) - own_learned, count)
                count = max(0, int(most))
            room[source] = count
            self._sums[self._slots[source], 0] += count
        return self._beyond(said, room, counts)

    def save(self) -> dict[str, Any]:
        return {"sources": sorted(self._slots, key=self._slots.__getitem__), "sums": self._sums.tolist()}

    def load(self, state: dict[str, Any]) -> None:
        self._slots = {source: slot for slot, source in enumerate(state["sources"])}
        self._sums = np.array(state["sums"], np.float64).reshape(-1, 3)

    def _beyond(
        self, said: Strings, room: dict[str | None, int], counts: dict[str | None, int]
    ) -> list[tuple[int, str]]:
        if all(room[source] == count for source, count in counts.items()):
            return []
        left, beyond = dict(room), []
        for place, source in enumerate(said):
            left[source] -= 1
            if left[source] < 0:
                beyond.append((place, f"{named(source)} has more than {self._share_max:.0%} of what is learned"))
        return beyond

    def _add(self, source: str | None, learned: int, sent: int) -> None:
        slot = self._slots.get(source)
        if slot is None and len(self._slots) >= SOURCES_MAX:
            slot = int(np.argmin(self._sums[:, 1] + self._sums[:, 2]))
            del self._slots[next(name for name, taken in self._slots.items() if taken == slot)]
            self._slots[source] = slot
            self._sums[slot] = 0.0
        elif slot is None:
            slot = self._slots[source] = len(self._slots)
            self._sums = np.vstack([self._sums, np.zeros((1, 3))])
        self._sums[slot] += learned, sent, sent


def _odds(share: float) -> float:
    return share / (1.0 - share) if share < 1.0 else math.inf
