"""What was answered to events, kept until their labels come: by us, and by a system that was there before.

Both are held against the same label then, in the forms in which they were given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.spec import ClassName

Incumbent = float | str | tuple[str, ...] | dict[str, float]
"""The answer of a system that was there before: a number, a class, classes together, or the chances of classes."""

CLASSES_MAX = 1024
"""Classes whose chances are kept with the record of a prediction at most (4 KiB); of more, nothing is."""


@dataclass(frozen=True, slots=True)
class Replies:
    """What callers were told of n events."""

    values: NDArray[np.floating]
    """(n, w) chances of the classes, or (n, 1) numbers; a row of NaN where that is not known."""
    classes: tuple[ClassName, ...] = ()
    """The names of the columns; numbers have none. A class that an answer did not know yet has NaN there."""

    def rows(self, keep: slice | NDArray[np.intp]) -> Replies:
        """Those to the events at these places, in this order."""
        return Replies(self.values[keep], self.classes)

    @property
    def known(self) -> NDArray[np.bool_]:
        """(n,) of which events it is known."""
        return ~np.isnan(self.values).all(axis=1) if self.values.shape[1] else np.zeros(len(self.values), np.bool_)

    def or_else(self, others: Replies) -> Replies:
        """The same with those of others, to the same events, where nothing is known."""
        if (known := self.known).all():
            return self
        whole = together([(len(self.values), self), (len(others.values), others)])
        assert whole is not None, "there are two parts"
        n = len(self.values)
        return whole.rows(np.where(known, np.arange(n), np.arange(n, 2 * n)))


def together(parts: Sequence[tuple[int, Replies | None]]) -> Replies | None:
    """One part after the other, each with its number of events; None where nothing is known of any."""
    known = [part for _, part in parts if part is not None]
    if not known:
        return None
    first = known[0]
    if len(known) == len(parts) and all(part.classes == first.classes for part in known):
        return Replies(np.concatenate([part.values for part in known]), first.classes)
    names = tuple(dict.fromkeys(name for part in known for name in part.classes))
    column = {name: place for place, name in enumerate(names)}
    width = len(names) or max(part.values.shape[1] for part in known)
    values = np.full((sum(n for n, _ in parts), width), np.nan, np.result_type(*(part.values for part in known)))
    at = 0
    for n, part in parts:
        if part is not None and part.values.shape[1]:
            places = [column[name] for name in part.classes] if names else [0]
            values[at : at + n, places] = part.values
        at += n
    return Replies(values, names)
