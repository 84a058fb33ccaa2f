"""Events of many requests become few frames of the log, and every request hears when its own are on disk.

While one frame is being made durable, rows of further requests gather for the next one. So a thousand single events
cost about as much as one request of a thousand: one `Batch`, one frame, one wake-up of the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from penstock.errors import LogUnavailable, Overloaded, PenstockError
from penstock.eventlog.interface import Entry
from penstock.events import Batch, Kind, Offset, Partition, concatenate, encode
from penstock.metrics import ServiceMetrics
from penstock.serve.decode import Decoder
from penstock.serve.forms import Event
from penstock.serve.seen import SeenIds

GROUPS_IN_FLIGHT_MAX = 2
"""One that is being synced and one that waits behind it, so that the disk never waits for the event loop."""

RECORDS_WAIT_S = 0.01
"""For which records of answered predictions wait for company when nobody waits for them: syncs of their own, one after
the other, would hold up the events that somebody does wait for."""

ROWS_GATHERED_MAX = 64
"""Requests of more events become a frame of their own: turning them into columns at once spreads the work better."""

FAILURE_SHOWN_S = 5.0
"""Seconds for which a worker calls itself not ready after its log refused events; then it invites requests to try."""

EVENT_BYTES = 64
"""What an event is reckoned to take beside its body's bytes."""

Heard = Callable[[Offset | Exception], None]
"""Called on the event loop with the offset after a request's last event when all are durable, or with the error."""


class Commits(Protocol):
    """The thread that makes entries durable in groups."""

    def submit(self, entry: Entry, done: Callable[[Offset | Exception], None]) -> None:
        """Queue an entry; done is called from another thread. Raises Overloaded."""
        ...


@dataclass(slots=True, eq=False)
class _Frame:
    """Events of one kind on their way to the log."""

    kind: Kind
    events: list[Event] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    count: int = 0
    bytes: int = 0
    ids: list[str] = field(default_factory=list)
    waiting: list[tuple[Heard, int]] = field(default_factory=list)
    """Who waits, and the number of events up to and including theirs."""
    submitted: float = 0.0


