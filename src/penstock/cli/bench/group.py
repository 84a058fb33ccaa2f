"""`penstock bench`: figures of this machine, with the floors and the peers of the same run beside them."""

from __future__ import annotations

import signal

import click

from penstock.cli.bench.deciding import control, gate
from penstock.cli.bench.flowing import recover, stream, swap
from penstock.cli.bench.learning import forget, learn, steady


@click.group()
def bench() -> None:
    """Measure what this machine reaches: real processes, their floors and their peers in the same run."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is stopped too


for command in (stream, learn, recover, forget, gate, steady, swap, control):
    bench.add_command(command)
