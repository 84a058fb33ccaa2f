"""What the members said when a prediction was made, kept with its record until the label comes.

A mixture weighs its members by how well they predict what they do not know yet. When a label comes late, members that
follow the stream have long learned from later events, so that what they would say now flatters just those that
remember least; and how the mixture fares is decided at the delay at which it has to predict. So the record of a
prediction carries what each member said, and the label is held against that.

A row begins with the number of members and a mark of the base and the anchor that they build upon: where these are
others now, so are the members, and what they say now has to do. For classes there follow the members' probabilities,
class by class in the order of the classes, in 16 bits, so that a class that arrives later only makes a row longer. For
numbers there follow the mixture's mean, its spread, its local spread and every member's mean, in the label's unit.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Said = NDArray[np.floating]

WIDTH_MAX = 512
"""Numbers of a row at most (1 KiB for classes); where there would be more, nothing is kept."""
HEAD = 2
"""Numbers before what was said."""
NUMBERS = 3
"""Numbers of the mixture itself, before those of the members."""


def mark_of(base_id: str, anchor: int = 0) -> int:
    """A number that tells bases apart in all but a few cases, and anchors always; 0 for neither."""
    return 257 * anchor + (zlib.crc32(base_id.encode()) % 256 + 1 if base_id else 0)


def of_classes(members: Array, mark: int) -> Said | None:
    """(n, width) rows for (n, classes, members) probabilities; None where they would be too long."""
    n, classes, count = members.shape
    if not classes or HEAD + classes * count > WIDTH_MAX:
        return None
    said = np.empty((n, HEAD + classes * count), np.float16)
    said[:, :HEAD] = (count, mark)
    said[:, HEAD:] = members.reshape(n, -1)
    return said


def of_numbers(means: Array, mean: Array, spread: Array, local: Array, mark: int) -> Said | None:
    """(n, width) rows for (n, members) means and (n,) answers of the mixture, all but ``local`` in the label's unit."""
    n, count = means.shape
    if HEAD + NUMBERS + count > WIDTH_MAX:
        return None
    said = np.empty((n, HEAD + NUMBERS + count))
    said[:, :HEAD] = (count, mark)
    said[:, HEAD] = mean
    said[:, HEAD + 1] = spread
    said[:, HEAD + 2] = local
    said[:, HEAD + NUMBERS :] = means
    return said


def _told(said: Said | None, count: int, mark: int) -> NDArray[np.intp]:
    """Places of the rows that these members said."""
    if said is None or said.shape[1] < HEAD:
        return np.empty(0, np.intp)
    return np.flatnonzero((said[:, 0] == count) & (said[:, 1] == mark))


def members_then(said: Said | None, members: Array, mark: int) -> Array:
    """(n, classes, members) probabilities as they were given when the events were asked for, where that was kept, and
    NaN there for classes that were unknown then; elsewhere the probabilities of now, which are given."""
    if said is None:
        return members
    told = _told(said, members.shape[2], mark)
    if not len(told):
        return members
    classes = members.shape[1]
    by_class = said[told, HEAD:].reshape(len(told), -1, members.shape[2])[:, :classes]
    then = members.copy()
    then[told, : by_class.shape[1]] = by_class
    then[told, by_class.shape[1] :] = np.nan
    return then


def numbers(said: Said | None, count: int, mark: int) -> tuple[NDArray[np.intp], Array]:
    """(m,) places of the rows where these members' answers were kept, and (m, 3 + members) what they are."""
    told = _told(said, count, mark)
    if not len(told) or said is None or said.shape[1] != HEAD + NUMBERS + count:
        return np.empty(0, np.intp), np.empty((0, NUMBERS + count))
    return told, np.asarray(said[told, HEAD:], np.float64)
