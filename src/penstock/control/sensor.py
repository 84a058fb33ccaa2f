"""Looks at the processes of a house, as the Linux kernel counts them.

Where there is no ``/proc``, nothing is seen, and nothing is made up for it: the house then costs what its machine does.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from penstock.control.meter.rates import Capacity
from penstock.control.meter.sample import Process, Role

PROC = Path("/proc")
TICKS_S = float(os.sysconf("SC_CLK_TCK"))
MEMORY_EVERY_S = 10.0
"""Adding up the pages of a process takes milliseconds, and what it holds changes slowly."""
GPU_EVERY_S = 10.0
GPU_WAIT_S = 5.0
_ROLES: Mapping[str, Role] = {
    "_server": "server",
    "_learner": "learner",
    "_consolidator": "consolidator",
    "_consolidate": "consolidator",
    "_governor": "governor",
}


class Sensor:
    """Sees the supervisor's process and all that it has started."""

    def __init__(self, supervisor: int, services: Sequence[str]) -> None:
        self._supervisor = supervisor
        self._services = set(services)
        self._boot_at = _boot_at()
        self._boot = _text(PROC / "sys/kernel/random/boot_id").strip()[:8]
        self._named: dict[str, tuple[Role, str]] = {}
        self._memory_gib: dict[str, float] = {}
        self._memory_at = -MEMORY_EVERY_S
        self._gpus: dict[int, float] = {}
        self._gpus_at = -GPU_EVERY_S
        self._smi = shutil.which("nvidia-smi")

    def look(self, now: float) -> tuple[str, tuple[Process, ...]]:
        """The key of the supervisor, and the processes; ``now`` is by a clock that does not jump."""
        if self._smi is not None and now - self._gpus_at >= GPU_EVERY_S:
            self._gpus, self._gpus_at = devices_held(self._smi), now
        again = now - self._memory_at >= MEMORY_EVERY_S
        found: list[Process] = []
        # Parents first: what a child left behind is then never seen at its parent and at itself.
        waiting = [(self._supervisor, "")]
        while waiting:
            pid, parent = waiting.pop()
            seen = self._process(pid, parent, measure=again)
            if seen is not None:
                found.append(seen)
                waiting += [(child, seen.key) for child in _children(pid)]
        if again:
            self._memory_at = now
        here = {process.key for process in found}
        self._named = {key: named for key, named in self._named.items() if key in here}
        self._memory_gib = {key: gib for key, gib in self._memory_gib.items() if key in here}
        return (found[0].key if found else ""), tuple(found)

    def _process(self, pid: int, parent: str, *, measure: bool) -> Process | None:
        fields = _text(PROC / str(pid) / "stat").rpartition(")")[2].split()
        if len(fields) < 22:
            return None
        own, reaped = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
        began = int(fields[19])
        key = f"{self._boot}-{pid}-{began}"
        if key not in self._named:
            self._named[key] = self._name(pid)
        if measure or key not in self._memory_gib:
            self._memory_gib[key] = _memory_gib(pid)
        role, service = self._named[key]
        return Process(
            key=key,
            parent=parent,
            service=service,
            role="supervisor" if pid == self._supervisor else role,
            started=self._boot_at + began / TICKS_S,
            cpu_s=own / TICKS_S,
            reaped_cpu_s=reaped / TICKS_S,
            memory_gib=self._memory_gib[key],
            gpus=self._gpus.get(pid, 0.0),
        )

    def _name(self, pid: int) -> tuple[Role, str]:
        words = _text(PROC / str(pid) / "cmdline").split("\0")
        role: Role = next((_ROLES[word] for word in words if word in _ROLES), "supervisor")
        service = next((word for word in words if word in self._services), "")
        # A server answers for all services, and names them.
        return role, service if role in ("learner", "consolidator") else ""


def capacity() -> Capacity:
    """What this machine has, or what its container may use of it."""
    cores = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
    memory_b = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    quota, _, period = _text(Path("/sys/fs/cgroup/cpu.max")).partition(" ")
    if quota.isdigit():
        cores = min(cores, int(quota) / int(period))
    most = _text(Path("/sys/fs/cgroup/memory.max")).strip()
    if most.isdigit():
        memory_b = min(memory_b, float(most))
    arch = "arm64" if platform.machine() in ("aarch64", "arm64") else "amd64"
    smi = shutil.which("nvidia-smi")
    return Capacity(cores=cores, memory_gib=memory_b / 2**30, gpus=_devices(smi) if smi else 0, arch=arch)


def devices_held(smi: str) -> dict[int, float]:
    """Of each process that holds devices, how many: one that several hold is split by the memory that they have on it.
    Empty where there is none, or it does not say."""
    asked = _ask(smi, "--query-compute-apps=pid,gpu_uuid,used_memory")
    rows = [line.split(", ") for line in asked.splitlines() if line.count(", ") == 2]
    held = [(int(pid), device, float(mib) if mib.isdigit() else 1.0) for pid, device, mib in rows if pid.isdigit()]
    whole: dict[str, float] = {}
    for _, device, mib in held:
        whole[device] = whole.get(device, 0.0) + mib
    shares: dict[int, float] = {}
    for pid, device, mib in held:
        shares[pid] = shares.get(pid, 0.0) + mib / (whole[device] or 1.0)
    return shares


def _devices(smi: str) -> int:
    return len(_ask(smi, "--query-gpu=uuid").splitlines())


def _ask(smi: str, query: str) -> str:
    try:
        asked = subprocess.run(
            [smi, query, "--format=csv,noheader,nounits"], capture_output=True, timeout=GPU_WAIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.decode(errors="replace") if asked.returncode == 0 else ""


def folder_gib(folder: Path) -> float:
    """What lies in a folder."""
    sizes = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                sizes += os.stat(os.path.join(parent, name)).st_size
    return sizes / 2**30


def _memory_gib(pid: int) -> float:
    """The proportional set size: of pages that processes share, each has its part."""
    for line in _text(PROC / str(pid) / "smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return float(line.split()[1]) / 2**20
    return 0.0


def _children(pid: int) -> list[int]:
    return [int(child) for child in _text(PROC / str(pid) / "task" / str(pid) / "children").split()]


def _boot_at() -> float:
    for line in _text(PROC / "stat").splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def _text(path: Path) -> str:
    """What a file of the kernel says; nothing where the process has gone or may not be looked at."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
