"""What `penstock bench recover` does to a service: clients that repeat what was not answered, kills at seeded random
moments, and a witness of every version that is served."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from penstock.cli.benchmarks import synthetic
from penstock.cli.benchmarks.running import House, descendants
from penstock.client import Client
from penstock.control.folder import read_state
from penstock.errors import BlockDamaged, PenstockError, Refused, Unreachable
from penstock.learn.block import unpack
from penstock.publish.weights.live import SharedLiveReader
from penstock.publish.weights.live_files import live_path

Target = str
"""``learner``: who learns; ``loader``: the process that it is a fork of; ``server``; ``supervisor``: all of them."""
SHARES: dict[Target, float] = {"learner": 0.4, "loader": 0.15, "server": 0.3, "supervisor": 0.15}
"""How often each is chosen."""
AGAIN_SHARE = 0.15
"""Of the kills, those that come while what was killed before is still on its way back."""
QUIET_MAX_S = 1.0
"""Between a recovery and the next kill at most."""
RETRY_S = 0.01
PATIENCE_S = 60.0
"""Within which everything must have come back."""
REQUEST_EVENTS = 20


class DidNotComeBack(PenstockError):
    """No new event was learned within {seconds:g} s of a kill of the {target}"""


class Traffic:
    """Clients that send examples with ids at a steady rate, and send the very same again until they are answered."""

    def __init__(self, url: str, service: str, clients: int, events_per_s: float, seed: int) -> None:
        """Another seed gives other events with other ids: what was sent before would count as learned at once."""
        self.acknowledged: list[str] = []
        """Ids of events that were answered with 201."""
        self.refused = 0
        self._newest: tuple[float, dict[str, int]] = (0.0, {})
        self._service = service
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        pause_s = REQUEST_EVENTS * clients / events_per_s
        self._threads = [
            threading.Thread(target=self._send, args=(Client(url, timeout_s=5.0), number, pause_s, seed), daemon=True)
            for number in range(clients)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send no more, but go on with what was not answered yet."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def first_after(self, at: float) -> dict[str, int] | None:
        """The position of an acknowledgement whose request was sent after this moment, or None so far."""
        sent, position = self._newest
        return position if sent > at else None

    def _send(self, client: Client, number: int, pause_s: float, seed: int) -> None:
        sent = 0
        due = time.monotonic()
        while not self._stopping.is_set():
            stream = synthetic.generate(REQUEST_EVENTS, start=sent, seed=seed + number)
            ids = [f"client-{seed}-{number}-{sent + row}" for row in range(REQUEST_EVENTS)]
            self._deliver(client, synthetic.json_batches(stream, REQUEST_EVENTS, ids)[0], ids)
            sent += REQUEST_EVENTS
            due = max(due + pause_s, time.monotonic() - 1.0)
            self._stopping.wait(max(0.0, due - time.monotonic()))

    def _deliver(self, client: Client, body: bytes, ids: list[str]) -> None:
        while True:
            began = time.monotonic()
            try:
                answer = client.examples(self._service, body, media="application/json")
            except (Unreachable, Refused) as error:
                if isinstance(error, Refused) and not error.retryable:
                    raise
                self.refused += 1
                time.sleep(RETRY_S)
                continue
            with self._lock:
                self.acknowledged += ids
                self._newest = (began, {str(name): offset for name, offset in answer.position.items()})
            return


class Witness:
    """Looks at the live weights all the time: a version that was seen with two contents, or could not be read, is
    torn."""

    def __init__(self, data: Path, service: str) -> None:
        self.torn: set[int] = set()
        self.contents: dict[int, bytes] = {}
        self._path = live_path(data, service)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _look(self) -> None:
        reader = SharedLiveReader(self._path)
        last = -1
        while not self._stopping.wait(0.002):
            version = reader.version()
            if version == last:
                continue
            last = version
            packed = reader.packed()
            if packed is None:
                continue
            try:
                block = unpack(packed)
            except BlockDamaged:
                self.torn.add(version)
                continue
            content = hashlib.sha256(packed).digest()
            if self.contents.setdefault(block.head.version, content) != content:
                self.torn.add(block.head.version)
        reader.close()


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """One kill, and how long it took until an event that was sent after it had been learned."""

    target: Target
    restart_s: float | None
    """None where another kill came before."""


class Killer:
    """Kills processes of a house, and waits until new events are learned again."""

    def __init__(self, house: House, service: str, traffic: Traffic, seed: int) -> None:
        self._house, self._service, self._traffic = house, service, traffic
        self._chance = random.Random(seed)
        self._live = SharedLiveReader(live_path(house.data, service))

    def kill(self, kills: int, note: Callable[[str], None]) -> list[Kill]:
        """So many, one after the other. Raises DidNotComeBack."""
        done: list[Kill] = []
        while len(done) < kills:
            time.sleep(self._chance.uniform(0.0, QUIET_MAX_S))
            target = self._chance.choices(list(SHARES), list(SHARES.values()))[0]
            at = self.send_signal(target)
            if at is None:
                continue  # It was on its way back from an earlier kill, and had no process.
            if self._chance.random() < AGAIN_SHARE and len(done) + 1 < kills:
                done.append(Kill(target=target, restart_s=None))
                continue
            done.append(Kill(target=target, restart_s=self.recovered(at, target)))
            if len(done) % 10 == 0:
                note(f"{len(done)} of {kills} kills, {len(self._traffic.acknowledged):,} events acknowledged")
        return done

    def send_signal(self, target: Target) -> float | None:
        """SIGKILL; the moment at which all were dead that die of it, or None where there is no such process now."""
        pid = self._pid(target)
        if pid is None:
            return None
        dying = [pid, *descendants(pid)]
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return None
        # On a busy machine a process may work on for a while until its end, and that of its parent, has its turn.
        while any(map(lives, dying)):
            time.sleep(0.001)
        at = time.monotonic()
        if target == "supervisor":
            self._house.start_again()
        return at

    def recovered(self, at: float, target: Target) -> float:
        """Seconds from this moment until an event that was sent after it had been learned."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            position = self._traffic.first_after(at)
            if position is not None and self._is_learned(position):
                return time.monotonic() - at
            if time.monotonic() > deadline:
                raise DidNotComeBack(seconds=PATIENCE_S, target=target)
            time.sleep(0.002)

    def _is_learned(self, position: dict[str, int]) -> bool:
        taken = {str(partition): offset for partition, offset in self._live.progress().position.items()}
        return all(taken.get(partition, 0) >= offset for partition, offset in position.items())

    def _pid(self, target: Target) -> int | None:
        state = read_state(self._house.data)
        if state is None:
            return None
        if target == "supervisor":
            return state.pid if state.ready else None
        if target == "server":
            return next(iter(state.servers.values()), None)
        loader = state.learners.get(self._service)
        if loader is None or target == "loader":
            return loader
        return next(iter(descendants(loader)), None)


def lives(pid: int) -> bool:
    """Whether there is a process of this number that still runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
