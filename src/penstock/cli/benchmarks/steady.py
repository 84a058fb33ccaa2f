"""`penstock bench steady`: millions of events through one learner, whose memory and speed must stay as they are.

What is learned turns slowly for ever (`synthetic`), in steps as long as a service's longest. Beside the speed there are
the process's memory and the size of the learner's state, which is what a checkpoint holds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from tempfile import gettempdir

import msgspec
import numpy as np

from penstock.cli.benchmarks import synthetic
from penstock.cli.benchmarks.apart import Failed, apart
from penstock.cli.benchmarks.machine import Machine, describe
from penstock.cli.benchmarks.trial import settled_bytes
from penstock.errors import PenstockError
from penstock.events import Batch, Kind
from penstock.learn.fast.model import FastModel
from penstock.spec import ClassName, Feature, Spec

CHUNK = 100_000
"""Events that are made at once."""
SETTLED_SHARE = 0.2
"""Of the events, at the beginning, that memory is not judged by: code is loaded and caches are filled then."""
EVENT_S = 1e-3
"""Seconds an event after which the run is ended from outside: some hundred times what it takes."""


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen at the end of a stretch of events."""

    events: int
    """Learned so far."""
    events_per_s: float
    """Of this stretch, a second of processor time in predicting and learning, so that other work does not show."""
    memory_mb: float
    """Anonymous memory of the process, in 10^6 bytes."""
    state_mb: float
    """Arrays of the learner's state."""
    accuracy: float
    """Of this stretch, predicted before it was learned."""
    bayes_accuracy: float
    """What one who knows the true probabilities would have got."""


class SteadyReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, in the order in which it is read."""

    stretches: list[Stretch]
    memory_growth_mb: float
    """From the first fifth of the events to the last of them."""
    state_growth_mb: float
    slowest_to_fastest: float
    """Of the stretches after the first fifth, by events a second."""
    step: int
    machine: Machine
    command: str
    date: str
    penstock: str


class Unsteady(PenstockError):
    """The run did not end: {reason}"""


def measure(events: int, step: int, every: int, command: str, note: Callable[[str], None]) -> SteadyReport:
    """``events`` events in steps of ``step``, looked at after each ``every``. Raises Unsteady."""
    note(f"{events:,} events in steps of {step:,}; nothing is printed until they are learned")
    try:
        answer = apart(
            endless, events, step, every, preload=("penstock.cli.benchmarks.steady",), time_s=60.0 + EVENT_S * events
        )
    except Failed as failure:
        raise Unsteady(reason=str(failure)) from None
    return summed_up(msgspec.msgpack.decode(answer, type=list[Stretch]), step, command)


def endless(events: int, step: int, every: int) -> list[Stretch]:
    """Learn in this process."""
    features = {name: Feature(type="number") for name in synthetic.NAMES}
    model = FastModel(Spec(name="steady", task="binary", features=features))
    found: list[Stretch] = []
    spent, hits, bayes, since = 0.0, 0, 0.0, 0
    done = 0
    for batch, best in _batches(events, step):
        began = time.process_time()
        learned = model.learn(batch)
        spent += time.process_time() - began
        assert learned.predictions.probabilities is not None
        said = learned.predictions.probabilities.argmax(axis=1)
        hits += int((np.array(batch.labels) == np.array(model.classes)[said]).sum())
        bayes += best * len(batch)
        since += len(batch)
        done += len(batch)
        if since >= every or done == events:
            found.append(
                Stretch(
                    events=done,
                    events_per_s=round(since / spent, 1),
                    memory_mb=round(settled_bytes() / 1e6, 2),
                    state_mb=round(sum(array.nbytes for array in model.save().arrays.values()) / 1e6, 4),
                    accuracy=round(hits / since, 4),
                    bayes_accuracy=round(bayes / since, 4),
                )
            )
            spent, hits, bayes, since = 0.0, 0, 0.0, 0
    return found


def _batches(events: int, step: int) -> Iterator[tuple[Batch, float]]:
    """The steps, and what the best of all could be right about in each."""
    size = max(step, CHUNK // step * step)
    for start in range(0, events, size):
        made = synthetic.generate(min(size, events - start), start=start)
        names = np.array(["0", "1"])[made.labels].tolist()
        for at in range(0, len(made), step):
            rows = slice(at, at + step)
            labels = [ClassName(name) for name in names[rows]]
            batch = Batch(
                kind=Kind.EXAMPLE,
                times=np.zeros(len(labels)),
                ids=None,
                sources=None,
                numbers=made.numbers[rows],
                vectors=(),
                strings=(),
                labels=labels,
                versions=None,
            )
            yield batch, made.bayes_accuracy


def summed_up(stretches: list[Stretch], step: int, command: str) -> SteadyReport:
    """What changed over the events, and where it was measured."""
    total = stretches[-1].events
    settled = [stretch for stretch in stretches if stretch.events >= SETTLED_SHARE * total]
    speeds = [stretch.events_per_s for stretch in settled]
    return SteadyReport(
        stretches=stretches,
        memory_growth_mb=round(settled[-1].memory_mb - settled[0].memory_mb, 2),
        state_growth_mb=round(settled[-1].state_mb - settled[0].state_mb, 4),
        slowest_to_fastest=round(min(speeds) / max(speeds), 3),
        step=step,
        machine=describe(Path(gettempdir()), probes=20),
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        penstock=metadata.version("penstock"),
    )


def tables(report: SteadyReport) -> dict[str, list[dict[str, object]]]:
    """A stretch a row."""
    rows: list[dict[str, object]] = [
        {
            "events": stretch.events,
            "events/s": round(stretch.events_per_s),
            "memory MB": f"{stretch.memory_mb:.1f}",
            "state MB": f"{stretch.state_mb:.3f}",
            "accuracy": f"{stretch.accuracy:.4f}",
            "best possible": f"{stretch.bayes_accuracy:.4f}",
        }
        for stretch in report.stretches
    ]
    return {"As the stream goes on": rows}


def words(report: SteadyReport) -> list[str]:
    """What it comes to."""
    machine = report.machine
    return [
        f"After the first fifth memory grew by {report.memory_growth_mb:.1f} MB and the state by "
        f"{report.state_growth_mb:.3f} MB; the slowest stretch had {100 * report.slowest_to_fastest:.0f} % of the "
        "fastest one's speed.",
        f"{machine.cpu}, {machine.cores} cores, {machine.kernel}, Python {machine.python}, NumPy {machine.numpy}; one "
        f"thread. Ran {report.command} on {report.date}.",
    ]
