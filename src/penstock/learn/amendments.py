"""What was said of labelled events after they had been passed on, and events as they are in the light of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from penstock.events import Batch
from penstock.join.interface import Amendment, Told
from penstock.join.labelled import labels_of, told_by

Origin = tuple[int, int]
"""Partition and offset of the event that gave another its label."""


class Amendments:
    """Labels that take the place of others, by the origin of the event; the newest word counts."""

    def __init__(self, said: Iterable[Amendment] = ()) -> None:
        self._labels: dict[Origin, Told | None] = {}
        self._offsets: dict[int, set[int]] = {}
        self.add(said)

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, said: Iterable[Amendment]) -> None:
        """Take note of these, the newest last."""
        for partition, offset, label in said:
            self._labels[int(partition), int(offset)] = label
            self._offsets.setdefault(int(partition), set()).add(int(offset))

    def places(self, batch: Batch) -> list[int]:
        """The places of events that something is known of."""
        if not self._labels or batch.origins is None:
            return []
        origins = batch.origins
        near = np.zeros(len(batch), bool)
        for partition, offsets in self._offsets.items():
            known = np.fromiter(offsets, np.int64, len(offsets))
            near |= (origins[:, 0] == partition) & np.isin(origins[:, 1], known)
        return [int(place) for place in np.flatnonzero(near)]

    def origins(self, batch: Batch) -> set[Origin]:
        """The origins of events that something is known of."""
        if batch.origins is None:
            return set()
        return {(partition, offset) for partition, offset in batch.origins[self.places(batch)].tolist()}

    def label(self, batch: Batch, place: int) -> Told | None:
        """The label that this event has by what is known; None where it has none."""
        assert batch.origins is not None, "nothing is known of events without an origin"
        partition, offset = batch.origins[place].tolist()
        return self._labels[partition, offset]

    def applied(self, batch: Batch) -> Batch:
        """The batch with its labels as they are by what is known, and without the events that have none."""
        places = self.places(batch)
        if not places:
            return batch
        labels: list[Any] = list(told_by(batch))
        for place in places:
            labels[place] = self.label(batch, place)
        keep = [place for place, label in enumerate(labels) if label is not None]
        kept = batch.rows(np.array(keep, np.intp))
        return replace(kept, labels=labels_of([labels[place] for place in keep])) if keep else kept
