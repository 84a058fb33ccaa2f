"""A new base whose answers are worse in what losses do not show is refused by name, and others hardly ever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.gate.guards import CALIBRATION_EVENTS, AnswersWatch, Opinion
from penstock.gate.interface import Opinions
from penstock.gate.sequential import Array
from penstock.gate.shadow import ShadowWatch
from penstock.learn.inputs import Departed
from penstock.learn.interface import HeldOut
from penstock.spec import Gate as GateSettings

ALPHA = 0.05
names = st.sampled_from(("a", "b", "c", None))
rows = st.lists(st.tuples(st.sampled_from("abc"), names, st.floats(0, 1), names, st.floats(0, 1)), max_size=60)


def watch(**more: Any) -> AnswersWatch:
    given = GateSettings(**more)
    return AnswersWatch(given.calibration_max, collapse=given.collapse == "refuse")


def stream(rng: np.random.Generator, n: int, sharpness: float = 1.0) -> tuple[list[str], Opinion, Opinion]:
    """Labels, and two versions that know their chances by different features; those of the second are raised to this
    power, as a network's are that is too sure of itself."""
    first, second = rng.normal(0.0, 1.0, (2, n))
    chance = 1.0 / (1.0 + np.exp(-first - second))
    labels = np.where(rng.random(n) < chance, "b", "a").tolist()
    # What is known by one feature alone is a logistic curve again, nearly, that is flatter for what the other hides.
    return labels, opinion(first / 1.17), opinion(second / 1.17 * sharpness)


def opinion(score: Array) -> Opinion:
    chance = 1.0 / (1.0 + np.exp(-score))
    return Opinion(np.where(chance >= 0.5, "b", "a").tolist(), np.maximum(chance, 1.0 - chance))


@settings(deadline=None)
@given(rows, st.integers(0, 60))
def test_what_is_known_depends_on_the_events_and_not_on_their_steps(rows: list[Any], cut: int) -> None:
    whole, parts = watch(), watch()
    for one, pieces in ((whole, [rows]), (parts, [rows[:cut], rows[cut:]])):
        for piece in pieces:
            labels, served, sure, newcomer, surer = ([row[at] for row in piece] for at in range(5))
            one.take(labels, Opinion(served, np.array(sure)), Opinion(newcomer, np.array(surer)))
    assert parts.errors == pytest.approx(whole.errors)
    assert parts.fault() == whole.fault() or whole.fault().startswith("calibration")
    again = watch()
    again.load(msgspec.msgpack.decode(msgspec.msgpack.encode(whole.save())))
    assert (again.errors, again.fault()) == (whole.errors, whole.fault())


@pytest.mark.parametrize("n", [CALIBRATION_EVENTS, 1000])
def test_a_base_that_is_as_well_calibrated_is_hardly_ever_refused(n: int) -> None:
    alarms = 0
    for seed in range(300):
        found = watch()
        found.take(*stream(np.random.default_rng(seed), n))
        alarms += bool(found.fault())
    assert alarms <= 300 * ALPHA


def test_a_base_that_is_too_sure_of_itself_is_refused_unless_there_is_no_bound() -> None:
    events = stream(np.random.default_rng(0), 1000, sharpness=4.0)
    found, unbound = watch(), watch(calibration_max=1.0)
    found.take(*events)
    unbound.take(*events)
    served, newcomer = found.errors
    assert newcomer > served + 0.05
    assert found.fault().startswith("calibration: its chances are off by ")
    assert not unbound.fault()


def of_three(rng: np.random.Generator, n: int, known: Sequence[str]) -> tuple[list[str], Opinion, Opinion]:
    """Labels of three classes, one of them rare; what is served knows them all, and the other these."""
    labels = rng.choice(["a", "b", "rare"], n, p=[0.5, 0.4, 0.1]).tolist()
    guesses = rng.choice(["a", "b"], n).tolist()
    said = [label if label in known else guess for label, guess in zip(labels, guesses, strict=True)]
    return labels, Opinion(labels, np.full(n, 0.9)), Opinion(said, np.full(n, 0.9))


