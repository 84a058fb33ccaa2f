"""Heads against closed forms: what the information form must equal, whatever the step sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from penstock.learn.fast.heads import PENDING_MAX, SHARED_FROM, Bank
from penstock.learn.fast.links import classification_pull, softmax

Array = NDArray[np.float64]
PRIOR = 0.5


def _stream(n: int, width: int, outputs: int, seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, width))
    rows[:, 0] = 1.0
    return rows, rows @ rng.normal(size=(width, outputs)) + 0.1 * rng.normal(size=(n, outputs))


def _learn(bank: Bank, weights: Array, rows: Array, targets: Array, *, singly: bool, share: bool = False) -> None:
    """Least squares: residual y - Wx, curvature 1, for each of the bank's heads."""
    heads = weights.shape[2]
    if singly:
        for row, target in zip(rows, targets, strict=True):
            residual = target[:, None] - np.tensordot(row, weights, 1)
            bank.learn_one(row, residual, np.ones(heads), weights)
    else:
        residuals = targets[:, :, None] - np.tensordot(rows, weights, 1)
        bank.learn_many(rows, residuals, np.ones((len(rows), heads)), weights, share=share)


def _ridge(rows: Array, targets: Array, decay: float) -> Array:
    """The closed form: exponential weights, and the prior that is given back as they fade, which adds up to PRIOR."""
    fade = decay ** np.arange(len(rows) - 1, -1, -1.0)[:, None]
    information = (rows * fade).T @ rows + PRIOR * np.eye(rows.shape[1])
    return np.linalg.solve(information, (rows * fade).T @ targets)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(0, 10**6),
)
def test_every_head_is_the_closed_form_ridge_whatever_the_steps(
    steps: list[tuple[int, bool]], outputs: int, seed: int
) -> None:
    half_lives = (40.0, 300.0, float("inf"))
    n = sum(size for size, _ in steps)
    rows, targets = _stream(n, 5, outputs, seed)
    bank, weights = Bank(5, half_lives, PRIOR), np.zeros((5, outputs, 3))
    at = 0
    for size, singly in steps:
        _learn(bank, weights, rows[at : at + size], targets[at : at + size], singly=singly)
        at += size
    bank.settle(weights)
    for k, half_life in enumerate(half_lives):
        expected = _ridge(rows, targets, 2.0 ** (-1.0 / half_life))
        assert weights[:, :, k] == pytest.approx(expected, abs=1e-8)


def test_shared_gram_matrices_are_exact_for_least_squares_with_infinite_memory() -> None:
    n = SHARED_FROM + 200
    rows, targets = _stream(n, 70, 2, 1)
    bank, weights = Bank(70, (float("inf"),), PRIOR), np.zeros((70, 2, 1))
    _learn(bank, weights, rows, targets, singly=False, share=True)
    assert weights[:, :, 0] == pytest.approx(_ridge(rows, targets, 1.0), abs=1e-9)


@pytest.mark.parametrize("size", [1, 100])
def test_information_never_falls_below_the_prior_when_a_direction_dies(size: int) -> None:
    rng = np.random.default_rng(0)
    bank, weights = Bank(6, (8.0, 64.0), PRIOR), np.zeros((6, 1, 2))
    for start in range(0, 6000, size):
        rows = rng.normal(size=(size, 6))
        if start > 500:
            rows[:, 3:] = 0.0
        _learn(bank, weights, rows, rows[:, :1] - 2 * rows[:, 3:4], singly=size == 1)
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
    bank, weights = Bank(4, (float("inf"),), PRIOR), np.zeros((4, 1, 1))
    for _ in range(5):
        _learn(bank, weights, rows, targets, singly=True)
    expected = _ridge(np.tile(rows, (5, 1)), np.tile(targets, (5, 1)), 1.0)
    bank.settle(weights)
    assert weights[:, :, 0] == pytest.approx(expected, abs=1e-9)


def test_features_that_come_later_start_from_the_prior() -> None:
    rows, targets = _stream(200, 5, 1, 4)
    early = rows.copy()
    early[:90, 4] = 0.0
    bank, weights = Bank(4, (float("inf"),), PRIOR), np.zeros((4, 1, 1))
    _learn(bank, weights, early[:90, :4], targets[:90], singly=True)
    bank.grow(5, weights)
    weights = np.concatenate((weights, np.zeros((1, 1, 1))))
    _learn(bank, weights, early[90:], targets[90:], singly=False)
    assert weights[:, :, 0] == pytest.approx(_ridge(early, targets, 1.0), abs=1e-9)


@pytest.mark.parametrize("pending", [0, 1, PENDING_MAX - 1, PENDING_MAX])
def test_a_saved_bank_learns_on_to_the_same_bytes(pending: int) -> None:
    rows, targets = _stream(pending + 50, 5, 2, 5)
    bank, weights = Bank(5, (20.0, float("inf")), PRIOR), np.zeros((5, 2, 2))
    _learn(bank, weights, rows[:pending], targets[:pending], singly=True)
    other, copied = Bank(5, (20.0, float("inf")), PRIOR), weights.copy()
    other.load("rich", bank.save("rich"))
    for a_bank, a_weights in ((bank, weights), (other, copied)):
        _learn(a_bank, a_weights, rows[pending:], targets[pending:], singly=True)
    assert weights.tobytes() == copied.tobytes()
    assert bank.information.tobytes() == other.information.tobytes()


def test_a_logistic_head_reaches_the_maximum_of_the_posterior() -> None:
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(4000, 3))
    labels = (rng.random(4000) < 1 / (1 + np.exp(-rows @ [1.5, -1.0, 0.5]))).astype(int)
    targets = np.eye(2)[labels]
    bank, weights = Bank(3, (float("inf"),), 1e-6), np.zeros((3, 2, 1))
    for start in range(0, 4000, 20):
        part = slice(start, start + 20)
        scores = np.tensordot(rows[part], weights, 1)
        bank.learn_many(rows[part], *classification_pull(scores, softmax(scores), targets[part]), weights, share=False)
    fitted = np.zeros(3)
    for _ in range(30):
        p = 1 / (1 + np.exp(-rows @ fitted))
        fitted += np.linalg.solve((rows * (p * (1 - p))[:, None]).T @ rows, rows.T @ (labels - p))
    assert weights[:, 1, 0] - weights[:, 0, 0] == pytest.approx(fitted, abs=0.1)


@given(st.integers(2, 5), st.floats(0.1, 1e4), st.integers(0, 1000))
def test_softmax_and_its_pull_stay_finite_and_sum_to_one(classes: int, size: float, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(7, classes, 3)) * size
    probabilities = softmax(scores)
    targets = np.eye(classes)[np.arange(7) % classes]
    residuals, curvatures = classification_pull(scores, probabilities, targets)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones((7, 3)))
    assert residuals.sum(axis=1) == pytest.approx(np.zeros((7, 3)), abs=1e-9)
    assert (curvatures > 0).all()
    assert (curvatures <= 0.5 + 1e-9).all()
