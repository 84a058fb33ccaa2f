"""How requests share frames, and what each of them hears."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import LogUnavailable, Overloaded
from penstock.eventlog.interface import Entry
from penstock.events import Batch, Kind, Offset, Partition, decode
from penstock.metrics import ServiceMetrics
from penstock.serve.decode import Decoder, Media
from penstock.serve.intake import GROUPS_IN_FLIGHT_MAX, RECORDS_WAIT_S, Intake
from penstock.serve.seen import SeenIds
from penstock.spec import Budget, Feature, Spec

SPEC = Spec(
    name="two",
    task="binary",
    features={"x": Feature(type="number")},
    budget=Budget(memory_max_bytes=1024**2),
)
Done = Callable[[Offset | Exception], None]


class Disk:
    """Commits that become durable when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Entry, Done]] = []
        self.end = 0
        self.written: list[Batch] = []
        self.refuses: Exception | None = None

    def submit(self, entry: Entry, done: Done) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.waiting.append((entry, done))

    def sync(self, error: Exception | None = None, count: int = 1000) -> None:
        """The first so many that were submitted are durable, or failed."""
        waiting, self.waiting = self.waiting[:count], self.waiting[count:]
        for entry, done in waiting:
            if error is not None:
                done(error)
                continue
            first, self.end = self.end, self.end + entry.count
            self.written.append(decode(b"".join(entry.payload)))
            done(Offset(first))


class Room:
    def __init__(self) -> None:
        self.disk = Disk()
        self.decoder = Decoder(SPEC)
        self.intake = Intake(
            self.decoder,
            self.disk,
            Partition(0),
            Offset(0),
            SeenIds(100_000),
            ServiceMetrics("two"),
            asyncio.get_running_loop(),
        )

    def send(self, *ids: str | None, size: int = 10) -> asyncio.Task[tuple[int, int, Offset]]:
        lines = [b'{"features": {}, "label": 1%s}' % (b', "id": "%s"' % i.encode() if i else b"") for i in ids]
        events, _ = self.decoder.rows(Kind.EXAMPLE, b"\n".join(lines), Media.NDJSON)
        return asyncio.ensure_future(self.intake.accept(Kind.EXAMPLE, events, None, size))


async def turns() -> None:
    """Let everything happen that can happen without the disk."""
    for _ in range(5):
        await asyncio.sleep(0)


def run(scenario: Callable[[Room], Coroutine[Any, Any, None]]) -> None:
    async def begin() -> None:
        await scenario(Room())

    asyncio.run(begin())


def test_requests_of_one_turn_share_a_frame_and_hear_their_own_offsets() -> None:
    async def scenario(room: Room) -> None:
        sent = [room.send(None), room.send(None, None), room.send(None)]
        await turns()
        assert not any(task.done() for task in sent)
        assert [entry.count for entry, _ in room.disk.waiting] == [4]
        room.disk.sync()
        assert await asyncio.gather(*sent) == [(1, 0, 1), (2, 0, 3), (1, 0, 4)]

    run(scenario)


def test_while_the_disk_is_busy_rows_gather() -> None:
    async def scenario(room: Room) -> None:
        sent = []
        for _ in range(10):
            sent.append(room.send(None))
            await turns()
        assert len(room.disk.waiting) == GROUPS_IN_FLIGHT_MAX
        room.disk.sync()
        await turns()
        assert [entry.count for entry, _ in room.disk.waiting] == [10 - GROUPS_IN_FLIGHT_MAX]
        room.disk.sync()
        assert [end for _, _, end in await asyncio.gather(*sent)] == list(range(1, 11))

    run(scenario)


def test_a_duplicate_is_acknowledged_when_what_it_repeats_is_durable() -> None:
    async def scenario(room: Room) -> None:
        first = room.send("a")
        await turns()
        again, mixed = room.send("a"), room.send("a", "b")
        await turns()
        assert not again.done()
        room.disk.sync()
        await turns()
        assert await first == (1, 0, 1)
        room.disk.sync()
        assert await again == (0, 1, 1)
        assert await mixed == (1, 1, 2)
        assert [batch.ids for batch in room.disk.written] == [["a"], ["b"]]
        assert await room.send("a") == (0, 1, 2)

    run(scenario)


def test_a_duplicate_among_new_ones_waits_for_a_frame_behind_its_own() -> None:
    async def scenario(room: Room) -> None:
        events, _ = room.decoder.rows(Kind.EXAMPLE, b'{"features": {}, "label": 1, "id": "a"}', Media.JSON)
        columns = room.decoder.batch(Kind.EXAMPLE, events, 0.0)
        first = asyncio.ensure_future(room.intake.accept_batch(Kind.EXAMPLE, columns, 10))
        mixed = room.send("a", "b")
        await turns()
        room.disk.sync(count=1)
        await turns()
        assert [batch.ids for batch in room.disk.written] == [["b"]]
        assert not mixed.done()
        room.disk.sync()
        assert await first == (1, 0, 2)
        assert await mixed == (1, 1, 2)

    run(scenario)


def test_what_failed_is_nobody_s_duplicate() -> None:
    async def scenario(room: Room) -> None:
        first = room.send("a")
        await turns()
        again = room.send("a")
        await turns()
        room.disk.sync(LogUnavailable(folder="log", reason="no space"))
        for task in (first, again):
            with pytest.raises(LogUnavailable):
                await task
        assert room.intake.failure is not None
        retried = room.send("a")
        await turns()
        room.disk.sync()
        assert await retried == (1, 0, 1)
        assert room.intake.failure is None

    run(scenario)


