"""The status frame of a service: one struct, shown by the command line, as JSON, over HTTP and on a page."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from penstock.metrics import Reading
from penstock.publish.allowance import HEIGHT, Allowance
from penstock.publish.consolidating import Consolidating, read_consolidating
from penstock.publish.interface import Progress, SlowTier
from penstock.publish.last_words import heard
from penstock.serve.retention import log_sizes
from penstock.serve.served import BEHIND_AFTER_S, SILENT_AFTER_S, STALLED_AFTER_S, Service

DISK_LOW_BYTES = 32 * 1024**2
"""Less is soon too little for a segment of the log and a checkpoint; small writes may still succeed by chance."""

HELD_BACK = {
    "learn_less": "less is learned",
    "pause_learning": "learning is paused",
    "serving_floor": "learning is paused, one worker serves",
    "stop": "nothing is answered",
}
"""What a rung of the budget's ladder means for who asks."""

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
    """Their reason."""
    held_since: float | None
    """Seconds since 1970."""
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
    learns: of the class that lost the most, as the newest look saw it."""
    forgotten_class: str | None
    """That class; null for all anchors together."""
    anchors: int
    """Events kept for that."""
    updated: float | None
    """Seconds since 1970 of the last step."""
    left_out: dict[str, str]
    """Members from outside (``learn.members``) that failed and are not asked any more, each with the reason."""


class Training(msgspec.Struct, frozen=True):
    """A consolidation that is at work."""

    number: int
    reason: str
    """``schedule``, ``drift`` or ``request``."""
    since: float
    """Seconds since 1970."""


class ShadowState(msgspec.Struct, frozen=True):
    """A candidate with a new base that learns beside what is served."""

    number: int
    since: float
    events: int
    """Labelled events since then."""
    evidence: float
    """That it is better than what is served, to 1."""
    gain: float
    """Mean loss of what is served minus its own, an event."""


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


class BaseState(msgspec.Struct, frozen=True):
    """The slow tier."""

    id: str | None
    """Of the base of what is served; null without one."""
    version: int | None
    """That brought it."""
    promoted: float | None
    """Seconds since 1970."""
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


def status_of(service: Service) -> Status:
    """The frame as of now."""
    counts, progress = service.log.counts(), service.live.progress()
    return Status(
        service=service.spec.name,
        task=service.spec.task,
        health=health_of(service),
        events=EventCounts(
            accepted=counts.examples + counts.feedback,
            learned=_learned(progress),
            unmatched=progress.feedback_unknown
            + progress.feedback_late
            - progress.feedback_late_learned
            + progress.set_aside,
            set_aside=progress.aside.unlearned,
            out_of_order=progress.out_of_order,
            lag=service.lag(),
        ),
        feedback=_feedback(counts.feedback, progress),
        predictions=PredictionCounts(
            recorded=counts.predictions,
            waiting=progress.predictions_waiting,
            expired=progress.predictions_expired,
            implicit=progress.implicit_learned,
        ),
        quarantine=QuarantineState(
            impossible=progress.aside.impossible,
            suspicious=progress.aside.suspicious,
            flood=progress.aside.flood,
            waiting=progress.aside.waiting,
            released=progress.aside.released,
            dropped=progress.aside.dropped + progress.aside.expired,
            doubted=list(progress.doubted),
        ),
        model=ModelState(
            version=progress.version,
            published=progress.versions_published,
            held=progress.updates_held,
            rollbacks=progress.rollbacks,
            holding=progress.holding or progress.hold is not None,
            held_by=progress.hold.by if progress.hold else None,
            held_why=progress.hold.reason if progress.hold else None,
            held_since=progress.hold.since if progress.hold else None,
            loss=_known(progress.loss),
            accuracy=_known(progress.accuracy),
            hamming_loss=_known(progress.hamming_loss),
            micro_f1=_known(progress.micro_f1),
            error=_known(progress.error),
            forgotten=None if progress.forgotten is None else progress.forgotten.lost,
            forgotten_class=(progress.forgotten and progress.forgotten.of_class) or None,
            anchors=0 if progress.forgotten is None else progress.forgotten.anchors,
            updated=progress.time or None,
            left_out=service.answers.left_out,
        ),
        base=_base(progress.slow, read_consolidating(service.folder / "consolidation")),
        position={str(partition): offset for partition, offset in sorted(progress.position.items())},
        disk=Disk(
            log_bytes=sum(log_sizes(service.folder / "log").values()),
            log_max_bytes=service.spec.budget.log_max_bytes,
            other_bytes=_other_bytes(service.folder),
            free_bytes=_free_bytes(service),
        ),
        money=service.allowance(),
    )


def _feedback(accepted: int, progress: Progress) -> FeedbackCounts:
    p50, p90, p99 = (_known(delay_s) for delay_s in progress.feedback_delays_s)
    return FeedbackCounts(
        accepted=accepted,
        learned=progress.feedback_learned,
        unknown=progress.feedback_unknown,
        waiting=progress.feedback_waiting,
        duplicate=progress.feedback_duplicate,
        early=progress.feedback_early,
        late=progress.feedback_late,
        late_learned=progress.feedback_late_learned,
        corrected=progress.feedback_corrected,
        retracted=progress.feedback_retracted,
        made_good=progress.corrections.applied,
        to_make_good=progress.corrections.waiting,
        too_long_ago=progress.corrections.beyond,
        learned_again=progress.corrections.again,
        delay_p50_s=p50,
        delay_p90_s=p90,
        delay_p99_s=p99,
    )


def _base(slow: SlowTier, consolidating: Consolidating) -> BaseState:
    is_training = consolidating.phase == "training" and consolidating.number > slow.settled
    shadow = ShadowState(slow.shadow, slow.shadow_since, slow.shadow_events, slow.evidence, slow.gain)
    return BaseState(
        id=slow.base or None,
        version=slow.promoted or None if slow.base else None,
        promoted=slow.promoted_at or None if slow.base else None,
        training=Training(consolidating.number, consolidating.reason, consolidating.since) if is_training else None,
        catching_up=slow.catching_up or None,
        shadow=shadow if slow.shadow else None,
        canary=_canary(slow) if slow.share else None,
        settled=slow.settled,
        outcome=slow.outcome,
        failure=consolidating.failure,
    )


def _canary(slow: SlowTier) -> CanaryState:
    counts = slow.share_counts
    return CanaryState(
        share=slow.share,
        version=slow.share_version,
        since=slow.share_since,
        events=slow.share_events,
        evidence=slow.share_evidence,
        gain=slow.share_gain,
        answered=counts.answered,
        failed=counts.failed + counts.not_finite,
    )


def health_of(service: Service) -> Health:
    """Whether requests succeed, and if not, or not fully, what the worst part is."""
    failure = service.intake.failure
    silence_s = service.live.silence_s()
    # Before a learner was ever heard of, no word of one is too old.
    last_words = heard(service.folder, silence_s or math.inf)
    if last_words:
        return Health("degraded", f"learner: it stopped: {last_words}")
    if service.live.version() == 0:
        return Health("starting", "learner: it has not published a version yet")
    if failure is not None:
        return Health("degraded", f"event log: {failure}")
    pace, allowance = service.look(), service.allowance.latest
    is_held_back = allowance.reaches("learn_less")
    if pace.stalled_s > STALLED_AFTER_S and not is_held_back:
        return Health("degraded", f"learner: {service.lag()} events wait, none was taken for {pace.stalled_s:.0f} s")
    if pace.behind_s > BEHIND_AFTER_S and not is_held_back:
        return Health("degraded", f"learner: {service.lag()} events wait, some for {pace.behind_s:.0f} s and more")
    if silence_s > SILENT_AFTER_S:
        return Health("degraded", f"learner: nothing was heard of it for {silence_s:.0f} s")
    if (free := _free_bytes(service)) < DISK_LOW_BYTES:
        return Health("degraded", f"disk: {free} bytes are free for the log and what is learned")
    if service.thaw.fault:
        return Health("degraded", f"base: {service.thaw.fault}; an earlier version answers")
    if is_held_back:
        return Health("degraded", f"budget: {HELD_BACK[allowance.rung]}: {allowance.why}")
    if (hold := service.live.progress().hold) is not None:
        why = f": {hold.reason}" if hold.reason else ""
        return Health("degraded", f"gate: updates are held back by hand, by {hold.by}{why}")
    if service.live.progress().holding:
        return Health("degraded", "gate: updates are held back, an earlier version answers")
    return Health("ok")


def _free_bytes(service: Service) -> int:
    log = service.folder / "log"
    return shutil.disk_usage(log if log.is_dir() else "/").free


def is_ready(service: Service) -> bool:
    """Whether examples and predictions are answered."""
    cannot_answer = service.thaw.fault and not service.thaw.has_made
    return service.live.version() > 0 and service.intake.failure is None and not cannot_answer


FEEDBACK_READINGS = (
    ("learned", "Feedback joined to its prediction", "feedback_learned", True),
    ("early", "Joined feedback that came before its prediction's record", "feedback_early", True),
    ("waiting", "Feedback that waits for its prediction's record", "feedback_waiting", False),
    ("late", "Feedback to a prediction that had stopped waiting", "feedback_late", True),
    ("corrected", "Feedback that gave another label", "feedback_corrected", True),
    ("retracted", "Feedback that took a label back", "feedback_retracted", True),
    ("duplicate", "Feedback that says nothing new", "feedback_duplicate", True),
    ("unknown", "Feedback to no prediction or example", "feedback_unknown", True),
)
"""Names, explanations, fields of the progress, and whether they only grow."""
CORRECTION_READINGS = (
    ("made_good", "Events of which the model is as if their label had been known at first", "applied", True),
    ("to_make_good", "Events of which it will be", "waiting", False),
    ("too_long_ago", "Corrections and retractions that reach the slow tier alone", "beyond", True),
    ("aside", "Corrections and retractions of events that are set aside", "aside", True),
    ("learned_again", "Events that were learned again to make others good", "again", True),
)
"""The same of the progress's corrections."""


