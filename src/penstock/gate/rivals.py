"""What two systems lost on the same events, each by the same measure in [0, 1]: our replies, and the incumbent's.

An incumbent often says no more than a class, so that a measure of chances would hold it against one that is sure of
everything. Each event is therefore measured by what the incumbent said of it: a class by being right or not, on both
sides; chances by half the Brier score, on both sides. Which of the two it is, is known before the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.gate.losses import bounded
from penstock.replies import Incumbent, Replies

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Compared:
    """n events on which both have answered."""

    own: Array
    """(n,) losses of our replies; one that is not a number is the worst."""
    incumbent: Array
    """(n,) losses of the other system's."""
    errors: Array | None = None
    """(n,) the other system's absolute errors, where answers are numbers: what later ones are measured against."""


def compared_classes(labels: Sequence[str], own: Replies, incumbents: Sequence[Incumbent | None]) -> Compared:
    """One class each: wrong or right, or half the Brier score where the incumbent has said chances."""
    ours, theirs = [], []
    names: list[str] = list(own.classes)
    for label, row, incumbent in zip(labels, own.values.tolist(), incumbents, strict=True):
        chances = {name: chance for name, chance in zip(names, row, strict=True) if chance == chance}
        if isinstance(incumbent, dict):
            ours.append(_brier(chances, label))
            theirs.append(_brier(incumbent, label))
        else:
            likely = max(chances, key=chances.__getitem__, default=None)
            ours.append(float(likely != label))
            theirs.append(float(incumbent != label))
    return Compared(bounded(np.array(ours)), bounded(np.array(theirs)))


def compared_sets(
    labels: Sequence[tuple[str, ...]], own: Replies, incumbents: Sequence[Incumbent | None], threshold: float
) -> Compared:
    """Several classes together: the share that is not common to what was said and what came, of all that either names
    (Jaccard's distance), which does not depend on how many classes there are."""
    ours, theirs = [], []
    names: list[str] = list(own.classes)
    for label, row, incumbent in zip(labels, own.values.tolist(), incumbents, strict=True):
        said = {name for name, chance in zip(names, row, strict=True) if chance > threshold}
        ours.append(_apart(said, set(label)))
        theirs.append(_apart(set(incumbent) if isinstance(incumbent, tuple) else set(), set(label)))
    return Compared(bounded(np.array(ours)), bounded(np.array(theirs)))


def compared_numbers(labels: Array, own: Replies, incumbents: Sequence[Incumbent | None], scale: float) -> Compared:
    """Numbers: |error| / (|error| + scale), zero for a perfect answer and one half for an error of one scale."""
    said = np.array([one if isinstance(one, float) else np.nan for one in incumbents], np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        ours, theirs = np.abs(own.values[:, 0].astype(np.float64) - labels), np.abs(said - labels)
        return Compared(bounded(ours / (ours + scale)), bounded(theirs / (theirs + scale)), theirs)


def _brier(chances: dict[str, float], label: str) -> float:
    """Half the sum over classes of (chance - whether it came)^2; what is not named has no chance."""
    of_label = chances.get(label, 0.0)
    return 0.5 * (1.0 - 2.0 * of_label + sum(chance * chance for chance in chances.values()))


def _apart(said: set[str], came: set[str]) -> float:
    either = len(said | came)
    return 1.0 - len(said & came) / either if either else 0.0
