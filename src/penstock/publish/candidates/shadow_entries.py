"""What the step journal says of a candidate: its adoption, its share, its end."""

from __future__ import annotations

from typing import Any

import msgspec

from penstock.gate.interface import ShadowVerdict
from penstock.learn.interface import HeldOut
from penstock.learn.ready import ReadyManifest
from penstock.learn.steps import ShadowStep, Step, Steps
from penstock.publish.candidates.follower import CaughtUp
from penstock.publish.entries import numbers_of


def adoption(caught_up: CaughtUp, refusal: ShadowVerdict | None, parent_base: str) -> ShadowStep:
    """What the journal says of a candidate that has caught up, ``refusal`` being the gate's."""
    if refusal is not None:
        return shadow_step(caught_up.manifest, "given_up", refusal, parent_base)
    what = msgspec.structs.replace(
        shadow_step(caught_up.manifest, "adopted", None, parent_base), reason=caught_up.refused
    )
    return msgspec.structs.replace(what, what="given_up") if caught_up.refused else what


def shadow_step(manifest: ReadyManifest, what: Any, verdict: ShadowVerdict | None, parent_base: str) -> ShadowStep:
    """What the journal says of a candidate to which this happens."""
    return ShadowStep(
        what=what,
        number=manifest.number,
        base=manifest.base,
        parent_base=parent_base,
        cause=manifest.reason,
        reason=verdict.reason if verdict else "",
        content=manifest.content,
        events=verdict.events if verdict else 0,
        gain=numbers_of(verdict.gain if verdict else None),
        evidence=verdict.evidence if verdict else 0.0,
        trained=manifest.events,
        trained_until=manifest.trained_until,
        seconds=manifest.seconds,
        cpu_s=manifest.cpu_s,
        share=verdict.share if verdict else 0.0,
        own=numbers_of(verdict.own if verdict else None),
        changes=manifest.changes,
    )


def manifest_of(told: ShadowStep) -> ReadyManifest:
    """As much as an entry says of a candidate that cannot be read, or was refused."""
    of: Any = "new configuration" if told.changes else "new base"
    return ReadyManifest(
        number=told.number,
        reason=told.cause,
        step=0,
        base=told.base,
        needed={},
        held_out=HeldOut(events=0, gained=0, lost=0, forgotten=0.0, of=of),
        content=told.content,
        changes=told.changes,
    )


def adopts(journal: Steps, number: int) -> bool:
    """Whether this entry put a candidate in shadow, and did not refuse it."""
    entry = next(journal.entries(number - 1), None)
    return entry is not None and entry.shadow is not None and entry.shadow.what == "adopted"


def lost(entry: Step, reason: str) -> str:
    """Why a recorded adoption cannot be repeated, and what to do."""
    assert entry.shadow is not None, "the entry adopts nobody"
    return (
        f"step {entry.number} put the candidate of consolidation {entry.shadow.number} in shadow, and it cannot be "
        f"repeated: {reason}. Restore this folder and `bases` from a copy, or the service's newest checkpoint"
    )
