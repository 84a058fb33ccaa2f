"""`penstock bench gate` and `control`: what the deciders decide, beside what is known to be right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from penstock.cli.bench.asking import changed, command_line, known, tell
from penstock.cli.show import as_json as json_option
from penstock.cli.show import say, show_json

_GATE_PARTS = "alarms,power,apprentice,harm,cost,steady,sources,streams"
_STREAMS = "Folder with elec2/, drift/ and mnist/ [default: without electricity and interchanging_rbf]"


@click.command()
@json_option
@click.option("--quick", is_flag=True, help="A minute or two: a tenth of the streams. For a look, not for a claim.")
@click.option("--streams", type=click.IntRange(min=10), help="Simulated streams of each row [default: 1000]")
@click.option("--seed", type=click.IntRange(min=0), help="Of all that is drawn [default: 0]")
@click.option("--parts", multiple=True, metavar="NAMES", help=f"Which of {_GATE_PARTS}.")
@click.option("--data", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help=_STREAMS)
def gate(
    as_json: bool, quick: bool, streams: int | None, seed: int | None, parts: Sequence[str], folder: Path | None
) -> None:
    """What the gate lets through, what it stops wrongly, and what it costs.

    Its deciders on simulated streams with late labels, looked at after every event, beside a t-test, a fixed-sample
    test and a bound on a moving average; then all of it around the real learner, on real streams and on poisoned ones.
    Takes some half an hour; progress goes to stderr.
    """
    from penstock.cli.benchmarks.gate import PARTS, QUICK, Settings, measure
    from penstock.cli.benchmarks.gate_report import tables, words

    settings = changed(
        QUICK if quick else Settings(), streams=streams, seed=seed, folder=folder, parts=known("--parts", parts, PARTS)
    )
    tell(measure(settings, command_line(), say), as_json, words, tables)


CONTROL_PARTS = ("cluster", "policy", "plan", "money")
_TRACES = "Folder with llm_traces/ [default: the synthetic week alone]"
_CASES = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@json_option
@click.option("--quick", is_flag=True, help="A minute or two: without our own autoscaler, and a fiftieth of the plans.")
@click.option("--parts", multiple=True, metavar="NAMES", help="Which of cluster,policy,plan,money.")
@click.option("--every", type=click.IntRange(min=1), help="Of the plans, one in so many [default: all]")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes for the plans.")
@click.option("--data", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help=_TRACES)
@click.option("--hpa-cases", type=_CASES, help="Run these cases of the Horizontal Pod Autoscaler instead.")
@click.option("--ca-cases", type=_CASES, help="Run these cases of the Cluster Autoscaler instead.")
def control(
    as_json: bool,
    quick: bool,
    parts: Sequence[str],
    every: int | None,
    jobs: int,
    folder: Path | None,
    hpa_cases: Path | None,
    ca_cases: Path | None,
) -> int:
    """What the rules of the autoscalers decide, what the simulated cluster is worth, and what `penstock plan` chooses.

    With files of cases, how many of them our rules agree with; exits with 1 when they disagree with any. Without, the
    simulator beside what is known (the waits of Erlang's formula, the time for a day of a million requests, its bill),
    our own autoscaler beside the best fixed count and the best floor that hindsight finds, and the choice of machines
    or functions beside an exhaustive simulation of some six thousand workloads; and a running service with a budget of
    cents, up and down its ladder with a kill at every rung. Takes some twenty minutes.
    """
    if hpa_cases is None and ca_cases is None:
        from penstock.cli.benchmarks.control_report import measure, tables, words

        chosen = known("--parts", parts, CONTROL_PARTS) or (("cluster", "plan") if quick else CONTROL_PARTS)
        report = measure(command_line(), say, chosen, folder, every=every or (50 if quick else 1), jobs=jobs)
        tell(report, as_json, words, tables)
        return 0 if report.holds else 1
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
