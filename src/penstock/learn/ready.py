"""What a consolidation leaves for the learner: a candidate with a new base, caught up to some step of the journal; or a
challenge, one with other settings.

A folder ``ready/<number>`` holds ``state.safetensors`` (what `Learner.save()` gave after the step) and
``manifest.json`` (where it comes from, what held-out events say of it, and the SHA-256 of the state). It is written
beside its place, made durable and then renamed. Once it is settled it may be kept as ``past/<number>``, for whoever
repeats the steps. While a consolidation is at work, ``hold.json`` says what it still reads, so that neither the journal
nor the log forgets that.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from penstock.errors import CheckpointDamaged
from penstock.eventlog.folders import sync_folder
from penstock.events import Offset, Partition
from penstock.learn.checkpoint import to_safetensors, write_durably
from penstock.learn.interface import HeldOut, State
from penstock.learn.steps import Reached, nothing

FORMAT = 1
_VALUES = "values"


class ReadyManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What ``manifest.json`` says."""

    format: int = FORMAT
    number: int
    """Of the consolidation, counted from 1."""
    reason: str
    """Why it was begun: ``schedule``, ``drift``, ``request``, or ``challenge``."""
    step: int
    """The journal's step after which the state is."""
    base: str
    """Id of the new base."""
    needed: dict[Partition, Offset]
    """The oldest offsets that catching up from here reads (`Learner.needed()`)."""
    held_out: HeldOut
    changes: tuple[str, ...] = ()
    """Settings that a challenge has changed, as people read them; empty for a new base."""
    events: int = 0
    """Labelled events that the base was trained on, each counted once."""
    trained_until: tuple[tuple[Partition, Offset], ...] = ()
    """Of each partition, the offset before which those stand."""
    seconds: float = 0.0
    """How long the consolidation took."""
    cpu_s: float = 0.0
    made_at: float = 0.0
    """Seconds since 1970."""
    details: dict[str, float | int | str | dict[str, float]] = {}
    """Further numbers for people: losses of the training, accuracies by class."""
    content: str = ""
    """SHA-256 of ``state.safetensors``; filled in when it is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A candidate, whole."""

    manifest: ReadyManifest
    learner: dict[str, Any]
    """The plain values of the learner and its join."""
    model: State


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """What a consolidation that is at work still reads."""

    step: int
    """The journal's entries behind this step."""
    needed: dict[Partition, Offset]
    """Events from these offsets on."""
    pid: int = 0
    """The process that reads them: with its end it needs nothing any more."""


def write_ready(folder: Path, ready: Ready, reached: Reached = nothing) -> Path:
    """Make it durable in the service's ``consolidation`` folder."""
    place = ready_folder(folder, ready.manifest.number)
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f"tmp-{place.name}")
    for leftover in (beside, place):
        # One that stands there already was never adopted, or its number would not have been given again.
        shutil.rmtree(leftover, ignore_errors=True)
    beside.mkdir()
    values = msgspec.msgpack.encode({"learner": ready.learner, "model": ready.model.values})
    state = to_safetensors({_VALUES: np.frombuffer(values, np.uint8), **ready.model.arrays})
    manifest = msgspec.structs.replace(ready.manifest, content=hashlib.sha256(state).hexdigest())
    write_durably(beside / "state.safetensors", state)
    reached("ready.state")
    write_durably(beside / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest), indent=2))
    sync_folder(beside)
    os.rename(beside, place)
    reached("ready.renamed")
    sync_folder(place.parent)
    return place


def read_ready(folder: Path, number: int) -> Ready:
    """The candidate of this number. Raises CheckpointDamaged when it is not there or not what was written."""
    place = ready_folder(folder, number)
    try:
        manifest = read_ready_manifest(folder, number)
        state = (place / "state.safetensors").read_bytes()
        if hashlib.sha256(state).hexdigest() != manifest.content:
            raise CheckpointDamaged(folder=place, reason="state.safetensors is not what the manifest says")
        arrays = load(state)
        values = msgspec.msgpack.decode(arrays.pop(_VALUES).tobytes(), type=dict[str, dict[str, Any]])
        model = State(values["model"], {name: array.copy() for name, array in arrays.items()})
        return Ready(manifest=manifest, learner=values["learner"], model=model)
    except (OSError, KeyError, SafetensorError, msgspec.MsgspecError) as error:
        raise CheckpointDamaged(folder=place, reason=str(error)) from error


