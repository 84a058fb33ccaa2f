"""Members from outside side by side: asked, taught, sent to servers, and left out where they fail.

Learning and answering are two copies of a model. What learns is changed by every step; what answers is what was last
packed into bytes, opened again, in the learner as in servers, so that both say the same. A model is packed anew after
so many events as its size makes worth it. Since then, events are kept: a state is the packed models and those events,
which are learned again when it is loaded, and so it does not matter when it was saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from sys import intern
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Kind, Schema, concatenate, decode, encode
from penstock.learn.fast.encode import Encoder
from penstock.learn.fast.experts import Arrays
from penstock.learn.outside.interface import Adapter, Stage
from penstock.learn.outside.left_out import LEFT_OUT, left_out_of
from penstock.learn.outside.pickles import packed, unpacked
from penstock.learn.outside.surroundings import quiet, settled
from penstock.spec import Spec

Array = NDArray[np.float64]
Bytes = NDArray[np.uint8]

EVERY = 32
"""Events between two packings of small models."""
BYTES_AN_EVENT = 1024
"""A packed model costs servers and learner some 50 ns a byte when it is packed and opened: so many more bytes have to
last for one event more."""
SIZE_MAX = 4 * 1024**2
"""Bytes of a packed model at most: it travels with every version, and stands in every checkpoint."""
SPARE = 0.01
"""Probability that is spread over all classes: leaves of trees and naive Bayes are certain far too soon."""
REASON_MAX = 200

Opened = Callable[[int, Bytes], Any]


class Reading:
    """What may be read of a batch, each form made once (`interface.Read`)."""

    def __init__(self, spec: Spec, encoder: Encoder, batch: Batch) -> None:
        self._spec, self._encoder, self._batch = spec, encoder, batch

    @cached_property
    def matrix(self) -> Array:
        return np.ascontiguousarray(self._encoder.encode(self._batch)[:, : self._encoder.fixed])

    @cached_property
    def raw(self) -> NDArray[np.float32]:
        columns = np.concatenate((self._batch.numbers, *self._batch.vectors), axis=1)
        return np.nan_to_num(columns, nan=0.0).astype(np.float32)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        return rows_of(self._spec, self._batch)


def rows_of(spec: Spec, batch: Batch) -> list[dict[str, Any]]:
    """Each event's features by name; what is missing is not there."""
    schema = Schema.of(spec)
    rows: list[dict[str, Any]] = [{} for _ in range(len(batch))]
    for column, name in enumerate(schema.numbers):
        is_boolean = spec.features[name].type == "boolean"
        _fill(rows, intern(name), batch.numbers[:, column].tolist(), bool if is_boolean else float)
    for (name, width), vector in zip(schema.vectors, batch.vectors, strict=True):
        for entry in range(width):
            _fill(rows, intern(f"{name}.{entry}"), vector[:, entry].tolist(), float)
    for name, strings in zip(schema.strings, batch.strings, strict=True):
        key = intern(name)
        for row, value in zip(rows, strings, strict=True):
            if value is not None:
                # Equal texts must be one object, since bytes of a pickle tell one object from two equal ones.
                row[key] = intern(value)
    return rows


def _fill(rows: list[dict[str, Any]], name: str, values: list[float], kind: type) -> None:
    for row, value in zip(rows, values, strict=True):
        if value == value:
            row[name] = kind(value)


class Answerers:
    """The members as servers have them (`fast.experts.Answering`)."""

    def __init__(self, spec: Spec, stage: Stage, adapters: Sequence[Adapter], opened: Opened) -> None:
        self._spec = spec
        self._encoder, self._anchor = stage
        self._adapters = adapters
        self._opened = opened
        self._left_out: dict[int, str] = {}
        self._packed: dict[int, Bytes] = {}
        self._answering: dict[int, Any] = {}
        self._faults: dict[int, str] = {}
        self._begin()

    def _begin(self) -> None:
        self._left_out, self._packed, self._faults = {}, {}, {}
        self._answering = {at: a.fresh() for at, a in enumerate(self._adapters) if not a.libraries}

    @property
    def members(self) -> int:
        return len(self._adapters)

    def answer(self, batch: Batch, classes: int | None) -> Array:
        """Members that have nothing to say yet, and those left out, say that all is alike, or that the mean is 0."""
        n, reading = len(batch), Reading(self._spec, self._encoder, batch)
        if classes is None:
            found = np.zeros((n, self.members))
        else:
            found = np.full((n, classes, self.members), 1.0 / max(classes, 1))
        anchors = self._anchor.values(batch)
        for at, model in self._answering.items():
            adapter = self._adapters[at]
            try:
                with quiet():
                    said = adapter.answer(model, getattr(reading, adapter.reads), classes, anchors)
                if said is not None:
                    found[..., at] = _checked(said, n, classes)
            except Exception as error:  # a library's model may raise anything, and must not stop the others
                self._faults[at] = reason_of("answering", error)
        return found

    def frozen(self) -> dict[str, NDArray[Any]]:
        """Packed models are never changed."""
        arrays: dict[str, NDArray[Any]] = {f"outside.{at}": content for at, content in self._packed.items()}
        told = msgspec.json.encode({self._adapters[at].name: why for at, why in sorted(self._left_out.items())})
        places = np.array(sorted(self._left_out), dtype=np.int64)
        return arrays | {LEFT_OUT: np.frombuffer(told, np.uint8), "outside.left_out_places": places}

    def thaw(self, arrays: Arrays) -> None:
        self._begin()
        left_out = {int(at) for at in arrays["outside.left_out_places"]}
        told = left_out_of(arrays)
        self._left_out = {at: told[self._adapters[at].name] for at in sorted(left_out)}
        for at in range(self.members):
            if at in left_out:
                self._answering.pop(at, None)
            elif f"outside.{at}" in arrays:
                self._open(at, arrays[f"outside.{at}"])

    def _open(self, at: int, content: Bytes) -> None:
        self._packed[at] = content
        try:
            self._answering[at] = self._opened(at, content)
        except Exception as error:  # a class of the library may have changed in any way
            self._answering.pop(at, None)
            self._faults[at] = reason_of("being opened", error)


