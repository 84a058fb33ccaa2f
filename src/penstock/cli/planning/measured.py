"""What the service takes on this machine: it runs for some seconds, on events that are made up from its own file."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from penstock.cli.benchmarks.running import descendants, housed, role_of
from penstock.client import Client
from penstock.spec import NUMBER_TASKS, Consolidate, Spec

EVENTS, REQUESTS = 6_000, 1_500
BATCH = 32
"""Events a request: about a step of a learner that keeps up."""
WARM = 1_000
"""Events and, a tenth of them, predictions before anything is counted: by then everything is compiled and loaded."""
SERVER = "penstock.serve.worker"
SHAPE = 4.0
"""Predictions of one service take about the same time, half as long again at times: a choice."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Of one core of the machine it was measured on."""

    request_s: float
    """Processor time of the server for a prediction over HTTP, one at a time."""
    learn_s: float
    """Processor time of learner and server for an event, in requests of 32."""
    server_mib: float
    learner_mib: float
    start_s: float
    """Processor time of a server's process until it could answer: Python and the server's libraries."""
    shape: float = SHAPE
    where: str = "measured here"


def measure(spec: Spec) -> Measured:
    """Run the service and look at what its processes used. Raises DidNotStart."""
    # A training beside would be counted with the rest; it is planned for by what the file allows it.
    alone = msgspec.structs.replace(spec, consolidate=Consolidate(when="never"))
    events = made_up(spec, EVENTS + WARM, np.random.default_rng(0))
    with tempfile.TemporaryDirectory(prefix="penstock-plan-") as folder, housed(alone, Path(folder)) as house:
        running = house.running
        with Client(house.address, timeout_s=120.0) as client:
            _learned(client, spec.name, events[:WARM])
            _predicted(client, spec.name, events[: WARM // 10])
            before = running.cpu_s()
            _predicted(client, spec.name, events[:REQUESTS])
            between = running.cpu_s()
            _learned(client, spec.name, events[WARM:])
            after = running.cpu_s()
        memory = {role_of(pid): _memory_mib(pid) for pid in descendants(house.child.pid)}
    learned = sum(after.get(role, 0.0) - between.get(role, 0.0) for role in ("learner", "server"))
    return Measured(
        request_s=max((between.get("server", 0.0) - before.get("server", 0.0)) / REQUESTS, 1e-5),
        learn_s=max(learned / EVENTS, 1e-7),
        server_mib=memory.get("server", 0.0),
        learner_mib=memory.get("learner", 0.0),
        start_s=_start_s(),
    )


def _start_s() -> float:
    """Of a process that does nothing but import what a server does."""
    before = os.times()
    subprocess.run([sys.executable, "-P", "-c", f"import {SERVER}"], check=True, stdin=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def _predicted(client: Client, name: str, events: list[dict[str, Any]]) -> None:
    for event in events:
        client.predict(name, event["features"])


def _learned(client: Client, name: str, events: list[dict[str, Any]]) -> None:
    """Sent in requests, and waited for."""
    before = int(client.status(name)["events"]["learned"])
    for at in range(0, len(events), BATCH):
        body = b"\n".join(msgspec.json.encode(event) for event in events[at : at + BATCH])
        client.examples(name, body, media="application/x-ndjson")
    while int(client.status(name)["events"]["learned"]) < before + len(events):
        time.sleep(0.05)


def made_up(spec: Spec, count: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Events as the file describes them: what they say is noise, how long they take is not."""
    columns = {name: _column(spec, name, count, rng) for name in spec.features}
    labels = _labels(spec, count, rng)
    return [
        {"features": {name: values[row] for name, values in columns.items()}, "label": labels[row]}
        for row in range(count)
    ]


def _column(spec: Spec, name: str, count: int, rng: np.random.Generator) -> list[Any]:
    feature = spec.features[name]
    low, high = (-np.inf if feature.min is None else feature.min), (np.inf if feature.max is None else feature.max)
    match feature.type:
        case "boolean":
            return [bool(each) for each in rng.integers(0, 2, count)]
        case "category":
            values = feature.values or tuple(f"value{number}" for number in range(20))
            return [values[number] for number in rng.integers(0, len(values), count)]
        case "text":
            return [" ".join(f"word{number}" for number in row) for row in rng.integers(0, 500, (count, 12))]
        case "timestamp":
            return [1.7e9 + float(each) for each in np.cumsum(rng.exponential(10.0, count))]
        case "vector":
            drawn = np.clip(rng.normal(size=(count, feature.width or 1)), low, high)
            return [row.tolist() for row in drawn]
    return [float(each) for each in np.clip(rng.normal(size=count), low, high)]


def _labels(spec: Spec, count: int, rng: np.random.Generator) -> list[Any]:
    if spec.task in NUMBER_TASKS:
        drawn = rng.poisson(3.0, count) if spec.task == "counts" else rng.normal(size=count)
        low = -np.inf if spec.label.min is None else spec.label.min
        high = np.inf if spec.label.max is None else spec.label.max
        return [float(each) for each in np.clip(drawn, low, high)]
    usual = ["0", "1"] if spec.task == "binary" else [f"class{number}" for number in range(5)]
    classes: list[str] = list(spec.label.classes) or usual
    if spec.task == "multilabel":
        return [
            [c for c, here in zip(classes, row, strict=True) if here] for row in rng.random((count, len(classes))) < 0.3
        ]
    return [classes[number] for number in rng.integers(0, len(classes), count)]


def _memory_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024.0 for line in lines if line.startswith("VmHWM")), 0.0)
