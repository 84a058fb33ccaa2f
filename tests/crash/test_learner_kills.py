"""The learner's process, killed at random moments while events arrive: every event is learned once, a version never
stands for two contents, and the state is that of a learner which takes the recorded steps in one go."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from penstock.learn.fast.model import FastModel
from penstock.publish.records.receipts import SqliteReceipts
from penstock.publish.weights.live import SharedLiveReader
from penstock.testing.local_house import ALL, SPEC, Traffic, publisher_of


def start_learner(folder: Path) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            publisher_of(folder).run(threading.Event())
        finally:
            os._exit(1)
    return pid


class Witness:
    """A server's eyes: the contents that were served under each version."""

    def __init__(self, folder: Path) -> None:
        self._reader = SharedLiveReader(folder / "live")
        self.contents: dict[int, str] = {}

    def look(self) -> None:
        packed = self._reader.packed()
        found = self._reader.block()
        if packed is not None and found is not None and self._reader.packed() == packed:
            content = hashlib.sha256(packed).hexdigest()
            assert self.contents.setdefault(found.head.version, content) == content


def kill_often(folder: Path, kills: int, seed: int) -> tuple[Traffic, Witness]:
    # What a model loads at first is loaded here, so that lives are not spent on that.
    FastModel(SPEC)
    chance = random.Random(seed)
    traffic, witness = Traffic(folder, seed), Witness(folder)
    for life in range(kills):
        pid = start_learner(folder)
        until = time.monotonic() + chance.uniform(0.01, 1.0)
        # Every fourth life may end before it has done anything; the others show something new, however slow they are.
        seen = len(witness.contents) if life % 4 else -1
        while time.monotonic() < until or len(witness.contents) == seen:
            traffic.send()
            witness.look()
            time.sleep(chance.uniform(0.0, 0.01))
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the learner ended by itself"
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        witness.look()
    traffic.close()
    return traffic, witness


def demand_exactly_once(tmp_path: Path, kills: int, seed: int) -> None:
    folder = tmp_path / "killed"
    traffic, witness = kill_often(folder, kills, seed)
    publisher = publisher_of(folder)
    publisher.start()
    while publisher.step() or publisher.has_backlog():
        pass
    publisher.checkpoint()
    state, progress = publisher.state_hash(), publisher.progress
    publisher.close()
    witness.look()
    receipts = SqliteReceipts(folder / "versions.sqlite", SPEC.name, read_only=True)
    rows = receipts.newest(ALL)
    receipts.close()

    assert len(witness.contents) >= kills - kills // 4
    assert progress.examples_learned == traffic.examples
    settled = progress.feedback_learned + progress.feedback_duplicate + progress.feedback_unknown
    settled += progress.feedback_late + progress.feedback_corrected + progress.feedback_retracted
    assert settled + progress.feedback_waiting == traffic.feedback
    assert [row.version for row in rows] == list(range(progress.version, 0, -1))
    learned_to = {0: 0, 1: 0}
    for row in reversed(rows):
        for partition, start, stop in row.ranges:
            assert start == learned_to[partition]
            learned_to[partition] = stop

    clean = tmp_path / "clean"
    clean.mkdir()
    shutil.copytree(folder / "steps", clean / "steps")
    (clean / "log").symlink_to(folder / "log")
    (clean / "steps" / "lock").unlink()
    repeated = publisher_of(clean)
    repeated.start()
    assert repeated.state_hash() == state
    assert repr(repeated.progress) == repr(progress)
    repeated.close()
    receipts = SqliteReceipts(clean / "versions.sqlite", SPEC.name, read_only=True)
    assert receipts.newest(ALL) == rows
    receipts.close()


def test_killed_a_dozen_times(tmp_path: Path) -> None:
    demand_exactly_once(tmp_path, kills=12, seed=1)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
def test_killed_a_hundred_times(tmp_path: Path, seed: int) -> None:
    demand_exactly_once(tmp_path, kills=100, seed=seed)
