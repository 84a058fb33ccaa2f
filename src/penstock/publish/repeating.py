"""A recorded step decided once more: which of its decisions an entry asks for, and what comes of it."""

from __future__ import annotations

import msgspec

from penstock.learn.interface import Block
from penstock.learn.quarantine import AsideStep
from penstock.learn.steps import Step, Steps
from penstock.publish.asked.hand import again
from penstock.publish.entries import Stamp
from penstock.publish.succession import Succession


def repeat(succession: Succession, recorded: Step, steps: Steps) -> tuple[Step, Block | None]:
    """Decide a recorded step again: the entry that comes of it, and the block that it publishes. Where the log and the
    software are those of the first time, the entry is the recorded one.

    Raises ReplayDiverged where the step does not begin where the one before ended, CheckpointDamaged where the
    candidate that it adopts is lost, and what reading the log raises."""
    stamp = Stamp.of(recorded)
    if recorded.erasure is not None:
        succession.account.withdraw(recorded.erasure)
    if recorded.action == "start":
        return succession.begin(stamp)
    if recorded.hand is not None:
        obeyed = succession.obey(recorded.hand.id, again(recorded.hand), lambda _: stamp)
        # With amendments what was ordered may have become impossible; without any, the entries differ then.
        return (succession.entry(stamp, verdict=obeyed), None) if isinstance(obeyed, str) else obeyed
    if recorded.heard is not None:
        return succession.hear(recorded.heard, lambda _: stamp), None
    if recorded.shadow is not None and not recorded.ranges:
        return _adopt(succession, recorded, steps), None
    if recorded.corrected is not None:
        # Of another log, there may be nothing to make good by now.
        is_due = succession.corrections.are_due
        return succession.correct(lambda _: stamp) if is_due else (succession.entry(stamp), None)
    # Of another log, other events may be set aside by now.
    aside = recorded.aside or AsideStep()
    if dropped := succession.quarantine.find(aside.dropped):
        return succession.drop(dropped, stamp), None
    if released := succession.quarantine.find(row.place for row in aside.released):
        return succession.decide(succession.learner.release(released), lambda _: stamp)
    if not recorded.ranges:
        # What there was to be done had become impossible, as the entry may say.
        return succession.entry(stamp, verdict=recorded.verdict), None
    return succession.decide(succession.learner.again(recorded.number, recorded.ranges), lambda _: stamp)


def _adopt(succession: Succession, recorded: Step, steps: Steps) -> Step:
    """The entry of an adoption or a refusal once more, which says what is served beside it."""
    assert recorded.shadow is not None, "nobody was adopted or refused"
    shadows, line = succession.shadows, succession.line
    manifest = shadows.adopt_again(recorded, steps)
    if manifest is not None:
        succession.gate.begin_shadow(manifest.held_out)
    shadows.ended(recorded, succession.progress.labelled)
    succession.time = recorded.time
    return msgspec.structs.replace(
        recorded,
        version=succession.account.version,
        log_time=succession.learner.log_time,
        base=line.base,
        shadow=msgspec.structs.replace(recorded.shadow, parent_base=line.base),
    )
