"""What is left of each task after the ones that came later: averages over the matrix of accuracies.

R[i, j] is the accuracy on the test of task j after task i was learned, i and j from 1 to T.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t, two-sided 95 %, for 1 to 9 degrees of freedom."""
_Z95 = 1.96


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Of one run of one method."""

    accuracy: float
    """ACC = 1/T sum over j of R[T, j] (Lopez-Paz and Ranzato 2017)."""
    forgetting: float
    """1/(T-1) sum over j < T of max over l < T of R[l, j], less R[T, j] (Chaudhry et al. 2018). Where classes arrive it
    is above zero even for the best of all learners: with two classes to choose from, more answers are right than with
    ten."""
    backward_transfer: float
    """BWT = 1/(T-1) sum over j < T of R[T, j] - R[j, j] (Lopez-Paz and Ranzato 2017)."""
    forward_transfer: float
    """FWT = 1/(T-1) sum over j > 1 of R[j-1, j] - 1/C: what is known of a task before it comes (Lopez-Paz and Ranzato
    2017, with chance among all C classes for the accuracy of a network that has learned nothing)."""
    least_accuracy: float
    """min-ACC = 1/(T-1) sum over j < T of the least accuracy on task j at any look after it was learned (De Lange, van
    de Ven and Tuytelaars 2023)."""


def scores(matrix: Matrix, chance: float, looks: Matrix | None = None) -> Scores:
    """From (T, T) accuracies. ``looks`` are (n, T + 1) accuracies on samples of the tests at other moments: the number
    of tasks learned by then, and the accuracy on each. With one task nothing can be forgotten or transferred."""
    tasks = len(matrix)
    last, others = matrix[-1], tasks - 1
    if not others:
        return Scores(
            accuracy=float(last.mean()),
            forgetting=0.0,
            backward_transfer=0.0,
            forward_transfer=0.0,
            least_accuracy=float(last.mean()),
        )
    at_its_end = np.diagonal(matrix)
    before = matrix[np.arange(others), np.arange(1, tasks)]
    least = [float(matrix[j:, j].min()) for j in range(others)]
    if looks is not None:
        for j in range(others):
            seen = looks[looks[:, 0] > j, j + 1]
            least[j] = min(least[j], float(seen.min(initial=1.0)))
    return Scores(
        accuracy=float(last.mean()),
        forgetting=float((matrix[:-1, :-1].max(axis=0) - last[:-1]).mean()),
        backward_transfer=float((last - at_its_end)[:-1].mean()),
        forward_transfer=float((before - chance).mean()),
        least_accuracy=float(np.mean(least)),
    )


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean over seeds, and half the width of its 95 % interval by Student's t; None with one seed."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    free = len(values) - 1
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / free)
    t = _T95[free - 1] if free <= len(_T95) else _Z95
    return mean, t * deviation / math.sqrt(len(values))
