"""Fast updates that are too sure of themselves, or give no answer of a class any more, are rolled back; others are
not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from penstock.cli.benchmarks.gate_answers import a_tenth, has_fault, none, turning
from penstock.eventlog.interface import Entry
from penstock.events import Kind, Partition, encode
from penstock.gate.guards import Opinion
from penstock.gate.interface import Answers, Evidence, Verdict
from penstock.gate.rule import HarmGate
from penstock.gate.served import ServedWatch
from penstock.join.window import JoinWindow
from penstock.learn.learner import Learner
from penstock.publish.candidates.shadow import Shadows
from penstock.publish.entries import Stamp
from penstock.publish.succession import Succession
from penstock.spec import Gate
from penstock.testing.memory_log import MemoryLog
from penstock.testing.small_house import SPEC, small_events
from penstock.testing.small_learner import SmallModel, SmallPredictor


@pytest.mark.parametrize("surplus", [none, a_tenth, turning])
def test_what_is_no_surer_than_the_good_version_and_answers_like_it_has_hardly_ever_a_fault(surplus: Any) -> None:
    assert sum(has_fault(np.random.default_rng([3, i]), surplus, 8_192) for i in range(20)) <= 1


def answers(rng: np.random.Generator, n: int, *, sure: float = 0.8, lost: Sequence[str] = ()) -> Answers:
    """Both are right of four in five; what is served is as sure as this, and never answers with what is lost."""
    labels = rng.choice(["a", "b", "rare"], n, p=[0.5, 0.4, 0.1]).tolist()
    said = [label if right else "a" for label, right in zip(labels, rng.random(n) < 0.8, strict=True)]
    own = ["a" if name in lost else name for name in said]
    return Answers(labels, Opinion(said, np.full(n, 0.8)), Opinion(own, np.full(n, sure)))


def looked(settings: Gate, looks: int, **served: Any) -> str:
    rng, watch = np.random.default_rng(1), ServedWatch(settings)
    for _ in range(looks):
        if fault := watch.look(answers(rng, 512, **served)):
            return fault
        again = ServedWatch(settings)
        again.load(msgspec.msgpack.decode(msgspec.msgpack.encode(watch.save())))
        watch = again
    return ""


def test_what_is_surer_of_itself_than_it_is_right_is_named_unless_nobody_minds() -> None:
    assert looked(Gate(), 8, sure=0.99).startswith("calibration: evidence ")
    assert not looked(Gate(), 8, sure=0.87)
    assert not looked(Gate(calibration_max=1.0), 8, sure=0.99)


def test_what_the_good_version_is_as_sure_of_is_no_fault() -> None:
    watch, rng = ServedWatch(Gate()), np.random.default_rng(2)
    for _ in range(20):
        given = answers(rng, 512, sure=0.99)
        assert not watch.look(Answers(given.labels, given.served, given.served))


def test_a_class_that_is_never_answered_any_more_is_named_unless_nobody_minds() -> None:
    told = looked(Gate(calibration_max=1.0), 4, lost=["rare"])
    assert told.startswith("collapse: class 'rare' came ")
    assert not looked(Gate(calibration_max=1.0, collapse="allow"), 4, lost=["rare"])
    assert not looked(Gate(calibration_max=1.0), 8)


def test_a_class_that_does_not_come_or_that_the_good_version_does_not_answer_with_either_is_not_missed() -> None:
    rng = np.random.default_rng(4)
    gone, unknown = (ServedWatch(Gate(calibration_max=1.0)) for _ in range(2))
    for _ in range(8):
        given = answers(rng, 512, lost=["rare"])
        labels = ["b" if label == "rare" else label for label in given.labels]
        assert not gone.look(Answers(labels, given.good, given.served))
        assert not unknown.look(Answers(given.labels, given.served, given.served))


class Judge:
    """A gate whose last known good version is served, and loses by so much more than what is served."""

    def __init__(self, gain: float = 0.0, *, has_good: bool = True) -> None:
        self.gate = HarmGate(Gate(good_after_events=8))
        self._own = np.full(64, 0.2)
        self._good = self._own + gain if has_good else None
        self.rng = np.random.default_rng(5)

    def judge(self, **served: Any) -> Verdict:
        given = answers(self.rng, 512, **served) if served else None
        return self.gate.judge(
            Evidence(
                candidate=self._own,
                served=self._own,
                good=self._good,
                sources=None,
                finite=True,
                jump=0.0,
                probation=self._own,
                answers=given,
            )
        )

    def until_refused(self) -> Verdict | None:
        """The rollback; None where none comes."""
        for _ in range(24):
            verdict = self.judge(lost=["rare"])
            if verdict.action == "roll_back":
                return verdict
        return None

    def until_published(self) -> None:
        while self.judge().action != "publish":
            pass


def test_an_update_with_a_fault_is_rolled_back_and_published_again_when_it_has_proved_itself() -> None:
    judge = Judge()
    verdict = judge.until_refused()
    assert verdict is not None
    assert verdict.reason.startswith("What is served has a fault: collapse: class 'rare' came ")
    judge.until_published()
    # What was answered before counts no more.
    assert judge.judge(sure=0.8).action == "publish"


def test_without_a_good_version_there_is_nothing_to_go_back_to() -> None:
    assert Judge(has_good=False).until_refused() is None


def test_what_was_refused_twice_is_borne_where_the_stream_gains_by_it_and_refused_where_it_does_not() -> None:
    gaining, losing = Judge(gain=0.3), Judge()
    for judge in (gaining, losing):
        for _ in range(2):
            assert judge.until_refused() is not None
            judge.until_published()
    for _ in range(60):
        gaining.judge()
    assert gaining.judge(lost=["rare"]).action == "publish"
    assert gaining.until_refused() is not None, "it is looked at anew from there"
    assert losing.until_refused() is not None


class Watching(HarmGate):
    """Remembers what answers it was shown."""

    def __init__(self) -> None:
        super().__init__(Gate(good_after_events=64))
        self.shown: list[Answers] = []

    def judge(self, evidence: Evidence) -> Verdict:
        if evidence.answers is not None:
            self.shown.append(evidence.answers)
        return super().judge(evidence)


@pytest.mark.parametrize("restarts", [False, True])
def test_the_gate_is_shown_what_both_answered_a_few_hundred_events_at_a_time_across_restarts(restarts: bool) -> None:
    log = MemoryLog(clock=lambda: 1000.0)
    writer, rng = log.writer(Partition(0)), np.random.default_rng(6)
    for i in range(300):
        batch = small_events(Kind.EXAMPLE, rng, 5, 5 * i)
        writer.append([Entry(kind=batch.kind, count=len(batch), payload=encode(batch))])
    learner = Learner(SPEC, log.reader(), JoinWindow.of(SPEC.label), SmallModel(columns=2))
    gate = Watching()
    succession = Succession(SPEC, learner, gate, SmallPredictor, Shadows(None))
    succession.enter(succession.begin(Stamp(number=1, time=0.0))[0])
    labels: list[str] = []
    said: list[str | None] = []
    number = 1
    while (taken := learner.take()) is not None:
        number += 1
        if taken.good_said is not None and taken.learned is not None and taken.batch is not None:
            labels += taken.batch.labels  # type: ignore[arg-type]
            columns = succession.line.classes_before(taken.learned)
            chances = taken.learned.predictions.probabilities
            assert chances is not None
            said += [columns[place] for place in chances.argmax(axis=1).tolist()]
        entry, _ = succession.decide(taken, lambda _, number=number: Stamp(number=number, time=0.0))  # type: ignore[misc]
        succession.enter(entry)
        if restarts and number % 9 == 0:
            succession.load(succession.checkpoint(number))
    assert len(gate.shown) == 2
    assert [label for shown in gate.shown for label in shown.labels] == labels[: sum(len(s.labels) for s in gate.shown)]
    own = [name for shown in gate.shown for name in shown.served.said]
    assert own == said[: len(own)]
    assert all(512 <= len(shown.labels) < 512 + SPEC.learn.step_max for shown in gate.shown)
