"""How the learner forms steps: fair to partitions, inside frames, exact to repeat, and bounded."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import ReplayDiverged
from penstock.eventlog.interface import Entry
from penstock.events import Batch, Kind, Offset, Partition, Position, Range, Version, encode
from penstock.join.window import JoinWindow
from penstock.learn.fast.model import FastModel
from penstock.learn.interface import Learned, Predictions
from penstock.learn.learner import COMPARED_MAX, PENDING_EVENTS_PER_STEP_MAX, Learner, Taken, spread_over
from penstock.learn.prequential import FACTOR, Fading, Prequential, right
from penstock.spec import ClassName, Feature, Label, Learn, Spec
from penstock.testing.memory_log import MemoryLog, MemoryLogWriter
from penstock.testing.small_learner import SmallModel, SmallPredictor

STEP_MAX = 10


def spec() -> Spec:
    return Spec(name="small", task="multiclass", features={"x": Feature(type="number")}, learn=Learn(step_max=STEP_MAX))


def batch(kind: Kind, n: int, first: int = 0) -> Batch:
    """Event i has the number i and the label of its parity."""
    return Batch(
        kind=kind,
        times=np.zeros(n),
        ids=[f"p{first + i}" for i in range(n)] if kind is not Kind.EXAMPLE else None,
        sources=None,
        numbers=np.arange(first, first + n, dtype=np.float64).reshape(n, 0 if kind is Kind.FEEDBACK else 1)
        if kind is not Kind.FEEDBACK
        else np.empty((n, 0)),
        vectors=(),
        strings=(),
        labels=None if kind is Kind.PREDICTION else [ClassName(str((first + i) % 2)) for i in range(n)],
        versions=np.ones(n, np.uint64) if kind is Kind.PREDICTION else None,
    )


class House:
    """A memory log with a writer a partition, and learners of it."""

    def __init__(self, partitions: int = 1) -> None:
        self.log = MemoryLog(clock=lambda: 1000.0)
        self._writers = [self.log.writer(Partition(p)) for p in range(partitions)]

    def append(self, kind: Kind, n: int, partition: int = 0, first: int = 0) -> None:
        events = batch(kind, n, first)
        self._writers[partition].append([Entry(kind=kind, count=n, payload=encode(events))])

    def writer(self) -> MemoryLogWriter:
        return self._writers[0]

    def learner(self) -> Learner:
        return Learner(spec(), self.log.reader(), JoinWindow(60.0, 1000), SmallModel(columns=1))


def all_steps(learner: Learner) -> list[Taken]:
    taken = []
    while learner.backlog():
        step = learner.take()
        if step is not None:
            taken.append(step)
    last = learner.flush()
    return [*taken, last] if last is not None else taken


def test_a_class_too_many_in_the_log_is_set_aside_and_learning_goes_on() -> None:
    crowded = msgspec.structs.replace(spec(), label=Label(classes=(ClassName("1"),), classes_max=2))
    house = House()
    events = batch(Kind.EXAMPLE, 6)
    labels = [ClassName(name) for name in ("z", "a", "1", "z", "b", "1")]
    events = dataclasses.replace(events, labels=labels)
    for part in (slice(0, 3), slice(3, 6)):
        rows = events.rows(part)
        house.writer().append([Entry(kind=Kind.EXAMPLE, count=len(rows), payload=encode(rows))])
    learner = Learner(crowded, house.log.reader(), JoinWindow(60.0, 1000), FastModel(crowded))
    steps = all_steps(learner)
    assert [label for step in steps if step.batch for label in step.batch.labels or ()] == ["z", "1", "z", "1"]
    assert learner.set_aside == 2
    assert learner.position == {Partition(0): Offset(6)}
    again = Learner(crowded, house.log.reader(), JoinWindow(60.0, 1000), FastModel(crowded))
    for number, step in enumerate(steps):
        again.again(number, step.ranges)
    assert_same_state(learner, again)
    values, model = learner.save()
    restored = Learner(crowded, house.log.reader(), JoinWindow(60.0, 1000), FastModel(crowded))
    restored.load(values, model)
    assert restored.set_aside == 2


def assert_same_state(one: Learner, other: Learner) -> None:
    assert one.position == other.position
    (values, model), (other_values, other_model) = one.save(), other.save()
    assert values == other_values
    assert model.values == other_model.values
    assert model.arrays["weights"].tobytes() == other_model.arrays["weights"].tobytes()


def test_a_single_event_is_a_step_and_a_backlog_is_taken_in_steps_that_end_inside_frames() -> None:
    house = House()
    learner = house.learner()
    assert learner.take() is None
    house.append(Kind.EXAMPLE, 1)
    step = learner.take()
    assert step is not None
    assert step.ranges == ((0, 0, 1),)
    house.append(Kind.EXAMPLE, 25, first=1)
    steps = all_steps(learner)
    assert [step.ranges for step in steps] == [((0, 1, 11),), ((0, 11, 21),), ((0, 21, 26),)]
    learned = np.concatenate([step.batch.numbers[:, 0] for step in steps if step.batch is not None])
    assert learned.tolist() == list(range(1, 26)), "each event once, in order"


def test_partitions_share_a_step_and_what_one_leaves_goes_to_the_others() -> None:
    house = House(3)
    house.append(Kind.EXAMPLE, 2, partition=0)
    house.append(Kind.EXAMPLE, 100, partition=1)
    house.append(Kind.EXAMPLE, 100, partition=2)
    learner = house.learner()
    first, second = learner.take(), learner.take()
    assert first is not None
    assert second is not None
    assert first.ranges == ((0, 0, 2), (1, 0, 4), (2, 0, 4))
    assert second.ranges == ((1, 4, 9), (2, 4, 9))


def test_more_partitions_than_a_step_has_events_are_all_reached() -> None:
    house = House(3 * STEP_MAX)
    for partition in range(3 * STEP_MAX):
        house.append(Kind.EXAMPLE, 2, partition=partition)
    learner = house.learner()
    steps = all_steps(learner)
    assert {step.events for step in steps} == {STEP_MAX}
    assert len(learner.position) == 3 * STEP_MAX
    assert learner.backlog() == 0


def test_events_without_a_label_are_recorded_with_the_next_that_has_one() -> None:
    house = House()
    learner = house.learner()
    house.append(Kind.PREDICTION, 15)
    assert learner.take() is None
    assert learner.take() is None
    assert learner.position == {0: 15}
    with pytest.raises(ValueError, match="not recorded yet"):
        learner.save()
    house.append(Kind.FEEDBACK, 1, first=3)
    step = learner.take()
    assert step is not None
    assert step.ranges == ((0, 0, 10), (0, 10, 15), (0, 15, 16))
    assert step.events == 16
    assert step.batch is not None
    assert step.batch.numbers.tolist() == [[3.0]]
    assert learner.flush() is None


def test_a_long_run_without_a_label_is_recorded_after_all() -> None:
    house = House()
    learner = house.learner()
    bound = PENDING_EVENTS_PER_STEP_MAX * STEP_MAX
    house.append(Kind.PREDICTION, bound + 5)
    steps = all_steps(learner)
    assert [step.events for step in steps] == [bound, 5]
    assert all(step.learned is None and step.batch is None for step in steps)


def test_served_and_good_versions_are_scored_on_the_same_events_before_anything_is_learned_from_them() -> None:
    house = House()
    learner = house.learner()
    house.append(Kind.EXAMPLE, 10)
    learner.take()
    early = SmallPredictor(learner.model.freeze(Version(1), {}))
    house.append(Kind.EXAMPLE, 30, first=10)
    own = learner.take()
    learner.served, learner.good = early, early
    frozen = learner.model.freeze(Version(2), {})
    step = learner.take()
    assert own is not None
    assert own.learned is not None
    assert own.served is own.learned.losses
    assert own.good is None
    assert step is not None
    assert step.learned is not None
    assert step.batch is not None
    assert step.good is not None
    expected = early.losses(early.predict(step.batch), step.batch)
    assert step.served is not None
    assert np.array_equal(step.served, expected)
    assert np.array_equal(step.good, expected)
    candidate = SmallPredictor(frozen)
    assert np.array_equal(step.learned.losses, candidate.losses(candidate.predict(step.batch), step.batch))
    assert not np.array_equal(step.served, step.learned.losses)


KINDS = st.sampled_from([Kind.EXAMPLE, Kind.PREDICTION, Kind.FEEDBACK])
APPENDS = st.lists(
    st.tuples(KINDS, st.integers(1, 13), st.integers(0, 2), st.integers(0, 20), st.booleans()), min_size=1, max_size=25
)


@given(appends=APPENDS, cut=st.integers(0, 100))
def test_recorded_steps_taken_again_from_any_saved_state_give_the_same_state(
    appends: list[tuple[Kind, int, int, int, bool]], cut: int
) -> None:
    house = House(3)
    live = house.learner()
    recorded: list[tuple[Range, ...]] = []
    for kind, n, partition, first, takes in appends:
        house.append(kind, n, partition, first)
        step = live.take() if takes else None
        if step is not None:
            recorded.append(step.ranges)
    recorded += [step.ranges for step in all_steps(live)]
    assert sum(stop - start for ranges in recorded for _, start, stop in ranges) == sum(n for _, n, _, _, _ in appends)

    again = house.learner()
    at = cut % (len(recorded) + 1)
    for number, ranges in enumerate(recorded[:at], 1):
        again.again(number, ranges)
    restored = house.learner()
    restored.load(*again.save())
    for number, ranges in enumerate(recorded[at:], at + 1):
        assert restored.again(number, ranges).ranges == ranges
    assert_same_state(restored, live)


def test_a_step_that_does_not_begin_where_the_one_before_ended_is_refused() -> None:
    house = House()
    house.append(Kind.EXAMPLE, 30)
    learner = house.learner()
    learner.again(1, ((Partition(0), Offset(0), Offset(5)),))
    with pytest.raises(ReplayDiverged, match=r"step 7 gave another result.* at offset 5, and the step takes 6 to 9"):
        learner.again(7, ((Partition(0), Offset(6), Offset(9)),))


def test_a_restart_reads_no_events_before_those_it_says_it_needs() -> None:
    house = House()
    house.append(Kind.EXAMPLE, 20)
    house.append(Kind.PREDICTION, 20, first=100)
    house.append(Kind.FEEDBACK, 12, first=100)
    house.append(Kind.EXAMPLE, 30)
    learner = house.learner()
    all_steps(learner)
    needed: Position = learner.needed()
    assert needed == {0: 32}, "the first prediction that still waits"
    house._writers[0].remove_before(needed[Partition(0)])
    restored = house.learner()
    restored.load(*learner.save())
    assert_same_state(restored, learner)


def test_fading_means_weigh_each_value_a_thousandth_less_than_the_next_however_they_are_cut() -> None:
    values = np.random.default_rng(1).random(500)
    weights = FACTOR ** np.arange(499, -1, -1)
    at_once, piecewise = Fading(), Fading()
    at_once.add(values)
    for piece in np.array_split(values, 37):
        piecewise.add(piece)
    assert at_once.mean == pytest.approx(float(weights @ values / weights.sum()))
    assert piecewise.mean == pytest.approx(at_once.mean)
    assert np.isnan(Fading().mean)


def test_accuracy_counts_a_class_without_a_column_as_wrong_and_regressions_have_an_error_instead() -> None:
    classes = (ClassName("a"), ClassName("b"))
    predictions = Predictions(probabilities=np.array([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6]]))
    labels = [ClassName("a"), ClassName("a"), ClassName("new")]
    assert right(predictions, labels, classes).tolist() == [1.0, 0.0, 0.0]
    assert right(Predictions(probabilities=np.empty((3, 0))), labels, ()).tolist() == [0.0, 0.0, 0.0]
    measured = Prequential()
    numbers = Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(2),
        ids=None,
        sources=None,
        numbers=np.zeros((2, 1)),
        vectors=(),
        strings=(),
        labels=np.array([1.0, -3.0]),
        versions=None,
    )
    measured.add(Learned(Predictions(mean=np.array([2.0, 2.0])), np.array([0.5, 0.5]), True, 0.0), numbers, ())
    assert measured.error.mean == pytest.approx((FACTOR * 1.0 + 5.0) / (FACTOR + 1.0))
    assert np.isnan(measured.accuracy.mean)
    again = Prequential()
    again.load(measured.save())
    assert again.save() == measured.save()


@pytest.mark.parametrize("n", [257, 300, 511, 1024, 65_536])
def test_what_is_compared_of_a_long_step_is_spread_over_it_and_over_sources_that_take_turns(n: int) -> None:
    assert spread_over(COMPARED_MAX) is None
    places = spread_over(n)
    assert places is not None
    assert 0.7 * COMPARED_MAX <= len(places) <= COMPARED_MAX
    assert places[0] >= 0
    assert places[-1] < n
    assert np.diff(places).min() >= 1
    assert np.diff(places).max() <= 5 * n / COMPARED_MAX
    for period in (2, 3, 4, 5, 8):
        share = np.bincount(places % period, minlength=period) / len(places)
        assert share == pytest.approx(1 / period, rel=0.35)


def test_versions_are_compared_on_the_same_events_of_a_long_step() -> None:
    log = MemoryLog(clock=lambda: 1000.0)
    events = batch(Kind.EXAMPLE, 2000)
    log.writer().append([Entry(kind=Kind.EXAMPLE, count=2000, payload=encode(events))])
    long_steps = msgspec.structs.replace(spec(), learn=Learn(step_max=1000, catch_up_s=0.0))
    learner = Learner(long_steps, log.reader(), JoinWindow(60.0, 1000), SmallModel(columns=1))
    assert learner.take() is not None
    learner.good = SmallPredictor(learner.model.freeze(Version(2), {}))
    taken = learner.take()
    assert taken is not None
    assert taken.learned is not None
    assert taken.compared is not None
    assert taken.good is not None
    # The model did not change since the good version was frozen, so it loses the same on the same events.
    assert taken.good.tolist() == taken.learned.losses[taken.compared].tolist()
    assert not learner.behind


def test_what_is_corrected_within_a_step_is_learned_once_and_right() -> None:
    house = House()
    house.append(Kind.PREDICTION, 4)
    house.append(Kind.FEEDBACK, 3)
    corrected = dataclasses.replace(batch(Kind.FEEDBACK, 2, first=1), labels=[ClassName("7"), None])  # type: ignore[list-item]
    house.writer().append([Entry(kind=Kind.FEEDBACK, count=2, payload=encode(corrected))])
    learner = house.learner()
    steps = all_steps(learner)
    assert [label for step in steps if step.batch for label in step.batch.labels or ()] == ["0", "7"]
    assert (learner.join.counts.corrected, learner.join.counts.retracted) == (1, 1)


def test_late_feedback_is_learned_with_the_features_that_the_log_has() -> None:
    times = iter([1000.0, 1001.0, 1100.0, 1101.0, 1200.0])
    log = MemoryLog(clock=lambda: next(times))
    writer = log.writer(Partition(0))
    for kind, n, first in (
        (Kind.PREDICTION, 4, 0),
        (Kind.PREDICTION, 4, 4),
        (Kind.FEEDBACK, 2, 6),
        (Kind.FEEDBACK, 3, 1),
    ):
        writer.append([Entry(kind=kind, count=n, payload=encode(batch(kind, n, first)))])
    join = JoinWindow(50.0, 1000, late="learn", late_for_s=1000.0)
    learner = Learner(spec(), log.reader(), join, SmallModel(columns=1))
    assert learner.needed() == {}
    steps = all_steps(learner)
    numbers = [value for step in steps if step.batch for value in step.batch.numbers[:, 0].tolist()]
    assert numbers == [6.0, 7.0, 1.0, 2.0, 3.0]
    assert join.counts.late_learned == 5
    # The prediction that was not answered yet stands at the very beginning, and the log is kept for it.
    assert learner.needed() == {Partition(0): Offset(0)}
