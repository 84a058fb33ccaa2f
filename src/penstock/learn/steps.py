"""The entries of the step journal: what the learner took and what was decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from penstock.events import Offset, Partition, Range, Version
from penstock.learn.measured import Measured
from penstock.learn.quarantine import AsideStep, Place

StepAction = Literal["start", "publish", "hold", "roll_back", "advance"]

Reached = Callable[[str], None]


def nothing(action: str) -> None:
    """The default for the hook that is told each durable action by name: crash tests stop a process there."""


class ShadowStep(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What became of a candidate with a new base, or with new settings on the same one."""

    what: Literal["adopted", "widened", "promoted", "given_up"]
    """``adopted`` put it in shadow: from the next step on it learns what the learner learns. ``widened``: from then on
    it answers ``share`` of the traffic."""
    number: int
    """Of the consolidation."""
    base: str
    """Id of the new base."""
    parent_base: str = ""
    """Id of the base of what was served; empty where there was none."""
    cause: str = ""
    """Why the consolidation was begun."""
    reason: str = ""
    """The gate's words."""
    content: str = ""
    """SHA-256 of the candidate's state when it was adopted."""
    events: int = 0
    """Labelled events for which it was in shadow."""
    gain: tuple[float, float, float, int] | None = None
    """Mean, low, high and events of the gate's interval: the loss of what was served minus its own."""
    evidence: float = 0.0
    """That it is better than what was served, to 1."""
    trained: int = 0
    """Labelled events that the base was trained on."""
    seconds: float = 0.0
    """What the consolidation took."""
    cpu_s: float = 0.0
    trained_until: tuple[tuple[Partition, Offset], ...] = ()
    """Of each partition, the offset before which those events stand."""
    share: float = 0.0
    """Of the traffic that it answers after this; 0 where it answers none, or all."""
    own: tuple[float, float, float, int] | None = None
    """The interval on the share that it answered until then; None where it answered none."""
    changes: tuple[str, ...] = ()
    """The settings that are new, as people read them; empty for a new base."""


class CanaryCounts(msgspec.Struct, frozen=True, array_like=True):
    """What servers have counted of a candidate that answers a share of the traffic, since it began."""

    share: float = 0.0
    """The largest share that a server has handed out."""
    asked: int = 0
    """Events that were to be predicted, by whatever version."""
    answered: int = 0
    """Those that the candidate has answered."""
    failed: int = 0
    """Times that it could not, and what was served answered instead."""
    not_finite: int = 0
    """Answers that were not finite; what was served answered instead."""
    timed: int = 0
    """Comparisons of the time for an answer with that of what was served, on the same rows."""
    slow: int = 0
    """Those in which the candidate took longer than it may."""
    failure: str = ""
    """Why it could not answer, the newest time."""


OrderName = Literal["roll_back", "promote", "hold", "resume"]


