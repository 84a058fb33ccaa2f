"""A whole consolidation from a service's folder: what it hands over, also when it is stopped or things are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from penstock.errors import TrainingFailed
from penstock.eventlog.interface import Entry
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.events import Batch, Kind, Offset, Partition, encode
from penstock.join.window import JoinWindow
from penstock.learn.checkpoint import Checkpoint, Checkpoints, to_safetensors
from penstock.learn.configuration import Configuration
from penstock.learn.fast.encode import Encoder
from penstock.learn.fast.model import FastModel
from penstock.learn.interface import State
from penstock.learn.journal import StepJournal
from penstock.learn.learner import Learner
from penstock.learn.ready import held, read_ready, ready_numbers
from penstock.learn.slow.base import LocalBases
from penstock.learn.slow.challenge import challenge
from penstock.learn.slow.consolidate import Kept, consolidate
from penstock.learn.slow.history import History
from penstock.learn.slow.train import Training
from penstock.learn.steps import Step
from penstock.learn.withdrawn import Withdrawn, to_values
from penstock.spec import ClassName, Consolidate, Feature, Learn, Spec

SPEC = Spec(
    name="s",
    task="multiclass",
    features={"x": Feature(type="number"), "y": Feature(type="number")},
    learn=Learn(step_max=256, random_features=8, half_lives=(64.0, float("inf")), catch_up_s=0.0),
    consolidate=Consolidate(replay=300),
)
SHORT = Training(steps_max=150, round_steps=50)


class House:
    """A service's folder with a log of two partitions, and the learner that writes the journal and checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ticks = 1000.0
        self.writers = [
            LocalLogWriter(folder / "log", Partition(p), segment_bytes=8192, clock=lambda: self.ticks) for p in (0, 1)
        ]
        self.rng = np.random.default_rng(0)
        self.asked = 0
        self.unanswered: list[Batch] = []
        self.reader = LocalLogReader(folder / "log")
        join = JoinWindow.of(SPEC.label)
        self.learner = Learner(SPEC, self.reader, join, FastModel(SPEC))
        self.journal = StepJournal(folder / "steps")
        self.checkpoints = Checkpoints(folder / "checkpoints", 2)

    def send(self, rounds: int) -> None:
        """Examples to one partition; predictions and their answers, some rounds later, to the other."""
        for _ in range(rounds):
            self.ticks += 0.5
            self._append(0, self._events(Kind.EXAMPLE, 40))
            questions = self._events(Kind.EXAMPLE, 20)
            named = replace(questions, kind=Kind.PREDICTION, ids=[f"p{self.asked + i}" for i in range(20)])
            self._append(1, replace(named, labels=None, versions=np.ones(20, np.uint64)))
            self.unanswered.append(replace(named, kind=Kind.FEEDBACK, numbers=np.empty((20, 0))))
            self.asked += 20
            if len(self.unanswered) > 2:
                self._append(1, self.unanswered.pop(0))

    def _events(self, kind: Kind, n: int) -> Batch:
        numbers = self.rng.normal(size=(n, 2))
        labels = [ClassName(str(int(x * y > 0))) for x, y in numbers]
        return Batch(
            kind=kind,
            times=np.zeros(n),
            ids=None,
            sources=None,
            numbers=numbers,
            vectors=(),
            strings=(),
            labels=labels,
            versions=None,
        )

    def _append(self, partition: int, batch: Batch) -> None:
        self.writers[partition].append([Entry(kind=batch.kind, count=len(batch), payload=encode(batch))])

    def learn(self) -> None:
        """Take everything that is there, step by step."""
        while (taken := self.learner.take()) is not None or self.learner.backlog():
            if taken is not None:
                number = self.journal.last + 1
                self.journal.append(Step(number=number, action="publish", ranges=taken.ranges, version=number))

    def roll_back(self, restored: int) -> None:
        """Write down that the version was gone back to, in a step of its own."""
        self.send(1)
        taken = self.learner.take()
        assert taken is not None
        number = self.journal.last + 1
        self.journal.append(
            Step(number=number, action="roll_back", ranges=taken.ranges, version=number, restored=restored)
        )

    def checkpoint(self, withdrawn: Sequence[Withdrawn] = ()) -> None:
        values, model = self.learner.save()
        self.checkpoints.write(
            Checkpoint(
                step=self.journal.last,
                version=1,
                position=dict(self.learner.position),
                needed=self.learner.needed(),
                values={"learner": values, "model": model.values, "line": {"withdrawn": to_values(withdrawn)}},
                arrays={f"model/{name}": array for name, array in model.arrays.items()},
            )
        )

    def close(self) -> None:
        self.journal.close()
        self.reader.close()
        for writer in self.writers:
            writer.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "s")
    yield made
    made.close()