class Members(Answerers):
    """The same as the learner has them (`fast.experts.Expert`)."""

    def _begin(self) -> None:
        super()._begin()
        with settled():
            self._learning = {at: a.fresh() for at, a in enumerate(self._adapters) if a.libraries}
        self._rest()

    def _rest(self) -> None:
        self._batches: list[Batch] = []
        self._matrices: list[Array] = []
        self._targets: list[Array] = []
        self._since = 0

    def learn(self, batch: Batch, targets: NDArray[Any]) -> None:
        for at, why in sorted(self._faults.items()):
            self._leave_out(at, why)
        self._faults = {}
        if not self._learning:
            return
        reading = Reading(self._spec, self._encoder, batch)
        reads = {self._adapters[at].reads for at in self._learning}
        if "rows" in reads:
            bare = replace(batch, kind=Kind.EXAMPLE, ids=None, sources=None, labels=None, versions=None, said=None)
            self._batches.append(replace(bare, incumbents=None, replies=None))
        if "matrix" in reads:
            self._matrices.append(reading.matrix)
        self._targets.append(targets.astype(np.float64))
        self._since += len(batch)
        self._teach(reading, self._targets[-1])
        if self._since >= EVERY + sum(map(len, self._packed.values())) // BYTES_AN_EVENT:
            self._pack()

    def _teach(self, reading: Any, targets: Array) -> None:
        for at in list(self._learning):
            adapter = self._adapters[at]
            try:
                with settled():
                    adapter.learn(self._learning[at], getattr(reading, adapter.reads), targets)
            except Exception as error:
                self._leave_out(at, reason_of("learning", error))

    def _pack(self) -> None:
        """What has learned becomes what answers, and what learns further is what servers could begin from."""
        for at in list(self._learning):
            try:
                content = packed(self._learning[at])
                if len(content) > SIZE_MAX:
                    size = f"{len(content) / 1024**2:.1f} MiB are more than {SIZE_MAX // 1024**2}"
                    self._leave_out(at, f"grew too large to travel: {size}; bound its size by its arguments")
                    continue
                self._learning[at] = self._learned(at, content)
                self._open(at, content)
            except Exception as error:
                self._leave_out(at, reason_of("being packed", error))
        self._rest()

    def _learned(self, at: int, content: Bytes) -> Any:
        with quiet():
            return unpacked(content, self._adapters[at].libraries)

    def _leave_out(self, at: int, why: str) -> None:
        """From now on and for good: what failed once on an event that is in the log would fail again."""
        self._left_out[at] = why
        for held in (self._learning, self._answering, self._packed):
            held.pop(at, None)

    def save(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The events since models were packed, beside what answering needs."""
        arrays = self.frozen()
        if self._batches:
            content = b"".join(encode(concatenate(self._batches)))
            arrays["outside.events"] = np.frombuffer(content, np.uint8)
        if self._matrices:
            arrays["outside.matrix"] = np.concatenate(self._matrices)
        if self._targets:
            arrays["outside.targets"] = np.concatenate(self._targets)
        return {}, arrays

    def load(self, values: Mapping[str, Any], arrays: Arrays) -> None:
        own = {name: array.copy() for name, array in arrays.items() if name.startswith("outside.")}
        self.thaw(own)
        for at in self._left_out:
            self._learning.pop(at, None)
        for at, content in self._packed.items():
            try:
                self._learning[at] = self._learned(at, content)
            except Exception as error:
                self._faults[at] = reason_of("being opened", error)
        if "outside.targets" not in own:
            return
        reading = _Kept(self._spec, own)
        self._batches = reading.batches
        self._matrices = reading.matrices
        self._targets = [own["outside.targets"]]
        self._since = len(own["outside.targets"])
        self._teach(reading, self._targets[0])


class _Kept:
    """What was read of the events in a state."""

    def __init__(self, spec: Spec, arrays: Arrays) -> None:
        self.batches: list[Batch] = []
        self.matrices: list[Array] = []
        self.rows: list[dict[str, Any]] = []
        if "outside.events" in arrays:
            self.batches = [decode(arrays["outside.events"].tobytes())]
            self.rows = rows_of(spec, self.batches[0])
        if "outside.matrix" in arrays:
            self.matrices = [arrays["outside.matrix"]]
            self.matrix = self.matrices[0]


def _checked(said: Array, n: int, classes: int | None) -> Array:
    """What the mixture can take of an answer. Raises ValueError where it can take nothing."""
    said = np.asarray(said, np.float64)
    if said.shape != ((n,) if classes is None else (n, classes)):
        raise ValueError(f"{said.shape} answers to {n} events")
    if not np.isfinite(said).all():
        raise ValueError("an answer is no finite number")
    if classes is None:
        return said
    said = np.maximum(said, 0.0)
    sums = said.sum(axis=1, keepdims=True)
    shares = np.where(sums > 0.0, said / np.where(sums > 0.0, sums, 1.0), 1.0 / max(classes, 1))
    spread: Array = (1.0 - SPARE) * shares + SPARE / max(classes, 1)
    return spread


def reason_of(doing: str, error: Exception) -> str:
    """An error in a few words, the same in every process."""
    words = " ".join(str(error).split())
    return f"failed when {doing}: {type(error).__name__}{': ' + words if words else ''}"[:REASON_MAX]
