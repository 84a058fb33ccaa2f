"""Counts: the distribution, how near heads come to the true rates, and what is no count."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from penstock.events import Batch, Kind, Version
from penstock.learn.fast import counting
from penstock.learn.fast.counts import count_losses, places_of_counts
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.fast.quantiles import TrackedLevels
from penstock.learn.interface import Predictions
from penstock.spec import Feature, Learn, Serve, Spec

Array = NDArray[np.float64]
LEVELS = (0.1, 0.5, 0.9)


def _spec(half_lives: tuple[float, ...] = (16.0, 128.0, 1024.0, math.inf)) -> Spec:
    features = {f"x{i}": Feature(type="number") for i in range(3)}
    learn = Learn(random_features=16, half_lives=half_lives)
    return Spec(name="s", task="counts", features=features, learn=learn, serve=Serve(quantiles=LEVELS))


def _batch(numbers: Array, labels: Array | None) -> Batch:
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(len(numbers)),
        ids=None,
        sources=None,
        numbers=numbers,
        vectors=(),
        strings=(),
        labels=labels,
        versions=None,
    )


def _stream(n: int, mean: float, dispersion: float) -> tuple[Array, Array, Array]:
    """Inputs, counts and their true rates, three times as high from the middle on."""
    rng = np.random.default_rng(7)
    numbers = rng.normal(size=(n, 3))
    rates = mean * np.exp(0.7 * numbers[:, 0] - 0.4 * numbers[:, 1]) * np.where(np.arange(n) < n // 2, 1.0, 3.0)
    noise = rng.gamma(1.0 / dispersion, dispersion, size=n) if dispersion else np.ones(n)
    return numbers, rng.poisson(rates * noise).astype(np.float64), rates


def _run(model: FastModel, numbers: Array, labels: Array, step: int) -> tuple[list[Predictions], Array]:
    predictions, losses = [], []
    for start in range(0, len(labels), step):
        learned = model.learn(_batch(numbers[start : start + step], labels[start : start + step]))
        assert learned.finite
        predictions.append(learned.predictions)
        losses.append(learned.losses)
    return predictions, np.concatenate(losses)


@pytest.mark.parametrize(("mean", "variance"), [(0.05, 0.06), (3.0, 3.0), (3.0, 12.0), (40.0, 900.0), (5e4, 1e6)])
def test_the_distribution_is_the_negative_binomial(mean: float, variance: float) -> None:
    size = mean * mean / (variance - mean) if variance > mean else 1e9
    true = stats.nbinom(size, size / (size + mean))
    counts = np.unique(true.ppf([0.001, 0.05, 0.3, 0.5, 0.9, 0.99, 0.9999]))
    means, variances = np.full(len(counts), mean), np.full(len(counts), variance)
    logs = counting.log_probabilities(counts, means, counting.sizes(means, variances))
    assert logs == pytest.approx(true.logpmf(counts), abs=2e-3)
    before, here = counting.below(counts, means, variances)
    assert before == pytest.approx(true.cdf(counts - 1), abs=1e-3)
    assert here == pytest.approx(true.pmf(counts), rel=2e-3)
    levels = np.array([0.05, 0.3, 0.7, 0.95])
    found = counting.quantiles(levels, means[:1], variances[:1])[0]
    assert found == pytest.approx(true.ppf(levels), abs=0 if mean < 100 else 1 + 1e-4 * mean)


@given(st.floats(1e-8, 1e15))
def test_the_gamma_function_is_exact(x: float) -> None:
    assert counting.log_gamma(np.array([x]))[0] == pytest.approx(math.lgamma(x), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("step", [1, 64])
@pytest.mark.parametrize(("mean", "dispersion"), [(3.0, 0.0), (3.0, 0.5), (0.1, 0.0), (500.0, 0.3)])
def test_rates_and_spreads_are_nearly_the_true_ones_also_after_they_change(
    mean: float, dispersion: float, step: int
) -> None:
    n = 2400
    numbers, labels, rates = _stream(n, mean, dispersion)
    predictions, losses = _run(FastModel(_spec()), numbers, labels, step)
    settled = np.r_[300 : n // 2, n // 2 + 300 : n]
    best = count_losses(rates, rates + dispersion * rates * rates, labels)[settled].mean()
    flat = count_losses(np.full(n, labels.mean()), np.full(n, max(labels.var(), labels.mean())), labels)[settled].mean()
    assert losses[settled].mean() < best + 0.3 * (flat - best)
    quantiles = np.concatenate([p.quantiles for p in predictions if p.quantiles is not None])
    assert np.array_equal(quantiles, np.floor(quantiles))
    assert (np.diff(quantiles, axis=1) >= 0).all()
    low, high = (np.concatenate([getattr(p, end) for p in predictions]) for end in ("low", "high"))
    # A quantile of counts is the least count up to which at least the share lies.
    assert ((labels <= quantiles.T).T[settled].mean(axis=0) >= np.array(LEVELS) - 0.03).all()
    assert ((labels < quantiles.T).T[settled].mean(axis=0) <= np.array(LEVELS) + 0.03).all()
    assert ((low <= labels) & (labels <= high))[settled].mean() >= 0.87


def test_one_wild_count_does_not_carry_the_rates_away() -> None:
    numbers, labels, rates = _stream(1200, 3.0, 0.0)
    numbers, labels, rates = numbers[:600], labels[:600], rates[:600]
    model = FastModel(_spec((math.inf,)))
    _run(model, numbers[:300], labels[:300], 1)
    model.learn(_batch(numbers[300:301], np.array([2.0**50])))
    predictions, _ = _run(model, numbers[301:], labels[301:], 1)
    means = np.concatenate([p.mean for p in predictions if p.mean is not None])
    assert np.median(np.abs(np.log(means / rates[301:]))[100:]) < 0.2


def test_a_first_count_far_above_the_expected_is_met_and_not_passed() -> None:
    model = FastModel(_spec())
    row = np.ones((1, 3))
    for _ in range(4):
        model.learn(_batch(row, np.zeros(1)))
    for _ in range(30):
        means = model.learn(_batch(row, np.array([5000.0]))).predictions.mean
        assert means is not None
        assert means[0] < 6000.0
    assert model.learn(_batch(row, np.array([5000.0]))).predictions.mean == pytest.approx([5000.0], rel=0.2)


def test_losses_of_a_block_are_those_of_the_model_and_least_for_the_truth() -> None:
    numbers, labels, _ = _stream(400, 3.0, 0.5)
    model = FastModel(_spec())
    _run(model, numbers[:300], labels[:300], 50)
    predictor = BlockPredictor(model.freeze(Version(1), {}), _spec())
    asked = _batch(numbers[300:], labels[300:])
    answers = predictor.predict(asked)
    learned = model.learn(asked)
    assert predictor.losses(answers, asked, learned.scale) == pytest.approx(learned.losses, rel=1e-9)
    counts = np.arange(0.0, 400.0)
    weights = stats.nbinom(2.0, 2.0 / 7.0).pmf(counts)  # mean 5, variance 17.5

    def expected(mean: float, variance: float) -> float:
        return float(weights @ count_losses(np.full(400, mean), np.full(400, variance), counts))

    others = [(4.5, 17.5), (5.5, 17.5), (5.0, 14.0), (5.0, 22.0)]
    assert all(expected(5.0, 17.5) < expected(*other) for other in others)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=200))
def test_levels_stay_levels_whatever_comes(pairs: list[tuple[float, float]]) -> None:
    tracked = TrackedLevels((0.05, 0.5, 0.95))
    before = np.array([a for a, _ in pairs])
    tracked.track(before, (1.0 - before) * np.array([b for _, b in pairs]))
    asked = tracked.asked()
    assert (np.diff(asked) >= 0).all()
    assert ((asked > 0) & (asked < 1)).all()


def test_what_is_no_count_is_passed_over() -> None:
    labels = np.array([0.0, 2.5, -1.0, 7.0, math.nan, math.inf, 2.0**60])
    places = places_of_counts(labels)
    assert places is not None
    assert places.tolist() == [0, 3]
    assert places_of_counts(np.array([0.0, 3.0])) is None
    assert FastModel(_spec()).takes(_batch(np.zeros((7, 3)), labels)) is not None
