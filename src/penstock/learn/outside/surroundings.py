"""What libraries find around them while they are called from here."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_Random = random.Random


@contextmanager
def quiet() -> Iterator[None]:
    """Warnings are their libraries' remarks to whoever experiments; what they lead to is looked at here."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


class _Kind(type):
    """Calls make, and checks know, plain generators."""

    def __call__(cls, seed: int | float | str | bytes | bytearray | None = None) -> random.Random:
        return _Random(0 if seed is None else seed)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _Random)


class _Seeded(_Random, metaclass=_Kind):
    """Python's generator, never seeded by the system."""


@contextmanager
def settled() -> Iterator[None]:
    """Quiet, and without chance: generators that nobody gave a seed begin with 0 (River's distributions each have one,
    which their bytes contain), and NumPy's global one is what it is at the start of every call."""
    with quiet():
        before = np.random.get_state()
        np.random.seed(0)
        random.Random = _Seeded  # type: ignore[misc]
        try:
            yield
        finally:
            random.Random = _Random  # type: ignore[misc]
            np.random.set_state(before)
