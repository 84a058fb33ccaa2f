"""When a base is trained again. Pure: the same progress, state and time give the same answer."""

from __future__ import annotations

from typing import Literal

import msgspec

from penstock.publish.candidates.consolidating import Consolidating
from penstock.publish.interface import Progress
from penstock.spec import Consolidate

FIRST_RETRY_S = 30.0
RETRY_MAX_S = 3600.0
"""A training that fails is tried again after twice as long each time, and never in a hot loop."""
REST = 3.0
"""Times its own duration for which the next training is put off, unless somebody asks: where events come fast, a base
would otherwise be trained all the time."""
AFTER_DRIFT_SHARE = 0.05
AFTER_DRIFT_MAX = 1000
"""Labelled events of the changed stream that are waited for before a base is trained on it: this share of
``every_events``, and never more than so many."""

Reason = Literal["", "challenge", "request", "schedule", "drift"]


def why_now(
    settings: Consolidate,
    progress: Progress,
    state: Consolidating,
    *,
    asked: bool,
    challenged: bool = False,
    now: float,
    rest: float = REST,
) -> Reason:
    """Why a base is to be trained now, or other settings to be tried; or empty. A candidate that is on its way or in
    shadow is waited for."""
    slow, labelled = progress.slow, progress.labelled
    if progress.version == 0 or slow.shadow or slow.catching_up:
        return ""
    if challenged:
        return "challenge"
    if settings.when == "never":
        return ""
    if asked:
        return "request"
    resting = state.phase == "waiting" and now < state.since + rest * state.took_s
    if settings.when == "request" or resting or now < state.retry_at:
        return ""
    if labelled - slow.settled_events >= settings.every_events:
        return "schedule"
    enough = min(AFTER_DRIFT_MAX, AFTER_DRIFT_SHARE * settings.every_events)
    changed = slow.drifted_events > slow.settled_events and labelled - slow.drifted_events >= enough
    return "drift" if settings.when == "auto" and changed else ""


def after_failure(state: Consolidating, failure: str, now: float) -> Consolidating:
    """The state when a training has failed: it is tried again ever more seldom."""
    failures = state.failures + 1
    delay_s = min(RETRY_MAX_S, FIRST_RETRY_S * 2.0 ** min(failures - 1, 16))
    return msgspec.structs.replace(
        state, phase="failed", since=now, failures=failures, failure=failure, retry_at=now + delay_s
    )
