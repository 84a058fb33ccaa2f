"""A stopped service as one file, to be put into another data folder, on this machine or another.

The file is a tar archive, compressed where its name says so. Its first member is the manifest: what this is, and every
file of the service with its size and SHA-256, in the order in which they follow. So an archive is read strictly, header
by header against the manifest, and whatever is not exactly what was announced ends the reading: nothing of an archive
chooses where a file goes, what kind of file it is, or how much is read.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path, PurePosixPath

import msgspec

from penstock.control.folder import locked, writers_kept_out
from penstock.control.record import recorded, recorded_path
from penstock.errors import ArchiveExists, ArchiveForeign, ArchiveUnusable, FolderUnusable, ServiceExists, SpecInvalid
from penstock.eventlog.folders import sync_folder
from penstock.spec import Name
from penstock.specfile.reader import load

FORMAT = 1
MANIFEST = "penstock-export.json"
MANIFEST_MAX_BYTES = 64 * 1024 * 1024
"""Of some 200 bytes a file, this is room for 300,000 of them."""
FILE_MAX_BYTES = 8 * 1024**3 - 1
"""The largest that every tar can read."""
DEPTH_MAX = 16
COMPRESSED = (".gz", ".tgz")
_GZIP = b"\x1f\x8b"
_LEVEL = 1
"""Of gzip: the higher ones take several times as long for a tenth less."""
_PIECE = 1024 * 1024
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_LEFT_OUT = ("lock", "roster")
"""Files by which running processes find one another; they are made anew."""

Progress = Callable[[int, int], None]
"""Is told how many bytes of how many are done."""


class Member(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the service."""

    path: str
    """In the service's folder."""
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an archive says of itself."""

    format: int
    penstock: str
    """The software that wrote it."""
    at: float
    """Seconds since 1970."""
    service: Name
    files: list[Member]


class _Head(msgspec.Struct, frozen=True):
    """What every format of an archive says of itself."""

    format: int
    penstock: str


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """A service that was written to an archive, or read from one."""

    service: str
    archive: str
    folder: str
    files: int
    bytes: int
    """Of the service's files."""
    archive_bytes: int
    penstock: str
    """The software that wrote the archive."""


