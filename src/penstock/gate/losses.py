"""The losses of a step as the gate counts them, of the events whose sources are believed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.gate import courses
from penstock.gate.interface import Evidence, Opinions

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Losses:
    """Of n events, NaN counted as the worst loss."""

    candidate: Array
    served: Array
    good: Array | None
    probation: Array | None
    shadow: Array | None
    own: NDArray[np.bool_] | None
    opinions: Opinions | None

    @classmethod
    def of(cls, evidence: Evidence) -> Losses:
        """All that the evidence says."""
        served = bounded(evidence.served)
        same = evidence.candidate is evidence.served
        return cls(
            candidate=served if same else bounded(evidence.candidate),
            served=served,
            good=None if evidence.good is None else bounded(evidence.good),
            probation=None if evidence.probation is None else bounded(evidence.probation),
            shadow=None if evidence.shadow is None else bounded(evidence.shadow),
            own=evidence.own,
            opinions=evidence.opinions,
        )

    def rows(self, keep: NDArray[np.bool_]) -> Losses:
        """Of these events alone."""
        return Losses(
            candidate=self.candidate[keep],
            served=self.served[keep],
            good=None if self.good is None else self.good[keep],
            probation=None if self.probation is None else self.probation[keep],
            shadow=None if self.shadow is None else self.shadow[keep],
            own=None if self.own is None else self.own[keep],
            opinions=None if self.opinions is None else self.opinions.rows(keep),
        )


def bounded(losses: Array) -> Array:
    """Losses in [0, 1]; one that is not a number is the worst."""
    if courses.are_bounded(losses):
        # The usual case.
        return losses
    return np.clip(np.nan_to_num(losses, nan=1.0), 0.0, 1.0)
