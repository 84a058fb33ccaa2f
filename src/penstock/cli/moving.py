"""`penstock export` and `penstock import`: a service moved to another data folder, on this machine or another."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock.cli.connect import data_option
from penstock.cli.show import as_json as json_option
from penstock.cli.show import next_commands, say, show_json

if TYPE_CHECKING:
    from penstock.control.moving import Moved

TELL_EVERY_S = 2.0
archive_type = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("service")
@click.argument("archive", type=archive_type)
@json_option
@data_option
def export(service: str, archive: Path, as_json: bool, data: Path) -> None:
    """Write a stopped service to one file.

    The ARCHIVE has everything that SERVICE keeps, its log, checkpoints, versions and bases, with the SHA-256 of each
    file; it is compressed where its name ends in .gz or .tgz. Stop what runs on the data folder first.
    """
    from penstock.control.moving import export_service

    moved = export_service(data.absolute(), service, archive, _told())
    _show(moved, as_json, f"{moved.service} is in {archive}", f"penstock import {archive.name} --data FOLDER")


@click.command("import")
@click.argument("archive", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
@data_option
def import_(archive: Path, as_json: bool, data: Path) -> None:
    """Put a service from such a file into a data folder.

    All of it or nothing: a file that is damaged, cut short or of another format is refused, as is a folder that has a
    service of this name. The service goes on where it was when it was exported.
    """
    from penstock.control.moving import import_service

    moved = import_service(archive, data.absolute(), _told())
    _show(
        moved,
        as_json,
        f"{moved.service} is in {moved.folder}",
        f"penstock fsck {data} {moved.service}",
        f"penstock up service.yaml --data {data}",
    )


def _told() -> Callable[[int, int], None]:
    """Says now and then how far it is."""
    told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= TELL_EVERY_S:
            told = time.monotonic()
            say(f"{done / total:.0%} of {total:,} bytes")

    return progress


def _show(moved: Moved, as_json: bool, done: str, *after: str) -> None:
    if as_json:
        show_json(moved)
        return
    click.echo(f"{done}: {moved.files:,} files of {moved.bytes:,} bytes, in an archive of {moved.archive_bytes:,}.")
    next_commands(*after)
