"""A service inferred from a table's first rows: types by values, the task by the label."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from penstock.cli.columns import sets_of
from penstock.cli.show import SEPARATOR
from penstock.cli.tables import Source, open_source
from penstock.errors import BadFile
from penstock.spec import NUMBER_TASKS, Spec
from penstock.specfile.reader import Service

SAMPLE_ROWS = 20_000
CLASSES_MAX = 20
"""A label of whole numbers with more values than this is taken for a quantity."""
WORDS_OF_TEXT = 4
"""Texts of at least so many words on average are read word by word, shorter ones as categories."""
BUCKETS_MAX = 4096
EVENT_FIELDS = ("id", "time", "source")


def infer(
    path: str,
    *,
    name: str | None = None,
    task: str | None = None,
    label: str | None = None,
    format: str | None = None,
) -> tuple[Spec, dict[str, str]]:
    """The service and what should be said of its columns. Raises BadFile and SpecInvalid."""
    table = _sample(open_source(path, format))
    columns = {column: table.column(column).combine_chunks() for column in table.column_names}
    if not columns or not table.num_rows:
        raise BadFile(path, "the file has no rows")
    if label is not None and label not in columns:
        raise BadFile(path, f"there is no column {label!r}; it has {', '.join(columns)}")
    candidates = [column for column in columns if column not in EVENT_FIELDS]
    label = label or ("label" if "label" in columns else candidates[-1] if candidates else None)
    if label is None:
        raise BadFile(path, "there is no column for the label")
    answer = columns.pop(label)
    task = task or _task(answer)
    features: dict[str, Any] = {}
    notes: dict[str, str] = {}
    for column, values in columns.items():
        if column in EVENT_FIELDS or column == "label":
            continue
        feature, note = _feature(values)
        if feature is not None:
            features[column] = feature
        if note:
            notes[column] = note
    named = name or re.sub(r"[^A-Za-z0-9_-]+", "-", Path(path).stem).strip("-_")[:63] or "my-service"
    about: dict[str, object] = {"name": label}
    if task == "multilabel":
        found = pc.unique(pc.list_flatten(_as_sets(answer, path))).to_pylist()
        classes = sorted({_class_name(value) for value in found if value is not None}, key=_by_number)
        if classes and len(classes) <= CLASSES_MAX:
            about["classes"] = classes
    elif task not in NUMBER_TASKS:
        classes = sorted({_class_name(value) for value in pc.unique(answer.drop_null()).to_pylist()}, key=_by_number)
        if (task == "binary" and classes != ["0", "1"]) or (task == "multiclass" and len(classes) <= CLASSES_MAX):
            about["classes"] = classes
    return Service(name=named, task=task, features=features, label=about), notes  # type: ignore[arg-type]


def _sample(source: Source) -> pa.Table:
    """The first rows with the types that their values have."""
    try:
        match source.format:
            case "parquet":
                with pyarrow.parquet.ParquetFile(source.path) as file:
                    batches = [next(iter(file.iter_batches(SAMPLE_ROWS)), None)]
                    return pa.Table.from_batches([b for b in batches if b is not None], file.schema_arrow)
            case "csv":
                delimiter = "\t" if source.path.endswith(".tsv") else ","
                parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
                batch = pyarrow.csv.open_csv(source.path, parse_options=parse).read_next_batch()
                return pa.Table.from_batches([batch.slice(0, SAMPLE_ROWS)])
        return _json_sample(source)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, StopIteration) as error:
        reason = str(error).partition("\n")[0] or "it has no rows"
        raise BadFile(source.path, f"cannot be read as {source.format}: {reason}") from None


def _json_sample(source: Source) -> pa.Table:
    rows = []
    with Path(source.path).open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = msgspec.json.decode(line, type=dict[str, Any])
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    raise BadFile(source.path, f"is no JSON object: {error}", row=number) from None
                event = row.pop("features", None)
                rows.append({**event, **row} if isinstance(event, dict) else row)
            if len(rows) == SAMPLE_ROWS:
                break
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _json_column([row.get(name) for row in rows]) for name in names})


def _json_column(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        # Values of several types, such as 7 and "seven": names, all of them.
        return pa.array([None if value is None else _class_name(value) for value in values])


def _task(answer: pa.Array) -> str:
    kind = answer.type
    if _is_list(kind) or (_is_text(kind) and pc.any(pc.match_substring(answer, SEPARATOR)).as_py()):
        return "multilabel"
    values = [value for value in pc.unique(answer.drop_null()).to_pylist() if value == value]
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        if not all(float(value).is_integer() for value in values):
            return "regression"
    elif pa.types.is_temporal(kind):
        return "regression"
    elif not pa.types.is_integer(kind):
        return "binary" if len(values) == 2 else "multiclass"
    if len(values) == 2:
        return "binary"
    return "multiclass" if 2 < len(values) <= CLASSES_MAX else "regression"


def _as_sets(answer: pa.Array, path: str) -> pa.Array:
    """The label as lists of classes. Raises BadFile."""
    if _is_list(answer.type):
        return answer
    parsed = [sets_of(text) for text in answer.cast(pa.string()).to_pylist()]
    if False in parsed:
        raise BadFile(path, "the label holds something that is no list of classes", row=parsed.index(False) + 1)
    return pa.array(parsed, pa.list_(pa.string()))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _feature(values: pa.Array) -> tuple[object | None, str]:
    """The feature that a column is, as in the file, and what should be said of it."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if values.null_count == len(values):
        return None, "it is empty in the rows looked at"
    if pa.types.is_boolean(kind):
        return "boolean", ""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        different = pc.count_distinct(values).as_py()
        is_running = pa.types.is_integer(kind) and different == len(values) > 20
        return "number", "every row has another value: if it only counts rows, remove it" if is_running else ""
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "timestamp", ""
    if _is_text(kind):
        return _text_feature(values)
    if _is_list(kind):
        lengths = {len(value) for value in values.to_pylist() if value is not None}
        numbers = pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)
        if len(lengths) == 1 and numbers and (width := lengths.pop()):
            return f"vector[{width}]", ""
        return None, "its lists are not numbers of one length"
    return None, f"values of type {kind} are no feature"


def _text_feature(values: pa.Array) -> tuple[object, str]:
    present = values.drop_null()
    words = pc.mean(pc.count_substring_regex(present, r"\S+")).as_py()
    if words >= WORDS_OF_TEXT:
        return "text", ""
    different = pc.count_distinct(present).as_py()
    default = 32
    buckets = default
    while buckets < 2 * different and buckets < BUCKETS_MAX:
        buckets *= 2
    note = (
        "nearly every row has another value: if it is a name, remove it" if different > 0.9 * len(values) > 20 else ""
    )
    return ("category" if buckets == default else {"type": "category", "buckets": buckets}), note


def _class_name(value: object) -> str:
    """A class as the service file names it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _by_number(name: str) -> tuple[int, float, str]:
    return (0, float(name), "") if re.fullmatch(r"-?\d{1,15}", name) else (1, 0.0, name)
