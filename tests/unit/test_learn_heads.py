"""Heads against closed forms: what the information form must equal, whatever the step sizes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from penstock.learn.fast.heads import PENDING_MAX, RUN_MAX, SHARED_FROM, Bank
from penstock.learn.fast.kernels import CURVATURE_FLOOR, HUBER, pull_many
from penstock.learn.fast.links import FARTHEST, LEAST_SQUARES, ROBUST, SOFTMAX, softmax

Array = NDArray[np.float64]
PRIOR = 0.5
How = Literal["singly", "in turn", "at once"]
HOWS: tuple[How, ...] = ("singly", "in turn", "at once")


def _stream(n: int, width: int, outputs: int, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, width))
    rows[:, 0] = 1.0
    return rows, rows @ rng.normal(size=(width, outputs)) + 0.1 * rng.normal(size=(n, outputs))


def _bank(width: int, half_lives: tuple[float, ...], kind: int = LEAST_SQUARES, prior: float = PRIOR) -> Bank:
    return Bank(width, half_lives, prior, [kind] * len(half_lives))


def _learn(bank: Bank, weights: Array, rows: Array, targets: Array, how: How, deviation: float = 1.0) -> None:
    deviations = np.full(weights.shape[2], deviation)
    start = 0
    while start < len(rows):
        if how == "singly":
            bank.learn_one(rows[start], np.tensordot(rows[start], weights, 1), targets[start], deviations, weights)
            start += 1
        else:
            stop = len(rows) if how == "at once" else min(len(rows), start + bank.room)
            part = slice(start, stop)
            learn = bank.learn_many if how == "at once" else bank.learn_few
            learn(rows[part], np.tensordot(rows[part], weights, 1), targets[part], deviations, weights)
            start = stop


def _ridge(rows: Array, targets: Array, decay: float) -> Array:
    """The closed form: exponential weights, and the prior that is given back as they fade, which adds up to PRIOR."""
    fade = decay ** np.arange(len(rows) - 1, -1, -1.0)[:, None]
    information = (rows * fade).T @ rows + PRIOR * np.eye(rows.shape[1])
    return np.linalg.solve(information, (rows * fade).T @ targets)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from(HOWS)), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(0, 10**6),
)
def test_every_head_is_the_closed_form_ridge_whatever_the_steps(
    steps: list[tuple[int, How]], outputs: int, seed: int
) -> None:
    half_lives = (40.0, 300.0, float("inf"))
    n = sum(size for size, _ in steps)
    rows, targets = _stream(n, 5, outputs, seed)
    bank, weights = _bank(5, half_lives), np.zeros((5, outputs, 3))
    at = 0
    for size, how in steps:
        _learn(bank, weights, rows[at : at + size], targets[at : at + size], how)
        at += size
    bank.settle(weights)
    for k, half_life in enumerate(half_lives):
        expected = _ridge(rows, targets, 2.0 ** (-1.0 / half_life))
        assert weights[:, :, k] == pytest.approx(expected, abs=1e-8)


def test_shared_gram_matrices_are_exact_for_least_squares_with_infinite_memory() -> None:
    n = SHARED_FROM + 200
    rows, targets = _stream(n, 70, 2, 1)
    bank, weights = _bank(70, (float("inf"),)), np.zeros((70, 2, 1))
    _learn(bank, weights, rows, targets, "at once")
    assert weights[:, :, 0] == pytest.approx(_ridge(rows, targets, 1.0), abs=1e-9)


@pytest.mark.parametrize(("size", "how"), [(1, "singly"), (100, "in turn"), (100, "at once")])
def test_information_never_falls_below_the_prior_when_a_direction_dies(size: int, how: How) -> None:
    rng = np.random.default_rng(0)
    bank, weights = _bank(6, (8.0, 64.0)), np.zeros((6, 1, 2))
    for start in range(0, 6000, size):
        rows = rng.normal(size=(size, 6))
        if start > 500:
            rows[:, 3:] = 0.0
        _learn(bank, weights, rows, rows[:, :1] - 2 * rows[:, 3:4], how)
    bank.settle(weights)
    for information in bank.information:
        eigenvalues = np.linalg.eigvalsh(information)
        assert eigenvalues.min() > 0.99 * PRIOR
        assert eigenvalues.max() < 1e3
    # What was known of the dead directions has faded to the prior; what is alive is known exactly.
    assert np.abs(weights[3:]).max() < 1e-6
    assert weights[0, 0] == pytest.approx([1.0, 1.0], abs=0.08)


def test_ten_thousand_single_events_leave_no_drift() -> None:
    rows, targets = _stream(2_000, 4, 1, 3)
    bank, weights = _bank(4, (float("inf"),)), np.zeros((4, 1, 1))
    for _ in range(5):
        _learn(bank, weights, rows, targets, "singly")
    expected = _ridge(np.tile(rows, (5, 1)), np.tile(targets, (5, 1)), 1.0)
    bank.settle(weights)
    assert weights[:, :, 0] == pytest.approx(expected, abs=1e-9)


def test_features_that_come_later_start_from_the_prior() -> None:
    rows, targets = _stream(200, 5, 1, 4)
    early = rows.copy()
    early[:90, 4] = 0.0
    bank, weights = _bank(4, (float("inf"),)), np.zeros((4, 1, 1))
    _learn(bank, weights, early[:90, :4], targets[:90], "singly")
    bank.grow(5, weights)
    weights = np.concatenate((weights, np.zeros((1, 1, 1))))
    _learn(bank, weights, early[90:], targets[90:], "at once")
    assert weights[:, :, 0] == pytest.approx(_ridge(early, targets, 1.0), abs=1e-9)


@pytest.mark.parametrize("pending", [0, 1, PENDING_MAX - 1, PENDING_MAX, 2 * PENDING_MAX + 3, RUN_MAX - 1, RUN_MAX])
def test_a_saved_bank_learns_on_to_the_same_bytes(pending: int) -> None:
    rows, targets = _stream(pending + 50, 5, 2, 5)
    bank, weights = _bank(5, (20.0, float("inf"))), np.zeros((5, 2, 2))
    _learn(bank, weights, rows[:pending], targets[:pending], "singly")
    other, copied = _bank(5, (20.0, float("inf"))), weights.copy()
    other.load("rich", bank.save("rich"))
    for a_bank, a_weights in ((bank, weights), (other, copied)):
        _learn(a_bank, a_weights, rows[pending:], targets[pending:], "singly")
    assert weights.tobytes() == copied.tobytes()
    assert bank.information.tobytes() == other.information.tobytes()


def test_a_logistic_head_reaches_the_maximum_of_the_posterior() -> None:
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(4000, 3))
    labels = (rng.random(4000) < 1 / (1 + np.exp(-rows @ [1.5, -1.0, 0.5]))).astype(int)
    targets = np.eye(2)[labels]
    fitted = np.zeros(3)
    for _ in range(30):
        p = 1 / (1 + np.exp(-rows @ fitted))
        fitted += np.linalg.solve((rows * (p * (1 - p))[:, None]).T @ rows, rows.T @ (labels - p))
    for how in HOWS:
        bank, weights = _bank(3, (float("inf"),), SOFTMAX, 1e-6), np.zeros((3, 2, 1))
        for start in range(0, 4000, 20):
            _learn(bank, weights, rows[start : start + 20], targets[start : start + 20], how)
        assert weights[:, 1, 0] - weights[:, 0, 0] == pytest.approx(fitted, abs=0.1)


def _pull(kind: int, scores: Array, target: Array, deviation: float) -> tuple[Array, float]:
    """What a label says of one head's scores: the residual, (outputs,), and the curvature."""
    if kind == LEAST_SQUARES:
        return target - scores, 1.0
    if kind == ROBUST:
        error = target - np.clip(scores, -FARTHEST, FARTHEST)
        weight = min(1.0, HUBER * deviation / max(abs(float(error[0])), 1e-300))
        return error * weight, weight
    p = softmax(scores[None, :, None])[0, :, 0]
    residual = target - p
    if len(scores) == 2:
        margin = abs(scores[1] - scores[0])
        return residual, max(2 * max(p[0] * p[1], abs(residual[1]) / (2 + 2 * margin)), CURVATURE_FLOOR)
    return residual, max((1 - p @ p) / (len(scores) - 1), 0.05 * np.abs(residual).sum(), CURVATURE_FLOOR)


