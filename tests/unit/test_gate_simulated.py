"""`penstock bench gate`: its simulated streams are what they say, and what it counts is what the gate itself does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from penstock.cli.benchmarks import gate_apprentice
from penstock.cli.benchmarks.gate_simulated import (
    ALPHA,
    false_promotion,
    first_at,
    fixed_sample,
    let_through,
    wilson_high,
)
from penstock.cli.benchmarks.gate_streams import CHANGES, Changing, Rivals, labels_in_order
from penstock.gate.interface import Evidence
from penstock.gate.rule import HarmGate
from penstock.gate.sequential import GainProcess, HarmProcess
from penstock.gate.shadow import ShadowWatch
from penstock.learn.interface import HeldOut
from penstock.spec import Gate as GateSettings


def silent(_: str) -> None:
    """Progress is not looked at."""


def test_labels_of_one_class_come_sooner_and_the_gain_is_the_same_in_both() -> None:
    order, classes = labels_in_order(np.random.default_rng(0), 20_000)
    assert sorted(order.tolist()) == list(range(20_000))
    assert classes[order[:200]].mean() < 0.4
    x = Rivals(gain=0.05, disagreement=0.2).differences(np.random.default_rng(1), 200_000)
    assert x.mean() == pytest.approx(0.05, abs=0.004)
    assert np.abs(x).mean() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_change_does_the_harm_that_it_says(change: Changing) -> None:
    seen = []
    for seed in range(40):
        served, good, _ = change.drawn(np.random.default_rng(seed))
        seen.append((served - good).sum())
    assert np.mean(seen) == pytest.approx(change.expected().sum(), rel=0.1)


def test_the_gate_rolls_back_at_the_very_event_that_is_counted() -> None:
    served, good, _ = CHANGES[0].drawn(np.random.default_rng(3))
    counted = first_at(HarmProcess().course(served - good), 1.0 / ALPHA)
    gate = HarmGate(GateSettings(alpha=ALPHA, harm_margin=0.0))
    for at in range(len(served)):
        one = slice(at, at + 1)
        verdict = gate.judge(
            Evidence(candidate=served[one], served=served[one], good=good[one], sources=None, finite=True, jump=0.0)
        )
        if verdict.action == "roll_back":
            break
    assert at == counted


def test_a_shadow_is_promoted_at_the_very_event_that_is_counted() -> None:
    x = Rivals(gain=0.05, disagreement=0.2).differences(np.random.default_rng(5), 4_000)
    counted = first_at(GainProcess().course(x), 1.0 / ALPHA)
    watch = ShadowWatch(GateSettings(alpha=ALPHA, canary=()))
    assert watch.begin(HeldOut(events=1, gained=0, lost=0, forgotten=0.0)) is None
    for difference in x[:counted].tolist():
        watch.take(np.array([max(difference, 0.0)]), np.array([max(-difference, 0.0)]))
        assert watch.judge(1, fault="", may_promote=True) is None
    watch.take(np.ones(1), np.zeros(1))
    assert counted is not None
    assert x[counted] == 1.0
    verdict = watch.judge(1, fault="", may_promote=True)
    assert verdict is not None
    assert verdict.action == "promote"


def test_a_t_test_that_is_looked_at_often_promotes_what_is_no_better() -> None:
    rows = {row.what: row for row in false_promotion(40, 1_500, 0, silent)}
    assert rows["promotion: equal, differs on 10%"].share <= 0.1
    assert rows["t-test after every event: equal, differs on 10%"].share >= 0.15


def test_a_gain_of_two_points_takes_no_more_than_half_as_much_again_as_a_fixed_test() -> None:
    rivals = Rivals(gain=0.05, disagreement=0.1)
    assert fixed_sample(rivals) == math.ceil((1.6448536 + 0.8416212) ** 2 * 0.0975 / 0.0025)
    times = []
    for seed in range(101):
        x = rivals.differences(np.random.default_rng(seed), 6 * fixed_sample(rivals))
        times.append(first_at(GainProcess().course(x), 1.0 / ALPHA) or len(x))
    assert np.median(times) <= 1.5 * fixed_sample(rivals)


def test_the_gate_lets_less_harm_through_than_a_moving_average() -> None:
    rows = {(row.change, row.watch): row for row in let_through(30, 0, silent)}
    for change in ("sudden", "gradual", "poisoned"):
        gate, average, none = (rows[change, watch] for watch in ("the gate", "moving average", "none"))
        assert gate.harm < average.harm < none.harm
        assert none.events is None


def test_the_interval_of_a_share_ends_above_it() -> None:
    assert wilson_high(0, 1000) == pytest.approx(0.00383, abs=1e-4)
    assert wilson_high(50, 1000) == pytest.approx(0.0653, abs=1e-3)
    assert first_at(np.array([1.0, 2.0, 1.0]), 2.0) == 1
    assert first_at(np.array([1.0, 1.5]), 2.0) is None
    assert first_at(np.empty(0), 2.0) is None


def test_apprentices_graduate_wrongly_hardly_ever_and_rightly_when_they_are_better() -> None:
    rows = gate_apprentice.false_turns(20, 1_000, 0, silent)
    assert [row.allowed for row in rows] == [ALPHA] * 4
    assert sum(row.wrong for row in rows) <= 6
    watch = gate_apprentice.graduate(np.random.default_rng(0))
    assert not watch.is_apprentice
    assert gate_apprentice.experienced(np.random.default_rng(0)).race.number >= 2
    better = Rivals(gain=0.05, disagreement=0.1).differences(np.random.default_rng(0), 4_000)
    (turn,) = gate_apprentice.turns(gate_apprentice.beginner(), better)
    assert turn[1] == "graduated"
    assert 512 <= turn[0] < 4_000