def test_beyond_the_memory_bound_nothing_is_taken_and_room_is_given_back() -> None:
    async def scenario(room: Room) -> None:
        first = room.send(None, size=900_000)
        await turns()
        with pytest.raises(Overloaded, match="memory_max_bytes"):
            await room.send("late", size=200_000)
        room.disk.sync()
        await first
        second = room.send("late", size=200_000)
        await turns()
        room.disk.sync()
        assert (await second)[0] == 1

    run(scenario)


def test_a_refused_frame_fails_its_own_requests_only() -> None:
    async def scenario(room: Room) -> None:
        room.disk.refuses = Overloaded(reason="the queue is full")
        refused = [room.send("a"), room.send("b")]
        for task in refused:
            with pytest.raises(Overloaded):
                await task
        room.disk.refuses = None
        taken = room.send("a")
        await turns()
        room.disk.sync()
        assert await taken == (1, 0, 1)

    run(scenario)


def test_a_request_that_was_given_up_hurts_nobody() -> None:
    async def scenario(room: Room) -> None:
        gone, stays = room.send("a"), room.send("b")
        await turns()
        gone.cancel()
        await turns()
        room.disk.sync()
        assert await stays == (1, 0, 2)
        assert gone.cancelled()
        assert [batch.ids for batch in room.disk.written] == [["a", "b"]]

    run(scenario)


def test_records_of_predictions_stand_before_feedback_of_the_same_turn() -> None:
    async def scenario(room: Room) -> None:
        events, _ = room.decoder.rows(Kind.FEEDBACK, b'{"id": "p", "label": 1}', Media.JSON)
        told = asyncio.ensure_future(room.intake.accept(Kind.FEEDBACK, events, None, 1))
        await asyncio.sleep(0)
        asked, _ = room.decoder.rows(Kind.PREDICTION, b'{"features": {}, "id": "p"}', Media.JSON)
        room.intake.record(room.decoder.batch(Kind.PREDICTION, asked, 0.0), None)
        await turns()
        assert [entry.kind for entry, _ in room.disk.waiting] == [Kind.PREDICTION, Kind.FEEDBACK]
        room.disk.sync()
        assert await told == (1, 0, 2)

    run(scenario)


def test_records_that_nobody_waits_for_cause_no_sync_of_their_own_until_they_are_due() -> None:
    async def scenario(room: Room) -> None:
        def answer() -> None:
            asked, _ = room.decoder.rows(Kind.PREDICTION, b'{"features": {}, "id": "p"}', Media.JSON)
            room.intake.record(room.decoder.batch(Kind.PREDICTION, asked, 0.0), None)

        answer()
        await turns()
        assert room.disk.waiting == []
        # They go with the next events, before those.
        sent = room.send(None)
        await turns()
        assert [entry.kind for entry, _ in room.disk.waiting] == [Kind.PREDICTION, Kind.EXAMPLE]
        answer()
        room.disk.sync()
        await turns()
        assert await sent == (1, 0, 2)
        assert room.disk.waiting == []
        # Without company they go by themselves.
        while not room.disk.waiting:
            await asyncio.sleep(RECORDS_WAIT_S / 4)
        assert [entry.kind for entry, _ in room.disk.waiting] == [Kind.PREDICTION]
        # And at once when the worker drains.
        answer()
        settled = asyncio.ensure_future(room.intake.settled())
        await turns()
        room.disk.sync()
        await turns()
        room.disk.sync()
        await settled
        assert room.disk.end == 4

    run(scenario)


def test_settled_waits_for_everything_and_survives_failure() -> None:
    async def scenario(room: Room) -> None:
        for error in (None, LogUnavailable(folder="log", reason="gone")):
            sent = room.send(None)
            await turns()
            settled = asyncio.ensure_future(room.intake.settled())
            await turns()
            assert not settled.done()
            room.disk.sync(error)
            await settled
            await asyncio.gather(sent, return_exceptions=True)

    run(scenario)


@given(st.lists(st.integers(0, 30), max_size=200), st.integers(1, 10))
def test_seen_ids_remember_at_least_a_generation_and_at_most_two(numbers: list[int], size: int) -> None:
    seen = SeenIds(size)
    order: list[int] = []
    for number in numbers:
        fresh = seen.add(str(number))
        if number in order[-size:]:
            assert not fresh
        if fresh:
            assert number not in order[-size:]
            order.append(number)
        assert len(seen) <= 2 * size


def test_forgotten_ids_are_new_again() -> None:
    seen = SeenIds(2)
    assert [seen.add(i) for i in "aba"] == [True, True, False]
    seen.forget(["a"])
    assert [seen.add(i) for i in "ab"] == [True, False]


@given(st.integers(2, 8), st.lists(st.lists(st.none() | st.integers(0, 12).map(str), max_size=6), max_size=12))
def test_many_ids_at_once_are_as_new_as_one_by_one(size: int, batches: list[list[str | None]]) -> None:
    at_once, in_turn = SeenIds(size), SeenIds(size)
    for ids in batches:
        places = at_once.add_all(ids)
        expected = [place for place, one in enumerate(ids) if one is None or in_turn.add(one)]
        assert (list(range(len(ids))) if places is None else places) == expected
        assert len(at_once) == len(in_turn)