def _slowly(kind: int, rows: Array, targets: Array, decay: float, deviation: float, given: int) -> Array:
    """The recursion as it is defined, with a solution an event; the prior is given back after every so many events."""
    width = rows.shape[1]
    information, weights = PRIOR * np.eye(width), np.zeros((width, targets.shape[1]))
    for i, (row, target) in enumerate(zip(rows, targets, strict=True), 1):
        residual, curvature = _pull(kind, row @ weights, target, deviation)
        information = decay * information + curvature * np.outer(row, row)
        weights = weights + np.linalg.solve(information, np.outer(row, residual))
        if i % given == 0:
            prior = (1 - decay**given) * PRIOR
            information += prior * np.eye(width)
            weights -= np.linalg.solve(information, prior * weights)
    return weights


@pytest.mark.parametrize(("kind", "outputs"), [(SOFTMAX, 2), (SOFTMAX, 4), (LEAST_SQUARES, 3), (ROBUST, 1)])
@settings(max_examples=20)
@given(
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=8),
    half_life=st.sampled_from([16.0, 40.0, float("inf")]),
    special=st.sampled_from(["plain", "constant", "collinear", "huge", "tiny"]),
    seed=st.integers(0, 10**6),
)
def test_events_in_turn_are_learned_as_the_recursion_says_whatever_the_steps(
    kind: int, outputs: int, sizes: list[int], half_life: float, special: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    rows = rng.normal(size=(n, 9))
    rows[:, 3] = {"plain": rows[:, 3], "constant": np.ones(n), "collinear": rows[:, 4], "huge": 1e3 * rows[:, 3]}.get(
        special, 1e-9 * rows[:, 3]
    )
    classes = rng.integers(0, outputs, n)
    targets = np.eye(outputs)[classes] if kind != ROBUST else rng.standard_t(1.5, size=(n, 1))
    bank, weights = _bank(9, (half_life,), kind), np.zeros((9, outputs, 1))
    at = 0
    for size in sizes:
        how: How = "singly" if size < 3 else "in turn"
        _learn(bank, weights, rows[at : at + size], targets[at : at + size], how, deviation=0.7)
        at += size
    period = {16.0: 32, 40.0: 64}.get(half_life, RUN_MAX)
    expected = _slowly(kind, rows, targets, 2.0 ** (-1.0 / half_life), 0.7, period)
    assert weights[:, :, 0] == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("kind", [SOFTMAX, LEAST_SQUARES])
def test_a_long_step_is_what_its_end_says_to_a_head_that_forgets(kind: int) -> None:
    """What lies further back than a head can remember changes nothing, not even what it learns of the end."""
    rng = np.random.default_rng(8)
    rows = rng.normal(size=(2000, 4))
    labels = (rows[:, 0] > 0) ^ (np.arange(2000) < 1500)
    targets = np.eye(2)[labels.astype(int)]
    bank, weights = _bank(4, (16.0,), kind), np.zeros((4, 2, 1))
    _learn(bank, weights, rows, targets, "at once")
    assert weights[0, 1, 0] > 0.1
    other, others = _bank(4, (16.0,), kind), np.zeros((4, 2, 1))
    rows[:1000] *= -1
    _learn(other, others, rows, targets, "at once")
    assert weights.tobytes() == others.tobytes()
    assert np.abs(bank.information - other.information).max() < 1e-9


def test_evidence_of_a_hundred_million_events_is_still_learned_on() -> None:
    """Where evidence outweighs the prior by ten orders, inverses and folds stay sound, and a head goes on learning."""
    rows, targets = _stream(3_000, 6, 1, 9)
    rows[:, 5] = rows[:, 4]
    bank, weights = _bank(6, (float("inf"),)), np.zeros((6, 1, 1))
    _learn(bank, weights, rows[:1000], targets[:1000], "at once")
    bank.information *= 1e5
    before = rows @ weights[:, :, 0] - targets
    _learn(bank, weights, rows[1000:2000], targets[1000:2000], "in turn")
    _learn(bank, weights, rows[2000:], targets[2000:], "singly")
    after = rows @ weights[:, :, 0] - targets
    assert np.isfinite(weights).all()
    assert (after**2).mean() <= 1.001 * (before**2).mean()
    information = PRIOR * 1e5 * np.eye(6) + 1e5 * rows[:1000].T @ rows[:1000] + rows[1000:].T @ rows[1000:]
    expected = np.linalg.solve(information, 1e5 * rows[:1000].T @ targets[:1000] + rows[1000:].T @ targets[1000:])
    assert weights[:, :, 0] == pytest.approx(expected, abs=1e-7)


def test_what_is_not_finite_shows_in_the_weights_and_stops_nothing() -> None:
    for how in HOWS:
        bank, weights = _bank(3, (16.0, float("inf"))), np.zeros((3, 1, 2))
        rows = np.ones((PENDING_MAX, 3))
        rows[4, 1] = np.nan
        _learn(bank, weights, rows, np.ones((PENDING_MAX, 1)), how)
        assert not np.isfinite(weights).all()


@given(st.integers(2, 5), st.floats(0.1, 1e4), st.integers(0, 1000))
def test_softmax_stays_finite_and_sums_to_one(classes: int, size: float, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(7, classes, 3)) * size
    probabilities = softmax(scores)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones((7, 3)))
    assert (probabilities >= 0).all()


@given(st.integers(2, 5), st.floats(0.1, 1e4), st.integers(0, 1000))
def test_residuals_and_curvatures_are_those_of_the_link_and_fade_with_age(classes: int, size: float, seed: int) -> None:
    n, decay = 7, 0.9
    scores = np.random.default_rng(seed).normal(size=(n, classes)) * size
    targets = np.eye(classes)[np.arange(n) % classes]
    residuals, curvatures = np.empty((classes, n)), np.empty(n)
    pull_many(SOFTMAX, scores, targets, 1.0, decay, residuals, curvatures)
    for i in range(n):
        residual, curvature = _pull(SOFTMAX, scores[i], targets[i], 1.0)
        fade = decay ** (n - 1 - i)
        assert residuals[:, i] == pytest.approx(fade * residual, abs=1e-12)
        assert curvatures[i] == pytest.approx(fade * curvature, abs=1e-12)
        assert 0 < curvature <= 0.5 + 1e-9
