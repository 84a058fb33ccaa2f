"""What the gate is shown of a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.gate.interface import Evidence
from penstock.learn.interface import Forgotten
from penstock.learn.learner import Taken


@dataclass(frozen=True, slots=True)
class ShadowLosses:
    """What the shadow said of a step before it learned from it."""

    values: NDArray[np.float64]
    """(n,) of all labelled events of the step."""
    fault: str = ""
    """What is wrong with it, where something is."""


def evidence_of(
    taken: Taken,
    shadow: ShadowLosses | None,
    forgotten: Forgotten | None = None,
    own: NDArray[np.bool_] | None = None,
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
        labelled=len(taken.batch),
        doubted=taken.doubted,
        forgotten=forgotten,
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
