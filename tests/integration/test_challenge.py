"""Other settings of a service from the challenge to the promotion: learned from the log, tried in shadow and on a share
of the traffic, in force from then on, whatever stops, is built once more, or stands in the service file."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from asked_house import House

from penstock.cli.versions import sentence
from penstock.control.challenging import challenge_of, in_force
from penstock.control.erase import erase
from penstock.control.record import record, recorded
from penstock.errors import NotChallenging, SettingsUntried, SpecChanged, TrainingFailed
from penstock.learn.configuration import Configuration
from penstock.learn.fast.model import FastModel
from penstock.learn.journal import RecordedSteps
from penstock.learn.ready import read_ready_manifest, ready_numbers
from penstock.learn.slow.base import LocalBases
from penstock.learn.slow.challenge import challenge
from penstock.learn.steps import Reached, nothing
from penstock.publish.asked.orders import Order
from penstock.publish.past.erasing import Whose
from penstock.publish.records.receipts import SqliteReceipts
from penstock.service import run_verification
from penstock.spec import Feature, Gate, Learn, Spec

NAME = "tried"
SPEC = Spec(
    name=NAME,
    task="binary",
    features={name: Feature(type="number") for name in "ab"},
    # Nothing but lines, which do not follow the labels, and checkpoints where a test asks for one.
    learn=Learn(random_features=0, tree_window=0, half_lives=(64.0, float("inf")), checkpoint_every_s=1e9),
    gate=Gate(good_after_events=64, canary=(0.5,)),
)
FILE = Path("tried.yaml")
CHANGES = ("learn.half_lives [256, inf] instead of [64, inf]", "learn.random_features 24 instead of 0")


def with_learn(**changes: object) -> Spec:
    return msgspec.structs.replace(SPEC, learn=msgspec.structs.replace(SPEC.learn, **changes))


BETTER = with_learn(random_features=24, half_lives=(256.0, float("inf")))
"""Random features of two numbers, which see where their product is above 0."""


def challenged(house: House, spec: Spec = BETTER, number: int = 1) -> None:
    """Have these settings learn the log, and put them in shadow."""
    house.publisher.checkpoint()
    asked, _ = challenge_of(FILE, spec, SPEC, house.folder, 5.0)
    made = challenge(SPEC, house.folder, asked.configuration, asked.changes, number=number, reason="challenge")
    assert made is not None
    house.take_up()


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a service that was challenged while subjects asked, and has stopped after the promotion."""
    data = tmp_path_factory.mktemp("promoted")
    record({FILE: SPEC}, data)
    with House(data, 1, SPEC) as house:
        for _ in range(40):
            house.ask(("a", "b", "c", "d"))
        challenged(house)
        house.until_share(0.5)
        house.say(answered=40)
        house.publisher.checkpoint()
        for subject in ("later", "b") * 8:
            house.ask(("a", subject, "c", "d"))
        assert house.publisher.progress.slow.promoted, house.publisher.progress.slow
    return data


