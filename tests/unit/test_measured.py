"""What was measured with a step is told in numbers, adds up over steps, and is nothing that older entries must have."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.versions import _readable
from penstock.errors import ReplayDiverged
from penstock.events import Offset, Partition, Version
from penstock.gate.guards import Opinion
from penstock.gate.interface import Evidence, Opinions
from penstock.gate.rule import HarmGate
from penstock.learn.inputs import Departed
from penstock.learn.interface import Forgotten, HeldOut
from penstock.learn.measured import Guard, Measured, nearest
from penstock.learn.steps import CanaryCounts, ShadowStep, Step, StepAction
from penstock.publish.entries import demand_same
from penstock.publish.interface import Receipt
from penstock.publish.records.account import Account
from penstock.publish.records.receipts import merge
from penstock.spec import Gate

LOOK = Forgotten(anchors=64, lost=0.031, of="class 'b'", of_anchors=12, groups=3)


def weights(value: float | None, *, beyond: bool = False) -> Guard:
    return Guard(name="weights", value=value, most=30.0, beyond=beyond)


def step(number: int, action: StepAction, *guards: Guard, forgotten: Forgotten | None = None, **more: Any) -> Step:
    return Step(
        number=number,
        action=action,
        ranges=((Partition(0), Offset(number), Offset(number + 1)),),
        version=Version(number if action != "hold" else number - 1),
        events=1,
        measured=Measured(guards, forgotten=forgotten, forgetting_max=None if forgotten is None else 0.02),
        **more,
    )


def decoded_as_before(entry: Step) -> Step:
    """The entry as a journal of before anything was measured has it: its array ends where that begins."""
    fields: list[Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(entry))
    before = fields[: Step.__struct_fields__.index("measured")]
    return msgspec.msgpack.decode(msgspec.msgpack.encode(before), type=Step)


def test_an_entry_of_before_is_read_and_repeated_and_still_held_to_all_that_it_says() -> None:
    repeated = step(2, "publish", weights(0.5), forgotten=LOOK, loss_sum=0.25)
    recorded = decoded_as_before(repeated)
    assert recorded.measured is None
    demand_same(recorded, repeated)
    with pytest.raises(ReplayDiverged, match=r"^.*loss_sum was 0\.25 and is 0\.5$"):
        demand_same(recorded, msgspec.structs.replace(repeated, loss_sum=0.5))


def test_what_was_measured_has_to_be_the_same_in_an_entry_that_says_it() -> None:
    recorded = step(2, "publish", weights(0.5))
    for other in (step(2, "publish", weights(0.25)), step(2, "publish")):
        with pytest.raises(ReplayDiverged, match="measured was"):
            demand_same(recorded, other)
        with pytest.raises(ReplayDiverged, match="measured was"):
            demand_same(other, recorded)


GUARDS = st.lists(
    st.builds(
        Guard,
        name=st.sampled_from(["weights", "sources", "calibration"]),
        value=st.none() | st.floats(0.0, 40.0),
        most=st.none() | st.just(0.0) | st.just(30.0),
        evidence=st.none() | st.floats(0.0, 30.0),
        wanted=st.just(20.0),
        beyond=st.booleans(),
    ),
    max_size=6,
)


@given(GUARDS, GUARDS, GUARDS)
def test_the_numbers_nearest_to_a_fault_do_not_depend_on_how_steps_are_gathered(
    one: list[Guard], two: list[Guard], three: list[Guard]
) -> None:
    at_once = nearest([*one, *two, *three])
    assert at_once == nearest([*nearest([*one, *two]), *three]) == nearest([*one, *nearest([*two, *three])])
    assert {guard.name for guard in at_once} == {guard.name for guard in (*one, *two, *three)}
    assert all(guard.beyond or not any(g.beyond for g in one if g.name == guard.name) for guard in at_once)


@pytest.mark.parametrize("restarts", [False, True])
def test_a_receipt_has_the_worst_of_what_was_measured_since_the_parent_and_the_newest_look(restarts: bool) -> None:
    account = Account("small")
    entries = [
        step(1, "publish", weights(9.0)),
        step(2, "hold", weights(31.0, beyond=True), forgotten=LOOK),
        step(3, "publish", weights(0.5), Guard(name="sources", value=0.01, most=0.15, evidence=2.0, wanted=20_000.0)),
        step(4, "publish", weights(0.25)),
    ]
    receipts: list[Receipt] = []
    for entry in entries:
        made, _ = account.enter(entry)
        receipts += made
        if restarts:
            saved = msgspec.msgpack.decode(msgspec.msgpack.encode(account.save()))
            account = Account("small")
            account.load(saved)
    first, second, third = receipts
    assert first.guards == (weights(9.0),)
    assert [guard.name for guard in second.guards] == ["sources", "weights"]
    assert second.guards[1] == weights(31.0, beyond=True)
    assert (second.forgotten, second.forgetting_max) == (LOOK, 0.02)
    assert (third.guards, third.forgotten) == ((weights(0.25),), None)
    both = merge(second, third)
    assert (both.guards, both.forgotten, both.forgetting_max) == (second.guards, LOOK, 0.02)


def test_the_state_of_an_account_that_has_measured_nothing_is_what_it_was_before_anything_was_measured() -> None:
    account = Account("small")
    account.enter(decoded_as_before(step(1, "hold", weights(31.0))))
    assert "measured" not in account.save()["open"]
    account.enter(step(2, "hold", weights(31.0)))
    assert "measured" in account.save()["open"]


def evidence(**more: Any) -> Evidence:
    rng = np.random.default_rng(1)
    losses = rng.uniform(0.0, 0.4, 64)
    usual: dict[str, Any] = {
        "candidate": losses,
        "served": losses,
        "good": losses,
        "probation": losses,
        "sources": None,
    }
    return Evidence(**(usual | {"finite": True, "jump": 0.125} | more))


def test_the_gate_tells_what_it_measured_of_a_step_and_nothing_of_the_step_before() -> None:
    gate = HarmGate(Gate())
    sources = ["a", "b", "c", "d"] * 16
    for _ in range(8):
        found = {guard.name: guard for guard in gate.judge(evidence(sources=sources)).guards}
    assert found["weights"] == weights(0.125)
    assert found["sources"].of in "abcd"
    assert found["sources"].evidence is not None
    assert not found["sources"].beyond
    wrong = np.where(np.array(sources) == "b", 1.0, 0.1)
    for _ in range(40):
        told = gate.judge(evidence(candidate=wrong, served=wrong, good=wrong, probation=wrong, sources=sources)).guards
        if any(guard.beyond for guard in told):
            break
    (source,) = (guard for guard in told if guard.name == "sources")
    assert (source.of, source.beyond) == ("b", True)
    assert source.value == pytest.approx(0.8, abs=0.15)
    gate = HarmGate(Gate())
    assert gate.judge(evidence()).guards == (weights(0.125),)
    assert gate.judge(evidence(finite=False, jump=float("nan"))).guards == (weights(None, beyond=True),)


def test_of_a_new_base_all_its_guards_are_told_with_what_becomes_of_it() -> None:
    gate = HarmGate(Gate(canary=(0.5,), shadow_events_max=100_000))
    refused = gate.begin_shadow(HeldOut(events=40, gained=3, lost=9, forgotten=0.25, forgotten_class="b"))
    assert refused is not None
    (forgetting,) = refused.guards
    assert (forgetting.value, forgetting.most, forgetting.of, forgetting.beyond) == (0.25, 0.02, "b", True)
    assert gate.begin_shadow(HeldOut(events=40, gained=9, lost=3, forgotten=0.0)) is None
    sure, said = np.full(64, 0.8), ["a"] * 64
    opinions = Opinions(said, Opinion(said, sure), Opinion(said, sure + 0.1))
    served, shadow = np.full(64, 0.5), np.full(64, 0.1)
    looked = Departed(feature="x", index=0.5, is_shown=False, events=512)
    for _ in range(20):
        verdict = gate.judge(
            evidence(candidate=served, served=served, good=served, shadow=shadow, opinions=opinions, departed=looked)
        )
        if verdict.shadow is not None:
            break
    assert verdict.shadow is not None
    assert verdict.shadow.action == "widen"
    told = {guard.name: guard for guard in verdict.shadow.guards}
    assert told.keys() == {"calibration", "collapse", "inputs", "forgetting"}
    assert told["calibration"].value == pytest.approx(0.1)
    assert told["calibration"].beside == pytest.approx(0.2)
    assert (told["collapse"].value, told["inputs"].value, told["inputs"].beyond) == (0.0, 0.5, False)
    ended = gate.hear(CanaryCounts(share=0.5, asked=100, answered=100, timed=100, slow=95))
    assert ended is not None
    slow = next(guard for guard in ended.guards if guard.name == "latency")
    assert (slow.value, slow.events, slow.beyond) == (0.95, 100, True)


def test_the_receipt_of_a_promotion_and_of_a_canary_have_the_numbers_of_the_new_base() -> None:
    of_base = Guard(name="forgetting", value=0.01, most=0.02, events=40)
    account, measured = Account("small"), Measured((weights(0.5),), (of_base,))
    shadow = ShadowStep(what="widened", number=1, base="b" * 64, share=0.1)
    widened = msgspec.structs.replace(step(1, "publish"), shadow=shadow, measured=measured, tried=Version(2))
    (update, canary), _ = account.enter(widened)
    assert (update.guards, canary.guards) == ((weights(0.5),), (of_base,))
    shadow = ShadowStep(what="promoted", number=1, base="b" * 64)
    promoted = msgspec.structs.replace(step(3, "publish"), shadow=shadow, measured=measured)
    (receipt,), _ = account.enter(promoted)
    assert (receipt.cause, receipt.guards) == ("promotion", (of_base,))


def test_why_tells_the_numbers_of_each_guard_and_of_what_is_lost() -> None:
    (receipt,), _ = Account("small").enter(
        step(
            1,
            "publish",
            weights(None, beyond=True),
            Guard(name="sources", value=0.034, most=0.15, of="lab 3", evidence=12.5, wanted=20_000.0, events=8),
            Guard(name="calibration", value=0.031, most=0.05, beside=0.029, events=512),
            Guard(name="inputs", value=0.1, of="price", events=1024),
            forgotten=LOOK,
        )
    )
    shown = _readable(msgspec.json.decode(msgspec.json.encode(receipt)))
    assert shown["guard_weights"] == "not finite (at most 30), a fault"
    assert shown["guard_sources"] == "0.034 (at most 0.15; 'lab 3'; on 8; evidence 12.5 to 1 of 20,000)"
    assert shown["guard_calibration"] == "0.031 (at most 0.05 more than the 0.029 of what it is compared with; on 512)"
    assert shown["guard_inputs"] == "0.1 (no limit; 'price'; on 1,024)"
    assert shown["forgotten_shown"] == (
        "0.0310 (at most 0.02; on 12 of class 'b', within luck, of 3 classes, slices and regimes)"
    )
