"""What a step changes beside the heads' algebra."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from penstock.learn.fast.mixture import BLOCK, FLOOR, SHARE, fixed_share
from penstock.learn.fast.stack import KNOTS, Stacks
from penstock.learn.fast.tallies import absorb, count, descend, invert, mix, moved, steepen

Array = NDArray[np.float64]


def _moments(parts: list[Array], warm_up: float = np.inf) -> tuple[Array, Array, Array, bool]:
    d = parts[0].shape[1]
    seen, mean, squares, inverse, deviation = np.zeros(d), np.zeros(d), np.zeros(d), np.zeros(d), np.zeros(d)
    known, missing = 0.0, False
    for part in parts:
        known, lacks = absorb(part.copy(), warm_up, 8.0, known, seen, mean, squares, mean.copy(), inverse, deviation)
        missing |= lacks
        invert(mean, deviation, inverse)
    return seen, mean, deviation, missing


@given(st.integers(1, 59), st.booleans())
def test_moments_are_those_of_all_values_however_they_come(cut: int, some_missing: bool) -> None:
    values = np.random.default_rng(cut).normal(3.0, 2.0, size=(60, 4))
    if some_missing:
        values[np.random.default_rng(1).random(values.shape) < 0.3] = np.nan
        values[:, 2] = np.nan
    seen, mean, deviation, missing = _moments([values[:cut], values[cut:]])
    assert missing == some_missing
    present = ~np.isnan(values)
    assert seen.tolist() == present.sum(axis=0).tolist()
    for column in range(4):
        if seen[column]:
            assert mean[column] == pytest.approx(values[present[:, column], column].mean())
            assert deviation[column] == pytest.approx(values[present[:, column], column].std(), abs=1e-12)


def test_an_outlier_moves_moments_no_more_than_what_is_far_but_likely() -> None:
    values = np.random.default_rng(0).normal(size=(200, 1))
    _, mean, deviation, _ = _moments([values, np.array([[1e9]])], warm_up=100.0)
    assert 0.0 < mean[0] - values.mean() < 0.1
    assert deviation[0] < 1.3


def test_a_constant_carries_nothing() -> None:
    inverse = np.ones(2)
    invert(np.array([1e6, 1e6]), np.array([1e-9, 1.0]), inverse)
    assert inverse.tolist() == [0.0, 1.0]


@given(st.integers(1, 3 * BLOCK))
def test_the_mixture_moves_as_by_fixed_share(n: int) -> None:
    rng = np.random.default_rng(n)
    then = rng.dirichlet(np.ones(3), size=(n, 7)).transpose(0, 2, 1).copy()
    then[rng.random(then.shape) < 0.05] = 0.0
    classes = rng.integers(0, 3, n)
    logs = np.log(np.maximum(then[np.arange(n), classes], FLOOR))
    below, above = np.full(5, 0.2), np.full(2, 0.5)
    expected = fixed_share(below, logs[:, :5]), fixed_share(above, logs[:, 5:])
    assert mix(then, classes, below, above, FLOOR, SHARE, BLOCK, np.empty(n, np.intp)) == n
    assert below == pytest.approx(expected[0], rel=1e-9)
    assert above == pytest.approx(expected[1], rel=1e-9)


def test_classes_that_were_unknown_say_nothing() -> None:
    then = np.full((4, 2, 3), 0.5)
    then[1, 1] = np.nan
    then[3, :, 0] = 0.9, 0.1
    classes = np.array([2, 1, 5, 0])
    below, above, whole = np.full(2, 0.5), np.ones(1), np.empty(4, np.intp)
    assert mix(then, classes, below, above, FLOOR, SHARE, BLOCK, whole) == 1
    assert whole[0] == 3
    assert below == pytest.approx(fixed_share(np.full(2, 0.5), np.log([[0.9, 0.5]])))
    then[1, 0, 0] = 0.9
    # Its own class was known then, another one was not: it moves the mixture and teaches no stack.
    assert mix(then[1:2], np.array([0]), below, above, FLOOR, SHARE, BLOCK, whole) == 0
    assert below[0] > 0.7


class _Tally:
    def __init__(self, decays: list[float]) -> None:
        self.decays = np.array(decays)
        self.counts, self.seen = np.zeros((len(decays), 4)), np.zeros((2, 4))
        self.recognised, self.alike = np.ones(4), np.zeros(4)

    def take(self, classes: list[int], looks: list[int]) -> _Tally:
        count(
            np.array(classes, np.intp), np.array(looks, np.intp), self.decays, 0.99, 0.9, 0.1, self.counts, self.seen,
            self.recognised, self.alike,
        )  # fmt: skip
        return self


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.integers(1, 59))
def test_counts_gaps_and_ages_do_not_depend_on_the_steps(classes: list[int], cut: int) -> None:
    cut = min(cut, len(classes) - 1)
    at_once = _Tally([0.9, 1.0]).take(classes, classes)
    parts = _Tally([0.9, 1.0]).take(classes[:cut], classes[:cut]).take(classes[cut:], classes[cut:])
    assert at_once.counts == pytest.approx(parts.counts)
    assert at_once.seen.tolist() == parts.seen.tolist()
    assert at_once.counts[1].tolist() == [classes.count(c) for c in range(4)]
    backwards = classes[::-1]
    for c in set(classes):
        assert at_once.seen[0, c] == backwards.index(c)
        assert at_once.seen[1, c] == len(classes) - classes.index(c)


def test_an_event_that_looks_like_another_class_is_renamed_unless_its_own_came_later_and_is_recognised() -> None:
    tally = _Tally([1.0]).take([0] * 20, [0] * 20)
    assert tally.take([1], [0]).alike.tolist() == [0.0] * 4
    assert tally.recognised[1] == pytest.approx(0.9)
    tally.recognised[1] = 0.05
    assert tally.take([1], [0]).alike.tolist() == [pytest.approx(0.01), 0.0, 0.0, 0.0]
    tally.recognised[1] = 0.9
    # The other one came since.
    tally.take([0], [0])
    assert tally.take([1], [0]).alike[0] == pytest.approx(0.01 * (1.0 + 0.99**2))


def _probabilities(scores: Array, steepness: float, lapse: float) -> Array:
    powers = np.exp(steepness * scores)
    shares: Array = (1.0 - lapse) * powers / powers.sum(axis=1, keepdims=True) + lapse / scores.shape[1]
    return shares


def _likelihood(scores: Array, classes: NDArray[np.intp], steepness: float) -> float:
    return float(np.log(_probabilities(scores, steepness, 0.0)[np.arange(len(classes)), classes]).sum())


def test_the_step_of_steepness_is_newtons() -> None:
    rng = np.random.default_rng(3)
    scores, classes, steepness = rng.normal(size=(50, 3)), rng.integers(0, 3, 50), 1.7
    members = _probabilities(scores, steepness, 0.0)[:, :, None]
    slope = (_likelihood(scores, classes, steepness + 1e-5) - _likelihood(scores, classes, steepness - 1e-5)) / 2e-5
    few = _likelihood(scores, classes, steepness + 1e-3) + _likelihood(scores, classes, steepness - 1e-3)
    curvature = (2 * _likelihood(scores, classes, steepness) - few) / 1e-6
    information, moved_to, lapses = np.array([5.0]), np.array([steepness]), np.zeros(1)
    steepen(scores[:, :, None].copy(), members, classes, 0, 0.9, -9.0, 9.0, information, moved_to, lapses)
    assert information[0] == pytest.approx(5.0 * 0.9**50 + curvature, rel=1e-4)
    assert moved_to[0] - steepness == pytest.approx(slope / (information[0] + 1e-3), rel=1e-4)


def test_steepness_and_lapses_are_found_where_some_labels_are_noise() -> None:
    rng = np.random.default_rng(4)
    n, decay = 20_000, 2.0 ** (-1.0 / 512.0)
    scores = rng.normal(size=(n, 3))
    chances = _probabilities(scores, 4.0, 0.2)
    classes = (rng.random((n, 1)) > np.cumsum(chances, axis=1)).sum(axis=1).clip(max=2).astype(np.intp)
    information, steepness, lapses = np.ones(1), np.ones(1), np.full(1, 0.01)
    for at in range(0, n, 32):
        part = scores[at : at + 32]
        members = _probabilities(part, float(steepness[0]), float(lapses[0]))[:, :, None]
        came = classes[at : at + 32]
        steepen(part[:, :, None].copy(), members, came, 0, decay, 0.5, 60.0, information, steepness, lapses)
    assert steepness[0] == pytest.approx(4.0, rel=0.2)
    assert lapses[0] == pytest.approx(0.2, abs=0.05)


def test_descending_moves_one_column_against_the_gradient() -> None:
    weights, slopes = np.zeros((2, 2, 3)), np.full((2, 2), 1e-8)
    gradient = np.array([[1.0, -2.0], [0.0, 4.0]])
    descend(gradient, 0.5, slopes, weights, 1)
    assert weights[:, :, 1] == pytest.approx(np.array([[-0.5, 0.5], [0.0, -0.5]]))
    assert not weights[:, :, [0, 2]].any()
    descend(gradient, 0.5, slopes, weights, 1)
    assert weights[0, 0, 1] == pytest.approx(-0.5 - 0.5 / np.sqrt(2.0))


def test_the_largest_change_counts_weights_that_are_new() -> None:
    before, after = np.full((2, 2, 3), -4.0), np.zeros((3, 3, 3))
    after[:2, :2] = -4.5
    assert moved(before, after) == (4.0, 0.5)
    after[2, 0, 1] = -3.0
    assert moved(before, after) == (4.0, 3.0)
    for what in (np.nan, np.inf):
        after[0, 2, 2] = what
        assert moved(before, after)[1] == np.inf


@given(st.floats(0.0, 1.0), st.integers(0, 99))
def test_one_event_is_calibrated_as_many_are(first: float, seed: int) -> None:
    stacks = Stacks(3)
    stacks.shifts = np.random.default_rng(seed).normal(0.0, 0.1, len(KNOTS))
    sharp = np.array([[first, 1.0 - first]])
    many = stacks.calibrated(np.concatenate((sharp, sharp)))
    assert stacks.calibrated(sharp) == pytest.approx(many[:1], abs=1e-12)
