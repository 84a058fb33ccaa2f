"""What an entry of the step journal says of the end of a race with the system that was there before."""

from __future__ import annotations

from penstock.facts import RaceEnded
from penstock.gate.interface import Interval
from penstock.learn.steps import Step
from penstock.publish.interface import RaceEnd


def race_of(step: Step) -> RaceEnd | None:
    """As a receipt says it; None where none has ended."""
    turn = step.apprentice
    if turn is None:
        return None
    mean, low, high, events = turn.gain
    gain = Interval(mean=mean, low=low, high=high, events=events)
    return RaceEnd(what=turn.what, of=turn.of, reason=turn.reason, gain=gain, evidence=turn.evidence)


def races_told(step: Step, service: str) -> list[RaceEnded]:
    """What operators should know of it."""
    turn = step.apprentice
    if turn is None:
        return []
    return [
        RaceEnded(
            at=step.time,
            service=service,
            what=turn.what,
            of=turn.of,
            version=step.version,
            events=turn.gain[3],
            reason=turn.reason,
        )
    ]
