"""A real `penstock up` in a child process, with a temporary data folder that is removed afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from penstock.errors import PenstockError
from penstock.publish.weights.live_files import live_path, remove_live
from penstock.spec import Spec
from penstock.specfile.writer import dump

START_S = 180.0
STOP_S = 30.0


class DidNotStart(PenstockError):
    """`penstock up` did not become ready. It said: {output}"""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """Where the service answers, and who answers."""

    url: str
    pid: int | None
    """Of the supervisor, where it is ours."""
    data: Path | None = None
    """Its data folder, where it is ours."""

    def status(self) -> dict[str, object]:
        """The service's status frame. Raises OSError."""
        with urllib.request.urlopen(self.url, timeout=10) as answer:
            return msgspec.json.decode(answer.read(), type=dict[str, object])

    def cpu_s(self) -> dict[str, float]:
        """Processor time so far, by what a process does; empty where they are not ours or the system does not say."""
        if self.pid is None:
            return {}
        used: dict[str, float] = {}
        for pid in (self.pid, *descendants(self.pid)):
            role = role_of(pid)
            used[role] = used.get(role, 0.0) + _cpu_s(pid)
        return used


@dataclass
class House:
    """A `penstock up` of ours, which may be killed and started again on the same data and port."""

    service: str
    home: Path
    port: int
    more: Sequence[str] = ()
    """Further options of `penstock up`."""
    child: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self._start()

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def output(self) -> Path:
        """What it says."""
        return self.home / "output.txt"

    @property
    def running(self) -> Running:
        return Running(url=f"{self.address}/v1/{self.service}", pid=self.child.pid, data=self.data)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start_again(self) -> None:
        """After its supervisor was killed."""
        self.child.wait()
        self._start()

    def wait_until_ready(self) -> None:
        """Raises DidNotStart."""
        _wait_until_ready(self.running, self.child, self.output)

    def stop(self) -> None:
        """In order, if it can be."""
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            for pid in (*descendants(self.child.pid), self.child.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.child.wait()

    def _start(self) -> None:
        files = [str(self.home / "service.yaml"), "--data", str(self.data), "--port", str(self.port)]
        with self.output.open("ab") as sink:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "penstock", "up", *files, *self.more],
                stdout=sink,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )


@contextlib.contextmanager
def housed(spec: Spec, folder: Path) -> Iterator[House]:
    """A house with this one service, until the block ends. ``folder`` is on the disk that should be used."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-", dir=folder) as home:
        Path(home, "service.yaml").write_text(dump(spec), encoding="utf-8")
        house = House(spec.name, Path(home), free_port())
        try:
            house.wait_until_ready()
            yield house
        finally:
            house.stop()
            # The live weights are not in the data folder but in shared memory, where they would stay.
            remove_live(live_path(house.data, spec.name))


@contextlib.contextmanager
def running(spec: Spec, folder: Path) -> Iterator[Running]:
    """Run this one service until the block ends."""
    with housed(spec, folder) as house:
        yield house.running


def _wait_until_ready(service: Running, child: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + START_S
    ready = service.url.partition("/v1/")[0] + "/health/ready"
    while time.monotonic() < deadline:
        if child.poll() is not None:
            break
        with contextlib.suppress(OSError), urllib.request.urlopen(ready, timeout=5):
            return
        time.sleep(0.05)
    raise DidNotStart(output=output.read_text(encoding="utf-8", errors="replace")[-2000:].strip() or "nothing")


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def descendants(pid: int) -> list[int]:
    """The processes that this one has started, and those that they have."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [descendant for child in map(int, found) for descendant in (child, *descendants(child))]


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def role_of(pid: int) -> str:
    """What a process of the house does."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "gone"
    roles = {
        "_server": "server",
        "_learner": "learner",
        "_consolidator": "consolidator",
        "_consolidate": "consolidator",
        "_governor": "governor",
        "up": "supervisor",
    }
    return next((roles[argument] for argument in arguments if argument in roles), "other")
