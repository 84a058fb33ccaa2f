"""Events that are set aside instead of learned: which they are and why, and what becomes of them.

They stay in the log, and what is kept here is where: a view of it. One that is released is learned then, once; one that
is dropped, or is beyond the room that there is, never will be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Offset, Partition, Position
from penstock.join.interface import Told

Reason = Literal["impossible", "suspicious", "flood"]
"""``impossible``: a value outside of what the service file declares; ``suspicious``: its source is not believed;
``flood``: its source had more than its share."""

KEPT_MAX = 10_000
"""Events set aside that can still be released; beyond them the oldest are dropped."""
NEVER_MAX = 20_000
"""Runs of dropped events that are remembered, so that no base is trained on them either; the oldest go first."""

Place = tuple[Partition, Offset]


def origin_of(pair: Sequence[int]) -> Place | None:
    """A row of `Batch.origins`; None where it says nothing."""
    return (Partition(pair[0]), Offset(pair[1])) if pair[0] >= 0 else None


class Aside(msgspec.Struct, frozen=True, array_like=True):
    """One event that was set aside."""

    partition: Partition
    offset: Offset
    """Of the event that has the features: the example, or the prediction that the label answers."""
    reason: Reason
    told: str
    """The same with its numbers, for people."""
    source: str | None
    label: str | float | tuple[str, ...]
    time: float
    """Seconds since 1970: the newest frame of the log then."""
    origin: Place | None = None
    """The event that gave it its label, where that is known."""

    @property
    def place(self) -> Place:
        return self.partition, self.offset


class AsideStep(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What an entry of the step journal says of events that were set aside."""

    aside: tuple[Aside, ...] = ()
    """Events of this step that were not learned."""
    taken_out: tuple[Aside, ...] = ()
    """Events that had been learned before, and that the model is without since this step."""
    released: tuple[Aside, ...] = ()
    """Events that were learned with this step after all."""
    dropped: tuple[Place, ...] = ()
    """Events that will never be learned, because somebody said so."""
    expired: int = 0
    """How many were dropped because there was no more room."""
    relabelled: tuple[Aside, ...] = ()
    """Events that stay aside with another label, since it was corrected."""
    retracted: tuple[Place, ...] = ()
    """Events that are let go of, since their label was taken back."""


class AsideCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of events that were set aside, since the log's beginning."""

    impossible: int = 0
    suspicious: int = 0
    flood: int = 0
    """Set aside for this reason, whatever became of them then."""
    released: int = 0
    dropped: int = 0
    expired: int = 0
    """Dropped because there was no more room."""
    retracted: int = 0
    """Let go of, since their label was taken back."""

    @property
    def aside(self) -> int:
        """How many were set aside, those that were released since included."""
        return self.impossible + self.suspicious + self.flood

    @property
    def unlearned(self) -> int:
        """Labelled events that the model is without."""
        return self.aside - self.released

    @property
    def waiting(self) -> int:
        """Those that can still be released."""
        return self.aside - self.released - self.dropped - self.expired - self.retracted


