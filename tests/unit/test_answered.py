"""Answers that are distributed otherwise than before are noticed once, those that are not hardly ever; nothing of it
depends on steps or restarts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from penstock.cli.benchmarks.gate_answered import alike, independent, learning, moves
from penstock.cli.history import told
from penstock.eventlog.interface import Entry
from penstock.events import Kind, Partition, encode
from penstock.facts import PredictionsDrifted
from penstock.gate.answered import LOOK_EVENTS, AnsweredWatch, Moved
from penstock.gate.rule import HarmGate
from penstock.learn.interface import Predictions
from penstock.learn.steps import Step
from penstock.publish.answered import Answered
from penstock.publish.candidates.shadow import Shadows
from penstock.publish.entries import Stamp
from penstock.publish.succession import Succession
from penstock.spec import ClassName, Gate
from penstock.testing.memory_log import MemoryLog
from penstock.testing.small_house import SPEC, learner_over, small_events
from penstock.testing.small_learner import SmallPredictor

NAMES = (ClassName("a"), ClassName("b"), ClassName("c"))


@pytest.mark.parametrize("drawn", [independent, learning])
def test_answers_that_stay_what_they_are_or_become_surer_slowly_are_no_drift(drawn: Any) -> None:
    assert not any(moves(np.random.default_rng([1, i]), drawn, 10_000) for i in range(8))


def test_a_change_is_a_drift_and_answers_that_are_like_the_last_ones_hardly_ever() -> None:
    assert all(moves(np.random.default_rng([2, i]), independent, 10_000, shift=1.0) for i in range(8))
    assert sum(moves(np.random.default_rng([3, i]), alike(300), 10_000) for i in range(8)) <= 2


@pytest.mark.parametrize("column", ["classes", "chances", "numbers"])
def test_a_drift_is_told_once_and_what_came_before_it_is_no_reference_any_more(column: str) -> None:
    rng, watch, shown = np.random.default_rng(4), AnsweredWatch(0.25), []
    for look in range(40):
        late = look >= 20
        values: Any = {
            "classes": rng.choice(["a", "b"], LOOK_EVENTS, p=[0.8, 0.2] if late else [0.4, 0.6]).tolist(),
            "chances": rng.beta(8.0 if late else 2.0, 2.0, LOOK_EVENTS),
            "numbers": rng.normal(2.0 if late else 0.0, 1.0, LOOK_EVENTS),
        }[column]
        moved = watch.look({column: values})
        if moved is not None and moved.is_shown:
            shown.append((look, moved.column, moved.events))
        again = AnsweredWatch(0.25)
        again.load(msgspec.msgpack.decode(msgspec.msgpack.encode(watch.save())))
        watch = again
    ((look, name, events),) = shown
    assert look in (20, 21)
    assert (name, events) == (column, 2 * LOOK_EVENTS)


def test_nothing_is_said_before_there_is_enough_to_compare_with_and_never_without_a_bound() -> None:
    rng, watch, unbound = np.random.default_rng(5), AnsweredWatch(0.25), AnsweredWatch(float("inf"))
    looks = [watch.look({"numbers": rng.normal(10.0 * (i >= 3), 1.0, LOOK_EVENTS)}) for i in range(5)]
    assert looks == [None] * 5
    found: list[Moved | None] = [unbound.look({"numbers": np.full(LOOK_EVENTS, float(i >= 6))}) for i in range(9)]
    assert not any(moved is not None and moved.is_shown for moved in found)
    assert found[-1] is not None
    assert found[-1].index > 1.0


def said(rng: np.random.Generator, n: int, sure: float) -> Predictions:
    first = rng.uniform(0.4, sure, n)
    return Predictions(probabilities=np.column_stack([first, 0.6 * (1.0 - first), 0.4 * (1.0 - first)]))


def test_it_does_not_matter_how_answers_come_in_steps_or_when_they_are_read() -> None:
    whole, parts = Answered(0.25, is_on=True), Answered(0.25, is_on=True)
    rng = np.random.default_rng(6)
    for look in range(12):
        answers = said(rng, LOOK_EVENTS, 0.6 if look < 8 else 0.99)
        first = whole.take(answers, NAMES)
        for at in range(0, LOOK_EVENTS, 64):
            assert answers.probabilities is not None
            moved = parts.take(Predictions(probabilities=answers.probabilities[at : at + 64]), NAMES)
            if at == 128:
                state = msgspec.msgpack.decode(msgspec.msgpack.encode(parts.save()))
                parts = Answered(0.25, is_on=True)
                parts.load(state)
        assert moved == first
    assert whole.save() == parts.save()
    assert whole.newest is not None


def drifting(setting: str) -> tuple[Succession, list[Step], list[Any]]:
    """A service whose labels become plainer for good, and with them its answers: its loss falls."""
    log, rng = MemoryLog(clock=lambda: 1000.0), np.random.default_rng(7)
    writer = log.writer(Partition(0))
    for i in range(96):
        batch = small_events(Kind.EXAMPLE, rng, 64, 64 * i)
        labels: Any = ["0" if rng.random() < (0.5 if i < 56 else 0.97) else "1" for _ in range(64)]
        batch = replace(batch, labels=labels)
        writer.append([Entry(kind=batch.kind, count=len(batch), payload=encode(batch))])
    gate = msgspec.structs.replace(SPEC.gate, predictions_drift=setting)
    spec = msgspec.structs.replace(SPEC, gate=gate)
    succession = Succession(spec, learner_over(log.reader(), spec), HarmGate(Gate()), SmallPredictor, Shadows(None))
    entries, facts = [succession.begin(Stamp(number=1, time=1.0))[0]], []
    succession.enter(entries[0])
    while taken := succession.learner.take() or succession.learner.flush():
        entry, _ = succession.decide(taken, lambda _: Stamp(number=len(entries) + 1, time=1.0))
        entries.append(entry)
        facts += succession.enter(entry)[1]
    return succession, entries, facts


def test_a_drift_of_answers_is_a_fact_and_the_cause_of_a_training_only_where_that_is_asked_for() -> None:
    off, without, nothing = drifting("off")
    assert not any(isinstance(fact, PredictionsDrifted) for fact in nothing)
    assert off.progress.moved is None
    assert "answered" not in off.checkpoint(1).values
    told_of, entries, facts = drifting("tell")
    (fact,) = (fact for fact in facts if isinstance(fact, PredictionsDrifted))
    assert fact.index > 0.25
    assert told(msgspec.to_builtins(fact)).startswith("What is answered is distributed otherwise than before: c")
    assert told_of.progress.moved is not None
    # Nothing else is decided otherwise.
    assert [msgspec.structs.replace(entry, answers_moved=None) for entry in entries] == without
    trained, same, _ = drifting("train")
    assert same == entries
    assert told_of.progress.slow.drifted_events == newest_drift(entries, of_answers=False)
    assert trained.progress.slow.drifted_events == newest_drift(entries, of_answers=True)
    assert newest_drift(entries, of_answers=True) > newest_drift(entries, of_answers=False)


def newest_drift(entries: list[Step], *, of_answers: bool) -> int:
    """Labelled events up to the newest drift of the loss, or of answers as well."""
    labelled, found = 0, 0
    for entry in entries:
        labelled += entry.events
        if entry.drifted is not None or (of_answers and entry.answers_moved is not None):
            found = labelled
    return found
