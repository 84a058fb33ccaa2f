"""A service as its owner describes it, as frozen structs. The docstring under a setting says its unit and its reason.

A field whose name ends in ``_s``, ``_ms`` or ``_bytes`` is written without that ending in the file, and with its unit
in the value: ``wait_s`` is ``wait: 1h`` there.
"""

from __future__ import annotations

from typing import Annotated, Literal, NewType

import msgspec
from msgspec import Meta

ClassName = NewType("ClassName", str)
"""The name of a class; integers and booleans in events are written as ``"7"``, ``"true"``."""
ClassSet = tuple[ClassName, ...]
"""Classes that one event has together: ascending, each once."""

Task = Literal["binary", "multiclass", "multilabel", "regression", "counts"]
NUMBER_TASKS: tuple[Task, ...] = ("regression", "counts")
"""Tasks whose label is a number; those of all others are classes."""
COUNT_MAX = 2**53
"""The largest label of counts: beyond, doubles are no longer whole numbers one by one."""
FeatureType = Literal["number", "category", "boolean", "vector", "text", "timestamp"]

# What the reader of the file holds values to. Numbers are finite unless their setting says otherwise.
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
Text = Annotated[str, Meta(min_length=1, max_length=200)]
Positive = Annotated[float, Meta(gt=0)]
PositiveOrInfinite = Annotated[float, Meta(gt=0, extra={"infinite": True})]
HalfLives = Annotated[tuple[PositiveOrInfinite, ...], Meta(min_length=1, max_length=16)]
Share = Annotated[float, Meta(gt=0, lt=1)]
Members = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=500)], ...], Meta(max_length=8)]
Values = Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=500)], ...], Meta(max_length=10_000)]
Money = Annotated[float, Meta(ge=0)]
ALERTS_AT = (0.5, 0.8, 1.0)
Quantiles = Annotated[tuple[Share, ...], Meta(max_length=32)]
Stages = Annotated[tuple[Annotated[float, Meta(gt=0, le=1)], ...], Meta(max_length=16)]


class Feature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input of the model. Every feature may be missing in an event."""

    type: FeatureType
    """In the file ``number``, ``category``, ``boolean``, ``vector[n]``, ``text`` or ``timestamp``."""
    width: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    """The n of ``vector[n]``; absent for the other types."""
    buckets: Annotated[int, Meta(ge=2, le=65_536)] | None = None
    """Columns for the values of a category (default 32) or the n-grams of a text (default 256). A category's values
    take one each until there are no more; later ones, and all n-grams, share columns by their hash, and with them
    their weights: take at least as many as a category has values."""
    min: float | None = None
    """The least that a number, or an entry of a vector, can be; an event with less is set aside and not learned."""
    max: float | None = None
    """The most that it can be."""
    values: Values = ()
    """All values that a category can have; an event with another one is set aside. Empty where there may be others."""


class Label(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer that the model learns to predict."""

    name: Text = "label"
    """What the answer is called in files and tables."""
    classes: tuple[ClassName, ...] = ()
    """The classes, in order. A binary task has exactly two, the second is the positive one, by default ``0`` and ``1``;
    a multiclass or multilabel task starts with these and grows when another one arrives."""
    classes_max: Annotated[int, Meta(ge=2, le=100_000)] = 1000
    """How many classes a multiclass or multilabel task may grow to: each costs memory and time in every prediction."""
    wait_s: Positive = 3600.0
    """Seconds (``1h`` in the file) for which feedback to a prediction is waited for; later feedback is late."""
    waiting_max: Annotated[int, Meta(ge=1)] = 1_000_000
    """How many predictions wait for feedback at most, which bounds memory; beyond it the oldest stop waiting."""
    min: float | None = None
    """The least that the label of a regression or of counts can be; an event with less is set aside and not learned."""
    max: float | None = None
    """The most that it can be."""
    late: Literal["count", "learn"] = "count"
    """What becomes of late feedback: it is only counted (``count``), or learned with the prediction's features, which
    are read from the log again (``learn``)."""
    late_for_s: Positive = 7 * 86_400.0
    """Seconds (``7d`` in the file) after its window for which a prediction is known to have been made: feedback is late
    then, and unknown afterwards. With ``late: learn`` the log is kept for as long."""
    implicit: Annotated[ClassName, Meta(min_length=1, max_length=512)] | None = None
    """The class that a prediction without an answer is learned with when its window is over, such as ``"0"`` where
    only clicks are reported; an answer that comes later corrects it. None by default."""
    ids_window: Annotated[int, Meta(ge=1000, le=1_000_000)] = 100_000
    """How many of the newest ids are remembered at least, and up to twice as many: within it a repeated example is a
    duplicate, and a label can be corrected. An id takes 150 bytes of the learner's memory, for examples and for
    answered predictions each, and 110 of each server worker's: 80 MB in all by default."""


