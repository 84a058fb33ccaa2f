"""A server's predictors: each takes the place of the one before the last, and must answer as if it were made anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import BlockDamaged
from penstock.events import Batch, Kind, Version
from penstock.learn.block import pack, unpack
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor, NewestPredictor
from penstock.learn.interface import Block, Predictions
from penstock.spec import ClassName, Feature, Learn, Spec, Task

FEATURES = {"a": Feature(type="number"), "b": Feature(type="category"), "c": Feature(type="text")}
TASKS: tuple[Task, ...] = ("binary", "multiclass", "regression", "counts", "multilabel")


def _spec(task: Task) -> Spec:
    learn = Learn(random_features=8, half_lives=(16.0, float("inf")), tree_window=64)
    return Spec(name="s", task=task, features=FEATURES, learn=learn)


def _events(task: Task, n: int, seed: int, kinds: int) -> Batch:
    """Of so many classes and values of the category, some of them missing."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(kinds, size=n)
    names = [ClassName(str(one % 2 if task == "binary" else one)) for one in drawn]
    labels = [(name,) for name in names] if task == "multilabel" else names
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(n),
        ids=None,
        sources=None,
        numbers=np.where(rng.random((n, 1)) < 0.1, np.nan, drawn[:, None] + rng.normal(size=(n, 1))),
        vectors=(),
        strings=(["bcdefgh"[one] if one else None for one in drawn], [f"word {one}" for one in drawn]),
        labels=drawn.astype(np.float64) if task in ("regression", "counts") else labels,  # type: ignore[arg-type]
        versions=None,
    )


def _travelled(block: Block) -> Block:
    return unpack(b"".join(pack(block)))


def _versions(task: Task, seed: int) -> list[Block]:
    """Of a model to which classes, values and missing features come as it learns."""
    model, found = FastModel(_spec(task)), []
    for step, (size, kinds) in enumerate([(1, 1), (8, 1), (30, 2), (1, 2), (1, 3), (60, 3), (1, 5), (40, 7), (1, 7)]):
        model.learn(_events(task, size, seed + step, kinds))
        found.append(_travelled(model.freeze(Version(step + 1), {})))
    return found


def _numbers(said: Predictions) -> list[bytes]:
    columns = (said.probabilities, said.mean, said.spread, said.low, said.high, said.quantiles)
    return [b"" if column is None else column.tobytes() for column in columns]


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=5)
@given(order=st.lists(st.integers(0, 8), min_size=3, max_size=9), seed=st.integers(0, 99))
def test_a_predictor_that_takes_in_another_version_answers_like_a_new_one(
    task: Task, order: list[int], seed: int
) -> None:
    versions, asked = _versions(task, seed), _events(task, 5, seed, 7)
    make = NewestPredictor(_spec(task))
    for at in order:
        answered = make(versions[at]).predict(asked)
        assert _numbers(answered) == _numbers(BlockPredictor(versions[at], _spec(task)).predict(asked))


@pytest.mark.parametrize("lacking", ["encoder.count", "mixture", "stack.shifts", "trees.1.leaves"])
def test_a_damaged_version_leaves_the_one_before_whole(lacking: str) -> None:
    versions, asked = _versions("multiclass", 3), _events("multiclass", 5, 3, 7)
    make = NewestPredictor(_spec("multiclass"))
    make(versions[2])
    newest = make(versions[5])
    before = _numbers(newest.predict(asked))
    for _ in range(3):
        damaged = replace(versions[8], arrays={n: a for n, a in versions[8].arrays.items() if n != lacking})
        with pytest.raises(BlockDamaged):
            make(damaged)
        assert _numbers(newest.predict(asked)) == before
    expected = BlockPredictor(versions[8], _spec("multiclass")).predict(asked)
    assert _numbers(make(versions[8]).predict(asked)) == _numbers(expected)
    assert _numbers(newest.predict(asked)) == before


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=5)
@given(at=st.integers(0, 8), size=st.sampled_from([1, 2, 31, 33, 300]), seed=st.integers(0, 99))
def test_compiled_answers_are_those_of_servers_but_for_their_last_digits(
    task: Task, at: int, size: int, seed: int
) -> None:
    version, asked = _versions(task, seed)[at], _events(task, size, seed, 7)
    plain, compiled = (BlockPredictor(version, _spec(task), compiled=is_compiled) for is_compiled in (False, True))
    said, again = plain.predict(asked), compiled.predict(asked)
    for field in ("probabilities", "mean", "spread", "low", "high", "quantiles"):
        ours, theirs = getattr(said, field), getattr(again, field)
        assert (ours is None) == (theirs is None)
        assert ours is None or np.allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    assert np.allclose(plain.losses(said, asked), compiled.losses(again, asked), rtol=1e-9, atol=1e-12)
