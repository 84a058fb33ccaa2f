"""The evidence is what its formula says, keeps its promise under harmless streams, and sees harm that a past hides."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from penstock.gate.sequential import (
    ALARM_STAKES,
    CAPITAL_MAX,
    STAKES,
    START_SCALE,
    TILTS,
    Alarm,
    Array,
    HarmProcess,
    MeanInterval,
)

differences = arrays(np.float64, st.integers(0, 60), elements=st.floats(-1, 1))


def given_out(events: int) -> float:
    """The starting capital that was bet within so many events."""
    return 1.0 - 1.0 / (1.0 + math.log1p(events / START_SCALE))


def capital(x: Array) -> float:
    """Every stake and every start by itself."""
    total = 0.0
    for stake in STAKES:
        for start in range(len(x)):
            weight = given_out(start + 1) - given_out(start)
            total += weight * float(np.prod(1.0 + stake * x[start:])) / len(STAKES)
    return total


@given(differences, st.lists(st.integers(0, 60), max_size=4))
def test_the_recursion_is_the_sum_over_all_starts_however_the_events_are_cut_into_steps(
    x: Array, cuts: list[int]
) -> None:
    process = HarmProcess()
    values = np.concatenate([process.course(part) for part in np.split(x, sorted(cuts))])
    # Wherever no bet was ever cut off, also one that was lost since.
    if max(values, default=0.0) < CAPITAL_MAX / len(STAKES):
        assert process.value == pytest.approx(capital(x), rel=1e-9)
        course = HarmProcess().course(x)
        one_by_one = HarmProcess()
        assert course == pytest.approx([one_by_one.take(x[i : i + 1]) for i in range(len(x))], rel=1e-9)


@pytest.mark.parametrize("outcomes", [(-1.0, 1.0), (-0.25, 0.25), (-1.0, 0.5, 0.5)])
def test_capital_is_fair_when_harm_is_as_likely_as_its_opposite(outcomes: tuple[float, ...]) -> None:
    paths = list(itertools.product(outcomes, repeat=7))
    for steps in (1, 7):
        totals = []
        for path in paths:
            process = HarmProcess()
            for part in np.split(np.array(path), range(steps, 7, steps)):
                process.take(part)
            totals.append(process.value + 1.0 - given_out(7))
        assert np.mean(totals) == pytest.approx(1.0, rel=1e-12)


def test_a_past_in_favour_does_not_hide_harm() -> None:
    process = HarmProcess()
    process.take(np.full(20_000, -0.6))
    assert process.value < 1.0
    events = next(n for n in range(1, 200) if process.take(np.array([0.5])) >= 20.0)
    assert events <= 50


def test_capital_stays_finite_and_can_be_lost_again() -> None:
    process = HarmProcess()
    assert math.isfinite(process.take(np.ones(50_000)))
    assert process.value > 1e5
    process.take(np.full(400, -1.0))
    assert process.value < 1.0


def streams(rng: np.random.Generator, kind: str, n: int) -> tuple[Array, Array]:
    """Differences and their conditional means: what is compared differs on few events, and by drifting amounts."""
    means = {"equal": np.zeros(n), "drifting": 0.1 * np.sin(np.arange(n) / 200.0)}[kind]
    size = rng.uniform(0.2, 0.9, n)
    signs = np.where(rng.random(n) < 0.5 + means / (2 * size), 1.0, -1.0)
    return signs * size, means


@pytest.mark.parametrize("kind", ["equal", "drifting"])
def test_the_interval_covers_the_running_mean_at_every_look(kind: str) -> None:
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(60):
        x, means = streams(rng, kind, 3000)
        interval = MeanInterval(0.05)
        truth = np.cumsum(means) / np.arange(1, len(x) + 1)
        outside = False
        for at in range(0, len(x), 20):
            interval.take(x[at : at + 20])
            now = interval.interval
            outside |= not now.low <= truth[at + 19] <= now.high
        missed += outside
    # Three of 60 are expected at most; a method that only just keeps 0.05 would miss seven once in thirty such tests.
    assert missed <= 6


@given(differences, st.lists(st.integers(0, 60), max_size=3))
def test_the_interval_is_where_neither_e_process_has_reached_its_bound(x: Array, cuts: list[int]) -> None:
    interval = MeanInterval(0.1)
    for part in np.split(x, sorted(cuts)):
        interval.take(part)
    now = interval.interval
    assert now.events == len(x)
    if not len(x):
        return
    guesses = np.concatenate(([0.0], np.cumsum(x)[:-1])) / np.arange(1, len(x) + 1)
    squares = float(np.square((x - guesses) / 2).sum())
    assert now.mean == pytest.approx(x.mean(), abs=1e-12)

    def e_value(mean: float) -> float:
        shift = float((x - mean).sum()) / 2
        return float(np.mean([math.exp(t * shift - (-math.log1p(-t) - t) * squares) for t in TILTS]))

    if now.low > -1.0:
        assert e_value(now.low) == pytest.approx(2 / 0.1, rel=0.05)
    else:
        assert e_value(-1.0) <= 2 / 0.1 * 1.0001


def false_alarms(streams: int, events: int, seed: int) -> int:
    """Streams of which equal versions are ever told apart, with a look at every event's step."""
    rng = np.random.default_rng(seed)
    alarms = 0
    for _ in range(streams):
        process = HarmProcess()
        x = np.where(
            rng.random(events) < rng.uniform(0.02, 0.5), rng.choice([-1.0, 1.0], events) * rng.random(events), 0.0
        )
        alarms += any(process.take(x[at : at + 5]) >= 20.0 for at in range(0, events, 5))
    return alarms


