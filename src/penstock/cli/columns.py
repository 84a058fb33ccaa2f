"""A table's columns as the events of a service: renamed, cast to its types, and checked row by row."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from penstock.cli.show import SEPARATOR
from penstock.errors import BadFile
from penstock.spec import NUMBER_TASKS, Feature, Spec

WANTED = {
    "number": "a number",
    "boolean": "true or false",
    "timestamp": "a time",
    "category": "text",
    "text": "text",
    "vector": "a list of numbers",
}


class Columns:
    """What the columns of one file become."""

    def __init__(
        self, file: str, spec: Spec, label: str | None, skip: Collection[str], digest: str, *, from_text: bool
    ) -> None:
        self._file, self._spec, self._skip, self._digest = file, spec, set(skip), digest
        self._asked_label = label
        self._from_text = from_text
        """Whether values are written out, as in CSV, so that an empty text is a missing one."""
        self._label = label or spec.label.name
        self._names = {"id", "source", spec.subject_column or "id"} - spec.features.keys()
        """Columns of names that are no features."""
        self._incumbent = {"incumbent"} - spec.features.keys() - {self._label}
        """That of the answers of the system that was there before."""

    def check(self, names: Sequence[str]) -> None:
        """Raises BadFile where the columns cannot be the service's."""
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise BadFile(self._file, f"column {twice[0]!r} is there twice")
        if self._asked_label is None and self._label not in names and "label" in names:
            self._label = "label"
        if self._label not in names:
            raise BadFile(self._file, f"there is no column {self._label!r} with the label; name it with --label")
        known = {*self._spec.features, self._label, "time", *self._names, *self._incumbent}
        for name in names:
            if name not in known | self._skip:
                near = difflib.get_close_matches(name, self._spec.features, 1)
                meant = f" (did you mean {near[0]!r}?)" if near else f"; leave it out with --skip {name!r}"
                raise BadFile(self._file, f"column {name!r} is no feature of {self._spec.name!r}{meant}")
        if not (set(names) - self._skip) & set(self._spec.features):
            raise BadFile(self._file, f"none of its columns is a feature of {self._spec.name!r}")

    def wanted(self, name: str) -> str:
        """What a column should hold, in words."""
        feature = self._spec.features.get(name)
        label = "classes" if self._spec.task == "multilabel" else "a number"
        if feature is not None:
            return WANTED[feature.type]
        return label if name == self._label or name in self._incumbent else "another value"

    def csv_types(self, names: Sequence[str]) -> dict[str, pa.DataType]:
        """As what the columns of a CSV file are read; times are recognised by how they are written."""
        types = {"number": pa.float64(), "boolean": pa.bool_(), "timestamp": None}
        read: dict[str, pa.DataType] = {}
        for name in names:
            if name in self._skip or name in self._names:
                read[name] = pa.string()
            elif name == self._label or name in self._incumbent:
                read[name] = pa.float64() if self._spec.task in NUMBER_TASKS else pa.string()
            elif name in self._spec.features:
                kind = types.get(self._spec.features[name].type, pa.string())
                if kind is not None:
                    read[name] = kind
        return read

    def shaped(self, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
        """The batch with the service's names and types, and with ids; ``first`` rows stand before it in the file."""
        arrays: dict[str, pa.Array] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name in self._skip:
                continue
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            if name == self._label:
                arrays[self._spec.label.name] = self._labels(column, first)
            elif name in self._incumbent:
                arrays[name] = self._incumbents(column, name, first)
            elif name in self._names:
                arrays[name] = self._strings(column, name, first)
            elif name == "time":
                arrays[name] = column
            else:
                arrays[name] = self._feature(column, name, self._spec.features[name], first)
        if "id" not in arrays and self._digest:
            arrays["id"] = pa.array([f"{self._digest}-{row}" for row in range(first + 1, first + 1 + batch.num_rows)])
        return pa.RecordBatch.from_pydict(arrays)

    def _labels(self, column: pa.Array, first: int) -> pa.Array:
        name = self._label
        column = self._answers(column, name, first)
        if column.null_count:
            self._refuse(pc.is_null(column), first, f"the label, column {name!r}, is missing")
        return column

    def _incumbents(self, column: pa.Array, name: str, first: int) -> pa.Array:
        """Answers like labels, or the chances of classes, which only Parquet can hold; some may be missing."""
        kind = column.type
        is_chances = pa.types.is_map(kind) or pa.types.is_struct(kind)
        return column if is_chances or pa.types.is_null(kind) else self._answers(column, name, first)

    def _answers(self, column: pa.Array, name: str, first: int) -> pa.Array:
        if self._spec.task == "multilabel":
            return self._sets(column, name, first)
        if self._spec.task in NUMBER_TASKS:
            return self._numbers(column, name, first)
        # True and false go as they are: the server knows that they may stand for 1 and 0.
        return column if pa.types.is_boolean(column.type) else self._strings(column, name, first)

    def _sets(self, column: pa.Array, name: str, first: int) -> pa.Array:
        """Sets of classes: lists, or texts such as ``a;b`` and ``["a", "b"]``, of which an empty one has no class."""
        kind = column.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            if pa.types.is_dictionary(kind.value_type):
                column = column.cast(pa.list_(kind.value_type.value_type))
            return column.cast(pa.list_(column.type.value_type))
        if pa.types.is_null(kind):
            return column
        parsed = [sets_of(text) for text in self._cast(column, name, pa.string(), first).to_pylist()]
        bad = pa.array([value is False for value in parsed])
        self._refuse(bad, first, f'column {name!r} should hold classes, such as a{SEPARATOR}b or ["a", "b"]')
        return pa.array(parsed, pa.list_(pa.string()))

    def _feature(self, column: pa.Array, name: str, feature: Feature, first: int) -> pa.Array:
        if pa.types.is_null(column.type):
            return column
        match feature.type:
            case "number":
                return self._numbers(column, name, first)
            case "boolean":
                return column if pa.types.is_boolean(column.type) else self._cast(column, name, pa.bool_(), first)
            case "category" | "text":
                return self._strings(column, name, first)
            case "vector":
                return self._vectors(column, name, feature.width or 0, first)
        return column

    def _numbers(self, column: pa.Array, name: str, first: int) -> pa.Array:
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.uint8())
        elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            column = self._cast(column, name, pa.float64(), first)
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
            self._refuse(pc.is_inf(column), first, f"column {name!r} is infinite, which no number here may be")
        return column

    def _strings(self, column: pa.Array, name: str, first: int) -> pa.Array:
        if pa.types.is_floating(column.type):
            # Whole numbers beside missing ones are kept as floats by many tools: 1.0 is class 1.
            whole = pc.all(pc.equal(pc.floor(column), column)).as_py()
            column = self._cast(column, name, pa.int64(), first) if whole else column
        if not pa.types.is_string(column.type):
            column = self._cast(column, name, pa.string(), first)
        return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column) if self._from_text else column

    def _vectors(self, column: pa.Array, name: str, width: int, first: int) -> pa.Array:
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            parsed = [_vector(text) for text in column.to_pylist()]
            lengths = pa.array([len(value) if isinstance(value, list) else width for value in parsed])
            self._refuse(
                pa.array([v is False for v in parsed]), first, f"column {name!r} should hold a list of numbers"
            )
            column = pa.array(parsed, pa.list_(pa.float64()))
        elif pa.types.is_fixed_size_list(column.type):
            lengths = pa.array([column.type.list_size] * len(column))
        elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            lengths = pc.list_value_length(column)
        else:
            raise BadFile(self._file, f"column {name!r} should hold lists of {width} numbers, not {column.type}")
        self._refuse(pc.not_equal(lengths, width), first, f"column {name!r} should hold lists of {width} numbers")
        return column

    def _cast(self, column: pa.Array, name: str, kind: pa.DataType, first: int) -> pa.Array:
        try:
            return column.cast(kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            row = _first(lambda place: column.slice(place, 1).cast(kind), len(column))
            value = column[row].as_py() if row < len(column) else None
            reason = f"column {name!r} should hold {self.wanted(name)}, not {value!r}"
            raise BadFile(self._file, reason, row=first + row + 1) from None

    def _refuse(self, bad: pa.Array, first: int, reason: str) -> None:
        """Raises BadFile for the first row of which this is true."""
        place = pc.index(bad, pa.scalar(True)).as_py()
        if place >= 0:
            raise BadFile(self._file, reason, row=first + place + 1)


def sets_of(text: str | None) -> list[str] | bool | None:
    """Classes as people write them in one cell, with the separator or, where a class has that in its name, as a JSON
    list; None where they are missing, False where they are none."""
    if text is None or not text.lstrip().startswith("["):
        return text if text is None else [part.strip() for part in text.split(SEPARATOR) if part.strip()]
    try:
        found: Any = json.loads(text)
    except ValueError:
        return False
    if not isinstance(found, list) or not all(isinstance(name, str | int) for name in found):
        return False
    return [name if isinstance(name, str) else json.dumps(name) for name in found]


def _vector(text: str | None) -> list[float] | bool | None:
    """A vector as people write it, such as ``[1, 2]`` or ``1 2``; None where it is missing, False where it is none."""
    if text is None or not text.strip():
        return None
    try:
        found: Any = json.loads(text) if text.lstrip().startswith("[") else [float(part) for part in text.split()]
        return [float(part) for part in found] if isinstance(found, list) else False
    except (ValueError, TypeError):
        return False


def _first(attempt: Callable[[int], object], count: int) -> int:
    """The first place at which the attempt fails, or count."""
    for place in range(count):
        try:
            attempt(place)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return place
    return count