def content(state: State) -> bytes:
    return msgspec.msgpack.encode(state.values, order="sorted") + to_safetensors(state.arrays)


def test_a_candidate_is_handed_over_caught_up_and_able_to_go_on_where_the_learner_stands(house: House) -> None:
    house.send(30)
    house.learn()
    house.checkpoint()
    house.send(6)
    house.learn()
    behind = house.journal.last
    manifest = consolidate(SPEC, house.folder, number=1, reason="request", training=SHORT, now=lambda: 5.0)
    assert manifest is not None
    assert (manifest.number, manifest.reason, manifest.step, manifest.made_at) == (1, "request", behind, 5.0)
    ready = read_ready(house.folder / "consolidation", 1)
    bases = LocalBases(house.folder / "bases")
    assert bases.ids() == [manifest.base] == [ready.model.values["base"]]
    assert manifest.held_out.events > 100
    assert manifest.held_out.forgotten == 0.0
    before, after = manifest.details["before"], manifest.details["after"]
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert set(before) == set(after) == {"0", "1"}
    assert min(after.values()) > 0.85
    assert held(house.folder / "consolidation") is None
    # It stands where the learner stands, and takes the same next steps.
    follower = Learner(SPEC, house.reader, JoinWindow.of(SPEC.label), FastModel(SPEC, bases))
    follower.load(ready.learner, ready.model)
    assert follower.position == house.learner.position
    assert follower.join.save() == house.learner.join.save()
    assert follower.log_time == house.learner.log_time
    house.send(2)
    taken = house.learner.take()
    assert taken is not None
    again = follower.again(behind + 1, taken.ranges)
    assert again.batch is not None
    assert taken.batch is not None
    assert again.batch.labels == taken.batch.labels
    assert again.learned is not None
    assert again.learned.losses.mean() < 0.05


def test_what_a_challenge_has_put_in_force_stays_on_a_new_base_and_another_one_keeps_the_base(house: House) -> None:
    house.send(20)
    house.learn()
    house.checkpoint()
    bases = LocalBases(house.folder / "bases")

    def adopt(number: int) -> str:
        house.learner.model = FastModel(SPEC, bases=bases)
        house.learner.model.load(read_ready(house.folder / "consolidation", number).model)
        house.checkpoint()
        base: str = house.learner.model.save().values["base"]
        return base

    first, second = (
        msgspec.structs.replace(Configuration.of(SPEC), half_lives=half_lives)
        for half_lives in (("32.0", "inf"), ("128.0", "inf"))
    )
    assert challenge(SPEC, house.folder, first, (), number=1, reason="challenge")
    alone = bases.artifact(adopt(1))
    assert (alone.network, alone.configured()) == (b"", msgspec.structs.replace(first, number=1))
    assert consolidate(SPEC, house.folder, number=2, reason="request", training=SHORT)
    trained = bases.artifact(adopt(2))
    assert (trained.configuration, trained.manifest.parent) == (alone.configuration, "")
    assert house.learner.model.save().arrays["weights"].shape[0] > 0
    assert challenge(SPEC, house.folder, second, (), number=3, reason="challenge")
    base = adopt(3)
    both = bases.artifact(base)
    assert (both.network, both.encoder, both.manifest.parent) == (trained.network, trained.encoder, trained.id)
    assert both.configured() == msgspec.structs.replace(second, number=3)
    model = house.learner.model
    assert isinstance(model, FastModel)
    assert model._layout.memories == (128.0, float("inf"))
    assert model._stable.width > 0


def test_a_second_consolidation_reads_on_and_starts_from_the_base_that_is_learned_on(house: House) -> None:
    house.send(20)
    house.learn()
    house.checkpoint()
    first = consolidate(SPEC, house.folder, number=1, reason="schedule", training=SHORT)
    assert first is not None
    kept = Kept.read(house.folder / "consolidation" / "replay.safetensors", SPEC)
    assert kept.position == house.learner.position
    assert kept.reservoir.recent is None
    assert kept.reservoir.replay is not None
    assert np.isfinite(kept.reservoir.replay.logits).all()
    # The candidate becomes the learner's model.
    ready = read_ready(house.folder / "consolidation", 1)
    house.learner.model = FastModel(SPEC, bases=LocalBases(house.folder / "bases"))
    house.learner.model.load(ready.model)
    house.send(15)
    house.learn()
    house.checkpoint()
    second = consolidate(SPEC, house.folder, number=2, reason="drift", training=SHORT)
    assert second is not None
    assert second.details["parent_base"] == first.base != second.base
    assert ready_numbers(house.folder / "consolidation") == [1, 2]
    kept = Kept.read(house.folder / "consolidation" / "replay.safetensors", SPEC)
    whole = Kept(reservoir=type(kept.reservoir)(SPEC))
    for batch in History(SPEC, house.reader).until(kept.position):
        whole.reservoir.add(batch)
    assert whole.reservoir.replay is not None
    assert kept.reservoir.replay is not None
    assert whole.reservoir.count == kept.reservoir.count == second.details["relearned"]
    assert (whole.reservoir.replay.places == kept.reservoir.replay.places).all()
    assert (whole.reservoir.replay.batch.numbers == kept.reservoir.replay.batch.numbers).all()
    assert consolidate(SPEC, house.folder, number=2, reason="again") == second


