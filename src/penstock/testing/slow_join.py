"""The join's contract, written to be obvious rather than fast: one event at a time, everything in plain lists."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from penstock.join.recent import remembered_as

Origin = tuple[int, int]
"""Partition and offset."""


@dataclass(frozen=True)
class Joined:
    """One labelled example that came out."""

    id: str | None
    label: str
    source: str | None
    value: float
    """What the features held."""
    version: int | None
    origin: Origin
    incumbent: str | None = None
    """What another system had answered, as whoever told the label says."""


@dataclass
class _Asked:
    """A prediction without a label."""

    id: str
    value: float
    source: str | None
    version: int
    origin: Origin
    since: float
    incumbent: str | None = None
    stopped: float = 0.0


@dataclass
class _Early:
    id: str
    label: str | None
    source: str | None
    since: float
    origin: Origin
    incumbent: str | None = None


@dataclass
class _Labelled:
    """An event that came out, or was taken back since."""

    label: str | None
    origin: Origin


@dataclass
class _Memory:
    """Ids in the order in which they were new, in blocks of half of ``kept``: the last two are remembered."""

    kept: int
    blocks: list[dict[str, _Labelled]] = field(default_factory=lambda: [{}])

    def find(self, key: str) -> _Labelled | None:
        for block in self.blocks[-2:]:
            if key in block:
                return block[key]
        return None

    def put(self, key: str, label: str, origin: Origin) -> None:
        self.blocks[-1][key] = _Labelled(label, origin)
        if len(self.blocks[-1]) >= max(1, self.kept // 2):
            self.blocks.append({})

    def forget(self, key: str) -> None:
        for block in self.blocks:
            block.pop(key, None)


@dataclass
class SlowJoin:
    """What JoinWindow promises, event by event.

    The events of one batch are those between ``pass_time`` and the next one. Times are of the log, in seconds."""

    wait_s: float
    waiting_max: int
    ids_kept: int
    early_s: float
    early_max: int
    closed_max: int
    late: str
    late_for_s: float
    implicit: str | None
    implicit_at_once: int
    clock: float = 0.0
    waiting: list[_Asked] = field(default_factory=list)
    closed: list[_Asked] = field(default_factory=list)
    early: list[_Early] = field(default_factory=list)
    amendments: list[tuple[int, int, str | None]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    delays_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.seen, self.answered = _Memory(self.ids_kept), _Memory(self.ids_kept)

    def pass_time(self, time: float) -> list[Joined]:
        """Gives what is labelled by default."""
        self.clock = max(self.clock, time)
        labelled: list[Joined] = []
        for asked in list(self.waiting):
            if self.clock - asked.since <= self.wait_s:
                continue
            if self.implicit is None:
                self._close(asked)
                self.counts["expired"] += 1
            elif len(labelled) < self.implicit_at_once:
                self.waiting.remove(asked)
                self.answered.put(asked.id, self.implicit, asked.origin)
                self.counts["implicit"] += 1
                # A long id is kept as its digest, and nobody has sent it again.
                (key,) = remembered_as([asked.id])
                labelled.append(
                    Joined(key, self.implicit, asked.source, asked.value, asked.version, asked.origin, asked.incumbent)
                )
        self.closed = [asked for asked in self.closed if self.clock - asked.stopped <= self.late_for_s]
        hopeful = [e for e in self.early if self.clock - e.since <= self.early_s]
        self.counts["unknown"] += len(self.early) - len(hopeful)
        self.early = hopeful
        return labelled

    def example(
        self,
        key: str | None,
        label: str,
        source: str | None,
        value: float,
        origin: Origin,
        incumbent: str | None = None,
    ) -> Joined | None:
        if key is not None:
            if self.seen.find(key):
                self.counts["duplicates"] += 1
                return None
            self.seen.put(key, label, origin)
        self.counts["examples"] += 1
        return Joined(key, label, source, value, None, origin, incumbent)

    def examples_end(self, keys: list[str | None]) -> None:
        """Behind the examples of one batch: what was said of them before they came."""
        for key in keys:
            for early in list(self.early):
                if early.id == key:
                    self.early.remove(early)
                    if self.seen.find(key):
                        self._say_again(self.seen.find(key), early.label)
                    else:
                        self.counts["unknown"] += 1

    def predictions_begin(self, keys: list[str]) -> None:
        """Before the predictions of one batch: they take the place of all that had their ids."""
        for key in keys:
            self.answered.forget(key)
            self.closed = [asked for asked in self.closed if asked.id != key]

    def prediction(
        self,
        key: str,
        source: str | None,
        value: float,
        version: int,
        origin: Origin,
        incumbent: str | None = None,
    ) -> Joined | None:
        for older in self.waiting:
            if older.id == key:
                self.waiting.remove(older)
                self.counts["expired"] += 1
                break
        asked = _Asked(key, value, source, version, origin, self.clock, incumbent)
        for answer in self.early:
            if answer.id == key:
                self.early.remove(answer)
                if answer.label is None:
                    self.counts["retracted"] += 1
                    self._close(asked)
                    return None
                self.counts["early_matched"] += 1
                self._answer(asked, answer.label, answer.origin, 0.0)
                who = answer.source or source
                said = incumbent if answer.incumbent is None else answer.incumbent
                return Joined(key, answer.label, who, value, version, answer.origin, said)
        self.waiting.append(asked)
        return None

    def predictions_end(self) -> None:
        """Behind the predictions of one batch: there may be too many now."""
        while len(self.waiting) > self.waiting_max:
            self._close(self.waiting[0])
            self.counts["expired"] += 1

    def feedback(
        self, key: str, label: str | None, source: str | None, origin: Origin, incumbent: str | None = None
    ) -> Joined | None:
        for asked in self.waiting:
            if asked.id == key:
                if label is None:
                    self.counts["retracted"] += 1
                    self._close(asked)
                    return None
                self.waiting.remove(asked)
                self._answer(asked, label, origin, self.clock - asked.since)
                said = asked.incumbent if incumbent is None else incumbent
                return Joined(key, label, source or asked.source, asked.value, asked.version, origin, said)
        for asked in self.closed:
            if asked.id == key:
                return self._come_late(asked, label, source, origin, incumbent)
        if self.answered.find(key):
            self._say_again(self.answered.find(key), label)
        elif self.seen.find(key):
            self._say_again(self.seen.find(key), label)
        else:
            self._come_early(_Early(key, label, source, self.clock, origin, incumbent))
        return None

    def needed(self) -> dict[int, int]:
        kept = self.waiting + (self.closed if self.late == "learn" else [])
        return {p: min(w.origin[1] for w in kept if w.origin[0] == p) for p in {w.origin[0] for w in kept}}

    def _close(self, asked: _Asked) -> None:
        if asked in self.waiting:
            self.waiting.remove(asked)
        asked.stopped = self.clock
        self.closed = [*self.closed, asked][-self.closed_max :]

    def _come_late(
        self, asked: _Asked, label: str | None, source: str | None, origin: Origin, incumbent: str | None
    ) -> Joined | None:
        if label is None:
            self.counts["feedback_duplicate"] += 1
            return None
        self.counts["late"] += 1
        if self.late == "count":
            self.delays_s.append(self.clock - asked.since)
            return None
        self.closed.remove(asked)
        self.counts["late_learned"] += 1
        self.counts["matched"] -= 1
        self._answer(asked, label, origin, self.clock - asked.since)
        said = asked.incumbent if incumbent is None else incumbent
        return Joined(asked.id, label, source or asked.source, asked.value, asked.version, origin, said)

    def _come_early(self, said: _Early) -> None:
        for before in self.early:
            if before.id == said.id:
                if before.label == said.label:
                    self.counts["feedback_duplicate"] += 1
                else:
                    self.counts["retracted" if said.label is None else "corrected"] += 1
                    before.label, before.source = said.label, said.source
                    before.incumbent = before.incumbent if said.incumbent is None else said.incumbent
                return
        self.early.append(said)
        if len(self.early) > self.early_max:
            del self.early[0]
            self.counts["unknown"] += 1

    def _say_again(self, known: _Labelled | None, label: str | None) -> None:
        assert known is not None
        if known.label == label:
            self.counts["feedback_duplicate"] += 1
            return
        self.counts["retracted" if label is None else "corrected"] += 1
        known.label = label
        self.amendments.append((*known.origin, label))

    def _answer(self, asked: _Asked, label: str, origin: Origin, delay_s: float) -> None:
        self.answered.put(asked.id, label, origin)
        self.counts["matched"] += 1
        self.delays_s.append(delay_s)
