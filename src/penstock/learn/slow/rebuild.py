"""Heads on a new base: weights that were learned on other features mean nothing there, so the past is learned again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from penstock.events import Batch, concatenate
from penstock.learn.fast.experts import Outside
from penstock.learn.fast.model import FastModel
from penstock.learn.interface import Bases
from penstock.learn.slow.train import never
from penstock.spec import Spec

STEP = 1024
"""Events that are learned at once: nothing is served meanwhile, so the longest steps are the best bargain."""


def rebuild(
    spec: Spec,
    base_id: str,
    bases: Bases,
    batches: Iterable[Batch],
    stop: Callable[[], bool] = never,
    outside: Outside | None = None,
) -> FastModel | None:
    """A fresh model on this base that has learned these labelled events, in their order; None where ``stop`` said so.

    The result depends on the events and their order, not on how they are cut. Events of a class that the model has no
    room for are passed over, as in learning live. Raises BaseMissing and LibraryMissing."""
    model = FastModel(spec, bases, bases(base_id) if base_id else None, outside)
    for batch in in_steps(batches):
        if stop():
            return None
        places = model.takes(batch)
        taken = batch if places is None else batch.rows(places)
        if len(taken):
            model.learn(taken)
    return model


def in_steps(batches: Iterable[Batch], size: int = STEP) -> Iterator[Batch]:
    """The same events in batches of so many each, but for the last."""
    waiting: list[Batch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        if count < size:
            continue
        whole = concatenate(waiting)
        full = count - count % size
        for at in range(0, full, size):
            yield whole.rows(slice(at, at + size))
        waiting = [whole.rows(slice(full, count))] if full < count else []
        count -= full
    if count:
        yield concatenate(waiting)
