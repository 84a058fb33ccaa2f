"""Predictions and their answers as columns: what they are found by, what was told, and both together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Kind, Labels, Partition
from penstock.join.interface import Told
from penstock.join.recent import remembered_as


def keys_of(batch: Batch) -> list[str]:
    """What predictions and feedback are found by."""
    return remembered_as(batch.ids or ())  # type: ignore[return-value]


def told_by(batch: Batch) -> list[Told | None]:
    """The labels of a batch, None where one is taken back."""
    labels: Any = batch.labels
    if isinstance(labels, np.ndarray):
        return [None if label != label else label for label in labels.tolist()]
    return labels  # type: ignore[no-any-return]


def labels_of(told: Sequence[Any]) -> Labels:
    """Labels as a batch has them."""
    return np.array(told, np.float64) if told and isinstance(told[0], float) else list(told)


def origins_of(partition: Partition, offsets: Sequence[int]) -> NDArray[np.int64]:
    """(n, 2) what `Batch.origins` is for events of one partition."""
    origins = np.empty((len(offsets), 2), np.int64)
    origins[:, 0] = partition
    origins[:, 1] = offsets
    return origins


def labelled(asked: Batch, told: Batch, origins: NDArray[np.int64]) -> Batch:
    """These predictions as examples with these answers; who sent the answer is the source, if it said so. What another
    system had answered was said with either; the later word counts."""
    sources = told.sources
    if sources is not None and asked.sources is not None:
        sources = [said if said is not None else own for said, own in zip(sources, asked.sources, strict=True)]
    if sources is None or all(source is None for source in sources):
        sources = asked.sources
    incumbents = told.incumbents
    if incumbents is not None and asked.incumbents is not None:
        both = zip(incumbents, asked.incumbents, strict=True)
        incumbents = [own if said is None else said for said, own in both]
    return replace(
        asked,
        kind=Kind.EXAMPLE,
        ids=told.ids,
        labels=told.labels,
        sources=sources,
        origins=origins,
        incumbents=asked.incumbents if incumbents is None else incumbents,
    )
