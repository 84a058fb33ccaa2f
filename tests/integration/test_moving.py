"""`penstock export` and `penstock import`: a service goes on elsewhere as if nothing had been, and an archive that is
not exactly what was written leaves nothing behind."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from up_process import all_learned, penstock, running, until

from penstock.client import Client
from penstock.control.folder import locked
from penstock.control.moving import MANIFEST, export_service, import_service
from penstock.control.record import record
from penstock.errors import (
    ArchiveExists,
    ArchiveForeign,
    ArchiveUnusable,
    FolderInUse,
    FolderUnusable,
    PenstockError,
    ServiceExists,
)
from penstock.specfile.reader import loads

SERVICE = """name: orders
task: binary
features: {price: number}
label: {name: returned}
learn: {random_features: 16, checkpoint_every: 1s}
consolidate: {when: never}
"""


def files_of(folder: Path) -> dict[str, bytes]:
    """What is kept: not the files by which processes that run find one another."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in ("lock", "roster")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def send(client: Client, first: int, end: int) -> int:
    """How many of them were duplicates."""
    rows = [{"id": f"e{n}", "features": {"price": n % 17}, "label": int(n % 17 > 8)} for n in range(first, end)]
    return client.examples("orders", rows).duplicates


def test_a_service_that_was_moved_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "orders.yaml").write_text(SERVICE)
    data, there, archive = tmp_path / "data", tmp_path / "there", tmp_path / "orders.tar.gz"

    def ran(*arguments: str) -> tuple[int, Any]:
        done = penstock(*arguments, "--json", home=tmp_path)
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    with running(tmp_path / "orders.yaml", data) as up:
        with up.client() as client:
            send(client, 0, 300)
            asked = client.predict("orders", {"price": 3.0})
            all_learned(client, ["orders"])
        code, said = ran("export", "orders", str(archive), "--data", str(data))
        assert code == 1
        assert "is in use by process" in said
        assert not archive.exists()
        with up.client() as client:
            version = client.versions("orders", limit=1)[0]["version"]
        assert up.stop() == 0
    code, exported = ran("export", "orders", str(archive), "--data", str(data))
    assert code == 0
    code, imported = ran("import", str(archive), "--data", str(there))
    assert code == 0
    assert (exported["files"], exported["bytes"]) == (imported["files"], imported["bytes"])
    assert files_of(there / "orders") == files_of(data / "orders")
    code, verified = ran("verify", "orders", str(version), "--from-start", "--data", str(there))
    assert (code, verified["outcome"]) == (0, "equal")
    assert penstock("fsck", str(there), home=tmp_path).returncode == 0
    with running(tmp_path / "orders.yaml", there) as up, up.client() as client:
        assert send(client, 200, 400) == 100
        client.feedback("orders", [{"id": asked["id"], "label": 1}])
        assert all_learned(client, ["orders"]) == {"orders": 401}
        until(lambda: client.versions("orders", limit=1)[0]["version"] > version, "nothing new was published")