def export_service(data: Path, service: str, archive: Path, progress: Progress) -> Moved:
    """Write a service that does not run to an archive, which is there whole and durable in the end, or not at all.

    Raises UnknownService, FolderInUse, FolderUnusable and ArchiveExists."""
    recorded(data, service)
    folder = data / service
    if archive.exists():
        raise ArchiveExists(file=archive)
    beside = archive.with_name(f".{archive.name}.{os.getpid()}")
    with locked(data), writers_kept_out(folder):
        # 1. What there is, with the hash of each: what is written afterwards must have the same.
        files = list(_files(folder))
        total = 2 * sum(path.stat().st_size for path in files)
        manifest = Manifest(
            format=FORMAT,
            penstock=metadata.version("penstock"),
            at=time.time(),
            service=service,
            files=_members(folder, files, lambda done: progress(done, total)),
        )
        # 2. Written beside, made durable, and given its name.
        try:
            with beside.open("xb") as file:
                if archive.name.endswith(COMPRESSED):
                    with gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed:
                        _write(packed.write, manifest, folder, lambda done: progress(total // 2 + done, total))
                else:
                    _write(file.write, manifest, folder, lambda done: progress(total // 2 + done, total))
                file.flush()
                os.fsync(file.fileno())
            beside.replace(archive)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        sync_folder(archive.absolute().parent)
    return _moved(manifest, archive, folder)


def import_service(archive: Path, data: Path, progress: Progress) -> Moved:
    """Put the service of an archive into a data folder on which nothing runs, all of it or nothing.

    Raises ArchiveUnusable, ArchiveForeign, ServiceExists, FolderInUse and FolderUnusable."""
    with locked(data):
        beside = data / "run" / "importing"
        # Of an import that was killed.
        shutil.rmtree(beside, ignore_errors=True)
        try:
            with _reading(archive) as source:
                # 1. What it says of itself, before anything is written.
                manifest = _read_manifest(source, archive)
                folder = data / manifest.service
                if folder.exists():
                    raise ServiceExists(folder=folder, name=manifest.service)
                _require_room(manifest, data)
                # 2. Every file beside, compared with what was announced, and durable.
                beside.mkdir()
                _extract(source, manifest, archive, beside, progress)
            _require_record(manifest, archive, data, beside)
            _sync_folders(beside)
            # 3. All of it at once.
            beside.rename(folder)
            sync_folder(data)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    return _moved(manifest, archive, folder)


def _moved(manifest: Manifest, archive: Path, folder: Path) -> Moved:
    return Moved(
        service=manifest.service,
        archive=str(archive),
        folder=str(folder),
        files=len(manifest.files),
        bytes=sum(member.bytes for member in manifest.files),
        archive_bytes=archive.stat().st_size,
        penstock=manifest.penstock,
    )


# Writing -------------------------------------------------------------------------------------------------------------


def _files(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Every file of a service, through links, in the order of their names."""
    if depth > DEPTH_MAX:
        raise FolderUnusable(folder=folder, reason="folders are nested too deeply in it; a link may lead to itself")
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.is_dir():
            yield from _files(path, depth + 1)
        elif entry.is_file() and entry.name not in _LEFT_OUT and not entry.name.endswith("-shm"):
            yield path
        elif not entry.is_file() and entry.is_symlink():
            raise FolderUnusable(folder=path, reason="it is a link to nothing")


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _members(folder: Path, files: Sequence[Path], progress: Callable[[int], None]) -> list[Member]:
    members, done = [], 0
    for path in files:
        hashed, size = hashlib.sha256(), 0
        for piece in _pieces(path):
            hashed.update(piece)
            size += len(piece)
            progress(done + size)
        if size > FILE_MAX_BYTES:
            raise FolderUnusable(folder=path, reason="it is larger than a tar archive can hold")
        done += size
        members.append(Member(path=path.relative_to(folder).as_posix(), bytes=size, sha256=hashed.hexdigest()))
    return members


def _write(write: Callable[[bytes], object], manifest: Manifest, folder: Path, progress: Callable[[int], None]) -> None:
    head = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    write(_header(MANIFEST, len(head), manifest.at) + head + bytes(-len(head) % _BLOCK))
    done = 0
    for member in manifest.files:
        path, hashed = folder / member.path, hashlib.sha256()
        write(_header(f"{manifest.service}/{member.path}", member.bytes, path.stat().st_mtime))
        for piece in _pieces(path):
            hashed.update(piece)
            write(piece)
            done += len(piece)
            progress(done)
        if hashed.hexdigest() != member.sha256:
            raise FolderUnusable(folder=path, reason="it changed while it was read")
        write(bytes(-member.bytes % _BLOCK))
    write(_END)


def _header(name: str, size: int, modified: float) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, int(modified), 0o644
    return member.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")


# Reading -------------------------------------------------------------------------------------------------------------


class _Source:
    """An archive's bytes, which end too early or cannot be unpacked in the same words wherever that is noticed."""

    def __init__(self, archive: Path, read: Callable[[int], bytes]) -> None:
        self._archive, self._read = archive, read

    def read(self, size: int) -> bytes:
        """Exactly as many. Raises ArchiveUnusable."""
        content = self.up_to(size)
        if len(content) < size:
            raise self.unusable("it ends in the middle, so it is not all of the file that was written")
        return content

    def up_to(self, size: int) -> bytes:
        try:
            return self._read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self.unusable(f"it cannot be unpacked ({error})") from error

    def member(self, name: str, most_bytes: int) -> int:
        """The size of the file that follows and must have this name. Raises ArchiveUnusable."""
        block = self.read(_BLOCK)
        try:
            found = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise self.unusable(f"where {name} should follow there is no header of a tar archive ({error})") from error
        if found.name != name:
            raise self.unusable(f"where {name} should follow there is {found.name!r}")
        if not found.isreg():
            raise self.unusable(f"{name} is not a file in it, but a link, a folder or something else")
        if not 0 <= found.size <= most_bytes:
            raise self.unusable(f"{name} has {found.size:,} bytes, where at most {most_bytes:,} can be")
        return found.size

    def padding(self, size: int) -> None:
        if any(self.read(-size % _BLOCK)):
            raise self.unusable("there is something between its files")

    def end(self) -> None:
        """Nothing but zeros may follow, as tar programs add them. Raises ArchiveUnusable."""
        if any(self.read(len(_END))):
            raise self.unusable("more follows than its manifest names")
        for _ in range(20):
            if not (rest := self.up_to(_BLOCK)):
                return
            if any(rest):
                break
        raise self.unusable("more follows than its manifest names")

    def unusable(self, reason: str) -> ArchiveUnusable:
        return ArchiveUnusable(file=self._archive, reason=reason)


@contextmanager
def _reading(archive: Path) -> Iterator[_Source]:
    with archive.open("rb") as file:
        is_packed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        if is_packed:
            with gzip.GzipFile(fileobj=file) as packed:
                yield _Source(archive, packed.read)
        else:
            yield _Source(archive, file.read)


def _read_manifest(source: _Source, archive: Path) -> Manifest:
    size = source.member(MANIFEST, MANIFEST_MAX_BYTES)
    head = source.read(size)
    source.padding(size)
    try:
        said = msgspec.json.decode(head, type=_Head)
        if said.format != FORMAT:
            reason = f"its format is {said.format}, and this one reads {FORMAT}"
            raise ArchiveForeign(file=archive, penstock=said.penstock, reason=reason)
        manifest = msgspec.json.decode(head, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise source.unusable(f"its manifest is none ({error})") from error
    seen: set[PurePosixPath] = set()
    for member in manifest.files:
        path = PurePosixPath(member.path)
        if not _is_plain(member.path):
            raise source.unusable(f"{member.path!r} is no path inside of a service's folder")
        if path in seen:
            raise source.unusable(f"its manifest names {member.path!r} twice")
        if not 0 <= member.bytes <= FILE_MAX_BYTES:
            raise source.unusable(f"its manifest says that {member.path!r} has {member.bytes:,} bytes")
        seen.add(path)
    if inside := next((path for path in seen if not seen.isdisjoint(path.parents)), None):
        raise source.unusable(f"its manifest names {str(inside)!r} and, as a file, a folder that it is in")
    return manifest


def _is_plain(path: str) -> bool:
    parts = path.split("/")
    named = all(part not in ("", ".", "..") and len(part.encode(errors="replace")) <= 255 for part in parts)
    return named and path.isprintable() and len(parts) <= DEPTH_MAX and parts[-1] not in _LEFT_OUT


def _require_room(manifest: Manifest, data: Path) -> None:
    needed = sum(member.bytes for member in manifest.files)
    free = shutil.disk_usage(data).free
    if needed > free:
        reason = f"the service's files are {needed:,} bytes, and {free:,} are free"
        raise FolderUnusable(folder=data, reason=reason)


def _extract(source: _Source, manifest: Manifest, archive: Path, beside: Path, progress: Progress) -> None:
    total, done = sum(member.bytes for member in manifest.files), 0
    for member in manifest.files:
        size = source.member(f"{manifest.service}/{member.path}", member.bytes)
        if size != member.bytes:
            raise source.unusable(f"{member.path} has {size:,} bytes, and its manifest says {member.bytes:,}")
        path, hashed = beside / member.path, hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            for at in range(0, size, _PIECE):
                piece = source.read(min(_PIECE, size - at))
                hashed.update(piece)
                file.write(piece)
                done += len(piece)
                progress(done, total)
            file.flush()
            os.fsync(file.fileno())
        if hashed.hexdigest() != member.sha256:
            raise source.unusable(f"{member.path} is not what was written: its SHA-256 is another")
        source.padding(size)
    source.end()


def _require_record(manifest: Manifest, archive: Path, data: Path, beside: Path) -> None:
    path = beside / recorded_path(data, manifest.service).name
    if not path.exists():
        raise ArchiveUnusable(file=archive, reason=f"it has no {path.name}, so it is no service")
    try:
        name = load(path).name
    except SpecInvalid as error:
        reason = f"its service file is not understood ({error})"
        raise ArchiveForeign(file=archive, penstock=manifest.penstock, reason=reason) from error
    if name != manifest.service:
        raise ArchiveUnusable(file=archive, reason=f"it is of {manifest.service!r} and has a service {name!r} in it")


def _sync_folders(folder: Path) -> None:
    for inside, _, _ in os.walk(folder):
        sync_folder(Path(inside))