@pytest.fixture
def data(promoted: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(promoted, tmp_path / "data")
    return tmp_path / "data"


def demand_rebuilt(data: Path, *versions: int) -> None:
    for version in versions:
        for from_start in (False, True):
            found = run_verification(NAME, data, version, from_start=from_start, progress=lambda *_: None)
            assert found.outcome == "equal", found


def test_the_better_settings_are_promoted_and_all_that_is_kept_says_which(promoted: Path) -> None:
    folder = promoted / NAME
    manifest = read_ready_manifest(folder / "consolidation", 1)
    assert (manifest.reason, manifest.changes, manifest.events) == ("challenge", CHANGES, 320)
    assert (manifest.held_out.events > 0, manifest.held_out.gained) == (True, 0), "who has learned them proves nothing"
    receipts = SqliteReceipts(folder / "versions.sqlite", NAME, read_only=True)
    (promotion,) = [one for one in receipts.newest(10_000) if one.cause == "promotion"]
    canary = [one for one in receipts.newest(10_000) if one.cause == "canary"]
    facts = receipts.facts(100, ["consolidated", "shadow_started", "widened", "promoted"])
    receipts.close()
    assert promotion.verdict.startswith("The new configuration is promoted: ")
    assert promotion.gain is not None
    assert promotion.consolidation is not None
    assert (promotion.consolidation.cause, promotion.consolidation.changes) == ("challenge", CHANGES)
    told = sentence(NAME, msgspec.to_builtins(promotion))
    assert f"has {CHANGES[0]}, {CHANGES[1]}, which version {promotion.parent} had not" in told
    assert canary[0].verdict.startswith("The new configuration answers 0.5 of the traffic: ")
    assert {fact.base for fact in facts} == {manifest.base, promotion.base}  # type: ignore[attr-defined]


def test_what_is_in_force_learns_and_answers_after_a_restart_as_before(data: Path) -> None:
    newest = RecordedSteps(data / NAME / "steps")
    version = next(iter(newest.entries(newest.last - 1))).version
    with House(data, 2, SPEC) as house:
        model = house.publisher._learner.model
        assert isinstance(model, FastModel)
        assert (house.version, model._layout.random_features, model._layout.memories[0]) == (version, 24, 256.0)
        before = house.publisher.progress
        for _ in range(10):
            house.ask(("a", "b"))
        after = house.publisher.progress
        learned = after.labelled - before.labelled
        right = after.accuracy * after.labelled - before.accuracy * before.labelled
        assert (learned, right / learned > 0.8) == (80, True)
    demand_rebuilt(data, house.version)


def test_versions_before_and_after_the_promotion_are_rebuilt_to_the_byte(promoted: Path) -> None:
    steps = list(RecordedSteps(promoted / NAME / "steps").entries())
    at = next(place for place, step in enumerate(steps) if step.shadow is not None and step.shadow.what == "promoted")
    tried = next(step.tried for step in steps if step.tried)
    demand_rebuilt(promoted, steps[at - 1].version, tried, steps[at].version, steps[-1].version)


def test_going_back_by_hand_answers_and_learns_by_the_settings_of_then(data: Path) -> None:
    steps = list(RecordedSteps(data / NAME / "steps").entries())
    with House(data, 3, SPEC) as house:
        good = house.publisher._succession.earlier.good
        base_of = {step.version: step.base for step in steps}
        assert good is not None
        assert base_of[good] == "", "the last known good is of the old line still"
        order = Order(what="roll_back", by="ann", reason="it is slow", version=None)
        entry, block = house.publisher._succession.obey("1", order, lambda _: house.publisher._stamp(due=True))  # type: ignore[misc]
        house.publisher._make("order", entry, block)
        house.ask(("a", "b"))
        model = house.publisher._learner.model
        assert isinstance(model, FastModel)
        assert (entry.base, model._layout.random_features) == ("", 0)
        assert in_force(house.folder, SPEC) == Configuration.of(SPEC)
    demand_rebuilt(data, house.version)


def test_the_file_is_taken_where_it_has_the_settings_in_force_and_told_of_where_it_has_the_old_ones(data: Path) -> None:
    kept = recorded(data, NAME)
    assert kept == SPEC
    assert record({FILE: BETTER}, data) == []
    assert recorded(data, NAME) == SPEC, "what the service began with is what versions of then are built by"
    (told,) = record({FILE: SPEC}, data)
    assert "tried answers with learn.half_lives [256, inf], learn.random_features 24" in told
    assert "tried.yaml has learn.half_lives [64, inf], learn.random_features 0" in told
    with pytest.raises(SettingsUntried) as untried:
        record({FILE: with_learn(tree_window=1024)}, data)
    assert "learn.tree_window 1024" in str(untried.value)
    assert (
        "in force (learn.half_lives [256, inf], learn.random_features 24, learn.tree_window 0)" in untried.value.advice
    )
    with pytest.raises(SpecChanged, match=r"learn\.seed changed"):
        record({FILE: msgspec.structs.replace(BETTER, learn=msgspec.structs.replace(BETTER.learn, seed=3))}, data)
    assert recorded(data, NAME) == SPEC


def test_what_cannot_be_tried_is_refused_by_name_and_what_counts_from_the_next_start_is_told(promoted: Path) -> None:
    folder = promoted / NAME
    with pytest.raises(NotChallenging, match="it has the settings in force"):
        challenge_of(FILE, BETTER, SPEC, folder, 1.0)
    more = msgspec.structs.replace(BETTER, features={**SPEC.features, "c": Feature(type="number")})
    with pytest.raises(NotChallenging, match=r"features\.c changed"):
        challenge_of(FILE, more, SPEC, folder, 1.0)
    with pytest.raises(NotChallenging, match=r"learn\.members changed"):
        challenge_of(FILE, with_learn(members=("river.dummy.NoChangeClassifier()",)), SPEC, folder, 1.0)
    other_gate = msgspec.structs.replace(SPEC, gate=Gate(alpha=0.01))
    asked, later = challenge_of(FILE, other_gate, SPEC, folder, 1.0)
    assert later == ["gate"]
    assert asked.changes == (
        "learn.half_lives [64, inf] instead of [256, inf]",
        "learn.random_features 0 instead of 24",
    )


def test_settings_that_are_not_better_are_given_up_and_may_be_tried_once_more(tmp_path: Path) -> None:
    record({FILE: SPEC}, tmp_path)
    gate = msgspec.structs.replace(SPEC.gate, shadow_events_max=200, forgetting_max=0.9)
    with House(tmp_path, 4, msgspec.structs.replace(SPEC, gate=gate)) as house:
        for _ in range(30):
            house.ask(("a", "b"))
        challenged(house, with_learn(half_lives=(60.0, float("inf"))))
        artifact = house.publisher.progress.slow.shadow_base
        for _ in range(26):
            house.ask(("a", "b"))
        slow = house.publisher.progress.slow
        assert (slow.promoted, slow.shadow, slow.base) == (0, 0, "")
        assert slow.outcome.startswith("The new configuration is given up: after 200 events ")
        # The same settings once more are another candidate, which the end of the first does not take away.
        challenged(house, with_learn(half_lives=(60.0, float("inf"))), number=2)
        assert house.publisher.progress.slow.shadow_base not in ("", artifact)
        house.publisher.checkpoint()
        assert house.publisher.progress.slow.shadow_base in LocalBases(house.folder / "bases").ids()


class Killed(Exception):
    pass


def test_a_challenge_that_is_killed_anywhere_leaves_the_same_candidate_when_it_is_made_again(tmp_path: Path) -> None:
    record({FILE: SPEC}, tmp_path)
    with House(tmp_path, 6, SPEC) as house:
        for _ in range(12):
            house.ask(("a", "b"))
    folder, passed = tmp_path / NAME, []

    def leave(reached: Reached = nothing) -> str:
        configuration = Configuration.of(BETTER)
        made = challenge(
            SPEC, folder, configuration, CHANGES, number=1, reason="challenge", now=lambda: 5.0, reached=reached
        )
        assert made is not None
        return f"{made.base} {made.content}"

    whole = leave(passed.append)
    assert {"challenge.read", "challenge.configured", "ready.state", "ready.renamed", "challenge.end"} <= set(passed)
    for place in passed:
        shutil.rmtree(folder / "consolidation")
        shutil.rmtree(folder / "bases")

        def kill(action: str, place: str = place) -> None:
            if action == place:
                raise Killed

        with pytest.raises(Killed):
            leave(kill)
        assert leave() == whole, place
        assert ready_numbers(folder / "consolidation") == [1]


def test_before_anything_was_learned_there_is_nothing_to_learn_from(tmp_path: Path) -> None:
    record({FILE: SPEC}, tmp_path)
    with House(tmp_path, 5, SPEC) as house:
        house.publisher.checkpoint()
        with pytest.raises(TrainingFailed, match="no labelled event yet"):
            challenge(SPEC, house.folder, Configuration.of(BETTER), CHANGES, number=1, reason="challenge")


def test_an_erasure_builds_the_promotion_once_more_where_it_was_tried_before_the_events_came(data: Path) -> None:
    receipt = erase(data, NAME, Whose(subject="later"), lambda _: None)
    assert receipt.consolidations == []
    demand_rebuilt(data, receipt.version)
    assert in_force(data / NAME, SPEC) == Configuration.of(BETTER)


def test_an_erasure_of_events_that_it_was_learned_from_withdraws_the_settings_as_well(data: Path) -> None:
    receipt = erase(data, NAME, Whose(subject="a"), lambda _: None)
    assert receipt.consolidations == [1]
    demand_rebuilt(data, receipt.version)
    assert in_force(data / NAME, SPEC) == Configuration.of(SPEC)
