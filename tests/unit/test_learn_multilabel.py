"""Several classes together: what heads learn of each, new classes, late labels, losses, and the state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from penstock.errors import BadEvent
from penstock.events import Batch, Kind, Version
from penstock.learn.block import pack, unpack
from penstock.learn.fast.mixture import BLOCK, FLOOR, SHARE, fixed_share
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.multilabel import places_of_sets, set_losses, targets_of, unbent
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.fast.questions import bend, share
from penstock.learn.interface import State
from penstock.learn.prequential import Prequential, agreement
from penstock.spec import ClassName, ClassSet, Feature, Label, Learn, Spec

Array = NDArray[np.float64]
NAMES = tuple(ClassName(name) for name in "abcd")


def spec(declared: tuple[ClassName, ...] = (), classes_max: int = 1000, random_features: int = 16) -> Spec:
    return Spec(
        name="posts",
        task="multilabel",
        features={f"x{i}": Feature(type="number") for i in range(3)},
        label=Label(classes=declared, classes_max=classes_max),
        learn=Learn(random_features=random_features),
    )


def events(numbers: Array, sets: list[ClassSet] | None) -> Batch:
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(len(numbers)),
        ids=None,
        sources=None,
        numbers=numbers,
        vectors=(),
        strings=(),
        labels=sets,
        versions=None,
    )


def stream(n: int, seed: int = 7) -> tuple[Array, list[ClassSet], Array]:
    """Inputs, sets and the true chances: one class of half of all events, two of some and one that is rare."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(n, 3))
    weights = np.array([[2.0, -1.5, 0.0, 1.0], [0.0, 1.5, -2.0, 0.0], [1.0, 0.0, 1.5, -1.0]])
    chances = 1.0 / (1.0 + np.exp(-(numbers @ weights + np.array([0.0, -1.0, -1.0, -4.0]))))
    return numbers, named(rng.random((n, 4)) < chances), chances


def named(rows: NDArray[np.bool_]) -> list[ClassSet]:
    return [tuple(NAMES[place] for place in np.flatnonzero(row)) for row in rows]


def run(model: FastModel, numbers: Array, sets: list[ClassSet], step: int) -> tuple[Array, Array]:
    """(n, classes) chances in the order of NAMES, NaN where a class was unknown, and (n,) losses."""
    said, losses = np.full((len(sets), len(NAMES)), np.nan), []
    for at in range(0, len(sets), step):
        learned = model.learn(events(numbers[at : at + step], sets[at : at + step]))
        assert learned.finite
        assert learned.predictions.probabilities is not None
        known = learned.predictions.probabilities.shape[1]
        places = [NAMES.index(name) for name in model.classes[:known]]
        said[at : at + step, places] = learned.predictions.probabilities
        losses.append(learned.losses)
    return said, np.concatenate(losses)


@pytest.mark.parametrize("step", [1, 20, 64])
def test_the_chances_of_each_class_come_near_the_true_ones(step: int) -> None:
    numbers, sets, chances = stream(1500)
    said, _ = run(FastModel(spec(NAMES)), numbers, sets, step)
    errors = np.abs(said - chances)[750:].mean(axis=0)
    flat = np.abs(chances - chances.mean(axis=0))[750:].mean(axis=0)
    assert (errors < 0.15 * flat + 0.02).all()
    # The answers are probabilities: of what is said to be so likely, as much comes.
    targets = targets_of(sets, {name: place for place, name in enumerate(NAMES)}, 4)
    likely = (said > 0.4) & (said < 0.6)
    assert targets[likely].mean() == pytest.approx(0.5, abs=0.1)


def test_classes_that_stop_mattering_to_one_input_are_followed_where_they_go() -> None:
    numbers, sets, _ = stream(1200)
    swap = {"a": "b", "b": "a", "c": "c", "d": "d"}
    after: list[ClassSet] = [tuple(sorted(ClassName(swap[name]) for name in names)) for names in sets]
    model = FastModel(spec(NAMES))
    run(model, numbers, sets, 16)
    _, losses = run(model, numbers, after, 16)
    assert losses[600:].mean() < 0.75 * losses[:60].mean()


