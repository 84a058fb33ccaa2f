"""A learner that is killed at any action, and started again, ends with the state, the versions and the receipts of one
that never was."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from penstock.events import Partition, Version
from penstock.facts import OrderRefused, Restarted
from penstock.learn.block import digest
from penstock.learn.journal import read_steps
from penstock.learn.steps import CanaryCounts, Reached, nothing
from penstock.publish.asked.orders import Order
from penstock.publish.asked.wishes import Wish, ask, read_quarantine
from penstock.publish.candidates.canary_counts import Counted, write_counts
from penstock.publish.publisher import Publisher
from penstock.publish.records.receipts import SqliteReceipts
from penstock.publish.weights.live import SharedLiveReader
from penstock.publish.weights.snapshots import LocalSnapshots
from penstock.testing.faults import FaultPoint, KillAt, Recorder, run_in_child
from penstock.testing.memory_log import MemoryLog
from penstock.testing.small_house import SCRIPT, SPEC, build_publisher, filled_log, leave_candidate


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is such a thing: a killed process loses nothing there either, and no fsync is
    waited for in thousands of lives."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="penstock-test-", dir=memory) as folder:
        yield Path(folder)


Orders = tuple[tuple[int, Order], ...]
"""After which step each is ordered."""
SHADOW_SCRIPT = (*SCRIPT, "give_up", "publish", "good", "publish", "widen", "publish", "widen", "promote", "publish")
"""Beside the candidates of `candidates`: the first is given up, the second refused, and the third answers a share of
the traffic, then a larger one, and is promoted."""
COUNTED = CanaryCounts(share=0.25, asked=9, answered=2)
"""What a server has to say of the third, as soon as anybody listens."""


def obeyed(publisher: Publisher, folder: Path, orders: Orders) -> bool:
    """Order what is due after the newest recorded step, and have it obeyed before the next one is taken."""
    place = folder / "orders"
    for number, (step, order) in enumerate(orders):
        file = place / f"{number}.order"
        is_known = any(file.with_suffix(suffix).exists() for suffix in (".order", ".taken", ".answer"))
        if publisher._rooms.journal.last >= step and not is_known:
            place.mkdir(exist_ok=True)
            file.write_bytes(msgspec.json.encode(order))
            return publisher.obey()
    return False


def run_to_the_end(
    folder: Path, log: MemoryLog, reached: Reached = nothing, script: tuple[str, ...] = SCRIPT, orders: Orders = ()
) -> None:
    """Learn all that is in the log, and leave what can be compared in ``result.json``."""
    publisher = build_publisher(folder, log, reached, script=script)
    publisher.start()
    while obeyed(publisher, folder, orders) or (
        publisher.listen()
        or publisher.take_up()
        or publisher.correct()
        or publisher.step()
        or publisher.has_backlog()
        or publisher.grant()
    ):
        pass
    publisher.checkpoint()
    state = publisher.state_hash()
    progress = publisher.progress
    publisher.close()
    (folder / "result.json").write_text(json.dumps({"state": state, "progress": repr(progress)}))


def outcome(folder: Path) -> dict[str, object]:
    """What must be equal: state, progress, every receipt, every fact but restarts, and the block that is served."""
    receipts = SqliteReceipts(folder / "versions.sqlite", SPEC.name, read_only=True)
    facts = [
        # When it was ordered is a file's time.
        msgspec.structs.replace(fact, at=0.0) if isinstance(fact, OrderRefused) else fact
        for fact in receipts.facts(10_000)
        if not isinstance(fact, Restarted)
    ]
    reader = SharedLiveReader(folder / "live")
    snapshots = LocalSnapshots(folder / "snapshots", SPEC.name)
    found = {
        "result": json.loads((folder / "result.json").read_text()),
        "receipts": receipts.newest(10_000),
        "facts": sorted(facts, key=repr),
        "served": reader.packed(),
        "snapshots": {version: digest(snapshots.get(version)) for version in snapshots.versions()},
        "live": repr(reader.progress()),
    }
    reader.close()
    receipts.close()
    found["consolidation"] = sorted(str(path.relative_to(folder)) for path in folder.glob("consolidation/ready/*"))
    found["share"] = reader_share(folder)
    found["bases"] = sorted(path.name for path in folder.glob("bases/*"))
    return found


def reader_share(folder: Path) -> tuple[float, bytes | None]:
    """The share of the traffic that is answered beside what is served, and by what."""
    reader = SharedLiveReader(folder / "live")
    share = reader.share()
    found = share, SharedLiveReader(folder / "live-beside").packed() if share else None
    reader.close()
    return found


def candidates(folder: Path, log: MemoryLog) -> Path:
    """A folder with three candidates of a service that never had one: what a consolidation left before it ran."""
    build = folder / "plain"
    build.mkdir()
    publisher = build_publisher(build, log, kept=1000, script=SHADOW_SCRIPT)
    publisher.start()
    while publisher.step() or publisher.has_backlog():
        pass
    publisher.close()
    entries = list(read_steps(build / "steps"))
    left = folder / "left"
    leave_candidate(left, log, entries, 1, step=4)
    # The entry that adopts the first makes the numbers behind it higher by one.
    leave_candidate(left, log, entries, 2, step=7, forgotten=0.5, shift=1)
    # From behind the rollback, which would have withdrawn what it learned.
    base = leave_candidate(left, log, entries, 3, step=10, shift=1)
    write_counts(left / "canary", Partition(0), Counted(base=base, counts=COUNTED))
    return left


def kill_and_finish(folder: Path, log: MemoryLog, points: list[FaultPoint]) -> None:
    """Run and be killed at each of the points in turn, one life each, then run to the end."""
    folder.mkdir()
    for point in points:
        assert not run_in_child(lambda at=point: run_to_the_end(folder, log, KillAt(at))), f"{point} was never reached"
    assert run_in_child(lambda: run_to_the_end(folder, log))


def uninterrupted(folder: Path, log: MemoryLog) -> list[FaultPoint]:
    """Run once without a fault; every action that was reached, in order."""
    folder.mkdir()
    recorder = Recorder()
    run_to_the_end(folder, log, recorder)
    return recorder.points


def chosen(points: list[FaultPoint], per_action: int) -> Iterator[FaultPoint]:
    """The first and the last occurrences of each action, and some from between."""
    by_action: dict[str, list[FaultPoint]] = {}
    for point in points:
        by_action.setdefault(point.action, []).append(point)
    for all_of_it in by_action.values():
        places = np.unique(np.linspace(0, len(all_of_it) - 1, per_action).round().astype(int))
        yield from (all_of_it[place] for place in places)


def demand_equal(memory_path: Path, log: MemoryLog, lives: list[list[FaultPoint]], expected: dict[str, object]) -> None:
    for number, points in enumerate(lives):
        folder = memory_path / f"life-{number}"
        kill_and_finish(folder, log, points)
        found = outcome(folder)
        for part, value in expected.items():
            assert found[part] == value, f"after {', '.join(map(str, points))}: {part}"


def test_the_stream_exercises_every_verdict_and_several_checkpoints(memory_path: Path) -> None:
    points = uninterrupted(memory_path / "whole", filled_log(12))
    reached = {point.action for point in points}
    found = outcome(memory_path / "whole")
    receipts = found["receipts"]
    assert isinstance(receipts, list)
    assert {receipt.cause for receipt in receipts} == {"start", "update", "rollback"}
    assert any(receipt.held for receipt in receipts)
    assert [receipt.version for receipt in receipts] == list(range(len(receipts), 0, -1))
    assert {"checkpoint.discarded", "steps.forget", "step.recorded", "live.block", "snapshot.renamed"} <= reached
    assert sum(bool(receipt.weights) for receipt in receipts) >= 2


def test_nothing_is_seen_that_is_not_recorded(memory_path: Path) -> None:
    log = filled_log(12)
    seen: list[int] = []

    def look(_action: str) -> None:
        reader = SharedLiveReader(memory_path / "live")
        block = reader.block()
        if block is not None:
            recorded = [step.version for step in read_steps(memory_path / "steps") if step.action != "hold"]
            # The beginning of the journal may have been forgotten, and its newest file may still be empty.
            assert not recorded or block.head.version <= recorded[-1], f"version {block.head.version} is not recorded"
            seen.append(block.head.version)
        reader.close()

    run_to_the_end(memory_path, log, look)
    assert seen == sorted(seen)
    assert len(set(seen)) > 20


def test_killed_once_at_each_action(memory_path: Path) -> None:
    log = filled_log(12)
    points = uninterrupted(memory_path / "whole", log)
    lives = [[point] for point in chosen(points, per_action=2)]
    demand_equal(memory_path, log, lives, outcome(memory_path / "whole"))


def test_killed_again_while_it_comes_back(memory_path: Path) -> None:
    log = filled_log(12)
    points = uninterrupted(memory_path / "whole", log)
    late = [point for point in points if point.action == "step.recorded"][-2]
    (memory_path / "once").mkdir()
    assert not run_in_child(lambda: run_to_the_end(memory_path / "once", log, KillAt(late)))
    recorder = Recorder()
    run_to_the_end(memory_path / "once", log, recorder)
    coming_back = recorder.points[: recorder.points.index(FaultPoint("start.exposed", 1)) + 1]
    lives = [[late, again] for again in chosen(coming_back, per_action=2)]
    demand_equal(memory_path, log, lives, outcome(memory_path / "whole"))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_once_at_every_occurrence_of_every_action(memory_path: Path) -> None:
    log = filled_log(40)
    points = uninterrupted(memory_path / "whole", log)
    demand_equal(memory_path, log, [[point] for point in points], outcome(memory_path / "whole"))


def test_killed_at_every_action_around_an_adoption_a_refusal_a_promotion_and_a_give_up(memory_path: Path) -> None:
    log = filled_log(8)
    left = candidates(memory_path, log)

    def life(name: str, points: list[FaultPoint]) -> Path:
        folder = memory_path / name
        shutil.copytree(left, folder)
        for point in points:
            at = KillAt(point)
            assert not run_in_child(lambda at=at: run_to_the_end(folder, log, at, SHADOW_SCRIPT)), f"{point} is missed"
        assert run_in_child(lambda: run_to_the_end(folder, log, script=SHADOW_SCRIPT))
        return folder

    whole = memory_path / "whole"
    shutil.copytree(left, whole)
    recorder = Recorder()
    run_to_the_end(whole, log, recorder, SHADOW_SCRIPT)
    expected = outcome(whole)
    told = [type(fact).__name__ for fact in expected["facts"]]  # type: ignore[attr-defined]
    assert [told.count(name) for name in ("ShadowStarted", "GivenUp", "Widened", "Promoted")] == [2, 2, 2, 1]
    assert {"shadow.found", "shadow.remove", "shadow.remove_base"} <= {point.action for point in recorder.points}

    parts = ("shadow.", "canary.", "live.share")
    around = [i for i, point in enumerate(recorder.points) if point.action.startswith(parts)]
    # The checkpoint that follows an end of a shadow is its own, and so is all that is done for it.
    ends = [i for i, point in enumerate(recorder.points) if point.action == "checkpoint.due"]
    chosen_points = {recorder.points[i] for at in around for i in (at - 1, at, at + 1)}
    chosen_points |= {recorder.points[i] for at in ends for i in range(at - 6, at + 3)}
    for number, point in enumerate(sorted(chosen_points)):
        found = outcome(life(f"life-{number}", [point]))
        for part, value in expected.items():
            assert found[part] == value, f"after {point}: {part}"


def test_killed_at_any_action_while_a_promotion_by_hand_is_obeyed(memory_path: Path) -> None:
    log = filled_log(8)
    left = candidates(memory_path, log)
    script = tuple("publish" if verdict == "promote" else verdict for verdict in SHADOW_SCRIPT)
    orders: Orders = ((16, Order(what="promote", by="ann", reason="it is better by day")),)

    def life(name: str, point: FaultPoint | None) -> tuple[dict[str, object], Recorder]:
        folder, recorder = memory_path / name, Recorder()
        shutil.copytree(left, folder)
        if point is None:
            run_to_the_end(folder, log, recorder, script, orders)
        else:
            at = KillAt(point)
            assert not run_in_child(lambda: run_to_the_end(folder, log, at, script, orders)), f"{point} is missed"
            assert run_in_child(lambda: run_to_the_end(folder, log, script=script, orders=orders))
        (answer,) = (folder / "orders").glob("*.answer")
        return outcome(folder) | {"answer": answer.read_bytes()}, recorder

    expected, recorder = life("whole", None)
    told = [type(fact).__name__ for fact in expected["facts"]]  # type: ignore[attr-defined]
    assert [told.count(name) for name in ("ShadowStarted", "GivenUp", "Promoted", "Ordered")] == [2, 2, 1, 1]
    points = [i for i, point in enumerate(recorder.points) if point.action.startswith("order.")]
    ends = [i for i, point in enumerate(recorder.points) if point.action == "checkpoint.forgotten" and i > points[-1]]
    for number, i in enumerate(sorted({*points, points[0] - 1, points[-1] + 1, ends[0], ends[0] - 2})):
        found, _ = life(f"life-{number}", recorder.points[i])
        for part, value in expected.items():
            assert found[part] == value, f"after {recorder.points[i]}: {part}"


APART_SCRIPT = (
    *("publish", "probation", "publish", "good", "publish", "publish", "apart", "publish", "publish"),
    *("hold", "publish", "roll_back", "hold", "apart", "publish", "believe", "probation", "publish", "good"),
)
"""Source ``b`` is set aside in the midst of a probation, and once more while a rollback has updates held back."""


def test_killed_at_any_action_while_a_source_is_set_aside_and_what_it_taught_is_taken_out(memory_path: Path) -> None:
    log = filled_log(14, sources=("a", "b", None))
    whole = memory_path / "whole"
    whole.mkdir()
    recorder = Recorder()
    run_to_the_end(whole, log, recorder, APART_SCRIPT)
    expected = outcome(whole)
    told = Counter(type(fact).__name__ for fact in expected["facts"])  # type: ignore[attr-defined]
    assert told["TakenOut"] >= 2
    assert told["SetAside"] >= 3
    taken_out = sum(fact.events for fact in expected["facts"] if type(fact).__name__ == "TakenOut")  # type: ignore[attr-defined]
    assert f"suspicious={taken_out}," not in str(expected["result"])
    assert "suspicious=0" not in str(expected["result"])

    lives = [[point] for point in chosen(recorder.points, per_action=2)]
    for number, points in enumerate(lives):
        folder = memory_path / f"life-{number}"
        folder.mkdir()
        at = KillAt(points[0])
        assert not run_in_child(lambda at=at, folder=folder: run_to_the_end(folder, log, at, APART_SCRIPT))
        assert run_in_child(lambda folder=folder: run_to_the_end(folder, log, script=APART_SCRIPT))
        found = outcome(folder)
        for part, value in expected.items():
            assert found[part] == value, f"after {points[0]}: {part}"


def test_killed_at_any_action_while_events_are_released_and_dropped(memory_path: Path) -> None:
    log = filled_log(14, sources=("a", "b", None))
    script = APART_SCRIPT[:-5]
    plain = memory_path / "plain"
    plain.mkdir()
    run_to_the_end(plain, log, script=script)
    before = read_quarantine(plain)
    places = [row.place for row in before.kept]
    assert len(places) >= 20
    wishes = [
        Wish(release=True, places=tuple(places[:10])),
        Wish(release=False, places=tuple(places[5:14])),
        # What is granted already is not granted again.
        Wish(release=True, places=tuple(places[:16])),
    ]

    def life(name: str, point: FaultPoint | None) -> tuple[Path, Recorder]:
        folder, recorder = memory_path / name, Recorder()
        folder.mkdir()
        for wish in wishes:
            ask(folder / "quarantine", wish)
        if point is None:
            run_to_the_end(folder, log, recorder, script)
        else:
            at = KillAt(point)
            assert not run_in_child(lambda: run_to_the_end(folder, log, at, script)), f"{point} was never reached"
            assert run_in_child(lambda: run_to_the_end(folder, log, script=script))
        return folder, recorder

    whole, recorder = life("whole", None)
    after = read_quarantine(whole)
    assert (after.counts.released, after.counts.dropped) == (12, 4)
    assert [row.place for row in after.kept] == places[16:]
    apart = after.apart()
    assert [place in apart for place in places[:16]] == [False] * 10 + [True] * 4 + [False] * 2
    released = sum(step.events for step in read_steps(whole / "steps") if step.aside and step.aside.released)
    assert released == 12
    assert not list((whole / "quarantine").iterdir())
    expected = outcome(whole)
    assert expected["result"] != outcome(plain)["result"]

    points = [i for i, point in enumerate(recorder.points) if point.action.startswith("wish.")]
    around = {recorder.points[i] for at in points for i in range(at - 2, at + 3) if i < len(recorder.points)}
    for number, point in enumerate(sorted(around)):
        folder, _ = life(f"life-{number}", point)
        found = outcome(folder)
        for part, value in expected.items():
            assert found[part] == value, f"after {point}: {part}"


ORDERS: Orders = (
    (8, Order(what="roll_back", by="ann", reason="the shop complains")),
    (12, Order(what="hold", by="ben")),
    (14, Order(what="roll_back", by="ben", reason="before the sale", version=Version(1))),
    (15, Order(what="promote", by="ann")),
    (18, Order(what="resume", by="ann", reason="the sale is over")),
    (18, Order(what="roll_back", by="ann", version=Version(9_999))),
)


def test_killed_at_any_action_while_orders_are_obeyed_and_refused(memory_path: Path) -> None:
    log = filled_log(10)
    script = ("publish", "probation", "publish", "good", "publish", "publish", "probation", "publish")

    def life(name: str, point: FaultPoint | None) -> tuple[Path, Recorder]:
        folder, recorder = memory_path / name, Recorder()
        folder.mkdir()
        if point is None:
            run_to_the_end(folder, log, recorder, script, ORDERS)
        else:
            at = KillAt(point)
            assert not run_in_child(lambda: run_to_the_end(folder, log, at, script, ORDERS)), f"{point} is missed"
            assert run_in_child(lambda: run_to_the_end(folder, log, script=script, orders=ORDERS))
        return folder, recorder

    whole, recorder = life("whole", None)
    answers = [msgspec.json.decode(file.read_bytes()) for file in sorted((whole / "orders").glob("*.answer"))]
    assert [said["done"] for said in answers] == [True, True, True, False, True, False]
    expected = outcome(whole) | {"answers": answers}
    told = Counter(fact.what for fact in expected["facts"] if type(fact).__name__ == "Ordered")  # type: ignore[attr-defined]
    assert told == {"roll_back": 2, "hold": 1, "resume": 1}
    refused = {fact.what for fact in expected["facts"] if isinstance(fact, OrderRefused)}  # type: ignore[attr-defined]
    assert refused == {"roll_back", "promote"}
    rolled_back = [receipt for receipt in expected["receipts"] if receipt.cause == "rollback"]  # type: ignore[attr-defined]
    assert [receipt.hand.by for receipt in rolled_back] == ["ben", "ann"]
    assert rolled_back[0].restores == 1

    points = [i for i, point in enumerate(recorder.points) if point.action.startswith("order.")]
    around = {recorder.points[i] for at in points for i in range(at - 1, at + 2) if i < len(recorder.points)}
    for number, point in enumerate(sorted(around)):
        folder, _ = life(f"life-{number}", point)
        said = [msgspec.json.decode(file.read_bytes()) for file in sorted((folder / "orders").glob("*.answer"))]
        found = outcome(folder) | {"answers": said}
        for part, value in expected.items():
            assert found[part] == value, f"after {point}: {part}"


def test_killed_at_any_action_while_labels_are_corrected_and_taken_back(memory_path: Path) -> None:
    log = filled_log(14, sources=("a", "b", None), corrected=True)
    script = (*SCRIPT, *APART_SCRIPT)
    whole = memory_path / "whole"
    whole.mkdir()
    recorder = Recorder()
    orders: Orders = (
        (20, Order(what="roll_back", by="ann")),
        (26, Order(what="hold", by="ben")),
        (32, Order(what="resume", by="ben")),
    )
    run_to_the_end(whole, log, recorder, script, orders)
    expected = outcome(whole)
    facts = [fact for fact in expected["facts"] if type(fact).__name__ == "Corrected"]  # type: ignore[attr-defined]
    assert sum(fact.events for fact in facts) >= 8
    assert any(receipt.cause == "correction" for receipt in expected["receipts"])  # type: ignore[attr-defined]

    near = [i for i, point in enumerate(recorder.points) if point.action.startswith("correction.")]
    around = {recorder.points[i] for at in near for i in (at - 1, at, at + 1)}
    lives = [[point] for point in sorted({*around, *chosen(recorder.points, per_action=2)})]
    for number, points in enumerate(lives):
        folder = memory_path / f"life-{number}"
        folder.mkdir()
        at = KillAt(points[0])
        assert not run_in_child(lambda at=at, folder=folder: run_to_the_end(folder, log, at, script, orders))
        assert run_in_child(lambda folder=folder: run_to_the_end(folder, log, script=script, orders=orders))
        found = outcome(folder)
        for part, value in expected.items():
            assert found[part] == value, f"after {points[0]}: {part}"


def test_replaying_the_whole_journal_gives_the_state_of_the_run_that_wrote_it(memory_path: Path) -> None:
    log = filled_log(12)
    (memory_path / "first").mkdir()
    first = build_publisher(memory_path / "first", log, kept=1000)
    first.start()
    while first.step() or first.has_backlog():
        pass
    first.checkpoint()
    expected = first.state_hash()
    first.close()

    (memory_path / "second").mkdir()
    (memory_path / "second" / "steps").symlink_to(memory_path / "first" / "steps")
    second = build_publisher(memory_path / "second", log)
    replayed = second.start()
    assert second.state_hash() == expected
    assert second.progress.version > Version(10)
    assert replayed == sum(log.reader().ends().values())
    second.close()
