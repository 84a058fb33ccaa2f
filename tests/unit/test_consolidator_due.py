"""When a base is trained again: by schedule, after a drift, or when somebody asks, and never two at once."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.control.due import FIRST_RETRY_S, RETRY_MAX_S, after_failure, why_now
from penstock.events import Version
from penstock.publish.candidates.consolidating import Consolidating
from penstock.publish.interface import Progress, SlowTier
from penstock.spec import Consolidate


def why(
    labelled: int,
    *,
    when: Any = "auto",
    asked: bool = False,
    challenged: bool = False,
    state: Consolidating | None = None,
    now: float = 1e9,
    **slow: Any,
) -> str:
    progress = Progress(
        version=Version(7), examples_learned=labelled + 5, feedback_learned=3, set_aside=8, slow=SlowTier(**slow)
    )
    settings = Consolidate(when=when, every_events=1000)
    return why_now(settings, progress, state or Consolidating(), asked=asked, challenged=challenged, now=now)


@pytest.mark.parametrize(
    ("when", "labelled", "expected"),
    [("auto", 999, ""), ("auto", 1000, "schedule"), ("schedule", 1000, "schedule"), ("request", 10**6, "")],
)
def test_so_many_labelled_events_make_it_due(when: str, labelled: int, expected: str) -> None:
    assert why(labelled, when=when) == expected


def test_events_are_counted_from_the_end_of_the_newest_candidate() -> None:
    assert why(1999, settled=1, settled_events=1000) == ""
    assert why(2000, settled=1, settled_events=1000) == "schedule"


def test_a_drift_makes_it_due_when_enough_of_the_new_stream_has_come() -> None:
    assert why(549, drifted_events=500) == ""
    assert why(550, drifted_events=500) == "drift"
    assert why(550, drifted_events=500, when="schedule") == ""
    assert why(990, drifted_events=400, settled=1, settled_events=500) == "", "the newest candidate knew of it"


def test_one_in_shadow_is_waited_for_even_when_somebody_asks() -> None:
    assert why(10**6, shadow=3, asked=True) == ""
    assert why(10**6, catching_up=3, asked=True) == ""
    assert why(10, asked=True) == "request"
    assert why(10, asked=True, when="request") == "request"
    assert why(10, asked=True, when="never") == ""


def test_other_settings_are_tried_first_and_also_where_no_base_is_ever_trained() -> None:
    assert why(10**6, challenged=True, asked=True) == "challenge"
    assert why(10, challenged=True, when="never") == "challenge"
    assert why(10, challenged=True, shadow=3) == ""
    assert why(10, challenged=True, catching_up=3) == ""


def test_a_long_training_is_rested_from_unless_somebody_asks() -> None:
    ended = Consolidating(phase="waiting", number=1, since=1e9, took_s=100.0)
    assert why(1000, state=ended, now=1e9 + 299.0) == ""
    assert why(550, drifted_events=500, state=ended, now=1e9 + 299.0) == ""
    assert why(1000, state=ended, now=1e9 + 301.0) == "schedule"
    assert why(1000, state=ended, now=1e9 + 1.0, asked=True) == "request"


def test_nothing_is_due_before_the_first_version() -> None:
    assert why_now(Consolidate(), Progress(examples_learned=10**6), Consolidating(), asked=True, now=0.0) == ""


def test_failures_are_tried_again_ever_more_seldom_but_at_once_when_asked() -> None:
    state, waits = Consolidating(), []
    for _ in range(12):
        state = after_failure(state, "why", now=100.0)
        waits.append(state.retry_at - 100.0)
    assert waits[:3] == [FIRST_RETRY_S, 2 * FIRST_RETRY_S, 4 * FIRST_RETRY_S]
    assert max(waits) == waits[-1] == RETRY_MAX_S
    assert why(10**6, state=state, now=100.0 + RETRY_MAX_S - 1) == ""
    assert why(10**6, state=state, now=100.0 + RETRY_MAX_S) == "schedule"
    assert why(10**6, state=state, now=101.0, asked=True) == "request"
