"""Events that were learned and that a rollback has taken out of the model again: they stay in the log, and whoever
learns the past once more passes them over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from penstock.events import Offset, Partition, Position

Withdrawn = tuple[Position, Position]
"""From the position of the version that was gone back to, to that of the rollback."""
REMEMBERED_MAX = 256
"""Rollbacks that are remembered."""


def to_values(withdrawn: Iterable[Withdrawn]) -> list[Any]:
    """Plain values that survive MessagePack."""
    return [[sorted(start.items()), sorted(end.items())] for start, end in withdrawn]


def from_values(values: Iterable[Any]) -> list[Withdrawn]:
    """What `to_values` made."""
    return [(_position(start), _position(end)) for start, end in values]


def _position(pairs: Iterable[Any]) -> Position:
    return {Partition(partition): Offset(offset) for partition, offset in pairs}


def parts(
    withdrawn: Iterable[Withdrawn], partition: Partition, first: int, last: int
) -> Iterator[tuple[int, int, bool]]:
    """The offsets from ``first`` to before ``last``, cut where that changes: start, end, and whether they are
    withdrawn."""
    spans = [
        (start.get(partition, Offset(0)), end[partition]) for start, end in withdrawn if end.get(partition, 0) > first
    ]
    cuts = sorted({first, last, *(offset for span in spans for offset in span if first < offset < last)})
    for start, stop in pairwise(cuts):
        yield start, stop, any(begin <= start and stop <= end for begin, end in spans)
