"""What the gate makes of orders: a hold that only its end or harm lifts, and evidence that begins anew."""

from __future__ import annotations

import numpy as np

from penstock.gate.interface import Evidence, Verdict
from penstock.gate.rule import HarmGate
from penstock.learn.interface import HeldOut
from penstock.spec import Gate

SETTINGS = Gate(alpha=0.05, good_after_events=64)


class Watched:
    """A gate that sees steps of sixteen events with constant losses."""

    def __init__(self, settings: Gate = SETTINGS) -> None:
        self.gate = HarmGate(settings)
        self.has_good = False

    def step(self, candidate: float = 0.2, served: float = 0.2, good: float = 0.2, *, finite: bool = True) -> Verdict:
        def of(loss: float) -> np.ndarray:
            return np.full(16, loss)

        verdict = self.gate.judge(
            Evidence(
                candidate=of(candidate),
                served=of(served),
                good=of(good) if self.has_good else None,
                sources=None,
                finite=finite,
                jump=0.0,
                probation=of(served) if self.has_good else None,
                shadow=of(served - 0.01) if self.gate.shadow_so_far() else None,
            )
        )
        self.has_good = self.has_good or verdict.good
        return verdict

    def until_good(self) -> None:
        while not self.has_good:
            self.step()

    def obey(self, order: str) -> Verdict:
        verdict = self.gate.obey(order, f"{order} by ann.")  # type: ignore[arg-type]
        assert verdict is not None
        return verdict


def test_nothing_is_published_from_hold_to_resume_however_good_it_is() -> None:
    watched = Watched()
    watched.until_good()
    assert watched.obey("hold").action == "hold"
    for _ in range(200):
        verdict = watched.step(candidate=0.0, served=0.2)
        assert (verdict.action, verdict.reason) == ("hold", "hold by ann.")
    resumed = watched.obey("resume")
    assert (resumed.action, resumed.probation) == ("publish", True)
    assert watched.step().action == "publish"


def test_what_is_served_is_rolled_back_during_a_hold_where_it_does_harm_and_stays_held() -> None:
    watched = Watched()
    watched.until_good()
    watched.obey("hold")
    actions = [watched.step(candidate=0.6, served=0.6, good=0.4).action for _ in range(40)]
    assert actions.count("roll_back") >= 1
    assert set(actions) == {"hold", "roll_back"}
    told = watched.obey("resume")
    assert told.action == "hold", "the rollback's own reason to hold is left"
    assert "What is served does harm" in told.reason


def test_an_update_that_was_shown_to_be_worse_is_not_published_by_a_resume() -> None:
    watched = Watched()
    watched.until_good()
    watched.obey("hold")
    for _ in range(40):
        watched.step(candidate=0.9, served=0.1, good=0.1)
    resumed = watched.obey("resume")
    assert resumed.action == "hold"
    assert "worse than what is served" in resumed.reason


def test_broken_weights_are_not_published_by_a_resume() -> None:
    watched = Watched()
    watched.until_good()
    watched.obey("hold")
    assert watched.step(finite=False).action == "hold"
    assert watched.step(finite=False).action == "hold", "nobody asked for anything to be put back"
    assert watched.obey("resume").action == "hold"


def test_a_rollback_by_hand_forgets_the_evidence_so_far_and_holds_until_the_update_proves_itself() -> None:
    watched = Watched()
    watched.until_good()
    verdict = watched.obey("roll_back")
    assert (verdict.action, verdict.reason) == ("roll_back", "roll_back by ann.")
    assert watched.step().action == "hold"
    actions = [watched.step(candidate=0.05, served=0.2).action for _ in range(60)]
    assert "publish" in actions


def test_a_rollback_by_hand_withdraws_what_a_shadow_has_learned_only_where_the_state_is_restored() -> None:
    for settings, ends in ((SETTINGS, True), (Gate(good_after_events=64, after_rollback="continue"), False)):
        watched = Watched(settings)
        watched.until_good()
        watched.gate.begin_shadow(HeldOut(events=10, gained=5, lost=1, forgotten=0.0))
        verdict = watched.obey("roll_back")
        assert (verdict.shadow is not None) == ends
        assert (watched.gate.shadow_so_far() is None) == ends


def test_a_rollback_by_hand_ends_a_share_of_the_traffic_whatever_is_restored() -> None:
    watched = Watched(Gate(good_after_events=64, after_rollback="continue", canary=(0.1,)))
    watched.until_good()
    watched.gate.begin_shadow(HeldOut(events=10, gained=5, lost=1, forgotten=0.0))
    widened = next(verdict.shadow for _ in range(100) if (verdict := watched.step()).shadow)
    assert (widened.action, widened.share) == ("widen", 0.1)
    verdict = watched.obey("roll_back")
    assert verdict.shadow is not None
    assert verdict.shadow.action == "give_up"
    assert "rolled back by hand" in verdict.shadow.reason
    assert watched.gate.shadow_so_far() is None


def test_a_promotion_by_hand_takes_the_shadow_without_evidence_and_needs_one() -> None:
    watched = Watched()
    assert watched.gate.obey("promote", "promote by ann.") is None
    watched.gate.begin_shadow(HeldOut(events=10, gained=0, lost=0, forgotten=0.0))
    watched.step()
    verdict = watched.obey("promote")
    assert verdict.shadow is not None
    assert (verdict.action, verdict.probation, verdict.shadow.action) == ("publish", True, "promote")
    assert verdict.shadow.evidence < 20
    assert watched.gate.shadow_so_far() is None


def test_a_gate_that_was_saved_during_a_hold_goes_on_holding() -> None:
    watched, other = Watched(), Watched()
    watched.until_good()
    watched.obey("hold")
    watched.step()
    other.gate.load(watched.gate.save())
    other.has_good = True
    assert other.step().reason == watched.step().reason == "hold by ann."
    assert other.obey("resume") == watched.obey("resume")


def test_a_source_that_contradicts_all_others_is_taken_out_after_a_hold_and_not_during_it() -> None:
    losses = np.array([0.1, 0.1, 0.1, 1.0] * 4)
    flood = Evidence(
        candidate=losses,
        served=losses,
        good=losses,
        sources=["a", "b", "c", "stranger"] * 4,
        finite=True,
        jump=0.0,
        probation=losses,
    )

    free, held = Watched(), Watched()
    free.until_good()
    held.until_good()
    held.obey("hold")
    for _ in range(60):
        free_out, held_out = free.gate.judge(flood).take_out, held.gate.judge(flood).take_out
        assert held_out == ()
        if free_out:
            break
    assert free_out == ("stranger",)
    told = held.obey("resume")
    assert (told.action, "stranger" in told.reason) == ("hold", True), "nothing is published that it has taught"
    assert held.gate.judge(flood).take_out == ("stranger",)
