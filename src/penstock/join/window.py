"""The join: examples pass, predictions wait, feedback finds its prediction. Pure: time is that of the log's frames.

The contract (docs/design/feedback.md). An example passes unless its id was seen lately. A prediction waits for
``wait_s`` of log time; beyond ``waiting_max`` the oldest stop waiting, and a later prediction with the id of an earlier
one takes its place, whatever became of that. Feedback answers the prediction that waits under its id. Where an event
with its id has a label already, it repeats, corrects or takes back that label; the newest word counts. Where the
prediction stopped waiting, it is late, and counted, or passed on with the features that the log still has. Else it is
early and waits ``early_s`` for its prediction to be recorded, then it is unknown.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Kind, Offset, Partition, concatenate
from penstock.join.closed import Closed, ClosedPredictions
from penstock.join.delays import Delays
from penstock.join.early import Answer, told_with
from penstock.join.interface import Amendment, FeedbackDelays, JoinCounts, Told
from penstock.join.labelled import keys_of, labelled, origins_of, told_by
from penstock.join.recent import RecentLabels, remembered_as, told_as
from penstock.join.waiting import Fetch, Found, Stopped, WaitingPredictions, rows_of
from penstock.spec import ClassName, Label

EARLY_S = 60.0
"""Seconds that feedback waits for its prediction: records are written behind the answer, and by another writer."""
EARLY_MAX = 100_000
"""Early feedback kept at most; beyond it the oldest is unknown. It has no features, so this is some 30 MB at worst."""
CLOSED_MAX = 100_000
"""Predictions whose window is over that are remembered at most."""
IMPLICIT_AT_ONCE = 1024
"""Labels by default that one frame brings at most, so that steps stay short after a pause; the rest come with the next
frames, and wait for feedback until then."""
OUT_OF_ORDER_S = 60.0
"""Partitions are read a little after one another, and clocks differ: what is no further behind is in order."""


class JoinWindow:
    """Labelled examples out of a log of examples, predictions and feedback, in the order of the log.

    The clock is the latest time of a frame that was taken. A prediction waits from the clock at which it was taken, so
    that a partition that is read late loses nothing to one that was read ahead of it.

    Memory: ``waiting_max`` predictions (see WaitingPredictions), ``early_max`` answers, ``closed_max`` predictions
    without their features, and twice ``ids_kept`` ids with their labels, those of examples and those of predictions."""

    def __init__(
        self,
        wait_s: float,
        waiting_max: int,
        *,
        late: Literal["count", "learn"] = "count",
        late_for_s: float = 7 * 86_400.0,
        implicit: ClassName | None = None,
        ids_kept: int = 200_000,
        early_s: float = EARLY_S,
        early_max: int = EARLY_MAX,
        closed_max: int = CLOSED_MAX,
        implicit_at_once: int = IMPLICIT_AT_ONCE,
    ) -> None:
        self.fetch: Fetch | None = None
        """Reads predictions again for feedback that came late; whoever owns the log sets it."""
        self._wait_s = wait_s
        self._learns_late = late == "learn"
        self._implicit = implicit
        self._implicit_at_once = implicit_at_once
        self._early_s = early_s
        self._early_max = early_max
        self._clock = 0.0
        self._newest = -np.inf
        # An id is an example's in the first, and a prediction's in at most one of the other three and the early ones.
        self._seen = RecentLabels(ids_kept)
        self._answered = RecentLabels(ids_kept)
        self._waiting = WaitingPredictions(waiting_max)
        self._closed = ClosedPredictions(late_for_s, closed_max)
        # By id, the oldest first, and quick to find the first of after many removals at the front.
        self._early: OrderedDict[str, Answer] = OrderedDict()
        self._amendments: list[Amendment] = []
        self._counts: Counter[str] = Counter()
        self._delays = Delays()

    @classmethod
    def of(cls, label: Label) -> JoinWindow:
        """The join that a service file asks for."""
        return cls(
            label.wait_s,
            label.waiting_max,
            late=label.late,
            late_for_s=label.late_for_s,
            implicit=label.implicit,
            ids_kept=2 * label.ids_window,
        )

    def take(self, batch: Batch, partition: Partition, first: Offset, time: float) -> Batch | None:
        """The labelled examples that these events of one frame, or of a part of one, made learnable; None for none.

        ``first`` is the offset of the first event and ``time`` the frame's. Examples that were joined have the
        features, time and version of the prediction, and the label and source of the feedback; those whose window
        ended come first. All say which event gave them their label (``origins``)."""
        self._count_order(batch.times, time)
        joined = self._pass_time(time)
        if batch.kind is Kind.EXAMPLE:
            joined += self._take_examples(batch, partition, first)
        elif batch.kind is Kind.PREDICTION:
            joined += self._take_predictions(batch, partition, first)
        else:
            joined += self._take_feedback(batch, partition, first)
        return concatenate(joined) if joined else None

    def take_amendments(self) -> list[Amendment]:
        """What was said since the last call of examples that came out before, or with that call, in its order."""
        amendments, self._amendments = self._amendments, []
        return amendments

    @property
    def counts(self) -> JoinCounts:
        return JoinCounts(**self._counts, early=len(self._early), waiting=len(self._waiting))

    @property
    def delays(self) -> FeedbackDelays:
        return self._delays.so_far

    def needed(self) -> dict[Partition, Offset]:
        """The oldest offset in each partition that ``load``, or late feedback, would read again; a partition without
        one is missing."""
        oldest = self._waiting.needed()
        if self._learns_late:
            for partition, offset in self._closed.needed().items():
                oldest[partition] = min(offset, oldest.get(partition, offset))
        return oldest

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack: positions of predictions, not their features."""
        early = self._early
        return {
            "clock": self._clock,
            "newest": self._newest,
            "counts": dict(self._counts),
            "delays": self._delays.save(),
            "seen": self._seen.save(),
            "answered": self._answered.save(),
            "early": {"ids": list(early), "answers": [list(answer) for answer in early.values()]},
            "waiting": self._waiting.save(),
            "closed": self._closed.save(),
            "amendments": [list(amendment) for amendment in self._amendments],
        }

    def load(self, state: dict[str, Any], fetch: Fetch) -> None:
        """Become what was saved; ``fetch`` reads the predictions at ascending offsets of one partition again."""
        self._clock = state["clock"]
        self._newest = state.get("newest", -np.inf)
        self._counts = Counter(state["counts"])
        for gauge in ("early", "waiting"):
            self._counts.pop(gauge, None)
        self._delays.load(state["delays"])
        self._seen.load(state["seen"])
        self._answered.load(state["answered"])
        early = state["early"]
        self._early = OrderedDict(zip(early["ids"], map(Answer.of, early["answers"]), strict=True))
        if "closed" in state:
            # A checkpoint of before feedback could come late has none.
            self._closed.load(state["closed"])
        amended = state.get("amendments", ())
        self._amendments = [Amendment(partition, offset, told_as(label)) for partition, offset, label in amended]

        def fetch_by_key(partition: Partition, offsets: Sequence[Offset]) -> Batch:
            batch = fetch(partition, offsets)
            return replace(batch, ids=list(keys_of(batch)))

        self._waiting.load(state["waiting"], fetch_by_key)

    # Time -------------------------------------------------------------------------------------------------------------

    def _count_order(self, times: NDArray[np.float64], now: float) -> None:
        """Events may say when they happened; the join goes by when they came, and counts those far out of order."""
        behind = int(np.count_nonzero(times < self._newest - OUT_OF_ORDER_S))
        if behind:
            self._counts["out_of_order"] += behind
        # A time beyond the frame's own is a clock that is wrong: all that followed would be called late.
        self._newest = max(self._newest, min(now, float(times.max(initial=-np.inf))))

    def _pass_time(self, time: float) -> list[Batch]:
        """Let windows end; gives what is labelled by default for it."""
        self._clock = max(self._clock, time)
        at_once = None if self._implicit is None else self._implicit_at_once
        labelled = []
        for stopped in self._waiting.expire(self._clock - self._wait_s, at_once):
            if self._implicit is None:
                self._close(stopped)
            else:
                labelled.append(self._label_by_default(stopped, self._implicit))
        self._closed.expire(self._clock)
        while self._early:
            key, answer = next(iter(self._early.items()))
            if answer.since >= self._clock - self._early_s:
                break
            del self._early[key]
            self._counts["unknown"] += 1
        return labelled

    def _close(self, stopped: Stopped) -> None:
        self._closed.add(stopped, self._clock)
        self._counts["expired"] += len(stopped.ids)

    def _label_by_default(self, stopped: Stopped, name: ClassName) -> Batch:
        self._counts["implicit"] += len(stopped.ids)
        for key, offset in zip(stopped.ids, stopped.offsets, strict=True):
            self._answered.put(key, name, stopped.partition, Offset(offset))
        asked = stopped.batch()
        told = replace(asked, labels=[name] * len(asked), sources=None)
        return labelled(asked, told, origins_of(stopped.partition, stopped.offsets))

    # Events -----------------------------------------------------------------------------------------------------------

    def _take_examples(self, batch: Batch, partition: Partition, first: Offset) -> list[Batch]:
        places = None
        if batch.ids is not None:
            places = self._seen.first_seen(remembered_as(batch.ids), told_by(batch), partition, first)  # type: ignore[arg-type]
        batch = replace(batch, origins=origins_of(partition, range(first, first + len(batch))))
        fresh = batch if places is None else batch.rows(np.array(places, np.intp))
        self._counts["examples"] += len(fresh)
        self._counts["duplicates"] += len(batch) - len(fresh)
        if self._early and batch.ids is not None and not self._early.keys().isdisjoint(keys_of(fresh)):
            self._hear_early(fresh)
        return [fresh] if len(fresh) else []

    def _hear_early(self, fresh: Batch) -> None:
        """What was said of these examples before they came, as a partition that is read late may have it."""
        for key in keys_of(fresh):
            if key not in self._early:
                continue
            answer = self._early.pop(key)
            if key in self._seen:
                self._say_again(self._seen, key, answer.label)
            else:
                # So many examples came with it that it is forgotten already.
                self._counts["unknown"] += 1

    def _take_predictions(self, batch: Batch, partition: Partition, first: Offset) -> list[Batch]:
        keys = keys_of(batch)
        offsets: range | list[int] = range(first, first + len(batch))
        joined, waiting = [], replace(batch, ids=list(keys))
        # Who asks again under an id means the newest question from then on.
        self._answered.forget(keys)
        self._closed.forget(keys)
        if not self._early.keys().isdisjoint(keys):
            # An id that stands twice asks again: the last row is the one that its early answer belongs to.
            last_rows = {key: row for row, key in enumerate(keys) if key in self._early}
            self._counts["expired"] += sum(key in last_rows for key in keys) - len(last_rows)
            joined = self._answer_early(batch, keys, sorted(last_rows.values()), partition, first)
            rest = [row for row, key in enumerate(keys) if key not in last_rows]
            waiting, offsets = waiting.rows(np.array(rest, np.intp)), [first + row for row in rest]
        self._counts["expired"] += self._waiting.add(waiting, partition, offsets, self._clock)
        for stopped in self._waiting.shed():
            self._close(stopped)
        return joined

    def _answer_early(
        self, batch: Batch, keys: Sequence[str], rows: list[int], partition: Partition, first: Offset
    ) -> list[Batch]:
        """The predictions in these rows have their answers already, or were taken back before they came."""
        told: list[tuple[int, Answer]] = []
        for row in rows:
            answer = self._early.pop(keys[row])
            if answer.label is None:
                self._take_back(Stopped([keys[row]], partition, [first + row], self._clock, batch, [row]))
            else:
                self._answered.put(keys[row], answer.label, answer.partition, answer.offset)
                told.append((row, answer))
        if not told:
            return []
        self._counts["matched"] += len(told)
        self._counts["early_matched"] += len(told)
        # The answer was read from the log before the question, so that it took no time.
        self._delays.count(np.zeros(len(told)))
        asked = batch.rows(np.array([row for row, _ in told], np.intp))
        origins = np.array([(answer.partition, answer.offset) for _, answer in told], np.int64)
        return [labelled(asked, told_with(asked, [answer for _, answer in told]), origins)]

    # Feedback ---------------------------------------------------------------------------------------------------------

    def _take_feedback(self, batch: Batch, partition: Partition, first: Offset) -> list[Batch]:
        found: list[Found] = []
        matched: list[int] = []
        late: dict[int, Closed] = {}
        touched = {}
        for place, (key, label) in enumerate(zip(keys_of(batch), told_by(batch), strict=True)):
            offset = Offset(first + place)
            one = self._waiting.pop(key)
            if one is not None:
                touched[one.group.number] = one.group
            if one is not None and label is not None:
                found.append(one)
                matched.append(place)
                self._answered.put(key, label, partition, offset)
            elif one is not None:
                self._take_back(one.stopped(key))
            elif key in self._closed:
                closed = self._come_late(key, label, partition, offset)
                if closed is not None:
                    late[place] = closed
            elif key in self._answered:
                self._say_again(self._answered, key, label)
            elif key in self._seen:
                self._say_again(self._seen, key, label)
            else:
                source = None if batch.sources is None else batch.sources[place]
                incumbent = None if batch.incumbents is None else batch.incumbents[place]
                self._come_early(key, Answer(label, source, self._clock, partition, offset, incumbent))
        self._counts["matched"] += len(found)
        self._delays.count(self._clock - np.array([one.since for one in found]))
        joined = self._join(batch, partition, first, found, matched, late) if found or late else []
        # Rows of answered predictions may go only now that they are copied out.
        self._waiting.settle(list(touched.values()))
        return joined

    def _join(
        self,
        batch: Batch,
        partition: Partition,
        first: Offset,
        found: Sequence[Found],
        matched: list[int],
        late: dict[int, Closed],
    ) -> list[Batch]:
        """The predictions found, and those that are read again, with the answers at these places of the batch, in the
        order of the answers."""
        places = matched
        asked = rows_of(found) if found else None
        if late:
            again = self._read_again(list(late.values()))
            both = again if asked is None else concatenate([asked, again])
            order = np.argsort([*matched, *late])
            asked, places = both.rows(order), sorted([*matched, *late])
        assert asked is not None, "nothing was answered"
        told = batch if len(places) == len(batch) else batch.rows(np.array(places, np.intp))
        return [labelled(asked, told, origins_of(partition, [first + place for place in places]))]

    def _take_back(self, stopped: Stopped) -> None:
        """A question was taken back before it had an answer: its window is over, and no default is its label."""
        self._counts["retracted"] += 1
        self._closed.add(stopped, self._clock)

    def _come_late(self, key: str, label: Told | None, partition: Partition, offset: Offset) -> Closed | None:
        """Feedback to a prediction that stopped waiting; gives the prediction where it is passed on all the same."""
        if label is None:
            self._counts["feedback_duplicate"] += 1
            return None
        self._counts["late"] += 1
        self._delays.count(np.array([self._clock - self._closed.since(key)]))
        if not self._learns_late:
            return None
        self._counts["late_learned"] += 1
        self._answered.put(key, label, partition, offset)
        return self._closed.pop(key)

    def _say_again(self, memory: RecentLabels, key: str, label: Told | None) -> None:
        """Feedback to an event that has a label, or had one."""
        known = memory.find(key)
        assert known is not None, "the id is remembered"
        now, partition, offset = known
        if label == now or partition < 0:
            self._counts["feedback_duplicate"] += 1
            return
        self._counts["retracted" if label is None else "corrected"] += 1
        memory.relabel(key, label)
        self._amendments.append(Amendment(partition, offset, label))

    def _come_early(self, key: str, answer: Answer) -> None:
        """Feedback to nothing that was recorded yet; the newest word of several counts."""
        before = self._early.get(key)
        if before is None:
            self._early[key] = answer
            if len(self._early) > self._early_max:
                self._early.popitem(last=False)
                self._counts["unknown"] += 1
        elif before.label == answer.label:
            self._counts["feedback_duplicate"] += 1
        else:
            self._counts["retracted" if answer.label is None else "corrected"] += 1
            self._early[key] = before.corrected_by(answer)

    def _read_again(self, late: Sequence[Closed]) -> Batch:
        """These predictions from the log, in this order."""
        assert self.fetch is not None, "late feedback is learned, and nothing reads its predictions"
        order = sorted(range(len(late)), key=lambda place: late[place][:2])
        parts = []
        for partition, places in groupby(order, key=lambda place: late[place].partition):
            parts.append(self.fetch(partition, [late[place].offset for place in places]))
        places_back = np.empty(len(order), np.intp)
        places_back[order] = np.arange(len(order))
        return concatenate(parts).rows(places_back)
