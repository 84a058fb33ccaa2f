"""What the commands of `penstock bench` have in common: options that list names, settings, progress, and reports."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from penstock.cli.show import Row, say, show, show_json

Told = TypeVar("Told")
Settings = TypeVar("Settings", bound=msgspec.Struct)

measured_disk = click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Where the data lie meanwhile: the disk that is measured [default: the one for temporary files]",
)


def changed(settings: Settings, **given: Any) -> Settings:
    """The settings with what was given; None was not."""
    return msgspec.structs.replace(settings, **{name: value for name, value in given.items() if value is not None})


def command_line() -> str:
    """What was typed, for the report."""
    return " ".join(["penstock", *sys.argv[1:]])


def tell(
    report: Told,
    as_json: bool,
    words: Callable[[Told], Sequence[str]],
    tables: Callable[[Told], Mapping[str, Sequence[Row]]],
) -> None:
    """A report as JSON, or as its sentences and its tables."""
    if as_json:
        show_json(report)
        return
    for sentence in words(report):
        click.echo(sentence)
    for title, rows in tables(report).items():
        click.echo(f"\n{title}")
        show(rows, [(name, name) for name in rows[0]])


@contextmanager
def progress() -> Iterator[tuple[Callable[[str], None], Callable[[str, str, int, int], None]]]:
    """A line a result on stderr, and under them, on a terminal, how far it is."""
    if not sys.stderr.isatty():
        yield say, lambda benchmark, method, over, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("looking for data", total=None)

        def started(benchmark: str, method: str, over: int, total: int) -> None:
            shown.update(task, description=f"{benchmark}, {method}", completed=over, total=total)

        yield shown.console.print, started


def _listed(given: Sequence[str]) -> list[str]:
    """Values between commas, in an option that may be given many times as well."""
    return [part.strip() for text in given for part in text.split(",") if part.strip()]


def steps_of(given: Sequence[str]) -> tuple[int, ...]:
    """Events a step, each once, in the order in which they were given."""
    found = []
    for text in _listed(given):
        if not text.isdecimal() or not 1 <= int(text) <= 65_536:
            raise click.BadParameter(f"{text!r} is no number of events from 1 to 65536", param_hint="--step")
        found.append(int(text))
    return tuple(dict.fromkeys(found))


def known(option: str, given: Sequence[str], there: Sequence[str]) -> tuple[str, ...] | None:
    """The names that were given, None where the option was not."""
    names = tuple(dict.fromkeys(_listed(given)))
    if names == ("none",):
        return ()
    for name in names:
        if name not in there:
            raise click.BadParameter(f"there is no {name!r}; there are {', '.join(there)}", param_hint=option)
    return names or None
