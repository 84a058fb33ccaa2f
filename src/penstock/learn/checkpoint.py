"""Checkpoints: everything that the learner knows, together, on disk; a restart begins at the newest that can be read.

A checkpoint is a folder named after its step, with ``state.safetensors`` (all arrays, and all plain values as
MessagePack) and ``manifest.json`` (format, place in the log, and the SHA-256 of the state). It is written beside its
place, made durable and then renamed, so that a folder that has its name is whole unless the disk lost something.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from penstock.errors import CheckpointDamaged
from penstock.eventlog.folders import sync_folder
from penstock.events import Offset, Partition, Position, Version
from penstock.learn.steps import Reached, nothing

FORMAT = 1
_VALUES = "values"
"""The name under which the plain values stand among the arrays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A learner's whole state after one step."""

    step: int
    """The number of the last step that is in it."""
    version: Version
    """What was served."""
    position: Position
    needed: Position
    """The oldest offsets that a restart from here reads: the log must be kept from there on."""
    values: dict[str, Any]
    """Plain values that survive MessagePack."""
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    bases: tuple[str, ...] = ()
    """Ids of the bases without which it cannot be restored."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ``manifest.json`` says. A field that is not known is one whose name was damaged."""

    format: int
    step: int
    version: Version
    position: dict[Partition, Offset]
    needed: dict[Partition, Offset]
    content: str
    """SHA-256 of ``state.safetensors``."""
    bases: tuple[str, ...] = ()
    """Ids of the bases without which it cannot be restored."""


class _Inside(msgspec.Struct, frozen=True, kw_only=True):
    """The plain part of ``state.safetensors``; it repeats the manifest so that a damaged manifest is noticed."""

    step: int
    version: Version
    position: dict[Partition, Offset]
    needed: dict[Partition, Offset]
    values: dict[str, Any]
    bases: tuple[str, ...] = ()


Newest = tuple[Checkpoint | None, list[CheckpointDamaged]]
"""The newest checkpoint that can be read, and why each newer one was passed over."""


class Checkpoints:
    """The checkpoints of one service: written by its learner, read at its start."""

    def __init__(self, folder: Path, kept: int, reached: Reached = nothing) -> None:
        self.folder = folder
        self._kept = kept
        self._reached = reached
        self._peeked: tuple[list[int], Newest] | None = None
        """What was read ahead, of which steps there were then."""
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, checkpoint: Checkpoint) -> None:
        """Make it durable, then remove all but the newest ``kept``."""
        self._reached("checkpoint.begin")
        for leftover in self.folder.glob("tmp-*"):
            shutil.rmtree(leftover)
        state, manifest = _pack(checkpoint)
        place = self.folder / _name(checkpoint.step)
        beside = self.folder / f"tmp-{checkpoint.step}"
        beside.mkdir()
        write_durably(beside / "state.safetensors", state)
        self._reached("checkpoint.state")
        write_durably(beside / "manifest.json", manifest)
        sync_folder(beside)
        self._reached("checkpoint.manifest")
        if place.exists():
            # A step is written twice only when what stands there could not be read at the start.
            self._discard(place)
        os.rename(beside, place)
        self._reached("checkpoint.renamed")
        sync_folder(self.folder)
        self._reached("checkpoint.durable")
        for old in self.steps()[: -self._kept]:
            self._discard(self.folder / _name(old))
            self._reached("checkpoint.discarded")

    def peek(self) -> Newest:
        """The newest, which is not to be changed: who restores it gets the same, without reading it again."""
        self._peeked = self.steps(), self.newest()
        return self._peeked[1]

    def newest(self, before: int | None = None) -> Newest:
        """The newest readable checkpoint (of a step below ``before``), and why each newer one was passed over. It is
        the caller's own."""
        peeked, self._peeked = self._peeked, None
        if before is None and peeked is not None and peeked[0] == self.steps():
            return peeked[1]
        damaged: list[CheckpointDamaged] = []
        for step in reversed(self.steps()):
            if before is None or step < before:
                try:
                    return self.read(step), damaged
                except CheckpointDamaged as error:
                    damaged.append(error)
        return None, damaged

    def read(self, step: int) -> Checkpoint:
        """Raises CheckpointDamaged when content and manifest disagree or the format is not known."""
        folder = self.folder / _name(step)
        try:
            manifest = read_manifest(folder)
            state = (folder / "state.safetensors").read_bytes()
        except (OSError, msgspec.MsgspecError) as error:
            raise CheckpointDamaged(folder=folder, reason=str(error)) from error
        if manifest.format != FORMAT:
            raise CheckpointDamaged(folder=folder, reason=f"format {manifest.format} is not known, only {FORMAT}")
        if hashlib.sha256(state).hexdigest() != manifest.content:
            raise CheckpointDamaged(folder=folder, reason="state.safetensors is not what the manifest says")
        try:
            arrays = load(state)
            inside = msgspec.msgpack.decode(arrays.pop(_VALUES).tobytes(), type=_Inside)
        except (SafetensorError, KeyError, msgspec.MsgspecError) as error:
            raise CheckpointDamaged(folder=folder, reason=str(error)) from error
        told = (manifest.step, manifest.version, manifest.position, manifest.needed, manifest.bases)
        held = (inside.step, inside.version, inside.position, inside.needed, inside.bases)
        if told != held or inside.step != step:
            raise CheckpointDamaged(folder=folder, reason="the manifest tells of another state")
        return Checkpoint(
            step=inside.step,
            version=inside.version,
            position=inside.position,
            needed=inside.needed,
            values=inside.values,
            bases=inside.bases,
            arrays={name: array.copy() for name, array in arrays.items()},
        )

    def steps(self) -> list[int]:
        """The steps of the checkpoints on disk, ascending."""
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())

    def bases(self) -> set[str]:
        """Ids of the bases that some checkpoint on disk needs. Raises CheckpointDamaged where one does not say."""
        needed: set[str] = set()
        for step in self.steps():
            folder = self.folder / _name(step)
            try:
                needed.update(read_manifest(folder).bases)
            except (OSError, msgspec.MsgspecError) as error:
                raise CheckpointDamaged(folder=folder, reason=str(error)) from error
        return needed

    def replay_from(self) -> int:
        """The step behind which entries may be replayed: 0 until as many checkpoints exist as are kept."""
        steps = self.steps()
        return steps[0] if len(steps) >= self._kept else 0

    def _discard(self, place: Path) -> None:
        """Remove a checkpoint in such a way that no half of one is ever found under a checkpoint's name."""
        aside = self.folder / f"tmp-old-{place.name}"
        os.rename(place, aside)
        self._reached("checkpoint.discard")
        shutil.rmtree(aside)


