"""`penstock fsck`: what is damaged in a data folder, what it means, and what can be done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock.cli.connect import DATA_DEFAULT
from penstock.cli.show import as_json as json_option
from penstock.cli.show import next_commands, show_json
from penstock.errors import FolderUnusable, UnknownService

if TYPE_CHECKING:
    from penstock.control.fsck import ServiceReport
    from penstock.eventlog.findings import Finding


@click.command()
@click.argument(
    "data", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="PENSTOCK_DATA", default=DATA_DEFAULT
)
@click.argument("service", required=False)
@click.option("--repair", is_flag=True, help="Mend what can be mended; what is taken away is kept as .damaged beside.")
@json_option
def fsck(data: Path, service: str | None, repair: bool, as_json: bool) -> int:
    """Look for damage in a data folder, and repair what can be.

    Reads every event of the log, the step journal, checkpoints, snapshots, receipts and ids of all services in DATA, or
    of SERVICE, while nothing runs on it. Changes nothing without --repair, and never invents or skips an event.
    Exit codes: 0 nothing is damaged, 1 something is, or remains, 2 wrong usage.
    """
    from penstock.control.fsck import check

    try:
        reports = check(data.absolute(), service, repair=repair)
    except (FolderUnusable, UnknownService) as error:
        raise click.UsageError(str(error)) from error
    remaining = sum(report.damage for report in reports)
    if as_json:
        show_json(reports)
    else:
        for report in reports:
            _tell(report)
        if any(finding.repairable and not finding.repaired for r in reports for finding in r.findings):
            next_commands(" ".join(["penstock fsck", str(data), *([service] if service else []), "--repair"]))
    return 1 if remaining else 0


def _tell(report: ServiceReport) -> None:
    verdict = "nothing is damaged" if not report.findings else f"{len(report.findings)} found, {report.damage} remain"
    click.secho(f"{report.service}: {verdict}", bold=True)
    places = ", ".join(f"{name}: {first:,} to {end:,}" for name, (first, end) in report.partitions.items())
    erased = f", {report.erased:,} erased" if report.erased else ""
    click.echo(f"  {report.events:,} events whole{erased} (offsets of partition {places or 'none'})")
    click.echo(
        f"  steps {report.steps[0]:,} to {report.steps[1]:,}, {report.checkpoints} checkpoints, "
        f"{report.snapshots} snapshots"
    )
    for finding in report.findings:
        click.echo(f"\n  {finding.part}: {_place(finding)}")
        click.echo(f"    {finding.what}")
        click.echo(f"    {finding.means}")
        if finding.repaired:
            click.echo(f"    Repaired; what was taken away is in {finding.kept}" if finding.kept else "    Repaired.")
        else:
            click.echo(f"    {finding.remedy}")


def _place(finding: Finding) -> str:
    byte = "" if finding.byte is None else f" at byte {finding.byte:,}"
    events = "" if finding.offset is None else f" (partition {finding.partition}, offset {finding.offset:,})"
    return f"{finding.file}{byte}{events}"
