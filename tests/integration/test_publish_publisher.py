"""The protocol of a step as others see it: what is served after each verdict, what a restart does and refuses."""

from __future__ import annotations

import copy
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from penstock.errors import CheckpointDamaged, ReplayDiverged, StepsCorrupt
from penstock.eventlog.interface import Entry
from penstock.events import Batch, Kind, Partition, Version, encode
from penstock.facts import CheckpointUnreadable, Restarted
from penstock.learn.checkpoint import Checkpoints
from penstock.learn.interface import Block
from penstock.learn.journal import StepJournal, read_steps
from penstock.learn.steps import Step
from penstock.publish.asked.orders import Order
from penstock.publish.publisher import Publisher
from penstock.publish.records.receipts import SqliteReceipts
from penstock.publish.weights.live import SharedLiveReader
from penstock.testing.memory_log import MemoryLog
from penstock.testing.small_house import SPEC, build_publisher, filled_log, small_events
from penstock.testing.small_learner import SmallModel


class Watched:
    """A publisher whose log is fed one step at a time."""

    def __init__(self, folder: Path, script: tuple[str, ...]) -> None:
        self.log = MemoryLog(clock=lambda: 1000.0)
        self.writer = self.log.writer()
        self.rng = np.random.default_rng(3)
        self.publisher = build_publisher(folder, self.log, script=script)
        self.publisher.start()
        self.reader = SharedLiveReader(folder / "live")

    def step(self) -> Block:
        """What is served after one more step."""
        batch: Batch = small_events(Kind.EXAMPLE, self.rng, 5, int(self.writer.end()))
        self.writer.append([Entry(kind=batch.kind, count=len(batch), payload=encode(batch))])
        assert self.publisher.step()
        return self.served()

    def served(self) -> Block:
        block = self.reader.block()
        assert block is not None
        assert block.head.version == self.reader.version() == self.reader.progress().version
        return block


def weights(block: Block) -> list[list[float]]:
    found: list[list[float]] = block.arrays["weights"].tolist()
    return found


def learn_all(publisher: Publisher) -> None:
    publisher.start()
    while publisher.step() or publisher.has_backlog():
        pass


def finished(folder: Path, log: MemoryLog) -> str:
    publisher = build_publisher(folder, log)
    learn_all(publisher)
    publisher.checkpoint()
    state = publisher.state_hash()
    publisher.close()
    return state


def test_a_first_start_serves_the_empty_model_at_once(tmp_path: Path) -> None:
    house = Watched(tmp_path, ("publish",))
    block = house.served()
    assert (block.head.version, block.head.position) == (1, {})
    assert house.publisher.progress.versions_published == 1


def test_updates_that_are_held_change_nothing_that_is_served_and_come_with_the_next_version(tmp_path: Path) -> None:
    house = Watched(tmp_path, ("publish", "hold", "hold", "publish"))
    two = house.step()
    assert (two.head.version, two.head.position) == (2, {0: 5})
    for _ in range(2):
        held = house.step()
        assert (held.head, weights(held)) == (two.head, weights(two))
        assert house.reader.progress().holding
    assert house.reader.progress().updates_held == 2
    assert house.reader.progress().position == {0: 15}
    three = house.step()
    assert (three.head.version, three.head.position) == (3, {0: 20})
    assert not house.reader.progress().holding


def test_a_rollback_serves_the_last_good_weights_under_a_new_number_and_learning_goes_on_from_them(
    tmp_path: Path,
) -> None:
    house = Watched(tmp_path, ("publish", "probation", "good", "publish", "roll_back", "publish"))
    served = [house.step() for _ in range(6)]
    probation, back, after = served[1], served[4], served[5]
    assert back.head.version == 6
    assert weights(back) == weights(probation)
    assert back.head.position == probation.head.position, "it has learned what the good version had"
    assert house.reader.progress().rollbacks == 1
    assert house.reader.progress().position == {0: 30}, "events are not taken twice"
    assert after.head.version == 7
    assert weights(after) != weights(probation)
    house.publisher.checkpoint()
    receipts = SqliteReceipts(tmp_path / "versions.sqlite", SPEC.name, read_only=True)
    receipt = receipts.receipt(Version(6))
    assert (receipt.cause, receipt.restores, receipt.parent) == ("rollback", 3, 5)
    receipts.close()


