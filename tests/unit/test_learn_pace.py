"""How long steps are: short for what can be caught up with in time, long under a flood."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.learn.pace import OUTLIER, STEP_MIN, Pace

STEP_MAX = 1024


def measured(catch_up_s: float = 0.5, a: float = 3e-3, b: float = 4e-6) -> Pace:
    """A pace that has seen steps of many lengths, each of a + b m seconds."""
    pace = Pace(STEP_MAX, catch_up_s)
    for events in (1, 64, 200, 1024) * 50:
        pace.cost(events, a + b * events)
    return pace


def catching_up(pace: Pace, backlog: int, a: float = 3e-3, b: float = 4e-6) -> tuple[int, float]:
    """The longest step, and the seconds until nothing is left."""
    longest, seconds = 0, 0.0
    while backlog:
        size = pace.size(backlog)
        longest, seconds, backlog = max(longest, size), seconds + a + b * size, backlog - size
    return longest, seconds


def test_a_file_of_some_thousand_events_is_learned_in_short_steps_and_in_time() -> None:
    longest, seconds = catching_up(measured(), 6000)
    assert STEP_MIN <= longest <= 80
    assert seconds <= 0.51
    longest, seconds = catching_up(measured(), 30_000)
    assert 200 < longest < STEP_MAX
    assert seconds <= 0.51


def test_what_cannot_be_caught_up_with_is_learned_in_the_longest_steps() -> None:
    assert measured().size(10_000_000) >= 0.99 * STEP_MAX
    flooded = measured()
    for tick in range(1000):
        flooded.arrived(1000 * tick, 0.01 * tick)
    assert flooded.size(2048) == STEP_MAX, "100,000 events a second and more go on to arrive"
    for tick in range(100):
        flooded.arrived(999_000, 10.0 + 0.2 * tick)
    assert flooded.size(2048) < 200, "they did not"


def test_what_piled_up_in_a_short_pause_of_a_steady_stream_is_taken_at_once() -> None:
    pace = measured()
    for tick in range(2000):
        pace.arrived(100 * tick, 0.005 * tick)
    assert pace.size(100) == 100
    assert pace.size(1000) == 1000, "50 ms at 20,000 events a second"
    assert pace.size(3000) == STEP_MAX
    assert pace.size(6000) < 600


def test_without_time_to_catch_up_steps_are_as_long_as_they_may_be() -> None:
    assert Pace(STEP_MAX, 0.0).size(6000) == STEP_MAX
    assert Pace(STEP_MAX, 0.0).size(30) == 30


def test_a_step_that_was_interrupted_does_not_change_much() -> None:
    before, interrupted = measured(), measured()
    interrupted.cost(100, 60.0)
    expected = catching_up(before, 6000)[0]
    assert catching_up(interrupted, 6000)[0] == pytest.approx(expected, rel=0.05 * OUTLIER)


@given(
    st.integers(1, 10**7),
    st.floats(0, 3600),
    st.integers(1, 65_536),
    st.lists(st.tuples(st.integers(1, 65_536), st.floats(0, 1e3)), max_size=30),
    st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 10)), max_size=30),
)
def test_whatever_was_measured_a_step_holds_something_and_not_more_than_may_be(
    waiting: int, catch_up_s: float, step_max: int, costs: list[tuple[int, float]], arrivals: list[tuple[int, float]]
) -> None:
    pace = Pace(step_max, catch_up_s)
    end, now = 0, 0.0
    for events, seconds in costs:
        pace.cost(events, seconds)
    for more, later in arrivals:
        end, now = end + more, now + later
        pace.arrived(end, now)
    size = pace.size(waiting)
    assert 1 <= size <= min(waiting, step_max)
    assert size >= min(waiting, step_max, STEP_MIN) / 2, "an equal share of what is waiting"