class Learn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the fast tier learns. The defaults suit most streams."""

    half_lives: HalfLives = (16.0, 128.0, 1024.0, float("inf"))
    """Events after which what a head has seen counts half (``inf``: never forgets). The mixture finds which suit
    the stream."""
    random_features: Annotated[int, Meta(ge=0, le=4096)] | Literal["auto"] = "auto"
    """Random non-linear features beside the linear ones; 0 for a linear model. Time per event grows with the square.
    ``auto``: as many as ``random_features_us`` is enough for, by a count of what learning costs with the features and
    classes of this file, so that it is the same on every machine: 128 for up to ninety inputs or so."""
    random_features_us: Annotated[float, Meta(gt=0, le=1e6)] = 60.0
    """Microseconds of processor time that random features may add to an event in steps of 32, on an ordinary core,
    where their number is ``auto``; they may always add as much as an event costs without them."""
    tree_window: Annotated[int, Meta(ge=0, le=65_536)] = 4096
    """Latest events that boosted trees are grown from, beside the heads (and from the last quarter and sixteenth of
    them): they follow rules and boundaries parallel to axes. 0 for no trees."""
    members: Members = ()
    """Models from outside that join the mixture (``penstock[members]``): classes of River or scikit-learn, called as in
    Python, such as ``river.tree.HoeffdingTreeClassifier(grace_period=50)``, and paths of ``.onnx`` files."""
    step_max: Annotated[int, Meta(ge=1, le=65_536)] = 1024
    """Events learned in one step at most when there is a backlog; when idle a step is a single event."""
    catch_up_s: Annotated[float, Meta(ge=0, le=3600)] = 0.5
    """Seconds in which a backlog may be caught up with: with more, steps are shorter, which learns more from each
    event; with none, they are as long as they may be."""
    step_interval_ms: Annotated[float, Meta(ge=0, le=60_000)] = 5.0
    """Milliseconds between two steps at least, which bounds how many versions a second are published."""
    checkpoint_every_s: Positive = 30.0
    """Seconds between checkpoints while events arrive: what a restart has to replay at most."""
    checkpoints_kept: Annotated[int, Meta(ge=1)] = 3
    """How many checkpoints stay on disk; the log is kept back to the oldest of them."""
    corrections: Literal["at_once", "next_consolidation"] = "at_once"
    """What a label that is corrected or taken back changes of what was learned. ``at_once``: the heads become what they
    would be had it been known at first; ``next_consolidation``: they stay as they are until a new base is promoted,
    whose heads are learned from the labels as they are then."""
    corrections_within: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    """Of so many of the newest labelled events corrections are made good at once, by learning about twice as many again
    at most; those of older ones reach the slow tier alone. Two copies of the model are kept for it."""
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    """Where the random features come from; two services with the same seed and events are equal to the byte."""


class Consolidate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the stable base is trained beside the stream: the slow tier, in a process of its own and at low priority."""

    when: Literal["auto", "schedule", "request", "never"] = "auto"
    """``auto``: after so many events and when the stream drifts; ``schedule``: after so many events; ``request``: when
    asked for by `penstock consolidate`. It needs the libraries of ``penstock[learn]``; without them there is none."""
    every_events: Annotated[int, Meta(ge=1)] = 20_000
    """Labelled events after which the base is trained again, though never for more than a quarter of the time."""
    base: Text = "mlp"
    """``mlp``: a multi-layer perceptron over all features; ``package.module:name``: a callable that makes a
    ``torch.nn.Module``; ``path/to/model.onnx``: a frozen network, whose features the heads read as they are;
    ``lora:folder`` or ``lora:package.module:name``: a transformer for a text, tuned by adapters
    (``penstock[lora]``)."""
    replay: Annotated[int, Meta(ge=1, le=1_000_000)] = 5000
    """Events kept for replay, alike over classes and over time."""
    max_s: Positive = 300.0
    """Seconds that one training may take; the best so far is what counts then."""
    ewc: Annotated[float, Meta(ge=0)] = 0.0
    """Weight of elastic weight consolidation, which holds weights back by how much the past depends on them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it is trained; ``auto`` takes a GPU where there is one."""


