"""What the status frame of a service says, as plain values."""

from __future__ import annotations

from typing import Literal

import msgspec

from penstock.publish.interface import ApprenticeProgress
from penstock.publish.notices.allowance import Allowance

HealthStatus = Literal["ok", "degraded", "starting"]


class Health(msgspec.Struct, frozen=True):
    """The worst part, named."""

    status: HealthStatus
    worst: str = ""


class EventCounts(msgspec.Struct, frozen=True):
    """Examples and feedback since the log's beginning."""

    accepted: int
    """Durable in the log."""
    learned: int
    """Changed the model, or repeated, corrected or took back what already had."""
    unmatched: int
    """Feedback whose prediction is unknown, late feedback that is only counted, and events that the model could not
    take."""
    set_aside: int
    """Not learned, or learned no longer, since they are impossible or not believed."""
    out_of_order: int
    """Events, predictions included, that say of themselves that they happened more than a minute before one that came
    earlier."""
    lag: int
    """Durable events, predictions included, that the learner has not taken yet."""


class FeedbackCounts(msgspec.Struct, frozen=True):
    accepted: int
    learned: int
    unknown: int
    """No prediction or example has its id."""
    waiting: int
    """Came before its prediction's record, and still may be joined."""
    duplicate: int
    """Said nothing new."""
    early: int
    """Came before its prediction's record, and was joined."""
    late: int
    """Came after its prediction had stopped waiting."""
    late_learned: int
    """Late feedback that was learned (``label.late: learn``)."""
    corrected: int
    """Gave another label to what had one."""
    retracted: int
    """Took a label back."""
    made_good: int
    """Events whose label was corrected or taken back, of which the model is as if that had been known at first."""
    to_make_good: int
    """Events of which it will be soon."""
    too_long_ago: int
    """Corrections and retractions that reach the slow tier alone."""
    learned_again: int
    """Events that were learned again to make those good."""
    delay_p50_s: float | None
    """Seconds from a prediction within which half of the answers came, by the log's time."""
    delay_p90_s: float | None
    delay_p99_s: float | None


class QuarantineState(msgspec.Struct, frozen=True):
    """Events that were set aside instead of learned, since the log's beginning."""

    impossible: int
    suspicious: int
    flood: int
    waiting: int
    """Those that can still be released."""
    released: int
    dropped: int
    doubted: list[str]
    """Sources that are not believed at the moment; an empty name for events without one."""


class PredictionCounts(msgspec.Struct, frozen=True):
    recorded: int
    waiting: int
    """Still waited for feedback to."""
    expired: int
    """Stopped waiting without a label."""
    implicit: int
    """Learned with the label of those without an answer (``label.implicit``)."""


class AnswersState(msgspec.Struct, frozen=True):
    """How far the latest answers to labelled events are from those before."""

    column: str
    """``classes``, ``chances`` of the most probable one, or ``numbers``: the one that is the furthest away."""
    index: float
    """Its population stability index."""
    beyond: bool
    """Whether that is more than ``gate.drift_max``, and no luck."""
    events: int
    """The answers that were compared."""


class ModelState(msgspec.Struct, frozen=True):
    version: int
    published: int
    held: int
    rollbacks: int
    holding: bool
    """Whether updates are held back for the moment."""
    held_by: str | None
    """Who holds them back by hand; null where nobody does."""
    held_why: str | None
    """Their reason, or the gate's own words where it holds them back by itself."""
    held_since: float | None
    """Seconds since 1970 at which it was ordered."""
    loss: float | None
    """Prequential, in [0, 1]."""
    accuracy: float | None
    """Of a classification; where events have several classes together, the share whose whole set was right."""
    hamming_loss: float | None
    """The share of classes that were wrongly there or not there, where events have several together."""
    micro_f1: float | None
    """The harmonic mean of precision and recall over all classes, where events have several together."""
    error: float | None
    """Mean absolute error of a regression, in the label's unit."""
    forgotten: float | None
    """Accuracy (or, of numbers and sets of classes, loss) that is gone on what it knew once, by anchors that nobody
    learns: of the class, slice or regime that lost the most, as the newest look saw it."""
    forgotten_of: str | None
    """Which that is, such as ``class 'b'``, ``slice city='Rome'`` or ``regime 2``; null for all anchors together."""
    anchors: int
    """Events kept for that."""
    updated: float | None
    """Seconds since 1970 of the last step."""
    left_out: dict[str, str]
    """Members from outside (``learn.members``) that failed and are not asked any more, each with the reason."""
    answers: AnswersState | None = None
    """What the newest look at them showed; null without one (``gate.predictions_drift``)."""


