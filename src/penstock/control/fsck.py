"""Looking through a whole data folder while nobody works in it, and mending what can be mended without inventing
anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from penstock.control.folder import locked, writers_kept_out
from penstock.control.record import recorded_path
from penstock.control.swap import unfinished
from penstock.errors import ErasureUnfinished, FolderUnusable, SpecInvalid, UnknownService
from penstock.eventlog.findings import Finding, Found, found
from penstock.eventlog.inspection import inspect_partition
from penstock.events import Partition
from penstock.learn.checkpoint import Checkpoints, read_manifest
from penstock.learn.inspection import inspect_bases, inspect_candidates, inspect_checkpoints, inspect_journal
from penstock.publish.past.inspection import inspect_published
from penstock.specfile.reader import load


class ServiceReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one service."""

    service: str
    partitions: dict[str, list[int]]
    """The oldest offset of each partition, and the one after its last."""
    events: int
    """That were read and are whole."""
    erased: int
    """That stood there once, and were erased."""
    steps: list[int]
    """The first and the last entry of the step journal."""
    checkpoints: int
    snapshots: int
    damage: int
    """Findings that remain."""
    findings: list[Finding]


def services_in(data: Path) -> list[str]:
    """The services of a data folder. Raises FolderUnusable where it is none."""
    try:
        names = sorted(entry.name for entry in os.scandir(data) if recorded_path(data, entry.name).exists())
    except OSError as error:
        raise FolderUnusable(folder=data, reason=error.strerror) from error
    if not names:
        raise FolderUnusable(folder=data, reason="no service was ever run on it")
    return names


def check(data: Path, service: str | None, *, repair: bool) -> list[ServiceReport]:
    """Inspect all services of a data folder, or this one; with ``repair`` mend what can be mended, and look again.

    Raises FolderUnusable, UnknownService, ErasureUnfinished, and FolderInUse with the process that works there."""
    for name in unfinished(data):
        raise ErasureUnfinished(service=name, data=data)
    names = services_in(data)
    if service is not None and service not in names:
        raise UnknownService(name=service, known=", ".join(names))
    with locked(data):
        return [_check_service(data, name, repair) for name in names if service in (None, name)]


def _check_service(data: Path, name: str, repair: bool) -> ServiceReport:
    with writers_kept_out(data / name):
        report, findings = _inspect(data, name)
        if not repair or not any(one.repair for one in findings):
            return report
        repaired = [_mend(one) for one in findings if one.repair]
        again, _ = _inspect(data, name)
    return msgspec.structs.replace(again, findings=[*repaired, *again.findings])


def _mend(one: Found) -> Finding:
    assert one.repair is not None, "only what can be mended is"
    kept = one.repair()
    return msgspec.structs.replace(one.finding, repaired=True, kept="" if kept is None else str(kept))


def _inspect(data: Path, name: str) -> tuple[ServiceReport, list[Found]]:
    folder = data / name
    findings = _inspect_record(data, name)
    log = {partition: inspect_partition(folder / "log", partition) for partition in _partitions(folder / "log")}
    findings += [one for inspected in log.values() for one in inspected.findings]
    journal = inspect_journal(folder / "steps", log)
    findings += journal.findings
    of_checkpoints: list[Found] = []
    steps: list[int] = []
    if (folder / "checkpoints").is_dir():
        of_checkpoints = inspect_checkpoints(folder / "checkpoints", folder / "bases", journal, log)
        steps = Checkpoints(folder / "checkpoints", 1).steps()
    sound = [step for step in steps if str(folder / "checkpoints" / f"{step:020d}") not in _files(of_checkpoints)]
    findings += of_checkpoints
    findings += inspect_bases(folder / "bases", _bases(folder, sound))
    findings += inspect_candidates(folder / "consolidation", journal, max(sound, default=0))
    findings += inspect_published(folder, name)
    report = ServiceReport(
        service=name,
        partitions={str(partition): [seen.first, seen.end] for partition, seen in log.items()},
        events=sum(inspected.events for inspected in log.values()),
        erased=sum(inspected.erased for inspected in log.values()),
        steps=[journal.first, journal.last],
        checkpoints=len(steps),
        snapshots=len(list((folder / "snapshots").glob("[0-9]*"))),
        damage=len(findings),
        findings=[one.finding for one in findings],
    )
    return report, findings


def _inspect_record(data: Path, name: str) -> list[Found]:
    path = recorded_path(data, name)
    try:
        load(path)
    except SpecInvalid as error:
        return [
            found(
                part="record",
                file=str(path),
                what=str(error),
                means="No process of the service can start.",
                remedy="Remove it and run `penstock up` with the service file, which records it anew.",
            )
        ]
    return []


def _partitions(log: Path) -> Sequence[Partition]:
    if not log.is_dir():
        return []
    return sorted(Partition(int(path.name)) for path in log.iterdir() if path.name.isdigit() and path.is_dir())


def _files(findings: Sequence[Found]) -> set[str]:
    return {one.finding.file for one in findings}


def _bases(folder: Path, steps: Sequence[int]) -> set[str]:
    needed: set[str] = set()
    for step in steps:
        needed.update(read_manifest(folder / "checkpoints" / f"{step:020d}").bases)
    return needed