@pytest.mark.parametrize("step", [1, 32, 200])
def test_a_class_that_arrives_late_is_a_question_from_then_on(step: int) -> None:
    numbers, sets, _ = stream(900)
    without: list[ClassSet] = [tuple(name for name in names if name != "b") for names in sets[:450]]
    late, early = FastModel(spec()), FastModel(spec())
    run(late, numbers[:450], without, step)
    assert "b" not in late.classes
    said, _ = run(late, numbers[450:], sets[450:], step)
    assert late.classes.index(ClassName("b")) == len(late.classes) - 1
    fresh, _ = run(early, numbers[450:], sets[450:], step)
    came = np.array(["b" in names for names in sets[450:]])
    settled = slice(200, None)
    # Four hundred events without it are no evidence against it: it is learned nearly as well as by a new model.
    errors = [((of[settled, 1] - came[settled]) ** 2).mean() for of in (said, fresh)]
    assert errors[0] < errors[1] + 0.02


def test_what_came_before_a_class_in_its_own_step_says_nothing_of_it() -> None:
    numbers = np.zeros((8, 3))
    sets: list[ClassSet] = [()] * 7 + [(NAMES[0],)]
    model = FastModel(spec())
    model.learn(events(numbers, sets))
    learned = model.learn(events(numbers[:1], [()]))
    assert learned.predictions.probabilities is not None
    # It came in every event since it is known.
    assert learned.predictions.probabilities[0, 0] > 0.5


def test_one_class_too_many_is_set_aside_with_its_event_and_refused_when_learned() -> None:
    a, b, c, d = NAMES
    model = FastModel(spec(classes_max=2))
    sets: list[ClassSet] = [(a,), (b, c), (), (a, b), (c,)]
    places = model.takes(events(np.zeros((5, 3)), sets))
    assert places is not None
    assert places.tolist() == [0, 2, 3]
    assert model.takes(events(np.zeros((2, 3)), [(a,), ()])) is None
    with pytest.raises(BadEvent, match="class number 3"):
        model.learn(events(np.zeros((1, 3)), [(a, b, d)]))
    with pytest.raises(BadEvent, match="no sets"):
        model.learn(events(np.zeros((1, 3)), None))
    assert model.classes == ()


@given(st.lists(st.frozensets(st.sampled_from(NAMES)), max_size=8), st.integers(0, 4))
def test_events_find_room_in_their_order(sets: list[frozenset[ClassName]], room: int) -> None:
    ordered = [tuple(sorted(names)) for names in sets]
    places = places_of_sets(ordered, [NAMES[0]], room)
    taken = range(len(sets)) if places is None else places.tolist()
    known = {NAMES[0]}
    for place, names in enumerate(sets):
        fits = len(known | names) <= 1 + room
        assert (place in taken) == fits
        known |= names if fits else set()


def test_the_loss_is_least_for_the_true_chances_and_lies_between_0_and_1() -> None:
    index = {name: place for place, name in enumerate(NAMES)}
    rng = np.random.default_rng(3)
    true = np.array([0.9, 0.5, 0.2, 0.05])
    sets = named(rng.random((4000, 4)) < true)

    def loss(chances: Array) -> float:
        losses = set_losses(np.tile(chances, (len(sets), 1)), sets, index, 4.0)
        assert ((losses >= 0.0) & (losses <= 1.0)).all()
        return float(losses.mean())

    for place in range(4):
        for away in (-0.05, 0.05):
            assert loss(true) < loss(true + away * (np.arange(4) == place))
    wrong = set_losses(np.array([[1.0, 1.0, 1.0, 1.0]]), [()], index, 4.0)
    unknown = set_losses(np.zeros((1, 1)), [NAMES[:3]], {NAMES[0]: 0}, 4.0)
    cut = set_losses(np.ones((1, 4)), [()], index, 2.0)
    assert [wrong[0], unknown[0], cut[0]] == [1.0, 0.75, 1.0]


