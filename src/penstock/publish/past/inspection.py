"""Looking through what was published, while nobody publishes: snapshots and receipts."""

from __future__ import annotations

import contextlib
from pathlib import Path

from penstock.errors import ReceiptsUnavailable, SnapshotDamaged, UnknownVersion
from penstock.eventlog.findings import Found, found, put_aside
from penstock.events import Version
from penstock.learn.block import digest
from penstock.publish.records.receipts import SqliteReceipts
from penstock.publish.weights.snapshots import LocalSnapshots


def inspect_published(folder: Path, service: str) -> list[Found]:
    """The receipts of the service in this folder, and its materialised weights against their hashes."""
    file = folder / "versions.sqlite"
    receipts = SqliteReceipts(file, service, read_only=True)
    try:
        faults = receipts.check()
    except ReceiptsUnavailable as error:
        faults = [str(error.details["reason"])]
    found_so_far = [_of_receipts(file, fault) for fault in faults]
    snapshots = LocalSnapshots(folder / "snapshots", service)
    for version in snapshots.versions():
        fault = _fault_of(snapshots, version, None if faults else receipts)
        if fault:
            found_so_far.append(_of_snapshot(snapshots.place(version), fault))
    receipts.close()
    return found_so_far


def _fault_of(snapshots: LocalSnapshots, version: Version, receipts: SqliteReceipts | None) -> str:
    try:
        content = digest(snapshots.get(version))
        with contextlib.suppress(UnknownVersion):
            snapshots.state(version)
    except SnapshotDamaged as error:
        return str(error.details["reason"])
    if receipts is None:
        return ""
    try:
        receipt = receipts.receipt(version)
    except UnknownVersion:
        # Receipts follow the journal and may lag behind; the next start fills them in.
        return ""
    if receipt.version == version and receipt.weights and receipt.weights != content:
        return f"the weights have the SHA-256 {content}, and the receipt of version {version} says {receipt.weights}"
    return ""


def _of_snapshot(place: Path, what: str) -> Found:
    return found(
        lambda: put_aside(place),
        part="snapshot",
        file=str(place),
        what=what,
        means="Nobody can go back to this version. Learning and serving do not read it.",
        remedy="--repair puts it aside; the version can be rebuilt as long as the log reaches back to it.",
    )


def _of_receipts(file: Path, what: str) -> Found:
    def repair() -> Path | None:
        # SQLite's own companions belong to the very file and would be taken for the next one's.
        for companion in ("-wal", "-shm"):
            path = file.with_name(file.name + companion)
            if path.exists():
                put_aside(path)
        return put_aside(file) if file.exists() else None

    return found(
        repair,
        part="receipts",
        file=str(file),
        what=what,
        means="`versions` and `why` do not answer for all versions. The journal is the truth; nothing else reads this.",
        remedy=(
            "--repair puts the file aside, and the next start writes the receipts anew that the journal still holds; "
            "older ones are in the file put aside alone."
        ),
    )
