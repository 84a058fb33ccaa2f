"""The machine that a benchmark ran on, without which its figures mean nothing."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

PROBE_BYTES = 4096
"""One page: the smallest write that a file system turns into one device write."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Hardware and libraries under the figures."""

    cpu: str
    cores: int
    """Cores that this process may use, which on a shared host are fewer than there are."""
    memory_gb: float
    kernel: str
    python: str
    numpy: str
    blas: str
    filesystem: str
    """Of the folder where the benchmark kept its data; on ``tmpfs`` nothing is durable and the figures say little."""
    fdatasync_ms: dict[str, float]
    """p50 and p99 of writing one page and making it durable, in that folder."""


def describe(folder: Path, *, probes: int = 200) -> Machine:
    """Look at this machine and at the disk under ``folder``."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        numpy=np.__version__,
        blas=_blas(),
        filesystem=_filesystem(folder),
        fdatasync_ms=percentiles(sync_times_ms(folder, PROBE_BYTES, probes)),
    )


def sync_times_ms(folder: Path, size: int, times: int) -> list[float]:
    """Milliseconds of each of ``times`` appends of ``size`` bytes, made durable one after the other."""
    data = os.urandom(size)
    taken = []
    with tempfile.NamedTemporaryFile(dir=folder, prefix="fdatasync-") as file:
        descriptor = file.fileno()
        for _ in range(times):
            started = time.perf_counter()
            os.write(descriptor, data)
            os.fdatasync(descriptor)
            taken.append((time.perf_counter() - started) * 1e3)
    return taken


def percentiles(values_ms: list[float]) -> dict[str, float]:
    """The median and the 99th percentile, as the reports call them; empty where nothing was measured."""
    if not values_ms:
        return {}
    p50, p99 = np.percentile(np.asarray(values_ms), [50, 99])
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _blas() -> str:
    config: dict[str, Any] = np.show_config(mode="dicts")  # type: ignore[assignment]
    blas = config.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def _filesystem(folder: Path) -> str:
    """The type of the deepest mount that the folder is under."""
    place = folder.resolve()
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "unknown"
    under = [(len(point), kind) for point, kind in mounts if place.is_relative_to(point)]
    return max(under)[1] if under else "unknown"
