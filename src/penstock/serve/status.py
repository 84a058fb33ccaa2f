"""The status frame of a service as of now: one struct, shown by the command line, as JSON, over HTTP and on a page."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

from penstock.gate.answered import Moved
from penstock.learn.configuration import Configuration
from penstock.learn.inputs import Departed
from penstock.learn.slow.artifact import configuration_of
from penstock.publish.candidates.consolidating import Consolidating, read_consolidating
from penstock.publish.interface import Progress, SlowTier
from penstock.serve.frame import (
    AnswersState,
    BaseState,
    CanaryState,
    Disk,
    EventCounts,
    FeedbackCounts,
    InputsState,
    ModelState,
    PredictionCounts,
    QuarantineState,
    ShadowState,
    Status,
    Training,
)
from penstock.serve.health import free_bytes, health_of
from penstock.serve.retention import log_sizes
from penstock.serve.served import Service


def status_of(service: Service) -> Status:
    """The frame as of now."""
    counts, progress = service.log.counts(), service.live.progress()
    return Status(
        service=service.spec.name,
        task=service.spec.task,
        health=health_of(service),
        events=EventCounts(
            accepted=counts.examples + counts.feedback,
            learned=learned(progress),
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
            held_why=progress.hold.reason if progress.hold else progress.holding_why or None,
            held_since=progress.hold.since if progress.hold else None,
            loss=_known(progress.loss),
            accuracy=_known(progress.accuracy),
            hamming_loss=_known(progress.hamming_loss),
            micro_f1=_known(progress.micro_f1),
            error=_known(progress.error),
            forgotten=None if progress.forgotten is None else progress.forgotten.lost,
            forgotten_of=(progress.forgotten and progress.forgotten.of) or None,
            anchors=0 if progress.forgotten is None else progress.forgotten.anchors,
            updated=progress.time or None,
            left_out=service.answers.left_out,
            answers=None if progress.moved is None else _answers(progress.moved),
        ),
        base=_base(
            progress.slow,
            read_consolidating(service.folder / "consolidation"),
            progress.departed,
            service.spec.gate.drift_max,
            configuration_of(service.folder / "bases", progress.slow.base),
        ),
        position={str(partition): offset for partition, offset in sorted(progress.position.items())},
        disk=Disk(
            log_bytes=sum(log_sizes(service.folder / "log").values()),
            log_max_bytes=service.spec.budget.log_max_bytes,
            other_bytes=_other_bytes(service.folder),
            free_bytes=free_bytes(service),
        ),
        money=service.allowance(),
        apprentice=progress.apprentice,
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


def _base(
    slow: SlowTier,
    consolidating: Consolidating,
    departed: Departed | None,
    drift_max: float,
    configuration: Configuration | None,
) -> BaseState:
    is_training = consolidating.phase == "training" and consolidating.number > slow.settled
    shadow = ShadowState(
        slow.shadow, slow.shadow_since, slow.shadow_events, slow.evidence, slow.gain, list(slow.shadow_changes)
    )
    return BaseState(
        id=slow.base or None,
        version=slow.promoted or None if slow.base else None,
        promoted=slow.promoted_at or None if slow.base else None,
        configuration=None if configuration is None else configuration.words(),
        inputs=None if departed is None else _inputs(departed, drift_max),
        training=Training(consolidating.number, consolidating.reason, consolidating.since) if is_training else None,
        catching_up=slow.catching_up or None,
        shadow=shadow if slow.shadow else None,
        canary=_canary(slow) if slow.share else None,
        settled=slow.settled,
        outcome=slow.outcome,
        failure=consolidating.failure,
        failed=consolidating.reason if consolidating.failure else "",
    )


def _answers(moved: Moved) -> AnswersState:
    return AnswersState(moved.column, moved.index, moved.is_shown, moved.events)


def _inputs(departed: Departed, drift_max: float) -> InputsState:
    beyond = departed.is_shown and departed.index > drift_max
    return InputsState(departed.feature or None, departed.index, beyond, departed.events)


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


def learned(progress: Progress) -> int:
    """Events that changed the model, or repeated, corrected or took back what already had."""
    repeated = progress.duplicates + progress.feedback_duplicate
    repeated += progress.feedback_corrected + progress.feedback_retracted
    unlearned = progress.set_aside + progress.aside.unlearned
    return progress.examples_learned + progress.feedback_learned - unlearned + repeated


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
