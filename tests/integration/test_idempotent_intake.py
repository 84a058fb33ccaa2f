"""Senders that repeat what they got no answer to: every event is learned once, over restarts and several workers."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from penstock.eventlog.local import LocalLogReader
from penstock.events import Kind, Offset, Partition, decode
from penstock.join.recent import RecentLabels
from penstock.join.window import JoinWindow
from penstock.serve.seen import SeenIds
from penstock.spec import Feature, Spec
from penstock.testing.server import ServerProcess

SPEC = Spec(name="two", task="binary", features={"x": Feature(type="number")})


def example(number: int) -> dict[str, object]:
    return {"id": f"e{number}", "features": {"x": float(number)}, "label": number % 2}


def learned_ids(log: Path, restarts: random.Random) -> Counter[str]:
    """What a learner learns of this log that is restarted between frames, in the order of partitions."""
    join = JoinWindow(60.0, 1000)
    ids: Counter[str] = Counter()
    reader = LocalLogReader(log)
    for partition, end in reader.ends().items():
        for frame in reader.read(partition, reader.starts()[partition], end):
            if restarts.random() < 0.3:
                state = join.save()
                join = JoinWindow(60.0, 1000)
                join.load(state, lambda partition, offsets: None)  # type: ignore[arg-type, return-value]
            fresh = join.take(decode(bytes(frame.payload)), partition, frame.first, frame.time)
            ids.update(i for i in (fresh.ids or () if fresh is not None else ()) if i is not None)
    reader.close()
    return ids


def test_retries_over_two_workers_and_their_deaths_are_learned_once(tmp_path: Path) -> None:
    chance = random.Random(11)
    first = ServerProcess(tmp_path, SPEC, partition=0)
    second = ServerProcess(tmp_path, SPEC, partition=1)
    told: Counter[str] = Counter()
    sent = 0
    with first, second:
        workers = (first, second)
        for _ in range(150):
            fresh = [example(number) for number in range(sent, sent + chance.randint(1, 6))]
            sent += len(fresh)
            # A sender that got no answer asks the same worker again, or another one, also long afterwards.
            again = [example(chance.randrange(sent)) for _ in range(chance.randint(0, 3))]
            for attempt in range(chance.randint(1, 3)):
                worker = chance.choice(workers)
                answer = worker.post("/v1/two/examples", [*fresh, *again])
                assert answer.status == 201
                body = answer.json()
                assert body["accepted"] + body["duplicates"] == len(fresh) + len(again)
                if attempt == 0:
                    told.update(str(event["id"]) for event in fresh)
            if chance.random() < 0.04:
                dying = chance.choice(workers)
                dying.kill()
                dying.start()
        stored = Counter(i for batch in first.logged("two", Kind.EXAMPLE) for i in batch.ids or () if i is not None)
    assert set(told) == set(stored)
    assert max(stored.values()) == 2, "each worker keeps an id once, whatever is repeated and whoever is restarted"
    learned = learned_ids(tmp_path / "data" / "two" / "log", chance)
    assert learned == Counter(dict.fromkeys(told, 1))


repeats = st.lists(st.integers(0, 40), max_size=200)


@given(keys=repeats, kept=st.integers(2, 20), restarts=st.sets(st.integers(0, 200)))
def test_an_id_is_known_while_no_more_than_half_as_many_others_came_since(
    keys: list[int], kept: int, restarts: set[int]
) -> None:
    recent = RecentLabels(kept)
    last_new: dict[int, int] = {}
    new = 0
    for at, key in enumerate(keys):
        if at in restarts:
            state = recent.save()
            recent = RecentLabels(kept)
            recent.load(state)
        is_new = recent.first_seen([f"e{key}"], ["a"], Partition(0), Offset(at)) is None
        if key in last_new and new - last_new[key] <= kept // 2:
            assert not is_new, "it is within the window"
        if is_new:
            assert key not in last_new or new - last_new[key] > kept // 2 - 1
            last_new[key] = new
            new += 1


@given(keys=repeats, size=st.integers(1, 10))
def test_a_worker_knows_the_newest_ids_and_forgets_those_that_were_not_accepted(keys: list[int], size: int) -> None:
    seen = SeenIds(size)
    order: list[int] = []
    for key in keys:
        known = not seen.add(f"e{key}")
        if key in order[-size:]:
            assert known
        if not known:
            order.append(key)
            if key % 7 == 0:
                seen.forget([f"e{key}"])
                order.remove(key)
                assert seen.add(f"e{key}")
                order.append(key)
    assert len(seen) <= 2 * size
