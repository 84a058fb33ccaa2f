"""What the parts of the path cost alone: the disk, the decoder, the learner. No whole is faster than its slowest part.

Run as ``python -m penstock.cli.benchmarks.floors`` with a plan as JSON on standard input; it runs the peers too, so
that both have the same process, threads and stream. The outcome goes to standard output as JSON, progress to standard
error.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from penstock.cli.benchmarks import peers, synthetic
from penstock.cli.benchmarks.machine import sync_times_ms
from penstock.cli.benchmarks.synthetic import Stream
from penstock.events import Batch, Kind
from penstock.learn.fast.model import FastModel
from penstock.serve.decode import Decoder, Media
from penstock.spec import ClassName, Consolidate, Feature, Learn, Spec

GROUP_EVENTS = 1000
GROUP_BYTES = GROUP_EVENTS * synthetic.FEATURES * 8
"""1,000 events of 20 doubles: 160 KB."""
STEPS = (1024, 256, 32, 1)


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much to measure."""

    folder: str
    """On the disk to be measured."""
    groups: int
    decode_events: int
    learn_events: dict[int, int]
    """Events to be learned, by events a step."""
    peer_events: int
    """Events for each of the peers; 0 for no peers."""
    seed: int = 0


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """One part alone."""

    events: int
    events_per_s: float
    accuracy: float | None = None
    """Of the learner: predicted before learning."""


class Floors(msgspec.Struct, frozen=True, kw_only=True):
    """All parts, and the peers."""

    fdatasync_groups: Speed
    decode_json_single: Speed
    decode_json_batch: Speed
    decode_arrow_batch: Speed
    learn: dict[str, Speed]
    """By events a step."""
    learn_linear: Speed
    """Without the random features, in the largest steps: the model that the linear peers learn."""
    peers: list[peers.Peer]
    peers_bayes_accuracy: float | None


def spec(random_features: int | None = None, name: str = "stream") -> Spec:
    """The service that is measured: 20 numbers, a binary label, all settings at their defaults but for
    ``consolidate.when: never``, since a training beside would take half of what is measured."""
    return Spec(
        name=name,
        task="binary",
        features={feature: Feature(type="number") for feature in synthetic.NAMES},
        learn=Learn() if random_features is None else Learn(random_features=random_features),
        consolidate=Consolidate(when="never"),
    )


def measure(plan: Plan) -> Floors:
    """Every part, one after the other."""
    _note("floor: fdatasync")
    synced = sum(sync_times_ms(Path(plan.folder), GROUP_BYTES, plan.groups)) / 1e3
    _note("floor: decoding")
    stream = synthetic.generate(plan.decode_events, seed=plan.seed)
    bodies = {
        "json_single": (synthetic.json_single(stream), Media.JSON),
        "json_batch": (synthetic.json_batches(stream, GROUP_EVENTS), Media.JSON),
        "arrow_batch": (synthetic.arrow_batches(stream, GROUP_EVENTS), Media.ARROW),
    }
    decoding = {form: decoded(*prepared) for form, prepared in bodies.items()}
    learning = {}
    for step, events in plan.learn_events.items():
        _note(f"floor: learning in steps of {step}")
        learning[str(step)] = learned(spec(), synthetic.generate(events, seed=plan.seed), step)
    largest = max(plan.learn_events)
    linear = learned(spec(0), synthetic.generate(plan.learn_events[largest], seed=plan.seed), largest)
    shared = synthetic.generate(plan.peer_events, seed=plan.seed)
    return Floors(
        fdatasync_groups=_speed(plan.groups * GROUP_EVENTS, synced),
        decode_json_single=decoding["json_single"],
        decode_json_batch=decoding["json_batch"],
        decode_arrow_batch=decoding["arrow_batch"],
        learn=learning,
        learn_linear=linear,
        peers=peers.run(shared, _note) if plan.peer_events else [],
        peers_bayes_accuracy=round(shared.bayes_accuracy, 4) if plan.peer_events else None,
    )


def decoded(bodies: list[bytes], media: Media) -> Speed:
    """The server's own decoder, from a request's body to columns."""
    decoder = Decoder(spec())
    decoder.decode(Kind.EXAMPLE, bodies[0], media, 0.0)  # imports what it needs
    events = 0
    started = time.perf_counter()
    for body in bodies:
        events += len(decoder.decode(Kind.EXAMPLE, body, media, 0.0))
    return _speed(events, time.perf_counter() - started)


def learned(service: Spec, stream: Stream, step: int) -> Speed:
    """The learner's own model, test-then-train, from columns that are ready."""
    names = np.array(["0", "1"])[stream.labels].tolist()
    labels = [ClassName(name) for name in names]
    whole = Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(len(stream)),
        ids=None,
        sources=None,
        numbers=stream.numbers,
        vectors=(),
        strings=(),
        labels=labels,
        versions=None,
    )
    steps = [whole.rows(slice(at, at + step)) for at in range(0, len(stream), step)]
    model = FastModel(service)
    started = time.perf_counter()
    predicted = [model.learn(part).predictions.probabilities for part in steps]
    taken = time.perf_counter() - started
    chances = np.concatenate([p for p in predicted if p is not None])
    return _speed(len(stream), taken, float((chances.argmax(axis=1) == stream.labels).mean()))


def _speed(events: int, seconds: float, accuracy: float | None = None) -> Speed:
    rounded = None if accuracy is None else round(accuracy, 4)
    return Speed(events=events, events_per_s=round(events / seconds, 1), accuracy=rounded)


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Read a plan, measure, write the outcome."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(measure(plan)))


if __name__ == "__main__":
    main()
