"""Wishes about events that are set aside: small files in a service's folder ``quarantine``, each granted once.

A wish names events by their places in the log, and the learner records in its journal what it grants before the file
goes. A crash in between leaves a wish of which nothing is left to be granted. What is set aside at all is read from the
journal and the newest checkpoint, so that it can be looked at whether the service runs or not.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec

from penstock.errors import StepsCorrupt
from penstock.eventlog.folders import sync_folder
from penstock.eventlog.local import LocalLogReader
from penstock.events import Offset, Schema, decode
from penstock.learn.checkpoint import Checkpoints
from penstock.learn.journal import read_steps
from penstock.learn.quarantine import Place, Quarantine
from penstock.publish.asked.letters import leave
from penstock.spec import Spec

logger = logging.getLogger(__name__)


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What is to become of events that are set aside."""

    release: bool
    """Whether they are learned after all, or never."""
    places: tuple[Place, ...]


def ask(folder: Path, wish: Wish) -> Path:
    """Leave a wish in this ``quarantine`` folder and wake the learner; it is there for good when this returns."""
    return leave(folder, wish, ".wish")


def next_wish(folder: Path) -> tuple[Path, Wish] | None:
    """The oldest wish and its file, or None. One that the disk has damaged is moved out of the way, since learning must
    not stop for it."""
    if not folder.exists():
        return None
    for file in sorted(folder.glob("*.wish")):
        try:
            return file, msgspec.json.decode(file.read_bytes(), type=Wish)
        except msgspec.MsgspecError as error:
            logger.warning("a wish cannot be read", extra={"file": str(file), "error": str(error)})
            file.rename(file.with_suffix(".damaged"))
    return None


def granted(file: Path) -> None:
    """Nothing is left of this wish."""
    file.unlink()
    sync_folder(file.parent)


def event_at(spec: Spec, folder: Path, place: Place) -> dict[str, object]:
    """The id and the features of one event in the log of the service in this folder. Raises OffsetGone."""
    partition, offset = place
    schema = Schema.of(spec)
    reader = LocalLogReader(folder / "log")
    try:
        frame = next(iter(reader.read(partition, offset, Offset(offset + 1))))
        row = decode(frame.payload).rows(slice(offset - frame.first, offset - frame.first + 1))
    finally:
        reader.close()
    features: dict[str, Any] = dict(zip(schema.numbers, row.numbers[0].tolist(), strict=True))
    features |= {name: vector[0].tolist() for (name, _), vector in zip(schema.vectors, row.vectors, strict=True)}
    features |= {name: column[0] for name, column in zip(schema.strings, row.strings, strict=True)}
    missing = [name for name, value in features.items() if value != value or value is None]
    return {
        "event": row.ids[0] if row.ids else None,
        "features": {name: value for name, value in features.items() if name not in missing},
    }


TRIES = 3
"""A learner may write a checkpoint while its journal is read, which forgets what was before."""


def read_quarantine(folder: Path) -> Quarantine:
    """What is set aside of the service in this folder, as far as its journal goes now.

    Raises StepsCorrupt and CheckpointDamaged."""
    for left in reversed(range(TRIES)):
        checkpoints = Checkpoints(folder / "checkpoints", kept=1)
        checkpoint, damaged = checkpoints.newest()
        if checkpoint is None and damaged:
            raise damaged[0]
        quarantine, step = Quarantine(), 0
        if checkpoint is not None:
            step = checkpoint.step
            if "quarantine" in checkpoint.values:
                quarantine.load(checkpoint.values["quarantine"])
        try:
            for entry in read_steps(folder / "steps", step):
                if entry.number != step + 1:
                    raise StepsCorrupt(file=folder / "steps", byte=0, reason=f"step {step + 1} is missing")
                step = entry.number
                if entry.aside is not None:
                    quarantine.enter(entry.aside)
            return quarantine
        except (StepsCorrupt, FileNotFoundError):
            if not left:
                raise
    raise AssertionError("the last try returns or raises")
