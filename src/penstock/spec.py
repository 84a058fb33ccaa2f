"""A service as its owner describes it: frozen structs, and the reader of ``service.yaml`` that reports all faults at once."""

from __future__ import annotations

from typing import Literal, NewType

import msgspec

ClassName = NewType("ClassName", str)
"""The name of a class; integers and booleans in events are written as ``"7"``, ``"true"``."""

Task = Literal["binary", "multiclass", "regression"]
FeatureType = Literal["number", "category", "boolean", "vector", "text", "timestamp"]


class Feature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input of the model. Every feature may be missing in an event."""

    type: FeatureType
    """In the file ``number``, ``category``, ``boolean``, ``vector[n]``, ``text`` or ``timestamp``."""
    width: int | None = None
    """The n of ``vector[n]``; absent for the other types."""
    buckets: int | None = None
    """Columns that the values of a category (default 32) or the n-grams of a text (default 256) are hashed into. Two values in
    one column share a weight, so take about twice as many as there are values."""


class Label(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer that the model learns to predict."""

    name: str = "label"
    """What the answer is called in files and tables."""
    classes: tuple[ClassName, ...] = ()
    """The classes, in order. A binary task has exactly two, the second is the positive one, by default ``0`` and ``1``; a
    multiclass task starts with these and grows when another one arrives."""
    classes_max: int = 1000
    """How many classes a multiclass task may grow to: each costs memory and time in every prediction."""
    wait_s: float = 3600.0
    """Seconds (``1h`` in the file) for which feedback to a prediction is waited for; later feedback is counted as unknown."""
    waiting_max: int = 1_000_000
    """How many predictions wait for feedback at most, which bounds memory; beyond it the oldest stop waiting."""


class Learn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the fast tier learns. The defaults suit most streams."""

    half_lives: tuple[float, ...] = (16.0, 128.0, 1024.0, float("inf"))
    """Events after which what a head has seen counts half (``inf``: never forgets). The mixture finds which suit the stream."""
    random_features: int = 128
    """Random non-linear features beside the linear ones; 0 for a linear model. Time per event grows with the square."""
    step_max: int = 1024
    """Events learned in one step at most when there is a backlog; when idle a step is a single event."""
    step_interval_ms: float = 5.0
    """Milliseconds between two steps at least, which bounds how many versions a second are published."""
    checkpoint_every_s: float = 30.0
    """Seconds between checkpoints while events arrive: what a restart has to replay at most."""
    checkpoints_kept: int = 3
    """How many checkpoints stay on disk; the log is kept back to the oldest of them."""
    seed: int = 0
    """Where the random features come from; two services with the same seed and events are equal to the byte."""


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an update must not do, to be served."""

    alpha: float = 0.05
    """The chance, over the whole life of a comparison, of calling a harmless update harmful."""
    harm_margin: float = 0.0
    """Loss (between 0 and 1 an event) that a version may be worse than the last known good before it counts as harm."""
    good_after_events: int = 512
    """Labelled events that a version must have been served for, without harm, to become the last known good."""
    after_rollback: Literal["restore", "continue"] = "restore"
    """Whether learning goes on from the good version's state (``restore``) or from its own (``continue``)."""


class Serve(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How requests are answered."""

    record_predictions: Literal["behind", "durable", "never"] = "behind"
    """``behind``: answer at once and append the record behind it, so that a crash may lose the last milliseconds of records;
    ``durable``: answer when it is on disk; ``never``: no record, so feedback must carry its features as an example."""
    body_max_bytes: int = 8 * 1024 * 1024
    """The largest request body (``8MiB`` in the file)."""
    interval: float = 0.9
    """The share of outcomes that a regression's predictive interval should cover."""


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the service may use."""

    log_max_bytes: int = 10 * 1024**3
    """Disk for the event log (``10GiB`` in the file); the oldest segments that nothing needs any more go first."""
    log_max_age_s: float = 30 * 86400.0
    """Seconds (``30d`` in the file) after which a segment that nothing needs any more goes."""
    memory_max_bytes: int = 2 * 1024**3
    """Memory of events that were sent but are not on disk yet; beyond it the server answers 503."""


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A service: what comes in, what is asked, and how it learns, gates and serves."""

    name: str
    """Letters, digits, ``-`` and ``_``; part of the service's addresses and folders."""
    task: Task
    features: dict[str, Feature]
    label: Label = Label()
    learn: Learn = Learn()
    gate: Gate = Gate()
    serve: Serve = Serve()
    budget: Budget = Budget()
