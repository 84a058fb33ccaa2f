"""The mixture: never much worse than its best member, and quick to follow another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.learn.fast.mixture import BLOCK, SHARE, fixed_share, gone


@given(st.integers(2, 12), st.integers(1, 400), st.integers(0, 10**6))
def test_log_loss_is_within_the_bound_of_the_best_member(members: int, n: int, seed: int) -> None:
    likelihoods = np.random.default_rng(seed).uniform(1e-4, 1.0, size=(n, members))
    weights = np.full(members, 1.0 / members)
    loss = 0.0
    for row in likelihoods:
        loss -= float(np.log(weights @ row))
        weights = fixed_share(weights, np.log(row[None]))
    best = -np.log(likelihoods).sum(axis=0).min()
    assert loss <= best + np.log(members) - n * np.log(1 - SHARE) + 1e-9


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6))
def test_a_change_of_the_best_member_costs_little(before: int, after: int, seed: int) -> None:
    members = 4
    good, poor = np.log(0.9), np.log(0.1)
    likelihoods = np.full((before + after, members), poor)
    likelihoods[:before, 0] = good
    likelihoods[before:, 1] = good
    weights = np.full(members, 0.25)
    loss = 0.0
    for row in likelihoods:
        loss -= float(np.log(weights @ np.exp(row)))
        weights = fixed_share(weights, row[None])
    switching = -(before + after) * good
    assert loss <= switching + 2 * np.log(members) - np.log(SHARE) + 2 * SHARE * (before + after)


@given(st.integers(1, 300), st.integers(0, 10**6))
def test_a_step_mixes_as_its_single_events_do_but_for_when_the_share_is_given_back(n: int, seed: int) -> None:
    likelihoods = np.log(np.random.default_rng(seed).uniform(0.05, 1.0, size=(n, 5)))
    singly = np.full(5, 0.2)
    for row in likelihoods:
        singly = fixed_share(singly, row[None], share=0.0)
    assert fixed_share(np.full(5, 0.2), likelihoods, share=0.0) == pytest.approx(singly, abs=1e-12)
    shared = fixed_share(np.full(5, 0.2), likelihoods)
    assert shared.sum() == pytest.approx(1.0)
    assert shared.min() >= (1 - (1 - SHARE) ** ((n - 1) % BLOCK + 1)) / 5 - 1e-12


def test_likelihoods_at_the_floor_leave_weights_that_can_be_used() -> None:
    weights = np.full(3, 1 / 3)
    for _ in range(50):
        weights = fixed_share(weights, np.full((100, 3), np.log([1e-6, 1.0, 1e-6])))
    assert np.isfinite(weights).all()
    assert weights.min() > 0
    assert fixed_share(weights, np.log([[1.0, 1e-6, 1e-6]] * 3)).argmax() == 0


def test_a_class_is_gone_by_its_missing_events_and_not_by_time() -> None:
    frequent, rare = gone(np.array([1000.0, 1000.0]), np.array([0.5, 0.001]), np.zeros(2))
    assert frequent > 0.9
    assert rare < 0.02


def test_a_class_is_not_gone_while_inputs_like_it_arrive_under_other_labels() -> None:
    none, mistakes, concept = gone(np.full(3, 1e4), np.full(3, 0.4), np.array([0.0, 0.15, 0.5]))
    assert none > 0.99
    assert mistakes > 0.99
    assert concept == 0.0