def test_a_block_answers_and_measures_as_the_model_did() -> None:
    numbers, sets, _ = stream(300)
    model = FastModel(spec())
    run(model, numbers[:250], sets[:250], 25)
    block = unpack(b"".join(pack(model.freeze(Version(1), {}))))
    predictor = BlockPredictor(block, spec())
    asked = events(numbers[250:], sets[250:])
    answers = predictor.predict(asked)
    learned = model.learn(asked)
    assert answers.probabilities == pytest.approx(learned.predictions.probabilities, rel=1e-12)
    assert predictor.losses(answers, asked, learned.scale) == pytest.approx(learned.losses, rel=1e-9)
    assert predictor.losses(answers, asked) == pytest.approx(learned.losses, rel=1e-9)


@pytest.mark.parametrize("cut", [1, 37, 150])
def test_a_saved_model_goes_on_to_the_same_bytes(cut: int) -> None:
    numbers, sets, _ = stream(240)
    whole, first, second = (FastModel(spec()) for _ in range(3))
    run(whole, numbers, sets, 24 if cut == 1 else 1)
    run(first, numbers[:cut], sets[:cut], 24 if cut == 1 else 1)
    saved = first.save()
    second.load(State(saved.values, {name: array.copy() for name, array in saved.arrays.items()}))
    at = cut
    if cut == 1:
        # Steps end at other places then, so that both are given the same ones.
        run(first, numbers[at:], sets[at:], 24)
        whole = first
    run(second, numbers[at:], sets[at:], 24 if cut == 1 else 1)
    one, other = whole.save(), second.save()
    assert one.values == other.values
    assert one.arrays.keys() == other.arrays.keys()
    assert all(one.arrays[name].tobytes() == other.arrays[name].tobytes() for name in one.arrays)


def test_late_labels_are_held_against_what_was_said_then() -> None:
    numbers, sets, _ = stream(600)
    model = FastModel(spec(NAMES))
    run(model, numbers[:200], sets[:200], 20)
    then = BlockPredictor(model.freeze(Version(1), {}), spec(NAMES)).predict(events(numbers[:100], None)).said
    assert then is not None
    now, late = FastModel(spec(NAMES)), FastModel(spec(NAMES))
    run(model, numbers[200:], sets[200:], 20)
    now.load(model.save())
    late.load(model.save())
    asked = events(numbers[:100], sets[:100])
    now.learn(asked)
    late.learn(replace(asked, said=then))
    mixtures = [m.freeze(Version(2), {}).arrays["mixture"] for m in (now, late)]
    assert not np.allclose(*mixtures)
    # Heads learn from the event as they are now in both cases.
    weights = [m.freeze(Version(2), {}).arrays["weights"] for m in (now, late)]
    assert np.array_equal(*weights)


def test_a_class_unknown_then_leaves_its_own_mixture_alone() -> None:
    numbers, sets, _ = stream(300)
    model = FastModel(spec())
    without: list[ClassSet] = [tuple(name for name in names if name in "ab") for names in sets]
    run(model, numbers[:100], without[:100], 10)
    then = BlockPredictor(model.freeze(Version(1), {}), spec()).predict(events(numbers[200:250], None)).said
    run(model, numbers[100:200], sets[100:200], 10)
    before = model.freeze(Version(1), {}).arrays["mixture"]
    model.learn(replace(events(numbers[200:250], sets[200:250]), said=then))
    after = model.freeze(Version(1), {}).arrays["mixture"]
    told = [name in "ab" for name in model.classes]
    for known, old, new in zip(told, before, after, strict=True):
        # What is given back to all members is all that happens to the others.
        kept = (1.0 - 1e-3) ** 50
        assert np.allclose(new, kept * old + (1.0 - kept) / len(old), atol=1e-9) != known


