"""The doors of publication: where live weights go, where snapshots are kept, where receipts are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from penstock.events import Offset, Partition, Version
from penstock.events import Range as Range
from penstock.facts import Fact
from penstock.gate.answered import Moved
from penstock.gate.interface import Interval
from penstock.learn.inputs import Departed
from penstock.learn.interface import Block, Forgotten, State
from penstock.learn.measured import Guard
from penstock.learn.quarantine import AsideCounts
from penstock.learn.steps import CanaryCounts


class SlowTier(msgspec.Struct, frozen=True, kw_only=True):
    """The base behind what is served, and the candidate in its shadow."""

    base: str = ""
    """Id of the base of what is served; empty without one."""
    promoted: Version = Version(0)
    """The version that brought the newest base that was promoted; 0 before the first."""
    promoted_at: float = 0.0
    """Seconds since 1970."""
    catching_up: int = 0
    """The number of the consolidation whose candidate is caught up, or 0."""
    shadow: int = 0
    """The number of the consolidation whose candidate is in shadow, or 0."""
    shadow_base: str = ""
    """Id of that candidate's base."""
    shadow_changes: tuple[str, ...] = ()
    """The settings that are new of it, as people read them; empty for a new base."""
    shadow_since: float = 0.0
    shadow_events: int = 0
    """Labelled events since then."""
    evidence: float = 0.0
    """That the shadow is better than what is served, to 1."""
    gain: float = 0.0
    """Mean loss of what is served minus that of the shadow, an event."""
    share: float = 0.0
    """Of the traffic that the shadow answers; 0 while it answers none."""
    share_since: float = 0.0
    """Seconds since 1970."""
    share_version: Version = Version(0)
    """The number under which it answers."""
    share_events: int = 0
    """Labelled events of its share."""
    share_evidence: float = 0.0
    """That it is not much worse on them, at this share, to 1."""
    share_gain: float = 0.0
    """Mean loss of what is served minus its own on them, an event."""
    share_counts: CanaryCounts = CanaryCounts()
    """What servers have counted of its answers."""
    settled: int = 0
    """The number of the newest consolidation that was adopted or refused."""
    settled_events: int = 0
    """Labelled events up to the end of the newest shadow, or the refusal."""
    outcome: str = ""
    """What became of the newest consolidation, in words."""
    drifted_events: int = 0
    """Labelled events up to the newest drift that was noticed; 0 before the first."""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody holds updates back by hand."""

    by: str
    reason: str
    since: float
    """Seconds since 1970."""


class ApprenticeProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How the service and the system that was there before it compare, in the race that is on."""

    of: str
    """What that system is called."""
    is_apprentice: bool
    """Whether that system is the one to be believed."""
    since: float
    """Seconds since 1970 at which that became so; 0 where it has been so from the start."""
    race: int
    """Counted from 1; one ends when either is shown to be better."""
    events: int
    """That were compared in this race."""
    events_wanted: int
    """Before which neither is called better; 0 after a graduation."""
    gain: Interval
    """Loss of that system minus our own, an event of the race."""
    evidence: float
    """To 1: that we are better, or, after a graduation, that the other is better again."""
    evidence_wanted: float
    """What ends the race."""
    loss: float
    """Our mean loss in the race; 0 before the first event."""
    incumbent_loss: float
    compared: int
    """Events that were compared in all races."""
    graduated: int
    """Graduations so far."""
    outcome: str
    """How the race before this one ended, in words."""


class CorrectionCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What became of feedback that corrected or took back the label of an event that had come before."""

    applied: int = 0
    """Events of which the model is as if the label had been known at first."""
    waiting: int = 0
    """It will be; the events that it learned lately are learned again then."""
    beyond: int = 0
    """What was learned stays as it is, since the event is too long ago or the service file wants it so; the slow tier
    learns with the new label all the same."""
    aside: int = 0
    """The event is set aside."""
    again: int = 0
    """Events that were learned again, with the labels that they have now, to make others good among them."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far the learner is. Counts are since the log's beginning and survive restarts exactly."""

    position: dict[Partition, Offset] = {}
    """Everything before these offsets was taken."""
    examples_learned: int = 0
    feedback_learned: int = 0
    feedback_early: int = 0
    """Feedback of the learned that came before its prediction's record."""
    feedback_late: int = 0
    """Feedback to a prediction that had stopped waiting."""
    feedback_late_learned: int = 0
    """The late feedback that was learned all the same; it counts as learned, too."""
    feedback_corrected: int = 0
    feedback_retracted: int = 0
    feedback_unknown: int = 0
    """Feedback whose prediction or example was never recorded, or is too long ago."""
    feedback_delays_s: tuple[float, float, float] = (float("nan"), float("nan"), float("nan"))
    """Within which half, nine tenths and 99 of 100 answers came after their predictions."""
    implicit_learned: int = 0
    """Predictions that were learned with the label of those without an answer."""
    out_of_order: int = 0
    """Events whose own time is long before that of an event that was taken earlier."""
    feedback_waiting: int = 0
    """Feedback that came before its prediction and still may be joined."""
    feedback_duplicate: int = 0
    duplicates: int = 0
    """Examples whose id was seen before: taken, not learned again."""
    set_aside: int = 0
    """Labelled events, counted above, that the model could not take."""
    aside: AsideCounts = AsideCounts()
    """Labelled events, counted above, that were set aside."""
    doubted: tuple[str, ...] = ()
    """Sources whose events are set aside at the moment; an empty name for events without a source."""
    predictions_waiting: int = 0
    predictions_expired: int = 0
    version: Version = Version(0)
    versions_published: int = 0
    updates_held: int = 0
    rollbacks: int = 0
    loss: float = float("nan")
    """Prequential bounded loss with fading factor 0.999."""
    accuracy: float = float("nan")
    """Prequential share of right answers with the same fading, or NaN for a regression; of sets of classes, right as a
    whole."""
    error: float = float("nan")
    """Prequential mean absolute error with the same fading, or NaN for a classification."""
    hamming_loss: float = float("nan")
    """Prequential share of classes that were wrongly there or not there, with the same fading; NaN but for sets."""
    micro_f1: float = float("nan")
    """Prequential F1 over all classes of all events, with the same fading; NaN but for sets."""
    holding: bool = False
    """Whether updates are held back for the moment."""
    holding_why: str = ""
    """Why, in the gate's words."""
    hold: Hold | None = None
    """Who holds them back, where somebody does by hand."""
    forgotten: Forgotten | None = None
    """What the newest look at the anchors showed; None before the first."""
    departed: Departed | None = None
    """What the newest look at the inputs showed, beside what the base of what is served was trained on; None without a
    look, or where the base does not say."""
    moved: Moved | None = None
    """What the newest look at the answers showed, beside those before; None without one."""
    time: float = 0.0
    """Seconds since 1970 of the last step."""
    slow: SlowTier = SlowTier()
    corrections: CorrectionCounts = CorrectionCounts()
    apprentice: ApprenticeProgress | None = None
    """The service beside the system that was there before; None where its file names none."""

    @property
    def labelled(self) -> int:
        """Labelled events that were learned."""
        learned = self.examples_learned + self.feedback_learned + self.implicit_learned
        return learned - self.set_aside - self.aside.unlearned


class Consolidation(msgspec.Struct, frozen=True, kw_only=True):
    """Where a promoted base, or what a challenge has put in force, comes from, and what it cost."""

    number: int
    cause: str
    """Why it was begun: ``schedule``, ``drift``, ``request`` or ``challenge``."""
    trained: int
    """Labelled events that the base was trained on."""
    changes: tuple[str, ...] = ()
    """The settings that are new, as people read them; empty for a new base."""
    shadow_events: int
    """Labelled events for which it was in shadow."""
    evidence: float
    """That it is better than what was served, to 1."""
    seconds: float
    cpu_s: float
    trained_until: tuple[tuple[Partition, Offset], ...] = ()
    """Of each partition, the offset before which those events stand."""
    own: Interval | None = None
    """The gain on the share of the traffic that it answered before; None where it answered none."""


class ByHand(msgspec.Struct, frozen=True, kw_only=True):
    """Who ordered something, and why."""

    what: str
    """``roll_back``, ``promote`` or ``resume``."""
    by: str
    reason: str


class RaceEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a race with the system that was there before has ended."""

    what: Literal["graduated", "behind", "overtaken"]
    of: str
    reason: str
    gain: Interval
    evidence: float


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """Why a version exists, and on what evidence: written once, never changed."""

    version: Version
    parent: Version
    cause: Literal["update", "rollback", "start", "promotion", "correction", "erasure", "canary"]
    """``canary``: it answers a share of the traffic beside the version before it, and has learned the same events.
    ``erasure``: not the version of this number alone, but all since the parent were withdrawn."""
    restores: Version | None = None
    """The version that a rollback went back to."""
    ranges: tuple[Range, ...]
    """The events learned since the parent, in the order in which the learner took them."""
    events: int
    loss: Interval | None = None
    """Prequential loss of this version's line on those events."""
    parent_loss: Interval | None = None
    gain: Interval | None = None
    """From the gate: how much better than what it was compared with."""
    verdict: str
    set_aside: dict[str, int] = {}
    """Events since the parent that were not learned, by their source; an empty name for those without one."""
    held: int = 0
    """Updates held back between the parent and this version."""
    weights: str = ""
    """SHA-256 of the weights where they were materialised, else empty."""
    time: float
    """Seconds since 1970 at which it was published."""
    cpu_s: float
    """Processor time of the learner since the parent."""
    base: str = ""
    """Id of the base whose features it reads; empty without one."""
    parent_base: str = ""
    """The same of the parent."""
    consolidation: Consolidation | None = None
    """What a promotion rests on, beside the gain."""
    share: float = 0.0
    """Of the traffic that a canary answers from this version on."""
    environment: str = ""
    """Name of what it was made on (`publish.environment`): software, service file and machine."""
    hand: ByHand | None = None
    """Who ordered it, where somebody did."""
    apprentice: RaceEnd | None = None
    """The race with the system that was there before that has ended since the parent, if one has."""
    guards: tuple[Guard, ...] = ()
    """What guards have measured since the parent, of each the numbers that came the nearest to a fault; of a promotion
    and a canary, of the new base."""
    forgotten: Forgotten | None = None
    """What the newest look at the anchors since the parent showed; None where nobody looked."""
    forgetting_max: float | None = None
    """What may be lost on them; None where nobody looked."""


class LiveWeights(Protocol):
    """Where the learner leaves the newest version and servers find it."""

    def publish(self, block: Block, progress: Progress) -> None:
        """Replace what is served; a reader sees the old block or the new one, never a part of each."""
        ...

    def try_out(self, block: Block | None, share: float) -> None:
        """Have this block answer a share of the traffic, beside what is served; with None nothing answers beside it."""
        ...

    def report(self, progress: Progress) -> None:
        """Say how far the learner is, without a new version."""
        ...

    def close(self) -> None: ...


class LiveReader(Protocol):
    """A server's view of live weights; every call is cheap enough for each request."""

    def version(self) -> Version:
        """The number of the newest version, 0 before the first."""
        ...

    def block(self) -> Block | None:
        """The newest block, copied out whole, or None before the first."""
        ...

    def share(self) -> float:
        """Of the traffic, what another block answers; 0 where there is none."""
        ...

    def beside(self) -> LiveReader:
        """Reads that block and its version."""
        ...

    def progress(self) -> Progress: ...

    def silence_s(self) -> float:
        """Seconds since the learner was last heard of, which idles with a report five times a second; 0 before it ever
        was."""
        ...

    def close(self) -> None: ...


class Snapshots(Protocol):
    """Materialised versions, for good: found by number, checked by content."""

    def put(self, block: Block, state: State | None = None) -> str:
        """Write it durably and return the SHA-256 of its weights; with the model's state it can be gone back to."""
        ...

    def get(self, version: Version) -> Block:
        """Raises UnknownVersion, or SnapshotDamaged when content and manifest disagree."""
        ...

    def state(self, version: Version) -> State:
        """The state of the model that froze this version. Raises UnknownVersion where none is kept, and
        SnapshotDamaged."""
        ...

    def versions(self, *, with_state: bool = False) -> list[Version]:
        """Ascending; ``with_state`` only those that can be gone back to."""
        ...

    def bytes(self) -> int:
        """What all of them take."""
        ...

    def bases(self) -> set[str]:
        """Ids of the bases that some version here needs. Raises SnapshotDamaged where one does not say."""
        ...

    def remove(self, version: Version) -> None: ...


class Witness(Protocol):
    """Somebody beside the receipts who is told what was published. It returns at once and raises nothing: nobody who
    listens may hold learning up. What a crash keeps it from hearing is not told again."""

    def published(self, receipts: Sequence[Receipt], facts: Sequence[Fact]) -> None:
        """These were written."""
        ...

    def checkpointed(self, version: Version, state: str) -> None:
        """A checkpoint was written while this version was served; the hash of the learner's state."""
        ...

    def close(self) -> None:
        """The learner ends."""
        ...


class Receipts(Protocol):
    """Receipts and facts of a service. Writing the same receipt twice is the same as once."""

    def write(self, receipts: Sequence[Receipt], facts: Sequence[Fact]) -> None: ...

    def receipt(self, version: Version) -> Receipt:
        """The receipt that covers this version. Raises UnknownVersion."""
        ...

    def newest(self, limit: int, before: Version | None = None) -> list[Receipt]: ...

    def facts(self, limit: int, kinds: Sequence[str] = ()) -> list[Fact]: ...

    def close(self) -> None: ...