def retention_floor(folder: Path, kept: int = 1) -> Position | None:
    """The oldest offset of each partition that some checkpoint in this folder needs; None while there are fewer than
    ``kept``, when a restart that cannot read one begins at the log's beginning.

    Events before it may be removed from the log; a partition that is missing here may not be touched."""
    manifests = sorted(path for path in folder.glob("[0-9]*/manifest.json") if path.parent.name.isdigit())
    if len(manifests) < kept:
        return None
    floor: Position | None = None
    for path in manifests:
        try:
            needed = read_manifest(path.parent).needed
        except (FileNotFoundError, msgspec.MsgspecError):
            # Just removed by its learner, or damaged: an older or newer one speaks for the rest.
            continue
        if floor is None:
            floor = dict(needed)
        else:
            floor = {p: min(offset, needed[p]) for p, offset in floor.items() if p in needed}
    return floor


def read_manifest(folder: Path) -> Manifest:
    """What stands in the folder's ``manifest.json``."""
    return msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)


def _pack(checkpoint: Checkpoint) -> tuple[bytes, bytes]:
    if _VALUES in checkpoint.arrays:
        raise ValueError(f"no array of a checkpoint may be called {_VALUES!r}")
    inside = _Inside(
        step=checkpoint.step,
        version=checkpoint.version,
        position=checkpoint.position,
        needed=checkpoint.needed,
        values=checkpoint.values,
        bases=checkpoint.bases,
    )
    values = np.frombuffer(msgspec.msgpack.encode(inside), np.uint8)
    state = to_safetensors({_VALUES: values, **checkpoint.arrays})
    manifest = Manifest(
        format=FORMAT,
        step=checkpoint.step,
        version=checkpoint.version,
        position=checkpoint.position,
        needed=checkpoint.needed,
        content=hashlib.sha256(state).hexdigest(),
        bases=checkpoint.bases,
    )
    return state, msgspec.json.format(msgspec.json.encode(manifest), indent=2)


def fingerprint(checkpoint: Checkpoint, *, without: tuple[str, ...] = ()) -> str:
    """SHA-256 of its version, values and arrays, but for the values of these names."""
    values = {name: _by_name(value) for name, value in checkpoint.values.items() if name not in without}
    hashed = hashlib.sha256(msgspec.msgpack.encode([checkpoint.version, values], order="sorted"))
    for name, array in sorted(checkpoint.arrays.items()):
        hashed.update(f"{name}{array.dtype}{array.shape}".encode())
        hashed.update(np.asarray(array, order="C").tobytes())
    return hashed.hexdigest()


def _by_name(value: Any) -> Any:
    """The same with all keys as texts, by which they can be put in order."""
    return {str(key): _by_name(item) for key, item in value.items()} if isinstance(value, dict) else value


def to_safetensors(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The arrays as one file, the same bytes for the same arrays."""
    packed: bytes = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    return packed


def _name(step: int) -> str:
    return f"{step:020d}"


def write_durably(path: Path, content: bytes) -> None:
    """Make a new file with this content; its name is durable only when its folder is synced, too."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
