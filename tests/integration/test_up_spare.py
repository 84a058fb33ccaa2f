"""The process that is ready before it is needed: who works is a fork of it, and a killed one is followed at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from up_process import until

from penstock.control.folder import is_alive
from penstock.control.house import ONE_THREAD

SCRIPT = """
import os, sys, time
from penstock.control import spare
notes = open(sys.argv[1], "a")
spare.SOON_S = float(sys.argv[2])
loaded = os.getpid()
stop = spare.go_on_in_fork()
print(loaded, os.getpid(), file=notes, flush=True)
if not stop.wait(60):
    sys.exit(9)
print("stopped", os.getpid(), file=notes, flush=True)
sys.exit(int(sys.argv[3]))
"""

LEARNER = """
import sys, threading
from pathlib import Path
from penstock import service
from penstock.control.record import record
from penstock.specfile.reader import load
data = Path(sys.argv[1])
record({Path("one.yaml"): load(data / "one.yaml")}, data)
stop = threading.Event()
stop.set()
loaded = set()
def stay():
    loaded.update(sys.modules)
    return stop
service.go_on_in_fork = stay
service.run_learner("one", data)
print(*sorted(set(sys.modules) - loaded))
"""


class Kept:
    def __init__(self, folder: Path, *, soon_s: float = 0.0, code: int = 0) -> None:
        self.file = folder / "notes"
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(self.file), str(soon_s), str(code)], stderr=subprocess.PIPE
        )

    def workers(self) -> list[int]:
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return [int(line.split()[1]) for line in lines if line.startswith(f"{self.process.pid} ")]

    def wait_for(self, count: int) -> list[int]:
        until(lambda: len(self.workers()) == count, f"{count} workers were not begun")
        return self.workers()

    def end(self) -> int:
        assert self.process.stderr is not None
        with self.process.stderr as said:
            code = self.process.wait(20)
            self.said = said.read().decode()
        return code


def test_who_is_killed_is_followed_by_another_fork_of_the_same_process(tmp_path: Path) -> None:
    kept = Kept(tmp_path, code=7)
    for number in range(1, 4):
        os.kill(kept.wait_for(number)[-1], signal.SIGKILL)
    workers = kept.wait_for(4)
    assert len(set(workers)) == 4
    assert kept.process.pid not in workers
    kept.process.terminate()
    assert kept.end() == 7, "the exit code is that of who works"
    assert f"stopped {workers[-1]}" in kept.file.read_text()
    assert kept.said.count("was ended by SIGKILL; it goes on at once") == 3


def test_who_is_killed_too_soon_is_left_to_the_supervisor(tmp_path: Path) -> None:
    kept = Kept(tmp_path, soon_s=60.0)
    os.kill(kept.wait_for(1)[0], signal.SIGKILL)
    assert kept.end() == 128 + signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_who_ends_by_its_own_fault_is_left_to_the_supervisor(tmp_path: Path, number: int) -> None:
    kept = Kept(tmp_path)
    os.kill(kept.wait_for(1)[0], number)
    assert kept.end() == 128 + number


def test_who_works_dies_with_the_process_that_it_is_a_fork_of(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    (worker,) = kept.wait_for(1)
    kept.process.kill()
    kept.end()
    until(lambda: not is_alive(worker), "it outlived what looks after it")


def test_who_learns_finds_loaded_what_it_needs_to_begin_and_to_end(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("name: one\ntask: binary\nfeatures: {x: number}\n")
    command = [sys.executable, "-c", LEARNER, str(tmp_path)]
    environment = {**os.environ, **ONE_THREAD}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True)
    assert (tmp_path / "one" / "checkpoints" / f"{1:020d}").exists()
    assert done.stdout.split() == []
