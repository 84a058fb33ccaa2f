"""Products of members' probabilities, and what makes answers as sure as they are right."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from penstock.learn.fast.stack import KNOTS, StackLearner, Stacks
from penstock.learn.fast.stacking import solve

Array = NDArray[np.float64]


def _learn(stacks: Stacks, learner: StackLearner, members: Array, classes: NDArray[np.int64], step: int) -> Array:
    """(n, classes) calibrated answers, each from before its step was learned."""
    given, mixture = members.shape[2], np.full(members.shape[2], 1.0 / members.shape[2])
    out = np.empty(members.shape[:2])
    for start in range(0, len(members), step):
        part = slice(start, start + step)
        full = np.concatenate((members[part], np.zeros((*members[part].shape[:2], 1 + len(stacks.powers)))), axis=2)
        sharp = stacks.answer(full, mixture)
        out[part] = stacks.calibrated(sharp)
        learner.learn(full, sharp, classes[part])
    assert stacks.powers.shape[1] == given + 1
    return out


def _log_loss(answers: Array, classes: NDArray[np.int64]) -> float:
    return float(-np.log(answers[np.arange(len(classes)), classes]).mean())


def test_a_stack_adds_up_what_members_know_apart() -> None:
    rng = np.random.default_rng(0)
    n = 3000
    evidence = rng.normal(size=(n, 2))
    classes = (rng.random(n) < 1 / (1 + np.exp(-2 * evidence.sum(axis=1)))).astype(np.int64)
    second = 1 / (1 + np.exp(-2 * evidence))
    members = np.stack((1 - second, second), axis=1)
    stacks = Stacks(2)
    answers = _learn(stacks, StackLearner(stacks), members, classes, 10)
    late = slice(1000, None)
    best = min(_log_loss(members[late, :, m], classes[late]) for m in range(2))
    truth = 1 / (1 + np.exp(-2 * evidence.sum(axis=1)))
    floor = _log_loss(np.stack((1 - truth, truth), axis=1)[late], classes[late])
    assert _log_loss(answers[late], classes[late]) < floor + 0.2 * (best - floor)


def test_answers_that_are_too_sure_become_as_sure_as_they_are_right() -> None:
    rng = np.random.default_rng(1)
    n = 6000
    # Half of what is said for certain is wrong in a fifth of all cases, the other half is as sure as it should be: no
    # one power makes up for that.
    certain = np.arange(n) % 2 == 0
    right = rng.random(n) < np.where(certain, 0.8, 0.6)
    classes = rng.integers(0, 3, size=n)
    said = np.where(right, classes, (classes + rng.integers(1, 3, size=n)) % 3)
    members = np.where(certain, 0.005, 0.2)[:, None, None] * np.ones((n, 3, 2))
    members[np.arange(n), said] = np.where(certain, 0.99, 0.6)[:, None]
    stacks = Stacks(2)
    answers = _learn(stacks, StackLearner(stacks), members, classes, 20)
    assert (answers[3000:].argmax(axis=1) == said[3000:]).all()
    for which in (certain, ~certain):
        late = np.flatnonzero(which)[1500:]
        assert abs(answers[late].max(axis=1).mean() - right[late].mean()) < 0.03


def test_one_class_for_long_and_then_another_does_not_throw_a_stack_off() -> None:
    """With the curvature of the answer alone the powers jump out of reach at the first surprise."""
    n = 600
    classes = np.r_[np.zeros(300, dtype=np.int64), np.ones(300, dtype=np.int64)]
    members = np.empty((n, 2, 3))
    members[:, 0] = 0.99
    members[340:, 0] = 0.3
    members[:, 1] = 1.0 - members[:, 0]
    stacks = Stacks(3)
    answers = _learn(stacks, StackLearner(stacks), members, classes, 32)
    assert (answers[320:].argmax(axis=1) == 1).mean() > 0.85
    assert _log_loss(answers[300:], classes[300:]) < 1.0


@settings(max_examples=80)
@given(
    arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 5)), elements=st.floats(1e-9, 1.0)),
    arrays(np.float64, len(KNOTS), elements=st.floats(-0.6, 0.6)),
)
def test_calibration_leaves_probabilities_and_the_first_of_them_what_they_are(raw: Array, shifts: Array) -> None:
    sharp = raw / raw.sum(axis=1, keepdims=True)
    stacks = Stacks(2)
    stacks.shifts = shifts
    answers = stacks.calibrated(sharp)
    assert np.allclose(answers.sum(axis=1), 1.0, atol=1e-6)
    assert (answers >= 0).all()
    tops = sharp.argmax(axis=1)
    assert (answers[np.arange(len(sharp)), tops] >= answers.max(axis=1) - 1e-9).all()


def test_the_compiled_solution_is_numpy_s() -> None:
    rng = np.random.default_rng(2)
    factor = rng.normal(size=(9, 9))
    matrix = factor @ factor.T + np.eye(9)
    right = rng.normal(size=9)
    expected = np.linalg.solve(matrix, right)
    solve(matrix.copy(), right)
    assert np.allclose(right, expected)


def test_a_learner_that_was_saved_goes_on_alike() -> None:
    rng = np.random.default_rng(3)
    members = rng.dirichlet(np.ones(3), size=(200, 4)).transpose(0, 2, 1)
    classes = rng.integers(0, 3, size=200)
    first, second = Stacks(4), Stacks(4)
    learner, other = StackLearner(first), StackLearner(second)
    _learn(first, learner, members[:100], classes[:100], 7)
    second.thaw(first.frozen())
    other.load(learner.save())
    a = _learn(first, learner, members[100:], classes[100:], 7)
    b = _learn(second, other, members[100:], classes[100:], 7)
    assert np.array_equal(a, b)