def readings(services: Iterable[Service]) -> list[Reading]:
    """What is read off logs and learners when metrics are scraped."""
    seen = [(service.spec.name, service.log.counts(), service.live.progress(), service) for service in services]

    def reading(name: str, explanation: str, values: dict[str, float], grows: bool = False) -> Reading:
        return Reading(f"penstock_{name}", explanation, values, grows=grows)

    return [
        reading("log_examples", "Examples durable", {n: c.examples for n, c, _, _ in seen}, True),
        reading("log_feedback", "Feedback durable", {n: c.feedback for n, c, _, _ in seen}, True),
        reading("log_predictions", "Predictions durable", {n: c.predictions for n, c, _, _ in seen}, True),
        reading("events_learned", "Events that changed the model", {n: _learned(p) for n, _, p, _ in seen}, True),
        reading("impossible", "Events set aside as impossible", {n: p.aside.impossible for n, _, p, _ in seen}, True),
        reading("suspicious", "Events set aside as not believed", {n: p.aside.suspicious for n, _, p, _ in seen}, True),
        reading("flood", "Events set aside as too many of one source", {n: p.aside.flood for n, _, p, _ in seen}, True),
        reading("quarantine_events", "Events that can be released", {n: p.aside.waiting for n, _, p, _ in seen}),
        *(
            reading(f"feedback_{name}", words, {n: getattr(p, field) for n, _, p, _ in seen}, grows)
            for name, words, field, grows in FEEDBACK_READINGS
        ),
        *(
            reading(f"corrections_{name}", words, {n: getattr(p.corrections, field) for n, _, p, _ in seen}, grows)
            for name, words, field, grows in CORRECTION_READINGS
        ),
        *(
            reading(
                f"feedback_delay_{name}_seconds",
                "Within which that share of answers came",
                {n: p.feedback_delays_s[place] for n, _, p, _ in seen},
            )
            for place, name in enumerate(("p50", "p90", "p99"))
        ),
        reading("predictions_waiting", "Predictions that wait", {n: p.predictions_waiting for n, _, p, _ in seen}),
        reading("predictions_expired", "Without a label", {n: p.predictions_expired for n, _, p, _ in seen}, True),
        reading("predictions_implicit", "Labelled by default", {n: p.implicit_learned for n, _, p, _ in seen}, True),
        reading("events_out_of_order", "By their own time", {n: p.out_of_order for n, _, p, _ in seen}, True),
        reading("lag_events", "Durable events not taken yet", {n: s.lag() for n, _, _, s in seen}),
        reading("version", "The version that answers", {n: p.version for n, _, p, _ in seen}),
        reading("versions_published", "Versions published", {n: p.versions_published for n, _, p, _ in seen}, True),
        reading("updates_held", "Updates that the gate held back", {n: p.updates_held for n, _, p, _ in seen}, True),
        reading("rollbacks", "Returns to the last good version", {n: p.rollbacks for n, _, p, _ in seen}, True),
        reading(
            "held_by_hand", "Whether somebody holds updates back", {n: float(p.hold is not None) for n, _, p, _ in seen}
        ),
        reading("loss", "Prequential loss in [0, 1]", {n: p.loss for n, _, p, _ in seen}),
        reading("forgotten", "Lost on anchors, of the worst class", {n: _lost(p) for n, _, p, _ in seen}),
        reading("canary_share", "Of the traffic, what a new base answers", {n: p.slow.share for n, _, p, _ in seen}),
        reading(
            "canary_answers", "Predictions from a new base", {n: p.slow.share_counts.answered for n, _, p, _ in seen}
        ),
        *_money_readings({n: s.allowance() for n, _, _, s in seen}),
        reading("ready", "Whether it answers", {n: float(is_ready(s)) for n, _, _, s in seen}),
    ]


