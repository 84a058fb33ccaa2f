"""`penstock init` and `penstock check`: the service file."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import get_args

import click
import msgspec

from penstock.cli.show import as_json, next_commands, say, show_json
from penstock.cli.starter import EXAMPLE, starter
from penstock.errors import SpecInvalid
from penstock.spec import Spec, Task
from penstock.specfile.reader import load_all

TASKS = get_args(Task)


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, exists=True))
@click.option("--name", help="Of the service. [default: the file's name]")
@click.option("--task", type=click.Choice(TASKS), help="What is predicted. [default: by the label's values]")
@click.option("--label", help="Column of the label. [default: a column called label, or the last]")
@click.option("--format", "format_", type=click.Choice(["csv", "parquet", "jsonl"]), help="Otherwise by its ending.")
@click.option("--out", default="service.yaml", show_default=True, help="The file to write; - is stdout.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init(
    file: str | None, name: str | None, task: str | None, label: str | None, format_: str | None, out: str, force: bool
) -> None:
    """Write a commented service file, or infer one from a table.

    With FILE (CSV, Parquet or JSON lines) features and their types, the label and the task are taken from its first
    rows. Look at what was inferred: a number may be a name, and a column may know the answer.
    """
    if file is None:
        given = {"name": name, "task": task, "label": msgspec.structs.replace(EXAMPLE.label, name=label or "is_fraud")}
        spec = msgspec.structs.replace(EXAMPLE, **{k: v for k, v in given.items() if v is not None})
        notes: dict[str, str] = {}
    else:
        from penstock.cli.inference import infer

        spec, notes = infer(file, name=name, task=task, label=label, format=format_)
    text = starter(spec, notes, "service.yaml" if out == "-" else out)
    if out == "-":
        click.echo(text, nl=False)
        return
    try:
        with Path(out).open("w" if force else "x", encoding="utf-8") as written:
            written.write(text)
    except FileExistsError:
        raise click.ClickException(f"{out} is there already; --force replaces it, --out names another") from None
    click.echo(f"Wrote {out}: {described(spec)}")
    for column, note in notes.items():
        if column not in spec.features:
            say(f"Column {column!r} was not taken: {note}")
    ingest = [f"penstock ingest {spec.name} {shlex.quote(file)}"] if file is not None else []
    next_commands(f"penstock check {shlex.quote(out)}", f"penstock up {shlex.quote(out)}", *ingest)


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@as_json
def check(files: tuple[Path, ...], as_json: bool) -> int:
    """Say what is wrong with service files, all at once.

    FILES are service files or folders of them. Exits with 2 when anything is wrong.
    """
    try:
        specs = load_all(files)
        if any(spec.learn.members for spec in specs.values()):
            from penstock.learn.outside.registry import check_members

            check_members(specs)
    except SpecInvalid as error:
        if not as_json:
            raise
        show_json({"valid": False, "services": [], "faults": error.faults})
        return 2
    if as_json:
        show_json({"valid": True, "services": [spec.name for spec in specs.values()], "faults": []})
        return 0
    for file, spec in specs.items():
        click.echo(f"{file}: {described(spec)}")
    if sys.stderr.isatty():
        next_commands(f"penstock up {' '.join(shlex.quote(str(file)) for file in files)}")
    return 0


def described(spec: Spec) -> str:
    """A service in one line."""
    count = len(spec.features)
    return f"{spec.name}, {spec.task} of {spec.label.name!r} from {count} feature{'' if count == 1 else 's'}"
