"""The learner: takes events from the log in steps, joins answers to their questions, predicts, scores and learns.

It decides where a step begins and ends, and nothing else: what becomes of the result is decided downstream. The same
ranges in the same order always give the same result, so a recorded step can be taken again (`again`) after a crash.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ReplayDiverged
from penstock.eventlog.interface import LogReader
from penstock.eventlog.picked import picked, read_events
from penstock.events import Batch, Kind, Offset, Partition, Position, Range, concatenate, decode, placed
from penstock.join.interface import Amendment
from penstock.join.window import JoinWindow
from penstock.learn.amendments import Amendments
from penstock.learn.anchors import Anchors, kept_back
from penstock.learn.interface import Heard, Learned, Model, Predictions, Predictor, Sieve, State
from penstock.learn.lately import labelled_again
from penstock.learn.pace import Pace
from penstock.learn.quarantine import Aside, AsideStep, Reason, Spans, origin_of
from penstock.spec import Spec

PENDING_EVENTS_PER_STEP_MAX = 64
"""Steps' worth of events without a label that are taken before they are recorded: a crash takes them again."""
PENDING_RANGES_MAX = 256
GOLDEN = (5.0**0.5 - 1.0) / 2.0
COMPARED_MAX = 256
"""Events of a step on which versions are compared at most; more of one step would say little more and cost as much as
learning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One step: what was taken, and what came of it. Without a labelled event only the position moved."""

    ranges: tuple[Range, ...]
    events: int
    """Events in the ranges, of any kind."""
    log_time: float
    """Seconds since 1970 at which the newest frame so far was appended."""
    batch: Batch | None = None
    """The n labelled events, in the order in which they became learnable."""
    learned: Learned | None = None
    served: NDArray[np.float64] | None = None
    """(n,) losses of the version that is served; the learner's own array where the two are one."""
    answers: Predictions | None = None
    """What that version said of each of the n events, before they were learned from."""
    compared: NDArray[np.intp] | None = None
    """(m,) ascending places of the events on which versions are compared; None where it is all n."""
    good: NDArray[np.float64] | None = None
    """(m,) losses of the last known good version, where there is one."""
    good_said: Predictions | None = None
    """What it said of these events."""
    probation: NDArray[np.float64] | None = None
    """(m,) losses of the version on probation, where there is one."""
    aside: AsideStep | None = None
    """What was set aside instead, or learned although it had been."""
    doubted: Heard | None = None
    """Of what was set aside: who sent it, and the losses of those who have not learned it."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A decoded frame."""

    first: Offset
    time: float
    batch: Batch

    @property
    def end(self) -> int:
        return self.first + len(self.batch)


