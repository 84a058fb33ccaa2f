"""`penstock bench learn`, `forget` and `steady`: what the learner is worth by itself."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from penstock.cli.bench.asking import changed, command_line, known, progress, steps_of, tell
from penstock.cli.show import as_json as json_option
from penstock.cli.show import say, show_json

if TYPE_CHECKING:
    from penstock.cli.benchmarks.learn import Settings

_STREAMS = "Folder with elec2/ and drift/ [default: without electricity, interchanging_rbf and transient_chessboard]"


@click.command()
@json_option
@click.option("--data", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help=_STREAMS)
@click.option("--stream", "file", metavar="FILE", help="A CSV or Parquet file to learn, instead of the known streams.")
@click.option("--label", metavar="COLUMN", help="Its column of classes [default: label, or the last one]")
@click.option("--limit", type=click.IntRange(min=2), help="Events of each stream at most.")
@click.option("--step", "steps", multiple=True, metavar="N", help="Events a step [default: 1,32]")
@click.option("--peers", multiple=True, metavar="NAMES", help="Which others learn; none for nobody.")
@click.option("--streams", multiple=True, metavar="NAMES", help="Which of the known streams.")
@click.option("--prefix", type=click.IntRange(min=2), metavar="EVENTS", help="Events that slow learners get.")
@click.option(
    "--seconds",
    "slow_s",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds that slow learners have on a stream.",
)
@click.option("--quick", is_flag=True, help="A minute: six short streams. For a look, not for a claim.")
@click.option("--through-up", is_flag=True, help="Feed electricity, or FILE, to a running service, and compare.")
def learn(
    as_json: bool,
    folder: Path | None,
    file: str | None,
    label: str | None,
    limit: int | None,
    steps: Sequence[str],
    peers: Sequence[str],
    streams: Sequence[str],
    prefix: int | None,
    slow_s: float | None,
    quick: bool,
    through_up: bool,
) -> None:
    """How well and how fast streams are learned, ours and other libraries'.

    Each event is predicted before it is learned, one by one and in steps of 32; everybody has the settings that they
    come with, a process and one thread. Takes some 20 minutes; progress goes to stderr.
    """
    from penstock.cli.benchmarks.learn import QUICK, Settings, measure
    from penstock.cli.benchmarks.learn_report import tables, words
    from penstock.cli.benchmarks.learn_streams import NAMES
    from penstock.cli.benchmarks.learners import PEERS

    if label is not None and file is None:
        raise click.UsageError("--label names a column of --stream FILE, which is not given")
    settings = QUICK if quick else Settings()
    if file is not None:
        settings = msgspec.structs.replace(settings, streams=(), limit=None)
    settings = changed(
        settings,
        folder=folder,
        file=file,
        label=label,
        limit=limit,
        prefix=prefix,
        slow_s=slow_s,
        steps=steps_of(steps) or None,
        peers=known("--peers", peers, PEERS),
        streams=known("--streams", streams, NAMES),
    )
    if through_up:
        _through_up(settings, as_json)
        return
    tell(measure(settings, command_line(), say), as_json, words, tables)


def _through_up(settings: Settings, as_json: bool) -> None:
    """One stream through `penstock up`, against the same steps in process; exit code 1 where they differ."""
    from penstock.cli.benchmarks import learn_streams
    from penstock.cli.benchmarks.through_up import through, words

    if settings.file is not None:
        stream = learn_streams.from_file(settings.file, settings.label, settings.limit, say)
    else:
        name = settings.streams[0] if len(settings.streams) == 1 else "electricity"
        stream = learn_streams.load(name, settings.folder, settings.limit)
    found = through(stream, Path(tempfile.gettempdir()), say)
    if as_json:
        show_json(found)
    else:
        for sentence in words(found):
            click.echo(sentence)
    if not found.is_equal:
        sys.exit(1)


_TASKS = "Folder with mnist/ and clinc150/ [default: data or ../shared/data; without MNIST the bundled digits]"


@click.command()
@json_option
@click.option("--data", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help=_TASKS)
@click.option("--benchmarks", multiple=True, metavar="NAMES", help="Which of the streams of tasks.")
@click.option("--methods", multiple=True, metavar="NAMES", help="Which methods [default: all, ablations as well]")
@click.option("--seeds", type=click.IntRange(1, 100), help="Runs of each, for intervals [default: 1]")
@click.option("--events", type=click.IntRange(min=16), help="Events of each task at most.")
@click.option("--every", type=click.IntRange(min=16), metavar="EVENTS", help="From one consolidation to the next.")
@click.option("--jobs", type=click.IntRange(1, 256), help="Runs at once, a core each [default: 1]")
@click.option("--quick", is_flag=True, help="A minute or two: four short tasks each. For a look, not for a claim.")
def forget(
    as_json: bool,
    folder: Path | None,
    benchmarks: Sequence[str],
    methods: Sequence[str],
    seeds: int | None,
    events: int | None,
    every: int | None,
    jobs: int | None,
    quick: bool,
) -> None:
    """What is left of old tasks when new ones arrive, ours and other methods'.

    Classes that arrive in pairs, images whose pixels are shuffled or turned, intents that arrive by domain: each event
    once, nobody is told the task. Takes two hours or so of a core with all ablations; progress goes to stderr.
    """
    from penstock.cli.benchmarks.forget import QUICK, Settings, measure
    from penstock.cli.benchmarks.forget_data import NAMES
    from penstock.cli.benchmarks.forget_methods import METHODS
    from penstock.cli.benchmarks.forget_report import tables, words

    settings = QUICK if quick else Settings()
    settings = changed(
        settings,
        folder=folder,
        benchmarks=known("--benchmarks", benchmarks, NAMES),
        methods=known("--methods", methods, tuple(METHODS)),
        seeds=seeds,
        amount=None if events is None else msgspec.structs.replace(settings.amount, train=events),
        every=every,
        jobs=jobs,
    )
    with progress() as (note, started):
        report = measure(settings, command_line(), note, started)
    tell(report, as_json, words, tables)


@click.command()
@json_option
@click.option("--events", type=click.IntRange(min=1000), default=10_000_000, show_default=True)
@click.option("--step", type=click.IntRange(1, 65_536), default=1024, show_default=True, help="Events a step.")
@click.option("--every", type=click.IntRange(min=100), default=1_000_000, show_default=True, help="Events a line.")
def steady(as_json: bool, events: int, step: int, every: int) -> None:
    """That memory, state and speed stay as they are over millions of events.

    A stream without end, in one process with one thread. Takes one to two minutes for ten million events.
    """
    from penstock.cli.benchmarks.steady import measure, tables, words

    tell(measure(events, step, every, command_line(), say), as_json, words, tables)