def read_ready_manifest(folder: Path, number: int) -> ReadyManifest:
    """The manifest alone. Raises CheckpointDamaged."""
    place = ready_folder(folder, number)
    try:
        manifest = msgspec.json.decode((place / "manifest.json").read_bytes(), type=ReadyManifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise CheckpointDamaged(folder=place, reason=str(error)) from error
    if manifest.format != FORMAT or manifest.number != number:
        raise CheckpointDamaged(folder=place, reason=f"it is number {manifest.number} of format {manifest.format}")
    return manifest


def ready_numbers(folder: Path) -> list[int]:
    """The candidates that stand in the service's ``consolidation`` folder, ascending."""
    try:
        return sorted(int(path.name) for path in (folder / "ready").iterdir() if path.name.isdigit())
    except FileNotFoundError:
        return []


def remove_ready(folder: Path, number: int) -> None:
    """Remove it in such a way that no half of it is ever found under its name."""
    place = ready_folder(folder, number)
    aside = place.with_name(f"tmp-old-{place.name}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        os.rename(place, aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside)


def shelve(folder: Path, number: int) -> None:
    """Keep a settled candidate for whoever takes the step once more that put it in shadow; nothing waits for it."""
    place = _shelf(folder) / f"{number:08d}"
    place.parent.mkdir(exist_ok=True)
    os.rename(ready_folder(folder, number), place)
    sync_folder(place.parent)


def shelved_numbers(folder: Path) -> list[int]:
    """The candidates that are kept so, ascending."""
    try:
        return sorted(int(path.name) for path in _shelf(folder).iterdir() if path.name.isdigit())
    except FileNotFoundError:
        return []


def clear_shelf(folder: Path) -> None:
    """Let go of them all."""
    shutil.rmtree(_shelf(folder), ignore_errors=True)


def shelf_bytes(folder: Path) -> int:
    """What they take on disk."""
    return sum(path.stat().st_size for path in _shelf(folder).glob("*/*"))


def ready_folder(folder: Path, number: int) -> Path:
    """Where the candidate of this number stands."""
    place = folder / "ready" / f"{number:08d}"
    shelved = _shelf(folder) / place.name
    return shelved if shelved.exists() and not place.exists() else place


def _shelf(folder: Path) -> Path:
    return folder / "past"


def hold(folder: Path, step: int, needed: dict[Partition, Offset]) -> None:
    """Keep the journal and the log from forgetting what is still read."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"tmp-hold-{os.getpid()}"
    beside.write_bytes(msgspec.json.encode(Hold(step=step, needed=needed, pid=os.getpid())))
    os.replace(beside, folder / "hold.json")


def held(folder: Path) -> Hold | None:
    """What is held now, if anything is; what a process that was killed held is free."""
    try:
        hold = msgspec.json.decode((folder / "hold.json").read_bytes(), type=Hold)
        os.kill(hold.pid, 0)
    except PermissionError:
        return hold
    except (OSError, msgspec.MsgspecError):
        return None
    return hold


def release(folder: Path) -> None:
    """Nothing is held any more."""
    (folder / "hold.json").unlink(missing_ok=True)


def holds(folder: Path) -> list[Hold]:
    """All that must not be forgotten: by the consolidation at work, and by the candidates that stand ready."""
    found = [at_work] if (at_work := held(folder)) is not None else []
    for number in ready_numbers(folder):
        try:
            manifest = read_ready_manifest(folder, number)
        except CheckpointDamaged:
            continue
        found.append(Hold(step=manifest.step, needed=manifest.needed))
    return found
