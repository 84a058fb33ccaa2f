"""What members said when they were asked: kept with the prediction, and held against the label that comes later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock.events import Batch, EventId, Kind, Offset, Partition, Version, decode, encode
from penstock.join.window import JoinWindow
from penstock.learn.fast.classify import ClassLearner
from penstock.learn.fast.layout import BASES, Layout
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.fast.said import HEAD, mark_of, members_then, of_classes
from penstock.spec import ClassName, Feature, Label, Learn, Serve, Spec, Task

Array = NDArray[np.float64]
STEP = 8


def _spec(task: Task, classes_max: int = 1000) -> Spec:
    return Spec(
        name="s",
        task=task,
        features={"x": Feature(type="number"), "y": Feature(type="number")},
        label=Label(classes_max=classes_max),
        learn=Learn(random_features=0),
        serve=Serve(quantiles=(0.1, 0.9) if task == "regression" else ()),
    )


def _batch(kind: Kind, numbers: Array, labels: Array | list[ClassName] | None = None, first: int = 0) -> Batch:
    return Batch(
        kind=kind,
        times=np.zeros(len(numbers)),
        ids=[EventId(str(first + row)) for row in range(len(numbers))],
        sources=None,
        numbers=numbers,
        vectors=(),
        strings=(),
        labels=labels,
        versions=np.ones(len(numbers), np.uint64) if kind is Kind.PREDICTION else None,
    )


def _delayed(
    spec: Spec, numbers: Array, labels: Array | list[ClassName], delay: int, *, keeping: bool
) -> tuple[FastModel, list[Array]]:
    """Every event is asked for, and its label told so many events later, through the log's bytes and the join; the
    model, and what was answered: probabilities of the second class, or low, mean and high."""
    model, join = FastModel(spec), JoinWindow(3600.0, 100_000)
    answers = []
    for at in range(0, len(numbers), STEP):
        asked = _batch(Kind.PREDICTION, numbers[at : at + STEP], first=at)
        said = BlockPredictor(model.freeze(Version(1), {}), spec).predict(asked)
        if said.probabilities is not None:
            answers.append(said.probabilities[:, 1])
        else:
            answers.append(np.column_stack([said.low, said.mean, said.high]))  # type: ignore[list-item]
        record = replace(asked, said=said.said if keeping else None)
        join.take(decode(b"".join(encode(record))), Partition(0), Offset(at), float(at))
        told = at - delay
        if told >= 0:
            feedback = _batch(Kind.FEEDBACK, np.empty((STEP, 0)), labels[told : told + STEP], first=told)
            joined = join.take(feedback, Partition(1), Offset(told), float(at))
            assert joined is not None
            model.learn(joined)
    return model, answers


def test_members_that_are_only_right_at_once_get_no_say_when_labels_come_late() -> None:
    # The label stays what it is for some 50 events: short memories know it well at once, and nothing 400 events later.
    rng = np.random.default_rng(0)
    n = 4000
    numbers = rng.normal(size=(n, 2))
    state = np.cumsum(rng.random(n) < 0.02) % 2
    truth = (state + (numbers[:, 0] > 1.0)) % 2
    labels = [ClassName(str(y)) for y in truth]
    losses, short = {}, {}
    for keeping in (False, True):
        model, answers = _delayed(_spec("binary"), numbers, labels, 400, keeping=keeping)
        p = np.clip(np.concatenate(answers)[1000:], 1e-6, 1 - 1e-6)
        losses[keeping] = -np.log(np.where(truth[1000:] == 1, p, 1 - p)).mean()
        short[keeping] = model.save().arrays["mixture"][BASES]  # the head that remembers 16 events
    assert short[False] > 0.5
    assert short[True] < 0.05
    assert losses[True] < losses[False] - 0.05


def test_intervals_cover_at_the_delay_at_which_they_are_needed() -> None:
    rng = np.random.default_rng(1)
    n = 4000
    numbers = rng.normal(size=(n, 2))
    weights = np.cumsum(0.05 * rng.normal(size=(n, 2)), axis=0)
    labels = 50.0 + (numbers * weights).sum(axis=1) + 0.3 * rng.normal(size=n)
    inside = {}
    for keeping in (False, True):
        _, answers = _delayed(_spec("regression"), numbers, labels, 200, keeping=keeping)
        low, _, high = np.concatenate(answers)[1000:].T
        inside[keeping] = ((low <= labels[1000:]) & (labels[1000:] <= high)).mean()
    assert inside[True] == pytest.approx(0.9, abs=0.06)
    assert inside[False] < 0.75


def test_a_label_that_comes_at_once_moves_the_mixture_as_without_a_record() -> None:
    rng = np.random.default_rng(2)
    numbers = rng.normal(size=(400, 2))
    labels = [ClassName(str(int(y))) for y in numbers[:, 0] > 0]
    kept, _ = _delayed(_spec("binary"), numbers, labels, 0, keeping=True)
    plain, _ = _delayed(_spec("binary"), numbers, labels, 0, keeping=False)
    ours, theirs = kept.save().arrays, plain.save().arrays
    assert np.array_equal(ours["weights"], theirs["weights"])
    assert ours["mixture"] == pytest.approx(theirs["mixture"], abs=2e-3)  # 16 bits


def test_rows_of_other_members_or_of_none_count_as_they_answer_now() -> None:
    rng = np.random.default_rng(3)
    then, now = (rng.dirichlet(np.ones(3), size=(4, 5)).transpose(0, 2, 1) for _ in range(2))
    mark = mark_of("ab" * 32)
    said = of_classes(then, mark)
    assert said is not None
    said[3] = np.nan
    found = members_then(said, now, mark)
    assert found[:3] == pytest.approx(then[:3], abs=1e-3)
    assert np.array_equal(found[3], now[3])
    assert np.array_equal(members_then(said, now, mark_of("cd" * 32)), now)
    assert np.array_equal(members_then(said, now[:, :, :4], mark), now[:, :, :4])
    assert np.array_equal(members_then(None, now, mark), now)


def test_a_class_that_the_answering_version_did_not_know_says_nothing() -> None:
    rng = np.random.default_rng(4)
    then, now = rng.dirichlet(np.ones(2), size=(3, 4)).transpose(0, 2, 1), np.full((3, 3, 4), 1 / 3)
    said = of_classes(then, 0)
    found = members_then(said, now, 0)
    assert found[:, :2] == pytest.approx(then, abs=1e-3)
    assert np.isnan(found[:, 2]).all()
    learner = ClassLearner(Layout.of(_spec("multiclass")), 0, 3, 3)
    members = learner.members.layout.members
    said = of_classes(np.full((1, 2, members), 0.5), 0)
    answer = learner.members.answer(np.ones((1, 3)), np.zeros((1, 3, learner.members.layout.others)))
    before = {name: array.copy() for name, array in learner.save()[1].items()}
    learner.mix(answer, np.array([2]), said, 0)
    assert all(np.array_equal(array, before[name]) for name, array in learner.save()[1].items())


def test_a_record_does_not_grow_without_end() -> None:
    few, many = np.full((1, 46, 11), 1 / 46), np.full((1, 47, 11), 1 / 47)
    said = of_classes(few, 0)
    assert said is not None
    assert said.nbytes == 2 * (HEAD + 46 * 11) <= 1024
    assert of_classes(many, 0) is None