def test_equal_versions_are_rarely_told_apart() -> None:
    assert false_alarms(80, 2000, seed=1) <= 8


@pytest.mark.long
def test_equal_versions_are_rarely_told_apart_in_long_streams() -> None:
    assert false_alarms(1000, 20_000, seed=2) <= 50


def test_saved_state_goes_on_to_the_byte() -> None:
    rng = np.random.default_rng(3)
    process, interval = HarmProcess(), MeanInterval(0.05)
    for _ in range(20):
        x = rng.uniform(-1, 1, int(rng.integers(1, 30)))
        process.take(x)
        interval.take(x)
        other_process, other_interval = HarmProcess(), MeanInterval(0.05)
        other_process.load(process.save())
        other_interval.load(interval.save())
        assert other_process.take(x) == process.take(x)
        interval.take(x)
        other_interval.take(x)
        assert other_interval.interval == interval.interval


@given(st.lists(st.floats(0, 6), min_size=1, max_size=90), st.lists(st.integers(1, 20), min_size=90, max_size=90))
def test_an_alarm_is_the_sum_over_all_starts_however_the_events_are_cut_into_steps(
    ratios: list[float], sizes: list[int]
) -> None:
    alarm, at = Alarm(), 0
    for size in sizes:
        part = np.array(ratios[at : at + size])
        most = alarm.take(part)
        sums = []
        for end in range(at + 1, at + len(part) + 1):
            growths = 1.0 + np.outer(ALARM_STAKES, np.array(ratios[:end]) - 1.0)
            sums.append(np.mean([np.cumprod(growths[:, ::-1], axis=1).sum(axis=1)]))
        at += size
        if max(sums, default=0.0) >= CAPITAL_MAX / 10 or not sums:
            break
        assert np.isclose(most, max(sums), rtol=1e-9)
        assert np.isclose(alarm.value, sums[-1], rtol=1e-9)


@pytest.mark.parametrize("chance", [0.05, 0.25, 0.9])
def test_who_loses_just_what_is_allowed_seldom_raises_an_alarm(chance: float) -> None:
    """The largest mean that is none yet: within n events the chance is at most n over the bound, here a half."""
    rng, raised = np.random.default_rng(3), 0
    for _ in range(200):
        ratios = (rng.random(1000) < chance) / chance
        raised += Alarm().take(ratios) >= 2000.0
    assert raised <= 120
    assert raised >= 2
