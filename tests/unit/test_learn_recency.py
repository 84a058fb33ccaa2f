"""The past that comes back: who speaks for inputs that have not come for long, and what makes them do so."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock.events import Batch, Kind, Version
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.fast.recency import WHOLE, WINDOW, Recency, RecencyLearner
from penstock.spec import ClassName, Feature, Learn, Spec

Array = NDArray[np.float64]


def spec() -> Spec:
    return Spec(
        name="regimes",
        task="multiclass",
        features={f"x{i}": Feature(type="number") for i in range(6)},
        learn=Learn(random_features=32, half_lives=(16.0, 128.0, float("inf"))),
    )


def events(rng: np.random.Generator, regime: int, count: int) -> Batch:
    """Two classes that lie the other way round in the other regime, whose inputs lie elsewhere."""
    inputs = rng.standard_normal((count, 6))
    inputs[:, 0] += 4.0 * (regime * 2 - 1)
    labels = (inputs[:, 1] > 0) ^ bool(regime)
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(count),
        ids=None,
        sources=None,
        numbers=inputs,
        vectors=(),
        strings=(),
        labels=[ClassName("yes" if label else "no") for label in labels],
        versions=None,
    )


def taught(step: int = 64) -> FastModel:
    """A model that saw one regime, and then the other for long."""
    rng, model = np.random.default_rng(1), FastModel(spec())
    for regime in (0, 1):
        for _ in range(3072 // step):
            model.learn(events(rng, regime, step))
    return model


def accuracy(model: FastModel, batch: Batch) -> float:
    shares = BlockPredictor(model.freeze(Version(1), {}), spec()).predict(batch).probabilities
    assert shares is not None
    assert np.allclose(shares.sum(axis=1), 1.0)
    answers = np.array(model.classes)[shares.argmax(axis=1)]
    return float((answers == np.array(batch.labels)).mean())


def both(count: int) -> Batch:
    """As many of each regime, mixed."""
    rng = np.random.default_rng(2)
    parts = [events(rng, regime, 1) for _ in range(count // 2) for regime in (0, 1)]
    numbers = np.concatenate([part.numbers for part in parts])
    labels = [label for part in parts for label in part.labels or ()]
    first = events(rng, 0, count)
    return Batch(
        kind=first.kind,
        times=first.times,
        ids=None,
        sources=None,
        numbers=numbers,
        vectors=(),
        strings=(),
        labels=[ClassName(str(label)) for label in labels],
        versions=None,
    )


def test_an_old_regime_is_answered_by_heads_that_remember_it_once_old_events_have_been_heard() -> None:
    model = taught()
    old, new = (events(np.random.default_rng(3), regime, 500) for regime in (0, 1))
    before_old, before_new = accuracy(model, old), accuracy(model, new)
    model.hear(both(200))
    assert before_old < 0.8
    assert accuracy(model, old) > before_old + 0.1
    assert accuracy(model, new) > before_new - 0.01


def test_nothing_is_taken_for_the_past_in_a_stream_that_does_not_change() -> None:
    rng, model = np.random.default_rng(4), FastModel(spec())
    for _ in range(64):
        model.learn(events(rng, 1, 64))
    members = model._learner.members
    fresh = events(rng, 1, 1000)
    features = model._features(fresh, model._stable.embed(fresh))
    assert members.recency.low > 0.0  # type: ignore[union-attr]
    assert members.recency.past(members.recency.of(features)).mean() < 0.02  # type: ignore[union-attr]


def test_the_past_that_comes_back_becomes_the_present() -> None:
    rng, model = np.random.default_rng(5), taught()
    model.hear(both(200))
    again = events(rng, 0, 1000)
    for _ in range(32):
        model.learn(events(rng, 0, 64))
    members = model._learner.members
    features = model._features(again, model._stable.embed(again))
    assert members.recency.past(members.recency.of(features)).mean() < 0.02  # type: ignore[union-attr]


def test_speaking_for_the_past_is_saved_to_the_byte_and_served_alike() -> None:
    model, other = taught(), FastModel(spec())
    model.hear(both(200))
    other.load(model.save())
    rng = np.random.default_rng(6)
    batch = events(rng, 0, 64)
    served = BlockPredictor(model.freeze(Version(1), {}), spec()).predict(batch).probabilities
    for _ in range(9):
        mine, its = model.learn(batch), other.learn(batch)
        assert mine.predictions.probabilities is not None
        if served is not None:
            assert mine.predictions.probabilities.tobytes() == served.tobytes()
        assert its.predictions.probabilities is not None
        assert mine.predictions.probabilities.tobytes() == its.predictions.probabilities.tobytes()
        served = None
    saved, again = ({name: array.tobytes() for name, array in m.save().arrays.items()} for m in (model, other))
    assert saved == again


@pytest.mark.parametrize("step", [1, 50, 700, WINDOW + 76])
def test_recency_does_not_depend_on_where_steps_end(step: int) -> None:
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((WHOLE + 2900, 5))
    rows[:, 0] = 1.0
    rows[WHOLE:, 1] += 2.0
    recency = Recency(5)
    learner = RecencyLearner(recency)
    for at in range(0, len(rows), step):
        part = rows[at : at + step]
        learner.learn(part, recency.of(part))
    saved = learner.save()
    ages = np.arange(len(rows) - 1, -1, -1.0)
    assert saved["recency.recent"] == pytest.approx((2.0 ** (-ages / 1024.0)) @ rows)
    # A sample stands for the later events in the second moments.
    assert saved["recency.all"][0, 0] == pytest.approx(len(rows), rel=0.02)
    assert saved["recency.all"] == pytest.approx(rows.T @ rows, rel=0.1, abs=300.0)
    # Those ahead of the change are less recent than those after it.
    old, new = recency.of(rows[:WHOLE]), recency.of(rows[WHOLE:])
    assert new.mean() > 2.0 * old.mean()


def test_new_features_count_from_when_they_come() -> None:
    rng = np.random.default_rng(8)
    recency = Recency(2)
    learner = RecencyLearner(recency)
    for _ in range(8):
        learner.learn(rng.standard_normal((64, 2)), np.zeros(64))
    learner.grow(3)
    assert recency.direction.shape == (3,)
    rows = np.concatenate((rng.standard_normal((512, 2)), np.ones((512, 1))), axis=1)
    learner.learn(rows, recency.of(rows))
    assert recency.of(rows).mean() > 0.3


def test_what_is_known_of_recency_does_not_depend_on_the_steps() -> None:
    rows = np.random.default_rng(5).normal(size=(WHOLE + 400, 7))
    learned = []
    for step in (1, 24, 64):
        recency = Recency(7)
        learner = RecencyLearner(recency)
        for at in range(0, len(rows), step):
            part = rows[at : at + step]
            # What was said is held at nothing, since the direction changes at other events in other steps.
            learner.learn(part, np.zeros(len(part)))
        other = RecencyLearner(Recency(7))
        other.load(learner.save())
        other.learn(rows[:256], np.zeros(256))
        learned.append((learner, other._recency.direction))
    for learner, direction in learned[1:]:
        assert learner.save()["recency.recent"] == pytest.approx(learned[0][0].save()["recency.recent"], rel=1e-9)
        assert direction == pytest.approx(learned[0][1], rel=1e-6)
