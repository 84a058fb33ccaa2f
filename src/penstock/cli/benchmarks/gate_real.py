"""The gate around the real learner: what it costs, and what it does to streams that are in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from penstock.cli.benchmarks import forget_data, learn_streams, synthetic
from penstock.cli.benchmarks.gate_service import Followed, follow, losses_of
from penstock.cli.benchmarks.learn_streams import Stream, make
from penstock.events import Batch, concatenate
from penstock.learn.interface import Block, Predictor
from penstock.publish.succession import Succession
from penstock.spec import ClassName, Feature

COLUMNS = 10
STEEPNESS = 2.0
"""The logit of a steady stream is N(0, 2^2)."""
JUDGED = 1_000
"""Events that come next, by which it is judged whether what was rolled back did harm."""

Note = Callable[[str], None]


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """The learner's processor time, with and without its gate."""

    step: int
    events: int
    share: float
    """Of the time with the gate, what it is that the gate takes: the median of the repeats."""
    fresh_ms: float
    """From an event's being taken to the block that has learned it, median over steps, with the gate."""
    fresh_ungated_ms: float


class Steady(msgspec.Struct, frozen=True, kw_only=True):
    """A stream in order, which stays as it is or turns slowly, gated."""

    stream: str
    harm_margin: float
    events: int
    rollbacks: int
    real: int
    """Of those, so many went back from a version that is worse on the events that came next."""
    mean_harm: float
    """What was rolled back was worse on them by so much an event."""
    loss: float
    """Of what was served, an event."""
    loss_ungated: float


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What users saw of a stream with and without the gate."""

    stream: str
    events: int
    loss: float
    loss_ungated: float
    relative: float
    """By which the gated loss is larger, relative to the other."""
    rollbacks: int


# Cost -----------------------------------------------------------------------------------------------------------------


def cost(events: int, repeats: int, seed: int, note: Note) -> list[Cost]:
    """In steps of 32, as when events arrive by hundreds a second, of 256 and of 1,024, as in a backlog."""
    stream, found = steady_stream(events, seed), []
    for step in (32, 256, 1024):
        pairs = [
            [follow(stream.spec, [stream.events], gated=gated, step=step) for gated in (True, False)]
            for _ in range(repeats)
        ]
        shares = [1.0 - sum(without.seconds) / sum(gated.seconds) for gated, without in pairs]
        row = Cost(
            step=step,
            events=events,
            share=round(float(np.median(shares)), 3),
            fresh_ms=_fresh([gated for gated, _ in pairs]),
            fresh_ungated_ms=_fresh([without for _, without in pairs]),
        )
        found.append(row)
        note(
            f"steps of {step}: the gate takes {row.share:.1%}; {row.fresh_ms} ms a step, {row.fresh_ungated_ms} without"
        )
    return found


def _fresh(runs: list[Followed]) -> float:
    return round(1e3 * float(np.median(np.concatenate([run.seconds for run in runs]))), 2)


# A stream that stays as it is -----------------------------------------------------------------------------------------


def steady_stream(events: int, seed: int) -> Stream:
    """Ten normal numbers, and a class by a logistic function of them that never changes."""
    rng = np.random.default_rng([seed, 7])
    direction = np.random.default_rng(7).normal(size=COLUMNS)
    direction *= STEEPNESS / np.linalg.norm(direction)
    numbers = rng.normal(size=(events, COLUMNS))
    chance = 1.0 / (1.0 + np.exp(-numbers @ direction))
    labels = [ClassName("1" if is_one else "0") for is_one in rng.random(events) < chance]
    features = {f"x{j}": Feature(type="number") for j in range(COLUMNS)}
    return make("steady", features, numbers, labels)


def turning_stream(events: int, seed: int) -> Stream:
    """The stream of `penstock bench stream`: the best weights turn by a full circle in 200,000 events."""
    made = synthetic.generate(events, seed=seed)
    features = {name: Feature(type="number") for name in synthetic.NAMES}
    return make("turning", features, made.numbers, [ClassName(str(label)) for label in made.labels.tolist()])


def steady(events: int, margins: tuple[float, ...], seed: int, note: Note) -> list[Steady]:
    """Whether what the gate goes back from did harm: both versions answer the events that came next."""
    found = []
    for made in (steady_stream, turning_stream):
        stream = made(events + JUDGED, seed)
        ahead, stream = stream.events, stream.first(events)
        ungated = follow(stream.spec, [stream.events], gated=False)
        for margin in margins:
            run, harms = _rolled_back(stream, ahead, margin)
            row = Steady(
                stream=stream.name,
                harm_margin=margin,
                events=events,
                rollbacks=len(run.rollbacks),
                real=sum(harm > 0.0 for harm in harms),
                mean_harm=round(float(np.mean(harms)), 5) if harms else 0.0,
                loss=round(run.mean_loss, 5),
                loss_ungated=round(ungated.mean_loss, 5),
            )
            found.append(row)
            note(f"{row.stream}, margin {margin:g}: {row.rollbacks} rollbacks of harm {row.mean_harm}, loss {row.loss}")
    return found


def _rolled_back(stream: Stream, ahead: Batch, margin: float) -> tuple[Followed, list[float]]:
    """The run, and of each rollback what an event of the next JUDGED would have lost more by the version before it."""
    gate = msgspec.structs.replace(stream.spec.gate, harm_margin=margin)
    harms: list[float] = []
    before: list[Block] = []

    def look(done: int, block: Block, predictor: Callable[[Block], Predictor], succession: Succession) -> None:
        if before and succession.account.rollbacks > len(harms):
            coming = ahead.rows(slice(done, done + JUDGED))
            bad, good = (losses_of(one, predictor, coming) for one in (before[0], block))
            harms.append(float((bad - good).mean()))
        before[:] = [block]

    run = follow(msgspec.structs.replace(stream.spec, gate=gate), [stream.events], gated=True, look=look)
    return run, harms


# Real streams ---------------------------------------------------------------------------------------------------------


def streams_of(folder: Path | None, limit: int | None, note: Note) -> list[Stream]:
    """Electricity, interchanging RBF and MNIST by classes, as far as their data are there."""
    found = []
    for name in ("electricity", "interchanging_rbf"):
        try:
            found.append(learn_streams.load(name, folder, limit))
        except learn_streams.NotThere as error:
            note(f"{name} is left out: {error}")
    try:
        amount = forget_data.Amount(train=2_000 if limit is None else max(limit // 5, 100), test=400)
        suite = forget_data.load("split_mnist", folder, amount, 0)
    except forget_data.NotThere as error:
        note(f"MNIST by classes is left out: {error}")
        return found
    events = concatenate([task.train for task in suite.tasks])
    found.append(Stream(f"{suite.name} by classes", suite.spec, events, list(suite.classes)))
    return found


def kept(stream: Stream, note: Note) -> Kept:
    """What the gate costs a stream in which nobody does harm."""
    gated, without = (follow(stream.spec, [stream.events], gated=is_gated) for is_gated in (True, False))
    row = Kept(
        stream=stream.name,
        events=len(stream.events),
        loss=round(gated.mean_loss, 5),
        loss_ungated=round(without.mean_loss, 5),
        relative=round(gated.mean_loss / without.mean_loss - 1.0, 4),
        rollbacks=len(gated.rollbacks),
    )
    note(f"{row.stream}: loss {row.loss} with the gate, {row.loss_ungated} without, {row.rollbacks} rollbacks")
    return row
