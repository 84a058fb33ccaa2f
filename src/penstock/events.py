"""What users send: examples, predictions asked for and feedback, as columns; and the bytes in which the log keeps them.

Events travel through Penstock in batches of columns, never as one object an event: a `Batch` is decoded once at the
door, stored as it is and read back by the learner without parsing anything again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, NewType, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.errors import PenstockError
from penstock.replies import Incumbent, Replies, together
from penstock.spec import NUMBER_TASKS, ClassName, ClassSet, Spec

Partition = NewType("Partition", int)
"""One writer's part of a service's log, counted from 0."""
Offset = NewType("Offset", int)
"""The place of an event in its partition, counted from 0; a range ``(from, to)`` excludes ``to``."""
EventId = NewType("EventId", str)
Version = NewType("Version", int)
"""The number of a publication, counted from 1; 0 is the empty model that nothing has been published of."""

Position = dict[Partition, Offset]
"""How far into each partition of a log: the next offset to be taken."""
Range = tuple[Partition, Offset, Offset]
"""Events of one partition: from, up to but excluding."""

T = TypeVar("T")
Strings = list[str | None]
Labels = NDArray[np.float64] | list[ClassName] | list[ClassSet]
"""(n,) numbers, classes, or sets of classes."""


class Kind(IntEnum):
    """What an event is."""

    EXAMPLE = 1
    """Features with their label."""
    PREDICTION = 2
    """Features that our server answered, with the version that answered; its label may follow as feedback."""
    FEEDBACK = 3
    """The label of an earlier prediction or, under its id, another label of an earlier example; or that it has none."""


@dataclass(frozen=True, slots=True)
class Schema:
    """Which columns a service's batches have, and in which order: derived from its Spec alone."""

    numbers: tuple[str, ...]
    """Features kept in the number matrix: numbers, booleans (0 or 1) and timestamps (seconds since 1970, UTC)."""
    vectors: tuple[tuple[str, int], ...]
    strings: tuple[str, ...]
    """Categories and texts."""
    label_is_class: bool
    """Whether labels are classes or sets of them, and no numbers."""
    label_is_set: bool
    fingerprint: str

    @classmethod
    def of(cls, spec: Spec) -> Schema:
        by_storage: dict[str, list[str]] = {"numbers": [], "strings": []}
        vectors = []
        for name, feature in spec.features.items():
            if feature.width is not None:
                vectors.append((name, feature.width))
            else:
                by_storage["strings" if feature.type in ("category", "text") else "numbers"].append(name)
        label_is_class = spec.task not in NUMBER_TASKS
        label_is_set = spec.task == "multilabel"
        described = msgspec.json.encode([by_storage, vectors, "set" if label_is_set else label_is_class])
        return cls(
            numbers=tuple(by_storage["numbers"]),
            vectors=tuple(vectors),
            strings=tuple(by_storage["strings"]),
            label_is_class=label_is_class,
            label_is_set=label_is_set,
            fingerprint=hashlib.blake2b(described, digest_size=8).hexdigest(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Events of one kind as columns, all of the same length n."""

    kind: Kind
    times: NDArray[np.float64]
    """(n,) seconds since 1970: when the event happened, or when it was accepted if its sender did not say."""
    ids: Strings | None
    """(n,) the senders' own ids, or None where no event has one. Predictions and feedback always have them."""
    sources: Strings | None
    """(n,) who sent each event, or None where nobody said."""
    numbers: NDArray[np.float64]
    """(n, len(schema.numbers)); NaN is a missing value. Feedback has shape (n, 0)."""
    vectors: tuple[NDArray[np.float32], ...]
    """One (n, width) matrix a vector feature; a row of NaN is a missing value. Feedback has none."""
    strings: tuple[Strings, ...]
    """One list a category or text feature; None is a missing value. Feedback has none."""
    labels: Labels | None
    """(n,) numbers for regression and counts, sets of class names for several classes together, class names otherwise;
    None for predictions. Feedback that takes a label back has NaN or None in its place."""
    versions: NDArray[np.uint64] | None
    """(n,) the version that answered; predictions alone have it, and examples that were joined from them, with 0 among
    them for those that were not."""
    said: NDArray[np.floating] | None = None
    """(n, w) what the members of that version said, kept for the learner that made them (`learn.fast.said`); a row of
    NaN where nothing was kept. Predictions alone have it, and examples that were joined from them."""
    places: NDArray[np.int64] | None = None
    """(n, 2) partition and offset of the event in the log that has the features. Whoever reads the log sets it; it is
    not kept there."""
    origins: NDArray[np.int64] | None = None
    """(n, 2) partition and offset of the event that gave each its label; a row of -1 where that is not known. What
    comes out of the join has it; it is not kept in the log."""
    subjects: Strings | None = None
    """(n,) whose event each is, or None where nobody said. The log keeps it, and nothing is learned from it."""
    incumbents: list[Incumbent | None] | None = None
    """(n,) what the system that was there before (`gate.apprentice`) answered, or None where nobody said. Nothing is
    learned from it."""
    replies: Replies | None = None
    """What we answered, where it is kept to be held against the label beside that. Predictions alone have it, and
    examples that were joined from them."""

    def __len__(self) -> int:
        return len(self.times)

    def rows(self, keep: slice | NDArray[np.intp]) -> Batch:
        """The events at these places, in this order."""

        def pick(values: list[T]) -> list[T]:
            return values[keep] if isinstance(keep, slice) else [values[i] for i in keep]

        labels = self.labels
        return replace(
            self,
            times=self.times[keep],
            ids=None if self.ids is None else pick(self.ids),
            sources=None if self.sources is None else pick(self.sources),
            numbers=self.numbers[keep],
            vectors=tuple(v[keep] for v in self.vectors),
            strings=tuple(pick(s) for s in self.strings),
            labels=pick(labels) if isinstance(labels, list) else None if labels is None else labels[keep],  # type: ignore[misc]
            versions=None if self.versions is None else self.versions[keep],
            said=None if self.said is None else self.said[keep],
            places=None if self.places is None else self.places[keep],
            origins=None if self.origins is None else self.origins[keep],
            subjects=None if self.subjects is None else pick(self.subjects),
            incumbents=None if self.incumbents is None else pick(self.incumbents),
            replies=None if self.replies is None else self.replies.rows(keep),
        )


def class_names(labels: Labels | None) -> Iterator[ClassName]:
    """Every class that these labels name, in their order and as often; none where they are numbers, or taken back."""
    if isinstance(labels, list):
        for label in labels:
            yield from (label,) if isinstance(label, str) else label or ()


def concatenate(batches: Sequence[Batch]) -> Batch:
    """These batches of one kind and schema, one after the other."""
    first = batches[0]
    if len(batches) == 1:
        return first

    def joined(column: str) -> list[Any] | None:
        parts = [getattr(b, column) for b in batches]
        if all(part is None for part in parts):
            return None
        return [
            s for b, part in zip(batches, parts, strict=True) for s in (part if part is not None else [None] * len(b))
        ]

    labels: Labels | None
    if first.labels is None:
        labels = None
    elif isinstance(first.labels, list):
        labels = [c for b in batches for c in b.labels]  # type: ignore[union-attr, assignment]
    else:
        labels = np.concatenate([b.labels for b in batches])
    return Batch(
        kind=first.kind,
        times=np.concatenate([b.times for b in batches]),
        ids=joined("ids"),
        sources=joined("sources"),
        numbers=np.concatenate([b.numbers for b in batches]),
        vectors=tuple(np.concatenate(parts) for parts in zip(*(b.vectors for b in batches), strict=True)),
        strings=tuple([s for part in parts for s in part] for parts in zip(*(b.strings for b in batches), strict=True)),
        labels=labels,
        versions=_versions_together(batches),
        said=_said_together(batches),
        places=_places_together(batches),
        origins=_origins_together(batches),
        subjects=joined("subjects"),
        incumbents=joined("incumbents"),
        replies=together([(len(b), b.replies) for b in batches]),
    )


def _versions_together(batches: Sequence[Batch]) -> NDArray[np.uint64] | None:
    """Which versions answered, one batch after the other; 0 of events that were no predictions."""
    if all(b.versions is None for b in batches):
        return None
    parts = [np.zeros(len(b), np.uint64) if b.versions is None else b.versions for b in batches]
    return np.concatenate(parts)


def _said_together(batches: Sequence[Batch]) -> NDArray[np.floating] | None:
    """What members said, one batch after the other; shorter rows end, and rows of a batch without any are, NaN."""
    said = [b.said for b in batches if b.said is not None]
    if not said:
        return None
    together = np.full((sum(map(len, batches)), max(s.shape[1] for s in said)), np.nan, np.result_type(*said))
    at = 0
    for batch in batches:
        if batch.said is not None:
            together[at : at + len(batch), : batch.said.shape[1]] = batch.said
        at += len(batch)
    return together


def _places_together(batches: Sequence[Batch]) -> NDArray[np.int64] | None:
    if all(b.places is None for b in batches):
        return None
    return np.concatenate([np.full((len(b), 2), -1) if b.places is None else b.places for b in batches])


def placed(batch: Batch, partition: Partition, offsets: Sequence[int] | range) -> Batch:
    """The batch with the places of its events, all of one partition."""
    places = np.empty((len(batch), 2), np.int64)
    places[:, 0] = partition
    places[:, 1] = offsets
    return replace(batch, places=places)


def _origins_together(batches: Sequence[Batch]) -> NDArray[np.int64] | None:
    if all(b.origins is None for b in batches):
        return None
    return np.concatenate([np.full((len(b), 2), -1) if b.origins is None else b.origins for b in batches])


# The codec ------------------------------------------------------------------------------------------------------------
#
# A payload is: 4 bytes with the length of the head (little endian), the head (MessagePack), padding to a multiple of 8,
# then the arrays one after the other in the order times, numbers, each vector, labels, versions, said, replies. The
# numbers keep 64 bits so that ids and timestamps survive; vectors keep 32 because embeddings and pixels are no more
# exact than that.


class PayloadDamaged(PenstockError):
    """A batch of events cannot be decoded: {reason}"""


class _Head(msgspec.Struct, array_like=True):
    kind: int
    count: int
    columns: int
    widths: list[int]
    ids: Strings | None
    sources: Strings | None
    strings: list[Strings]
    classes: list[str | tuple[str, ...] | None] | None
    """A name an event, or a list of names where events have several classes together; null for a label that feedback
    takes back."""
    has_numeric_labels: bool
    has_versions: bool
    said: tuple[int, int] | None = None
    """Columns, and bytes of each number: 2, 4 or 8."""
    subjects: Strings | None = None
    incumbents: list[Incumbent | None] | None = None
    replies: tuple[int, int, tuple[str, ...]] | None = None
    """Columns, bytes of each number, and the columns' classes."""


_FLOATS: dict[int, type[np.generic]] = {2: np.float16, 4: np.float32, 8: np.float64}
_encode_head = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(_Head).decode


def encode(batch: Batch) -> list[bytes | memoryview]:
    """The batch as buffers to be written one after the other; the arrays are not copied."""
    labels = batch.labels
    head = _encode_head(
        _Head(
            kind=int(batch.kind),
            count=len(batch),
            columns=batch.numbers.shape[1],
            widths=[v.shape[1] for v in batch.vectors],
            ids=batch.ids,
            sources=batch.sources,
            strings=list(batch.strings),
            classes=cast("list[str | tuple[str, ...] | None] | None", labels if isinstance(labels, list) else None),
            has_numeric_labels=isinstance(labels, np.ndarray),
            has_versions=batch.versions is not None,
            said=None if batch.said is None else _shape_of(batch.said),
            subjects=batch.subjects,
            incumbents=batch.incumbents,
            replies=None if (told := batch.replies) is None else (*_shape_of(told.values), told.classes),
        )
    )
    arrays: list[NDArray[np.generic]] = [batch.times, batch.numbers, *batch.vectors]
    if isinstance(labels, np.ndarray):
        arrays.append(labels)
    if batch.versions is not None:
        arrays.append(batch.versions)
    if batch.said is not None:
        arrays.append(batch.said)
    if batch.replies is not None:
        arrays.append(batch.replies.values)
    padding = b"\0" * (-(4 + len(head)) % 8)
    buffers: list[bytes | memoryview] = [len(head).to_bytes(4, "little") + head + padding]
    for array in arrays:
        if array.size:
            buffers.append(np.ascontiguousarray(array).data.cast("B"))
            if array.nbytes % 8:
                buffers.append(b"\0" * (-array.nbytes % 8))
    return buffers


def _shape_of(numbers: NDArray[np.floating]) -> tuple[int, int]:
    """Columns, and bytes of each number."""
    return numbers.shape[1], numbers.itemsize


def decode(payload: bytes | memoryview) -> Batch:
    """The batch in these bytes; its arrays are views of them and must not be written to."""
    try:
        head_end = 4 + int.from_bytes(payload[:4], "little")
        head = _decode_head(payload[4:head_end])
        kind = Kind(head.kind)
    except (msgspec.MsgspecError, ValueError) as error:
        raise PayloadDamaged(reason=str(error)) from error
    at = head_end + (-head_end % 8)

    def take(dtype: type[np.generic], *shape: int) -> NDArray[np.generic]:
        nonlocal at
        count = math.prod(shape)
        try:
            array = np.frombuffer(payload, dtype, count, at) if count else np.empty(0, dtype)
            shaped = array.reshape(shape)
        except (ValueError, OverflowError) as error:
            raise PayloadDamaged(reason=str(error)) from error
        at += array.nbytes + (-array.nbytes % 8)
        return shaped

    n = head.count
    lists = [
        column
        for column in (head.ids, head.sources, head.subjects, head.classes, head.incumbents, *head.strings)
        if column is not None
    ]
    if min(n, head.columns, *head.widths) < 0 or any(len(column) != n for column in lists):
        raise PayloadDamaged(reason=f"its columns are not all of {n} events")
    times = take(np.float64, n)
    numbers = take(np.float64, n, head.columns)
    vectors = tuple(take(np.float32, n, width) for width in head.widths)
    labels: Labels | None = head.classes  # type: ignore[assignment]
    if head.has_numeric_labels:
        labels = take(np.float64, n)  # type: ignore[assignment]
    versions = take(np.uint64, n) if head.has_versions else None

    def take_floats(columns: int, size: int, what: str) -> NDArray[np.generic]:
        if size not in _FLOATS or columns < 0:
            raise PayloadDamaged(reason=f"{what} has {columns} numbers of {size} bytes")
        return take(_FLOATS[size], n, columns)

    said = None if head.said is None else take_floats(*head.said, "what members said")
    replies = None
    if head.replies is not None:
        columns, size, classes = head.replies
        if classes and len(classes) != columns:
            raise PayloadDamaged(reason=f"what was replied has {columns} numbers of {len(classes)} classes")
        values = take_floats(columns, size, "what was replied")
        replies = Replies(values, tuple(map(ClassName, classes)))  # type: ignore[arg-type]
    return Batch(
        kind=kind,
        times=times,  # type: ignore[arg-type]
        ids=head.ids,
        sources=head.sources,
        numbers=numbers,  # type: ignore[arg-type]
        vectors=vectors,  # type: ignore[arg-type]
        strings=tuple(head.strings),
        labels=labels,
        versions=versions,  # type: ignore[arg-type]
        said=said,  # type: ignore[arg-type]
        subjects=head.subjects,
        incumbents=head.incumbents,
        replies=replies,
    )
