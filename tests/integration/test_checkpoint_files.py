"""Checkpoints: all or nothing, the newest readable one is found, and the log is kept for the oldest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from penstock.errors import CheckpointDamaged
from penstock.events import Offset, Partition, Version
from penstock.learn.checkpoint import Checkpoint, Checkpoints, retention_floor

P0, P1 = Partition(0), Partition(1)


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        step=step,
        version=Version(step // 2),
        position={P0: Offset(10 * step)},
        needed={P0: Offset(10 * step - 5)},
        values={"text": "ä", "list": [1, 2.5, None, float("inf")], "nested": {"a": {"b": True}}},
        arrays={
            "matrix": np.arange(6, dtype=np.float32).reshape(2, 3) * step,
            "empty": np.zeros((0, 4)),
            "scalar": np.array(3.5),
            "strided": np.arange(10)[::3],
        },
    )


def assert_same(found: Checkpoint | None, expected: Checkpoint) -> None:
    assert found is not None
    for name in ("step", "version", "position", "needed", "values"):
        assert getattr(found, name) == getattr(expected, name)
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].shape == array.shape
        assert found.arrays[name].flags.writeable, "a model goes on to change what it was given"
        assert np.array_equal(found.arrays[name], array)


def test_everything_comes_back_and_only_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, kept=2)
    assert checkpoints.newest() == (None, [])
    for step in (3, 7, 12):
        checkpoints.write(checkpoint(step))
    assert checkpoints.steps() == [7, 12]
    assert not list(tmp_path.glob("tmp-*"))
    found, damaged = Checkpoints(tmp_path, kept=2).newest()
    assert_same(found, checkpoint(12))
    assert damaged == []


def test_what_was_peeked_at_is_not_read_again_unless_there_is_another_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, kept=2)
    checkpoints.write(checkpoint(3))
    peeked = checkpoints.peek()
    state = tmp_path / f"{3:020d}" / "state.safetensors"
    state.write_bytes(b"nobody looks at it")
    found = checkpoints.newest()
    assert found is peeked
    assert_same(found[0], checkpoint(3))
    # Who got it may have changed it, so the next one is read.
    found, damaged = checkpoints.newest()
    assert found is None
    assert len(damaged) == 1

    checkpoints.peek()
    Checkpoints(tmp_path, kept=2).write(checkpoint(4))
    assert_same(checkpoints.newest()[0], checkpoint(4))
    checkpoints.peek()
    assert checkpoints.newest(before=4)[0] is None


def test_every_flipped_byte_and_every_missing_file_is_noticed_and_the_one_before_is_found(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, kept=3)
    checkpoints.write(checkpoint(4))
    checkpoints.write(checkpoint(5))
    newest = max(tmp_path.iterdir())
    for path in sorted(newest.iterdir()):
        whole = path.read_bytes()
        for at in range(0, len(whole), 1 + len(whole) // 60):
            flipped = bytearray(whole)
            flipped[at] ^= 1
            path.write_bytes(flipped)
            if path.suffix == ".json" and _means_the_same(whole, bytes(flipped)):
                continue
            found, damaged = checkpoints.newest()
            assert_same(found, checkpoint(4))
            assert [str(newest) in str(error) for error in damaged] == [True]
        path.unlink()
        found, _ = checkpoints.newest()
        assert_same(found, checkpoint(4))
        path.write_bytes(whole)
    assert_same(checkpoints.newest()[0], checkpoint(5))


def _means_the_same(whole: bytes, flipped: bytes) -> bool:
    """White space between JSON's parts carries nothing."""
    try:
        return bool(json.loads(whole) == json.loads(flipped))
    except ValueError:
        return False


def test_another_format_is_refused_by_name(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, kept=3)
    checkpoints.write(checkpoint(4))
    manifest = max(tmp_path.iterdir()) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(CheckpointDamaged, match="format 2 is not known, only 1"):
        checkpoints.read(4)


def test_a_damaged_one_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, kept=3)
    checkpoints.write(checkpoint(4))
    (max(tmp_path.iterdir()) / "state.safetensors").write_bytes(b"")
    checkpoints.write(checkpoint(4))
    assert_same(checkpoints.newest()[0], checkpoint(4))


def test_the_log_is_kept_for_the_oldest_checkpoint_and_partitions_it_does_not_know(tmp_path: Path) -> None:
    assert retention_floor(tmp_path) is None
    checkpoints = Checkpoints(tmp_path, kept=2)
    for step in (4, 5):
        checkpoints.write(checkpoint(step))
    assert retention_floor(tmp_path) == {P0: 35}
    later = checkpoint(6)
    later.position[P1], later.needed[P1] = Offset(9), Offset(8)
    checkpoints.write(later)
    assert retention_floor(tmp_path) == {P0: 45}, "the older checkpoint begins partition 1 at its beginning"
    later = checkpoint(7)
    later.position[P1], later.needed[P1] = Offset(20), Offset(10)
    checkpoints.write(later)
    assert retention_floor(tmp_path) == {P0: 55, P1: 8}
