"""Snapshots on the local disk: a folder a version with ``weights.safetensors`` and ``manifest.json``, never changed.

The name of a version's folder appears only when it is whole and durable. Loading runs no code: safetensors holds arrays
alone, and the manifest is plain JSON.
"""

from __future__ import annotations

import os
import shutil
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
from penstock.learn.interface import Block, BlockHead
from penstock.learn.steps import Reached, nothing

FORMAT = 1


class SnapshotManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What ``manifest.json`` says."""

    format: int
    content: str
    """SHA-256 of the block: of its head and of every array."""
    head: BlockHead


class LocalSnapshots:
    """The snapshots of one service in a folder. One process writes, any process reads."""

    def __init__(self, folder: Path, service: str, reached: Reached = nothing) -> None:
        self.folder = folder
        self._service = service
        self._reached = reached

    def put(self, block: Block) -> str:
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
        manifest = SnapshotManifest(format=FORMAT, content=content, head=block.head)
        write_durably(beside / "weights.safetensors", to_safetensors(block.arrays))
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

    def versions(self) -> list[Version]:
        if not self.folder.exists():
            return []
        return [Version(n) for n in sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())]

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