class Intake:
    """What one service takes in through one server worker. Lives on the event loop."""

    def __init__(
        self,
        decoder: Decoder,
        commits: Commits,
        partition: Partition,
        end: Offset,
        seen: SeenIds,
        metrics: ServiceMetrics,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.partition = partition
        self.end = end
        """The next offset, as far as it is durable."""
        self._failure: tuple[PenstockError, float] | None = None
        self._decoder = decoder
        self._commits = commits
        self._seen = seen
        self._metrics = metrics
        self._loop = loop
        self._bytes_max = decoder.spec.budget.memory_max_bytes
        self._bytes = 0
        self._gathering: dict[Kind, _Frame] = {}
        self._ready: list[_Frame] = []
        self._in_flight: deque[_Frame] = deque()
        self._groups: deque[set[_Frame]] = deque()
        self._flush_due = False
        self._flush_wanted = False
        """Whether something was gathered that somebody waits for, or that has waited long enough."""
        self._records_timer: asyncio.TimerHandle | None = None
        self._done: deque[tuple[_Frame, Offset | Exception]] = deque()
        self._awake = False

    # What requests call -----------------------------------------------------------------------------------------------

    async def accept(self, kind: Kind, events: list[Event], source: str | None, size: int) -> tuple[int, int, Offset]:
        """Keep checked events. Returns how many were new, how many duplicates, and the offset after the last of them.

        Raises LogUnavailable or Overloaded, and then none of them was acknowledged."""
        if len(events) > ROWS_GATHERED_MAX:
            return await self.accept_batch(kind, self._decoder.batch(kind, events, time.time(), source), size)
        self._admit(size + EVENT_BYTES * len(events))
        sent = len(events)
        if source is not None:
            for event in events:
                event.source = event.source or source
        ids: list[str] = []
        if kind is Kind.EXAMPLE:
            add = self._seen.add
            events = [event for event in events if event.id is None or add(event.id)]
            ids = [event.id for event in events if event.id is not None]
        if not events:
            return 0, sent, await self._everything_so_far()
        frame = self._gathering.get(kind)
        if frame is None:
            frame = self._gathering[kind] = _Frame(kind)
        frame.events += events
        frame.ids += ids
        end = await self._heard(frame, len(events), size)
        if len(events) < sent:
            end = await self._everything_so_far()
        return len(events), sent - len(events), end

    async def accept_batch(self, kind: Kind, batch: Batch, size: int) -> tuple[int, int, Offset]:
        """The same for columns."""
        self._admit(size + EVENT_BYTES * len(batch))
        sent = len(batch)
        frame = _Frame(kind)
        if kind is Kind.EXAMPLE and batch.ids is not None:
            keep = self._seen.add_all(batch.ids)
            if keep is not None:
                if not keep:
                    return 0, sent, await self._everything_so_far()
                batch = batch.rows(np.array(keep))
            frame.ids = [event_id for event_id in batch.ids or () if event_id is not None]
        frame.batches.append(batch)
        self._ready.append(frame)
        end = await self._heard(frame, len(batch), size)
        if len(batch) < sent:
            end = await self._everything_so_far()
        return len(batch), sent - len(batch), end

    def record(self, batch: Batch, heard: Heard | None) -> None:
        """Keep answered predictions; heard is told when they are durable. Raises Overloaded."""
        size = batch.numbers.nbytes + sum(vector.nbytes for vector in batch.vectors)
        size += 0 if batch.said is None else batch.said.nbytes
        size += 0 if batch.replies is None else batch.replies.values.nbytes
        self._admit(size + EVENT_BYTES * len(batch))
        frame = self._gathering.get(Kind.PREDICTION)
        if frame is None:
            frame = self._gathering[Kind.PREDICTION] = _Frame(Kind.PREDICTION)
        frame.batches.append(batch)
        self._add(frame, heard, len(batch), size)

    @property
    def failure(self) -> PenstockError | None:
        """Why the log refused events lately. It is asked again by the next request, as a full disk may be emptied; a
        log that takes nothing until it is opened again is not."""
        if self._failure is None:
            return None
        error, at = self._failure
        lasting = isinstance(error, LogUnavailable) and error.lasting
        return error if lasting or time.monotonic() - at <= FAILURE_SHOWN_S else None

    async def settled(self) -> None:
        """Return when everything that was taken in so far is durable, or failed."""
        try:
            await self._everything_so_far()
        except PenstockError:
            return

    # How frames travel ------------------------------------------------------------------------------------------------

    def _admit(self, size: int) -> None:
        if self._bytes + size > self._bytes_max:
            raise Overloaded(reason=f"{self._bytes} bytes of events wait for the disk (budget.memory_max_bytes)")

    async def _heard(self, frame: _Frame, count: int, size: int) -> Offset:
        future: asyncio.Future[Offset] = self._loop.create_future()
        self._add(frame, _resolver(future), count, size)
        return await future

    def _add(self, frame: _Frame, heard: Heard | None, count: int, size: int) -> None:
        frame.count += count
        frame.bytes += size + EVENT_BYTES * count
        self._bytes += size + EVENT_BYTES * count
        if heard is not None:
            frame.waiting.append((heard, frame.count))
            self._flush_soon()
        elif self._records_timer is None:
            self._records_timer = self._loop.call_later(RECORDS_WAIT_S, self._flush_records)

    def _flush_records(self) -> None:
        self._records_timer = None
        self._flush_soon()

    async def _everything_so_far(self) -> Offset:
        """The end of the log once all that was handed in before now is durable: what a duplicate repeats may still be
        on its way to the disk, and must not be acknowledged before it is there."""
        frames = [*self._in_flight, *self._ready, *self._gathering.values()]
        if not frames:
            return self.end
        futures: list[asyncio.Future[Offset]] = []
        for frame in frames:
            future: asyncio.Future[Offset] = self._loop.create_future()
            frame.waiting.append((_resolver(future), frame.count))
            futures.append(future)
        self._flush_soon()
        return max(await asyncio.gather(*futures))

    def _flush_soon(self) -> None:
        self._flush_wanted = True
        # Not at once: the requests that this turn of the event loop still has to look at shall join.
        if not self._flush_due and len(self._groups) < GROUPS_IN_FLIGHT_MAX:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = self._flush_wanted = False
        # Predictions first: feedback to one of them may be in the same group.
        records = self._gathering.pop(Kind.PREDICTION, None)
        frames = [*([records] if records else ()), *self._gathering.values(), *self._ready]
        self._gathering, self._ready = {}, []
        if not frames:
            return
        group = set(frames)
        self._groups.append(group)
        for frame in frames:
            self._in_flight.append(frame)
            frame.submitted = time.perf_counter()
            try:
                self._commits.submit(self._entry(frame), lambda result, frame=frame: self._wake(frame, result))  # type: ignore[misc]
            except Exception as error:
                # Whatever it is, only the requests of this frame may fail with it.
                self._finish(frame, error)

    def _entry(self, frame: _Frame) -> Entry:
        if frame.events:
            frame.batches.append(self._decoder.batch(frame.kind, frame.events, time.time()))
        return Entry(kind=frame.kind, count=frame.count, payload=encode(concatenate(frame.batches)))

    def _wake(self, frame: _Frame, result: Offset | Exception) -> None:
        """Runs in the commit thread. One wake-up serves a whole group: the flag falls before the queue is read."""
        self._done.append((frame, result))
        if not self._awake:
            self._awake = True
            try:
                self._loop.call_soon_threadsafe(self._take_done)
            except RuntimeError:
                # The loop is closed: the worker stopped waiting, so nobody is left to hear.
                return

    def _take_done(self) -> None:
        self._awake = False
        while self._done:
            self._finish(*self._done.popleft())
        if self._flush_wanted:
            self._flush_soon()

    def _finish(self, frame: _Frame, result: Offset | Exception) -> None:
        self._in_flight.remove(frame)
        for group in self._groups:
            group.discard(frame)
        while self._groups and not self._groups[0]:
            self._groups.popleft()
        self._bytes -= frame.bytes
        if isinstance(result, Exception):
            self._seen.forget(frame.ids)
            if isinstance(result, LogUnavailable):
                self._failure = (result, time.monotonic())
            for heard, _ in frame.waiting:
                heard(result)
            return
        self._failure = None
        self.end = max(self.end, Offset(result + frame.count))
        self._metrics.accepted[frame.kind.name.lower()].inc(frame.count)
        self._metrics.commit_s.observe(time.perf_counter() - frame.submitted)
        self._metrics.commit_events.observe(frame.count)
        for heard, count in frame.waiting:
            heard(Offset(result + count))


def _resolver(future: asyncio.Future[Offset]) -> Heard:
    def heard(result: Offset | Exception) -> None:
        # The client may have gone away meanwhile; that is its own affair.
        if future.done():
            return
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    return heard
