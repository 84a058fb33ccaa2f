"""A learner that is an apprentice, killed at any action and started again, says the same of it at the same steps; so
does whoever repeats the steps later."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from penstock.facts import RaceEnded
from penstock.learn.journal import RecordedSteps, read_steps
from penstock.learn.steps import Reached, nothing
from penstock.publish.past.replay import Replay
from penstock.publish.records.receipts import SqliteReceipts
from penstock.spec import Apprentice, Gate
from penstock.testing.faults import FaultPoint, KillAt, Recorder, run_in_child
from penstock.testing.memory_log import MemoryLog
from penstock.testing.small_house import SPEC as SMALL
from penstock.testing.small_house import build_publisher, build_succession, filled_log

SPEC = msgspec.structs.replace(SMALL, gate=Gate(alpha=0.2, apprentice=Apprentice(of="rules", after_events=8)))
SCRIPT = ("publish", "probation", "publish", "good", "publish", "hold", "publish")
ROUNDS = 12
ACTIONS = ("step.judged", "step.record", "step.recorded", "step.exposed", "checkpoint.written", "receipts.entered")


@pytest.fixture(scope="module")
def memory_path() -> Iterator[Path]:
    """A folder in memory where there is such a thing."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def run_to_the_end(folder: Path, log: MemoryLog, reached: Reached = nothing) -> None:
    publisher = build_publisher(folder, log, reached, script=SCRIPT, spec=SPEC, kept=1000)
    publisher.start()
    while publisher.correct() or publisher.step() or publisher.has_backlog():
        pass
    publisher.checkpoint()
    progress = publisher.progress
    (folder / "result").write_text(f"{publisher.state_hash()} {progress.apprentice!r}")
    publisher.close()


def outcome(folder: Path) -> dict[str, object]:
    receipts = SqliteReceipts(folder / "versions.sqlite", SPEC.name, read_only=True)
    found = {
        "result": (folder / "result").read_text(),
        "turns": [(step.number, step.apprentice) for step in read_steps(folder / "steps") if step.apprentice],
        "facts": sorted(receipts.facts(1000, ("race_ended",)), key=repr),
        "receipts": [receipt for receipt in receipts.newest(1000) if receipt.apprentice is not None],
    }
    receipts.close()
    return found


@pytest.fixture(scope="module")
def whole(memory_path: Path) -> tuple[MemoryLog, dict[str, object], list[FaultPoint]]:
    """A log, what came of it without a fault, and every action that was reached, in order."""
    log, recorder = filled_log(ROUNDS, corrected=True, has_incumbent=True), Recorder()
    folder = memory_path / "whole"
    folder.mkdir()
    run_to_the_end(folder, log, recorder)
    return log, outcome(folder), recorder.points


def test_each_end_of_a_race_is_in_the_journal_in_a_receipt_and_a_fact(
    whole: tuple[MemoryLog, dict[str, object], list[FaultPoint]],
) -> None:
    _, found, _ = whole
    turns = found["turns"]
    assert isinstance(turns, list)
    assert [turn.what for _, turn in turns] == ["behind", "graduated"]
    receipts, facts = found["receipts"], found["facts"]
    assert isinstance(receipts, list)
    assert isinstance(facts, list)
    assert [(fact.what, fact.reason) for fact in facts if isinstance(fact, RaceEnded)] == [
        (turn.what, turn.reason) for _, turn in turns
    ]
    by_reason = {receipt.apprentice.reason: receipt.apprentice for receipt in receipts}
    assert [by_reason[turn.reason].gain.events for _, turn in turns] == [turn.gain[3] for _, turn in turns]


def test_a_learner_killed_anywhere_says_the_same_of_it(
    memory_path: Path, whole: tuple[MemoryLog, dict[str, object], list[FaultPoint]]
) -> None:
    log, expected, points = whole
    for action in ACTIONS:
        of_it = [point for point in points if point.action == action]
        for place in (len(of_it) // 3, 2 * len(of_it) // 3):
            point = of_it[place]
            folder = memory_path / f"{action}-{place}"
            folder.mkdir()
            killed = KillAt(point)
            assert not run_in_child(lambda f=folder, k=killed: run_to_the_end(f, log, k)), f"{point} was never reached"
            assert run_in_child(lambda f=folder: run_to_the_end(f, log))
            assert outcome(folder) == expected, f"after {point}"


def test_who_repeats_the_steps_comes_to_the_same_verdicts_and_states(
    memory_path: Path, whole: tuple[MemoryLog, dict[str, object], list[FaultPoint]]
) -> None:
    log, expected, _ = whole
    folder = memory_path / "whole"
    replay = Replay(
        lambda _: build_succession(folder, log.reader(), script=SCRIPT, spec=SPEC), RecordedSteps(folder / "steps")
    )
    replay.begin(None)
    turns = [(one.entry.number, one.entry.apprentice) for one in replay.run() if one.entry.apprentice]
    assert turns == expected["turns"]
    assert replay.sealed > 0
    assert str(expected["result"]).startswith(replay.state_hash())
