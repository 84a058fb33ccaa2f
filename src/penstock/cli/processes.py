"""What the supervisor starts: hidden commands, since nobody needs them by hand."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from penstock.control.spare import begin_loading
from penstock.control.supervisor import end_with_supervisor

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _WithExtras(logging.Formatter):
    """The constant message, then what was given as ``extra``."""

    def format(self, record: logging.LogRecord) -> str:
        extras = " ".join(f"{name}={value}" for name, value in vars(record).items() if name not in _STANDARD)
        return f"{super().format(record)} {extras}".rstrip()


def _begin() -> None:
    end_with_supervisor()
    handler = logging.StreamHandler()
    handler.setFormatter(_WithExtras("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


_data = click.option("--data", required=True, type=click.Path(path_type=Path))


@click.command("_server", hidden=True)
@_data
@click.option("--worker", required=True, type=int)
@click.option("--fd", required=True, type=int)
@click.argument("services", nargs=-1, required=True)
def server(data: Path, worker: int, fd: int, services: tuple[str, ...]) -> None:
    """A server worker."""
    from penstock.service import run_server

    _begin()
    run_server(services, data, worker=worker, fd=fd)


@click.command("_learner", hidden=True)
@_data
@click.argument("service")
def learner(data: Path, service: str) -> None:
    """A service's learner."""
    begin_loading()
    from penstock.service import run_learner

    _begin()
    run_learner(service, data)


@click.command("_consolidator", hidden=True)
@_data
@click.argument("service")
def consolidator(data: Path, service: str) -> None:
    """What looks after a service's base."""
    from penstock.service import run_consolidator

    _begin()
    run_consolidator(service, data)


@click.command("_consolidate", hidden=True)
@_data
@click.argument("service")
@click.option("--number", required=True, type=int)
@click.option("--reason", required=True)
def consolidate(data: Path, service: str, number: int, reason: str) -> int:
    """One training of a base."""
    from penstock.service import run_consolidation

    _begin()
    return run_consolidation(service, data, number=number, reason=reason)


@click.command("_governor", hidden=True)
@_data
@click.argument("services", nargs=-1, required=True)
def governor(data: Path, services: tuple[str, ...]) -> None:
    """What watches the money."""
    from penstock.service import run_governor

    _begin()
    run_governor(services, data)
