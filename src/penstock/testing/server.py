"""A real server worker in a process of its own, and the learner's side of its live weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import urllib3

from penstock.eventlog.local import LocalLogReader
from penstock.events import Batch, Kind, Version, decode
from penstock.learn.fast.model import FastModel
from penstock.publish.interface import Progress
from penstock.publish.weights.live import SharedLiveWeights
from penstock.publish.weights.live_files import live_path, remove_live
from penstock.serve.worker import WorkerConfig
from penstock.spec import Spec
from penstock.specfile.writer import dump


class ServerProcess:
    """Starts `penstock.serve.worker` on a free port and speaks HTTP with it."""

    def __init__(self, folder: Path, *specs: Spec, failing_while: Path | None = None, **settings: Any) -> None:
        """``failing_while`` names a file: as long as it is there, every fsync fails."""
        self.data = folder / "data"
        self.specs = {spec.name: spec for spec in specs}
        files = []
        for spec in specs:
            file = folder / f"{spec.name}.yaml"
            file.write_text(dump(spec), encoding="utf-8")
            files.append(str(file))
        self._config = WorkerConfig(data=str(self.data), services=tuple(files), **{"port": 0, **settings})
        self._http = urllib3.PoolManager(maxsize=64, retries=False, timeout=30.0)
        self._weights: dict[str, SharedLiveWeights] = {}
        faulty = () if failing_while is None else ("penstock.testing.failing_disk", str(failing_while))
        self._module = faulty or ("penstock.serve.worker",)
        self.process: subprocess.Popen[bytes] | None = None
        self.host, self.port = "", 0

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._http.clear()
        for name, weights in self._weights.items():
            weights.close()
            remove_live(live_path(self.data, name))

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it and wait until it answers."""
        fds = () if self._config.fd is None else (self._config.fd,)
        metrics = self.data / "run" / "metrics"
        metrics.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", *self._module, msgspec.json.encode(self._config).decode()],
            stdout=subprocess.PIPE,
            pass_fds=fds,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(metrics), "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        with self.process.stdout as said:
            line = said.readline()
        if not line:
            raise RuntimeError(f"the server ended with {self.process.wait()} before it answered")
        address = msgspec.json.decode(line)
        self.host, self.port = address["host"], address["port"]

    def stop(self) -> int:
        """Send SIGTERM and wait; the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)

    def kill(self) -> None:
        """Send SIGKILL, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)

    def request(
        self, method: str, path: str, body: bytes | None = None, media: str = "application/json", **headers: str
    ) -> urllib3.BaseHTTPResponse:
        """One request, on a connection that is kept."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            named["Content-Type"] = media
        return self._http.request(method, f"http://{self.host}:{self.port}{path}", body=body, headers=named)

    def post(self, path: str, value: object, **headers: str) -> urllib3.BaseHTTPResponse:
        """A value as JSON."""
        return self.request("POST", path, msgspec.json.encode(value), **headers)

    def get(self, path: str) -> Any:
        """The JSON at this path."""
        return self.request("GET", path).json()

    def publish(self, service: str, version: int, model: FastModel | None = None, **progress: Any) -> None:
        """Do what the learner does: expose a version of this model, or of an untaught one."""
        if service not in self._weights:
            self._weights[service] = SharedLiveWeights(live_path(self.data, service))
        block = (model or FastModel(self.specs[service])).freeze(Version(version), progress.get("position", {}))
        self._weights[service].publish(block, Progress(version=Version(version), **progress))

    def logged(self, service: str, kind: Kind = Kind.EXAMPLE) -> list[Batch]:
        """What the service's log holds of this kind."""
        reader = LocalLogReader(self.data / service / "log")
        try:
            return [
                decode(bytes(frame.payload))
                for partition, end in reader.ends().items()
                for frame in reader.read(partition, reader.starts()[partition], end)
                if frame.kind is kind
            ]
        finally:
            reader.close()

    def count(self, service: str, kind: Kind = Kind.EXAMPLE) -> int:
        """How many events of this kind the service's log holds."""
        return sum(map(len, self.logged(service, kind)))
