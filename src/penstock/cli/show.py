"""Every list and every record through one function: a table for people, ``--json`` or ``--csv`` for programs."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import msgspec

Row = Mapping[str, Any]
Column = tuple[str, str]
"""The path of a value in a row, such as ``events.accepted``, and the column's title."""

SEPARATOR = ";"
"""Between classes that stand together in one cell, as in the columns of a CSV file."""

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
as_csv = click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values on stdout.")


def url_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--url``, for commands that talk to a server."""
    text = "Address of the server [default: $PENSTOCK_URL, or where `penstock up` runs on the data folder]"
    return click.option("--url", metavar="URL", help=text)(command)


def at(url: str | None) -> str:
    """What a next command needs to reach the same server."""
    return "" if url is None else f" --url {url}"


def show_json(value: object) -> None:
    """One JSON value on stdout: indented for a terminal, on one line otherwise."""
    encoded = msgspec.json.encode(value)
    click.echo(msgspec.json.format(encoded, indent=2) if sys.stdout.isatty() else encoded)


def show(rows: Sequence[Row], columns: Sequence[Column], *, json: bool = False, csv: bool = False) -> None:
    """A list of rows: as they are for JSON, these columns for CSV and people."""
    if json:
        show_json(rows)
        return
    cells = [[value_at(row, path) for path, _ in columns] for row in rows]
    if csv:
        click.echo(_as_csv([path for path, _ in columns], cells), nl=False)
        return
    titles = [title for _, title in columns]
    texts = [[words(cell) for cell in line] for line in cells]
    widths = [max(map(len, column)) for column in zip(titles, *texts, strict=True)]
    is_number = [all(not isinstance(line[i], str) for line in cells) for i in range(len(columns))]
    click.secho(_line(titles, widths, is_number), bold=True)
    for line in texts:
        click.echo(_line(line, widths, is_number))


def show_record(record: Row, lines: Sequence[Column], *, json: bool = False) -> None:
    """One record: a line for each of its values that is there."""
    if json:
        show_json(record)
        return
    shown = [(title, words(value_at(record, path))) for path, title in lines if value_at(record, path) is not None]
    width = max((len(title) for title, _ in shown), default=0)
    for title, text in shown:
        click.echo(f"{title:<{width}}  {text}")


def say(message: str) -> None:
    """A line for people, on stderr."""
    click.echo("\n".join(map(printable, message.split("\n"))), err=True)


def printable(text: str) -> str:
    """The same, with escapes for what would move a cursor, change colours or begin a line that is not ours."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def next_commands(*commands: str) -> None:
    """What to do now, on stderr."""
    say("\nNext:")
    for command in commands:
        say(f"  {command}")


def value_at(row: Row, path: str) -> Any:
    """The value at a dotted path, or None where any part of it is missing; a key may be a whole path."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def words(value: object) -> str:
    """A value as people read it."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            # Beyond what a double counts exactly, digits say nothing and only make the table wide.
            return f"{value:,.0f}" if 1e6 <= abs(value) < 1e15 else f"{value:,.4g}"
        case list() | tuple():
            return ", ".join(words(item) for item in value)
        case Mapping():
            return ", ".join(f"{name}: {words(item)}" for name, item in value.items())
    return printable(str(value))


def moment(seconds: float | None) -> str | None:
    """Seconds since 1970 as local time."""
    return None if not seconds else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    placed = (f"{c:>{w}}" if r else f"{c:<{w}}" for c, w, r in zip(cells, widths, right, strict=True))
    return "  ".join(placed).rstrip()


def _as_csv(titles: Sequence[str], cells: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(titles)
    writer.writerows(cells)
    return text.getvalue()
