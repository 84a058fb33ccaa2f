"""The learner's own models, gate and files with a base that knows what the stream's labels follow: it is promoted, a
restart comes back to it, and a rollback goes back to the old line."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from penstock.errors import BaseMissing
from penstock.eventlog.interface import Entry
from penstock.events import Batch, Kind, Partition, encode
from penstock.facts import InputsDrifted, Widened
from penstock.gate.interface import Evidence, Verdict
from penstock.gate.rule import HarmGate
from penstock.join.window import JoinWindow
from penstock.learn.checkpoint import Checkpoints
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.inputs import Seen, seen_of
from penstock.learn.interface import Base, Embedded, HeldOut
from penstock.learn.journal import StepJournal, read_steps
from penstock.learn.learner import Learner
from penstock.learn.steps import CanaryCounts
from penstock.publish.candidates.canary_counts import Counted, write_counts
from penstock.publish.publisher import Publisher
from penstock.publish.records.receipts import SqliteReceipts
from penstock.publish.rooms import Clocks, Rooms, SlowRooms
from penstock.publish.weights.live import SharedLiveReader, SharedLiveWeights
from penstock.publish.weights.snapshots import LocalSnapshots
from penstock.spec import ClassName, Consolidate, Feature, Gate, Learn, Spec
from penstock.testing.memory_log import MemoryLog
from penstock.testing.small_house import leave_learner

SPEC = Spec(
    name="promoted",
    task="binary",
    features={name: Feature(type="number") for name in "ab"},
    learn=Learn(step_max=8, random_features=0, half_lives=(64.0, float("inf")), catch_up_s=1.0),
    consolidate=Consolidate(replay=100),
    gate=Gate(good_after_events=64, shadow_events_max=4000, canary=()),
)
IDS = {frequency: f"{frequency:02d}" * 32 for frequency in (3, 5)}


@dataclass(frozen=True)
class Waves:
    """A base whose features are the signs of waves over the inputs."""

    frequency: int

    @property
    def id(self) -> str:
        return IDS[self.frequency]

    width = 2
    classes = (ClassName("0"), ClassName("1"))
    configuration = None

    def embed(self, batch: Batch) -> Embedded:
        waves = np.sin(self.frequency * np.nan_to_num(batch.numbers))
        features = np.column_stack([waves[:, 0] * waves[:, 1], waves[:, 0]])
        chance = np.where(features[:, :1] > 0, 0.9, 0.1)
        return Embedded(features=features, probabilities=np.hstack([1.0 - chance, chance]))


def find(base_id: str) -> Base:
    for frequency, known in IDS.items():
        if base_id == known:
            return Waves(frequency)
    raise BaseMissing(id=base_id, reason="it was never made")


class House:
    """A learner over a log in memory, whose labels follow waves of one frequency."""

    def __init__(self, folder: Path, gate: Gate = SPEC.gate) -> None:
        self.folder = folder
        self.spec = msgspec.structs.replace(SPEC, gate=gate)
        self.elapsed_s = 5.0
        self.rng = np.random.default_rng(4)
        self.log = MemoryLog(clock=lambda: 1000.0)
        self.writer = self.log.writer()
        self.seen: dict[str, Seen] = {}
        """What bases say that they were trained on."""

    def send(self, n: int, frequency: int = 3, low: float = -3.0) -> None:
        for _ in range(n // 8):
            numbers = self.rng.uniform(low, 3, (8, 2))
            waves = np.sin(frequency * numbers)
            batch = Batch(
                kind=Kind.EXAMPLE,
                times=np.zeros(8),
                ids=None,
                sources=None,
                numbers=numbers,
                vectors=(),
                strings=(),
                labels=[ClassName(str(int(wave > 0))) for wave in waves[:, 0] * waves[:, 1]],
                versions=None,
            )
            self.writer.append([Entry(kind=batch.kind, count=8, payload=encode(batch))])

    def learner(self) -> Learner:
        join = JoinWindow.of(SPEC.label)
        return Learner(SPEC, self.log.reader(), join, FastModel(SPEC, find))

    def publisher(self, gate: HarmGate | None = None) -> Publisher:
        rooms = Rooms(
            journal=StepJournal(self.folder / "steps"),
            checkpoints=Checkpoints(self.folder / "checkpoints", 3),
            live=SharedLiveWeights(self.folder / "live"),
            snapshots=LocalSnapshots(self.folder / "snapshots", SPEC.name),
            receipts=SqliteReceipts(self.folder / "versions.sqlite", SPEC.name),
            canary=self.folder / "canary",
        )
        slow = SlowRooms(
            consolidation=self.folder / "consolidation",
            bases=self.folder / "bases",
            follower=self.learner,
            seen=self.seen.get,
        )
        clocks = Clocks(now=lambda: 5.0, elapsed=lambda: self.elapsed_s, cpu=lambda: 0.0)
        learner, gate = self.learner(), gate or HarmGate(self.spec.gate)
        return Publisher(
            self.spec, learner, gate, lambda block: BlockPredictor(block, SPEC, find), rooms, clocks, slow=slow
        )

    def leave(self, number: int, frequency: int, *, gained: int = 40) -> None:
        """What a consolidation leaves: heads that learned all recorded steps on the features of this base, and won that
        many of the held-out events of the past, where 5 were lost."""
        join = JoinWindow.of(SPEC.label)
        learner = Learner(SPEC, self.log.reader(), join, FastModel(SPEC, find, Waves(frequency)))
        leave_learner(
            self.folder,
            learner,
            read_steps(self.folder / "steps"),
            number=number,
            base=IDS[frequency],
            held_out=HeldOut(events=100, gained=gained, lost=5, forgotten=0.0),
            events=900,
            seconds=12.0,
            cpu_s=11.0,
        )


def run(publisher: Publisher, until: Callable[[], bool] = lambda: False) -> None:
    while not until() and (publisher.listen() or publisher.take_up() or publisher.step() or publisher.has_backlog()):
        pass


def with_candidate(house: House, frequency: int = 3, *, gained: int = 40, gate: HarmGate | None = None) -> Publisher:
    """A learner that has learned for a while, and for which a consolidation has left a base then."""
    publisher = house.publisher(gate)
    publisher.start()
    house.send(800)
    run(publisher)
    house.leave(1, frequency, gained=gained)
    return publisher


def seen_between(low: float, high: float) -> Seen:
    """What a base has seen that was trained on such inputs."""
    numbers = np.random.default_rng(9).uniform(low, high, (2048, 2))
    n = len(numbers)
    batch = Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(n),
        ids=None,
        sources=None,
        numbers=numbers,
        vectors=(),
        strings=(),
        labels=[ClassName("0")] * n,
        versions=None,
    )
    found = seen_of(SPEC, batch, batch)
    assert found is not None
    return found


def served(folder: Path) -> bytes:
    reader = SharedLiveReader(folder / "live")
    packed = reader.packed()
    reader.close()
    assert packed is not None
    return packed


def test_a_better_base_is_promoted_and_outlives_a_restart(tmp_path: Path) -> None:
    house = House(tmp_path)
    publisher = with_candidate(house)
    before = publisher.progress
    house.send(2400)
    run(publisher, until=lambda: publisher.progress.slow.promoted > 0)
    slow = publisher.progress.slow
    assert (slow.base, slow.shadow, slow.settled) == (IDS[3], 0, 1)
    assert slow.outcome.startswith("The new base is promoted: evidence ")
    run(publisher)
    assert publisher.progress.accuracy > before.accuracy + 0.1
    state, packed = publisher.state_hash(), served(tmp_path)
    publisher._rooms.journal.close()

    again = house.publisher()
    again.start()
    assert again.state_hash() == state
    assert served(tmp_path) == packed
    again._rooms.receipts.flush()
    receipt = again._rooms.receipts.receipt(slow.promoted)
    assert (receipt.cause, receipt.base, receipt.parent_base) == ("promotion", IDS[3], "")
    assert receipt.gain is not None
    assert receipt.gain.low > 0.0
    assert receipt.consolidation is not None
    assert (receipt.consolidation.trained, receipt.consolidation.seconds) == (900, 12.0)
    again.close()


class Alarmed(HarmGate):
    """Rolls back at the first step after a promotion."""

    promoted = False

    def judge(self, evidence: Evidence) -> Verdict:
        if self.promoted:
            self.promoted = False
            return self._roll_back("What is served does harm: the test says so.", None)
        verdict = super().judge(evidence)
        self.promoted = verdict.shadow is not None
        return verdict


def test_a_rollback_after_a_promotion_answers_and_learns_without_the_base_again(tmp_path: Path) -> None:
    house = House(tmp_path)
    publisher = with_candidate(house, gate=Alarmed(SPEC.gate))
    house.send(800)
    run(publisher, until=lambda: publisher.progress.rollbacks > 0)
    slow = publisher.progress.slow
    assert slow.promoted > 0
    assert slow.base == ""
    model, state = publisher._learner.model, publisher._learner.model.save()
    assert isinstance(model, FastModel)
    assert state.values["base"] == ""
    house.send(400)
    run(publisher)
    publisher._rooms.receipts.flush()
    receipts = publisher._rooms.receipts.newest(1000)
    assert [r.cause for r in receipts if r.version in (slow.promoted, slow.promoted + 1)] == ["rollback", "promotion"]
    assert publisher.progress.version > slow.promoted + 1, "what it learns is published again"
    publisher.close()


def test_a_base_that_knows_nothing_of_the_stream_is_not_promoted(tmp_path: Path) -> None:
    house = House(tmp_path)
    publisher = with_candidate(house, 5, gained=5)
    house.send(1600)
    run(publisher)
    slow = publisher.progress.slow
    assert slow.promoted == 0
    assert slow.base == ""
    publisher.close()


def test_the_loop_takes_a_candidate_up_while_events_arrive(tmp_path: Path) -> None:
    house = House(tmp_path)
    publisher = house.publisher()
    publisher.start()
    house.send(400)
    run(publisher)
    publisher.checkpoint()
    publisher.close()
    house.leave(1, 3)
    stop = threading.Event()
    publisher = house.publisher()
    running = threading.Thread(target=publisher.run, args=(stop,))
    running.start()
    reader = SharedLiveReader(tmp_path / "live")
    while not reader.progress().slow.promoted:
        house.send(16)
    stop.set()
    running.join()
    assert reader.progress().slow.base == IDS[3]
    reader.close()


def test_a_better_base_that_was_trained_on_other_inputs_is_given_up_by_the_name_of_the_guard(tmp_path: Path) -> None:
    # It takes some six hundred events, so that the inputs have been looked at, to be as sure as this.
    house = House(tmp_path, msgspec.structs.replace(SPEC.gate, alpha=1e-30))
    house.seen[IDS[3]] = seen_between(-3.0, 0.0)
    publisher = with_candidate(house)
    house.send(2400)
    run(publisher, until=lambda: publisher.progress.slow.settled_events > 0)
    slow = publisher.progress.slow
    assert (slow.promoted, slow.shadow) == (0, 0)
    assert slow.outcome.startswith("The new base is given up: inputs: ")
    publisher.close()


def test_inputs_that_leave_what_the_served_base_was_trained_on_are_told_and_have_a_base_trained(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.seen[IDS[3]] = seen_between(-3.0, 3.0)
    publisher = with_candidate(house)
    house.send(2400)
    run(publisher, until=lambda: publisher.progress.slow.promoted > 0)
    run(publisher)
    departed, before = publisher.progress.departed, publisher.progress
    assert departed is not None
    assert (departed.is_shown, departed.index < 0.1, before.slow.drifted_events) == (False, True, 0)
    house.send(1600, low=1.0)
    run(publisher)
    departed, progress = publisher.progress.departed, publisher.progress
    assert departed is not None
    assert (departed.is_shown, departed.feature) == (True, "a")
    assert before.labelled < progress.slow.drifted_events <= progress.labelled - 512, "it is told once"
    # Fast updates go on.
    assert progress.updates_held == before.updates_held
    publisher._rooms.receipts.flush()
    (fact,) = publisher._rooms.receipts.facts(9, ["inputs_drifted"])
    assert isinstance(fact, InputsDrifted)
    assert (fact.base, fact.feature, fact.index > 0.25) == (IDS[3], "a", True)
    state = publisher.state_hash()
    publisher._rooms.journal.close()
    again = house.publisher()
    again.start()
    assert (again.state_hash(), again.progress.departed) == (state, departed)
    again.close()


TRIED = msgspec.structs.replace(SPEC.gate, canary=(0.25, 0.75))


def say(house: House, **counted: Any) -> None:
    """Do what a server does, a second later."""
    house.elapsed_s += 1.0
    write_counts(house.folder / "canary", Partition(0), Counted(base=IDS[3], counts=CanaryCounts(**counted)))


def test_a_better_base_answers_a_share_then_a_larger_one_and_then_everybody(tmp_path: Path) -> None:
    house = House(tmp_path, TRIED)
    publisher = with_candidate(house)
    house.send(4000)
    shares: list[float] = []

    def is_promoted() -> bool:
        slow = publisher.progress.slow
        if slow.share not in [0.0, *shares]:
            shares.append(slow.share)
            assert not slow.promoted
            say(house, share=slow.share)
        return slow.promoted > 0

    run(publisher, until=lambda: bool(is_promoted() or shares))
    reader = SharedLiveReader(tmp_path / "live")
    first = reader.beside().block()
    assert first is not None
    assert (reader.share(), first.head.base) == (0.25, IDS[3])
    # A learner that is killed here comes back with the same share, number and bytes.
    packed = SharedLiveReader(tmp_path / "live-beside").packed()
    publisher._rooms.journal.close()
    publisher._rooms.live.try_out(None, 0.0)
    publisher = house.publisher()
    publisher.start()
    assert reader.share() == 0.25
    assert SharedLiveReader(tmp_path / "live-beside").packed() == packed

    run(publisher, until=is_promoted)
    slow = publisher.progress.slow
    assert shares == [0.25, 0.75]
    assert (slow.base, slow.share, slow.shadow) == (IDS[3], 0.0, 0)
    assert (reader.share(), publisher._succession.canary.block) == (0.0, None)
    publisher._rooms.receipts.flush()
    receipts = publisher._rooms.receipts
    beside = receipts.receipt(first.head.version)
    assert (beside.cause, beside.share, beside.base, beside.parent_base) == ("canary", 0.25, IDS[3], "")
    assert beside.verdict.startswith("The new base answers 0.25 of the traffic: evidence ")
    promoted = receipts.receipt(slow.promoted)
    assert promoted.consolidation is not None
    assert promoted.consolidation.own is not None
    assert promoted.consolidation.own.low > 0.0
    assert [fact.share for fact in receipts.facts(9, ["widened"]) if isinstance(fact, Widened)] == [0.75, 0.25]
    assert not receipts.check()
    reader.close()
    publisher.close()


def test_a_base_that_servers_cannot_answer_with_goes_without_another_event(tmp_path: Path) -> None:
    house = House(tmp_path, TRIED)
    publisher = with_candidate(house)
    house.send(2400)
    run(publisher, until=lambda: publisher.progress.slow.share > 0.0)
    served = publisher.progress.version
    say(house, share=0.25, asked=8, failed=1, failure="a tree fell")
    assert publisher.listen()
    slow = publisher.progress.slow
    assert (slow.share, slow.shadow, slow.promoted, publisher.progress.version) == (0.0, 0, 0, served)
    assert "a tree fell" in slow.outcome
    reader = SharedLiveReader(tmp_path / "live")
    assert reader.share() == 0.0
    reader.close()
    publisher._rooms.journal.close()
    again = house.publisher()
    again.start()
    assert again.state_hash() == publisher.state_hash()
    again.close()
