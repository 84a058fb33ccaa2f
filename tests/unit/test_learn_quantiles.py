"""Quantiles: what share of outcomes lies below them, here and there and whatever the stream does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from penstock.events import Batch, Kind, Version
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.fast.quantiles import RATE, TrackedQuantiles
from penstock.spec import Feature, Learn, Serve, Spec

Array = NDArray[np.float64]
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def _spec(levels: tuple[float, ...] = LEVELS) -> Spec:
    features = {f"x{i}": Feature(type="number") for i in range(3)}
    return Spec(
        name="s", task="regression", features=features, learn=Learn(random_features=16), serve=Serve(quantiles=levels)
    )


def _batch(numbers: Array, labels: Array) -> Batch:
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(len(labels)),
        ids=None,
        sources=None,
        numbers=numbers,
        vectors=(),
        strings=(),
        labels=labels,
        versions=None,
    )


def _stream(n: int) -> tuple[Array, Array, Array]:
    """Inputs, labels, and the scale of the skewed noise, which depends on an input and doubles half way."""
    rng = np.random.default_rng(3)
    numbers = rng.normal(size=(n, 3))
    scale = np.exp(0.8 * numbers[:, 1])
    noise = scale * np.where(np.arange(n) < n // 2, 1.0, 2.0) * (rng.gamma(2.0, 1.0, size=n) - 2.0)
    return numbers, 50.0 + 3.0 * numbers[:, 0] + noise, scale


@pytest.mark.parametrize("step", [1, 32])
def test_the_levels_share_of_outcomes_lies_below_where_noise_is_small_and_where_it_is_large(step: int) -> None:
    n = 5000
    numbers, labels, scale = _stream(n)
    model = FastModel(_spec())
    answers = []
    for start in range(0, n, step):
        learned = model.learn(_batch(numbers[start : start + step], labels[start : start + step]))
        assert learned.predictions.quantiles is not None
        answers.append(learned.predictions.quantiles)
    quantiles = np.concatenate(answers)
    assert (np.diff(quantiles, axis=1) >= 0).all()
    below = labels[:, None] <= quantiles
    for half in (slice(500, n // 2), slice(n // 2 + 300, n)):
        assert below[half].mean(axis=0) == pytest.approx(np.array(LEVELS), abs=0.02)
        calm = scale[half] < 1.0
        assert below[half][calm].mean(axis=0) == pytest.approx(np.array(LEVELS), abs=0.08)
        assert below[half][~calm].mean(axis=0) == pytest.approx(np.array(LEVELS), abs=0.08)


@settings(max_examples=50)
@given(st.lists(st.floats(-30.0, 30.0), min_size=1, max_size=300), st.integers(1, 40))
def test_shares_come_right_whatever_comes_as_far_as_the_distance_moved(errors: list[float], step: int) -> None:
    tracked = TrackedQuantiles((0.1, 0.6))
    first, below = tracked.distances, np.zeros(2)
    series = np.array(errors)
    # Blocks of one: each outcome is counted against the quantiles of its moment.
    for error in series:
        below += error <= tracked.distances
        tracked.track(np.array([error]))
    assert tracked.distances - first == pytest.approx(RATE * (len(errors) * np.array([0.1, 0.6]) - below))
    together = TrackedQuantiles((0.1, 0.6))
    for start in range(0, len(series), step):
        together.track(series[start : start + step])
    found = together.of(np.zeros(1), np.ones(1))
    assert found is not None
    assert (np.diff(found) >= 0).all()
    assert (np.abs(found) <= 31.0 + 16 * RATE).all()


def test_other_levels_after_a_restart_begin_anew_and_those_that_stay_go_on() -> None:
    numbers, labels, _ = _stream(600)
    before = FastModel(_spec((0.05, 0.95)))
    before.learn(_batch(numbers, labels))
    for part in range(200):
        before.learn(_batch(numbers[part : part + 1], labels[part : part + 1]))
    spec = _spec((0.3, 0.95))
    after = FastModel(spec)
    after.load(before.save())
    asked = replace(_batch(numbers[:5], labels[:5]), kind=Kind.PREDICTION, labels=None)
    old = BlockPredictor(before.freeze(Version(1), {}), _spec((0.05, 0.95))).predict(asked)
    new = BlockPredictor(after.freeze(Version(1), {}), spec).predict(asked)
    assert old.quantiles is not None
    assert new.quantiles is not None
    assert np.array_equal(old.quantiles[:, 1], new.quantiles[:, 1])
    assert new.mean is not None
    assert new.spread is not None
    # Three tenths of a normal distribution lie 0.524 deviations below its mean.
    assert new.quantiles[:, 0] == pytest.approx(new.mean - 0.5244 * new.spread, rel=1e-3)
    assert BlockPredictor(after.freeze(Version(1), {}), _spec(())).predict(asked).quantiles is None
