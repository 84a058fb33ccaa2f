"""What held-out events say of two models: gains, losses, and what was forgotten and is not chance."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from msgspec.structs import replace

from penstock.events import Batch, Kind
from penstock.learn.fast.model import FastModel
from penstock.learn.slow.base import MemoryBases
from penstock.learn.slow.judge import judge
from penstock.spec import ClassName, Feature, Learn, Spec, Task


def spec(task: Task) -> Spec:
    return Spec(name="s", task=task, features={"x": Feature(type="number")}, learn=Learn(random_features=0))


def events(n: int, seed: int, task: Task = "multiclass", classes: int = 3, flip: bool = False) -> Batch:
    """Three classes side by side on a line; the label of a regression is where on it."""
    rng = np.random.default_rng(seed)
    place = rng.integers(0, classes, n)
    x = place - 1.0 + 0.1 * rng.normal(size=n)
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(n),
        ids=None,
        sources=None,
        numbers=x[:, None],
        vectors=(),
        strings=(),
        labels=(-x if flip else x) if task == "regression" else [ClassName("abc"[p]) for p in place],
        versions=None,
    )


def model(task: Task, *batches: Batch) -> FastModel:
    made = FastModel(spec(task))
    for batch in batches:
        made.learn(batch)
    return made


def test_a_class_that_one_model_does_not_know_is_what_it_has_forgotten() -> None:
    knows_two = model("multiclass", events(600, 0, classes=2))
    knows_all = model("multiclass", events(600, 0, classes=2), events(600, 1))
    held_out = events(300, 2)
    better = judge(spec("multiclass"), knows_two, knows_all, held_out, MemoryBases())
    assert better.held_out.forgotten == 0.0
    assert better.held_out.lost <= 3
    assert better.held_out.gained == (np.array(held_out.labels) == "c").sum()
    assert better.before["c"] == 0.0
    assert better.after["c"] == 1.0
    worse = judge(spec("multiclass"), knows_all, knows_two, held_out, MemoryBases()).held_out
    assert (worse.forgotten, worse.forgotten_class) == (1.0, "c")
    assert (worse.gained, worse.lost, worse.events) == (better.held_out.lost, better.held_out.gained, 300)


def test_a_lone_event_of_a_class_is_chance_and_not_forgetting() -> None:
    knows_two = model("multiclass", events(600, 0, classes=2))
    knows_all = model("multiclass", events(600, 0, classes=2), events(600, 1))
    few = events(300, 2)
    of_c = np.flatnonzero(np.array(few.labels) == "c")
    one = few.rows(np.sort(np.concatenate((np.flatnonzero(np.array(few.labels) != "c"), of_c[:1]))))
    assert judge(spec("multiclass"), knows_all, knows_two, one, MemoryBases()).held_out.forgotten == 0.0


def test_of_many_classes_some_always_lose_a_little_and_that_is_chance() -> None:
    plane = {name: Feature(type="number") for name in ("x", "y")}
    service = replace(spec("multiclass"), features=plane, learn=Learn(random_features=32, half_lives=(float("inf"),)))
    rng = np.random.default_rng(5)

    def around(n: int) -> Batch:
        """Twelve classes in a circle, each too near to the next."""
        place = rng.integers(0, 12, n)
        turn = 2.0 * np.pi * place / 12.0
        inputs = np.stack((np.cos(turn), np.sin(turn)), axis=1) + 0.2 * rng.normal(size=(n, 2))
        return dataclasses.replace(events(n, 0), numbers=inputs, labels=[ClassName(f"class {p}") for p in place])

    one, other = FastModel(service), FastModel(service)
    one.learn(around(1500))
    other.load(one.save())
    for learner in (one, other):
        learner.learn(around(500))
    judged = judge(service, one, other, around(1200), MemoryBases())
    assert max(judged.before[name] - judged.after[name] for name in judged.before) > 0.05
    assert judged.held_out.forgotten == 0.0
    assert judged.held_out.forgotten_class == ""


def test_a_regression_is_judged_by_its_losses() -> None:
    right = model("regression", events(600, 0, "regression"))
    wrong = model("regression", events(600, 0, "regression", flip=True))
    judged = judge(spec("regression"), right, wrong, events(200, 1, "regression"), MemoryBases())
    assert judged.held_out.forgotten > 0.2
    assert judged.held_out.lost > 150
    assert judged.after["loss"] - judged.before["loss"] == pytest.approx(judged.held_out.forgotten)