class Quarantine:
    """What is set aside of one service."""

    def __init__(self, kept_max: int = KEPT_MAX) -> None:
        self._kept_max = kept_max
        self._kept: dict[Place, Aside] = {}
        self._never = Spans(NEVER_MAX)
        self.counts = AsideCounts()

    def enter(self, step: AsideStep) -> AsideStep:
        """Do what an entry says; returns it with how many events were dropped for want of room."""
        more = dict.fromkeys(AsideCounts.__struct_fields__, 0)
        for row in (*step.aside, *step.taken_out):
            self._kept[row.place] = row
            more[row.reason] += 1
        for row in step.released:
            del self._kept[row.place]
        for place in step.dropped:
            del self._kept[place]
        for row in step.relabelled:
            self._kept[row.place] = row
        for place in step.retracted:
            del self._kept[place]
        self._never.add(step.dropped)
        beyond = [place for place, _ in zip(self._kept, range(len(self._kept) - self._kept_max), strict=False)]
        for place in beyond:
            del self._kept[place]
        self._never.add(beyond)
        more |= {"released": len(step.released), "dropped": len(step.dropped), "expired": len(beyond)}
        more["retracted"] = len(step.retracted)
        self.counts = AsideCounts(**{name: getattr(self.counts, name) + n for name, n in more.items()})
        return msgspec.structs.replace(step, expired=len(beyond))

    def find(self, places: Iterable[Place]) -> tuple[Aside, ...]:
        """Those of these events that are set aside now."""
        return tuple(self._kept[place] for place in places if place in self._kept)

    def amended(self, said: Mapping[Place, Told | None]) -> AsideStep:
        """What is to become of events that are set aside and whose labels, by their origins, are other ones now."""
        rows = [row for row in self._kept.values() if row.origin in said]
        told = [(row, said[row.origin]) for row in rows if row.origin is not None]
        return AsideStep(
            relabelled=tuple(msgspec.structs.replace(row, label=label) for row, label in told if label is not None),
            retracted=tuple(row.place for row, label in told if label is None),
        )

    @property
    def kept(self) -> list[Aside]:
        """All that can still be released, the oldest first."""
        return list(self._kept.values())

    def needed(self) -> Position:
        """The oldest offset in each partition that a release would read."""
        oldest: Position = {}
        for partition, offset in self._kept:
            oldest[partition] = min(offset, oldest.get(partition, offset))
        return oldest

    def apart(self) -> Spans:
        """All events that the model is without, and whoever learns the past once more must be, too."""
        together = self._never.copy()
        together.add(self._kept)
        return together

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        return {
            "kept": msgspec.to_builtins(list(self._kept.values())),
            "never": self._never.save(),
            "counts": msgspec.to_builtins(self.counts),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        kept = msgspec.convert(state["kept"], list[Aside])
        self._kept = {row.place: row for row in kept}
        self._never = Spans(NEVER_MAX)
        self._never.load(state["never"])
        self.counts = msgspec.convert(state["counts"], AsideCounts)


class Spans:
    """A set of events of the log as runs of offsets; beyond ``runs_max`` of a partition the oldest are forgotten."""

    def __init__(self, runs_max: int) -> None:
        self._runs_max = runs_max
        self._runs: dict[int, NDArray[np.int64]] = {}
        """(m, 2) ascending starts and ends of each partition, with room between them."""

    def __bool__(self) -> bool:
        return any(len(runs) for runs in self._runs.values())

    def add(self, places: Iterable[Place]) -> None:
        """With these events as well."""
        more: dict[int, list[int]] = {}
        for partition, offset in places:
            more.setdefault(int(partition), []).append(int(offset))
        for number, offsets in more.items():
            singles = np.array(offsets, np.int64)
            runs = self._runs.get(number, np.empty((0, 2), np.int64))
            self._runs[number] = _merged(np.vstack([runs, np.column_stack([singles, singles + 1])]))[-self._runs_max :]

    def discard(self, place: Place) -> bool:
        """Without this event; whether it was in it."""
        number, offset = int(place[0]), int(place[1])
        runs = self._runs.get(number)
        at = -1 if runs is None else int(np.searchsorted(runs[:, 0], offset, "right")) - 1
        if runs is None or at < 0 or offset >= runs[at, 1]:
            return False
        start, end = runs[at].tolist()
        left = [part for part in ((start, offset), (offset + 1, end)) if part[1] > part[0]]
        middle = np.array(left, np.int64).reshape(-1, 2)
        self._runs[number] = np.vstack([runs[:at], middle, runs[at + 1 :]])
        return True

    def __contains__(self, place: Place) -> bool:
        runs = self._runs.get(int(place[0]))
        at = -1 if runs is None else int(np.searchsorted(runs[:, 0], place[1], "right")) - 1
        return runs is not None and at >= 0 and bool(place[1] < runs[at, 1])

    def holds(self, batch: Batch) -> NDArray[np.bool_] | None:
        """(n,) which events of the batch are in it, or None for none."""
        if batch.places is None or not self:
            return None
        found = np.zeros(len(batch), np.bool_)
        for number, runs in self._runs.items():
            if len(runs):
                offsets = batch.places[:, 1]
                at = np.searchsorted(runs[:, 0], offsets, "right") - 1
                inside = (at >= 0) & (offsets < runs[np.maximum(at, 0), 1])
                found |= inside & (batch.places[:, 0] == number)
        return found if found.any() else None

    def copy(self) -> Spans:
        other = Spans(self._runs_max + KEPT_MAX)
        other._runs = dict(self._runs)
        return other

    def save(self) -> list[Any]:
        """Plain values that survive MessagePack."""
        return [[number, runs.ravel().tolist()] for number, runs in sorted(self._runs.items())]

    def load(self, state: Iterable[Any]) -> None:
        """Become what was saved."""
        self._runs = {number: np.array(flat, np.int64).reshape(-1, 2) for number, flat in state}


def _merged(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same offsets in ascending runs with room between them."""
    runs = runs[np.argsort(runs[:, 0], kind="stable")]
    ends = np.maximum.accumulate(runs[:, 1])
    begins = np.concatenate([[True], runs[1:, 0] > ends[:-1]])
    starts = np.flatnonzero(begins)
    last = np.concatenate([starts[1:] - 1, [len(runs) - 1]])
    return np.column_stack([runs[starts, 0], ends[last]])
