"""Everything that `penstock bench control` finds, in one report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock.cli.benchmarks import control, control_plan, control_plan_report, control_policy, money
from penstock.cli.benchmarks.machine import Machine, describe


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The parts that were asked for."""

    command: str
    machine: Machine
    cluster: control.Simulated | None
    policy: list[control_policy.Stretch]
    """Our own autoscaler beside the best of others with hindsight."""
    plan: control_plan.Choosing | None
    money: money.Money | None
    """A budget of cents on a running service."""
    holds: bool
    """Whether every figure is within its bound, time aside."""


def measure(
    command: str, note: Callable[[str], None], parts: Sequence[str], folder: Path | None, *, every: int, jobs: int
) -> Report:
    """Measure these parts; of the plan's workloads one in ``every``, in ``jobs`` processes."""
    cluster = control.measure(note) if "cluster" in parts else None
    plan = control_plan.measure(note, every=every, jobs=jobs) if "plan" in parts else None
    spent = money.govern(Path(tempfile.gettempdir()), note) if "money" in parts else None
    return Report(
        command=command,
        machine=describe(Path(tempfile.gettempdir())),
        cluster=cluster,
        policy=control_policy.measure(folder, note) if "policy" in parts else [],
        plan=plan,
        money=spent,
        holds=all(part.holds for part in (cluster, plan, spent) if part is not None),
    )


def tables(report: Report) -> dict[str, list[dict[str, Any]]]:
    """Tables for people, by their titles."""
    return {
        **({} if report.cluster is None else control.tables(report.cluster)),
        **(control_policy.tables(report.policy) if report.policy else {}),
        **({} if report.plan is None else control_plan_report.tables(report.plan)),
    }


def words(report: Report) -> Sequence[str]:
    """Sentences for people."""
    return (
        *(() if report.cluster is None else control.words(report.cluster)),
        *(control_policy.words(report.policy) if report.policy else ()),
        *(() if report.plan is None else control_plan_report.words(report.plan)),
        *(() if report.money is None else money.words(report.money)),
    )
