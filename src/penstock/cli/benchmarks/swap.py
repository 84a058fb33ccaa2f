"""`penstock bench swap`: versions are swapped and rolled back under load, and every answer is looked at.

A real `penstock up` is asked for predictions at a fixed rate by a process of its own, over many connections, for as
long as the run lasts. Meanwhile single events arrive, each of which makes a version, and after every so many versions
the last known good one is ordered back. The gate then holds updates back until they have proved themselves, so that
stretches with swaps and stretches without take turns under the same load: events are learned in both, and published in
one of them.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import gettempdir

import msgspec
import numpy as np

from penstock.cli.benchmarks.machine import describe, percentiles
from penstock.cli.benchmarks.running import House, housed
from penstock.cli.benchmarks.swap_load import Outcome, Plan
from penstock.cli.benchmarks.swap_report import Rollback, SwapReport, summed_up
from penstock.client import Client
from penstock.errors import PenstockError
from penstock.publish.asked.orders import Order, answered, ask
from penstock.publish.weights.live import SharedLiveReader
from penstock.publish.weights.live_files import live_path
from penstock.spec import Consolidate, Feature, Gate, Learn, Spec

LOOK_S = 0.001
PATIENCE_S = 60.0
QUESTIONS = 16
WARM_UP_VERSIONS = 150
"""By then one has been good for long: its probation took 64 events."""
SETTLE_S = 1.0


class SwapFailed(PenstockError):
    """The run could not be finished: {reason}"""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How much of it."""

    versions: int = 1000
    """Published in all, at least."""
    rollbacks: int = 50
    connections: int = 32
    predictions_per_s: float = 400.0
    events_per_s: float = 100.0
    quiet_s: float = 5.0
    """Without events, before and after."""
    folder: Path = Path(gettempdir())


QUICK = Settings(versions=60, rollbacks=3, predictions_per_s=200.0, quiet_s=1.0)


def measure(settings: Settings, command: str, note: Callable[[str], None]) -> SwapReport:
    """Raises SwapFailed, DidNotStart."""
    features = {name: Feature(type="number") for name in ("a", "b", "c", "d")}
    spec = Spec(
        name="swap",
        task="binary",
        features=features,
        learn=Learn(step_interval_ms=1.0),
        gate=Gate(good_after_events=64),
        consolidate=Consolidate(when="never"),
    )
    with housed(spec, settings.folder) as house, _Teacher(house, settings.events_per_s) as teacher:
        run = _Run(settings, house, teacher, note)
        with _load(settings, house) as load:
            run.carry_out()
            outcome = load()
        machine = describe(house.data, probes=50)
    return summed_up(
        outcome,
        run.swaps,
        run.rollbacks,
        quiet=run.quiet,
        told=(machine, command, datetime.now(UTC).isoformat(timespec="seconds"), metadata.version("penstock")),
        connections=settings.connections,
        events=teacher.sent,
        acknowledge_ms=percentiles(teacher.waited_ms),
    )


