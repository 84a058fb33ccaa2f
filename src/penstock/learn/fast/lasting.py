"""The lasting answer: what is said so that inputs of the past are not forgotten while the stream brings others.

The live answer follows the stream and nothing else, so what it loses on inputs that stopped arriving cannot be seen on
the stream. The lasting answer is a product of powers (`stack.py`) of a few: the live answer, the heads that forget
nothing, and the base alone. Its powers are learned from as many old events as new ones, by the same Newton steps. Old
events are a sample that no base is trained on; from time to time some of them are asked about again.

Which of the two is given is decided by the stream's own events, with a premium for the lasting one, and by how recent
an event's inputs are (`recency.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.layout import BASES, Layout
from penstock.learn.fast.links import softmax
from penstock.learn.fast.mixture import FLOOR as LIKELIHOOD_FLOOR
from penstock.learn.fast.mixture import fixed_share
from penstock.learn.fast.stack import FLOOR, PRIOR

Array = NDArray[np.float64]

EVERY = 256
"""New events between two times at which old ones are asked about."""
ASKED = 64
"""Old events that are asked about then, each of which counts for EVERY / ASKED."""
DECAY = 2.0 ** (-1.0 / 256.0)
"""Of what the powers have learned, an event: heads that were right of everything are soon wrong of what is old when the
stream changes, and powers that remember when they were right come too late."""
PREMIUM = 0.05
"""Nats an event by which the lasting answer may be worse than the live one on the stream and still be given: what not
forgetting may cost there."""

EXACT_SHARE = 0.75
"""Of the exact head, where an event looks to it like a class that is gone; the lasting answer has the rest. The one
takes what is new for what it resembles, the other is late when a class has just gone."""


class Lasting:
    """What answering needs: who takes part, to which powers, and the weights of the live and of this answer."""

    def __init__(self, layout: Layout) -> None:
        assert layout.exact is not None
        # The exact head, the one before it if it forgets nothing either, and the base.
        exact, base = BASES + layout.exact, BASES + layout.heads
        before = (*layout.linear, *layout.brief, *layout.rich)[-2:-1]
        heads = range(exact - (before == (float("inf"),)), exact + 1)
        self.members = np.array([*heads, *range(base, base + layout.stable)], np.intp)
        """Places of those who take part, the live answer aside."""
        self.on = False
        """Whether old events were ever heard: a model that no consolidation has made says what is live alone."""
        self.powers = np.full((1, 1 + len(self.members)), 1.0 / (1 + len(self.members)))
        self.weights = np.array([0.5, 0.5])

    def of(self, live: Array, members: Array) -> Array:
        """(n, classes, 2 + taking part) probabilities: the (n, classes) live answer, those who take part of all
        (n, classes, members), and the lasting answer, the last."""
        n, classes, count = *live.shape, len(self.members)
        both = np.empty((n, classes, count + 2))
        both[:, :, 0] = live
        both[:, :, 1:-1] = members[:, :, self.members]
        logs = np.log(np.maximum(both.reshape(n * classes, -1)[:, :-1], FLOOR))
        both[:, :, -1:] = softmax((logs @ self.powers.T).reshape(n, classes, 1))
        return both

    def frozen(self) -> dict[str, NDArray[Any]]:
        """Copies of everything."""
        return {
            "lasting.on": np.array([self.on]),
            "lasting.powers": self.powers.copy(),
            "lasting.weights": self.weights.copy(),
        }

    def thaw(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what was frozen."""
        self.on = bool(arrays["lasting.on"][0])
        self.powers = arrays["lasting.powers"].copy()
        self.weights = arrays["lasting.weights"].copy()


class LastingLearner:
    """What learning needs beside: how sure the powers are."""

    def __init__(self, lasting: Lasting) -> None:
        # The compiler is loaded by whoever learns, and by nobody else.
        from penstock.learn.fast import stacking

        self._stacking = stacking
        self._lasting = lasting
        self._information = np.eye(lasting.powers.shape[1])[None] * PRIOR

    def learn(self, live: Array, members: Array, classes: NDArray[np.intp]) -> None:
        """From new events: (n, classes) live answers, (n, classes, members), and the (n,) classes that came."""
        both, rows = self._lasting.of(live, members), np.arange(len(classes))
        gains = np.log(np.maximum(both[rows, classes][:, [0, -1]], LIKELIHOOD_FLOOR))
        gains[:, 1] += PREMIUM
        self._lasting.weights = fixed_share(self._lasting.weights, gains)
        self._step(both, classes)

    def remember(self, live: Array, members: Array, classes: NDArray[np.intp], weight: int = 1) -> None:
        """From old events, each of which counts for ``weight``."""
        both = self._lasting.of(live, members)
        self._step(np.repeat(both, weight, axis=0), np.repeat(classes, weight))

    def _step(self, both: Array, classes: NDArray[np.intp]) -> None:
        self._stacking.learn(both, classes, np.array([DECAY]), PRIOR, FLOOR, self._lasting.powers, self._information)

    def save(self) -> dict[str, NDArray[Any]]:
        """Copies of everything but what is frozen."""
        return {"lasting.information": self._information.copy()}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what was saved; the answer itself is thawed apart."""
        self._information = arrays["lasting.information"].copy()
