"""The door of the gate: evidence in, verdict out. Pure: the same evidence in the same order gives the same verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.events import Strings
from penstock.gate.guards import Opinion
from penstock.learn.inputs import Departed
from penstock.learn.interface import Forgotten, Heard, HeldOut
from penstock.learn.measured import Guard
from penstock.learn.steps import CanaryCounts

Action = Literal["publish", "hold", "roll_back"]
Order = Literal["roll_back", "promote", "hold", "resume"]


@dataclass(frozen=True, slots=True)
class Opinions:
    """What two versions said of the same n events, which have one class each."""

    labels: Sequence[str]
    served: Opinion
    shadow: Opinion

    def rows(self, keep: NDArray[np.bool_]) -> Opinions:
        """Of these events alone."""
        places = np.flatnonzero(keep).tolist()

        def of(opinion: Opinion) -> Opinion:
            return Opinion([opinion.said[place] for place in places], opinion.chances[keep])

        return Opinions([self.labels[place] for place in places], of(self.served), of(self.shadow))


@dataclass(frozen=True, slots=True)
class Answers:
    """What the last known good version and what is served said of the same n events, which have one class each."""

    labels: Sequence[str]
    good: Opinion
    served: Opinion


@dataclass(frozen=True, slots=True)
class Evidence:
    """One step as the gate sees it: losses in [0, 1] of n labelled events, predicted before they were learned from.

    Of a long step these are a sample, spread over it without looking at anything but its length, which keeps every
    guarantee: it is given for the events that are compared, in their order."""

    candidate: NDArray[np.float64]
    """(n,) of the learner's state before the step."""
    served: NDArray[np.float64]
    """(n,) of the version that is served; the same array as candidate while every update is published."""
    good: NDArray[np.float64] | None
    """(n,) of the last known good version; None while there is none."""
    sources: Strings | None
    """(n,) who sent each event, where known."""
    finite: bool
    """Whether the updated weights are finite."""
    jump: float
    """The largest change of a weight in this step, relative to the largest weight before."""
    probation: NDArray[np.float64] | None = None
    """(n,) of the version on probation; None while there is none."""
    expected: NDArray[np.float64] | None = None
    """(n,) what the version that is served expected to lose; None where it does not say, or nobody asks."""
    shadow: NDArray[np.float64] | None = None
    """(n,) of the candidate with a new base; None while there is none."""
    shadow_fault: str = ""
    """What is wrong with it, where something is; it is given up then."""
    own: NDArray[np.bool_] | None = None
    """(n,) which events belong to the share of the traffic that it answers; None while it answers none."""
    opinions: Opinions | None = None
    """What is served and the candidate with a new base said; None where there is none, or answers are no classes."""
    answers: Answers | None = None
    """What was answered to some hundred events until now; None where it is not time to look at it."""
    departed: Departed | None = None
    """How far the inputs are from what the shadow's base was trained on; None where nobody looked at this step."""
    labelled: int = 0
    """Labelled events of the step, of which these n are a sample."""
    doubted: Heard | None = None
    """Events of the step that are set aside: they say whether their sources are to be believed again."""
    forgotten: Forgotten | None = None
    """What the updated model has lost of what it knew; None where nobody looked at this step."""
    released: bool = False
    """Whether they had been set aside and somebody has vouched for them: no source is looked at."""


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A mean with a confidence sequence's bounds, valid at every look."""

    mean: float
    low: float
    high: float
    events: int


class ShadowVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a candidate with a new base, and why."""

    action: Literal["widen", "promote", "give_up"]
    """``widen``: it stays in shadow, and answers ``share`` of the traffic from here on."""
    reason: str
    """One sentence with its numbers, for people."""
    gain: Interval
    """Loss of what was served minus its own, an event of the live stream."""
    evidence: float
    """That it is better than what was served, to 1; may be acted upon from 1 / alpha on."""
    events: int
    """Labelled live events for which it was in shadow."""
    share: float = 0.0
    """Of the traffic that it answers after this verdict; 0 where that is none, or all."""
    own: Interval | None = None
    """Of the gain where it answers; None before it answers anything."""
    own_evidence: float = 0.0
    """That it is not much worse where it answers, at this share, to 1: widened from 1 / alpha on."""
    guards: tuple[Guard, ...] = ()
    """What its guards have measured."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of the update, and why."""

    action: Action
    """``publish`` the update, ``hold`` it back, or ``roll_back`` to the last known good version."""
    reason: str
    """One sentence with its numbers, for people."""
    gain: Interval | None = None
    """Loss of what was compared with minus loss of the update, an event: positive is better."""
    good: bool = False
    """Whether the version on probation has earned to be the last known good, and takes the place of the one before."""
    probation: bool = False
    """Whether the version that this verdict publishes goes on probation: its block and the model's state right after
    the step are kept, in place of those of the version that was on probation before. When ``good`` is set as well, the
    older one becomes good first. Only with ``publish``; a ``hold`` or a ``roll_back`` ends the probation."""
    shadow: ShadowVerdict | None = None
    """What becomes of the shadow; None where it stays as it is. A promotion comes with ``publish`` and ``probation``,
    and it is the shadow that is published then."""
    accepts: str | None = None
    """The class, slice or regime (empty for all anchors) of which what is lost stays lost, because the world has
    changed or nobody knows it better: how often it is answered right is known anew from here."""
    take_out: tuple[str | None, ...] = ()
    """Sources whose events since the last known good version the model is to be without: it goes back to that version's
    state and learns the others again, and this is published. Only with ``publish`` and ``probation``."""
    guards: tuple[Guard, ...] = ()
    """What guards have measured of the step, and of what is served."""


class Gate(Protocol):
    """Decides on each update."""

    def judge(self, evidence: Evidence) -> Verdict:
        """Look at one more step and decide."""
        ...

    @property
    def doubted(self) -> tuple[str | None, ...]:
        """Sources whose events are to be set aside from now on."""
        ...

    def hear(self, heard: Heard | CanaryCounts) -> ShadowVerdict | None:
        """The events of a step that were all set aside: whether their sources are to be believed again. Or what servers
        have counted of a shadow that answers a share of the traffic, and what becomes of it: it may be given up."""
        ...

    def begin_shadow(self, claim: HeldOut) -> ShadowVerdict | None:
        """A candidate with a new base is in shadow from here on (None), or is refused (its verdict)."""
        ...

    def shadow_so_far(self) -> ShadowVerdict | None:
        """The numbers of the shadow as they are, with an empty reason; None where there is none."""
        ...

    def obey(self, order: Order, told: str) -> Verdict | None:
        """Decide as somebody has ordered, ``told`` being the reason; None where there is no shadow to promote.

        After ``roll_back`` the version that was gone back to is the last known good. From ``hold`` to ``resume``
        nothing is published but a rollback."""
        ...

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        ...

    def load(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        ...
