"""How often answers that are distributed as ever seem to have moved, for `penstock bench gate`.

Answers of three classes with their chances, or numbers, are looked at every 512; the reference is what came before.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from penstock.cli.benchmarks.gate_inputs import lasting
from penstock.cli.benchmarks.gate_simulated import ALPHA, FalseAlarms, Note, alarms
from penstock.cli.benchmarks.gate_streams import Array
from penstock.gate.answered import LOOK_EVENTS, AnsweredWatch
from penstock.spec import Gate as GateSettings

NAMES = np.array(["a", "b", "c"])
Scores = Callable[[np.random.Generator, int], Array]


def independent(rng: np.random.Generator, n: int) -> Array:
    """(n, 3) of classes, or of numbers, that do not depend on one another."""
    return rng.standard_normal((n, 3))


def alike(events: int) -> Scores:
    """The same in which each goes on to be like the last ones for so many events."""
    drawn = lasting(events)
    return lambda rng, n: drawn(rng, n)[:, :3]


def learning(rng: np.random.Generator, n: int) -> Array:
    """Answers of a model that becomes surer of itself as the root of the events."""
    return independent(rng, n) * np.minimum(0.5 + np.sqrt(np.arange(n) / n), 1.5)[:, None]


STREAMS: tuple[tuple[str, Scores, float | None], ...] = (
    ("answers: independent", independent, ALPHA),
    ("answers: alike for 30 events", alike(30), None),
    ("answers: alike for 300 events", alike(300), None),
    ("answers: of a model that grows surer", learning, None),
)


def false_moves(streams: int, events: int, seed: int, note: Note) -> list[FalseAlarms]:
    """Answers whose distribution never changes, or as a model changes that learns."""
    found = []
    for number, (what, drawn, allowed) in enumerate(STREAMS):
        wrong = sum(moves(np.random.default_rng([seed, 10, number, i]), drawn, events) for i in range(streams))
        found.append(alarms(what, wrong, streams, events, allowed))
        note(f"{what}: {wrong} of {streams}")
    return found


def moves(rng: np.random.Generator, drawn: Scores, events: int, shift: float = 0.0) -> bool:
    """Whether any look finds that answers have moved; ``shift`` is what the score of the first class, or the number,
    becomes larger by in the second half."""
    scores = drawn(rng, events)
    scores[events // 2 :, 0] += shift
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    classes, numbers = (AnsweredWatch(GateSettings().drift_max) for _ in range(2))
    for at in range(0, events - LOOK_EVENTS + 1, LOOK_EVENTS):
        part = chances[at : at + LOOK_EVENTS]
        said = NAMES[part.argmax(axis=1)].tolist()
        looks = (classes, {"classes": said, "chances": part.max(axis=1)}), (numbers, {"numbers": scores[at:, 0][:512]})
        for watch, columns in looks:
            moved = watch.look(columns)
            if moved is not None and moved.is_shown:
                return True
    return False
