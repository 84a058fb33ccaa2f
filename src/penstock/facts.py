"""What the platform did, as plain values: users send events, the platform records facts."""

from __future__ import annotations

import msgspec

from penstock.events import Offset, Partition, Version


class Fact(msgspec.Struct, frozen=True, kw_only=True, tag_field="fact"):
    """Something that the platform did to one service."""

    at: float
    """Seconds since 1970."""
    service: str


class Published(Fact, tag="published", frozen=True, kw_only=True):
    """A version is served from now on."""

    version: Version
    parent: Version
    events: int
    """How many events it learned beyond its parent."""


class Held(Fact, tag="held", frozen=True, kw_only=True):
    """The gate refused to expose an update; what is served stays."""

    version: Version
    """What is served meanwhile."""
    reason: str


class RolledBack(Fact, tag="rolled_back", frozen=True, kw_only=True):
    """The pointer moved back: a new version that equals an older one."""

    version: Version
    """The new entry in history."""
    withdrawn: Version
    restored: Version
    reason: str


class Ordered(Fact, tag="ordered", frozen=True, kw_only=True):
    """Somebody ordered something by hand, and it was done."""

    what: str
    """``roll_back``, ``promote``, ``hold`` or ``resume``."""
    by: str
    why: str
    told: str
    """What was done, in words."""
    version: Version
    """What is served since then."""


class OrderRefused(Fact, tag="order_refused", frozen=True, kw_only=True):
    """Somebody ordered something by hand, at this time, that could not be done, and nothing was changed."""

    what: str
    by: str
    why: str
    told: str
    """Why it could not, in words."""
    version: Version
    """What is served."""


class SetAside(Fact, tag="set_aside", frozen=True, kw_only=True):
    """Events are not learned, but stay in the log; told at the first of a source, the second, the fourth and so on."""

    source: str | None
    reason: str
    """``impossible``, ``suspicious`` or ``flood``."""
    events: int
    """So far, of this source for this reason."""
    told: str
    """The reason of the newest of them, with its numbers."""


class TakenOut(Fact, tag="taken_out", frozen=True, kw_only=True):
    """The model is without what a source had taught it since the last known good version."""

    version: Version
    """The first without."""
    source: str | None
    events: int
    reason: str


class Released(Fact, tag="released", frozen=True, kw_only=True):
    """Events that had been set aside were learned, since somebody vouched for them."""

    source: str | None
    events: int


class Dropped(Fact, tag="dropped", frozen=True, kw_only=True):
    """Events that had been set aside will never be learned: because somebody said so, or there was no more room."""

    events: int
    expired: bool


class Erased(Fact, tag="erased", frozen=True, kw_only=True):
    """Events were erased, and with them the versions that had learned from them."""

    number: int
    """Of the service's erasures; its receipt stands in the folder ``erasures``."""
    first: Version
    """The first of the versions that were withdrawn."""
    last: Version


class Corrected(Fact, tag="corrected", frozen=True, kw_only=True):
    """Labels that had been learned were corrected or taken back: the model is as if that had been known at first."""

    version: Version
    """The first that is right; where updates are held back, the one that is served meanwhile."""
    events: int
    again: int
    """Events that were learned again for it."""
    named: tuple[tuple[Partition, Offset], ...]
    """The events, or the first of them."""


class Restarted(Fact, tag="restarted", frozen=True, kw_only=True):
    """A process of the service came back and caught up."""

    process: str
    replayed_events: int


class TailCut(Fact, tag="tail_cut", frozen=True, kw_only=True):
    """A frame that was being written when the machine stopped was cut from the log; it had not been acknowledged."""

    partition: int
    bytes_cut: int


class CheckpointUnreadable(Fact, tag="checkpoint_unreadable", frozen=True, kw_only=True):
    """A checkpoint could not be read at a start; an older one was restored and more was replayed."""

    folder: str
    reason: str


class Drifted(Fact, tag="drifted", frozen=True, kw_only=True):
    """The learner's own loss rose for good: the stream is no longer what it was."""

    before: float
    """Its mean loss before, between 0 and 1."""
    after: float
    events: int
    """Labelled events since the change, as far as it can be placed."""


class InputsDrifted(Fact, tag="inputs_drifted", frozen=True, kw_only=True):
    """The inputs that come now have left what the base of what is served was trained on."""

    base: str
    feature: str
    """The one that is the furthest away."""
    index: float
    """Its population stability index."""
    events: int
    """The labelled events that were compared."""


class PredictionsDrifted(Fact, tag="predictions_drifted", frozen=True, kw_only=True):
    """What is answered is distributed otherwise than it was."""

    column: str
    """``classes``, ``chances`` of the most probable class, or ``numbers``: the one that has moved the most."""
    index: float
    """Its population stability index."""
    events: int
    """The answers that were compared with those before."""


class Consolidated(Fact, tag="consolidated", frozen=True, kw_only=True):
    """A new base was trained, or other settings have learned the log, and a candidate stands ready."""

    number: int
    base: str
    cause: str
    """Why it was begun: ``schedule``, ``drift``, ``request`` or ``challenge``."""
    trained: int
    """Labelled events that it was trained on."""
    seconds: float
    cpu_s: float
    changes: tuple[str, ...] = ()
    """The settings that are new, as people read them; empty for a new base."""


class ShadowStarted(Fact, tag="shadow_started", frozen=True, kw_only=True):
    """A candidate with a new base learns beside what is served from now on; nobody is answered from it."""

    number: int
    base: str
    version: Version
    """What is served meanwhile."""


class Widened(Fact, tag="widened", frozen=True, kw_only=True):
    """The shadow answers a share of the traffic from here on, or a larger one."""

    number: int
    base: str
    version: Version
    """What is served to the others."""
    share: float
    events: int
    """Labelled events for which it was in shadow."""
    reason: str


class Promoted(Fact, tag="promoted", frozen=True, kw_only=True):
    """The shadow took the place of what was served."""

    number: int
    base: str
    version: Version
    events: int
    """Labelled events for which it was in shadow."""
    reason: str


class GivenUp(Fact, tag="given_up", frozen=True, kw_only=True):
    """A candidate with a new base was refused, or its shadow ended without a promotion."""

    number: int
    base: str
    events: int
    reason: str


class RaceEnded(Fact, tag="race_ended", frozen=True, kw_only=True):
    """The service, as the apprentice of the system that was there before, has graduated, was behind, or was
    overtaken."""

    what: str
    """``graduated``, ``behind`` or ``overtaken``."""
    of: str
    """That system."""
    version: Version
    """What is served then."""
    events: int
    """On which the two were compared."""
    reason: str


class Throttled(Fact, tag="throttled", frozen=True, kw_only=True):
    """A budget has moved a service, or all of them, on the ladder; written down before it was done."""

    before: str
    after: str
    """The rung: ``free``, ``alert``, ..., ``stop``."""
    reason: str
    inputs: tuple[dict[str, float | str | None], ...]
    """Each limit with its period, what was spent, what was about to be, and what was forecast."""


KINDS = tuple(str(each.__struct_config__.tag) for each in Fact.__subclasses__() if each is not Throttled)
"""The names of all facts that are kept with a service's receipts; what budgets did stands in the ledger."""
