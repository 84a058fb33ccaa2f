"""What `penstock bench stream` found, as one struct for programs and as tables for people."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from penstock.cli.benchmarks.floors import Floors
from penstock.cli.benchmarks.machine import Machine

Row = dict[str, object]


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """One form of request, as fast as it is taken: medians over the repeats."""

    events: int
    """In each repeat."""
    events_per_request: int
    connections: int
    bytes_per_event: float
    learned_per_s: float
    """Until everything was durable and learned."""
    accepted_per_s: float
    """Until everything was durable."""
    learned_per_s_runs: list[float]
    requests_retried: int
    """Answered with 503 and sent again, in all repeats."""
    cores_used: dict[str, float]
    """By process, the load generator's (``load``) among them."""


class Freshness(msgspec.Struct, frozen=True, kw_only=True):
    """One paced rate: medians over the repeats."""

    asked_events_per_s: float
    events_per_s: float
    events_per_request: int
    requests_per_s: float
    predictions_per_s: float
    freshness_ms: dict[str, float]
    predict_ms: dict[str, float]
    """Empty where no prediction that fell due in the measured stretch was answered before its end."""
    acknowledge_ms: dict[str, float]
    predictions: int
    predictions_failed: int
    behind_schedule_ms: dict[str, float]
    """How late the load generator itself was."""
    load_cpu_share: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, in the order in which it is read."""

    benchmark: str
    command: str
    date: str
    penstock: str
    machine: Machine
    service: dict[str, object]
    stream: dict[str, object]
    events_per_s: dict[str, float]
    """Accepted durably and learned."""
    accepted_per_s: dict[str, float]
    freshness_ms: dict[str, dict[str, float]]
    """By paced events a second."""
    predict_ms: dict[str, dict[str, float]]
    floors: Floors | None
    ratios: dict[str, dict[str, float]]
    """Events a second of ours, by what ours is, divided by those of each peer."""
    throughput: dict[str, Throughput]
    paced: dict[str, Freshness]
    accuracy: float | None
    """Of the served model at the end, predicted before learning, from its status."""
    seconds: float


def ratios(report_speeds: dict[str, float], floors: Floors | None) -> dict[str, dict[str, float]]:
    """Ours by each peer's: the whole path, and the learner alone as the peers are."""
    if floors is None:
        return {}
    largest = max(floors.learn, key=int)
    ours = {
        **report_speeds,
        f"learn_only_{largest}": floors.learn[largest].events_per_s,
        f"learn_only_linear_{largest}": floors.learn_linear.events_per_s,
    }
    speeds = {peer.name: peer.events_per_s for peer in floors.peers if peer.events_per_s}
    return {name: {peer: round(speed / theirs, 3) for peer, theirs in speeds.items()} for name, speed in ours.items()}


def throughput_rows(report: Report) -> list[Row]:
    """What the whole path takes, a form of request a row."""
    return [
        {
            "sent as": name,
            "events/s learned": round(found.learned_per_s),
            "events/s accepted": round(found.accepted_per_s),
            "bytes/event": round(found.bytes_per_event),
            "connections": found.connections,
            "cores used": ", ".join(f"{process} {cores:.2f}" for process, cores in found.cores_used.items()),
        }
        for name, found in report.throughput.items()
    ]


def freshness_rows(paced: Iterable[Freshness]) -> list[Row]:
    """How soon events count, a paced rate a row; p50 / p99 in milliseconds."""
    return [
        {
            "events/s": round(found.events_per_s),
            "sent as": f"JSON, {found.requests_per_s:g} requests/s of {found.events_per_request}",
            "freshness ms": _pair(found.freshness_ms),
            "predict ms": _pair(found.predict_ms),
            "acknowledge ms": _pair(found.acknowledge_ms),
            "predictions": found.predictions,
            "failed": found.predictions_failed,
        }
        for found in paced
    ]


def floor_rows(report: Report) -> list[Row]:
    """What each part costs alone."""
    floors = report.floors
    if floors is None:
        return []
    parts = {
        "fdatasync of 160 KB groups": floors.fdatasync_groups,
        "decode JSON, single": floors.decode_json_single,
        "decode JSON, 1,000": floors.decode_json_batch,
        "decode Arrow, 1,000": floors.decode_arrow_batch,
        **{f"learn in steps of {step}": speed for step, speed in floors.learn.items()},
        "learn, linear features only": floors.learn_linear,
    }
    return [
        {"part alone": name, "events/s": round(speed.events_per_s), "accuracy": _share(speed.accuracy)}
        for name, speed in parts.items()
    ]


def peer_rows(report: Report) -> list[Row]:
    """What others make of the same stream."""
    floors = report.floors
    if floors is None:
        return []
    return [
        {
            "peer": peer.name,
            "what was run": peer.how if peer.events_per_s else f"left out: {peer.left_out}",
            "events/s": round(peer.events_per_s) if peer.events_per_s else None,
            "accuracy": _share(peer.accuracy),
        }
        for peer in floors.peers
    ]


def ratio_rows(report: Report) -> list[Row]:
    """How many times as fast as each peer ours is, a way of ours a row."""
    return [{"ours": name, **found} for name, found in report.ratios.items() if found]


def tables(report: Report) -> dict[str, list[Row]]:
    """All of them, by title; those without rows are left out."""
    found = {
        "Accepted durably and learned": throughput_rows(report),
        "Freshness at a paced rate, p50 / p99": freshness_rows(report.paced.values()),
        "Floors: the parts alone, in one process": floor_rows(report),
        "Peers: learning alone, no durability and no server": peer_rows(report),
        "Ours divided by each peer's events/s": ratio_rows(report),
    }
    return {title: rows for title, rows in found.items() if rows}


def words(report: Report) -> list[str]:
    """What was measured where: the sentences around the tables."""
    machine = report.machine
    best = max(report.events_per_s, key=lambda name: report.events_per_s[name])
    sentences = [
        f"{report.events_per_s[best]:,.0f} events/s accepted durably and learned, at best ({best}).",
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GB, {machine.kernel}, Python {machine.python}, "
        f"NumPy {machine.numpy} with {machine.blas}; fdatasync on {machine.filesystem} "
        f"{_pair(machine.fdatasync_ms)} ms (p50 / p99).",
        f"Ran {report.command} on {report.date}, in {report.seconds:.0f} s. "
        f"Accuracy at the end {_share(report.accuracy)}, nobody can exceed "
        f"{report.stream['bayes_accuracy']}.",
    ]
    if "--url" not in report.command:
        sentences.append("No base was trained beside (consolidate.when: never).")
    if machine.filesystem in ("tmpfs", "ramfs"):
        sentences.append(
            "The data lay in memory, not on a disk: nothing was durable. Choose a folder on one with --folder."
        )
    return sentences


def _pair(values: dict[str, float]) -> str:
    return f"{values['p50']:.2f} / {values['p99']:.2f}" if values else "-"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