class Apprentice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another system goes on answering until this service has shown that it is better: whoever asks, or sends a label,
    says with it what that system has answered (``incumbent``)."""

    of: Text
    """What that system is called in answers, ``status`` and receipts, such as ``fraud-rules``. Under another name it is
    another system, with which the comparison begins anew."""
    margin: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Loss (between 0 and 1 an event) by which the service may be worse and need not be an apprentice any more: 0 for
    better, and more where not much worse is good enough."""
    after_events: Annotated[int, Meta(ge=1)] = 512
    """Events that are compared at least before it graduates, or is told that the other is better, however clear they
    are."""


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an update must not do, to be served."""

    alpha: Share = 0.05
    """The chance, over the whole life of a comparison, of calling a harmless update harmful."""
    harm_margin: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Loss (between 0 and 1 an event) that a version may be worse than the last known good before it counts as harm."""
    good_after_events: Annotated[int, Meta(ge=1)] = 512
    """Labelled events that a version must have been served for, without harm, to become the last known good."""
    forgetting_max: Annotated[float, Meta(ge=0, lt=1)] = 0.02
    """Accuracy (or, of a regression, loss) on any class of held-out old events that a new base may cost at most, or, of
    anchors, a fast update; there slices and regimes of the stream count as classes do."""
    anchors: Annotated[int, Meta(ge=0, le=65_536)] = 0
    """Labelled events that are kept to see what fast updates forget, such as 256, alike over classes and over time.
    Nobody learns them: they are one event in 32 at first and one in 256 later. None by default."""
    slices: Annotated[tuple[Text, ...], Meta(max_length=8)] = ()
    """Features, categories or booleans, each value of which is a slice of the stream, such as ``[country, is_new]``:
    anchors are kept of each, and what is forgotten of one is seen and refused as of a class. None by default."""
    shadow_events_max: Annotated[int, Meta(ge=1)] = 20_000
    """Labelled events after which a new base that has not shown itself better is given up, and makes room for a fresher
    one."""
    canary: Stages = (0.1, 0.5)
    """Shares of the traffic that a new base answers, one after the other, between its shadow and everywhere: ascending,
    such as ``[0.01, 0.1, 0.5, 1.0]``. What it takes to widen a share is seen on the share's own events, so that a tenth
    takes ten times as many labelled events as everywhere would, and a hundredth a hundred times. Empty for none: from
    the shadow to everywhere at once."""
    slower_max: PositiveOrInfinite = 4.0
    """So many times as long as what is served, and a millisecond longer, a new base may take for an answer in half of
    the comparisons on the same rows; ``inf`` for no bound."""
    calibration_max: Annotated[float, Meta(ge=0, le=1)] = 0.05
    """How much further than those of what is served the chances of a new base's answers may be from how often they are
    right (expected calibration error, on the same events); and by how much fast updates may be surer of themselves than
    they are right, and than the last known good version is. 1 for no bound."""
    drift_max: PositiveOrInfinite = 0.25
    """How far the inputs may be from those that a new base was trained on, if it is to be promoted: the population
    stability index of the feature that is the furthest away, of the latest labelled events; ``inf`` for no bound. What
    is served is not held to it: it is told, and a new base is trained."""
    predictions_drift: Literal["off", "tell", "train"] = "off"
    """Whether it is looked for answers that are distributed otherwise than the thousands before them, by an index above
    ``drift_max``: ``tell`` it, or ``train`` a base for it as well. Off by default, since a model that learns moves its
    answers without any drift of the stream."""
    collapse: Literal["refuse", "allow"] = "refuse"
    """What becomes of a new base, or of a fast update, that hardly ever answers with a class which labels still have,
    and what is served, or the last known good version, answers with."""
    after_rollback: Literal["restore", "continue"] = "restore"
    """Whether learning goes on from the good version's state (``restore``) or from its own (``continue``)."""
    source_share_max: Annotated[float, Meta(gt=0, le=1)] = 0.8
    """What one source may have of the latest learned events while others send, too (or three times its usual part, if
    that is more); what comes beyond is set aside. 1 for no bound."""
    apprentice: Apprentice | None = None
    """The system that answers until this service is better, such as ``{of: fraud-rules}``; None by default."""