def test_what_a_rollback_by_hand_withdrew_is_not_learned_again_when_a_source_is_taken_out(tmp_path: Path) -> None:
    house = Watched(tmp_path, ("probation", "publish", "good", "publish", "apart"))
    for _ in range(4):
        house.step()
    line = house.publisher._succession.line
    good = line._good
    assert good is not None
    (tmp_path / "orders").mkdir()
    order = Order(what="roll_back", by="ann")
    (tmp_path / "orders" / "1.order").write_bytes(msgspec.json.encode(order))
    assert house.publisher.obey()
    withdrawn = list(line._withdrawn)
    assert withdrawn == [(good.block.head.position, {0: 20})]
    expected = SmallModel(columns=2)
    expected.load(good.model)
    rng = copy.deepcopy(house.rng)
    house.step()
    expected.learn(small_events(Kind.EXAMPLE, rng, 5, 20))
    assert weights(house.served()) == weights(expected.freeze(Version(0), {}))
    assert line._withdrawn == withdrawn, "nor by a consolidation"


def test_a_rollback_before_any_version_was_good_goes_back_to_the_beginning(tmp_path: Path) -> None:
    house = Watched(tmp_path, ("publish", "roll_back"))
    beginning = house.served()
    house.step()
    back = house.step()
    assert back.head.version == 3
    assert weights(back) == weights(beginning)


def test_a_restart_serves_the_same_version_with_the_same_bytes(tmp_path: Path) -> None:
    log = filled_log(8)
    first = build_publisher(tmp_path, log)
    learn_all(first)
    expected, progress = first.state_hash(), first.progress
    reader = SharedLiveReader(tmp_path / "live")
    served = reader.packed()
    first._rooms.journal.close()  # it ends here, without a checkpoint
    second = build_publisher(tmp_path, log)
    second.start()
    assert second.state_hash() == expected
    assert repr(second.progress) == repr(progress)
    assert reader.packed() == served
    second.close()


def test_an_unreadable_newest_checkpoint_is_passed_over_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = filled_log(12)
    expected = finished(tmp_path, log)
    steps = Checkpoints(tmp_path / "checkpoints", kept=2).steps()
    newest = tmp_path / "checkpoints" / f"{steps[-1]:020d}"
    (newest / "state.safetensors").write_bytes(b"nothing")
    publisher = build_publisher(tmp_path, log)
    replayed = publisher.start()
    assert replayed > 0
    assert publisher.state_hash() == expected
    publisher.close()
    assert "an older one is restored" in caplog.text
    receipts = SqliteReceipts(tmp_path / "versions.sqlite", SPEC.name, read_only=True)
    assert any(isinstance(f, CheckpointUnreadable) and f.folder == str(newest) for f in receipts.facts(1000))
    assert any(isinstance(f, Restarted) and f.replayed_events == replayed for f in receipts.facts(1000))
    receipts.close()


def test_without_any_readable_checkpoint_the_learner_does_not_begin_anew(tmp_path: Path) -> None:
    log = filled_log(12)
    finished(tmp_path, log)
    for state in tmp_path.glob("checkpoints/*/state.safetensors"):
        state.write_bytes(b"nothing")
    publisher = build_publisher(tmp_path, log)
    with pytest.raises(CheckpointDamaged):
        publisher.start()
    publisher.close()


def test_a_journal_that_lost_its_steps_is_an_error(tmp_path: Path) -> None:
    log = filled_log(12)
    publisher = build_publisher(tmp_path, log)
    learn_all(publisher)
    publisher.close()
    steps = sorted((tmp_path / "steps").glob("*.steps"))
    for path in steps:
        path.unlink()
    publisher = build_publisher(tmp_path, log)
    with pytest.raises(StepsCorrupt, match="steps that follow step"):
        publisher.start()
    publisher.close()


