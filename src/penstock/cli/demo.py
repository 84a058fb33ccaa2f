"""`penstock demo`: two real streams at once, shown live, with the figures at the end."""

from __future__ import annotations

import importlib.util
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from penstock.cli.finite import Finite
from penstock.cli.main import INTERRUPTED
from penstock.cli.show import next_commands, say, show_json
from penstock.errors import ExtraMissing

if TYPE_CHECKING:
    from penstock.cli.demonstration.board import Board
    from penstock.cli.demonstration.house import House

DEFAULT_S = 80.0
PROGRESS_EVERY_S = 10.0


@click.command()
@click.option(
    "--for",
    "seconds",
    type=Finite(min=10),
    default=DEFAULT_S,
    show_default=True,
    metavar="SECONDS",
    help="How long the streams take; a slow machine may need longer to train the base.",
)
@click.option("--headless", is_flag=True, help="No live screen: a line on stderr when something happens.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object on stdout.")
@click.option("--keep", is_flag=True, help="Leave the services running at the end, until Ctrl-C.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="A new folder for service files and data; without it, one that is removed at the end.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the digits' order, shifts and wrong labels.")
def demo(seconds: float, headless: bool, as_json: bool, keep: bool, data: Path | None, seed: int) -> None:
    """Two real streams at once, learned while they are served: in under two minutes.

    Handwritten digits arrive class by class beside a naive learner that forgets, and a pipeline's water flow is
    predicted one hour ahead. In the middle one client sends wrong labels, and a learner is killed with SIGKILL.
    Exits with 1 when something that Penstock promises was not kept.
    """
    from rich.console import Console

    from penstock.cli.demonstration.director import Demonstration
    from penstock.cli.demonstration.house import House
    from penstock.cli.demonstration.summary import print_summary

    if importlib.util.find_spec("torch") is None:
        raise ExtraMissing(what="The demo", package="torch", extra="demo")
    live = not headless and not as_json and sys.stdout.isatty() and sys.stderr.isatty()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _folder(data) as folder, House(folder) as house:
        interrupted = False
        with _live_screen() if live else nullcontext(_progress_lines()) as look:
            demonstration = Demonstration(house, seconds=seconds, seed=seed, look=look)
            look(demonstration.board)
            try:
                house.start()
                demonstration.run()
            except KeyboardInterrupt:
                interrupted = True
                demonstration.quiet()
            figures = demonstration.figures()
        stays = keep and not interrupted
        if not stays and house.stop() != 0 and house.address:
            unclean = "the supervisor did not end in order; its output:\n" + house.output()
            figures = msgspec.structs.replace(figures, broken=[*figures.broken, unclean])
        if as_json:
            show_json(figures)
        else:
            print_summary(Console(), figures)
        for promise in figures.broken:
            click.secho("Broken: ", fg="red", bold=True, nl=False, err=True)
            say(promise)
        next_commands(*_commands_to_try(house, stays=stays))
        if stays:
            _wait_for_interrupt(house.address)
    if interrupted:
        sys.exit(INTERRUPTED)
    if figures.broken or not figures.complete:
        sys.exit(1)


@contextmanager
def _folder(chosen: Path | None) -> Iterator[Path]:
    """The chosen folder, or one that is removed in the end."""
    if chosen is not None:
        yield chosen.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="penstock-demo-", ignore_cleanup_errors=True) as made:
        yield Path(made)


@contextmanager
def _live_screen() -> Iterator[Callable[[Board], None]]:
    """Shows the board on the terminal's other screen, which goes when the demo ends."""
    from rich.console import Console
    from rich.live import Live

    from penstock.cli.demonstration.screen import Screen

    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        yield lambda board: live.update(Screen(board), refresh=True)


def _progress_lines() -> Callable[[Board], None]:
    """Tells on stderr what happens when it happens, and how far the streams are now and then."""
    told = 0
    next_at = PROGRESS_EVERY_S

    def look(board: Board) -> None:
        nonlocal told, next_at
        for moment in board.moments[told:]:
            say(f"{moment.at_s:6.1f} s  {moment.text}")
            told += 1
        if board.elapsed_s() >= next_at:
            next_at += PROGRESS_EVERY_S
            say(f"{board.elapsed_s():6.1f} s  {board.in_words()}")

    return look


def _commands_to_try(house: House, *, stays: bool) -> list[str]:
    if not stays:
        return [
            "penstock demo --keep            the same, left running to look at",
            "penstock init                   a commented service file to start from",
            "penstock up service.yaml        your own service",
        ]
    return [
        f"penstock status --url {house.address}",
        f"penstock versions digits --url {house.address}",
        f"curl {house.address}/v1/flow",
    ]


def _wait_for_interrupt(address: str) -> None:
    say(f"\nStill running at {address}; Ctrl-C stops it.")
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)
