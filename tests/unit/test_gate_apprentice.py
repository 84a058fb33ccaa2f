"""The apprentice: what is compared with what, when a race ends, and how often it ends wrongly."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from penstock.gate.apprentice import ApprenticeVerdict, ApprenticeWatch
from penstock.gate.rivals import Compared, compared_classes, compared_numbers, compared_sets
from penstock.replies import Replies
from penstock.spec import Apprentice, ClassName, Gate

Array = NDArray[np.float64]
NAMES = (ClassName("a"), ClassName("b"), ClassName("c"))
STEP = 32


def watch(*, margin: float = 0.0, after_events: int = 1, of: str = "rules") -> ApprenticeWatch:
    return ApprenticeWatch(Gate(apprentice=Apprentice(of=of, margin=margin, after_events=after_events)))


def run(one: ApprenticeWatch, gains: Array, *, may_graduate: bool = True) -> list[ApprenticeVerdict]:
    """Verdicts over events on which the incumbent loses a half and we lose that minus the gain."""
    found = []
    for start in range(0, len(gains), STEP):
        part = gains[start : start + STEP]
        one.take(Compared(own=0.5 - part, incumbent=np.full(len(part), 0.5)))
        verdict = one.judge(may_graduate=may_graduate)
        if verdict is not None:
            found.append(verdict)
    return found


def coins(rng: np.random.Generator, mean: float, n: int) -> Array:
    """Gains of a half or minus a half that have this mean."""
    return np.where(rng.random(n) < 0.5 + mean, 0.5, -0.5)


# Races ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [0.0, -0.01])
def test_who_is_no_better_hardly_ever_graduates_however_long_it_is_looked_at(mean: float) -> None:
    rng = np.random.default_rng(1)
    graduated = sum("graduated" in {v.what for v in run(watch(), coins(rng, mean, 1500))} for _ in range(100))
    # At most 5 of 100 are promised; more than 10 would have a chance of a hundredth then.
    assert graduated <= 10


def test_who_is_better_graduates_and_the_interval_says_so_exactly_then() -> None:
    one = watch()
    (verdict,) = run(one, np.full(64, 0.5))
    assert verdict.what == "graduated"
    assert verdict.gain.low > 0.0
    assert verdict.evidence >= 2 / 0.05
    assert not one.is_apprentice
    assert one.race.number == 2
    assert one.race.gain.events == 64 - verdict.gain.events


def test_a_bad_beginning_is_not_held_against_who_is_better_now() -> None:
    rng = np.random.default_rng(2)
    infancy, after = coins(rng, -0.4, 1000), coins(rng, 0.1, 3000)
    found = run(watch(), np.concatenate((infancy, after)))
    assert found[0].what == "behind"
    assert found[-1].what == "graduated"
    # Over all events together it had not made good for the beginning by then.
    assert sum(verdict.gain.events for verdict in found) < 1000 + 0.4 / 0.1 * 1000


def test_who_graduated_is_an_apprentice_again_when_the_incumbent_is_better_and_can_graduate_anew() -> None:
    rng = np.random.default_rng(3)
    one = watch()
    found = run(one, np.concatenate([coins(rng, mean, 3000) for mean in (0.2, -0.2, 0.2)]))
    turns = [verdict.what for verdict in found if verdict.what != "behind"]
    assert turns == ["graduated", "overtaken", "graduated"]
    assert one.race.graduated == 2
    # However long it was better before, it does not take long to see that it is not any more.
    events = np.cumsum([verdict.gain.events for verdict in found])[[v.what for v in found].index("overtaken")]
    assert 3000 < events < 3400


def test_each_race_asks_for_more_so_that_all_together_go_wrong_as_seldom_as_one() -> None:
    one = watch()
    assert one.wanted == pytest.approx(2 / 0.05)
    run(one, np.full(32, -0.5))
    assert one.race.number == 2
    assert one.wanted == pytest.approx(6 / 0.05)
    assert sum(1.0 / (k * (k + 1) / 0.05) for k in range(1, 10_000)) <= 0.05


def test_what_is_asked_for_is_not_worse_by_the_margin_where_there_is_one() -> None:
    rng = np.random.default_rng(4)
    gains = coins(rng, -0.02, 6000)
    assert "graduated" not in {verdict.what for verdict in run(watch(), gains)}
    found = run(one := watch(margin=0.1), gains)
    assert [verdict.what for verdict in found] == ["graduated"]
    assert found[0].gain.low > -0.1
    # And it is not overtaken for being worse by less than it may be.
    assert not one.is_apprentice


def test_nobody_graduates_or_is_behind_before_enough_events_nor_graduates_while_updates_are_held_back() -> None:
    one = watch(after_events=200)
    (verdict,) = run(one, np.full(320, 0.5))
    assert 200 <= verdict.gain.events < 200 + STEP
    assert [verdict.gain.events for verdict in run(watch(after_events=200), np.full(320, -0.5))] == [224]
    held = watch()
    assert run(held, np.full(320, 0.5), may_graduate=False) == []
    assert held.judge(may_graduate=True) is not None


def test_what_begins_anew_knows_nothing_of_before_but_which_race_it_is() -> None:
    one = watch(after_events=10**6)
    run(one, np.full(320, 0.5))
    one.begin_anew()
    assert (one.race.gain.events, one.race.evidence, one.race.number) == (0, 1.0, 2)
    assert one.judge(may_graduate=True) is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from([-0.5, -0.1, 0.1, 0.5]), st.booleans()), max_size=30),
    st.sampled_from([0.0, 0.05]),
)
def test_saved_at_any_moment_it_goes_on_as_if_it_never_was(steps: list[tuple[int, float, bool]], margin: float) -> None:
    one, other = watch(margin=margin), watch(margin=margin)
    for n, gain, is_saved in steps:
        found = []
        for either in (one, other):
            either.take(Compared(np.full(n, 0.5 - gain), np.full(n, 0.5), np.full(n, abs(gain))))
            found.append(either.judge(may_graduate=True))
        assert found[0] == found[1]
        if is_saved:
            state = msgspec.msgpack.decode(msgspec.msgpack.encode(other.save()))
            other = watch(margin=margin)
            assert other.load(state)
    assert one.save() == other.save()


def test_another_incumbent_is_another_comparison_and_another_margin_another_race() -> None:
    one = watch()
    run(one, np.full(64, 0.5))
    other = watch(of="api")
    assert not other.load(one.save())
    assert (other.is_apprentice, other.race.compared) == (True, 0)
    same = watch(margin=0.1)
    assert same.load(one.save())
    assert (same.is_apprentice, same.race.gain.events, same.race.number) == (False, 0, 3)


# Like with like -------------------------------------------------------------------------------------------------------

shares = st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3).filter(lambda row: sum(row) > 0)
labels = st.sampled_from([*NAMES, "unheard of"])


@given(shares, labels)
def test_two_that_say_the_same_lose_the_same(row: list[float], label: str) -> None:
    chances = np.array([row]) / sum(row)
    own = Replies(chances, NAMES)
    said = dict(zip(NAMES, chances[0].tolist(), strict=True))
    by_chance = compared_classes([label], own, [dict(said)])
    assert by_chance.own == pytest.approx(by_chance.incumbent)
    likely = NAMES[int(chances.argmax())]
    by_class = compared_classes([label], own, [str(likely)])
    assert by_class.own.tolist() == by_class.incumbent.tolist() == [float(likely != label)]
    threshold = 0.4
    chosen = tuple(str(name) for name, chance in said.items() if chance > threshold)
    sets = compared_sets([(label,)], own, [chosen], threshold)
    assert sets.own.tolist() == sets.incumbent.tolist()
    assert 0.0 <= sets.own[0] <= 1.0


def test_a_class_is_held_against_our_class_and_not_against_our_chances() -> None:
    """An incumbent that is always right must not look worse than one that says 0.6, nor the other way round."""
    own = Replies(np.array([[0.6, 0.4, 0.0]]), NAMES)
    right = compared_classes(["a"], own, ["a"])
    assert (right.own[0], right.incumbent[0]) == (0.0, 0.0)
    chances = compared_classes(["a"], own, [{"a": 1.0}])
    assert (chances.own[0], chances.incumbent[0]) == (pytest.approx(0.16), 0.0)


def test_what_nobody_has_heard_of_is_wrong_and_no_fault() -> None:
    own = Replies(np.array([[np.nan, np.nan, np.nan], [0.1, 0.9, np.nan]]), NAMES)
    found = compared_classes(["a", "b"], own, ["who knows", {"who knows": 1.0}])
    assert found.own.tolist() == [1.0, pytest.approx(0.01)]
    assert found.incumbent.tolist() == [1.0, 1.0]


@given(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300), st.floats(1e-3, 1e3))
def test_numbers_lose_between_nothing_and_one(label: float, said: float, scale: float) -> None:
    found = compared_numbers(np.array([label]), Replies(np.array([[said]])), [said], scale)
    assert found.own.tolist() == found.incumbent.tolist()
    assert 0.0 <= found.own[0] <= 1.0
    assert compared_numbers(np.array([label]), Replies(np.array([[label]])), [said], scale).own[0] == 0.0


def test_errors_are_measured_by_the_incumbents_usual_one_and_no_single_one_changes_that() -> None:
    one = watch(after_events=10**6)
    assert one.scale == 1.0
    nothing = np.zeros(100)
    one.take(Compared(nothing, nothing, np.full(100, 50.0)))
    assert one.scale == pytest.approx(50.0)
    one.take(Compared(nothing[:1], nothing[:1], np.array([1e12])))
    assert one.scale < 60.0
    one.take(Compared(np.zeros(8000), np.zeros(8000), np.full(8000, 5.0)))
    assert one.scale == pytest.approx(5.0, rel=0.05)


def test_an_incumbent_that_was_exact_at_first_can_be_measured_later() -> None:
    one = watch(after_events=10**6)
    one.take(Compared(np.zeros(100), np.zeros(100), np.zeros(100)))
    one.take(Compared(np.zeros(100), np.zeros(100), np.full(100, 4.0)))
    assert 1.0 < one.scale < 4.0
