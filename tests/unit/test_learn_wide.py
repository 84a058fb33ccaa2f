"""Wide services: few heads read hundreds of inputs, and those that do learn the same as in the closed form."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock.errors import BlockDamaged, CheckpointDamaged
from penstock.events import Batch, Kind, Version
from penstock.learn.fast import kernels, triangles
from penstock.learn.fast.banks import PRIOR, Banks
from penstock.learn.fast.layout import VERY_WIDE, WIDE, Layout
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.interface import Block, State
from penstock.spec import ClassName, Feature, Learn, Spec, Task

Array = NDArray[np.float64]
HALF_LIVES = (16.0, 256.0, math.inf)


def _spec(width: int, task: Task = "multiclass", random_features: int = 12) -> Spec:
    learn = Learn(random_features=random_features, half_lives=HALF_LIVES, tree_window=0)
    return Spec(name="s", task=task, features={"pixels": Feature(type="vector", width=width)}, learn=learn)


def _batch(vectors: Array, labels: Any) -> Batch:
    n = len(vectors)
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(n),
        ids=None,
        sources=None,
        numbers=np.zeros((n, 0)),
        vectors=(vectors.astype(np.float32),),
        strings=(),
        labels=labels,
        versions=None,
    )


def _events(n: int, width: int, seed: int, classes: int = 4) -> Batch:
    """Classes that are directions of the inputs, much alike."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, classes, n)
    means = np.random.default_rng(99).normal(size=(classes, width))
    return _batch(0.2 * means[codes] + rng.normal(size=(n, width)), [ClassName(str(code)) for code in codes])


def _learned(model: FastModel, batch: Batch, *sizes: int) -> FastModel:
    at = 0
    for size in sizes:
        model.learn(batch.rows(slice(at, at + size)))
        at += size
    return model


@pytest.mark.parametrize("task", ["multiclass", "regression", "counts"])
def test_the_wider_the_inputs_the_fewer_heads_read_them(task: Task) -> None:
    spec = _spec(1, task)
    narrow, wide, very = (Layout.of(spec, 0, inputs) for inputs in (WIDE - 1, WIDE, VERY_WIDE))
    assert narrow == Layout.of(spec)
    assert not narrow.brief
    assert (wide.linear, wide.brief) == (HALF_LIVES, HALF_LIVES)
    assert (very.linear, very.brief) == ((), HALF_LIVES)
    assert wide.rich == (math.inf,)
    assert very.rich == ((math.inf,) if task == "multiclass" else (256.0, math.inf))
    for layout in (narrow, wide, very):
        assert layout.columns == len(layout.linear) + len(layout.brief) + len(layout.rich)
        assert layout.exact == (layout.columns - 1 if task == "multiclass" else None)


@pytest.mark.parametrize("inputs", [WIDE, VERY_WIDE])
def test_heads_learn_from_what_they_read_and_from_nothing_else(inputs: int) -> None:
    before = 9
    """Random features, without the one behind them."""
    layout = Layout.of(_spec(1), 0, inputs)
    rng = np.random.default_rng(0)
    rows, targets = rng.normal(size=(60, before + 1 + inputs)), np.eye(3)[rng.integers(0, 3, 60)]
    weights = np.zeros((rows.shape[1], 3, layout.heads))
    Banks(layout, before, rows.shape[1]).learn(rows, targets, weights)
    linear, brief = len(layout.linear), len(layout.brief)
    moved = np.abs(weights).max(axis=1) > 0
    assert moved[before:, :linear].all()
    assert not moved[:before, :linear].any()
    assert moved[: before + 1, linear : linear + brief].all()
    assert not moved[before + 1 :, linear : linear + brief].any()
    assert moved[:, linear + brief : layout.columns].all()


@pytest.mark.parametrize("sizes", [(700,), (40, 32, 1, 27, 600), (1,) * 20 + (680,), (600, 32, 32, 32, 4)])
def test_the_exact_head_is_the_ridge_solution_of_all_inputs_whatever_the_steps(sizes: tuple[int, ...]) -> None:
    layout = Layout.of(_spec(1), 0, VERY_WIDE)
    rng = np.random.default_rng(1)
    width = triangles.LARGE + 5
    rows, targets = rng.normal(size=(700, width)), np.eye(3)[rng.integers(0, 3, 700)]
    banks, weights = Banks(layout, width - VERY_WIDE - 1, width), np.zeros((width, 3, layout.heads))
    at = 0
    for size in sizes:
        banks.learn(rows[at : at + size], targets[at : at + size], weights)
        at += size
    expected = np.linalg.solve(rows.T @ rows + PRIOR * np.eye(width), rows.T @ targets)
    assert layout.exact is not None
    assert weights[:, :, layout.exact] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("size", [triangles.LARGE, triangles.LARGE + 61, 8 * triangles.BLOCK])
