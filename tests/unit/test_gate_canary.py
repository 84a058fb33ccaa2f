"""A share of the traffic widens on evidence alone, or goes back to nothing; and whoever belongs to it stays in it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import SpecInvalid
from penstock.gate.canary import ANSWERS_MIN, MARGIN, CanaryWatch, slowness
from penstock.gate.sequential import STAKED
from penstock.gate.share import is_within, place_of
from penstock.learn.steps import CanaryCounts
from penstock.spec import Gate as GateSettings
from penstock.specfile.reader import loads

STAGES = (0.01, 0.1, 0.5, 1.0)
SETTINGS = GateSettings(canary=STAGES, shadow_events_max=100_000)
ENOUGH = CanaryCounts(share=1.0)
"""Servers hand out whatever they are told to, and nobody asks."""

looks = st.lists(
    st.tuples(
        st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=80),
        st.booleans(),
        st.builds(
            CanaryCounts,
            share=st.sampled_from((0.0, *STAGES)),
            asked=st.integers(0, 500),
            answered=st.integers(0, 100),
            failed=st.sampled_from((0, 0, 0, 0, 1)),
            timed=st.integers(0, 40),
        ),
    ),
    max_size=20,
)


def least_evidence(gains: list[float]) -> float:
    """The evidence that these events of one stage give at most, by its formula."""
    capitals = [math.prod(1.0 + stake * (gain + MARGIN) / (1.0 + MARGIN) for gain in gains) for stake in STAKED]
    return math.fsum(capitals) / len(STAKED)


@settings(deadline=None)
@given(looks)
def test_a_share_widens_stage_by_stage_on_evidence_of_that_stage_or_goes_to_nothing(looks: list[Any]) -> None:
    watch = CanaryWatch(SETTINGS)
    watch.begin()
    shares, at_stage = [watch.share], list[float]()
    for losses, may_widen, counts in looks:
        watch.take(np.array([served for served, _ in losses]), np.array([own for _, own in losses]))
        watch.hear(counts)
        at_stage += [served - own for served, own in losses]
        move = watch.judge(len(losses), may_widen=may_widen)
        if move is None:
            assert watch.share == shares[-1]
        elif move.to == "nothing":
            return
        else:
            assert may_widen
            assert counts.share >= shares[-1]
            assert not counts.failed
            assert least_evidence(at_stage) >= 1.0 / SETTINGS.alpha - 1e-6
            if move.to == "everywhere":
                assert shares[-1] == STAGES[-1]
                return
            shares.append(watch.share)
            at_stage = []
    assert shares == list(STAGES[: len(shares)]), "no stage is left out"


@given(st.text(), st.text(max_size=64), st.floats(0, 1), st.floats(0, 1))
def test_whoever_belongs_to_a_share_belongs_to_every_larger_one(key: str, seed: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert is_within(key, seed, large) or not is_within(key, seed, small)
    assert is_within(key, seed, 1.0)
    assert not is_within(key, seed, 0.0)


def test_another_candidate_has_other_keys_in_its_share() -> None:
    keys = [f"customer {n}" for n in range(4000)]
    first = np.array([is_within(key, "1" * 64, 0.1) for key in keys])
    second = np.array([is_within(key, "2" * 64, 0.1) for key in keys])
    assert 320 < first.sum() < 480
    assert (first & second).sum() < 80, "as many as chance brings together"
    assert len({place_of(key, "1" * 64) for key in keys}) == len(keys)


def widened(counts: CanaryCounts) -> float:
    """The share after a thousand events on which the newcomer is a little better."""
    watch = CanaryWatch(SETTINGS)
    watch.begin()
    watch.take(np.full(1000, 0.3), np.full(1000, 0.25))
    watch.hear(counts)
    watch.judge(1000, may_widen=True)
    return watch.share


def test_a_share_is_not_widened_before_servers_hand_it_out_and_have_answered_who_asks() -> None:
    assert widened(CanaryCounts()) == STAGES[0], "no server has said anything"
    assert widened(CanaryCounts(share=STAGES[0], asked=900, answered=ANSWERS_MIN - 1)) == STAGES[0]
    assert widened(CanaryCounts(share=STAGES[0], asked=900, answered=ANSWERS_MIN)) == STAGES[1]
    assert widened(ENOUGH) == STAGES[1], "nobody asks"


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        (CanaryCounts(failed=1, failure="a tree fell"), "could not answer with it, 1 times (a tree fell)"),
        (CanaryCounts(not_finite=3), "3 of its answers were not finite"),
        (CanaryCounts(timed=12, slow=12), "too slow in 12 of 12 comparisons"),
    ],
)
def test_what_servers_cannot_live_with_goes_at_once_and_says_why(counts: CanaryCounts, told: str) -> None:
    watch = CanaryWatch(SETTINGS)
    watch.begin()
    watch.hear(counts)
    move = watch.judge(0, may_widen=False)
    assert move is not None
    assert move.to == "nothing"
    assert told in move.reason


def test_harm_on_its_own_share_ends_it() -> None:
    watch = CanaryWatch(SETTINGS)
    watch.begin()
    watch.hear(ENOUGH)
    for _ in range(200):
        watch.take(np.full(1, 0.2), np.full(1, 0.5))
        if move := watch.judge(1, may_widen=True):
            break
    assert move is not None
    assert move.to == "nothing"
    assert "worse than what is served where it answers" in move.reason


def test_no_evidence_within_its_time_ends_it() -> None:
    watch = CanaryWatch(msgspec.structs.replace(SETTINGS, shadow_events_max=500))
    watch.begin()
    assert watch.judge(499, may_widen=True) is None
    move = watch.judge(1, may_widen=True)
    assert move is not None
    assert move.to == "nothing"


def test_half_of_the_comparisons_slow_are_rarely_called_too_many_however_often_it_is_looked_at() -> None:
    rng = np.random.default_rng(3)
    slow = (rng.random((400, 300)) < 0.5).cumsum(axis=1)
    alarms = sum(any(slowness(int(k), n + 1) >= 20.0 for n, k in enumerate(course)) for course in slow)
    assert alarms <= 400 * 0.05


def test_it_goes_on_from_where_it_was_saved() -> None:
    rng = np.random.default_rng(1)
    whole, first = CanaryWatch(SETTINGS), CanaryWatch(SETTINGS)
    losses = rng.random((600, 2)) * [1.0, 0.9]
    for watch in (whole, first):
        watch.begin()
        watch.hear(ENOUGH)
    courses = []
    for watch in (whole, first):
        course = []
        for at, (served, own) in enumerate(losses):
            if watch is first and at == 250:
                saved = msgspec.msgpack.decode(msgspec.msgpack.encode(watch.save()))
                watch = CanaryWatch(SETTINGS)
                watch.load(saved)
            watch.take(np.array([served]), np.array([own]))
            course.append((watch.judge(1, may_widen=True), watch.share, watch.evidence))
        courses.append(course)
    assert courses[0] == courses[1]
    shares = [share for _, share, _ in courses[0]]
    assert all(before <= after for before, after in pairwise(shares))
    assert shares[-1] > shares[0]


def test_stages_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(SpecInvalid, match=r"gate\.canary.*must ascend"):
        loads("name: a\ntask: binary\nfeatures: {x: number}\ngate: {canary: [0.5, 0.1]}\n")
