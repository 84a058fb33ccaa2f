"""What server workers have counted of a candidate that answers a share of the traffic: a small file each, in a
service's folder ``canary``, which the learner reads. Nothing is lost with one: counting goes on in the next."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from penstock.events import Partition
from penstock.learn.steps import CanaryCounts
from penstock.publish.notices.notice import put_up

logger = logging.getLogger(__name__)


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker has counted."""

    base: str
    """Id of the candidate's base."""
    counts: CanaryCounts


def write_counts(folder: Path, partition: Partition, counted: Counted) -> None:
    """Leave what the worker of this partition has counted in a ``canary`` folder, in place of what it had left."""
    folder.mkdir(exist_ok=True)
    put_up(folder / f"{partition}.json", counted)


def read_counts(folder: Path, base: str) -> CanaryCounts:
    """What all workers have counted of the candidate with this base."""
    total = CanaryCounts()
    for file in sorted(folder.glob("*.json")):
        counted = _read(file)
        if counted is not None and counted.base == base:
            total = together(total, counted.counts)
    return total


def counts_of(folder: Path, partition: Partition, base: str) -> CanaryCounts:
    """What the worker of this partition has counted before, so that its next life goes on from there."""
    counted = _read(folder / f"{partition}.json")
    return counted.counts if counted is not None and counted.base == base else CanaryCounts()


def together(one: CanaryCounts, other: CanaryCounts) -> CanaryCounts:
    """What both have counted."""
    return CanaryCounts(
        share=max(one.share, other.share),
        asked=one.asked + other.asked,
        answered=one.answered + other.answered,
        failed=one.failed + other.failed,
        not_finite=one.not_finite + other.not_finite,
        timed=one.timed + other.timed,
        slow=one.slow + other.slow,
        failure=one.failure or other.failure,
    )


def _read(file: Path) -> Counted | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Counted)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        logger.warning("what a server has counted cannot be read", extra={"file": str(file), "error": str(error)})
        return None
