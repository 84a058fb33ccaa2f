"""Anchors are learned by nobody, what is lost on them is told from luck, and a forgetful update is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.eventlog.interface import Entry
from penstock.events import Batch, Kind, Offset, Partition, encode
from penstock.gate.interface import Evidence, Verdict
from penstock.gate.rule import HarmGate
from penstock.join.window import JoinWindow
from penstock.learn.anchors import GROUP_MIN, REGIMES_MAX, Anchors, kept_back
from penstock.learn.groups import SLICES_MAX
from penstock.learn.interface import Forgotten
from penstock.learn.learner import Learner
from penstock.learn.slow.history import History
from penstock.publish.candidates.shadow import Shadows
from penstock.publish.entries import Stamp
from penstock.publish.succession import Succession
from penstock.spec import ClassName, Feature, Gate, Learn, Spec
from penstock.testing.memory_log import MemoryLog
from penstock.testing.small_learner import SmallModel, SmallPredictor

SPEC = Spec(
    name="anchored",
    task="multiclass",
    features={"x": Feature(type="number"), "y": Feature(type="number")},
    learn=Learn(step_max=16, catch_up_s=0.0),
    gate=Gate(good_after_events=256, anchors=256),
)


def events(labels: list[str], seed: int = 0, first: int = 0, source: str | None = None) -> Batch:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(len(labels), 2)) * 0.3
    numbers[:, 0] += np.where(np.array(labels) == "b", 2.0, -2.0) if labels else 0.0
    places = np.column_stack([np.zeros(len(labels), np.int64), np.arange(first, first + len(labels))])
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(len(labels)),
        ids=[f"e{first + i}" for i in range(len(labels))],
        sources=None if source is None else [source] * len(labels),
        numbers=numbers,
        vectors=(),
        strings=(),
        labels=[ClassName(label) for label in labels],
        versions=None,
        places=places,
    )


def test_who_is_kept_back_depends_on_the_place_in_the_log_alone() -> None:
    early, late = events(["a"] * 8192), events(["a"] * 8192, first=200_000)
    found = kept_back(SPEC, early)
    assert found is not None
    assert found.sum() == pytest.approx(256, abs=60)
    later = kept_back(SPEC, late)
    assert later is not None
    assert later.sum() == pytest.approx(32, abs=20)
    part = kept_back(SPEC, early.rows(slice(1000, 3000)))
    assert part is not None
    assert part.tolist() == found[1000:3000].tolist()
    none = msgspec.structs.replace(SPEC, gate=Gate(anchors=0))
    assert kept_back(none, early) is None


def filled(labels: list[str]) -> tuple[MemoryLog, Batch]:
    log, made = MemoryLog(clock=lambda: 1000.0), events(labels)
    writer = log.writer(Partition(0))
    for at in range(0, len(made), 100):
        part = made.rows(slice(at, at + 100))
        writer.append([Entry(kind=part.kind, count=len(part), payload=encode(replace(part, places=None)))])
    return log, made


def test_no_anchor_is_learned_neither_by_the_learner_nor_by_whoever_reads_the_past() -> None:
    log, made = filled(["a", "b"] * 1500)
    back = kept_back(SPEC, made)
    assert back is not None
    learner = Learner(SPEC, log.reader(), JoinWindow.of(SPEC.label), SmallModel(columns=2))
    learner.anchors = Anchors(SPEC)
    learned: list[int] = []
    while (taken := learner.take()) is not None:
        if taken.batch is not None:
            assert taken.batch.places is not None
            learned += taken.batch.places[:, 1].tolist()
    assert learned == np.flatnonzero(~back).tolist()
    kept = learner.anchors.kept
    assert kept is not None
    assert kept.ids == [f"e{place}" for place in np.flatnonzero(back).tolist()]

    history = History(SPEC, log.reader())
    read = [name for batch in history.until({Partition(0): Offset(3000)}) for name in batch.ids or ()]
    assert read == [f"e{place}" for place in np.flatnonzero(~back).tolist()]
    assert history.count == 3000


def nobody() -> None:
    """There is no last known good version."""


def with_anchors(n: int = 60, source: str | None = None) -> Anchors:
    anchors = Anchors(SPEC)
    anchors.take(events(["a", "b"] * (n // 2), source=source))
    return anchors


def test_what_was_right_and_is_wrong_of_a_class_is_lost_and_what_the_good_version_knows_is_said() -> None:
    anchors = with_anchors()
    right = np.ones(60)
    assert [anchors.look(right, nobody).lost for _ in range(3)] == [0.0] * 3
    anchors.compared(events(["a", "a", "b"]), np.array([0.5, 0.25, -1.0]))
    wrong = np.where(np.arange(60) % 2 == 1, 0.0, 1.0)
    found = anchors.look(wrong, lambda: right)
    assert (found.of, found.lost, found.of_anchors, found.is_shown) == ("class 'b'", 1.0, 30, True)
    assert (found.than_good, found.live_events, found.live_gain) == (1.0, 1, -1.0)
    assert anchors.newest == found
    # What is refused does not become what it is held to.
    again = anchors.look(wrong, lambda: right)
    assert again.lost == 1.0
    assert again.live_events == 0


def test_answers_that_flip_by_luck_are_not_called_forgotten() -> None:
    shown = 0
    for seed in range(20):
        rng, anchors = np.random.default_rng(seed), with_anchors(200)
        chance = rng.uniform(0.5, 1.0, 200)
        shown += sum(anchors.look((rng.random(200) < chance).astype(float), nobody).is_shown for _ in range(40))
    assert shown <= 1


def test_a_few_anchors_of_a_class_say_nothing() -> None:
    anchors = Anchors(SPEC)
    anchors.take(events(["a"] * 40 + ["b"] * (GROUP_MIN - 1)))
    for _ in range(3):
        anchors.look(np.ones(47), nobody)
    assert anchors.look(np.concatenate([np.ones(40), np.zeros(GROUP_MIN - 1)]), nobody).lost == 0.0


def test_a_state_goes_on_as_if_it_had_never_been_saved() -> None:
    anchors, again = with_anchors(), Anchors(SPEC)
    anchors.look(np.ones(60), nobody)
    anchors.compared(events(["a"]), np.array([0.5]))
    values, arrays = anchors.save()
    again.load(msgspec.msgpack.decode(msgspec.msgpack.encode(values)), arrays)
    for one in (anchors, again):
        one.take(events(["c"] * 9, seed=3, first=60))
    scores = np.concatenate([np.zeros(30), np.ones(39)])
    assert anchors.look(scores, nobody) == again.look(scores, nobody)
    assert msgspec.msgpack.encode(anchors.save()[0]) == msgspec.msgpack.encode(again.save()[0])


def test_no_more_are_kept_than_there_is_room_for_and_all_classes_have_their_part() -> None:
    spec = msgspec.structs.replace(SPEC, gate=Gate(anchors=64))
    anchors = Anchors(spec)
    for at in range(10):
        anchors.take(events(["a"] * 90 + ["b"] * 10, seed=at, first=100 * at))
    kept = anchors.kept
    assert kept is not None
    assert len(kept) == 64
    assert list(kept.labels or ()).count("b") == 32  # type: ignore[arg-type]


def test_anchors_go_with_their_source_their_id_and_their_class() -> None:
    anchors = with_anchors(20, source="s")
    anchors.take(events(["a"] * 20, first=20))
    anchors.without(["s"])
    kept = anchors.kept
    assert kept is not None
    assert len(kept) == 20
    assert anchors.erase({"e20", "e21", "nobody"}) == 2
    for _ in range(3):
        anchors.look(np.ones(18), nobody)
    assert anchors.look(np.zeros(18), nobody).is_shown
    anchors.accept("class 'a'")
    assert [anchors.look(np.zeros(18), nobody).lost for _ in range(5)] == [0.0] * 5


class Judge:
    """A gate whose last known good version is served and harmless."""

    def __init__(self, **settings: Any) -> None:
        self.gate = HarmGate(Gate(good_after_events=8, **settings))

    def judge(self, forgotten: Forgotten | None = None, n: int = 4) -> Verdict:
        own = np.full(n, 0.2)
        return self.gate.judge(
            Evidence(
                candidate=own,
                served=own,
                good=own,
                sources=None,
                finite=True,
                jump=0.0,
                probation=own,
                forgotten=forgotten,
            )
        )


LOST = Forgotten(anchors=90, lost=0.5, of="class 'b'", of_anchors=40, is_shown=True, than_good=0.4)


def test_what_is_forgotten_beyond_luck_and_known_by_the_good_version_is_rolled_back() -> None:
    verdict = Judge().judge(LOST)
    assert verdict.action == "roll_back"
    assert "0.500 is lost on 40 of class 'b' (at most 0.02), beyond luck" in verdict.reason
    assert "right on 40.0% more" in verdict.reason


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"is_shown": False}, "which may be luck"),
        ({"lost": 0.01}, "0.010 is lost on 40 of class 'b' (at most 0.02)."),
        ({"lost": 0.0, "is_shown": False}, "0.000 is lost on 40 of class 'b' (at most 0.02)."),
        ({"than_good": 0.0}, "no version is known that knows it better"),
        ({"live_events": 50, "live_gain": 0.1}, "the world has changed"),
    ],
)
def test_what_may_be_luck_or_little_or_lost_for_good_or_a_change_of_the_world_is_published(
    change: dict[str, Any], told: str
) -> None:
    verdict = Judge().judge(msgspec.structs.replace(LOST, **change))
    assert verdict.action == "publish"
    assert told in verdict.reason
    assert verdict.accepts == (LOST.of if {"live_events", "than_good"} & change.keys() else None)


def test_events_of_the_class_on_which_nothing_is_gained_do_not_excuse_what_is_forgotten() -> None:
    verdict = Judge().judge(msgspec.structs.replace(LOST, live_events=50, live_gain=0.001))
    assert verdict.action == "roll_back"


def test_no_version_becomes_good_while_something_is_forgotten() -> None:
    judge = Judge()
    judge.judge(msgspec.structs.replace(LOST, than_good=0.0))
    again = HarmGate(Gate(good_after_events=8))
    again.load(judge.gate.save())
    judge.gate = again
    assert not any(judge.judge().good for _ in range(100))
    assert judge.judge(Forgotten(anchors=90)).good
    assert not any(judge.judge().good for _ in range(100)), "nobody has looked since its probation began"
    assert judge.judge(Forgotten(anchors=90)).good


def test_a_model_that_forgets_a_class_that_comes_no_more_is_put_back() -> None:
    labels = ["a", "b"] * 3000 + ["a"] * 9000
    made = events(labels)
    # From then on what looks like b comes with label a: who learns it answers a for all.
    made.numbers[6000:, 0] *= np.where(np.random.default_rng(1).random(9000) < 0.5, 1.0, -1.0)
    log = MemoryLog(clock=lambda: 1000.0)
    writer = log.writer(Partition(0))
    for at in range(0, len(made), 500):
        part = made.rows(slice(at, at + 500))
        writer.append([Entry(kind=part.kind, count=len(part), payload=encode(replace(part, places=None)))])
    learner = Learner(SPEC, log.reader(), JoinWindow.of(SPEC.label), SmallModel(columns=2))
    succession = Succession(SPEC, learner, HarmGate(SPEC.gate), SmallPredictor, Shadows(None))
    succession.enter(succession.begin(Stamp(number=1, time=0.0))[0])
    said: list[str] = []
    published: list[str] = []
    number = 1
    while (taken := learner.take()) is not None:
        number += 1
        entry, _ = succession.decide(taken, lambda _, number=number: Stamp(number=number, time=0.0))  # type: ignore[misc]
        succession.enter(entry)
        (said if entry.action == "roll_back" else published).append(entry.verdict)
    assert len(said) == 2, "it is refused as often as there is patience"
    assert all("has forgotten: 1.000 is lost" in verdict and "class 'b'" in verdict for verdict in said)
    assert any("it was refused 2 times, and the stream asks for it" in verdict for verdict in published)
    assert succession.progress.forgotten is not None
    assert succession.progress.forgotten.anchors > 100


SLICED = msgspec.structs.replace(
    SPEC,
    features={**SPEC.features, "city": Feature(type="category"), "new": Feature(type="boolean")},
    gate=msgspec.structs.replace(SPEC.gate, slices=("city", "new")),
)


def sliced(cities: list[str | None], labels: list[str] | None = None, first: int = 0, new: float = 1.0) -> Batch:
    made = events(labels or ["a", "b"] * (len(cities) // 2), seed=first, first=first)
    numbers = np.column_stack([made.numbers, np.full(len(made), new)])
    return replace(made, numbers=numbers, strings=(cities,))


def test_a_slice_that_is_forgotten_is_named_though_its_classes_are_not() -> None:
    anchors = Anchors(SLICED)
    anchors.take(sliced([*["Rome"] * 80, *["Oslo"] * 20]))
    for _ in range(3):
        anchors.look(np.ones(100), nobody)
    anchors.compared(sliced(["Oslo", "Rome", "Oslo", None]), np.array([0.5, -1.0, 0.25, 9.0]))
    found = anchors.look(np.where(np.arange(100) >= 80, 0.0, 1.0), lambda: np.ones(100))
    assert (found.of, found.of_anchors, found.lost, found.is_shown) == ("slice city='Oslo'", 20, 1.0, True)
    assert (found.than_good, found.live_events, found.live_gain) == (1.0, 2, 0.375)
    # Two classes, two cities, and one value of the boolean.
    assert found.groups == 5


def test_a_rare_slice_has_its_part_of_the_anchors() -> None:
    anchors = Anchors(msgspec.structs.replace(SLICED, gate=msgspec.structs.replace(SLICED.gate, anchors=64)))
    for at in range(10):
        anchors.take(sliced([*["Rome"] * 96, *["Oslo"] * 4], first=100 * at))
    kept = anchors.kept
    assert kept is not None
    assert len(kept) == 64
    assert kept.strings[0].count("Oslo") >= 12


def test_no_more_slices_are_told_apart_than_there_is_room_for() -> None:
    anchors = Anchors(SLICED)
    anchors.take(sliced([f"c{i % 100}" for i in range(2000)]))
    assert len(anchors.save()[0]["groups"]) == SLICES_MAX + 3


def changed_twice() -> tuple[Anchors, int]:
    """Anchors of three regimes, thirty of each; the second change was noticed when ten of its anchors had come."""
    anchors = Anchors(SPEC)
    for at in range(9):
        if at == 3:
            anchors.change(0)
        if at == 7:
            anchors.change(100)
        anchors.take(events(["a", "b"] * 5, seed=at, first=10 * at))
        anchors.learned(100)
    return anchors, 90


def test_regimes_begin_where_the_change_was_and_what_is_lost_of_one_is_named() -> None:
    anchors, n = changed_twice()
    for _ in range(3):
        anchors.look(np.ones(n), nobody)
    anchors.compared(events(["a", "b", "c"]), np.array([0.25, 0.25, 5.0]))
    middle = (np.arange(n) >= 30) & (np.arange(n) < 60)
    found = anchors.look(np.where(middle, 0.0, 1.0), lambda: np.ones(n))
    assert (found.of, found.of_anchors, found.lost, found.is_shown) == ("regime 2", 30, 1.0, True)
    # What is over comes no more: what is known of the stream is what its classes are worth there.
    assert (found.live_events, found.live_gain) == (2, 0.25)
    assert found.groups == 5
    anchors.accept("regime 2")
    assert anchors.look(np.where(middle, 0.0, 1.0), nobody).lost == 0.0


def test_regimes_that_are_long_over_are_one_and_go_on_after_a_restart() -> None:
    anchors = Anchors(SPEC)
    for at in range(12):
        anchors.take(events(["a", "b"] * 6, seed=at, first=12 * at))
        anchors.learned(600)
        anchors.change(0)
        again = Anchors(SPEC)
        values, arrays = anchors.save()
        again.load(msgspec.msgpack.decode(msgspec.msgpack.encode(values)), arrays)
        anchors = again
    for _ in range(3):
        anchors.look(np.ones(144), nobody)
    # Of thirteen regimes the newest has no anchor yet; of the last eight the first is one with all before it.
    old = np.arange(144) < 72
    found = anchors.look(np.where(old, 0.0, 1.0), nobody)
    assert (found.of, found.of_anchors) == ("regimes up to 6", 72)
    assert found.groups == 2 + REGIMES_MAX - 1


def test_short_regimes_have_their_part_of_the_anchors() -> None:
    anchors = Anchors(msgspec.structs.replace(SPEC, gate=Gate(anchors=64)))
    for at in range(20):
        anchors.take(events(["a", "b"] * 50, seed=at, first=100 * at))
        anchors.learned(1000)
        if at == 0:
            anchors.change(0)
    kept = anchors.kept
    assert kept is not None
    assert sum(int(name[1:]) < 100 for name in kept.ids or () if name) == 32


def test_a_state_of_before_there_were_slices_and_regimes_is_read() -> None:
    anchors = with_anchors(20)
    for _ in range(3):
        anchors.look(np.ones(20), nobody)
    values, arrays = anchors.save()
    values = {name: values[name] for name in ("count", "since", "looks", "live")} | {"classes": ["a", "b"]}
    again = Anchors(SPEC)
    again.load(values, arrays | {"anchors.logits": arrays["anchors.logits"][:, :2]})
    found = again.look(np.where(np.arange(20) % 2, 0.0, 1.0), nobody)
    assert (found.of, found.of_anchors, found.lost) == ("class 'b'", 10, 1.0)


def test_all_groups_together_are_called_forgotten_by_luck_as_seldom_as_promised() -> None:
    shown = 0
    for seed in range(20):
        rng, anchors = np.random.default_rng(seed), Anchors(SLICED)
        anchors.take(sliced([f"c{i % 10}" for i in range(100)]))
        anchors.change(0)
        anchors.take(sliced([f"c{i % 10}" for i in range(100)], first=100))
        chance = rng.uniform(0.5, 1.0, 200)
        shown += any(anchors.look((rng.random(200) < chance).astype(float), nobody).is_shown for _ in range(40))
    assert shown <= 1


@settings(max_examples=20)
@given(st.data())
def test_when_gains_are_counted_changes_nothing(data: st.DataObject) -> None:
    whole, broken = Anchors(SLICED), Anchors(SLICED)
    for step in range(8):
        cities: list[str | None] = data.draw(st.lists(st.sampled_from(["Rome", "Oslo", "Bern", None]), max_size=6))
        batch = sliced(cities, ["a"] * len(cities), first=10 * step)
        for anchors in (whole, broken):
            anchors.compared(batch, np.arange(len(batch)) / 7.0)
            if step % 3 == 0:
                anchors.take(batch)
        if data.draw(st.booleans()):
            broken.save()
    assert whole.save()[0] == broken.save()[0]