class HandStep(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What somebody has ordered by hand, and was done."""

    what: OrderName
    by: str
    """Who."""
    reason: str = ""
    """Why, in their words."""
    id: str
    """Of the order, so that it is not obeyed twice."""
    version: Version | None = None
    """The one that a rollback was asked to go back to; None for the last known good."""
    position: tuple[tuple[Partition, Offset], ...] = ()
    """Where that version stood: what a rollback withdraws begins there."""


class Erasure(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """Events were erased that steps from here on had taken: what they say is what they make of the log without."""

    number: int
    """Of the service's erasures, counted from 1."""
    at: float
    """Seconds since 1970."""
    withdrawn: Version
    """Versions up to this one, but for those before the entry, knew of the events and are no more; the numbers of those
    that take their place follow it."""


class CorrectedStep(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What an entry of the step journal says of labels that were made good in what had been learned."""

    places: tuple[Place, ...]
    """The events that have other labels now than those with which they were learned, or none."""
    again: int
    """Events that were learned again for it."""


class ApprenticeStep(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What became of the service as the apprentice of the system that was there before."""

    what: Literal["graduated", "behind", "overtaken"]
    """``graduated``: it is no apprentice any more; ``behind``: it stays one, and the comparison begins anew;
    ``overtaken``: it is one again."""
    of: str
    """What that system is called."""
    reason: str
    gain: tuple[float, float, float, int]
    """Mean, low, high and events of the interval: the loss of the system minus our own."""
    evidence: float
    """For what it says, to 1."""


class Step(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One entry of the journal. Replaying the ranges of all entries in order gives every number in it again."""

    number: int
    """Counted from 1 without gaps."""
    action: StepAction
    """``start`` published the empty model; ``advance`` only took events in which nothing was to be learned."""
    ranges: tuple[Range, ...]
    """In the order in which they were taken, each to be read as it stands: joining them may differ at frames'
    boundaries."""
    version: Version
    """What is served after the step."""
    restored: Version | None = None
    """The version that a rollback went back to."""
    good: bool = False
    """Whether the version on probation became the last known good."""
    probation: bool = False
    """Whether the version that the step published went on probation."""
    taken: int = 0
    """Events in the ranges, of any kind."""
    events: int = 0
    """Labelled events that were learned."""
    loss_sum: float = 0.0
    """Sum of the bounded losses of the learner's own predictions."""
    served_sum: float = 0.0
    """The same of the version that was served."""
    gain: tuple[float, float, float, int] | None = None
    """Mean, low, high and events of the gate's interval."""
    verdict: str = ""
    checkpoint_due: bool = False
    """Whether a checkpoint follows the step; a restart that finds none makes up for it."""
    weights: str = ""
    """SHA-256 of the published weights where they are materialised with that checkpoint."""
    cpu_s: float = 0.0
    """Processor time since the entry before."""
    log_time: float = 0.0
    """Seconds since 1970 at which the newest of the frames was appended."""
    time: float = 0.0
    """Seconds since 1970 at which the entry was made."""
    base: str = ""
    """Id of the base of what is served after the step; empty without one."""
    shadow: ShadowStep | None = None
    """What became of a candidate with this entry: it was adopted or refused by an entry without ranges, and promoted or
    given up by one that learned."""
    drifted: tuple[float, float, int] | None = None
    """The learner's mean loss before and after a drift that was noticed with this step, and the events after it."""
    sealed: str = ""
    """SHA-256 of everything that decided what happens next before this step, in the first entry behind a checkpoint."""
    environment: str = ""
    """Name of what the learner's process runs on, in the first entry of a process where that is not what it was."""
    aside: AsideStep | None = None
    """What was set aside instead of learned, and what became of such events. An entry without ranges releases or drops
    some."""
    hand: HandStep | None = None
    """The order that this entry obeys; it has no ranges then."""
    erasure: Erasure | None = None
    """In the first entry that is not what was first recorded there."""
    corrected: CorrectedStep | None = None
    """What an entry without ranges has made good."""
    tried: Version = Version(0)
    """The number under which a candidate answers a share of the traffic, as it is after the step; 0 where the step did
    not expose one."""
    heard: CanaryCounts | None = None
    """What servers said of that candidate, in an entry without ranges."""
    apprentice: ApprenticeStep | None = None
    """What became of the service as an apprentice with this entry."""
    departed: tuple[str, float, int] | None = None
    """The feature whose inputs were noticed with this step to have left what the base was trained on, its population
    stability index, and the events that were compared."""
    answered: tuple[Version, ...] = ()
    """Numbers under which that candidate had answered before an erasure gave it the one that it was ``tried`` under:
    predictions that others got from it say these."""
    measured: Measured | None = None
    """Numbers of forgetting and guards; None in an entry of before they were written down, and in no other."""
    answers_moved: tuple[str, float, int] | None = None
    """What of the answers was noticed with this step to be distributed otherwise than before, its population stability
    index, and the answers that were compared."""


def difference(recorded: Step, repeated: Step) -> str:
    """Which fields of two entries differ, and how."""
    return "; ".join(
        f"{name} was {getattr(recorded, name)!r} and is {getattr(repeated, name)!r}"
        for name in Step.__struct_fields__
        if getattr(recorded, name) != getattr(repeated, name)
    )


class Steps(Protocol):
    """Entries that were recorded."""

    @property
    def folder(self) -> Path:
        """Where they stand."""
        ...

    @property
    def last(self) -> int:
        """The number of the last one; 0 before the first."""
        ...

    def entries(self, after: int = 0) -> Iterator[Step]:
        """The entries with higher numbers, in order."""
        ...
