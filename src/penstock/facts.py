"""What the platform did, as plain values: users send events, the platform records facts."""

from __future__ import annotations

import msgspec

from penstock.events import Version


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