def nothing(done: int, total: int) -> None:
    assert 0 <= done <= total


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a service of a few small files, and both kinds of archives of it."""
    home = tmp_path_factory.mktemp("exported")
    record({Path("orders.yaml"): loads(SERVICE)}, home_of(home))
    for name, content in {"log/0/00.log": b"x" * 700, "steps/0.steps": b"", "environments/a.json": b"{}"}.items():
        (home / "data" / "orders" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "data" / "orders" / name).write_bytes(content)
    for archive in ("orders.tar", "orders.tar.gz"):
        export_service(home / "data", "orders", home / archive, nothing)
    return home


def home_of(home: Path) -> Path:
    (home / "data").mkdir()
    return home / "data"


def imported(content: bytes) -> dict[str, bytes] | PenstockError:
    """The files that an archive of this content makes, or the error, after which there must be none."""
    with tempfile.TemporaryDirectory() as home:
        archive, data = Path(home) / "given", Path(home) / "in" / "data"
        archive.write_bytes(content)
        try:
            import_service(archive, data, nothing)
        except PenstockError as error:
            assert set(files_of(Path(home))) == {"given"}
            assert [path.name for path in (data / "run").iterdir()] == []
            return error
        return files_of(data / "orders")


def packed(members: Mapping[str, bytes], service: str = "orders", **said: Any) -> bytes:
    """An archive that keeps the format, of whatever its manifest says."""
    files = [{"path": n, "bytes": len(c), "sha256": hashlib.sha256(c).hexdigest()} for n, c in members.items()]
    manifest = {"format": 1, "penstock": "9.8.7", "at": 0.0, "service": service, "files": files} | said
    return tar(
        (tarfile.TarInfo(MANIFEST), json.dumps(manifest).encode()),
        *((tarfile.TarInfo(f"{service}/{name}"), content) for name, content in members.items()),
    )


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return written.getvalue()


RECORD = {"service.json": b'{"name": "orders", "task": "binary", "features": {"a": "number"}}'}


@pytest.mark.parametrize("name", ["orders.tar", "orders.tar.gz"])
def test_every_tar_reads_an_archive_and_import_gives_the_same_files(exported: Path, name: str) -> None:
    with tarfile.open(exported / name) as archive:
        manifest, *names = archive.getnames()
    was = files_of(exported / "data" / "orders")
    assert manifest == MANIFEST
    assert sorted(names) == sorted(f"orders/{name}" for name in was)
    assert imported((exported / name).read_bytes()) == was


@given(st.data())
def test_an_archive_that_was_changed_anywhere_is_refused_or_gives_the_same_files(
    exported: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(["orders.tar", "orders.tar.gz"]))
    whole = (exported / name).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = {
        "flip": whole[:at] + bytes([whole[at] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[at + 1 :],
        "cut": whole[:at],
        "gap": whole[:at] + whole[at + data.draw(st.sampled_from([1, 512, 1024])) :],
        "twice": whole[:at] + whole,
        "more": whole + data.draw(st.binary(min_size=1, max_size=2000).filter(any)),
    }[data.draw(st.sampled_from(["flip", "cut", "gap", "twice", "more"]))]
    came = imported(changed)
    if isinstance(came, dict):
        assert came == files_of(exported / "data" / "orders")
    else:
        assert isinstance(came, ArchiveUnusable | ArchiveForeign)


PLACES = st.sampled_from(
    ["..", ".", "", "/", "log", "service.json", "lock", "a" * 300, "b\n", "\0", "\ud800", "ü", "c"]
)


@given(st.lists(st.lists(PLACES, min_size=1, max_size=4).map("/".join), min_size=1, max_size=3))
@example(["../../../escaped"])
@example(["/tmp/escaped"])
@example(["log/../../escaped"])
@example(["service.json/inside"])
def test_no_name_in_a_manifest_leads_out_of_the_folder(names: list[str]) -> None:
    files = [{"path": name, "bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()} for name in names]
    record = {"path": "service.json", "bytes": len(RECORD["service.json"]), "sha256": ""}
    record["sha256"] = hashlib.sha256(RECORD["service.json"]).hexdigest()
    manifest = {"format": 1, "penstock": "1", "at": 0, "service": "orders", "files": [record, *files]}
    members = [(tarfile.TarInfo(MANIFEST), json.dumps(manifest).encode())]
    members.append((tarfile.TarInfo("orders/service.json"), RECORD["service.json"]))
    try:
        content = tar(*members, *((tarfile.TarInfo(f"orders/{name}"), b"x") for name in names))
    except (ValueError, UnicodeEncodeError):
        return  # No tar archive can hold such a name.
    came = imported(content)
    if isinstance(came, dict):
        assert set(came) == {"service.json", *names}
    else:
        assert isinstance(came, ArchiveUnusable)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_only_files_are_taken_out(kind: bytes) -> None:
    link = tarfile.TarInfo("orders/service.json")
    link.type, link.linkname = kind, "/etc/passwd"
    with_manifest = packed(RECORD)[:1024]
    came = imported(with_manifest + link.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    assert isinstance(came, ArchiveUnusable)
    assert "is not a file" in str(came)


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (packed(RECORD, format=2), ArchiveForeign, "its format is 2, and this one reads 1"),
        (packed(RECORD, format=0), ArchiveForeign, "its format is 0"),
        (packed(RECORD, format="1"), ArchiveUnusable, "its manifest is none"),
        (packed(RECORD, more=1), ArchiveUnusable, "its manifest is none"),
        (packed(RECORD, files=[]), ArchiveUnusable, "more follows"),
        (packed({}), ArchiveUnusable, "it has no service.json"),
        (packed(RECORD, service="../x"), ArchiveUnusable, "its manifest is none"),
        (packed({"service.json": b"{}"}), ArchiveForeign, "its service file is not understood"),
        (packed(RECORD | {"a": b"1", "a/b": b"2"}), ArchiveUnusable, "a folder that it is in"),
        (packed(RECORD, service="others"), ArchiveUnusable, "of 'others' and has a service 'orders' in it"),
        (b"", ArchiveUnusable, "it ends in the middle"),
        (bytes(10240), ArchiveUnusable, "no header of a tar archive"),
        (gzip.compress(bytes(50_000_000)), ArchiveUnusable, "no header of a tar archive"),
        (gzip.compress(packed(RECORD)) + b"rest", ArchiveUnusable, "it cannot be unpacked"),
    ],
)
def test_what_is_wrong_with_an_archive_is_told(content: bytes, error: type[PenstockError], said: str) -> None:
    came = imported(content)
    assert isinstance(came, error)
    assert said in str(came)
    assert "Nothing was imported" in came.advice


def test_sizes_are_refused_before_anything_is_read_for_them() -> None:
    huge = [
        {"path": "service.json", "bytes": 8 * 1024**3 - 1, "sha256": ""},
        *({"path": f"{n}", "bytes": 8 * 1024**3 - 1, "sha256": ""} for n in range(10_000)),
    ]
    came = imported(packed(RECORD, files=huge))
    assert isinstance(came, FolderUnusable)
    assert "are free" in str(came)
    came = imported(packed(RECORD, files=[huge[0] | {"bytes": 1 << 70}]))
    assert isinstance(came, ArchiveUnusable)
    manifest = tarfile.TarInfo(MANIFEST)
    manifest.size = 1 << 40
    came = imported(manifest.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert "where at most" in str(came)


def test_nothing_that_is_there_is_written_over(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveExists):
        export_service(exported / "data", "orders", exported / "orders.tar", nothing)
    before = files_of(exported / "data")
    with pytest.raises(ServiceExists):
        import_service(exported / "orders.tar", exported / "data", nothing)
    assert files_of(exported / "data") == before
    with locked(exported / "data"), pytest.raises(FolderInUse):
        export_service(exported / "data", "orders", tmp_path / "new.tar", nothing)
    assert list(tmp_path.iterdir()) == []


def test_what_an_import_that_was_killed_left_is_in_nobodys_way(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "importing" / "log").mkdir(parents=True)
    (tmp_path / "run" / "importing" / "service.json").write_text("half")
    import_service(exported / "orders.tar.gz", tmp_path, nothing)
    assert files_of(tmp_path / "orders") == files_of(exported / "data" / "orders")


def test_files_behind_links_are_exported_and_broken_links_are_told(exported: Path, tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "disk"
    import_service(exported / "orders.tar", data, nothing)
    (data / "orders" / "log").rename(elsewhere)
    (data / "orders" / "log").symlink_to(elsewhere)
    export_service(data, "orders", tmp_path / "linked.tar", nothing)
    assert imported((tmp_path / "linked.tar").read_bytes()) == files_of(exported / "data" / "orders")
    (data / "orders" / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FolderUnusable, match="link to nothing"):
        export_service(data, "orders", tmp_path / "broken.tar", nothing)
    (data / "orders" / "gone").unlink()
    (data / "orders" / "round").symlink_to(data / "orders")
    with pytest.raises(FolderUnusable, match="link may lead to itself"):
        export_service(data, "orders", tmp_path / "round.tar", nothing)
    assert not list(tmp_path.glob("*round*"))