class _Run:
    """Drives versions and rollbacks, and notes when what was seen to be served."""

    def __init__(self, settings: Settings, house: House, teacher: _Teacher, note: Callable[[str], None]) -> None:
        self.swaps: list[tuple[float, int]] = []
        """When a version was first seen in shared memory."""
        self.rollbacks: list[Rollback] = []
        self.quiet: list[tuple[float, float]] = []
        self._settings, self._house, self._teacher, self._note = settings, house, teacher, note
        self._reader = SharedLiveReader(live_path(house.data, "swap"))
        self._orders = house.data / "swap" / "orders"

    def carry_out(self) -> None:
        settings = self._settings
        self._note(f"{settings.versions:,} versions and {settings.rollbacks} rollbacks under load")
        self._teacher.teach()
        self._until(partial(self._has_seen, WARM_UP_VERSIONS), "no version was published for long")
        self._idle()
        self.swaps.clear()
        self._teacher.teach()
        each = -(-settings.versions // settings.rollbacks)
        for number in range(1, settings.rollbacks + 1):
            wanted = len(self.swaps) + each
            self._until(partial(self._has_seen, wanted), "no version was published for long")
            self._roll_back()
            if number % 10 == 0:
                self._note(f"{number} rollbacks, {len(self.swaps):,} versions seen")
        self._idle()
        self._reader.close()

    def _has_seen(self, versions: int) -> bool:
        return len(self.swaps) >= versions

    def _idle(self) -> None:
        self._teacher.pause()
        self._wait(SETTLE_S)
        began = time.monotonic()
        self._wait(self._settings.quiet_s)
        self.quiet.append((began, time.monotonic()))

    def _roll_back(self) -> None:
        called = time.monotonic()
        file = ask(self._orders, Order(what="roll_back", by="bench", reason="so that it is measured"))
        while (said := answered(file)) is None:
            self._look()
            if time.monotonic() - called > PATIENCE_S:
                raise SwapFailed(reason="a rollback was not obeyed")
        if not said.done or said.restored is None:
            raise SwapFailed(reason=said.told)
        self.rollbacks.append(
            Rollback(called=called, confirmed=time.monotonic(), version=said.version, restored=said.restored)
        )

    def _look(self) -> None:
        time.sleep(LOOK_S)
        version = int(self._reader.version())
        if not self.swaps or self.swaps[-1][1] != version:
            self.swaps.append((time.monotonic(), version))

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._look()

    def _until(self, is_done: Callable[[], bool], otherwise: str) -> None:
        until = time.monotonic() + PATIENCE_S
        while not is_done():
            if time.monotonic() > until:
                raise SwapFailed(reason=otherwise)
            self._look()


class _Teacher:
    """Sends labelled events one by one at a fixed rate, from a thread."""

    def __init__(self, house: House, per_s: float) -> None:
        self.sent = 0
        self.waited_ms: list[float] = []
        self._client = Client(house.address)
        self._per_s = per_s
        self._rng = np.random.default_rng(7)
        self._stop, self._teaching = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> _Teacher:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._teaching.set()
        self._thread.join()
        self._client.close()

    def teach(self) -> None:
        """Until `pause`."""
        self._teaching.set()

    def pause(self) -> None:
        self._teaching.clear()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            if not self._teaching.is_set():
                self._teaching.wait()
                due = time.monotonic()
                continue
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            self._client.examples("swap", [self._event()])
            self.waited_ms.append((time.monotonic() - began) * 1e3)
            self.sent += 1
            due += 1.0 / self._per_s

    def _event(self) -> dict[str, object]:
        values = self._rng.normal(size=4).tolist()
        label = int(values[0] + values[1] * values[2] + self._rng.normal() > 0)
        return {"features": dict(zip("abcd", values, strict=True)), "label": label}


@contextlib.contextmanager
def _load(settings: Settings, house: House) -> Iterator[Callable[[], Outcome]]:
    """The load beside; what is given ends it and says what it has seen."""
    rng = np.random.default_rng(11)
    bodies = [
        msgspec.json.encode({"features": dict(zip("abcd", rng.normal(size=4).tolist(), strict=True))}).decode()
        for _ in range(QUESTIONS)
    ]
    plan = Plan(
        url=house.running.url,
        connections=settings.connections,
        per_s=settings.predictions_per_s,
        bodies=bodies,
    )
    command = [sys.executable, "-m", "penstock.cli.benchmarks.swap_load"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(msgspec.json.encode(plan) + b"\n")
        child.stdin.flush()
        if child.stdout.readline() != b"ready\n":
            raise SwapFailed(reason="the load did not connect")

        def end() -> Outcome:
            said, _ = child.communicate()
            if child.returncode != 0:
                raise SwapFailed(reason="the load stopped before its end")
            return msgspec.msgpack.decode(said, type=Outcome)

        try:
            yield end
        finally:
            if child.poll() is None:
                child.kill()
