"""What a service's log may give up: whole segments that nothing needs any more, beyond its size or its age."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from penstock.errors import FolderInUse, LogCorrupt
from penstock.eventlog.local import LocalLogWriter
from penstock.eventlog.segment import SUFFIX, segment_bases
from penstock.events import Offset, Partition
from penstock.learn.checkpoint import retention_floor
from penstock.learn.ready import holds
from penstock.spec import Spec

logger = logging.getLogger(__name__)

KEEPER = Partition(0)
"""Whose writer also looks after partitions that have none any more, as after a start with fewer workers."""


def retain(spec: Spec, folder: Path, writer: LocalLogWriter, now: float) -> None:
    """Remove from the writer's partition what the service in this folder may give up as of ``now``, seconds since 1970.

    Raises LogUnavailable."""
    _trim(spec, folder, writer, now)
    if writer.partition != KEEPER:
        return
    for partition in log_sizes(folder / "log"):
        bases = segment_bases(folder / "log" / str(partition))
        if partition != KEEPER and len(bases) > 1 and bases[1] <= needed(spec, folder, partition):
            try:
                abandoned = LocalLogWriter(folder / "log", partition)
            except (FolderInUse, LogCorrupt):
                # It has a writer, which does it; and what is damaged is not for retention to touch.
                continue
            try:
                _trim(spec, folder, abandoned, now)
            finally:
                abandoned.close()


def needed(spec: Spec, folder: Path, partition: Partition) -> Offset:
    """The oldest offset that must stay: for the checkpoints that are kept, with the predictions that wait in them, for
    the consolidation at work and for the candidates that stand ready."""
    floor = retention_floor(folder / "checkpoints", spec.learn.checkpoints_kept)
    oldest = Offset(0) if floor is None else floor.get(partition, Offset(0))
    for hold in holds(folder / "consolidation"):
        oldest = min(oldest, hold.needed.get(partition, Offset(0)))
    return oldest


def log_sizes(log: Path) -> dict[Partition, int]:
    """Bytes of the segments of each partition."""
    return {Partition(int(name)): _segments_bytes(log / name) for name in _names(log) if name.isdigit()}


def _trim(spec: Spec, folder: Path, writer: LocalLogWriter, now: float) -> None:
    sizes = log_sizes(folder / "log")
    own, total, most = sizes.get(writer.partition, 0), sum(sizes.values()), spec.budget.log_max_bytes
    # The limit is the whole log's: each partition gives up its share of what is too much.
    share = most if total <= most else most * own // total
    removed = writer.retain(needed(spec, folder, writer.partition), share, spec.budget.log_max_age_s, now)
    if removed.segments:
        logger.info("retention removed segments", extra={"service": spec.name, "bytes": removed.bytes})


def _segments_bytes(folder: Path) -> int:
    size = 0
    for name in _names(folder):
        if name.endswith(SUFFIX):
            try:
                size += os.stat(folder / name).st_size
            except FileNotFoundError:
                continue  # Just removed.
    return size


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
