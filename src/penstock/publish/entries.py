"""Entries of the step journal as they are made: what does not follow from the log, and when two are the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from penstock.errors import ReplayDiverged
from penstock.events import Version
from penstock.gate.interface import Interval, ShadowVerdict, Verdict
from penstock.learn.block import digest
from penstock.learn.interface import Block
from penstock.learn.measured import NOTHING, Measured
from penstock.learn.steps import Erasure, Step, difference
from penstock.publish.evidence import Looked


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """What an entry says that does not follow from the log: its number and its times."""

    number: int
    time: float
    cpu_s: float = 0.0
    checkpoint_due: bool = False
    sealed: str = ""
    """The hash of the state before the step, where that was written as a checkpoint."""
    environment: str = ""
    """Name of what the process runs on, where that has changed."""
    erasure: Erasure | None = None
    answered: tuple[Version, ...] = ()
    """Numbers that what answers a share of the traffic with the step had before an erasure."""

    @classmethod
    def of(cls, recorded: Step) -> Stamp:
        """What a recorded entry says of this."""
        return cls(
            number=recorded.number,
            time=recorded.time,
            cpu_s=recorded.cpu_s,
            checkpoint_due=recorded.checkpoint_due,
            sealed=recorded.sealed,
            environment=recorded.environment,
            erasure=recorded.erasure,
            answered=recorded.answered,
        )

    def weights(self, block: Block | None) -> str:
        """The hash of a block that is materialised with this entry; empty where none is."""
        return digest(block) if self.checkpoint_due and block is not None else ""


Stamps = Callable[[bool], Stamp]
"""Asked once an entry's step is decided, and told whether a shadow, or a race with an incumbent, has ended with it."""


def numbers_of(gain: Interval | None) -> tuple[float, float, float, int] | None:
    """An interval as entries keep it."""
    return None if gain is None else (gain.mean, gain.low, gain.high, gain.events)


def measured_of(shadow: ShadowVerdict | None) -> Measured:
    """What an entry says was measured of a candidate alone."""
    return NOTHING if shadow is None or not shadow.guards else Measured(shadow=shadow.guards)


def measured_with(looked: Looked, verdict: Verdict | None, forgetting_max: float) -> Measured:
    """What an entry says was measured: by the looks that were taken with its step, and by the gate."""
    guards = () if verdict is None else verdict.guards
    shadow = () if verdict is None or verdict.shadow is None else verdict.shadow.guards
    if looked.inputs is not None:
        guards = (*guards, looked.inputs)
    if looked.forgotten is None:
        return Measured(guards, shadow) if guards or shadow else NOTHING
    return Measured(guards, shadow, looked.forgotten, forgetting_max)


def said_by(verdict: Verdict | None) -> dict[str, Any]:
    """What an entry says of a verdict on the update; nothing was done where there is none."""
    if verdict is None:
        return {}
    return {
        "action": verdict.action,
        "good": verdict.good,
        "probation": verdict.probation,
        "gain": numbers_of(verdict.gain),
        "verdict": verdict.reason,
    }


def as_old_as(recorded: Step, repeated: Step) -> Step:
    """The repeated entry, without what entries did not say yet when the other one was recorded."""
    is_older = recorded.measured is None and repeated.measured is not None
    return msgspec.structs.replace(repeated, measured=None) if is_older else repeated


def demand_same(recorded: Step, repeated: Step) -> None:
    """Raises ReplayDiverged, naming what differs, unless the two entries are the same to the byte, but for what entries
    did not say yet when the first was recorded."""
    repeated = as_old_as(recorded, repeated)
    if msgspec.msgpack.encode(repeated) != msgspec.msgpack.encode(recorded):
        raise ReplayDiverged(step=recorded.number, what=difference(recorded, repeated))
