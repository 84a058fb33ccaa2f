"""A real `penstock up` in a process of its own, and the command line beside it, for the tests of this folder."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.client import Client
from penstock.control.folder import State, read_state

PENSTOCK = (sys.executable, "-m", "penstock")
START_S = 60.0
SERVICES = {
    "fraud": "task: binary\nfeatures: {amount: number, city: category}\nlabel: {name: is_fraud}\n",
    "price": "task: regression\nfeatures: {area: number, view: 'vector[2]'}\nlabel: {name: price}\n"
    "serve: {quantiles: [0.1, 0.9]}\n",
    "kind": "task: multiclass\nfeatures: {a: number, b: number}\nlabel: {name: kind}\n",
}


def write_services(folder: Path) -> Path:
    """Three service files, one of each task; small models, so that processes start quickly."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in SERVICES.items():
        learn = "learn: {random_features: 16, checkpoint_every: 1s}\n"
        (folder / f"{name}.yaml").write_text(f"name: {name}\n{text}{learn}")
    return folder


def environment(home: Path, **more: str) -> dict[str, str]:
    """Of a command that must not see the developer's own servers and state."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return kept | {"XDG_STATE_HOME": str(home / "state"), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | more


def penstock(*arguments: str, home: Path, url: str = "", given: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run one command to its end."""
    env = environment(home, **({"PENSTOCK_URL": url} if url else {}))
    done = subprocess.run([*PENSTOCK, *arguments], input=given, capture_output=True, env=env, cwd=home, timeout=60)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@dataclass
class Up:
    """The supervisor's process, and where its house answers."""

    process: subprocess.Popen[str]
    data: Path
    output: Path

    @property
    def state(self) -> State:
        state = read_state(self.data)
        assert state is not None, self.output.read_text()
        return state

    def client(self) -> Client:
        return Client(self.state.address)

    def kill(self, pid: int) -> None:
        """SIGKILL, and wait until the supervisor has seen it."""
        restarts = sum(self.state.restarts.values())
        os.kill(pid, signal.SIGKILL)
        until(lambda: sum(self.state.restarts.values()) > restarts, "the supervisor did not see the kill")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def start(files: Path, data: Path, *more: str) -> Up:
    """Start it and wait for its ready line."""
    home = data.parent
    output = home / "up.txt"
    with output.open("a") as sink:
        process = subprocess.Popen(
            [*PENSTOCK, "up", str(files), "--data", str(data), "--port", "0", *more],
            stdout=subprocess.PIPE,
            stderr=sink,
            stdin=subprocess.DEVNULL,
            env=environment(home),
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("Ready at http://"), output.read_text()
    return Up(process, data, output)


@contextlib.contextmanager
def running(files: Path, data: Path, *more: str) -> Iterator[Up]:
    """Start it, and leave no process behind whatever happens."""
    up = start(files, data, *more)
    try:
        yield up
    finally:
        if up.process.poll() is None:
            up.process.kill()
            up.process.wait()
        assert up.process.stdout is not None
        up.process.stdout.close()


@contextlib.contextmanager
def running_alone(service: str, file: Path) -> Iterator[Up]:
    """The one service that this text describes, written to the file, with its data beside it."""
    file.write_text(service)
    with running(file, file.parent / "data") as up:
        yield up


def until(condition: Callable[[], bool], otherwise: str, timeout_s: float = START_S) -> None:
    """Wait for something that is bound to happen."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


def all_learned(client: Client, services: Sequence[str] = tuple(SERVICES)) -> dict[str, int]:
    """How many events each service has accepted, once it has learned all of them."""

    def is_done() -> bool:
        frames = [client.status(name)["events"] for name in services]
        return all(frame["learned"] == frame["accepted"] and frame["lag"] == 0 for frame in frames)

    try:
        until(is_done, "what was accepted was not all learned")
    except AssertionError as error:
        raise AssertionError(str([client.status(name) for name in services])) from error
    return {name: client.status(name)["events"]["accepted"] for name in services}
