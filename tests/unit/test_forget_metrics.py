"""Averages over the matrix of accuracies, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.benchmarks.forget_metrics import interval, scores

MATRIX = np.array([[0.9, 0.2, 0.1], [0.7, 0.8, 0.3], [0.75, 0.6, 0.5]])
"""After task 1 (first row), 2 and 3, on tests 1, 2 and 3."""


def test_scores_of_three_tasks_worked_out_by_hand() -> None:
    found = scores(MATRIX, 0.1)

    assert found.accuracy == pytest.approx((0.75 + 0.6 + 0.5) / 3)
    assert found.forgetting == pytest.approx(((0.9 - 0.75) + (0.8 - 0.6)) / 2)
    assert found.backward_transfer == pytest.approx(((0.75 - 0.9) + (0.6 - 0.8)) / 2)
    assert found.forward_transfer == pytest.approx(((0.2 - 0.1) + (0.3 - 0.1)) / 2)
    assert found.least_accuracy == pytest.approx((0.7 + 0.6) / 2)


def test_what_a_later_task_brought_and_a_later_one_took_is_forgotten_but_no_loss_since_its_own_end() -> None:
    matrix = np.array([[0.5, 0.0, 0.0], [0.9, 0.8, 0.0], [0.6, 0.8, 0.7]])
    found = scores(matrix, 0.0)

    assert found.forgetting == pytest.approx((0.9 - 0.6 + 0.0) / 2)
    assert found.backward_transfer == pytest.approx((0.6 - 0.5 + 0.0) / 2)


def test_looks_count_for_the_tasks_that_were_learned_by_then() -> None:
    looks = np.array([[1.0, 0.4, 0.0, 0.0], [2.0, 0.8, 0.3, 0.0]])

    # Before task 2 was learned it was not known, and that is nobody's forgetting.
    assert scores(MATRIX, 0.1, looks).least_accuracy == pytest.approx((0.4 + 0.3) / 2)


def test_with_one_task_nothing_is_forgotten_or_transferred() -> None:
    found = scores(np.array([[0.8]]), 0.5)

    assert (found.accuracy, found.least_accuracy) == (0.8, 0.8)
    assert found.forgetting == found.backward_transfer == found.forward_transfer == 0.0


@given(st.integers(2, 6), st.data())
def test_what_stays_as_it_was_is_not_forgotten(tasks: int, data: st.DataObject) -> None:
    share = st.floats(0, 1)
    ends = np.array(data.draw(st.lists(share, min_size=tasks, max_size=tasks)))
    matrix = np.triu(np.ones((tasks, tasks))).T * ends

    found = scores(matrix, 0.0)

    assert found.forgetting == found.backward_transfer == 0.0
    assert found.least_accuracy == pytest.approx(float(ends[:-1].mean()))


def test_the_interval_is_students() -> None:
    assert interval([0.8]) == (0.8, None)
    mean, half = interval([0.7, 0.8, 0.9])
    assert mean == pytest.approx(0.8)
    assert half == pytest.approx(4.303 * 0.1 / 3**0.5)
