"""The demo's streams: the same for the same seed, honest about what is held out and about what is known when."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from penstock.cli.demonstration.freshness import Freshness
from penstock.cli.demonstration.naive import NaiveSoftmax
from penstock.cli.demonstration.streams import (
    CHANGE_MAX,
    HELD_OUT_EVERY,
    PHASES,
    DigitStream,
    digit_stream,
    flow_stream,
    hours_ahead,
    shifted,
)
from penstock.cli.demonstration.wire import Ack, Answer, covers, read_position


@pytest.fixture(scope="module")
def digits() -> DigitStream:
    return digit_stream(seed=3, passes=(3, 3, 3, 3, 3), wrong=100)


def test_the_same_seed_gives_the_same_digits(digits: DigitStream) -> None:
    again, other = (digit_stream(seed=seed, passes=(3, 3, 3, 3, 3), wrong=100) for seed in (3, 4))
    for one, two in zip((*digits.events, *digits.wrong), (*again.events, *again.wrong), strict=True):
        assert (one.id, one.phase, one.label) == (two.id, two.phase, two.label)
        np.testing.assert_array_equal(one.pixels, two.pixels)
    np.testing.assert_array_equal(digits.held_out.pixels, other.held_out.pixels)
    assert [event.label for event in digits.events] != [event.label for event in other.events]


def test_held_out_digits_are_never_sent(digits: DigitStream) -> None:
    sent = {event.pixels.tobytes() for event in (*digits.events, *digits.wrong)}
    assert not any(row.tobytes() in sent for row in digits.held_out.pixels)
    held_out = np.bincount(digits.held_out.labels)
    first_passes = np.bincount([event.label for event in digits.events]) // 3
    np.testing.assert_array_equal(held_out, np.ceil((held_out + first_passes) / HELD_OUT_EVERY))


def test_classes_arrive_two_at_a_time_and_every_id_once(digits: DigitStream) -> None:
    phases = [event.phase for event in digits.events]
    assert phases == sorted(phases)
    for phase, pair in enumerate(PHASES):
        assert {event.label for event in digits.events if event.phase == phase} == set(pair)
    ids = [event.id for event in (*digits.events, *digits.wrong)]
    assert len(set(ids)) == len(ids)


def test_only_classes_that_have_arrived_are_asked_about(digits: DigitStream) -> None:
    held_out = digits.held_out
    assert set(held_out.labels[held_out.seen(1)]) == {0, 1, 2, 3}
    assert len(held_out.seen(len(PHASES) - 1)) == len(held_out.labels)


def test_wrong_labels_are_wrong_and_of_classes_seen_by_the_middle(digits: DigitStream) -> None:
    truth = {event.pixels.tobytes(): event.label for event in digits.events}
    assert len(digits.wrong) == 100
    for event in digits.wrong:
        assert event.label != truth[event.pixels.tobytes()]
        assert event.label < 6


def test_a_shift_moves_the_image_and_empties_the_edge() -> None:
    image = np.arange(1, 65, dtype=np.float32).reshape(8, 8)
    moved = shifted(image.reshape(64), 1.0, -1.0).reshape(8, 8)
    np.testing.assert_array_equal(moved[:7, 1:], image[1:, :7])
    assert not moved[7].any()
    assert not moved[:, 0].any()
    np.testing.assert_array_equal(shifted(image.reshape(64), 0.0, 0.0).reshape(8, 8), image)
    half = shifted(image.reshape(64), 0.5, 0.0).reshape(8, 8)
    np.testing.assert_allclose(half[:, 1:], (image[:, 1:] + image[:, :-1]) / 2)
    np.testing.assert_allclose(half[:, 0], image[:, 0] / 2)


def test_flow_features_know_nothing_of_the_hour_that_is_asked_about() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=1))
    began = datetime.datetime(2022, 3, 20, tzinfo=zone)
    flows = [100.0 + (hour * 7 % 11) for hour in range(40)]
    record = [(began + datetime.timedelta(hours=hour), flow) for hour, flow in enumerate(flows)]
    changed = record[:35] + [(time, flow + 50.0) for time, flow in record[35:]]
    before, after = hours_ahead(record), hours_ahead(changed)
    assert before[:34] == after[:34]
    assert before[34].features == after[34].features
    assert before[34].actual != after[34].actual
    assert before[34].features["last_change"] == flows[34] - flows[33]
    assert before[34].features["above_yesterday"] == flows[34] - flows[10]
    assert before[34].features["change_yesterday"] == flows[11] - flows[10]


def test_a_gap_makes_features_missing_instead_of_wrong() -> None:
    began = datetime.datetime(2022, 3, 20, tzinfo=datetime.UTC)
    record = [(began + datetime.timedelta(hours=hour), float(hour)) for hour in range(60) if hour != 40]
    at_41 = next(hour for hour in hours_ahead(record) if hour.time.day == 21 and hour.time.hour == 17)
    assert at_41.last == 39.0
    assert "last_change" not in at_41.features
    assert "above_yesterday" not in at_41.features
    assert at_41.features["change_yesterday"] == 1.0


def test_a_change_of_the_clocks_neither_repeats_nor_skips_an_hour() -> None:
    winter, summer = (datetime.timezone(datetime.timedelta(hours=hours)) for hours in (1, 2))
    record = [
        (datetime.datetime(2022, 3, 27, 1, tzinfo=winter), 1.0),
        (datetime.datetime(2022, 3, 27, 3, tzinfo=summer), 3.0),
        (datetime.datetime(2022, 3, 27, 4, tzinfo=summer), 7.0),
    ]
    assert hours_ahead(record)[1].features["last_change"] == 2.0


def test_the_record_is_served_whole_and_its_labels_are_bounded() -> None:
    hours = flow_stream()
    assert len(hours) == 1267
    assert max(abs(hour.change) for hour in hours) == CHANGE_MAX
    assert np.mean([abs(hour.actual - hour.last) for hour in hours]) == pytest.approx(0.631, abs=0.001)


def test_the_naive_learner_learns_and_forgets(digits: DigitStream) -> None:
    naive = NaiveSoftmax(64, 10)
    held_out = digits.held_out
    first = held_out.seen(0)
    accuracy = []
    for phase in range(len(PHASES)):
        for event in digits.events:
            if event.phase == phase:
                naive.learn(event.pixels, event.label)
        accuracy.append(float((naive.predict(held_out.pixels[first]) == held_out.labels[first]).mean()))
    newest = np.flatnonzero(np.isin(held_out.labels, PHASES[-1]))
    assert accuracy[0] > 0.95
    assert accuracy[-1] < 0.5
    assert (naive.predict(held_out.pixels[newest]) == held_out.labels[newest]).mean() > 0.85


def ack(offset: int, at: float) -> Ack:
    return Ack(accepted=1, position={"0": offset}, at=at)


def answer(offset: int, at: float) -> Answer:
    return Answer(predictions=[], position={"0": offset}, at=at)


def test_freshness_counts_from_the_acknowledgement_to_the_first_version_that_includes_it() -> None:
    freshness = Freshness()
    freshness.acknowledged(ack(10, at=1.0))
    freshness.acknowledged(ack(20, at=1.5))
    freshness.predicted(answer(9, at=1.6), None)
    assert freshness.unseen() == 2
    freshness.predicted(answer(10, at=2.0), None)
    freshness.predicted(answer(25, at=3.0), None)
    assert freshness.measured() == [(1.0, 1000.0), (1.5, 1500.0)]
    assert freshness.unseen() == 0


def test_a_killed_learner_has_caught_up_when_an_event_after_the_kill_and_all_before_the_question_are_included() -> None:
    freshness = Freshness()
    before, after = ack(10, at=1.0), ack(20, at=2.5)
    freshness.acknowledged(before)
    freshness.killed(2.0)
    freshness.predicted(answer(10, at=2.1), before)
    assert freshness.caught_up_ms() is None
    freshness.acknowledged(after)
    freshness.predicted(answer(15, at=2.9), after)
    assert freshness.caught_up_ms() is None
    freshness.predicted(answer(20, at=3.0), after)
    assert freshness.caught_up_ms() == 1000.0


def test_positions_are_compared_partition_by_partition() -> None:
    assert read_position("0:12, 1:7") == {"0": 12, "1": 7}
    assert read_position("") == {}
    assert covers({"0": 12, "1": 7}, {"0": 12})
    assert not covers({"0": 12, "1": 7}, {"0": 11, "1": 8})
    assert not covers({"0": 12}, {"1": 1})
