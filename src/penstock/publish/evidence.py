"""What the gate is shown of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock.gate.answered import Moved
from penstock.gate.guards import Opinion
from penstock.gate.interface import Answers, Evidence, Opinions
from penstock.learn.inputs import Departed
from penstock.learn.interface import Forgotten, Learned
from penstock.learn.learner import Taken
from penstock.learn.measured import Guard
from penstock.spec import ClassName


@dataclass(frozen=True, slots=True)
class ShadowLosses:
    """What the shadow said of a step before it learned from it."""

    values: NDArray[np.float64]
    """(n,) of all labelled events of the step."""
    learned: Learned | None = None
    """What it said, and did; None where it could not."""
    classes: tuple[ClassName, ...] = ()
    """The names of the columns of what it said."""
    fault: str = ""
    """What is wrong with it, where something is."""


class Looked(NamedTuple):
    """What was looked at with a step; nothing where it was not time."""

    forgotten: Forgotten | None = None
    """What the updated model has lost of what it knew."""
    of_shadow: Departed | None = None
    """How far the inputs are from what the shadow's base was trained on."""
    answers: Answers | None = None
    """What was answered to the events since the look before."""
    left: Departed | None = None
    """How far they are from what the base of what is served was trained on, where they have left it with this step."""
    inputs: Guard | None = None
    """The same in numbers, wherever it was looked."""
    moved: Moved | None = None
    """How far answers are from those before, where they have moved with this step."""


def evidence_of(
    taken: Taken,
    shadow: ShadowLosses | None,
    looked: Looked,
    own: NDArray[np.bool_] | None = None,
    opinions: Opinions | None = None,
) -> Evidence | None:
    """The losses on the events that are compared, ``own`` saying of each whether it belongs to the share of the traffic
    that the shadow answers; None for a step without a labelled event."""
    if taken.learned is None or taken.batch is None or taken.served is None:
        return None
    candidate, served, sources = taken.learned.losses, taken.served, taken.batch.sources
    expected = None if sources is None or served is not candidate else _expected(taken)
    of_shadow = None if shadow is None else shadow.values
    if taken.compared is not None:
        same, candidate = served is candidate, candidate[taken.compared]
        served = candidate if same else served[taken.compared]
        sources = sources and [sources[place] for place in taken.compared]
        of_shadow = None if of_shadow is None else of_shadow[taken.compared]
        expected = None if expected is None else expected[taken.compared]
    return Evidence(
        candidate=candidate,
        served=served,
        good=taken.good,
        probation=taken.probation,
        sources=sources,
        expected=expected,
        finite=taken.learned.finite,
        jump=taken.learned.jump,
        shadow=of_shadow,
        shadow_fault="" if shadow is None else shadow.fault,
        own=own,
        opinions=opinions,
        labelled=len(taken.batch),
        doubted=taken.doubted,
        forgotten=looked.forgotten,
        answers=looked.answers,
        departed=looked.of_shadow,
        released=taken.aside is not None and bool(taken.aside.released),
    )


def _expected(taken: Taken) -> NDArray[np.float64] | None:
    """(n,) half the Brier scores that these probabilities expect of themselves, (1 - sum p^2) / 2; None where the
    answer is not one class."""
    assert taken.learned is not None, "nothing was learned"
    assert taken.batch is not None, "nothing was learned"
    probabilities, labels = taken.learned.predictions.probabilities, taken.batch.labels
    if probabilities is None or not labels or not isinstance(labels[0], str):
        return None
    found: NDArray[np.float64] = 0.5 - 0.5 * np.square(probabilities).sum(axis=1)
    return found


def opinions_of(taken: Taken, classes: tuple[ClassName, ...], shadow: ShadowLosses | None) -> Opinions | None:
    """What is served and the shadow said of the events that are compared, ``classes`` being the columns of the former;
    None where there is no shadow, something else is served than what learns, or answers are not one class."""
    learned, batch = taken.learned, taken.batch
    if shadow is None or shadow.learned is None or learned is None or batch is None or taken.served is None:
        return None
    labels, served, newcomer = batch.labels, learned.predictions.probabilities, shadow.learned.predictions.probabilities
    if taken.served is not learned.losses or served is None or newcomer is None or not isinstance(labels, list):
        return None
    if not all(isinstance(label, str) for label in labels):
        return None
    rows = np.arange(len(batch)) if taken.compared is None else taken.compared
    told = [str(labels[row]) for row in rows.tolist()]
    return Opinions(told, opinion_of(served[rows], classes), opinion_of(newcomer[rows], shadow.classes))


def opinion_of(probabilities: NDArray[np.float64], classes: tuple[ClassName, ...]) -> Opinion:
    """What these (n, classes) probabilities say."""
    if not probabilities.shape[1]:
        return Opinion([None] * len(probabilities), np.zeros(len(probabilities)))
    best = probabilities.argmax(axis=1)
    chances = np.nan_to_num(probabilities[np.arange(len(best)), best], nan=0.0)
    return Opinion([classes[place] for place in best.tolist()], np.clip(chances, 0.0, 1.0))
