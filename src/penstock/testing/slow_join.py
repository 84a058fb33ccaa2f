"""The join's contract, written to be obvious rather than fast: one event at a time, everything in plain lists."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Joined:
    """One labelled example that came out."""

    id: str | None
    label: str
    source: str | None
    value: float
    """What the features held."""
    version: int | None


@dataclass
class _Waiting:
    id: str
    value: float
    source: str | None
    version: int
    partition: int
    offset: int
    since: float


@dataclass
class _Early:
    id: str
    label: str
    source: str | None
    since: float


@dataclass
class SlowJoin:
    """What JoinWindow promises, event by event.

    The events of one batch are those between ``pass_time`` and the next one. Times are of the log, in seconds."""

    wait_s: float
    waiting_max: int
    ids_kept: int
    early_s: float
    early_max: int
    clock: float = 0.0
    seen: list[str] = field(default_factory=list)
    """Ids of examples in the order in which they were new, all of them."""
    answered: list[str] = field(default_factory=list)
    waiting: list[_Waiting] = field(default_factory=list)
    early: list[_Early] = field(default_factory=list)
    examples: int = 0
    duplicates: int = 0
    matched: int = 0
    feedback_duplicate: int = 0
    unknown: int = 0
    expired: int = 0
    delays_s: list[float] = field(default_factory=list)

    def pass_time(self, time: float) -> None:
        self.clock = max(self.clock, time)
        still = [w for w in self.waiting if self.clock - w.since <= self.wait_s]
        self.expired += len(self.waiting) - len(still)
        self.waiting = still
        hopeful = [e for e in self.early if self.clock - e.since <= self.early_s]
        self.unknown += len(self.early) - len(hopeful)
        self.early = hopeful

    def _remembers(self, ids: list[str], key: str) -> bool:
        """Whether an id is in the block of half of ids_kept that is being filled, or in the one before."""
        block = max(1, self.ids_kept // 2)
        return key in ids[max(0, (len(ids) // block - 1) * block) :]

    def example(self, key: str | None, label: str, source: str | None, value: float) -> Joined | None:
        if key is not None:
            if self._remembers(self.seen, key):
                self.duplicates += 1
                return None
            self.seen.append(key)
        self.examples += 1
        return Joined(key, label, source, value, None)

    def prediction(
        self, key: str, source: str | None, value: float, version: int, partition: int, offset: int
    ) -> Joined | None:
        for older in self.waiting:
            if older.id == key:
                self.waiting.remove(older)
                self.expired += 1
                break
        for answer in self.early:
            if answer.id == key:
                self.early.remove(answer)
                self._answer(key, 0.0)
                return Joined(key, answer.label, answer.source or source, value, version)
        self.waiting.append(_Waiting(key, value, source, version, partition, offset, self.clock))
        if len(self.waiting) > self.waiting_max:
            del self.waiting[0]
            self.expired += 1
        return None

    def feedback(self, key: str, label: str, source: str | None) -> Joined | None:
        for asked in self.waiting:
            if asked.id == key:
                self.waiting.remove(asked)
                self._answer(key, self.clock - asked.since)
                return Joined(key, label, source or asked.source, asked.value, asked.version)
        if self._remembers(self.answered, key) or any(e.id == key for e in self.early):
            self.feedback_duplicate += 1
            return None
        self.early.append(_Early(key, label, source, self.clock))
        if len(self.early) > self.early_max:
            del self.early[0]
            self.unknown += 1
        return None

    def needed(self) -> dict[int, int]:
        partitions = {w.partition for w in self.waiting}
        return {p: min(w.offset for w in self.waiting if w.partition == p) for p in partitions}

    def _answer(self, key: str, delay_s: float) -> None:
        if not self._remembers(self.answered, key):
            self.answered.append(key)
        self.matched += 1
        self.delays_s.append(delay_s)
