"""The compiled loops that answer steps of a few events say what NumPy says for servers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray

from penstock.learn.fast import answering
from penstock.learn.fast.answering import ask, ask_two, chances
from penstock.learn.fast.classify import ClassLearner
from penstock.learn.fast.kernels import multiply
from penstock.learn.fast.layout import Layout
from penstock.learn.fast.trees import Trees, together
from penstock.spec import Feature, Learn, Spec, Task

Array = NDArray[np.float64]
WIDTH = 9


def _learner(rng: np.random.Generator, classes: int) -> ClassLearner:
    """One whose every number is at random, as far as it may be."""
    learn = Learn(random_features=6, half_lives=(16.0, float("inf")))
    spec = Spec(name="s", task="multiclass", features={"x": Feature(type="number")}, learn=learn)
    layout = Layout.of(spec, others=3, stable=1)
    learner = ClassLearner(layout, 6, WIDTH, classes)
    members = learner.members
    members.weights = rng.normal(0.0, 2.0, members.weights.shape)
    members.counts = rng.uniform(0.0, 50.0, members.counts.shape)
    members.seen = rng.uniform(0.0, 500.0, members.seen.shape)
    members.alike = rng.uniform(0.0, 0.1, classes)
    members.mixture = rng.dirichlet(np.ones(layout.below))
    members.steepness = rng.uniform(0.5, 5.0, layout.heads)
    members.lapses = rng.uniform(0.0, 0.2, layout.heads)
    members.stacks.powers = rng.normal(0.1, 0.2, members.stacks.powers.shape)
    members.stacks.weights = rng.dirichlet(np.ones(len(members.stacks.weights)))
    members.stacks.sharpness = float(rng.uniform(0.5, 2.0))
    members.stacks.shifts = rng.normal(0.0, 0.1, len(members.stacks.shifts))
    members.refresh()
    return learner


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 32), st.booleans())
def test_few_events_are_answered_as_many_are(seed: int, classes: int, n: int, with_past: bool) -> None:
    rng = np.random.default_rng(seed)
    learner = _learner(rng, classes)
    members = learner.members
    if with_past:
        members.recency.low = 1.0
        members.recency.direction = rng.normal(0.0, 0.3, len(members.recency.direction))
        members.lasting.on = True
        members.lasting.powers = rng.normal(0.3, 0.5, members.lasting.powers.shape)
        members.lasting.weights = rng.dirichlet(np.ones(2))
    features = rng.normal(size=(n, WIDTH))
    others = rng.dirichlet(np.ones(classes), size=(n, 3)).transpose(0, 2, 1)
    few, many = learner.answer(features, others), members.answer(features, others)
    for field in ("scores", "members", "mixed", "sharp", "recency", "looks"):
        assert getattr(few, field) == pytest.approx(getattr(many, field), abs=1e-12), field
    # Who asks for the mixture alone gets the same to the last bit.
    alone = members.answer_by(answering, features, others, mixed_alone=True)
    assert np.array_equal(alone.mixed, few.mixed)


def test_what_is_no_number_is_not_hidden() -> None:
    learner = _learner(np.random.default_rng(0), 2)
    features = np.full((1, WIDTH), np.nan)
    assert np.isnan(learner.answer(features, np.full((1, 2, 3), 0.5)).mixed).all()


@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 5), st.booleans(), st.booleans())
@settings(deadline=None)
def test_trees_are_asked_as_servers_ask_them(seed: int, classes: int, depth: int, two_ends: bool, rest: bool) -> None:
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.choice(classes, size=int(rng.integers(1, classes + 1)), replace=False)).astype(np.int64)
    if rest and len(groups) < classes:
        groups = np.append(groups, -1)
    low = rng.normal(size=(1, 4, depth))
    bounds = np.concatenate((low, low + rng.exponential(1.0, low.shape))) if two_ends else low
    outputs = 1 if len(groups) <= 2 else len(groups)
    trees = Trees(rng.integers(0, 3, (4, depth)), bounds, rng.normal(size=(4, 1 << depth, outputs)), groups, 0.01)
    values = rng.normal(size=(3, 7))
    values[rng.random(values.shape) < 0.2] = np.nan
    scores, said = np.empty((7, outputs)), np.empty((7, classes))
    ask(values, trees.columns, trees.bounds, trees.leaves, scores)
    chances(scores, trees.groups, trees.spare, said)
    assert scores == pytest.approx(trees.scores(values), abs=1e-12)
    assert said == pytest.approx(trees.probabilities(values, classes), abs=1e-12)
    assert said.sum(axis=1) == pytest.approx(np.ones(7))


def test_trees_of_two_classes_are_asked_at_once_as_servers_ask_them() -> None:
    rng = np.random.default_rng(3)
    grown: list[Trees | None] = [
        Trees(
            rng.integers(0, 3, (5, depth)),
            rng.normal(size=(1, 5, depth)),
            rng.normal(size=(5, 1 << depth, 1)),
            np.array([0, 1]),
            0.01,
        )
        for depth in (2, 2, 4)
    ]
    values, said = rng.normal(size=(3, 7)), np.empty((7, 2, 3))
    values[rng.random(values.shape) < 0.2] = np.nan
    all_of_them = together(grown)
    assert all_of_them is not None
    ask_two(values, all_of_them.columns, all_of_them.bounds, all_of_them.leaves, said)
    for member, trees in enumerate(grown):
        assert trees is not None
        assert said[:, :, member] == pytest.approx(trees.probabilities(values, 2), abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 11, 150])
def test_a_symmetric_product_reads_the_lower_half(n: int) -> None:
    rng = np.random.default_rng(n)
    matrix, vector, product = rng.normal(size=(n, n)), rng.normal(size=n), np.full(n, np.nan)
    multiply(matrix, vector, product)
    lower = np.tril(matrix)
    assert product == pytest.approx((lower + np.tril(matrix, -1).T) @ vector, rel=1e-12, abs=1e-12)


def _automatic(inputs: int, task: Task = "binary", budget_us: float = 60.0) -> int:
    learn = Learn(random_features_us=budget_us)
    spec = Spec(name="s", task=task, features={"x": Feature(type="number")}, learn=learn)
    return Layout.of(spec, 0, inputs).random_features


def test_the_number_of_random_features_is_what_the_budget_is_enough_for() -> None:
    assert [_automatic(inputs) for inputs in (1, 20, 90)] == [128, 128, 128]
    assert _automatic(20, "regression") == _automatic(20, "multiclass") == 128
    # A random feature costs more beside more inputs, up to where the two are read apart.
    assert [_automatic(inputs) for inputs in (200, 784, 3000)] == [64, 128, 512]
    assert [_automatic(20, budget_us=budget) for budget in (1.0, 60.0, 200.0, 1e6)] == [64, 128, 256, 4096]
    budgets = np.linspace(1.0, 500.0, 60).tolist()
    counts = [_automatic(40, budget_us=budget) for budget in budgets]
    assert counts == sorted(counts)


def test_a_head_that_remembers_little_does_not_read_what_it_cannot_learn() -> None:
    spec = Spec(name="s", task="binary", features={"x": Feature(type="number")})
    memories = (16.0, 128.0, float("inf"))
    of = {
        count: Layout.of(replace(spec, learn=Learn(random_features=count, half_lives=memories)))
        for count in (0, 64, 128, 512)
    }
    assert [layout.rich for layout in of.values()] == [
        (16.0, 128.0, float("inf"), float("inf")),
        (16.0, 128.0, float("inf"), float("inf")),
        (128.0, float("inf"), float("inf")),
        (128.0, float("inf"), float("inf")),
    ]
    assert all(layout.linear == memories for count, layout in of.items() if count)
    short = Spec(name="s", task="regression", features=spec.features, learn=Learn(half_lives=(2.0, 4.0)))
    assert Layout.of(short).rich == (4.0,)
