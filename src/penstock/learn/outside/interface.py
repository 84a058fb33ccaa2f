"""The door that a library's models come through."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.anchor import Anchor
from penstock.learn.fast.encode import Encoder

Array = NDArray[np.float64]
SAID = 0.9
"""What a model's class is given where it says a class and no probabilities; stacks learn how far to trust it."""


class Read(Protocol):
    """What may be read of n events; each form is made when it is asked for, and once."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Each event's features by name: numbers, booleans, text, seconds of timestamps; the entries of a vector as
        ``name.0``, ``name.1`` and so on. What is missing is not there."""
        ...

    @property
    def matrix(self) -> Array:
        """(n, encoder.fixed) the encoder's columns, without the indicators of missing values."""
        ...

    @property
    def raw(self) -> NDArray[np.float32]:
        """(n, numbers and entries of vectors) as they came, 0 where missing."""
        ...


class Adapter(Protocol):
    """One member's library: no state of its own, so that what is learned stands in the model that it is handed."""

    name: str
    """As the service file writes the member."""
    libraries: tuple[str, ...]
    """Whose classes its model is made of; empty where it never changes, and so never travels."""
    reads: str
    """``rows``, ``matrix`` or ``raw``."""

    def fresh(self) -> Any:
        """A model that has learned nothing yet."""
        ...

    def learn(self, model: Any, inputs: Any, targets: Array) -> None:
        """Change the model by n events, in their order: what it reads of them, and (n,) places of classes or outcomes.
        It must not matter how the events are cut into calls."""
        ...

    def answer(self, model: Any, inputs: Any, classes: int | None, anchors: Array) -> Array | None:
        """(n, classes) probabilities, of which only the proportions count, or (n,) means from the (n,) anchors; None
        while it has nothing to say."""
        ...


Stage = tuple[Encoder, Anchor]
"""What a model of the fast tier hands its members: how it encodes, and what it measures outcomes from."""