def _money_readings(allowances: Mapping[str, Allowance]) -> list[Reading]:
    """What services cost, in the currency of the price list; a limit that there is not is none."""

    def of(period: Literal["day", "month"], field: str) -> dict[str, float]:
        found = {name: getattr(allowance, period) for name, allowance in allowances.items()}
        values = {name: getattr(limit, field) for name, limit in found.items() if limit is not None}
        return {name: value for name, value in values.items() if value is not None}

    periods: tuple[Literal["day", "month"], ...] = ("day", "month")
    return [
        *(Reading(f"penstock_cost_{period}", f"Spent this {period} (UTC)", of(period, "spent")) for period in periods),
        *(
            Reading(f"penstock_cost_{period}_limit", f"What may be spent this {period}", of(period, "limit"))
            for period in periods
        ),
        *(
            Reading(f"penstock_cost_{period}_forecast", f"At the end of this {period}", of(period, "forecast"))
            for period in periods
        ),
        Reading("penstock_cost_per_hour", "At present", {n: a.per_hour for n, a in allowances.items()}),
        Reading(
            "penstock_budget_rung",
            "0 free, 1 alert, 2 and 3 consolidation slowed and paused, 4 and 5 learning less and paused, "
            "6 serving floor, 7 stopped",
            {n: float(HEIGHT[a.rung]) for n, a in allowances.items()},
        ),
    ]


def _learned(progress: Progress) -> int:
    repeated = progress.duplicates + progress.feedback_duplicate
    repeated += progress.feedback_corrected + progress.feedback_retracted
    unlearned = progress.set_aside + progress.aside.unlearned
    return progress.examples_learned + progress.feedback_learned - unlearned + repeated


def _lost(progress: Progress) -> float:
    return math.nan if progress.forgotten is None else progress.forgotten.lost


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _other_bytes(folder: Path) -> int:
    """What the service keeps beside its log."""
    sizes = 0
    for parent, folders, names in os.walk(folder):
        if Path(parent) == folder and "log" in folders:
            folders.remove("log")
        for name in names:
            # Whatever goes in between needs no room.
            with contextlib.suppress(FileNotFoundError):
                sizes += os.stat(os.path.join(parent, name)).st_size
    return sizes
