"""`penstock ingest`: a table's rows, sent as events; interrupted and started again, it goes on where it was."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click
import msgspec

from penstock.cli.connect import connect
from penstock.cli.finite import Finite
from penstock.cli.show import as_json, at, next_commands, say, show_json, url_option
from penstock.control.folder import replace_file
from penstock.errors import BadFile, Refused, Unreachable

if TYPE_CHECKING:
    from penstock.cli.tables import Piece, Source
    from penstock.client import Acknowledged, Client

FIRST_WAIT_S, WAIT_MAX_S = 0.1, 5.0
PATIENCE_S = 60.0
"""How long a server that does not answer, or has no room, is tried again."""


class Sent(msgspec.Struct):
    """How much of a file a server has acknowledged; kept on disk, so that the next run begins behind it."""

    file: str
    service: str
    url: str
    rows: int = 0
    accepted: int = 0
    duplicates: int = 0
    set_aside: int = 0
    why: str = ""
    """Of the first event that will be set aside."""
    done: bool = False


class Progress(Protocol):
    """Shows how far it is."""

    def __call__(self, rows: int, share: float | None) -> None: ...


@click.command()
@click.argument("service")
@click.argument("file", metavar="FILE|-")
@click.option("--format", "format_", type=click.Choice(["csv", "parquet", "jsonl"]), help="Otherwise by its ending.")
@click.option("--label", help="Column of the label, where it is not called as in the service file.")
@click.option("--skip", multiple=True, metavar="COLUMN", help="A column to leave out; may be given many times.")
@click.option("--rate", type=Finite(min=0, min_open=True), help="Events a second at most.")
@click.option("--batch", type=click.IntRange(1, 100_000), default=5_000, show_default=True, help="Events a request.")
@click.option("--source", help="Who the events come from, where they do not say.")
@click.option("--resume/--no-resume", default=True, help="Go on behind what was acknowledged. [default: resume]")
@as_json
@url_option
def ingest(
    service: str,
    file: str,
    format_: str | None,
    label: str | None,
    skip: tuple[str, ...],
    rate: float | None,
    batch: int,
    source: str | None,
    resume: bool,
    as_json: bool,
    url: str | None,
) -> None:
    """Send a table's rows as events.

    FILE is CSV (with a header), Parquet or JSON lines; - is stdin. One column for each feature, one for the label, and
    if you like id, time (seconds since 1970 or RFC 3339), source, subject and incumbent (what another system answered).
    Several classes together are a list, in CSV a;b. What the server acknowledged is on its disk.
    """
    from penstock.cli.tables import open_source

    opened = open_source(file, format_)
    with connect(url) as client:
        spec = client.spec(service)
        sent = _begin(client, service, opened, resume)
        if sent.done:
            say(f"{file} was sent to {service} before, all {sent.rows:,} rows; --no-resume sends it again.")
        else:
            if sent.rows:
                say(f"Going on behind row {sent.rows:,} of {file}, which was acknowledged before.")
            begun = time.monotonic()
            rows_before = sent.rows
            rows = batch if rate is None else max(1, min(batch, int(rate / 5)))
            with _progress(file) as progress:
                from penstock.cli.tables import pieces

                found = pieces(opened, spec, label=label, skip=skip, rows=rows, done=sent.rows)
                _send(client, found, sent, opened, source, rate, progress)
            _summarise(sent, rows_before, time.monotonic() - begun, as_json)
    if as_json:
        show_json(sent)
    else:
        next_commands(f"penstock status {service}{at(url)}", f"penstock versions {service}{at(url)}")


def _send(
    client: Client,
    found: Iterator[Piece],
    sent: Sent,
    opened: Source,
    source: str | None,
    rate: float | None,
    progress: Progress,
) -> None:
    begun, first = time.monotonic(), sent.rows
    for piece in found:
        if rate is not None:
            time.sleep(max(0.0, begun + (sent.rows - first) / rate - time.monotonic()))
        try:
            acknowledged = _patiently(client, sent.service, piece, source, repeatable=bool(opened.digest))
        except Refused as refused:
            raise _located(opened.path, piece, refused) from refused
        sent.rows = piece.first + piece.rows
        sent.accepted += acknowledged.accepted
        sent.duplicates += acknowledged.duplicates
        sent.set_aside += acknowledged.set_aside
        if acknowledged.why and not sent.why:
            sent.why = f"row {piece.first + acknowledged.why[0].event + 1}: {acknowledged.why[0].reason}"
        _remember(sent, opened)
        progress(sent.rows, opened.share())
    sent.done = True
    _remember(sent, opened)


def _patiently(client: Client, service: str, piece: Piece, source: str | None, *, repeatable: bool) -> Acknowledged:
    """Send until it is acknowledged. Rows have ids that stay the same, so one that arrived twice is kept once; rows of
    a stream without ids are repeated only when the server has said that it took none of them."""
    wait_s, deadline = FIRST_WAIT_S, time.monotonic() + PATIENCE_S
    while True:
        try:
            return client.examples(service, piece.body, media=piece.media, source=source)
        except (Refused, Unreachable) as error:
            is_safe = repeatable or isinstance(error, Refused)
            if not error.retryable or not is_safe or time.monotonic() + wait_s > deadline:
                raise
        time.sleep(wait_s)
        wait_s = min(WAIT_MAX_S, wait_s * 2)


def _located(file: str, piece: Piece, refused: Refused) -> Exception:
    """What the server refused, with the row of the file; other errors stay what they are."""
    if refused.status not in (400, 413, 422):
        return refused
    row = refused.problem.get("row")
    if isinstance(row, int):
        return BadFile(file, str(refused), row=piece.first + row + 1)
    place = f"rows {piece.first + 1:,} to {piece.first + piece.rows:,}: "
    hint = "; try a smaller --batch" if refused.status == 413 else ""
    return BadFile(file, f"{place}{refused}{hint}")


# What was sent before -------------------------------------------------------------------------------------------------


def _begin(client: Client, service: str, opened: Source, resume: bool) -> Sent:
    """Where to go on. A server with fewer events than were sent is another one, or was begun anew."""
    fresh = Sent(file=opened.path, service=service, url=client.url)
    if not resume or not opened.digest:
        return fresh
    try:
        before = msgspec.json.decode(_memory(fresh, opened).read_bytes(), type=Sent)
    except (OSError, msgspec.MsgspecError):
        return fresh
    accepted = client.status(service)["events"]["accepted"]
    return before if accepted >= before.accepted + before.duplicates else fresh


def _memory(sent: Sent, opened: Source) -> Path:
    """Where it is remembered: under a name made of the content, the server and the service."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    key = hashlib.blake2b(f"{opened.digest} {sent.url} {sent.service}".encode(), digest_size=12).hexdigest()
    return home / "penstock" / "ingest" / f"{key}.json"


def _remember(sent: Sent, opened: Source) -> None:
    if not opened.digest:
        return
    path = _memory(sent, opened)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, msgspec.json.encode(sent))
    except OSError:
        # Only resuming depends on it: ids still keep the newest rows from being learned twice.
        return


# What people see ------------------------------------------------------------------------------------------------------


@contextmanager
def _progress(file: str) -> Iterator[Progress]:
    """A bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda rows, share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rows]:,} rows"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(Path(file).name, total=None, rows=0)
        yield lambda rows, share: bar.update(
            task, total=None if share is None else 1.0, completed=share or 0, rows=rows
        )


def _summarise(sent: Sent, rows_before: int, seconds: float, as_json: bool) -> None:
    if as_json:
        return
    rows = sent.rows - rows_before
    again = f", {sent.duplicates:,} of them were there already" if sent.duplicates else ""
    click.echo(
        f"{rows:,} events of {sent.file} are on the server's disk{again}: {rows / max(seconds, 1e-9):,.0f} a second"
    )
    if sent.set_aside:
        say(f"{sent.set_aside:,} of them will be set aside instead of learned ({sent.why})")
