"""A candidate that a consolidation left: adopted, learned beside what is served, then promoted or given up."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from penstock.errors import CheckpointDamaged
from penstock.events import Version
from penstock.facts import Consolidated, GivenUp, Promoted, ShadowStarted
from penstock.learn.checkpoint import Checkpoints
from penstock.learn.journal import read_steps
from penstock.learn.ready import hold, ready_folder, ready_numbers, release
from penstock.learn.steps import Step
from penstock.publish.publisher import Publisher
from penstock.publish.records.receipts import SqliteReceipts
from penstock.testing.memory_log import MemoryLog
from penstock.testing.small_house import SPEC, build_publisher, filled_log, leave_candidate

PROMOTING = ("publish", "probation", "publish", "good", "publish", "publish", "publish", "promote", "publish")


def run(publisher: Publisher) -> None:
    publisher.start()
    while publisher.take_up() or publisher.step() or publisher.has_backlog():
        pass


def recorded(folder: Path, log: MemoryLog, script: tuple[str, ...]) -> list[Step]:
    """The entries of a run without candidates."""
    publisher = build_publisher(folder, log, kept=1000, script=script)
    run(publisher)
    publisher.close()
    return list(read_steps(folder / "steps"))


class House:
    """A small service for which candidates are left before it runs."""

    def __init__(self, folder: Path, script: tuple[str, ...] = PROMOTING, rounds: int = 12) -> None:
        self.folder, self.script, self.log = folder / "house", script, filled_log(rounds)
        self.folder.mkdir()
        self.entries = recorded(folder / "before", self.log, script)

    def leave(self, number: int, *, step: int, forgotten: float = 0.0) -> str:
        return leave_candidate(self.folder, self.log, self.entries, number, step=step, forgotten=forgotten)

    def publisher(self, kept: int = 2) -> Publisher:
        return build_publisher(self.folder, self.log, kept=kept, script=self.script)

    def run(self, kept: int = 2) -> Publisher:
        publisher = self.publisher(kept)
        run(publisher)
        publisher.checkpoint()
        publisher.close()
        return publisher

    def steps(self) -> list[Step]:
        return list(read_steps(self.folder / "steps"))

    def receipts(self) -> SqliteReceipts:
        return SqliteReceipts(self.folder / "versions.sqlite", SPEC.name, read_only=True)


def test_a_candidate_is_adopted_when_it_has_caught_up_and_promoted_as_a_version_of_its_own(tmp_path: Path) -> None:
    house = House(tmp_path)
    base = house.leave(1, step=3)
    house.run(kept=1000)
    told = [(step.shadow.what, bool(step.ranges)) for step in house.steps() if step.shadow]
    assert told == [("adopted", False), ("promoted", True)]
    adopted, promoted = (step for step in house.steps() if step.shadow)
    assert adopted.number >= 4
    assert (promoted.action, promoted.probation, promoted.base) == ("publish", True, base)
    receipts = house.receipts()
    receipt = receipts.receipt(promoted.version)
    assert (receipt.cause, receipt.base, receipt.parent_base) == ("promotion", base, "")
    assert receipt.weights, "a promotion is materialised"
    assert receipt.consolidation is not None
    assert receipt.consolidation.number == 1
    assert receipt.consolidation.shadow_events == sum(
        step.events for step in house.steps() if adopted.number < step.number <= promoted.number
    )
    after = receipts.receipt(Version(promoted.version + 1))
    assert (after.cause, after.base, after.parent_base) == ("update", base, base)
    assert {type(fact) for fact in receipts.facts(1000)} >= {Consolidated, ShadowStarted, Promoted}
    receipts.close()


@pytest.mark.parametrize("step", [2, 5, 9])
def test_a_candidate_has_learned_each_event_once_when_it_is_promoted(tmp_path: Path, step: int) -> None:
    """The first candidate learns at the learner's own rate, so that it has to end with the learner's own weights."""
    house = House(tmp_path)
    base = house.leave(1, step=step)
    promoted = house.run()._learner.model.save()
    plain = build_publisher(tmp_path / "before", house.log, kept=1000, script=PROMOTING)
    plain.start()
    expected = plain._learner.model.save()
    plain.close()
    assert promoted.values == expected.values | {"base": base}
    assert promoted.arrays["weights"].tobytes() == expected.arrays["weights"].tobytes()


def test_a_shadow_changes_nothing_that_is_served_before_its_promotion(tmp_path: Path) -> None:
    house = House(tmp_path, tuple(word for word in PROMOTING if word != "promote"))
    house.leave(1, step=3)
    house.run(kept=1000)
    plain = [(step.ranges, step.loss_sum, step.version) for step in house.entries if step.events]
    beside = [(step.ranges, step.loss_sum, step.version) for step in house.steps() if step.events]
    assert beside == plain


def test_what_forgot_too_much_is_refused_at_once_and_never_looked_at_again(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.leave(1, step=3, forgotten=0.5)
    publisher = house.run()
    assert [step.shadow.what for step in house.entries if step.shadow] == []
    slow = publisher.progress.slow
    assert (slow.shadow, slow.settled, slow.promoted) == (0, 1, 0)
    assert slow.outcome == "The script says give_up."
    receipts = house.receipts()
    assert [fact.number for fact in receipts.facts(1000, ["given_up"]) if isinstance(fact, GivenUp)] == [1]
    receipts.close()


def test_a_rollback_after_a_promotion_goes_back_to_the_old_base(tmp_path: Path) -> None:
    house = House(tmp_path, (*PROMOTING, "publish", "roll_back"), rounds=6)
    base = house.leave(1, step=3)
    publisher = house.run(kept=1000)
    back = next(step for step in house.steps() if step.action == "roll_back")
    before = house.steps()[house.steps().index(back) - 1]
    assert (before.base, back.base) == (base, "")
    assert publisher._learner.model.save().values["base"] == ""


def test_a_damaged_candidate_is_given_up_with_its_reason(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.leave(1, step=3)
    (ready_folder(house.folder / "consolidation", 1) / "state.safetensors").write_bytes(b"nothing")
    publisher = house.run()
    assert "state.safetensors is not what the manifest says" in publisher.progress.slow.outcome
    assert publisher.progress.slow.settled == 1


def test_settled_candidates_and_bases_go_when_no_checkpoint_needs_them(tmp_path: Path) -> None:
    house = House(tmp_path, tuple("give_up" if word == "promote" else word for word in PROMOTING))
    given_up = house.leave(1, step=3)
    publisher = house.publisher()
    publisher.start()
    while not publisher.progress.slow.shadow:
        publisher.take_up() or publisher.step()
    publisher.checkpoint()
    assert ready_numbers(house.folder / "consolidation") == [1], "an older checkpoint would adopt it again"
    while publisher.take_up() or publisher.step() or publisher.has_backlog():
        pass
    for _ in range(3):
        publisher.checkpoint()
    publisher.close()
    assert Checkpoints(house.folder / "checkpoints", 2).bases() == set()
    assert ready_numbers(house.folder / "consolidation") == []
    assert not (house.folder / "bases" / given_up).exists()


def test_a_base_that_a_checkpoint_needs_stays(tmp_path: Path) -> None:
    house = House(tmp_path)
    base = house.leave(1, step=3)
    house.run()
    assert (house.folder / "bases" / base).is_dir()
    assert Checkpoints(house.folder / "checkpoints", 2).bases() == {base}


def test_the_journal_keeps_what_a_consolidation_at_work_still_reads(tmp_path: Path) -> None:
    house = House(tmp_path, rounds=20)
    publisher = house.publisher()
    publisher.start()
    while publisher._rooms.journal.last < 10:
        publisher.step()
    hold(house.folder / "consolidation", 10, {})
    while publisher.step() or publisher.has_backlog():
        pass
    publisher.checkpoint()
    assert house.steps()[0].number <= 11
    release(house.folder / "consolidation")
    publisher.close()


def test_an_adoption_whose_folder_is_gone_says_what_to_restore(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.leave(1, step=3)
    publisher = house.publisher(kept=1000)
    publisher.start()
    while not publisher.take_up():
        publisher.step()
    publisher.close()
    shutil.rmtree(house.folder / "checkpoints")
    shutil.rmtree(ready_folder(house.folder / "consolidation", 1))
    again = house.publisher(kept=1000)
    with pytest.raises(CheckpointDamaged, match=r"consolidation 1 in shadow, and it cannot be repeated.*Restore this"):
        again.start()
    again.close()
