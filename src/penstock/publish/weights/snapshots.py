"""Snapshots on the local disk: a folder a version with ``weights.safetensors`` and ``manifest.json``, never changed.

Where what was served was all that the model had learned, ``state.safetensors`` is there, too: the model's state, from
which learning goes on when somebody goes back to the version.

The name of a version's folder appears only when it is whole and durable. Loading runs no code: safetensors holds arrays
alone, and the manifest is plain JSON.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from penstock.errors import SnapshotDamaged, UnknownVersion
from penstock.eventlog.folders import sync_folder
from penstock.events import Version
from penstock.learn.block import digest
from penstock.learn.checkpoint import to_safetensors, write_durably
from penstock.learn.interface import Block, BlockHead, State
from penstock.learn.steps import Reached, nothing
from penstock.publish.interface import Snapshots

FORMAT = 1
_VALUES = "values"
"""The name under which a state's plain values stand among its arrays."""

SNAPSHOTS_KEPT = 100
"""Materialised versions that are kept, to be gone back to by hand; older ones can be rebuilt from the log as far as it
reaches back."""
SNAPSHOTS_KEPT_MIN = 10
SNAPSHOTS_MAX_BYTES = 512 * 1024 * 1024
"""What they may take: a hundred of a usual service take some 150 MiB. At least SNAPSHOTS_KEPT_MIN stay."""


class SnapshotManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What ``manifest.json`` says."""

    format: int
    content: str
    """SHA-256 of the block: of its head and of every array."""
    state: str = ""
    """SHA-256 of ``state.safetensors``; empty where there is none."""
    head: BlockHead


class LocalSnapshots:
    """The snapshots of one service in a folder. One process writes, any process reads."""

    def __init__(self, folder: Path, service: str, reached: Reached = nothing) -> None:
        self.folder = folder
        self._service = service
        self._reached = reached

    def put(self, block: Block, state: State | None = None) -> str:
        content = digest(block)
        place = self.place(block.head.version)
        if place.exists():
            if digest(self.get(block.head.version)) != content:
                raise SnapshotDamaged(folder=place, reason="this version was written before with other weights")
            return content
        self.folder.mkdir(parents=True, exist_ok=True)
        beside = self.folder / f"tmp-{block.head.version}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        packed = b"" if state is None else _packed(state)
        hashed = hashlib.sha256(packed).hexdigest() if packed else ""
        manifest = SnapshotManifest(format=FORMAT, content=content, head=block.head, state=hashed)
        write_durably(beside / "weights.safetensors", to_safetensors(block.arrays))
        if packed:
            write_durably(beside / "state.safetensors", packed)
        self._reached("snapshot.weights")
        write_durably(beside / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest), indent=2))
        sync_folder(beside)
        os.rename(beside, place)
        self._reached("snapshot.renamed")
        sync_folder(self.folder)
        return content

    def get(self, version: Version) -> Block:
        place = self.place(version)
        try:
            manifest = msgspec.json.decode((place / "manifest.json").read_bytes(), type=SnapshotManifest)
            arrays: dict[str, NDArray[Any]] = load((place / "weights.safetensors").read_bytes())
        except FileNotFoundError as error:
            if not place.exists():
                raise UnknownVersion(service=self._service, version=version) from error
            raise SnapshotDamaged(folder=place, reason=str(error)) from error
        except (OSError, msgspec.MsgspecError, SafetensorError) as error:
            raise SnapshotDamaged(folder=place, reason=str(error)) from error
        if manifest.format != FORMAT:
            raise SnapshotDamaged(folder=place, reason=f"format {manifest.format} is not known, only {FORMAT}")
        block = Block(head=manifest.head, arrays={name: np.asarray(array) for name, array in arrays.items()})
        if digest(block) != manifest.content or manifest.head.version != version:
            raise SnapshotDamaged(folder=place, reason="the weights are not what the manifest says")
        return block

    def state(self, version: Version) -> State:
        place = self.place(version)
        try:
            manifest = msgspec.json.decode((place / "manifest.json").read_bytes(), type=SnapshotManifest)
            packed = (place / "state.safetensors").read_bytes()
            if hashlib.sha256(packed).hexdigest() != manifest.state:
                raise SnapshotDamaged(folder=place, reason="the model's state is not what the manifest says")
            arrays = load(packed)
            values = msgspec.msgpack.decode(arrays.pop(_VALUES).tobytes(), type=dict[str, Any])
        except FileNotFoundError as error:
            raise UnknownVersion(service=self._service, version=version) from error
        except (OSError, KeyError, msgspec.MsgspecError, SafetensorError) as error:
            raise SnapshotDamaged(folder=place, reason=str(error)) from error
        return State(values, {name: array.copy() for name, array in arrays.items()})

    def versions(self, *, with_state: bool = False) -> list[Version]:
        if not self.folder.exists():
            return []
        found = [path for path in self.folder.iterdir() if path.name.isdigit()]
        kept = [path for path in found if not with_state or (path / "state.safetensors").exists()]
        return [Version(number) for number in sorted(int(path.name) for path in kept)]

    def bytes(self) -> int:
        """What they take on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("*/*"))

    def bases(self) -> set[str]:
        needed: set[str] = set()
        for version in self.versions():
            place = self.place(version)
            try:
                manifest = msgspec.json.decode((place / "manifest.json").read_bytes(), type=SnapshotManifest)
            except (OSError, msgspec.MsgspecError) as error:
                raise SnapshotDamaged(folder=place, reason=str(error)) from error
            needed.add(manifest.head.base)
        return needed - {""}

    def remove(self, version: Version) -> None:
        aside = self.folder / f"tmp-old-{version}"
        try:
            os.rename(self.place(version), aside)
        except FileNotFoundError as error:
            raise UnknownVersion(service=self._service, version=version) from error
        shutil.rmtree(aside)

    def place(self, version: Version) -> Path:
        """Where the version of this number stands."""
        return self.folder / f"{version:020d}"


def _packed(state: State) -> bytes:
    values = np.frombuffer(msgspec.msgpack.encode(state.values), np.uint8)
    return to_safetensors({_VALUES: values, **state.arrays})


def thin(snapshots: Snapshots, needed: Collection[Version]) -> None:
    """Remove the oldest beyond what may be kept, but none that is needed."""
    versions = snapshots.versions()
    room = SNAPSHOTS_KEPT
    if len(versions) > SNAPSHOTS_KEPT_MIN:
        of_equal_size = SNAPSHOTS_MAX_BYTES * len(versions) // max(snapshots.bytes(), 1)
        room = max(SNAPSHOTS_KEPT_MIN, min(SNAPSHOTS_KEPT, of_equal_size))
    for version in versions[:-room]:
        if version not in needed:
            snapshots.remove(version)
