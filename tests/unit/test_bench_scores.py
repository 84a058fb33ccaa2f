"""The scores of `bench learn`, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.benchmarks.learn_report import Comparison, Contender, Row, StreamReport, aims, compare, row
from penstock.cli.benchmarks.scores import (
    Scorer,
    Scores,
    calibration_error,
    kappa_temporal,
    log_loss,
    proper,
    repeats,
)
from penstock.cli.benchmarks.trial import Trial, failed


def test_log_loss_is_the_mean_of_what_came_and_certain_errors_are_bounded() -> None:
    assert log_loss(np.array([0.5, 0.25])) == pytest.approx(1.5 * math.log(2))
    assert log_loss(np.array([0.0])) == pytest.approx(6 * math.log(10))


def test_calibration_error_weighs_each_of_15_bins_by_its_events() -> None:
    # Bin 9 of 15 is [0.6, 0.667): mean confidence 0.62, one of two right. Bin 14 has 1.0: one of one right.
    confidence = np.array([0.61, 0.63, 1.0])
    hits = np.array([True, False, True])

    assert calibration_error(confidence, hits) == pytest.approx(2 / 3 * (0.62 - 0.5) + 1 / 3 * 0.0)
    # 0.65 and 0.67 are in different bins of 15: each is off by itself, and the errors do not cancel.
    assert calibration_error(np.array([0.65, 0.67]), np.array([True, False])) == pytest.approx((0.35 + 0.67) / 2)


def test_kappa_temporal_is_the_share_of_the_way_from_no_change_to_perfect() -> None:
    assert kappa_temporal(0.9, 0.8) == pytest.approx(0.5)
    assert kappa_temporal(0.7, 0.8) == pytest.approx(-0.5)
    assert kappa_temporal(1.0, 1.0) is None


def test_no_change_knows_the_last_label_of_the_step_before_and_none_later() -> None:
    codes = np.array([2, 1, 0, 2, 1, 1, 0])

    assert repeats(codes, 1).tolist() == [0, 2, 1, 0, 2, 1, 1]
    assert repeats(codes, 3).tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert repeats(codes, 100).tolist() == [0] * 7


def test_an_answer_that_says_nothing_gives_every_class_the_same_and_votes_become_shares() -> None:
    answers = np.array([[0.0, 0.0], [3.0, 1.0], [np.nan, np.nan], [np.inf, 0.2], [-1.0, 0.5]])

    assert proper(answers).tolist() == [[0.5, 0.5], [0.75, 0.25], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]]


def test_scores_of_a_stream_worked_out_by_hand() -> None:
    scorer = Scorer(np.array([0, 1, 1, 0]), step=2)
    scorer.add(np.array([[0.8, 0.2], [0.4, 0.6]]))
    scorer.add(np.array([[0.9, 0.1], [0.7, 0.3]]))
    found = scorer.scores()

    assert scorer.hits.tolist() == [True, True, False, True]
    assert found.accuracy == 0.75
    assert found.log_loss == pytest.approx(-(math.log(0.8) + math.log(0.6) + math.log(0.1) + math.log(0.7)) / 4)
    # Each answer has a bin of its own: 0.8 right, 0.6 right, 0.9 wrong, 0.7 right.
    assert found.ece == pytest.approx((0.2 + 0.4 + 0.9 + 0.3) / 4)
    # No-change says 0, 0, then 1, 1: right twice.
    assert found.kappa_temporal == pytest.approx((0.75 - 0.5) / 0.5)


def test_scores_of_a_prefix_are_those_of_a_stream_that_ends_there() -> None:
    codes = np.array([0, 1, 1, 0, 1, 0])
    answers = np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1]])
    long, short = Scorer(codes, step=1), Scorer(codes[:3], step=1)
    long.add(answers)
    short.add(answers)

    assert long.scores() == short.scores()


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=40), st.integers(1, 9))
def test_scores_do_not_depend_on_how_answers_are_cut_into_steps(events: list[tuple[float, int]], cut: int) -> None:
    codes = np.array([code for _, code in events])
    answers = np.array([[1 - chance, chance] for chance, _ in events])
    whole, parts = Scorer(codes, 1), Scorer(codes, 1)
    whole.add(answers)
    for at in range(0, len(codes), cut):
        parts.add(answers[at : at + cut])

    assert whole.scores() == parts.scores()
    assert 0 <= whole.scores().ece <= 1


def _trial(hits: list[bool], speed: float = 100.0) -> Trial:
    right = np.array(hits)
    scores = Scores(accuracy=float(right.mean()), log_loss=0.0, ece=0.0, kappa_temporal=None)
    return Trial(events=len(hits), scores=scores, events_per_s=speed, memory_mb=1.0, right=np.packbits(right).tobytes())


def test_a_peer_on_a_prefix_is_compared_with_ours_on_the_same_events() -> None:
    ours = _trial([True] * 1000 + [False] * 1000)
    theirs = _trial([True] * 900 + [False] * 100)

    found = compare("s", 1, 2000, ours, [Contender("forest", theirs)])

    assert (found.best_peer, found.best_peer_events, found.best_peer_accuracy) == ("forest", 1000, 0.9)
    assert (found.accuracy, found.accuracy_there, found.difference) == (0.5, 1.0, 0.1)
    assert found.fastest_peer is None
    assert row("forest", theirs, 2000).events == 1000
    assert row("penstock", ours, 2000).events is None


def test_the_best_peer_is_the_one_least_behind_and_speed_counts_within_two_points() -> None:
    ours = _trial([True] * 1800 + [False] * 200, speed=500.0)
    peers = [
        Contender("close", _trial([True] * 1770 + [False] * 230, speed=100.0)),
        Contender("better", _trial([True] * 1820 + [False] * 180, speed=10.0)),
        Contender("fast_but_worse", _trial([True] * 1500 + [False] * 500, speed=9e9)),
        Contender("no_change", _trial([True] * 1790 + [False] * 210, speed=9e9)),
        Contender("few_events", _trial([True] * 999, speed=9e9)),
        Contender("crashed", failed("crashed: it ran out of memory")),
    ]

    found = compare("s", 1, 2000, ours, peers)

    assert (found.best_peer, found.difference) == ("better", -0.01)
    assert (found.fastest_peer, found.speed_ratio) == ("close", 5.0)


def test_a_comparison_without_ours_or_without_peers_says_nothing() -> None:
    nobody = compare("s", 1, 2000, _trial([True] * 2000), [])
    crashed = compare("s", 1, 2000, failed("crashed"), [Contender("peer", _trial([True] * 2000))])

    assert nobody.best_peer is crashed.best_peer is None
    assert crashed.accuracy is crashed.difference is None
    assert row("penstock", failed("crashed"), 2000).note == "crashed"


def _compared(name: str, difference: float | None, ratio: float | None) -> Comparison:
    return Comparison(
        name=name,
        step=1,
        events=2000,
        accuracy=0.9,
        best_peer="peer",
        best_peer_events=2000,
        best_peer_accuracy=0.9,
        accuracy_there=0.9,
        difference=difference,
        fastest_peer="peer",
        speed_ratio=ratio,
    )


def _rows(name: str, ece: float) -> StreamReport:
    ours = Row(
        model="penstock",
        accuracy=0.9,
        log_loss=0.3,
        ece=ece,
        kappa_temporal=0.5,
        events_per_s=1.0,
        memory_mb=1.0,
    )
    return StreamReport(name=name, step=1, rows=[ours])


def test_aims_count_streams_and_name_those_that_miss() -> None:
    summary = [
        _compared("a", 0.01, 25.0),
        _compared("b", -0.004, 20.0),
        _compared("c", -0.006, 19.0),
        _compared("d", None, None),
    ]
    close, best, calibrated, fast = aims(summary, [_rows("agrawal", 0.04), _rows("phishing", 0.03), _rows("sea", 0.5)])

    assert (close.reached, close.of, close.is_met, close.missed) == (2, 3, False, ["c/1 -0.006"])
    assert (best.reached, best.of, best.is_met) == (1, 3, False)
    assert (calibrated.reached, calibrated.of, calibrated.missed) == (1, 2, ["agrawal/1 0.04"])
    assert (fast.reached, fast.of, fast.is_met) == (2, 3, False)
    assert aims([_compared("a", 0.01, 30.0), _compared("b", 0.01, 30.0), _compared("c", -0.001, 30.0)], [])[1].is_met
