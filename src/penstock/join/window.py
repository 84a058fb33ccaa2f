"""The join: examples pass, predictions wait, feedback finds its prediction. Pure: time is that of the log's frames.

The contract. An example passes unless its id was seen lately. A prediction waits for ``wait_s`` of log time; beyond
``waiting_max`` the oldest stop waiting, and a later prediction with the id of one that waits takes its place. Feedback
answers the prediction that waits under its id; where none does, but one was answered lately, it is a duplicate and the
first answer stands; else it is early and waits ``early_s`` for its prediction to be recorded, then it is unknown.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Kind, Labels, Offset, Partition, Strings
from penstock.join.interface import DELAY_EDGES_S, FeedbackDelays, JoinCounts
from penstock.join.recent import RecentIds, remembered_as
from penstock.join.waiting import Fetch, Found, WaitingPredictions, rows_of

EARLY_S = 60.0
"""Seconds that feedback waits for its prediction: records are written behind the answer, and by another writer."""
EARLY_MAX = 100_000
"""Early feedback kept at most; beyond it the oldest is unknown. It has no features, so this is some 30 MB at worst."""


class _Answer(NamedTuple):
    """One event of feedback."""

    label: float | str | tuple[str, ...]
    source: str | None
    since: float


class JoinWindow:
    """Labelled examples out of a log of examples, predictions and feedback, in the order of the log.

    The clock is the latest time of a frame that was taken. A prediction waits from the clock at which it was taken, so
    that a partition that is read late loses nothing to one that was read ahead of it.

    Memory: ``waiting_max`` predictions (see WaitingPredictions), ``early_max`` answers, and twice ``ids_kept`` ids,
    those of examples and those of predictions that were answered."""

    def __init__(
        self,
        wait_s: float,
        waiting_max: int,
        *,
        ids_kept: int = 200_000,
        early_s: float = 60.0,
        early_max: int = EARLY_MAX,
    ) -> None:
        self._wait_s = wait_s
        self._early_s = early_s
        self._early_max = early_max
        self._clock = 0.0
        self._seen = RecentIds(ids_kept)
        self._answered = RecentIds(ids_kept)
        self._waiting = WaitingPredictions(waiting_max)
        # By id, the oldest first, and quick to find the first of after many removals at the front.
        self._early: OrderedDict[str, _Answer] = OrderedDict()
        self._counts = JoinCounts()
        self._delay_counts = [0] * (len(DELAY_EDGES_S) + 1)
        self._delay_total_s = 0.0
        self._delay_longest_s = 0.0

    def take(self, batch: Batch, partition: Partition, first: Offset, time: float) -> Batch | None:
        """The labelled examples that these events of one frame, or of a part of one, made learnable; None for none.

        ``first`` is the offset of the first event and ``time`` the frame's. Examples that were joined have the
        features, time and version of the prediction, and the label and source of the feedback."""
        self._pass_time(time)
        if batch.kind is Kind.EXAMPLE:
            return self._take_examples(batch)
        if batch.kind is Kind.PREDICTION:
            return self._take_predictions(batch, partition, first)
        return self._take_feedback(batch)

    @property
    def counts(self) -> JoinCounts:
        return msgspec.structs.replace(self._counts, early=len(self._early), waiting=len(self._waiting))

    @property
    def delays(self) -> FeedbackDelays:
        return FeedbackDelays(
            counts=tuple(self._delay_counts), total_s=self._delay_total_s, longest_s=self._delay_longest_s
        )

    def needed(self) -> dict[Partition, Offset]:
        """The oldest offset in each partition that ``load`` would read again; a partition without one is missing."""
        return self._waiting.needed()

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack: positions of predictions, not their features."""
        early = self._early
        return {
            "clock": self._clock,
            "counts": msgspec.structs.asdict(self._counts),
            "delays": [list(self._delay_counts), self._delay_total_s, self._delay_longest_s],
            "seen": self._seen.save(),
            "answered": self._answered.save(),
            "early": {"ids": list(early), "answers": [list(answer) for answer in early.values()]},
            "waiting": self._waiting.save(),
        }

    def load(self, state: dict[str, Any], fetch: Fetch) -> None:
        """Become what was saved; ``fetch`` reads the predictions at ascending offsets of one partition again."""
        self._clock = state["clock"]
        self._counts = msgspec.convert(state["counts"], JoinCounts)
        delay_counts, self._delay_total_s, self._delay_longest_s = state["delays"]
        self._delay_counts = list(delay_counts)
        self._seen.load(state["seen"])
        self._answered.load(state["answered"])
        early = state["early"]
        answers = (_Answer(_kept(label), *rest) for label, *rest in early["answers"])
        self._early = OrderedDict(zip(early["ids"], answers, strict=True))

        def fetch_by_key(partition: Partition, offsets: Sequence[Offset]) -> Batch:
            batch = fetch(partition, offsets)
            return replace(batch, ids=list(_keys(batch)))

        self._waiting.load(state["waiting"], fetch_by_key)

    def _count(self, **more: int) -> None:
        counts = self._counts
        self._counts = msgspec.structs.replace(counts, **{name: getattr(counts, name) + n for name, n in more.items()})

    def _pass_time(self, time: float) -> None:
        if time <= self._clock:
            return
        self._clock = time
        expired = self._waiting.expire(time - self._wait_s)
        unknown = 0
        while self._early:
            key, answer = next(iter(self._early.items()))
            if answer.since >= time - self._early_s:
                break
            del self._early[key]
            unknown += 1
        if expired or unknown:
            self._count(expired=expired, unknown=unknown)

    def _take_examples(self, batch: Batch) -> Batch | None:
        places = None if batch.ids is None else self._seen.first_seen(remembered_as(batch.ids))
        fresh = batch if places is None else batch.rows(np.array(places, np.intp))
        self._count(examples=len(fresh), duplicates=len(batch) - len(fresh))
        return fresh if len(fresh) else None

    def _take_predictions(self, batch: Batch, partition: Partition, first: Offset) -> Batch | None:
        keys = _keys(batch)
        offsets: range | list[int] = range(first, first + len(batch))
        joined, waiting = None, replace(batch, ids=list(keys))
        if not self._early.keys().isdisjoint(keys):
            # An id that stands twice asks again: the last row is the one that its early answer belongs to.
            last_rows = {key: row for row, key in enumerate(keys) if key in self._early}
            rows = sorted(last_rows.values())
            answers = [self._early.pop(keys[row]) for row in rows]
            for row in rows:
                self._answer(keys[row])
            # The answer was read from the log before the question, so that it took no time.
            self._count_delays(np.zeros(len(rows)))
            asked = batch.rows(np.array(rows, np.intp))
            joined = _labelled(asked, asked.ids, [a.label for a in answers], [a.source for a in answers])
            rest = [row for row, key in enumerate(keys) if key not in last_rows]
            self._count(matched=len(rows), expired=len(batch) - len(rows) - len(rest))
            waiting, offsets = waiting.rows(np.array(rest, np.intp)), [first + row for row in rest]
        stopped = self._waiting.add(waiting, partition, offsets, self._clock)
        if stopped:
            self._count(expired=stopped)
        return joined

    def _take_feedback(self, batch: Batch) -> Batch | None:
        keys = _keys(batch)
        pop, answered, early = self._waiting.pop, self._answered, self._early
        found: list[Found] = []
        places: list[int] = []
        duplicates = over = 0
        for place, key in enumerate(keys):
            one = pop(key)
            if one is not None:
                found.append(one)
                places.append(place)
                self._answer(key)
            elif key in answered or key in early:
                duplicates += 1
            else:
                label = batch.labels[place]  # type: ignore[index]
                source = None if batch.sources is None else batch.sources[place]
                early[key] = _Answer(_kept(label), source, self._clock)
                if len(early) > self._early_max:
                    early.popitem(last=False)
                    over += 1
        self._count(matched=len(found), feedback_duplicate=duplicates, unknown=over)
        if not found:
            return None
        self._count_delays(self._clock - np.array([one.since for one in found]))
        asked = rows_of(found)
        self._waiting.settle(list({one.group.number: one.group for one in found}.values()))
        told = batch if len(places) == len(batch) else batch.rows(np.array(places, np.intp))
        return _labelled(asked, told.ids, told.labels, told.sources)

    def _answer(self, key: str) -> None:
        if key not in self._answered:
            self._answered.add(key)

    def _count_delays(self, delays_s: NDArray[np.float64]) -> None:
        for bucket, more in enumerate(np.bincount(np.searchsorted(DELAY_EDGES_S, delays_s)).tolist()):
            self._delay_counts[bucket] += more
        self._delay_total_s += float(delays_s.sum())
        self._delay_longest_s = max(self._delay_longest_s, float(delays_s.max(initial=0.0)))


def _kept(label: Any) -> float | str | tuple[str, ...]:
    """A label as it waits: a set of classes comes back from what was saved as a list, and a number from a column."""
    return label if isinstance(label, str) else tuple(label) if isinstance(label, list | tuple) else float(label)


def _keys(batch: Batch) -> list[str]:
    """What predictions and feedback are found by."""
    return remembered_as(batch.ids or ())  # type: ignore[return-value]


def _labelled(asked: Batch, ids: Strings | None, labels: Labels | list[Any] | None, sources: Strings | None) -> Batch:
    """These predictions as examples with these answers; who sent the answer is the source, if it said so."""
    if sources is not None and asked.sources is not None:
        sources = [told if told is not None else own for told, own in zip(sources, asked.sources, strict=True)]
    if sources is None or all(source is None for source in sources):
        sources = asked.sources
    if isinstance(labels, list) and isinstance(labels[0], float):
        labels = np.array(labels, np.float64)
    return replace(asked, kind=Kind.EXAMPLE, ids=ids, labels=labels, sources=sources)
