"""What a consolidation hands over: whole or not there, checked by content, and held against being forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from penstock.errors import CheckpointDamaged
from penstock.events import Offset, Partition
from penstock.learn.interface import HeldOut, State
from penstock.learn.ready import (
    Hold,
    Ready,
    ReadyManifest,
    hold,
    holds,
    read_ready,
    ready_folder,
    ready_numbers,
    release,
    remove_ready,
    write_ready,
)

READY = Ready(
    manifest=ReadyManifest(
        number=3,
        reason="drift",
        step=17,
        base="ab" * 32,
        needed={Partition(0): Offset(40), Partition(1): Offset(2)},
        held_out=HeldOut(events=9, gained=4, lost=1, forgotten=0.01, forgotten_class="é"),
        details={"loss": 0.5, "after": {"é": 0.75}},
    ),
    learner={"position": [[0, 41]], "join": {"clock": 1.5}},
    model=State({"classes": ["a"], "base": "ab" * 32}, {"w": np.arange(6.0).reshape(2, 3)}),
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_ready(tmp_path, READY)
    found = read_ready(tmp_path, 3)
    assert ready_numbers(tmp_path) == [3]
    assert msgspec.structs.replace(found.manifest, content="") == READY.manifest
    assert found.learner == READY.learner
    assert found.model.values == READY.model.values
    assert found.model.arrays["w"].tobytes() == READY.model.arrays["w"].tobytes()


def test_every_flipped_byte_of_the_state_and_every_missing_file_is_noticed(tmp_path: Path) -> None:
    write_ready(tmp_path, READY)
    state = ready_folder(tmp_path, 3) / "state.safetensors"
    whole = state.read_bytes()
    for at in range(0, len(whole), 7):
        state.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(CheckpointDamaged):
            read_ready(tmp_path, 3)
    state.unlink()
    with pytest.raises(CheckpointDamaged):
        read_ready(tmp_path, 3)
    remove_ready(tmp_path, 3)
    assert ready_numbers(tmp_path) == []
    with pytest.raises(CheckpointDamaged):
        read_ready(tmp_path, 3)


def test_a_write_that_was_interrupted_leaves_nothing_to_take_up(tmp_path: Path) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(action: str) -> None:
        if action == "ready.state":
            raise Interrupted

    with pytest.raises(Interrupted):
        write_ready(tmp_path, READY, interrupt)
    assert ready_numbers(tmp_path) == []
    write_ready(tmp_path, READY)
    assert ready_numbers(tmp_path) == [3]


def test_what_is_read_or_stands_ready_is_held_until_it_is_released(tmp_path: Path) -> None:
    hold(tmp_path, 12, {Partition(0): Offset(5)})
    write_ready(tmp_path, READY)
    assert [(held.step, held.needed) for held in holds(tmp_path)] == [(12, {0: 5}), (17, {0: 40, 1: 2})]
    release(tmp_path)
    release(tmp_path)
    assert [held.step for held in holds(tmp_path)] == [17]


def test_what_a_process_held_that_was_killed_is_free(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for pid, expected in ((os.getpid(), [4]), (gone.pid, [])):
        (tmp_path / "hold.json").write_bytes(msgspec.json.encode(Hold(step=4, needed={}, pid=pid)))
        assert [held.step for held in holds(tmp_path)] == expected
