"""One look at the processes of a house: counters that only grow, each named after the process that it belongs to."""

from __future__ import annotations

import math
from typing import Literal, get_args

import msgspec

Role = Literal["server", "learner", "consolidator", "supervisor", "governor"]
HOUSE_ROLES: tuple[Role, ...] = ("supervisor", "governor")
"""Whose cost is overhead: no service's."""
Resource = Literal["cpu", "memory", "gpu", "storage"]
RESOURCES: tuple[Resource, ...] = get_args(Resource)


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process as of a look."""

    key: str
    """Its number and when it began, which no other process of this machine has had."""
    parent: str
    """The key of the process that waits for it; empty where that is none of ours."""
    service: str
    """Empty for what all services share."""
    role: Role
    started: float
    """Seconds since 1970."""
    cpu_s: float
    """Processor time of the process itself so far."""
    reaped_cpu_s: float = 0.0
    """The same of those of its children that have ended, with all that theirs had."""
    memory_gib: float = 0.0
    """What it holds now; of pages that several share, its part."""
    gpus: float = 0.0
    """Devices that it holds; of one that several hold, its part."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What a service has done so far; neither number ever falls while `Sample.house` stays the same."""

    predictions: float = 0.0
    learned: float = 0.0
    loss: float = math.nan
    """Of predictions lately, between 0 and 1."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was seen at one look."""

    at: float
    """Seconds since 1970."""
    elapsed: float = 0.0
    """Seconds by a clock that does not jump, and that goes on while `house` stays the same; 0 where there is none."""
    house: str
    """The key of the supervisor: counts of servers begin anew with it."""
    processes: tuple[Process, ...]
    storage_gib: dict[str, float] = {}
    """What each service keeps on disk."""
    counts: dict[str, Counts] = {}
