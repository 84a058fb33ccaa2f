"""Arrow IPC streams as batches: one column a feature, copied into the number matrix with no Python object a number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from penstock.errors import BadEvent, Malformed, TooLarge
from penstock.events import Batch, Kind, Labels, Strings
from penstock.replies import Incumbent
from penstock.serve import faults
from penstock.serve.arrow_kinds import is_class, is_number, is_text
from penstock.serve.arrow_size import unpacked_bytes
from penstock.serve.forms import TEXT_MAX, Forms, class_name, class_set
from penstock.serve.incumbents_arrow import incumbents_in
from penstock.spec import COUNT_MAX, ClassName, ClassSet

ROWS_MAX = 100_000
"""Events of one request, as for JSON."""

UNPACKED_FACTOR = 16
"""How many times ``serve.body_max_bytes`` a stream may hold once compression and dictionaries are undone: what is
acknowledged is written in full."""

_END = b"\xff\xff\xff\xff\0\0\0\0"
"""What every writer closes a stream with. The format allows to leave it out, but then nobody could tell a whole stream
from one that was cut between two batches, and half of a request would be accepted."""


def decode(forms: Forms, kind: Kind, body: bytes, now: float, source: str | None) -> Batch:
    """The stream as one batch. Raises BadEvent, Malformed or TooLarge; then nothing of it is good."""
    if not body:
        raise Malformed("The request has no body")
    limit = UNPACKED_FACTOR * forms.spec.serve.body_max_bytes
    table = _read(body, limit)
    if table.num_rows == 0:
        raise BadEvent("The request holds no event")
    try:
        if sum(map(_decoded_bytes, table.columns)) > limit:
            raise TooLarge(what="unpacked Arrow stream", limit=f"{limit} bytes")
        return _Columns(forms, table).batch(kind, now, source)
    except UnicodeDecodeError as error:
        raise Malformed(f"The Arrow stream holds text that is not valid UTF-8: {error.reason}") from None
    except (pa.ArrowException, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise BadEvent(f"The Arrow stream holds a value that cannot be converted: {reason}") from None


def _read(body: bytes, limit: int) -> pa.RecordBatch:
    if not body.endswith(_END):
        raise Malformed("The Arrow stream is cut off: it does not end with the end-of-stream mark")
    try:
        if unpacked_bytes(body) > limit:
            raise TooLarge(what="unpacked Arrow stream", limit=f"{limit} bytes")
        batches = []
        rows = 0
        with pa.ipc.open_stream(body) as stream:
            schema = stream.schema
            for batch in stream:
                # Offsets and lengths in the bytes are the sender's; unchecked, they would be read out of bounds.
                batch.validate(full=True)
                rows += batch.num_rows
                if rows > ROWS_MAX:
                    raise TooLarge(what="number of events", limit=ROWS_MAX)
                batches.append(batch)
        if len(batches) == 1:
            return batches[0]
        return pa.Table.from_batches(batches, schema).combine_chunks().to_batches()[0] if rows else _empty(schema)
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        raise Malformed(f"This is not a readable Arrow IPC stream: {reason}") from None


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


class _Columns:
    """The columns of one request, each looked up by name and checked by type."""

    def __init__(self, forms: Forms, table: pa.RecordBatch) -> None:
        self.forms = forms
        self.rows: int = table.num_rows
        names: list[str] = table.schema.names
        self.columns: dict[str, Any] = dict(zip(names, table.columns, strict=True))
        if len(self.columns) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise BadEvent(f"Column {twice!r} is there twice", pointer=f"/{faults.escaped(twice)}")

    def batch(self, kind: Kind, now: float, source: str | None) -> Batch:
        forms, schema = self.forms, self.forms.schema
        label_column = self._label_column()
        self._refuse_unknown(kind, label_column)
        has_features = kind is not Kind.FEEDBACK
        labels: Labels | None = None
        if kind is not Kind.PREDICTION:
            labels = self._labels(label_column, self._retracted(kind, label_column))
        ids = self._names("id", needed=kind is Kind.FEEDBACK)
        sources = self._names("source", needed=False)
        if source is not None:
            sources = [source] * self.rows if sources is None else [s or source for s in sources]
        strings = tuple(self._strings(name, forms) for name in schema.strings) if has_features else ()
        subjects = None if forms.spec.subject_column is None else self._names(forms.spec.subject_column, needed=False)
        if forms.subject_feature is not None and strings:
            subjects = strings[forms.subject_feature]
        return Batch(
            kind=kind,
            times=self._times(now),
            ids=ids,
            sources=sources,
            numbers=self._matrix(schema.numbers if has_features else ()),
            vectors=tuple(self._vector(name, width) for name, width in schema.vectors) if has_features else (),
            strings=strings,
            labels=labels,
            versions=None,
            subjects=subjects,
            incumbents=self._incumbents(None if kind is Kind.PREDICTION else label_column),
        )

    def _label_column(self) -> str:
        name = self.forms.spec.label.name
        return name if name in self.columns or name == "label" else "label"

    def _refuse_unknown(self, kind: Kind, label_column: str) -> None:
        known = {"id", "time", "source", "incumbent", self.forms.spec.subject_column}
        if kind is not Kind.PREDICTION:
            known.add(label_column)
        known |= {"retract"} if kind is Kind.FEEDBACK else set()
        if kind is not Kind.FEEDBACK:
            known |= self.forms.spec.features.keys()
        for name in self.columns:
            if name not in known:
                raise BadEvent(f"There is no feature or field {name!r} here", pointer=f"/{faults.escaped(name)}")

    def _field(self, name: str) -> Any:
        """A column that is no feature, or None. A feature of the same name has the column to itself."""
        column = None if name in self.forms.spec.features else self.columns.get(name)
        return None if column is None or pa.types.is_null(column.type) else column

    # Features ---------------------------------------------------------------------------------------------------------

    def _matrix(self, names: tuple[str, ...]) -> NDArray[np.float64]:
        by_column = np.empty((len(names), self.rows))
        nulls = 0
        for place, name in enumerate(names):
            column = self.columns.get(name)
            if column is None or pa.types.is_null(column.type):
                by_column[place] = np.nan
                nulls += self.rows
                continue
            nulls += column.null_count
            by_column[place] = self._numbers(column, name, self.forms.spec.features[name].type)
        if np.count_nonzero(np.isfinite(by_column)) != by_column.size - nulls:
            self._refuse_not_finite(names)
        return np.ascontiguousarray(by_column.T)

    def _numbers(self, column: Any, name: str, feature_type: str) -> NDArray[Any]:
        """A column as numbers, nulls as NaN."""
        kind = column.type
        if feature_type == "boolean":
            if not pa.types.is_boolean(kind):
                raise self._wrong_type(name)
            column = column.cast(pa.uint8())
        elif feature_type == "timestamp" and not is_number(kind):
            return self._moments(column, name)
        elif not is_number(kind):
            raise self._wrong_type(name)
        values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
        return values

    def _moments(self, column: Any, name: str) -> NDArray[np.float64]:
        """Timestamps as seconds since 1970; those without a zone are taken as UTC, which is how Arrow keeps them."""
        kind = column.type
        try:
            if pa.types.is_string(kind) or pa.types.is_large_string(kind):
                column = column.cast(pa.timestamp("us", tz="UTC"))
            elif not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
                raise self._wrong_type(name)
            # Nanoseconds lose what is finer; seconds and days beyond the year 294247 would silently become others.
            finer = pa.types.is_timestamp(kind) and kind.unit == "ns"
            micros = column.cast(pa.timestamp("us"), safe=not finer).cast(pa.int64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid as error:
            reason = str(error).partition("\n")[0]
            raise BadEvent(f"Column {name!r} should hold times: {reason}", pointer=self._pointer(name)) from None
        seconds: NDArray[np.float64] = micros / 1e6
        return seconds

    def _refuse_not_finite(self, names: tuple[str, ...]) -> None:
        for name in names:
            column = self.columns.get(name)
            if column is None or pa.types.is_null(column.type):
                continue
            values = self._numbers(column, name, self.forms.spec.features[name].type)
            bad = np.flatnonzero(~np.isfinite(values) & column.is_valid().to_numpy(zero_copy_only=False))
            if bad.size:
                raise self._not_finite(name, int(bad[0]), float(values[bad[0]]))

    def _not_finite(self, name: str, row: int, value: float) -> BadEvent:
        said = "NaN" if np.isnan(value) else "infinity"
        return BadEvent(
            f"Column {name!r} is {said} in row {row}, which no number here may be; send null for a missing value",
            pointer=self._pointer(name, row),
            row=row,
        )

    def _vector(self, name: str, width: int) -> NDArray[np.float32]:
        matrix = np.full((self.rows, width), np.nan, dtype=np.float32)
        column = self.columns.get(name)
        if column is None or pa.types.is_null(column.type):
            return matrix
        kind = column.type
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not is_list or not is_number(kind.value_type):
            raise self._wrong_type(name)
        present = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
        column = column.drop_null()
        lengths = np.full(len(column), kind.list_size) if pa.types.is_fixed_size_list(kind) else _lengths(column)
        if (lengths != width).any():
            row = int(present[np.flatnonzero(lengths != width)[0]])
            said = f"Column {name!r} should hold lists of {width} numbers, but row {row} has another length"
            raise BadEvent(said, pointer=self._pointer(name, row), row=row)
        flat = column.flatten()
        if flat.null_count:
            row = int(present[int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0]) // width])
            said = f"Column {name!r} holds a null within the list of row {row}"
            raise BadEvent(said, pointer=self._pointer(name, row), row=row)
        with np.errstate(over="ignore"):
            values = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, width)
        if not np.isfinite(values).all():
            place, inner = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise self._not_finite(name, int(present[place]), float(values[place, inner]))
        matrix[present] = values
        return matrix

    def _strings(self, name: str, forms: Forms) -> Strings:
        column = self.columns.get(name)
        if column is None or pa.types.is_null(column.type):
            return [None] * self.rows
        values = _plain(column)
        kind = values.type
        if is_text(kind):
            texts: Strings = values.to_pylist()
            return texts
        if forms.spec.features[name].type == "category" and (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            return [None if value is None else class_name(value) for value in values.to_pylist()]
        raise self._wrong_type(name)

    def _incumbents(self, label_column: str | None) -> list[Incumbent | None] | None:
        return None if label_column == "incumbent" else incumbents_in(self.forms, self._field("incumbent"))

    # What an event says of itself -------------------------------------------------------------------------------------

    def _retracted(self, kind: Kind, label_column: str) -> NDArray[np.bool_] | None:
        """(n,) whether feedback takes a label back; None where none does."""
        column = self.columns.get("retract") if kind is Kind.FEEDBACK and label_column != "retract" else None
        if column is None or pa.types.is_null(column.type):
            return None
        if not pa.types.is_boolean(column.type):
            said = f"Column 'retract' should hold true or false, but has type {column.type}"
            raise BadEvent(said, pointer="/retract")
        retracted: NDArray[np.bool_] = column.fill_null(False).to_numpy(zero_copy_only=False)
        return retracted if retracted.any() else None

    def _labels(self, name: str, retracted: NDArray[np.bool_] | None) -> Labels:
        column = self.columns.get(name)
        if retracted is not None:
            return self._labels_but(retracted, name, column)
        if column is None:
            raise BadEvent(f"Column {name!r} with the label is missing", pointer=f"/{faults.escaped(name)}")
        return self._labels_of(name, column)

    def _labels_but(self, retracted: NDArray[np.bool_], name: str, column: Any) -> Labels:
        """The labels of feedback, where some rows take a label back and so have none."""
        is_class = self.forms.schema.label_is_class
        has_label = np.zeros(self.rows, bool)
        if column is not None and not pa.types.is_null(column.type):
            has_label = column.is_valid().to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(has_label == retracted)
        if wrong.size:
            row = int(wrong[0])
            both = "both takes a label back and has one" if has_label[row] else "neither has a label nor takes one back"
            raise BadEvent(f"Row {row} {both}", pointer=f"/{row}/label", row=row)
        labels: list[Any] = [None if is_class else np.nan] * self.rows
        if has_label.any():
            # What stands in for the missing ones is a label of this request, so that no fault is found in it.
            rows = np.where(has_label, np.arange(self.rows), np.flatnonzero(has_label)[0])
            valid = self._labels_of(name, _plain(column).take(pa.array(rows)))
            for row in np.flatnonzero(has_label).tolist():
                labels[row] = valid[row]
        return labels if is_class else np.array(labels, np.float64)

    def _labels_of(self, name: str, column: Any) -> Labels:
        column = _plain(column)
        if column.null_count:
            row = 0
            if not pa.types.is_null(column.type):
                row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise BadEvent(f"The label is missing in row {row}", pointer=f"/{row}/label", row=row)
        if self.forms.schema.label_is_set:
            return self._sets(name, column)
        if self.forms.schema.label_is_class:
            return self._classes(name, column)
        if not is_number(column.type):
            raise self._wrong_label(name, column)
        values: NDArray[np.float64] = column.to_numpy(zero_copy_only=False).astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise self._not_finite(name, int(bad[0]), float(values[bad[0]]))
        if self.forms.spec.task == "counts":
            self._check_counts(name, values)
        return values

    def _check_counts(self, name: str, values: NDArray[np.float64]) -> None:
        bad = np.flatnonzero((values < 0) | (values > COUNT_MAX) | (values != np.floor(values)))
        if bad.size:
            row = int(bad[0])
            said = f"Column {name!r} should hold {faults.wanted_label(self.forms)}, but is {values[row]:g} in row {row}"
            raise BadEvent(said, pointer=f"/{row}/label", row=row)

    def _classes(self, name: str, column: Any) -> list[ClassName]:
        kind = column.type
        if not is_class(kind):
            raise self._wrong_label(name, column)
        values = column.to_pylist()
        known = self.forms.classes
        if known is None:
            named = [class_name(value) for value in values]
            self._check_lengths(name, named)
            return named
        try:
            return [known[value] for value in values]
        except KeyError:
            raise faults.unknown_classes(self.forms, values, single=False) from None

    def _sets(self, name: str, column: Any) -> list[ClassSet]:
        kind = column.type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not (
            is_class(kind.value_type) or pa.types.is_null(kind.value_type)
        ):
            raise self._wrong_label(name, column)
        lists: list[list[Any]] = column.to_pylist()
        for row, values in enumerate(lists):
            if None in values:
                said = f"Column {name!r} holds a null within the list of row {row}"
                raise BadEvent(said, pointer=f"/{row}/label", row=row)
        sets = [class_set(values) for values in lists]
        for row, names in enumerate(sets):
            self._check_lengths(name, list(names), row)
        return sets

    def _wrong_label(self, name: str, column: Any) -> BadEvent:
        said = f"Column {name!r} should hold {faults.wanted_label(self.forms)}, but has type {column.type}"
        return BadEvent(said, pointer=f"/{faults.escaped(name)}")

    def _names(self, name: str, needed: bool) -> Strings | None:
        column = self._field(name)
        if column is None:
            if needed:
                raise BadEvent(f"Column {name!r} is missing", pointer=f"/{name}")
            return None
        column = _plain(column)
        if not is_text(column.type) and not pa.types.is_integer(column.type):
            raise BadEvent(f"Column {name!r} should hold strings, but has type {column.type}", pointer=f"/{name}")
        values: list[Any] = column.to_pylist()
        if needed and column.null_count:
            row = values.index(None)
            raise BadEvent(f"{name!r} is missing in row {row}", pointer=f"/{row}/{name}", row=row)
        names: Strings = [None if value is None else str(value) for value in values]
        self._check_lengths(name, names)
        return names

    def _check_lengths(self, name: str, values: Strings | list[ClassName], row: int | None = None) -> None:
        """Of a column's values, or of those within the list of one row."""
        for place, value in enumerate(values):
            if value is not None and not 0 < len(value) <= TEXT_MAX:
                at = place if row is None else row
                said = (
                    f"Column {name!r} should hold strings of 1 to {TEXT_MAX} characters, but row {at} has {len(value)}"
                )
                raise BadEvent(said, pointer=f"/{at}/{faults.escaped(name)}", row=at)

    def _times(self, now: float) -> NDArray[np.float64]:
        column = self._field("time")
        if column is None:
            return np.full(self.rows, now)
        values = np.asarray(self._numbers(column, "time", "timestamp"), dtype=np.float64)
        valid = column.is_valid().to_numpy(zero_copy_only=False)
        bad = np.flatnonzero(~np.isfinite(values) & valid)
        if bad.size:
            raise self._not_finite("time", int(bad[0]), float(values[bad[0]]))
        return np.where(valid, values, now)

    def _pointer(self, name: str, row: int | None = None) -> str:
        inside = "/features" if name in self.forms.spec.features else ""
        return f"{'' if row is None else f'/{row}'}{inside}/{faults.escaped(name)}"

    def _wrong_type(self, name: str) -> BadEvent:
        kind = self.columns[name].type
        want = faults.wanted(self.forms, name) if name in self.forms.spec.features else "times"
        return BadEvent(f"Column {name!r} should hold {want}, but has type {kind}", pointer=self._pointer(name))


def _decoded_bytes(column: Any) -> int:
    """What a dictionary-encoded column of strings takes with its values in place; 0 for others, which are as large as
    they were sent."""
    if not pa.types.is_dictionary(column.type) or not is_text(column.type.value_type):
        return 0
    return int(pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0)


def _plain(column: Any) -> Any:
    """A dictionary-encoded column of what may stand in one, with its values in place."""
    if not pa.types.is_dictionary(column.type):
        return column
    kind = column.type.value_type
    return column.dictionary_decode() if is_class(kind) else column


def _lengths(column: Any) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = np.diff(column.offsets.to_numpy(zero_copy_only=False)).astype(np.int64)
    return lengths
