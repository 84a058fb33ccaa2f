"""When a learner is called stalled or behind."""

from penstock.serve.served import Pace


def test_a_learner_that_nobody_looked_at_while_nothing_waited_is_not_stalled():
    pace = Pace()
    pace.look(10, 10, 0.0)
    pace.look(11, 10, 500.0)
    assert (pace.stalled_s, pace.behind_s) == (0.0, 0.0)


def test_without_progress_both_figures_grow_from_the_first_look_at_what_waits():
    pace = Pace()
    pace.look(11, 10, 100.0)
    pace.look(12, 10, 130.0)
    assert (pace.stalled_s, pace.behind_s) == (30.0, 30.0)
    pace.look(12, 12, 140.0)
    assert (pace.stalled_s, pace.behind_s) == (0.0, 0.0)


def test_progress_that_does_not_reach_what_waited_is_behind_but_not_stalled():
    pace = Pace()
    for second in range(100):
        pace.look(1_000_000 + 10 * second, 5 * second, float(second))
    assert (pace.stalled_s, pace.behind_s) == (0.0, 99.0)


def test_a_learner_that_always_has_some_waiting_keeps_up():
    pace = Pace()
    for second in range(100):
        pace.look(10 * second + 15, 10 * second, float(second))
    assert pace.stalled_s == 0.0
    assert pace.behind_s <= 2.0
