"""Live weights: no reader ever sees half of a block, whoever is killed in the middle of whatever."""

from __future__ import annotations

import mmap
import os
import random
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from penstock.events import Offset, Partition, Version
from penstock.learn.interface import Block, BlockHead
from penstock.publish.interface import Progress
from penstock.publish.weights.live import _PROGRESS_AT as PROGRESS_PLACES
from penstock.publish.weights.live import SharedLiveReader, SharedLiveWeights
from penstock.publish.weights.live import _newest as newest
from penstock.publish.weights.live import _progress_at as progress_at
from penstock.publish.weights.live import _Told as Told
from penstock.publish.weights.live_files import live_path, remove_live
from penstock.testing.faults import FaultPoint, KillAt, Recorder, run_in_child

SIZES = (10, 300, 5_000, 9_000, 20_000, 60_000)
"""Numbers in a block; the largest outgrow the first slots."""


@pytest.fixture
def path() -> Iterator[Path]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="penstock-test-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder) / "live"


def block(version: int, seed: int = 0) -> Block:
    """Every number in it is the version's, so that a mixture of two blocks shows."""
    size = random.Random(f"{version} {seed}").choice(SIZES)
    head = BlockHead(version=Version(version), position={Partition(0): Offset(version)}, task="regression", schema="s")
    return Block(head, {"numbers": np.full(size, float(version))})


def progress(version: int) -> Progress:
    return Progress(version=Version(version), examples_learned=version, position={Partition(0): Offset(version)})


def assert_whole(found: Block) -> int:
    version = found.head.version
    assert found.head.position == {0: version}
    numbers = found.arrays["numbers"]
    assert len(numbers) in SIZES
    assert (numbers == version).all(), f"block {version} holds {set(numbers.tolist())}"
    return version


def publish_for_ever(path: Path, seed: int) -> None:
    live = SharedLiveWeights(path)
    found = SharedLiveReader(path).version()
    for version in range(found + 1, 1 << 40):
        live.publish(block(version, seed), progress(version))
        live.report(progress(version))


def read_until(path: Path, board: memoryview, number: int) -> None:
    """Check every block and progress that is there until it is over, and count the different versions seen."""
    reader = SharedLiveReader(path)
    last = told = 0
    while not board[0]:
        announced = reader.version()
        found = reader.block()
        if found is not None:
            version = assert_whole(found)
            assert version >= last
            assert version >= announced, "the block is at least as new as the version that was told before"
            board[1 + number] += version > last
            last = version
        heard = reader.progress()
        assert heard.version == heard.examples_learned == heard.position.get(Partition(0), 0)
        assert heard.examples_learned >= told
        told = heard.examples_learned


def stress(path: Path, kills: int, readers: int, seed: int) -> None:
    """So many writers, one after another, each killed after a few milliseconds, under so many readers; and more of them
    until every reader has seen as many versions, however busy the machine is."""
    board = memoryview(mmap.mmap(-1, 8 * (1 + readers))).cast("Q")
    children = []
    for number in range(readers):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                read_until(path, board, number)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(pid)
    chance = random.Random(seed)
    killed = 0
    try:
        while killed < kills or min(board[1:]) <= kills:
            assert os.waitpid(-1, os.WNOHANG) == (0, 0), "a reader has ended"
            pid = os.fork()
            if pid == 0:
                try:
                    publish_for_ever(path, killed)
                finally:
                    os._exit(1)
            time.sleep(chance.uniform(0.005, 0.06))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            killed += 1
    finally:
        board[0] = 1
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert statuses == [0] * readers


def test_readers_see_whole_blocks_alone_while_writers_are_killed(path: Path) -> None:
    stress(path, kills=60, readers=2, seed=1)


@pytest.mark.long
def test_readers_see_whole_blocks_alone_for_long(path: Path) -> None:
    stress(path, kills=1000, readers=4, seed=2)


def publish_versions(path: Path, first: int, last: int, reached: Recorder | KillAt) -> None:
    live = SharedLiveWeights(path, reached)
    for version in range(first, last + 1):
        live.publish(block(version), progress(version))
    live.close()


def test_a_writer_killed_at_any_action_leaves_the_last_whole_block_and_the_next_goes_on(path: Path) -> None:
    recorder = Recorder()
    publish_versions(path, 1, 12, recorder)
    remove_live(path)
    assert {"live.grown", "live.begin", "live.block", "live.record", "live.version"} <= {
        p.action for p in recorder.points
    }
    versions = [point.occurrence for point in recorder.points if point.action == "live.begin"]
    assert len(versions) == 12
    for point in recorder.points:
        hook = KillAt(FaultPoint(point.action, point.occurrence))
        assert not run_in_child(lambda hook=hook: publish_versions(path, 1, 12, hook))
        reader = SharedLiveReader(path)
        found = reader.block()
        before = 0 if found is None else assert_whole(found)
        assert reader.version() <= before
        publish_versions(path, before + 1, before + 3, Recorder())
        after = reader.block()
        assert after is not None
        assert assert_whole(after) == reader.version() == reader.progress().version == before + 3
        assert len(list(path.parent.glob("live.*"))) == 1, "old data files are gone"
        reader.close()
        remove_live(path)


def test_before_the_first_version_there_is_nothing_and_afterwards_it_is_found(path: Path) -> None:
    reader = SharedLiveReader(path)
    assert (reader.version(), reader.block(), reader.progress().examples_learned) == (0, None, 0)
    live = SharedLiveWeights(path)
    assert (reader.version(), reader.block(), reader.progress().examples_learned) == (0, None, 0)
    live.report(progress(7))
    assert (reader.version(), reader.block(), reader.progress().examples_learned) == (0, None, 7)
    live.publish(block(1), progress(8))
    assert reader.version() == 1
    assert reader.progress().examples_learned == 8
    live.close()
    reader.close()


def test_files_that_were_removed_and_made_again_are_found_again(path: Path) -> None:
    publish_versions(path, 1, 2, Recorder())
    reader = SharedLiveReader(path)
    assert reader.version() == 2
    remove_live(path)
    assert not list(path.parent.iterdir())
    assert reader.progress().version == 2, "what was seen stays until there is something new"
    publish_versions(path, 3, 3, Recorder())
    assert reader.progress().version == reader.version() == 3
    found = reader.block()
    assert found is not None
    assert assert_whole(found) == 3
    reader.close()


def test_names_differ_by_data_folder_and_service(tmp_path: Path) -> None:
    names = {live_path(tmp_path / folder, service) for folder in ("a", "b") for service in ("x", "y")}
    assert len(names) == 4
    assert live_path(tmp_path / "a" / ".." / "b", "x") == live_path(tmp_path / "b", "x")


def test_a_reader_that_slept_between_the_two_slots_looks_again(path: Path) -> None:
    publish_versions(path, 1, 3, Recorder())
    live = SharedLiveWeights(path)
    reader = SharedLiveReader(path)
    reader.version()
    assert reader._control is not None
    sleeps = iter([lambda: [live.report(progress(version)) for version in (4, 5, 6, 7)]])

    def read(control: mmap.mmap, at: int) -> Told | None:
        found = progress_at(control, at)
        wake = next(sleeps, None)
        if wake is not None:
            wake()
            # What stands in the other slot is being overwritten at the moment.
            at = PROGRESS_PLACES[1 - PROGRESS_PLACES.index(at)]
            live._control[at] ^= 0xFF
        return found

    told = newest(reader._control, read, PROGRESS_PLACES)
    assert told is not None
    assert told.sequence >= live._progress_sequence - 1
    live.close()
    reader.close()