def test_a_base_that_never_answers_with_a_class_is_refused_unless_nobody_minds() -> None:
    events = of_three(np.random.default_rng(1), 1200, ("a", "b"))
    found, careless = watch(calibration_max=1.0), watch(calibration_max=1.0, collapse="allow")
    found.take(*events)
    careless.take(*events)
    assert found.fault().startswith("collapse: class 'rare' came ")
    assert not careless.fault()
    whole = watch(calibration_max=1.0)
    whole.take(*of_three(np.random.default_rng(1), 1200, ("a", "b", "rare")))
    assert not whole.fault()


def test_a_class_that_has_gone_or_that_what_is_served_does_not_know_either_is_not_missed() -> None:
    rng = np.random.default_rng(2)
    labels, served, newcomer = of_three(rng, 1200, ("a", "b"))
    gone, unknown = watch(calibration_max=1.0), watch(calibration_max=1.0)
    gone.take(["a" if label == "rare" else label for label in labels], served, newcomer)
    unknown.take(labels, newcomer, newcomer)
    assert not gone.fault()
    assert not unknown.fault()


def test_classes_that_come_by_chance_do_not_collapse() -> None:
    alarms = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        labels = rng.choice(list("abcdefgh"), 2000).tolist()
        # Either is right on two fifths of the events, on different ones.
        said = [
            Opinion(
                [
                    label if right else guess
                    for label, right, guess in zip(labels, rng.random(2000) < 0.4, other, strict=True)
                ],
                np.full(2000, 0.475),
            )
            for other in rng.choice(list("abcdefgh"), (2, 2000)).tolist()
        ]
        found = watch()
        found.take(labels, *said)
        alarms += bool(found.fault())
    assert alarms <= 300 * ALPHA


@pytest.mark.parametrize("stages", [(), (0.1,)])
def test_a_gain_does_not_make_up_for_a_collapse(stages: tuple[float, ...]) -> None:
    found = ShadowWatch(GateSettings(canary=stages))
    found.begin(HeldOut(events=1, gained=0, lost=0, forgotten=0.0))
    labels, served, newcomer = of_three(np.random.default_rng(3), 1200, ("a", "b"))
    found.take(np.full(1200, 0.4), np.full(1200, 0.3), None, Opinions(labels, served, newcomer))
    verdict = found.judge(1200, fault="", may_promote=True)
    assert verdict is not None
    assert verdict.action == "give_up"
    assert verdict.reason.startswith("The new base is given up: collapse: class 'rare' came ")
    assert "evidence" in verdict.reason


LEFT = Departed(feature="x", index=0.7, is_shown=True, events=1000)


@pytest.mark.parametrize(
    ("departed", "drift_max", "trips"),
    [
        (LEFT, 0.25, True),
        (LEFT, 0.7, False),
        (LEFT, float("inf"), False),
        (msgspec.structs.replace(LEFT, is_shown=False), 0.25, False),
        (None, 0.25, False),
    ],
)
def test_a_base_that_was_trained_on_other_inputs_is_refused_within_its_bound(
    departed: Departed | None, drift_max: float, trips: bool
) -> None:
    found = ShadowWatch(GateSettings(canary=(), drift_max=drift_max))
    found.begin(HeldOut(events=1, gained=0, lost=0, forgotten=0.0))
    if departed is not None:
        # What a later look says is what counts.
        found.look(msgspec.structs.replace(departed, is_shown=not departed.is_shown))
        found.look(departed)
    found.take(np.full(1200, 0.4), np.full(1200, 0.3))
    again = ShadowWatch(GateSettings(canary=(), drift_max=drift_max))
    again.load(msgspec.msgpack.decode(msgspec.msgpack.encode(found.save())))
    verdict = again.judge(1200, fault="", may_promote=True)
    assert verdict is not None
    assert verdict.action == ("give_up" if trips else "promote")
    told = "inputs: 'x' has left what it was trained on, with a population stability index of 0.70"
    assert (told in verdict.reason) == trips
