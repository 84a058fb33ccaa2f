"""`penstock bench`: figures of this machine, with the floors and the peers of the same run beside them."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from penstock.cli.show import Row, say, show, show_json
from penstock.cli.show import as_json as json_option

if TYPE_CHECKING:
    from penstock.cli.benchmarks.learn import Settings

Told = TypeVar("Told")

_DATA = "Folder with elec2/ and drift/ [default: without electricity, interchanging_rbf and transient_chessboard]"


@click.group()
def bench() -> None:
    """Measure what this machine reaches: real processes, their floors and their peers in the same run."""


@bench.command()
@json_option
@click.option("--quick", is_flag=True, help="Half a minute: fewer events, one repeat. For a look, not for a claim.")
@click.option(
    "--events", type=click.IntRange(min=1000), help="Events a repeat in JSON batches; Arrow gets four times as many."
)
@click.option("--repeats", type=click.IntRange(min=1), help="Repeats whose median is reported.")
@click.option(
    "--paced", "paced_s", type=click.FloatRange(min=0.2), metavar="SECONDS", help="Length of a paced stretch."
)
@click.option(
    "--peers/--no-peers", default=True, show_default=True, help="Whether other libraries learn the stream too."
)
@click.option(
    "--url", default="", help="Measure this service, such as http://127.0.0.1:7717/v1/stream, instead of a new one."
)
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    default=tempfile.gettempdir(),
    show_default=True,
    help="Where the data lie meanwhile: the disk that is measured.",
)
def stream(
    as_json: bool,
    quick: bool,
    events: int | None,
    repeats: int | None,
    paced_s: float | None,
    peers: bool,
    url: str,
    folder: Path,
) -> None:
    """Events accepted durably and learned, freshness, predictions meanwhile.

    Runs `penstock up` with a temporary data folder under load for two to three minutes, then its parts alone and
    other libraries on the same stream. Progress goes to stderr.
    """
    import msgspec

    from penstock.cli.benchmarks.report import tables, words
    from penstock.cli.benchmarks.stream import QUICK, Settings, measure

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the service that was started is stopped too
    given = {"events": events, "repeats": repeats, "paced_s": paced_s}
    settings = msgspec.structs.replace(
        QUICK if quick else Settings(),
        peers=peers,
        url=url,
        folder=folder,
        **{name: value for name, value in given.items() if value is not None},
    )
    command = " ".join(["penstock", *sys.argv[1:]])
    report = measure(settings, command, say)
    if as_json:
        show_json(report)
        return
    for sentence in words(report):
        click.echo(sentence)
    for title, rows in tables(report).items():
        click.echo(f"\n{title}")
        show(rows, [(name, name) for name in rows[0]])


@bench.command()
@json_option
@click.option("--data", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help=_DATA)
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
    import msgspec

    from penstock.cli.benchmarks.learn import QUICK, Settings, measure
    from penstock.cli.benchmarks.learn_report import tables, words
    from penstock.cli.benchmarks.learn_streams import NAMES
    from penstock.cli.benchmarks.learners import PEERS

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the learner that runs is stopped too
    if label is not None and file is None:
        raise click.UsageError("--label names a column of --stream FILE, which is not given")
    settings = QUICK if quick else Settings()
    if file is not None:
        settings = msgspec.structs.replace(settings, streams=(), limit=None)
    given = {
        "limit": limit,
        "prefix": prefix,
        "slow_s": slow_s,
        "steps": _steps(steps) or None,
        "peers": _known("--peers", peers, PEERS),
        "streams": _known("--streams", streams, NAMES),
    }
    settings = msgspec.structs.replace(
        settings,
        folder=folder,
        file=file,
        label=label,
        **{name: value for name, value in given.items() if value is not None},
    )
    if through_up:
        _through_up(settings, as_json)
        return
    report = measure(settings, " ".join(["penstock", *sys.argv[1:]]), say)
    _tell(report, as_json, tables, words)


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


@bench.command()
@json_option
@click.option("--quick", is_flag=True, help="A minute and a half: twelve kills. For a look, not for a claim.")
@click.option("--kills", type=click.IntRange(min=1), help="How many [default: 100]")
@click.option("--seed", type=click.IntRange(min=0), help="Of what is killed when [default: 0]")
@click.option("--ids/--no-ids", default=True, show_default=True, help="Whether it is measured what ids cost.")
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Where the data lie meanwhile: the disk that is measured [default: the one for temporary files]",
)
def recover(as_json: bool, quick: bool, kills: int | None, seed: int | None, ids: bool, folder: Path | None) -> int:
    """What is lost when processes are killed, and how soon they learn again.

    Runs `penstock up` with a million events in its log under clients that repeat what was not answered, kills the
    learner, the server and the supervisor at seeded random moments, and compares what was acknowledged and the state
    that is left with every recorded step taken again in one go. Measures memory and restarts by the log's length, and
    what ids cost. Takes some seven minutes; progress goes to stderr. Exit code 1 where anything was lost, learned
    twice, torn or computed otherwise.
    """
    import msgspec

    from penstock.cli.benchmarks.recover import QUICK, Settings, measure, tables, words

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the service that was started is stopped too
    given = {"kills": kills, "seed": seed, "folder": folder, "ids_events": None if ids else 0}
    settings = msgspec.structs.replace(
        QUICK if quick else Settings(), **{name: value for name, value in given.items() if value is not None}
    )
    report = measure(settings, " ".join(["penstock", *sys.argv[1:]]), say)
    if as_json:
        show_json(report)
    else:
        for sentence in words(report):
            click.echo(sentence)
        for title, rows in tables(report).items():
            click.echo(f"\n{title}")
            show(rows, [(name, name) for name in rows[0]])
    return 0 if report.is_sound else 1


_STREAMS = "Folder with elec2/, drift/ and mnist/ [default: without electricity and interchanging_rbf]"
_TASKS = "Folder with mnist/ and clinc150/ [default: data or ../shared/data; without MNIST the bundled digits]"


@bench.command()
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
    import msgspec

    from penstock.cli.benchmarks.forget import QUICK, Settings, measure
    from penstock.cli.benchmarks.forget_data import NAMES
    from penstock.cli.benchmarks.forget_methods import METHODS
    from penstock.cli.benchmarks.forget_report import tables, words

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the run that is under way is stopped too
    settings = QUICK if quick else Settings()
    given = {
        "folder": folder,
        "benchmarks": _known("--benchmarks", benchmarks, NAMES),
        "methods": _known("--methods", methods, tuple(METHODS)),
        "seeds": seeds,
        "amount": None if events is None else msgspec.structs.replace(settings.amount, train=events),
        "every": every,
        "jobs": jobs,
    }
    settings = msgspec.structs.replace(settings, **{name: value for name, value in given.items() if value is not None})
    with _progress() as (note, started):
        report = measure(settings, " ".join(["penstock", *sys.argv[1:]]), note, started)
    _tell(report, as_json, tables, words)


@bench.command()
@json_option
@click.option("--quick", is_flag=True, help="A minute or two: a tenth of the streams. For a look, not for a claim.")
@click.option("--streams", type=click.IntRange(min=10), help="Simulated streams of each row [default: 1000]")
@click.option("--seed", type=click.IntRange(min=0), help="Of all that is drawn [default: 0]")
@click.option("--parts", multiple=True, metavar="NAMES", help="Which of alarms,power,harm,cost,steady,streams.")
@click.option("--data", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help=_STREAMS)
def gate(
    as_json: bool, quick: bool, streams: int | None, seed: int | None, parts: Sequence[str], folder: Path | None
) -> None:
    """What the gate lets through, what it stops wrongly, and what it costs.

    Its deciders on simulated streams with late labels, looked at after every event, beside a t-test, a fixed-sample
    test and a bound on a moving average; then all of it around the real learner, on real streams and on poisoned ones.
    Takes some fifteen minutes; progress goes to stderr.
    """
    import msgspec

    from penstock.cli.benchmarks.gate import PARTS, QUICK, Settings, measure
    from penstock.cli.benchmarks.gate_report import tables, words

    given = {"streams": streams, "seed": seed, "folder": folder, "parts": _known("--parts", parts, PARTS)}
    settings = msgspec.structs.replace(
        QUICK if quick else Settings(), **{name: value for name, value in given.items() if value is not None}
    )
    report = measure(settings, " ".join(["penstock", *sys.argv[1:]]), say)
    _tell(report, as_json, tables, words)


@bench.command()
@json_option
@click.option("--events", type=click.IntRange(min=1000), default=10_000_000, show_default=True)
@click.option("--step", type=click.IntRange(1, 65_536), default=1024, show_default=True, help="Events a step.")
@click.option("--every", type=click.IntRange(min=100), default=1_000_000, show_default=True, help="Events a line.")
def steady(as_json: bool, events: int, step: int, every: int) -> None:
    """That memory, state and speed stay as they are over millions of events.

    A stream without end, in one process with one thread. Takes one to two minutes for ten million events.
    """
    from penstock.cli.benchmarks.steady import measure, rows, words

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the process that learns is stopped too
    report = measure(events, step, every, " ".join(["penstock", *sys.argv[1:]]), say)
    if as_json:
        show_json(report)
        return
    found = rows(report)
    show(found, [(name, name) for name in found[0]])
    click.echo()
    for sentence in words(report):
        click.echo(sentence)


@bench.command()
@json_option
@click.option("--quick", is_flag=True, help="Half a minute: three rollbacks. For a look, not for a claim.")
@click.option("--versions", type=click.IntRange(min=1), help="Published at least [default: 1000]")
@click.option("--rollbacks", type=click.IntRange(min=1), help="How many [default: 50]")
@click.option("--connections", type=click.IntRange(min=1), help="That ask for predictions [default: 32]")
@click.option("--predictions", type=click.FloatRange(min=1), metavar="N", help="Asked for a second [default: 400]")
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Where the data lie meanwhile: the disk that is measured [default: the one for temporary files]",
)
def swap(
    as_json: bool,
    quick: bool,
    versions: int | None,
    rollbacks: int | None,
    connections: int | None,
    predictions: float | None,
    folder: Path | None,
) -> int:
    """What swaps of versions and rollbacks cost those who ask for predictions.

    Runs `penstock up` under load from a process of its own, publishes a version for each event, orders the last known
    good one back again and again, and looks at every answer. Takes some two to three minutes; progress goes to stderr.
    Exit code 1 where an answer was failed, torn, or of a version whose withdrawal was confirmed.
    """
    import msgspec

    from penstock.cli.benchmarks.swap import QUICK, Settings, measure
    from penstock.cli.benchmarks.swap_report import rows, words

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the service that was started is stopped too
    given = {
        "versions": versions,
        "rollbacks": rollbacks,
        "connections": connections,
        "predictions_per_s": predictions,
        "folder": folder,
    }
    settings = msgspec.structs.replace(
        QUICK if quick else Settings(), **{name: value for name, value in given.items() if value is not None}
    )
    report = measure(settings, " ".join(["penstock", *sys.argv[1:]]), say)
    if as_json:
        show_json(report)
    else:
        for sentence in words(report):
            click.echo(sentence)
        click.echo()
        found = rows(report)
        show(found, [(name, name) for name in found[0]])
    return 0 if report.is_sound else 1


_CASES = click.Path(exists=True, dir_okay=False, path_type=Path)


@bench.command()
@json_option
@click.option("--hpa-cases", type=_CASES, help="Run these cases of the Horizontal Pod Autoscaler instead.")
@click.option("--ca-cases", type=_CASES, help="Run these cases of the Cluster Autoscaler instead.")
def control(as_json: bool, hpa_cases: Path | None, ca_cases: Path | None) -> int:
    """What the rules of the autoscalers decide, and what the simulated cluster is worth.

    With files of cases, how many of them our rules agree with; exits with 1 when they disagree with any. Without, the
    simulator beside what is known: the waits of Erlang's formula, the time for a day of a million requests, its bill.
    """
    if hpa_cases is None and ca_cases is None:
        return _control_figures(as_json)
    from penstock.cli.benchmarks import cases_ca, cases_hpa
    from penstock.cli.benchmarks.cases import merged, run

    files = ((hpa_cases, cases_hpa.KINDS), (ca_cases, cases_ca.KINDS))
    outcomes = [run(path, kinds) for path, kinds in files if path is not None]
    outcome = merged(outcomes)
    if as_json:
        show_json(outcome)
    else:
        for failed in outcome.failed:
            why = failed.reason or f"expected {failed.expected}, decided {failed.got}"
            click.echo(f"{failed.id} {failed.kind}, {failed.name}: {why}")
        click.echo(f"{outcome.passed:,} of {outcome.cases:,} cases agree")
    return 1 if outcome.failed else 0


def _control_figures(as_json: bool) -> int:
    from penstock.cli.benchmarks.control import measure, tables, words

    report = measure(say)
    if as_json:
        show_json(report)
    else:
        for title, rows in tables(report).items():
            click.echo(f"\n{title}")
            show(rows, [(name, name) for name in rows[0]])
        click.echo()
        for sentence in words(report):
            click.echo(sentence)
    return 0 if report.holds else 1


def _tell(
    report: Told,
    as_json: bool,
    tables: Callable[[Told], Mapping[str, Sequence[Row]]],
    words: Callable[[Told], Sequence[str]],
) -> None:
    """A report as JSON, or as its tables and sentences."""
    if as_json:
        show_json(report)
        return
    for title, rows in tables(report).items():
        click.echo(f"\n{title}")
        show(rows, [(name, name) for name in rows[0]])
    click.echo()
    for sentence in words(report):
        click.echo(sentence)


@contextmanager
def _progress() -> Iterator[tuple[Callable[[str], None], Callable[[str, str, int, int], None]]]:
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


def _steps(given: Sequence[str]) -> tuple[int, ...]:
    found = []
    for text in _listed(given):
        if not text.isdecimal() or not 1 <= int(text) <= 65_536:
            raise click.BadParameter(f"{text!r} is no number of events from 1 to 65536", param_hint="--step")
        found.append(int(text))
    return tuple(dict.fromkeys(found))


def _known(option: str, given: Sequence[str], known: Sequence[str]) -> tuple[str, ...] | None:
    """The names that were given, None where the option was not."""
    names = tuple(dict.fromkeys(_listed(given)))
    if names == ("none",):
        return ()
    for name in names:
        if name not in known:
            raise click.BadParameter(f"there is no {name!r}; there are {', '.join(known)}", param_hint=option)
    return names or None
