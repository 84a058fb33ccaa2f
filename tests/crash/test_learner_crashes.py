"""A learner that is killed at any action, and started again, ends with the state, the versions and the receipts of one
that never was."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from penstock.events import Version
from penstock.learn.block import digest
from penstock.learn.steps import Reached, nothing, read_steps
from penstock.publish.live import SharedLiveReader
from penstock.publish.receipts import SqliteReceipts
from penstock.publish.snapshots import LocalSnapshots
from penstock.testing.faults import FaultPoint, KillAt, Recorder, run_in_child
from penstock.testing.memory_log import MemoryLog
from penstock.testing.small_house import SPEC, build_publisher, filled_log


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


def run_to_the_end(folder: Path, log: MemoryLog, reached: Reached = nothing) -> None:
    """Learn all that is in the log, and leave what can be compared in ``result.json``."""
    publisher = build_publisher(folder, log, reached)
    publisher.start()
    while publisher.step() or publisher.has_backlog():
        pass
    publisher.checkpoint()
    state = publisher.state_hash()
    progress = publisher.progress
    publisher.close()
    (folder / "result.json").write_text(json.dumps({"state": state, "progress": repr(progress)}))


def outcome(folder: Path) -> dict[str, object]:
    """What must be equal: state, progress, every receipt, every fact but restarts, and the block that is served."""
    receipts = SqliteReceipts(folder / "versions.sqlite", SPEC.name, read_only=True)
    facts = [fact for fact in receipts.facts(10_000) if type(fact).__name__ != "Restarted"]
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
    return found


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
