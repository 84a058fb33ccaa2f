"""Whether requests to a service succeed, and if not, or not fully, what the worst part is."""

from __future__ import annotations

import math
import shutil

from penstock.publish.notices.last_words import heard
from penstock.serve.frame import Health
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
    if (free := free_bytes(service)) < DISK_LOW_BYTES:
        return Health("degraded", f"disk: {free} bytes are free for the log and what is learned")
    if service.thaw.fault:
        return Health("degraded", f"base: {service.thaw.fault}; an earlier version answers")
    if is_held_back:
        return Health("degraded", f"budget: {HELD_BACK[allowance.rung]}: {allowance.why}")
    if (hold := service.live.progress().hold) is not None:
        why = f": {hold.reason}" if hold.reason else ""
        return Health("degraded", f"gate: updates are held back by hand, by {hold.by}{why}")
    if service.live.progress().holding:
        why = service.live.progress().holding_why.rstrip(".")
        return Health("degraded", f"gate: updates are held back, an earlier version answers{': ' * bool(why)}{why}")
    if (beside := service.live.progress().apprentice) is not None and beside.is_apprentice and beside.graduated:
        return Health("degraded", f"gate: {beside.of} is better again, and answers say so")
    return Health("ok")


def is_ready(service: Service) -> bool:
    """Whether examples and predictions are answered."""
    cannot_answer = service.thaw.fault and not service.thaw.has_made
    return service.live.version() > 0 and service.intake.failure is None and not cannot_answer


def free_bytes(service: Service) -> int:
    """Of the disk that the service's log is on."""
    log = service.folder / "log"
    return shutil.disk_usage(log if log.is_dir() else "/").free
