"""Events in the forms in which other libraries take them fastest: dictionaries, lines of text, sparse columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from penstock.cli.benchmarks.learn_streams import Stream

HASHED = 2**14
"""Columns for the categories and words that scikit-learn gets; Vowpal Wabbit's own default is 2^18."""


def dictionaries(stream: Stream) -> list[dict[str, Any]]:
    """A dictionary an event, without the features that are missing; a text is the count of each of its words."""
    events, features = stream.events, stream.spec.features
    plain = [name for name, about in features.items() if about.type not in ("category", "text", "vector")]
    rows: list[dict[str, Any]] = [
        {name: value for name, value in zip(plain, row, strict=True) if value == value}
        for row in events.numbers.tolist()
    ]
    wide = [name for name, about in features.items() if about.type == "vector"]
    for name, matrix in zip(wide, events.vectors, strict=True):
        for row, values in zip(rows, matrix.tolist(), strict=True):
            row.update({f"{name}[{j}]": value for j, value in enumerate(values) if value == value})
    for (name, is_text), strings in zip(_strings(stream), events.strings, strict=True):
        for row, value in zip(rows, strings, strict=True):
            for word in _words(value) if is_text else ():
                row[f"{name}:{word}"] = row.get(f"{name}:{word}", 0) + 1
            if value is not None and not is_text:
                row[name] = value
    return rows


def _strings(stream: Stream) -> list[tuple[str, bool]]:
    """The name of each column of strings, and whether it is a text."""
    about = stream.spec.features.items()
    return [(name, feature.type == "text") for name, feature in about if feature.type in ("category", "text")]


def _words(text: str | None) -> list[str]:
    return re.findall(r"\w+", (text or "").lower())


def vowpal_lines(stream: Stream) -> Iterator[str]:
    """Vowpal Wabbit's text format: 1 and -1 for two classes, 1 to k for more; features are named by their place."""
    names: dict[str, str] = {}
    two = len(stream.classes) == 2
    for row, code in zip(dictionaries(stream), stream.codes.tolist(), strict=True):
        parts = []
        for name, value in row.items():
            if isinstance(value, str):
                parts.append(names.setdefault(f"{name}={value}", f"c{len(names)}"))
            else:
                parts.append(f"{names.setdefault(name, f'f{len(names)}')}:{value:.9g}")
        yield f"{(2 * code - 1) if two else code + 1} | {' '.join(parts)}"


def hashed(stream: Stream, columns: int = HASHED) -> Any:
    """Categories and words as (n, columns) sparse columns, or None where there are none."""
    if not stream.events.strings:
        return None
    from sklearn.feature_extraction import FeatureHasher

    rows: list[list[str]] = [[] for _ in stream.events.times]
    for (name, is_text), strings in zip(_strings(stream), stream.events.strings, strict=True):
        for row, value in zip(rows, strings, strict=True):
            if is_text:
                row += [f"{name}:{word}" for word in _words(value)]
            elif value is not None:
                row.append(f"{name}={value}")
    return FeatureHasher(n_features=columns, input_type="string").transform(rows)