class Training(msgspec.Struct, frozen=True):
    """A consolidation that is at work."""

    number: int
    reason: str
    """``schedule``, ``drift``, ``request`` or ``challenge``."""
    since: float
    """Seconds since 1970."""


class ShadowState(msgspec.Struct, frozen=True):
    """A candidate with a new base, or with other settings, that learns beside what is served."""

    number: int
    since: float
    events: int
    """Labelled events since then."""
    evidence: float
    """That it is better than what is served, to 1."""
    gain: float
    """Mean loss of what is served minus its own, an event."""
    changes: list[str]
    """The settings that are new, in words; none for a new base."""


class CanaryState(msgspec.Struct, frozen=True):
    """The same candidate while it answers a share of the traffic."""

    share: float
    version: int
    """The number under which it answers, as of its newest."""
    since: float
    """Seconds since 1970 at which it began to answer that share."""
    events: int
    """Labelled events of its share."""
    evidence: float
    """That it is not much worse on them, at this share, to 1."""
    gain: float
    """Mean loss of what is served minus its own on them, an event."""
    answered: int
    """Predictions from it, as far as servers have said."""
    failed: int
    """Times that it could not answer, or not with finite numbers, and what is served did."""


class InputsState(msgspec.Struct, frozen=True):
    """How far the inputs of the latest labelled events are from those that the base was trained on."""

    feature: str | None
    """The one that is the furthest away, of those alone of which it is no luck where there are any."""
    index: float
    """Its population stability index."""
    beyond: bool
    """Whether that is more than ``gate.drift_max``, and no luck."""
    events: int
    """The events that were compared."""


class BaseState(msgspec.Struct, frozen=True):
    """The slow tier."""

    id: str | None
    """Of the base of what is served; null without one."""
    version: int | None
    """That brought it."""
    promoted: float | None
    """Seconds since 1970."""
    configuration: dict[str, str] | None
    """The settings of ``learn`` that a challenge has put in force, by name; null where they are the service file's."""
    inputs: InputsState | None
    """Null without a base, or where it does not say what it was trained on, or before anybody looked."""
    training: Training | None
    catching_up: int | None
    """The number of the consolidation whose candidate is on its way into shadow."""
    shadow: ShadowState | None
    canary: CanaryState | None
    settled: int
    """The number of the newest consolidation whose candidate was adopted or refused."""
    outcome: str
    """What became of the newest candidate, in words."""
    failure: str
    """The last lines of a training that failed; empty when the newest did not."""
    failed: str
    """Why that had been begun, as for ``training``; empty when the newest did not fail."""


class Disk(msgspec.Struct, frozen=True):
    log_bytes: int
    """Of all partitions."""
    log_max_bytes: int
    """Beyond it segments go that nothing needs any more."""
    other_bytes: int
    """Checkpoints, snapshots, the step journal, receipts and bases; each of them has a limit of its own."""
    free_bytes: int


class Status(msgspec.Struct, frozen=True):
    """How one service is."""

    service: str
    task: str
    health: Health
    events: EventCounts
    feedback: FeedbackCounts
    predictions: PredictionCounts
    quarantine: QuarantineState
    model: ModelState
    base: BaseState
    position: dict[str, int]
    """What the learner has taken: the next offset of each partition."""
    disk: Disk
    money: Allowance
    """What was spent, what may be, and what is held back for it."""
    apprentice: ApprenticeProgress | None
    """The service beside the system that was there before; null where its file names none."""
