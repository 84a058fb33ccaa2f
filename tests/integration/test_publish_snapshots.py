"""Snapshots: found by number, never changed, and damage is noticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from penstock.errors import SnapshotDamaged, UnknownVersion
from penstock.events import Offset, Partition, Version
from penstock.learn.block import digest
from penstock.learn.interface import Block, BlockHead
from penstock.publish.interface import Snapshots
from penstock.publish.weights.snapshots import LocalSnapshots
from penstock.testing.memory_publish import MemorySnapshots


def block(version: int, value: float = 1.0) -> Block:
    head = BlockHead(
        version=Version(version),
        position={Partition(1): Offset(7)},
        task="regression",
        schema="s",
        settings={"rate": 0.5, "sizes": [1, 2], "names": ["a", "b"]},
    )
    return Block(head, {"w": np.full((3, 2), value), "empty": np.zeros((0, 2)), "scalar": np.array(2.0)})


@pytest.fixture(params=["local", "memory"])
def snapshots(request: pytest.FixtureRequest, tmp_path: Path) -> Snapshots:
    makers: dict[str, Callable[[], Snapshots]] = {
        "local": lambda: LocalSnapshots(tmp_path / "snapshots", "small"),
        "memory": lambda: MemorySnapshots("small"),
    }
    return makers[request.param]()


def test_a_version_comes_back_with_its_head_and_every_array(snapshots: Snapshots) -> None:
    assert snapshots.versions() == []
    assert snapshots.put(block(12)) == digest(block(12)) == snapshots.put(block(12))
    snapshots.put(block(3, 2.0))
    assert snapshots.versions() == [3, 12]
    found = snapshots.get(Version(12))
    assert found.head == block(12).head
    for name, array in block(12).arrays.items():
        assert found.arrays[name].shape == array.shape
        assert np.array_equal(found.arrays[name], array)
    snapshots.remove(Version(12))
    assert snapshots.versions() == [3]
    for call in (snapshots.get, snapshots.remove):
        with pytest.raises(UnknownVersion, match="no version 12"):
            call(Version(12))


def test_other_weights_under_the_same_number_are_refused(tmp_path: Path) -> None:
    snapshots = LocalSnapshots(tmp_path, "small")
    snapshots.put(block(12))
    with pytest.raises(SnapshotDamaged, match="written before with other weights"):
        snapshots.put(block(12, 2.0))
    assert snapshots.get(Version(12)).arrays["w"][0, 0] == 1.0


def test_a_flipped_bit_a_lost_file_and_another_version_s_folder_are_noticed(tmp_path: Path) -> None:
    snapshots = LocalSnapshots(tmp_path, "small")
    snapshots.put(block(12))
    folder = next(tmp_path.iterdir())
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(SnapshotDamaged, match="not what the manifest says"):
        snapshots.get(Version(12))
    weights.unlink()
    with pytest.raises(SnapshotDamaged):
        snapshots.get(Version(12))
    weights.write_bytes(whole)
    snapshots.get(Version(12))
    folder.rename(tmp_path / f"{13:020d}")
    with pytest.raises(SnapshotDamaged):
        snapshots.get(Version(13))
