"""Bytes from the network become a `Batch`, or one error that names the field: JSON, NDJSON and Arrow.

The happy path is as short as it can be, because decoding is what a server mostly does: typed structs by msgspec, one
packed row of doubles an event, no look at single values. Whatever goes wrong is explained afterwards, by reading the
request a second time (`faults`). Nothing of a faulty request is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from itertools import islice
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.errors import BadEvent, Malformed, TooLarge, UnsupportedMedia
from penstock.events import Batch, Kind, Labels, Strings
from penstock.replies import Incumbent
from penstock.serve import faults, incumbents
from penstock.serve.forms import Event, Forms, class_name, class_set
from penstock.spec import Spec

ROWS_MAX = 100_000
"""Events of one request: a matrix of 100,000 x 100 doubles has 80 MB."""

_values = msgspec.structs.astuple


class Media(Enum):
    """The formats that requests come in."""

    JSON = "application/json"
    NDJSON = "application/x-ndjson"
    ARROW = "application/vnd.apache.arrow.stream"


_MEDIA = {
    "": Media.JSON,
    "application/json": Media.JSON,
    "application/x-ndjson": Media.NDJSON,
    "application/ndjson": Media.NDJSON,
    "application/jsonl": Media.NDJSON,
    "application/vnd.apache.arrow.stream": Media.ARROW,
}


def media_of(content_type: str) -> Media:
    """The format that a Content-Type header names. Raises UnsupportedMedia."""
    media = _MEDIA.get(content_type) or _MEDIA.get(content_type.partition(";")[0].strip().lower())
    if media is None:
        raise UnsupportedMedia(media=content_type)
    return media


class Decoder:
    """Decodes the requests of one service."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.forms = Forms(spec)
        self.schema = self.forms.schema
        schema = self.schema
        self._numbers = len(schema.numbers)
        self._only_numbers = not schema.vectors and not schema.strings
        self._pack = struct.Struct(f"={self._numbers}d").pack
        self._one = {kind: msgspec.json.Decoder(form) for kind, form in self.forms.by_kind.items()}
        self._many = {kind: msgspec.json.Decoder(list[form]) for kind, form in self.forms.by_kind.items()}  # type: ignore[valid-type]
        self._asked = msgspec.json.Decoder(self.forms.asked)

    def decode(self, kind: Kind, body: bytes, media: Media, now: float, source: str | None = None) -> Batch:
        """The whole request as one batch. Raises BadEvent, Malformed or TooLarge, and then nothing of it is good."""
        if media is Media.ARROW:
            return self.arrow(kind, body, now, source)
        return self.batch(kind, self.rows(kind, body, media)[0], now, source)

    def arrow(self, kind: Kind, body: bytes, now: float, source: str | None = None) -> Batch:
        """The batch in an Arrow IPC stream."""
        # PyArrow takes a tenth of a second and 45 MB to import, which a server that only speaks JSON need not spend.
        from penstock.serve import decode_arrow

        return decode_arrow.decode(self.forms, kind, body, now, source)

    def rows(self, kind: Kind, body: bytes, media: Media) -> tuple[list[Event], bool]:
        """The events of a JSON or NDJSON body, checked, and whether the body was a single event rather than a list."""
        if not body or body.isspace():
            raise Malformed("The request has no body")
        single = False
        try:
            if media is Media.NDJSON:
                events = self._one[kind].decode_lines(body)
            elif body.lstrip()[:1] == b"[":
                events = self._many[kind].decode(body)
            elif kind is Kind.PREDICTION:
                events, single = self._asked_for(body)
            else:
                events, single = [self._one[kind].decode(body)], True
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise faults.explain(self.forms, kind, body, media is Media.NDJSON, error) from None
        found = cast("list[Event]", events)
        if not 0 < len(found) <= ROWS_MAX:
            raise _wrong_count(len(found))
        if kind is Kind.FEEDBACK and not all([(event.label is None) is event.retract for event in found]):  # noqa: C419
            raise faults.explain(self.forms, kind, body, media is Media.NDJSON, ValueError("a label is missing"))
        if kind is not Kind.PREDICTION and self.forms.classes is not None:
            known = self.forms.classes
            labels = [event.label for event in found if event.label is not None]
            if not all([label in known for label in labels]):  # noqa: C419 (a list is twice as fast)
                raise faults.unknown_classes(self.forms, [event.label for event in found], single)
        if self.schema.label_is_class:
            answers = [event.incumbent for event in found]
            # Most services have none, and pay for no look at single ones.
            if answers.count(None) < len(answers) and (
                wrong := list(islice(incumbents.refused(self.forms, answers, single), faults.FAULTS_MAX))
            ):
                raise faults.together(wrong)
        return found, single

    def _asked_for(self, body: bytes) -> tuple[list[Any], bool]:
        asked: Any = self._asked.decode(body)
        if asked.features is not msgspec.UNSET and asked.instances is msgspec.UNSET:
            return [asked], True
        if asked.instances is msgspec.UNSET:
            raise msgspec.ValidationError("Object missing required field `features`")
        if asked.features is not msgspec.UNSET or asked.id is not None or asked.incumbent is not None:
            raise BadEvent("A request has either 'features' or 'instances', not both", pointer="/instances")
        for instance in asked.instances:
            instance.time = asked.time if instance.time is None else instance.time
            instance.source = asked.source if instance.source is None else instance.source
            instance.subject = asked.subject if instance.subject is None else instance.subject
        return asked.instances, False

    def batch(self, kind: Kind, events: Sequence[Event], now: float, source: str | None = None) -> Batch:
        """Checked events as columns. One without a time happened now; one without a source came from source."""
        ids: Strings | None = [event.id for event in events]
        sources: Strings | None = [event.source or source for event in events]
        subjects: Strings = [event.subject for event in events]
        numbers, vectors, strings = self._features(kind, events)
        if self.forms.subject_feature is not None and strings:
            told = strings[self.forms.subject_feature]
            subjects = [own or feature for own, feature in zip(subjects, told, strict=True)]
        return Batch(
            kind=kind,
            times=_times([event.time for event in events], now),
            ids=None if ids == [None] * len(events) else ids,
            sources=None if sources == [None] * len(events) else sources,
            numbers=numbers,
            vectors=vectors,
            strings=strings,
            labels=None if kind is Kind.PREDICTION else self._labels([event.label for event in events]),
            versions=None,
            subjects=None if subjects == [None] * len(events) else subjects,
            incumbents=self._incumbents([event.incumbent for event in events]),
        )

    def _incumbents(self, answers: list[Any]) -> list[Incumbent | None] | None:
        if answers == [None] * len(answers):
            return None
        return [incumbents.named(self.forms, answer) for answer in answers]

    def _labels(self, labels: list[Any]) -> Labels:
        if not self.schema.label_is_class:
            return np.array([np.nan if label is None else label for label in labels], dtype=np.float64)
        if self.schema.label_is_set:
            # Feedback that takes a label back has none.
            return cast("Labels", [None if label is None else class_set(label) for label in labels])
        known = self.forms.classes
        if None in labels:
            named = [None if v is None else class_name(v) if known is None else known[v] for v in labels]
            return cast("Labels", named)
        return [class_name(label) for label in labels] if known is None else [known[label] for label in labels]

    def _features(
        self, kind: Kind, events: Sequence[Event]
    ) -> tuple[NDArray[np.float64], tuple[NDArray[np.float32], ...], tuple[Strings, ...]]:
        if kind is Kind.FEEDBACK:
            return np.empty((len(events), 0)), (), ()
        count = self._numbers
        rows: list[tuple[Any, ...]] = [_values(event.features) for event in events]
        number_rows = rows if self._only_numbers else [row[:count] for row in rows]
        try:
            packed = b"".join([self._pack(*row) for row in number_rows])
        except struct.error:
            # An explicit null or an RFC 3339 time is among them; the others pay nothing for looking.
            packed = b"".join([self._pack(*map(_as_number, row)) for row in number_rows])
        numbers = np.frombuffer(packed, np.float64).reshape(len(rows), count)
        vectors = tuple(
            _vectors([row[count + i] for row in rows], width) for i, (_, width) in enumerate(self.schema.vectors)
        )
        first = count + len(vectors)
        strings = tuple([_as_text(row[first + i]) for row in rows] for i in range(len(self.schema.strings)))
        return numbers, vectors, strings


def _as_number(value: Any) -> float:
    if value is None:
        return float("nan")
    return value.timestamp() if isinstance(value, datetime) else value


def _as_text(value: Any) -> str | None:
    return value if value is None or type(value) is str else class_name(value)


def _times(times: list[float | datetime | None], now: float) -> NDArray[np.float64]:
    if times == [None] * len(times):
        return np.full(len(times), now)
    return np.array([now if time is None else _as_number(time) for time in times], dtype=np.float64)


def _vectors(values: list[list[float] | None], width: int) -> NDArray[np.float32]:
    missing = [float("nan")] * width
    return np.array([missing if value is None else value for value in values], dtype=np.float32)


def _wrong_count(count: int) -> BadEvent | TooLarge:
    return BadEvent("The request holds no event") if count == 0 else TooLarge(what="number of events", limit=ROWS_MAX)
