"""A stream through the running system: `penstock up` fed by `penstock ingest`, and the same steps learned in process.

The service records which events each of its steps took, and the sum of its losses. Learning the same rows of the stream
in the same steps without log, server or journal must give the same sums, to the last bit: between an event's arrival
and the learner nothing is changed, lost or put into another order.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from penstock.cli.benchmarks.learn_streams import Stream
from penstock.cli.benchmarks.running import Running, running
from penstock.errors import PenstockError
from penstock.events import Version
from penstock.learn.fast.model import FastModel
from penstock.learn.interface import State
from penstock.learn.journal import read_steps
from penstock.learn.prequential import Prequential, right
from penstock.learn.steps import Step
from penstock.spec import Spec

RATE = 4_000.0
"""Events a second: sent as fast as possible a stream becomes a backlog, which is learned in the longest of steps."""
REQUEST = 32
"""Events a request, which are about a step."""
WAIT_S = 300.0
"""Seconds in which everything that was ingested is learned."""


class NotThrough(PenstockError):
    """The stream did not go through the service: {reason}"""


class Through(msgspec.Struct, frozen=True, kw_only=True):
    """What the service found, and what the same steps give in process."""

    name: str
    events: int
    steps: int
    step_events: dict[str, float]
    """Events a step: the median and the largest."""
    equal_steps: int
    """Steps with the same sum of losses, bit for bit."""
    largest_difference: float
    """Between the sums of a step."""
    rollbacks: int
    """How often the gate had the service go on from an older state, as the comparison does."""
    service_accuracy: float
    """As the service's status says: each event counts a thousandth less than the one after it."""
    replayed_accuracy: float
    """The same measure, in process."""
    accuracy: float
    """Of all events alike, in process."""
    loss: float
    """The mean of the service's losses, half the Brier score."""

    @property
    def is_equal(self) -> bool:
        """Whether the running system is what the bench measures."""
        return self.equal_steps == self.steps and self.service_accuracy == self.replayed_accuracy


def through(stream: Stream, folder: Path, note: Callable[[str], None], rate: float = RATE) -> Through:
    """Run the stream, so many events a second, through a service with its data in ``folder``.

    Raises NotThrough and DidNotStart."""
    spec = plain(stream.spec)
    with tempfile.TemporaryDirectory(prefix="penstock-through-", dir=folder) as home, running(spec, folder) as service:
        file = Path(home, "stream.csv")
        write_csv(stream, file)
        note(f"{stream.name}: {len(stream.events):,} events go through penstock up")
        _ingest(service, spec.name, file, Path(home), rate)
        status = _learned(service, len(stream.events))
        assert service.data is not None, "it is ours"
        steps = list(read_steps(service.data / spec.name / "steps"))
    model = status["model"]
    assert isinstance(model, dict)
    return compared(stream, spec, steps, float(model["accuracy"]))


def plain(spec: Spec) -> Spec:
    """The service with no base and no anchors, which the bench has not, and with a journal that is kept whole."""
    learn = msgspec.structs.replace(spec.learn, checkpoints_kept=100_000)
    consolidate = msgspec.structs.replace(spec.consolidate, when="never")
    gate = msgspec.structs.replace(spec.gate, anchors=0)
    return msgspec.structs.replace(spec, learn=learn, consolidate=consolidate, gate=gate)


def compared(stream: Stream, spec: Spec, steps: list[Step], said: float) -> Through:
    """Learn the rows of the recorded steps again. The log has one partition, so that offsets are rows."""
    model, prequential = FastModel(spec), Prequential()
    hits: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = []
    equal, apart, loss, rollbacks = 0, 0.0, 0.0, 0
    taken = [step for step in steps if step.events]
    kept: dict[Version, State] = {Version(1): model.save()}
    for step in taken:
        rows = np.concatenate([np.arange(start, stop) for _, start, stop in step.ranges])
        if len(rows) != step.events:
            raise NotThrough(reason=f"step {step.number} took {len(rows)} rows and learned {step.events}")
        batch = stream.events.rows(rows)
        learned = model.learn(batch)
        prequential.add(learned, batch, model.classes)
        hits.append(right(learned.predictions, batch.labels, model.classes))  # type: ignore[arg-type]
        difference = abs(float(learned.losses.sum()) - step.loss_sum)
        equal += difference == 0.0
        apart = max(apart, difference)
        loss += step.loss_sum
        if step.probation:
            kept[step.version] = model.save()
        if step.action == "roll_back" and step.restored is not None:
            rollbacks += 1
            if spec.gate.after_rollback == "restore":
                model.load(kept[step.restored])
    events = sum(map(len, hits))
    sizes = [step.events for step in taken]
    return Through(
        name=stream.name,
        events=events,
        steps=len(taken),
        step_events={"median": float(np.median(sizes)), "largest": float(max(sizes))},
        equal_steps=equal,
        largest_difference=apart,
        rollbacks=rollbacks,
        service_accuracy=said,
        replayed_accuracy=prequential.accuracy.mean,
        accuracy=round(float(np.concatenate(hits).mean()), 4),
        loss=round(loss / events, 6),
    )


def write_csv(stream: Stream, file: Path) -> None:
    """The stream's numbers and labels, so exact that reading gives the same values. Raises NotThrough for others."""
    if any(about.type != "number" for about in stream.spec.features.values()):
        raise NotThrough(reason=f"{stream.name} has features that are no numbers")
    with file.open("w", newline="", encoding="utf-8") as sink:
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow([*stream.spec.features, stream.spec.label.name])
        for row, label in zip(stream.events.numbers.tolist(), stream.labels, strict=True):
            writer.writerow([*("" if value != value else repr(value) for value in row), label])


def _ingest(service: Running, name: str, file: Path, home: Path, rate: float) -> None:
    address = service.url.partition("/v1/")[0]
    command = [
        sys.executable,
        "-m",
        "penstock",
        "ingest",
        name,
        str(file),
        "--url",
        address,
        "--no-resume",
        "--rate",
        str(rate),
    ]
    # What was sent before is remembered in the user's own folder, where this stream must leave no trace.
    environment = os.environ | {"XDG_STATE_HOME": str(home)}
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, env=environment, check=False)
    if done.returncode:
        raise NotThrough(reason=done.stderr.decode(errors="replace")[-500:].strip())


def _learned(service: Running, events: int) -> dict[str, object]:
    """The status frame when everything is learned."""
    deadline = time.monotonic() + WAIT_S
    learned = 0
    while time.monotonic() < deadline:
        status = service.status()
        counted = status["events"]
        assert isinstance(counted, dict)
        learned = counted["learned"]
        if learned >= events:
            return status
        time.sleep(0.05)
    raise NotThrough(reason=f"{learned} of {events} events were learned within {WAIT_S:g} s")


def words(found: Through) -> list[str]:
    """Both numbers, and whether they are one."""
    return [
        f"{found.name}: {found.events:,} events in {found.steps:,} steps of {found.step_events['median']:g} in the "
        f"median and {found.step_events['largest']:g} at most, with {found.rollbacks} rollbacks.",
        f"Accuracy at the end, fading: {found.service_accuracy:.6f} in the service, {found.replayed_accuracy:.6f} in "
        f"process with the same steps; {found.accuracy:.4f} over all events alike.",
        f"{found.equal_steps:,} of {found.steps:,} steps have the same losses to the last bit"
        + ("." if found.equal_steps == found.steps else f"; the largest difference is {found.largest_difference:.3g}."),
    ]