def test_a_replay_that_gives_something_else_stops_at_the_step_and_names_it(tmp_path: Path) -> None:
    log = filled_log(4)
    publisher = build_publisher(tmp_path, log, kept=1000)
    learn_all(publisher)
    publisher.close()
    entries = list(read_steps(tmp_path / "steps"))
    changed = next(entry for entry in entries if entry.events and entry.number > 5)
    forged = tmp_path / "forged"
    journal = StepJournal(forged / "steps")
    for entry in entries:
        is_changed = entry.number == changed.number
        journal.append(Step(**{**_fields(entry), "loss_sum": entry.loss_sum + 0.125 * is_changed}))
    journal.close()
    publisher = build_publisher(forged, log)
    with pytest.raises(ReplayDiverged, match=f"step {changed.number} gave another result.*loss_sum was"):
        publisher.start()
    publisher.close()


def _fields(entry: Step) -> dict[str, object]:
    return {name: getattr(entry, name) for name in Step.__struct_fields__}


def test_receipts_whose_file_was_removed_are_filled_in_from_the_journal(tmp_path: Path) -> None:
    log = filled_log(12)
    publisher = build_publisher(tmp_path, log, kept=1000)
    learn_all(publisher)
    publisher.checkpoint()
    publisher.close()
    with_file = SqliteReceipts(tmp_path / "versions.sqlite", SPEC.name, read_only=True)
    expected = with_file.newest(1000)
    with_file.close()
    for path in tmp_path.glob("versions.sqlite*"):
        path.unlink()
    publisher = build_publisher(tmp_path, log, kept=1000)
    publisher.start()
    publisher.close()
    refilled = SqliteReceipts(tmp_path / "versions.sqlite", SPEC.name, read_only=True)
    assert refilled.newest(1000) == expected
    refilled.close()


def test_the_loop_learns_what_comes_and_ends_with_a_checkpoint_and_nothing_to_replay(tmp_path: Path) -> None:
    log = MemoryLog(clock=lambda: 1000.0)
    writer = log.writer(Partition(0))
    publisher = build_publisher(tmp_path, log)
    stop = threading.Event()
    running = threading.Thread(target=publisher.run, args=(stop,))
    running.start()
    reader = SharedLiveReader(tmp_path / "live")
    rng = np.random.default_rng(3)
    for number in range(20):
        batch = small_events(Kind.PREDICTION if number % 3 else Kind.EXAMPLE, rng, 4, 4 * number)
        writer.append([Entry(kind=batch.kind, count=4, payload=encode(batch))])
    while sum(reader.progress().position.values()) < 80:
        pass
    stop.set()
    running.join()
    assert reader.progress().examples_learned == 28
    assert reader.progress().predictions_waiting == 52
    again = build_publisher(tmp_path, log)
    assert again.start() == 0
    assert again.progress.examples_learned == 28
    again.close()
    reader.close()


def test_steps_of_a_backlog_are_recorded_and_exposed_together_up_to_a_verdict_that_others_wait_for(
    tmp_path: Path,
) -> None:
    watched = Watched(tmp_path, ("publish",) * 5 + ("hold", "publish", "publish"))
    watched.step()
    batch = small_events(Kind.EXAMPLE, watched.rng, 49, 5)
    watched.writer.append([Entry(kind=batch.kind, count=49, payload=encode(batch))])
    assert watched.publisher.step()
    recorded = [step.action for step in read_steps(tmp_path / "steps")]
    assert recorded == ["start", *["publish"] * 5, "hold"], "the log's time stands still, so a round goes on for ever"
    assert watched.served().head.version == 6
    assert watched.served().head.position == {0: 33}
    assert watched.publisher.step()
    assert watched.served().head.version == 8
    assert not watched.publisher.step()
    receipts = SqliteReceipts(tmp_path / "versions.sqlite", SPEC.name, read_only=True)
    watched.publisher.checkpoint()
    assert [receipt.version for receipt in receipts.newest(100)] == list(range(8, 0, -1))
    receipts.close()