@given(st.integers(1, 70), st.integers(1, 3), st.integers(0, 2**31))
def test_the_weights_of_each_class_are_those_of_fixed_share(n: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    said, targets = rng.uniform(1e-7, 1.0, (n, classes, 4)), (rng.random((n, classes)) < 0.5).astype(np.float64)
    weights = np.full((classes, 4), 0.25)
    share(said, targets, FLOOR, SHARE, BLOCK, weights)
    for c in range(classes):
        likelihoods = np.where(targets[:, c, None] > 0.0, said[:, c], 1.0 - said[:, c])
        alone = fixed_share(np.full(4, 0.25), np.log(np.maximum(likelihoods, FLOOR)))
        assert weights[c] == pytest.approx(alone, rel=1e-9)


def test_lines_find_the_odds_that_were_meant_and_stay_where_nothing_was_said() -> None:
    rng = np.random.default_rng(2)
    odds = rng.normal(size=(4000, 3)) * 2.0
    came = (rng.random((4000, 3)) < 1.0 / (1.0 + np.exp(-(0.5 * odds - 1.0)))).astype(np.float64)
    odds[:, 2] = np.nan
    lines, information = unbent(3), np.tile(np.eye(2) * 8.0, (3, 1, 1))
    for at in range(0, 4000, 40):
        bend(odds[at : at + 40], came[at : at + 40], 1.0, 8.0, lines, information)
    assert lines[:2] == pytest.approx(np.array([[0.5, -1.0]] * 2), abs=0.12)
    assert lines[2].tolist() == [1.0, 0.0]


def test_sets_are_measured_as_a_whole_class_by_class_and_by_f1() -> None:
    numbers, sets, _ = stream(400)
    model, measured = FastModel(spec(NAMES)), Prequential()
    found = wrong = together = right = 0
    for at in range(0, 400, 40):
        part = sets[at : at + 40]
        learned = model.learn(events(numbers[at : at + 40], part))
        measured.add(learned, events(numbers[at : at + 40], part), model.classes)
        chances = learned.predictions.probabilities
        assert chances is not None
        for row, names in zip(chances, part, strict=True):
            answer = {name for name, chance in zip(NAMES, row, strict=True) if chance > 0.5}
            found += len(answer & set(names))
            together += len(answer) + len(names)
            wrong += len(answer ^ set(names))
            right += answer == set(names)
    # The fading leaves the plain figures nearly as they are over so few events.
    assert measured.micro_f1 == pytest.approx(2 * found / together, abs=0.03)
    assert measured.hamming_loss.mean == pytest.approx(wrong / 1600, abs=0.03)
    assert measured.accuracy.mean == pytest.approx(right / 400, abs=0.05)
    again = Prequential()
    again.load(measured.save())
    assert again.micro_f1 == measured.micro_f1
    older = Prequential()
    older.load(measured.save()[:6])
    assert older.accuracy.mean == measured.accuracy.mean


def test_a_lower_threshold_finds_more_and_names_more() -> None:
    numbers, sets, _ = stream(300)
    model = FastModel(spec(NAMES))
    run(model, numbers[:200], sets[:200], 20)
    said = model.learn(events(numbers[200:], sets[200:])).predictions
    counts = [agreement(said, sets[200:], model.classes, threshold) for threshold in (0.5, 0.2)]
    assert counts[0].found.sum() < counts[1].found.sum()
    assert counts[0].named.sum() < counts[1].named.sum()


def test_declared_classes_are_answered_before_any_came() -> None:
    model = FastModel(spec(NAMES))
    learned = model.learn(events(np.zeros((1, 3)), [()]))
    assert learned.predictions.probabilities == pytest.approx(np.full((1, 4), 0.5), abs=0.1)
    assert model.learn(events(np.zeros((1, 3)), [NAMES[:1]])).losses[0] < 0.6