class Learner:
    """One service's learner. Whoever publishes sets `served`, `good` and
    `probation`, and records what `take` returns."""

    def __init__(self, spec: Spec, reader: LogReader, join: JoinWindow, model: Model) -> None:
        self.model = model
        """What learns; whoever publishes puts another one in its place at a promotion."""
        self.join = join
        self.position: Position = {}
        """Everything before these offsets was taken."""
        self.log_time = 0.0
        self.set_aside = 0
        """Labelled events that the model could not take, such as one class too many."""
        self.served: Predictor | None = None
        """What is served, where that is not the learner's own state before the step."""
        self.good: Predictor | None = None
        self.probation: Predictor | None = None
        self.answering: Callable[[], Predictor] | None = None
        """Gives what is served, whatever it is: asked about what is set aside, which the model does not see."""
        self.sieve: Sieve | None = None
        """Says which events are not to be learned; None where others have decided that already."""
        self.anchors: Anchors | None = None
        """Takes the events that are not learned so that forgetting is seen; None where nobody looks."""
        self.doubted: Collection[str | None] = ()
        """Sources that are not believed at the moment."""
        self.keeps_versions = False
        """Whether it is to be known of joined predictions which version answered."""
        self.behind = False
        """Whether the newest step left events for later that were durable when it was formed."""
        self.pace = Pace(spec.learn.step_max, spec.learn.catch_up_s)
        self.rest_s = 0.0
        """Seconds between two steps at least, however much waits; 0 where nobody asks for rest."""
        self._spec = spec
        self._reader = reader
        self._step_max = spec.learn.step_max
        self._interval_s = spec.learn.step_interval_ms / 1000.0
        self._earliest = 0.0
        self._opened: dict[Partition, _Opened] = {}
        self._pending: list[Range] = []
        self._pending_events = 0
        self._amended: list[Amendment] = []
        join.fetch = self.fetch

    def wait(self, timeout_s: float) -> bool:
        """Sleep until a step is due (True) or the time is over: at once after a pause or when a full step is waiting,
        else when the interval since the last step is over."""
        if not self._reader.wait(self.position, timeout_s):
            return False
        early_s = self._earliest - time.monotonic()
        interval_s = max(self._interval_s, self.rest_s)
        if early_s > 0.0 and (self.rest_s or self.backlog() < self._step_max):
            time.sleep(min(early_s, interval_s))
        self._earliest = time.monotonic() + interval_s
        return True

    def backlog(self) -> int:
        """Durable events that were not taken yet."""
        return sum(end - self.position.get(partition, 0) for partition, end in self._reader.ends().items())

    def take(self) -> Taken | None:
        """Take the next step. None when there is nothing to record: no event, or none from which anything was learned;
        such events are part of the next step that is recorded."""
        ranges = self._form()
        if not ranges:
            return None
        batch = self._pass(ranges)
        self._pending.extend(ranges)
        self._pending_events += sum(stop - start for _, start, stop in ranges)
        if batch is not None:
            return self._sift_and_learn(batch)
        many = self._pending_events >= PENDING_EVENTS_PER_STEP_MAX * self._step_max or bool(self._amended)
        return self.flush() if many or len(self._pending) >= PENDING_RANGES_MAX else None

    def take_amended(self) -> list[Amendment]:
        """What was said since the last call of events that had been passed on before, the newest last."""
        amended, self._amended = self._amended, []
        return amended

    def flush(self) -> Taken | None:
        """What was taken and not recorded yet."""
        if not self._pending:
            return None
        ranges, events = self._hand_over()
        return Taken(ranges=ranges, events=events, log_time=self.log_time)

    def again(self, step: int, ranges: tuple[Range, ...], apart: Spans | None = None) -> Taken:
        """Take a recorded step once more, ``apart`` from these events. Raises ReplayDiverged when it does not begin
        where the one before ended."""
        self._go_to(step, ranges)
        batch = self._pass(ranges)
        self._pending.extend(ranges)
        self._pending_events = sum(stop - start for _, start, stop in ranges)
        out = None if batch is None or apart is None else apart.holds(batch)
        if batch is not None and out is not None:
            batch = None if out.all() else batch.rows(np.flatnonzero(~out))
        if batch is not None:
            return self._sift_and_learn(batch)
        ranges, events = self._hand_over()
        return Taken(ranges=ranges, events=events, log_time=self.log_time)

    def release(self, rows: Sequence[Aside]) -> Taken:
        """Learn events that had been set aside, as a step of their own. Raises OffsetGone."""
        if self._pending:
            raise ValueError("events were taken that are not recorded yet")
        places = np.array([row.place for row in rows], np.int64)
        batch = labelled_again(places, [row.label for row in rows], [row.source for row in rows], self.features)
        batch = replace(batch, origins=np.array([row.origin or (-1, -1) for row in rows], np.int64))
        return self._learn(batch, AsideStep(released=tuple(rows)))

    def pass_over(self, step: int, ranges: tuple[Range, ...]) -> None:
        """Take a recorded step once more without learning from it: a rollback has withdrawn it."""
        self._go_to(step, ranges)
        self._pass(ranges)

    def _go_to(self, step: int, ranges: tuple[Range, ...]) -> None:
        for partition, start, stop in ranges:
            at = self.position.get(partition, Offset(0))
            if start != at or stop <= start:
                what = f"partition {partition} is at offset {at}, and the step takes {start} to {stop}"
                raise ReplayDiverged(step=step, what=what)
            # Ranges are passed one at a time, since a step may come back to a partition.
            self.position[partition] = stop

    def needed(self) -> Position:
        """The oldest offsets that a restart from here reads."""
        oldest = dict(self.position)
        for partition, offset in self.join.needed().items():
            oldest[partition] = min(offset, oldest.get(partition, offset))
        return oldest

    def save(self) -> tuple[dict[str, Any], State]:
        """Plain values of the learner and the join, and the model's state. Nothing may be pending."""
        if self._pending:
            raise ValueError("events were taken that are not recorded yet")
        position = [[partition, offset] for partition, offset in sorted(self.position.items())]
        return {
            "position": position,
            "log_time": self.log_time,
            "set_aside": self.set_aside,
            "join": self.join.save(),
        }, self.model.save()

    def load(self, values: dict[str, Any], model: State) -> None:
        """Become what was saved."""
        self.position = {Partition(partition): Offset(offset) for partition, offset in values["position"]}
        self.log_time = values["log_time"]
        self.set_aside = values["set_aside"]
        self.join.load(values["join"], self.fetch)
        self.model.load(model)
        self._pending, self._pending_events = [], 0
        self._amended = []
        self._opened = {}

    def _form(self) -> tuple[Range, ...]:
        """The next step's ranges: each partition's fair share in ascending order, and what they leave to those with
        more."""
        ends = self._reader.ends()
        waiting = {
            partition: end - self.position.get(partition, 0)
            for partition, end in sorted(ends.items())
            if end > self.position.get(partition, 0)
        }
        self.behind = False
        if not waiting:
            return ()
        self.pace.arrived(sum(ends.values()), time.monotonic())
        room = self.pace.size(sum(waiting.values()))
        self.behind = sum(waiting.values()) > room
        shares = dict.fromkeys(waiting, 0)
        open_partitions = sorted(waiting, key=lambda p: (-waiting[p], p))[:room]
        while room and open_partitions:
            share = max(1, room // len(open_partitions))
            for partition in open_partitions[:]:
                more = min(share, waiting[partition] - shares[partition], room)
                shares[partition] += more
                room -= more
            open_partitions = [p for p in open_partitions if shares[p] < waiting[p]]
        ranges = []
        for partition, count in shares.items():
            if count:
                start = self.position.get(partition, Offset(0))
                self.position[partition] = Offset(start + count)
                ranges.append((partition, start, Offset(start + count)))
        return tuple(ranges)

    def _pass(self, ranges: tuple[Range, ...]) -> Batch | None:
        """Send these events through the join, in order, and return what became learnable."""
        learnable = []
        for partition, start, stop in ranges:
            for first, appended, batch in self._read(partition, start, stop):
                batch = placed(batch, partition, range(first, first + len(batch)))
                joined = self.join.take(batch, partition, first, appended)
                if joined is not None:
                    # Nothing is learned from which version answered.
                    learnable.append(joined if self.keeps_versions else replace(joined, versions=None))
                self.log_time = max(self.log_time, appended)
        amended = self.join.take_amendments()
        if self.anchors is not None and amended:
            self.anchors.amend(Amendments(amended))
        if not learnable:
            self._amended += amended
            return None
        # What was corrected before it was learned is learned once, and right.
        whole, said = concatenate(learnable), Amendments(amended)
        here = said.origins(whole)
        self._amended += [one for one in amended if one[:2] not in here]
        batch = said.applied(whole)
        return self._takeable(batch) if len(batch) else None

    def _takeable(self, batch: Batch) -> Batch | None:
        """The events that the model can take. The door refuses what it cannot, so the others are rare; an event that
        stands in the log must not stop the learner for ever."""
        places = self.model.takes(batch)
        if places is None:
            return batch
        self.set_aside += len(batch) - len(places)
        return batch.rows(places) if len(places) else None

    def _sift_and_learn(self, batch: Batch) -> Taken:
        sifted = None if self.sieve is None else self.sieve.look(batch, self.doubted)
        back = kept_back(self._spec, batch)
        if sifted is None:
            kept = np.arange(len(batch)) if back is None else self._anchored(batch, np.arange(len(batch)), back)
            return self._learn(batch if back is None else batch.rows(kept)) if len(kept) else self._unlearned()
        kept = sifted.kept if back is None else self._anchored(batch, sifted.kept, back)
        rows = [self._aside(batch, *one) for one in sifted.aside]
        aside = AsideStep(aside=tuple(rows))
        # A sample of the whole step is compared, so that what is set aside has its share of what the gate hears.
        compared = spread_over(len(batch))
        heard = np.array([row for row, reason, _ in sifted.aside if reason != "impossible"], np.intp)
        if compared is not None:
            heard = np.intersect1d(heard, compared)
            compared = np.flatnonzero(np.isin(kept, compared))
        doubted = batch.rows(heard) if len(heard) else None
        if len(kept):
            return self._learn(batch.rows(kept), aside, doubted, compared)
        return self._unlearned(aside, doubted)

    def _anchored(self, batch: Batch, kept: NDArray[np.intp], back: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Those of the rows that are to be learned; the others become anchors."""
        held = kept[back[kept]]
        if self.anchors is not None and len(held):
            self.anchors.take(batch.rows(held))
        return kept[~back[kept]]

    def _unlearned(self, aside: AsideStep | None = None, doubted: Batch | None = None) -> Taken:
        """A step whose labelled events are all set aside or anchors."""
        ranges, events = self._hand_over()
        return Taken(ranges=ranges, events=events, log_time=self.log_time, aside=aside, doubted=self._heard(doubted))

    def _heard(self, doubted: Batch | None, scale: float | None = None) -> Heard | None:
        if doubted is None or self.answering is None:
            return None
        _, losses = _asked(self.answering(), doubted, scale)
        assert losses is not None, "something is served"
        _, good = _asked(self.good, doubted, scale)
        return Heard(doubted.sources or [None] * len(doubted), losses, good)

    def _aside(self, batch: Batch, row: int, reason: Reason, told: str) -> Aside:
        """What is kept of an event that is set aside."""
        assert batch.places is not None, "what was read from the log has a place"
        partition, offset = batch.places[row].tolist()
        label: Any = batch.labels[row]  # type: ignore[index]
        return Aside(
            partition=Partition(partition),
            offset=Offset(offset),
            reason=reason,
            told=told,
            source=None if batch.sources is None else batch.sources[row],
            label=label if isinstance(label, str | tuple) else float(label),
            time=self.log_time,
            origin=None if batch.origins is None else origin_of(batch.origins[row].tolist()),
        )

    def _learn(
        self,
        batch: Batch,
        aside: AsideStep | None = None,
        doubted: Batch | None = None,
        compared: NDArray[np.intp] | None = None,
    ) -> Taken:
        learned = self.model.learn(batch)
        # The others are frozen, so they still predict as they did before the step; all are measured by one scale.
        said, served = _asked(self.served, batch, learned.scale)
        compared = spread_over(len(batch)) if compared is None else compared
        few = batch if compared is None or (self.good is None and self.probation is None) else batch.rows(compared)
        good_said, good = _asked(self.good, few, learned.scale)
        _, probation = _asked(self.probation, few, learned.scale)
        ranges, events = self._hand_over()
        return Taken(
            ranges=ranges,
            events=events,
            log_time=self.log_time,
            batch=batch,
            learned=learned,
            served=learned.losses if served is None else served,
            answers=said or learned.predictions,
            compared=compared,
            good=good,
            good_said=good_said,
            probation=probation,
            aside=aside,
            doubted=self._heard(doubted, learned.scale),
        )

    def _hand_over(self) -> tuple[tuple[Range, ...], int]:
        ranges, events = tuple(self._pending), self._pending_events
        self._pending, self._pending_events = [], 0
        return ranges, events

    def _read(self, partition: Partition, start: Offset, stop: Offset) -> Iterator[tuple[Offset, float, Batch]]:
        """The events of the range, frame by frame. The last frame is kept, since the next step often begins inside
        it."""
        opened = self._opened.get(partition)
        at = start
        if opened is not None and opened.first <= at < opened.end:
            yield _cut(opened, at, stop)
            at = Offset(opened.end)
        if at < stop:
            for opened in self._frames(partition, at, stop):
                yield _cut(opened, at, stop)
                self._opened[partition] = opened

    def fetch(self, partition: Partition, offsets: Sequence[Offset]) -> Batch:
        """The events at these ascending offsets, read again; frames without one of them are not decoded."""
        return read_events(self._reader, partition, offsets)

    def features(self, partition: Partition, offsets: Sequence[Offset]) -> Batch:
        """The same as examples without a label, be they examples or predictions, and without what was answered."""
        return concatenate([_unanswered(batch) for batch in picked(self._reader, partition, offsets)])

    def _frames(self, partition: Partition, start: Offset, stop: Offset) -> Iterator[_Opened]:
        for frame in self._reader.read(partition, start, stop):
            yield _Opened(frame.first, frame.time, decode(frame.payload))


@lru_cache(maxsize=64)
def spread_over(n: int) -> NDArray[np.intp] | None:
    """(at most COMPARED_MAX,) ascending places among n events, or None where all n are no more than that.

    They follow the golden ratio: even, without a period that sources taking turns could fall in with, and chosen
    without looking at anything but n."""
    if n <= COMPARED_MAX:
        return None
    places: NDArray[np.intp] = np.unique((np.arange(COMPARED_MAX) * GOLDEN % 1.0 * n).astype(np.intp))
    places.flags.writeable = False
    return places


def _asked(
    predictor: Predictor | None, batch: Batch, scale: float | None
) -> tuple[Predictions | None, NDArray[np.float64] | None]:
    """What a frozen version says of these events, and what it loses by it; neither where there is none."""
    if predictor is None:
        return None, None
    said = predictor.predict(batch)
    return said, predictor.losses(said, batch, scale)


def _unanswered(batch: Batch) -> Batch:
    return replace(batch, kind=Kind.EXAMPLE, labels=None, versions=None, incumbents=None, replies=None)


def _cut(opened: _Opened, start: Offset, stop: Offset) -> tuple[Offset, float, Batch]:
    """The part of a frame that lies in the range."""
    first = max(opened.first, start)
    last = min(opened.end, stop)
    whole = first == opened.first and last == opened.end
    batch = opened.batch if whole else opened.batch.rows(slice(first - opened.first, last - opened.first))
    return Offset(first), opened.time, batch
