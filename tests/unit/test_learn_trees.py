"""Boosted trees on windows of events: what they learn, what a block of them answers, and what bounds them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from penstock.events import Batch, Kind, Strings, Version
from penstock.learn.fast.boosting import CREDIT_FIRST_NS, Boosting, boosted, boosting, earned
from penstock.learn.fast.encode import Encoder
from penstock.learn.fast.growing import CODES, cut, place_in_bins
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.fast.trees import COLUMNS_MAX, MANY, Columns, Trees
from penstock.spec import ClassName, Feature, Label, Learn, Spec, Task

NUMBERS = {"a": Feature(type="number"), "b": Feature(type="number")}


def _spec(task: Task, features: dict[str, Feature] | None = None, **learn: object) -> Spec:
    return Spec(name="s", task=task, features=features or NUMBERS, label=Label(), learn=Learn(**learn))  # type: ignore[arg-type]


def _batch(numbers: NDArray[np.float64], labels: object = None, strings: tuple[Strings, ...] = ()) -> Batch:
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(len(numbers)),
        ids=None,
        sources=None,
        numbers=numbers,
        vectors=(),
        strings=strings,
        labels=labels,  # type: ignore[arg-type]
        versions=None,
    )


def _names(classes: NDArray[np.int64]) -> list[ClassName]:
    return [ClassName(str(c)) for c in classes.tolist()]


def _trees(spec: Spec) -> tuple[Boosting, Encoder]:
    encoder = Encoder(spec)
    return boosting(spec, encoder)[0], encoder


def test_trees_learn_a_chessboard_of_which_no_column_says_anything_alone() -> None:
    rng = np.random.default_rng(0)
    numbers = rng.uniform(0, 4, size=(3000, 2))
    classes = (numbers.astype(int).sum(axis=1) % 2).astype(np.int64)
    trees, _ = _trees(_spec("binary"))
    right = []
    for start in range(0, 3000, 50):
        batch = _batch(numbers[start : start + 50])
        right.append(trees.answer(batch, 2).argmax(axis=1) == classes[start : start + 50, None])
        trees.learn(batch, classes[start : start + 50])
    alone = np.concatenate([trees.answer(_batch(numbers[i : i + 1]), 2) for i in range(100)])
    assert np.allclose(alone, trees.answer(_batch(numbers[:100]), 2))
    # The longest window and the deepest trees, of three.
    assert np.concatenate(right[-20:])[:, 2].mean() > 0.93


def test_sixty_whole_numbers_are_told_apart_wherever_a_rule_cuts_them() -> None:
    ages = np.random.default_rng(2).integers(20, 80, size=1200).astype(np.float64)
    numbers = np.stack([ages, np.zeros(1200)], axis=1)
    everyone = np.stack([np.arange(20.0, 80.0), np.zeros(60)], axis=1)
    for bound in range(25, 76, 5):
        trees, _ = _trees(_spec("binary"))
        classes = (ages >= bound).astype(np.int64)
        for start in range(0, 1200, 40):
            trees.answer(_batch(numbers[start : start + 40]), 2)
            trees.learn(_batch(numbers[start : start + 40]), classes[start : start + 40])
        # The longest window.
        said = trees.answer(_batch(everyone), 2).argmax(axis=1)[:, 2]
        assert (said == (everyone[:, 0] >= bound)).all(), bound


def test_a_category_s_values_are_told_apart_whatever_order_they_came_in() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 9, size=1200)
    classes = np.isin(codes, (2, 5, 7)).astype(np.int64)
    spec = _spec("binary", {"c": Feature(type="category")})
    trees, encoder = _trees(spec)
    for start in range(0, 1200, 40):
        batch = _batch(np.empty((40, 0)), strings=([f"v{c}" for c in codes[start : start + 40]],))
        answer = trees.answer(batch, 2)
        encoder.absorb(batch)
        trees.learn(batch, classes[start : start + 40])
    assert (answer.argmax(axis=1) == classes[-40:, None]).all()


def test_missing_values_are_a_question_of_their_own() -> None:
    rng = np.random.default_rng(2)
    numbers = rng.normal(size=(600, 2))
    classes = (rng.random(600) < 0.5).astype(np.int64)
    numbers[classes == 1, 0] = np.nan
    trees, _ = _trees(_spec("binary"))
    for start in range(0, 600, 30):
        batch = _batch(numbers[start : start + 30])
        answer = trees.answer(batch, 2)
        trees.learn(batch, classes[start : start + 30])
    assert (answer.argmax(axis=1) == classes[-30:, None]).all()


def test_new_classes_and_more_classes_than_are_told_apart_keep_their_share() -> None:
    rng = np.random.default_rng(3)
    classes = rng.integers(0, 40, size=2000)
    numbers = np.stack((classes + rng.normal(size=2000) * 0.1, rng.normal(size=2000)), axis=1)
    trees, _ = _trees(_spec("multiclass"))
    for start in range(0, 2000, 100):
        trees.learn(_batch(numbers[start : start + 100]), classes[start : start + 100])
    answer = trees.answer(_batch(numbers), 41)
    assert np.allclose(answer.sum(axis=1), 1.0)
    assert (answer > 0).all()
    told = answer[:, :, 2].argmax(axis=1) == classes
    assert told.mean() > 0.3  # fifteen of forty


def test_numbers_are_followed_by_their_steps_and_a_lone_outlier_moves_little() -> None:
    rng = np.random.default_rng(4)
    numbers = rng.uniform(-1, 1, size=(2000, 2))
    outcomes = np.where(numbers[:, 0] > 0.3, 1000.0, -500.0) + rng.normal(size=2000)
    outcomes[1500] = 1e300
    trees, _ = _trees(_spec("regression"))
    for start in range(0, 2000, 50):
        batch = _batch(numbers[start : start + 50])
        answer = trees.answer(batch, None)
        trees.learn(batch, outcomes[start : start + 50])
    assert np.abs(answer[:, 2] - outcomes[-50:]).mean() < 100.0


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_block_answers_what_the_model_answers_and_a_loaded_model_goes_on_to_the_same_bytes(task: Task) -> None:
    rng = np.random.default_rng(5)
    features = {**NUMBERS, "c": Feature(type="category"), "t": Feature(type="timestamp")}
    spec = _spec(task, features, random_features=4, tree_window=64)

    def piece(n: int) -> Batch:
        numbers = rng.normal(size=(n, 3)) * (1.0, 1.0, 1e6)
        numbers[rng.random((n, 3)) < 0.1] = np.nan
        codes = rng.integers(0, 5, size=n)
        classes = (np.nan_to_num(numbers[:, 0]) > 0).astype(np.int64) + (codes == 3 if task == "multiclass" else 0)
        labels = _names(classes) if task != "regression" else classes * 2.0 + codes
        return _batch(numbers, labels, ([None if c == 4 else f"v{c}" for c in codes.tolist()],))

    model = FastModel(spec)
    for n in (1, 7, 20, 60, 3, 90, 30):
        model.learn(piece(n))
    block = model.freeze(Version(1), {})
    asked, later = piece(50), [piece(n) for n in (1, 1, 40, 70)]
    answered = BlockPredictor(block, spec).predict(asked)
    twin = FastModel(spec)
    twin.load(model.save())
    for batch in later:
        ours, theirs = model.learn(batch), twin.learn(batch)
        assert np.array_equal(ours.losses, theirs.losses)
    for name, array in model.save().arrays.items():
        assert array.tobytes() == twin.save().arrays[name].tobytes(), name
    again = BlockPredictor(block, spec).predict(asked)
    kept = "mean" if task == "regression" else "probabilities"
    assert np.array_equal(getattr(answered, kept), getattr(again, kept))
    assert any(name.startswith("trees.") for name in block.arrays)
    probed = FastModel(spec)
    probed.load(twin.save())
    at_once = BlockPredictor(probed.freeze(Version(2), {}), spec).predict(asked)
    assert np.allclose(getattr(at_once, kept), getattr(probed.learn(asked).predictions, kept), rtol=1e-9, atol=1e-12)


def test_growing_costs_no_more_than_steps_have_earned() -> None:
    rng = np.random.default_rng(6)
    trees, _ = _trees(_spec("binary", {f"x{i}": Feature(type="number") for i in range(20)}))
    spent = 0.0
    grow = trees._grow

    def priced(member: int) -> float:
        nonlocal spent
        price = grow(member)
        spent += price
        return price

    trees._grow = priced  # type: ignore[method-assign]
    income, last = CREDIT_FIRST_NS, 0.0
    for n in (1024,) * 40 + (1,) * 40:
        trees.learn(_batch(rng.normal(size=(n, 20))), rng.integers(0, 2, size=n))
        income += earned(n)
        last = max(last, spent - income)
    # One growing at most is begun on what is left.
    assert last < 12e6
    assert spent > 0.5 * (income - CREDIT_FIRST_NS)


def test_what_is_kept_is_bounded_and_wide_vectors_stay_out() -> None:
    trees, _ = _trees(_spec("binary", tree_window=100))
    rng = np.random.default_rng(7)
    for n in (1, 99, 100, 1000, 30, 250, 7):
        trees.learn(_batch(rng.normal(size=(n, 2))), rng.integers(0, 2, size=n))
    _, kept = trees.save()
    assert kept["trees.values"].shape == (2, 100)
    wide = _spec("binary", {"v": Feature(type="vector", width=COLUMNS_MAX + 1), **NUMBERS})
    assert Columns(wide, Encoder(wide)).count == 2
    only = _spec("binary", {"v": Feature(type="vector", width=COLUMNS_MAX + 1)})
    assert not boosted(only, Encoder(only))
    none = _spec("binary", tree_window=0)
    assert not boosting(none, Encoder(none))


@settings(max_examples=60)
@given(
    values=arrays(np.float64, st.integers(1, 80), elements=st.sampled_from([0.0, 1.0, 2.5, -3.0, 1e300, np.nan, 7.0])),
    bins=st.integers(2, 40),
    category=st.booleans(),
)
def test_bins_keep_the_order_of_values(values: NDArray[np.float64], bins: int, category: bool) -> None:
    if category:
        values = np.abs(np.where(values > 100, 90.0, np.floor(values)))
    cuts, count = cut(values[None], np.array([category]), bins)
    placed = place_in_bins(values[None], cuts, count)[0]
    assert (placed[np.isnan(values)] == 0).all()
    there = ~np.isnan(values)
    assert (placed[there] > 0).all()
    assert placed.max(initial=0) <= max(bins, CODES) + 1
    order = np.argsort(values[there], kind="stable")
    assert (np.diff(placed[there][order].astype(int)) >= 0).all()
    if category:
        codes = values[there]
        assert all(len(set(placed[there][codes == code].tolist())) == 1 for code in set(codes.tolist()))
        few = codes < CODES - 1
        assert len(set(placed[there][few].tolist())) == len(set(codes[few].tolist()))


@pytest.mark.parametrize("limits", [1, 2])
def test_events_find_the_same_leaves_in_short_steps_and_in_long_ones(limits: int) -> None:
    rng = np.random.default_rng(limits)
    bounds = rng.normal(size=(limits, 7, 5))
    bounds[-1, :3] = np.inf
    trees = Trees(rng.integers(0, 4, (7, 5)), bounds, rng.normal(size=(7, 32, 1)), np.arange(2), 0.1)
    columns = rng.normal(size=(4, 4 * MANY))
    columns[rng.random(columns.shape) < 0.1] = np.nan
    short = [trees.scores(columns[:, at : at + 8]) for at in range(0, columns.shape[1], 8)]
    assert trees.scores(columns).tolist() == np.concatenate(short).tolist()