def test_blocks_of_a_triangle_do_what_its_rows_do(size: int) -> None:
    rng = np.random.default_rng(size)
    rows = rng.normal(size=(2 * size, size))
    lower = np.linalg.cholesky(rows.T @ rows).astype(np.float64)
    inverse, expected = np.full((size, size), np.nan), np.empty((size, size))
    triangles.invert(lower, inverse)
    kernels.invert_triangle(lower, expected)
    assert np.abs(inverse - expected).max() < 1e-12
    right = rng.normal(size=(3, size))
    found = right.copy()
    triangles.solve(lower, found)
    assert np.abs((lower @ lower.T @ found.T).T - right).max() < 1e-9


def test_banks_of_different_runs_learn_in_turn_together() -> None:
    """New inputs end the run of those who read them, and of nobody else; what follows is still learned event by event,
    and as if they had been there from the beginning, without a value."""
    layout = Layout.of(_spec(1), 0, WIDE)
    rng = np.random.default_rng(2)
    rows, targets = rng.normal(size=(90, 8 + WIDE)), np.eye(2)[rng.integers(0, 2, 90)]
    rows[:37, -1] = 0.0
    ways = []
    for grows in (True, False):
        width = rows.shape[1] - grows
        banks, weights = Banks(layout, 6, width), np.zeros((width, 2, layout.heads))
        banks.learn(rows[:30, :width], targets[:30], weights)
        banks.learn(rows[30:37, :width], targets[30:37], weights)
        if grows:
            banks.grow(rows.shape[1], weights)
            weights = np.concatenate((weights, np.zeros((1, 2, layout.heads))))
        for at in range(37, 90, 30):
            banks.learn(rows[at : at + 30], targets[at : at + 30], weights)
        ways.append(weights)
    brief = slice(len(layout.linear), len(layout.linear) + len(layout.brief))
    assert ways[0][:, :, brief] == pytest.approx(ways[1][:, :, brief], abs=1e-9)
    assert ways[0][:, :, layout.exact] == pytest.approx(ways[1][:, :, layout.exact], abs=1e-9)


@pytest.mark.parametrize("width", [WIDE, VERY_WIDE])
def test_a_wide_model_tells_classes_apart_and_goes_on_to_the_same_bytes(width: int) -> None:
    spec, batch = _spec(width), _events(900, width, 3)
    model = _learned(FastModel(spec), batch, 1, 31, 32, 200, 36)
    other = FastModel(spec)
    other.load(model.save())
    rest = batch.rows(slice(300, 900))
    for each in (model, other):
        _learned(each, rest, 1, 2, 32, 565)
    saved, again = model.save(), other.save()
    assert saved.values == again.values
    assert {name: array.tobytes() for name, array in saved.arrays.items()} == {
        name: array.tobytes() for name, array in again.arrays.items()
    }
    asked = _events(400, width, 4)
    shares = BlockPredictor(model.freeze(Version(1), {}), spec).predict(asked).probabilities
    assert shares is not None
    labels = asked.labels
    assert isinstance(labels, list)
    right = [model.classes[place] == label for place, label in zip(shares.argmax(axis=1), labels, strict=True)]
    assert np.mean(right) > 0.8


@pytest.mark.parametrize(("task", "share"), [("regression", 0.2), ("counts", 0.8)])
def test_wide_numbers_are_learned(task: Task, share: float) -> None:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(1600, VERY_WIDE))
    logs = vectors[:, :40] @ rng.normal(size=40) / 8.0
    outcomes = logs + 0.1 * rng.normal(size=1600) if task == "regression" else rng.poisson(8.0 * np.exp(logs)) * 1.0
    model = _learned(FastModel(_spec(VERY_WIDE, task)), _batch(vectors[:1200], outcomes[:1200]), *(32,) * 10, 880)
    answers = model.learn(_batch(vectors[1200:], outcomes[1200:])).predictions
    assert answers.mean is not None
    truth = logs[1200:] if task == "regression" else 8.0 * np.exp(logs[1200:])
    assert np.abs(answers.mean - truth).mean() < share * np.abs(truth - outcomes[:1200].mean()).mean()


def test_a_state_and_a_block_with_other_heads_are_refused() -> None:
    spec = _spec(WIDE)
    model = _learned(FastModel(spec), _events(20, WIDE, 6), 20)
    state, block = model.save(), model.freeze(Version(1), {})
    fewer = {"weights": state.arrays["weights"][:, :, 1:]}
    with pytest.raises(CheckpointDamaged):
        FastModel(spec).load(State(values=state.values, arrays=state.arrays | fewer))
    with pytest.raises(BlockDamaged):
        BlockPredictor(Block(head=block.head, arrays=dict(block.arrays) | fewer), spec)
