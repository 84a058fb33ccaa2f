"""The answers of the system that was there before, as a column of an Arrow stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from penstock.errors import BadEvent
from penstock.replies import Incumbent
from penstock.serve.arrow_kinds import is_class, is_number, is_text
from penstock.serve.forms import TEXT_MAX, Forms
from penstock.serve.incumbents import FIELD, chances_fault, named, wanted_incumbent


def incumbents_in(forms: Forms, column: Any) -> list[Incumbent | None] | None:
    """The (n,) answers, or None where there is none: classes as texts, integers or booleans, their chances as a map or
    a struct of numbers, several classes together as lists, numbers as numbers. Raises BadEvent."""
    if column is None or pa.types.is_null(column.type):
        return None
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not _is_right(forms, column.type):
        said = f"Column {FIELD!r} should hold {wanted_incumbent(forms)}, but has type {column.type}"
        raise BadEvent(said, pointer=f"/{FIELD}")
    values: list[Any] = column.to_pylist()
    if pa.types.is_map(column.type) or pa.types.is_struct(column.type):
        values = [_chances(value) for value in values]
    for row, value in enumerate(values):
        if value is not None and (fault := _fault(forms, value)):
            raise BadEvent(f"Column {FIELD!r} {fault} in row {row}", pointer=f"/{row}/{FIELD}", row=row)
    found = [named(forms, value) for value in values]
    return None if found == [None] * len(found) else found


def _is_right(forms: Forms, kind: Any) -> bool:
    if not forms.schema.label_is_class:
        return is_number(kind)
    if forms.schema.label_is_set:
        return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind)) and is_class(kind.value_type)
    if pa.types.is_map(kind):
        return is_text(kind.key_type) and is_number(kind.item_type)
    if pa.types.is_struct(kind):
        return all(is_number(field.type) or pa.types.is_null(field.type) for field in kind)
    return is_class(kind)


def _chances(value: Any) -> dict[str, float] | None:
    """A map comes as pairs, a struct with all of its fields."""
    pairs = value.items() if isinstance(value, dict) else value
    return None if pairs is None else {name: float(chance) for name, chance in pairs if chance is not None}


def _fault(forms: Forms, value: Any) -> str:
    """What is wrong with an answer of the right type; empty where nothing is."""
    if isinstance(value, dict):
        if wrong := [chance for chance in value.values() if not 0.0 <= chance <= 1.0]:
            return f"holds the chance {wrong[0]:g}, which is not between 0 and 1,"
        return _names_fault(value) or chances_fault(forms, value)
    if isinstance(value, float) and not np.isfinite(value):
        return f"is {'NaN' if np.isnan(value) else 'infinity'}, which no number here may be (send null for none),"
    if isinstance(value, list):
        return "holds a null within the list" if None in value else _names_fault(value)
    return _names_fault([value])


def _names_fault(names: Any) -> str:
    wrong = [name for name in names if isinstance(name, str) and not 0 < len(name) <= TEXT_MAX]
    return f"should hold strings of 1 to {TEXT_MAX} characters, but has one of {len(wrong[0])}" if wrong else ""
