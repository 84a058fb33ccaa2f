"""The ladder and its alerts, over every way of spending."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from penstock.control.budget.alerts import Alert, blind, due
from penstock.control.budget.ladder import BEGINS, CLEARLY, FORECAST_RUNG, Standing, decide
from penstock.control.budget.limits import Change, Limits, in_force
from penstock.publish.notices.allowance import HEIGHT, RUNGS, Rung

AMOUNTS = st.floats(0.0, 3.0)
STANDINGS = st.lists(
    st.builds(
        Standing,
        period=st.just("day"),
        key=st.just("2026-07-31"),
        limit=st.sampled_from([0.0, 0.5, 1.0]),
        spent=AMOUNTS,
        ahead=st.floats(0.0, 0.1),
        forecast=st.none() | AMOUNTS,
    ),
    max_size=3,
)
RUNG = st.sampled_from(RUNGS)


def day(spent: float, limit: float = 1.0, forecast: float | None = None, ahead: float = 0.0) -> Standing:
    return Standing(period="day", key="2026-07-31", limit=limit, spent=spent, ahead=ahead, forecast=forecast)


@given(STANDINGS, RUNG, st.booleans(), st.floats(0.0, 1.0), st.integers(0, 2))
def test_more_spending_is_never_a_lower_rung(
    standings: list[Standing], rung: Rung, may_stop: bool, more: float, which: int
) -> None:
    before = decide(rung, standings, may_stop=may_stop)
    if which < len(standings):
        one = standings[which]
        dearer = Standing(
            period=one.period, key=one.key, limit=one.limit, spent=one.spent + more, ahead=one.ahead,
            forecast=None if one.forecast is None else one.forecast + more,
        )  # fmt: skip
        after = decide(rung, [*standings[:which], dearer, *standings[which + 1 :]], may_stop=may_stop)
        assert HEIGHT[after.rung] >= HEIGHT[before.rung]


@given(STANDINGS, RUNG, st.booleans())
def test_the_same_standings_come_to_rest_and_stay_there(standings: list[Standing], rung: Rung, may_stop: bool) -> None:
    for _ in RUNGS:
        rung = decide(rung, standings, may_stop=may_stop).rung
    assert decide(rung, standings, may_stop=may_stop).rung == rung


@given(RUNG, st.booleans())
def test_every_rung_is_left_again_one_at_a_time(rung: Rung, may_stop: bool) -> None:
    walked = [rung]
    while walked[-1] != "free":
        walked.append(decide(walked[-1], [day(0.0)], may_stop=may_stop).rung)
    assert [HEIGHT[each] for each in walked] == list(range(HEIGHT[rung], -1, -1))


@given(STANDINGS, RUNG)
def test_predictions_end_only_where_that_was_asked_for(standings: list[Standing], rung: Rung) -> None:
    decided = decide(rung, standings, may_stop=False).rung
    assert decided != "stop" or rung == "stop"
    assert decide("serving_floor", standings, may_stop=False).rung != "stop"


def test_each_rung_begins_at_its_share_and_ends_clearly_below() -> None:
    for rung, share in BEGINS.items():
        assert decide("free", [day(share)], may_stop=True).rung in (rung, "stop")
        below = decide("free", [day(share - 1e-9)], may_stop=True).rung
        assert HEIGHT[below] < HEIGHT[rung]
        assert decide(rung, [day(share - CLEARLY / 2)], may_stop=True).rung == rung
        assert HEIGHT[decide(rung, [day(share - 1.1 * CLEARLY)], may_stop=True).rung] == HEIGHT[rung] - 1


def test_what_will_be_spent_before_anything_can_be_done_counts_and_a_forecast_alone_does_little() -> None:
    assert decide("free", [day(0.94, ahead=0.02)], may_stop=False).rung == "pause_learning"
    assert decide("free", [day(0.1, forecast=50.0)], may_stop=True).rung == FORECAST_RUNG
    assert decide("free", [day(0.0, limit=0.0)], may_stop=False).rung == "serving_floor"
    assert decide("stop", [], may_stop=False).rung == "serving_floor"


def test_a_decision_says_its_numbers() -> None:
    why = decide("free", [day(0.2, limit=7.0), day(0.85)], may_stop=False).why
    assert "0.85 of 1 for the day 2026-07-31 are spent (85.0%)" in why


@given(st.lists(AMOUNTS, min_size=1, max_size=30))
def test_each_threshold_is_told_once_for_what_is_spent_and_once_for_what_is_forecast(amounts: list[float]) -> None:
    told: dict[str, float] = {}
    for spent in amounts:
        for alert in due(
            "orders", [day(spent, forecast=2 * spent)], (0.5, 0.8, 1.0), set(told), currency="USD", at=1.0
        ):
            assert alert.id not in told
            told[alert.id] = alert.percent
    most = max(amounts)
    expected = [100 * t for t in (0.5, 0.8, 1.0) if most >= t] + [100 * t for t in (0.5, 0.8, 1.0) if 2 * most >= t]
    assert sorted(told.values()) == sorted(round(each, 6) for each in expected)


def test_a_new_day_and_a_new_limit_are_told_anew() -> None:
    told: set[str] = set()
    tomorrow = Standing(period="day", key="2026-08-01", limit=1.0, spent=0.6)
    for standing in (day(0.6), day(0.6), tomorrow, day(1.2, limit=2.0)):
        told |= {alert.id for alert in due("a", [standing], (0.5,), told, currency="USD", at=1.0)}
    assert len(told) == 3


def test_an_alert_of_a_limit_of_nothing_can_be_read_back() -> None:
    standing = Standing(period="day", key="2026-07-31", limit=0.0, spent=1.0)
    (alert,) = blind("a", standing, 0.0, "nobody counts", set(), currency="USD", at=1.0)
    assert msgspec.json.decode(msgspec.json.encode(alert), type=Alert) == alert


def change(id_: str, at: float, **more: object) -> Change:
    return Change(id=id_, at=at, scope=str(more.pop("scope", "a")), by="me", **more)  # type: ignore[arg-type]


def test_what_is_allowed_for_a_while_counts_before_what_was_set_and_that_before_the_file() -> None:
    file = Limits(per_day=1.0, per_month=20.0)
    changes = [
        change("1", 10, per_day=2.0),
        change("2", 20, per_day=9.0, until=100.0),
        change("3", 30, per_day=3.0),
        change("4", 35, per_day=77.0, scope="b"),
    ]
    assert in_force("a", file, [], 5) == file
    assert in_force("a", file, changes, 50) == Limits(per_day=9.0, per_month=20.0)
    assert in_force("a", file, changes, 100) == Limits(per_day=3.0, per_month=20.0)
    assert in_force("a", file, [*changes, change("5", 40, is_reset=True)], 50) == file
    assert in_force("a", file, [*reversed(changes), *changes], 50).per_day == 9.0