def test_stopped_anywhere_it_goes_on_to_the_same_candidate(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.learn.slow.loop.WRITE_EVERY_S", 0.0)
    house.send(20)
    house.learn()
    house.checkpoint()
    house.send(3)
    house.learn()
    calls = 0

    def stop_at(limit: int) -> bool:
        nonlocal calls
        calls += 1
        return calls > limit

    place = house.folder / "consolidation"
    for limit in (0, 45, 130, 210, 231):
        calls = 0
        if consolidate(SPEC, house.folder, number=1, reason="r", training=SHORT, stop=lambda n=limit: stop_at(n)):
            break
        assert ready_numbers(place) == []
        assert held(place) is None
    else:
        assert consolidate(SPEC, house.folder, number=1, reason="r", training=SHORT) is not None
    stopped = read_ready(place, 1)
    for name in ("ready", "replay.safetensors"):
        (place / name).rename(place / f"first-{name}")
    assert consolidate(SPEC, house.folder, number=1, reason="r", training=SHORT) is not None
    whole = read_ready(place, 1)
    assert content(whole.model) == content(stopped.model)
    assert whole.learner == stopped.learner


def test_what_retention_removed_from_the_log_is_learned_again_from_what_was_kept(house: House) -> None:
    house.send(20)
    house.learn()
    house.checkpoint()
    first = consolidate(SPEC, house.folder, number=1, reason="r", training=SHORT)
    assert first is not None
    removed = house.writers[0].retain(Offset(500), 0, 1e9, house.ticks)
    assert removed.segments > 0
    house.send(5)
    house.learn()
    house.checkpoint()
    second = consolidate(SPEC, house.folder, number=2, reason="r", training=SHORT)
    assert second is not None
    kept = Kept.read(house.folder / "consolidation" / "replay.safetensors", SPEC)
    assert kept.gone == removed.first
    older = kept.reservoir.before(kept.gone)
    assert older is not None
    history = History(SPEC, house.reader)
    in_log = sum(len(batch) for batch in history.until(house.learner.position))
    assert second.details["relearned"] == in_log + len(older)
    assert kept.reservoir.count == in_log + kept.gone


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_what_a_rollback_withdrew_does_not_come_back(house: House, is_checkpointed: bool) -> None:
    house.send(12)
    house.learn()
    house.checkpoint()
    house.send(1)
    house.learn()
    good, start = house.journal.last, dict(house.learner.position)
    house.send(8)
    house.learn()
    house.roll_back(good)
    house.learn()
    end = dict(house.learner.position)
    house.send(3)
    house.learn()
    if is_checkpointed:
        house.checkpoint([(start, end)])
    manifest = consolidate(SPEC, house.folder, number=1, reason="r", training=SHORT)
    assert manifest is not None
    history = History(SPEC, house.reader, [(start, end)])
    taught = sum(len(batch) for batch in history.until(house.learner.position))
    kept = Kept.read(house.folder / "consolidation" / "replay.safetensors", SPEC).reservoir
    assert kept.count == history.count == taught + sum(n for _, n in history.withdrawn)
    assert kept.replay is not None
    gone = np.concatenate([np.arange(first, first + n) for first, n in history.withdrawn])
    assert len(gone) > 300
    assert not np.isin(kept.replay.places, gone).any()
    ready = read_ready(house.folder / "consolidation", 1)
    assert dict(ready.learner["position"]) == house.learner.position
    encoder = Encoder(SPEC)
    encoder.load(ready.model.arrays)
    assert encoder.seen == taught


def test_what_came_since_the_checkpoint_is_trained_on(house: House) -> None:
    house.checkpoint()
    house.send(10)
    house.learn()
    manifest = consolidate(SPEC, house.folder, number=1, reason="drift", training=SHORT)
    assert manifest is not None
    assert manifest.events > 300


def test_without_a_checkpoint_or_labels_there_is_nothing_to_train_on(house: House) -> None:
    with pytest.raises(TrainingFailed, match="checkpoint"):
        consolidate(SPEC, house.folder, number=1, reason="r", training=SHORT)
    house.checkpoint()
    with pytest.raises(TrainingFailed, match="too few"):
        consolidate(SPEC, house.folder, number=1, reason="r", training=SHORT)
    assert held(house.folder / "consolidation") is None