class Serve(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How requests are answered."""

    record_predictions: Literal["behind", "durable", "never"] = "behind"
    """``behind``: answer at once and append the record behind it, so that a crash may lose the last milliseconds of
    records; ``durable``: answer when it is on disk; ``never``: no record, so feedback must come as an example with its
    features."""
    body_max_bytes: Annotated[int, Meta(ge=1024, le=2**31 - 1)] = 8 * 1024 * 1024
    """The largest request body (``8MiB`` in the file)."""
    interval: Share = 0.9
    """The share of outcomes that the predictive interval of a regression or of counts should cover."""
    quantiles: Quantiles = ()
    """Levels, ascending, such as ``[0.1, 0.5, 0.9]``: the answer of a regression or of counts says for each up to what
    number that share of outcomes should lie."""
    threshold: Share = 0.5
    """Classes of a multilabel task whose probability is above this are in the answer's set: one half makes the fewest
    mistakes class by class, less finds more of what is there and names more of what is not."""


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the service may use."""

    log_max_bytes: Annotated[int, Meta(ge=1024**2)] = 10 * 1024**3
    """Disk for the event log (``10GiB`` in the file); the oldest segments that nothing needs any more go first."""
    log_max_age_s: Positive = 30 * 86400.0
    """Seconds (``30d`` in the file) after which a segment that nothing needs any more goes."""
    past_max_bytes: Annotated[int, Meta(ge=0)] = 1024**3
    """Disk (``1GiB`` in the file) for what `penstock verify` takes beside the log to rebuild any version from the first
    event: steps, and states of candidates. It is let go of when it grows larger, or the log's first events go."""
    memory_max_bytes: Annotated[int, Meta(ge=1024**2)] = 2 * 1024**3
    """Memory of events that were sent but are not on disk yet; beyond it the server answers 503."""
    per_day: Money | None = None
    """What the service may cost on a day (in UTC), in the currency of the price list, US dollars by default. The nearer
    spending comes, the less is learned; predictions go on. None by default: what it costs is counted and told."""
    per_month: Money | None = None
    """The same for a calendar month."""
    alert_at: Annotated[tuple[Positive, ...], Meta(max_length=16)] = ALERTS_AT
    """Shares of a limit at which somebody is told, once for what is spent and once for what is forecast."""
    alert_webhook: Annotated[str, Meta(max_length=1000)] = ""
    """Where alerts are posted as JSON, such as ``https://server/path``; ``Idempotency-Key`` is the alert's id."""
    alert_file: Annotated[str, Meta(max_length=1000)] = ""
    """A file to which they are appended, one JSON a line; relative to the data folder."""
    alert_command: Annotated[str, Meta(max_length=1000)] = ""
    """A command of the shell that is given each as JSON on stdin, and its id as ``PENSTOCK_ALERT_ID``."""
    at_limit: Literal["serve", "stop"] = "serve"
    """When everything is spent: predictions go on (``serve``), or end as well (``stop``)."""


class Lineage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is told of versions, beside the receipts that are always kept."""

    openlineage: Annotated[str, Meta(max_length=1000)] = ""
    """Where OpenLineage events go (``penstock[openlineage]``): ``http://server:5000``, or ``file:/path/events.ndjson``;
    empty for nowhere. A key for the server is read from the variable ``OPENLINEAGE_API_KEY``."""
    namespace: Text = "penstock"
    """The namespace of jobs and datasets in them."""


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A service: what comes in, what is asked, and how it learns, gates and serves."""

    name: Name
    """Letters, digits, ``-`` and ``_``; part of the service's addresses and folders."""
    task: Task
    """``binary`` (two classes), ``multiclass`` (two or more, new ones may arrive), ``multilabel`` (any number of them
    together, or none; new ones may arrive), ``regression`` (a number) or ``counts`` (how many: 0, 1, 2, ...)."""
    features: Annotated[dict[Text, Feature], Meta(min_length=1)]
    """Name and type of each input, such as ``price: number`` or ``city: {type: category, buckets: 64}``."""
    subject: Text | None = None
    """The column of a table, or the feature, that says whose event it is, such as ``user_id``: `penstock erase` removes
    what is of one subject. In JSON an event says it in its field ``subject``, and in a table without this setting in a
    column of that name."""
    label: Label = Label()
    learn: Learn = Learn()
    consolidate: Consolidate = Consolidate()
    gate: Gate = Gate()
    serve: Serve = Serve()
    budget: Budget = Budget()
    lineage: Lineage = Lineage()

    @property
    def subject_column(self) -> str | None:
        """The column of a table that says whose event it is; None where another meaning has its name."""
        taken = self.subject is None and ("subject" in self.features or self.label.name == "subject")
        return None if taken else self.subject or "subject"
