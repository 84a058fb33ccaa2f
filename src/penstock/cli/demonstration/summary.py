"""What the demo showed: figures as measured, the promises they are held to, and the words for people."""

from __future__ import annotations

import msgspec
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

FIRST_CLASSES = (0, 1)
ACCURACY_FIRST_MIN = 0.95
VERDICTS_SHOWN = 4


class Delays(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds from an acknowledgement to the first prediction made by a version that includes its events."""

    p50: float | None
    p99: float | None
    p99_undisturbed: float | None
    """Of the acknowledgements outside of the burst and the kill."""
    measured: int


class DigitsFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Shares of the held-out digits answered rightly at the end, by the service and by the naive learner."""

    accuracy_first_classes: float | None
    naive_accuracy_first_classes: float | None
    accuracy_all: float | None
    naive_accuracy_all: float | None
    held_out: int
    held_out_sent: int
    """How many of them were ever sent as examples: 0."""


class FlowFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Mean absolute errors in litres a second, each hour predicted before its answer was sent."""

    mae: float | None
    baseline_mae: float | None
    hours: int


class Services(msgspec.Struct, frozen=True, kw_only=True):
    digits: DigitsFigures
    flow: FlowFigures


class BurstFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the digits with wrong labels."""

    source: str
    events: int
    held: int
    """Updates of the service that the gate held back from the burst's first event on until it was over."""
    rolled_back: int
    """Versions that were withdrawn in that time."""
    set_aside: int
    """Events that were not learned, or had been and were taken out again."""
    accuracy_before: float | None
    """On the held-out digits of the classes seen by then."""
    accuracy_lowest: float | None
    """While it lasted, and until the gate had dealt with it."""
    accuracy_after: float | None
    verdicts: list[str]
    """What the receipts and facts say, in their own words."""


class RestartFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How the learner that was killed came back."""

    service: str
    killed_pid: int
    caught_up_ms: float | None


class BaseFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What the slow tier did for the digits."""

    trained: int
    """Bases trained beside the stream."""
    promoted: int
    given_up: int
    events: int
    """Labelled events that the promoted base was trained on, or else the newest."""
    seconds: float
    """That its training took, at low priority."""
    shadow_events: int
    """Labelled events for which it learned in shadow before it was promoted."""
    reasons: list[str]
    """What the gate said, in its own words."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The demo's result; `--json` prints it."""

    complete: bool
    """Whether both streams were sent to their end."""
    broken: list[str]
    """The promises that were not kept, with their figures."""
    seconds: float
    events_acknowledged: int
    events_accepted: int
    events_learned: int
    events_set_aside: int
    predictions_served: int
    predictions_failed: int
    learner_kills: int
    versions_published: int
    versions_refused_or_rolled_back: int
    freshness_ms: Delays
    services: Services
    burst: BurstFigures
    base: BaseFigures
    restarts: list[RestartFigures]


def broken_promises(figures: Figures, failures: list[str], unseen: int) -> list[str]:
    """Every promise of the demo that these figures do not keep; ``unseen`` acknowledgements were in no prediction."""
    digits, flow = figures.services.digits, figures.services.flow
    found = []
    dealt_with = figures.events_learned + figures.events_set_aside
    if not figures.events_accepted == dealt_with == figures.events_acknowledged:
        found.append(
            f"{figures.events_acknowledged:,} events were acknowledged to clients, {figures.events_accepted:,} are in "
            f"the logs and {figures.events_learned:,} were learned, {figures.events_set_aside:,} set aside: these must "
            "add up"
        )
    if unseen:
        found.append(f"{unseen:,} acknowledgements are not part of any version that answered a prediction")
    if figures.predictions_failed:
        found.append(f"{figures.predictions_failed:,} predictions failed, such as: {failures[0]}")
    if not figures.learner_kills:
        found.append("no learner was killed")
    found += [f"the learner of {r.service} did not catch up" for r in figures.restarts if r.caught_up_ms is None]
    if not figures.versions_refused_or_rolled_back and not figures.burst.set_aside:
        found.append("the gate neither set aside, held nor rolled back anything")
    if not figures.base.promoted:
        found.append(f"no base was promoted; {figures.base.trained} trained, {figures.base.given_up} given up")
    if digits.accuracy_first_classes is None or digits.accuracy_first_classes < ACCURACY_FIRST_MIN:
        found.append(
            f"accuracy on the first classes ended at {_share(digits.accuracy_first_classes)}, "
            f"below {_share(ACCURACY_FIRST_MIN)}"
        )
    if flow.mae is None or flow.baseline_mae is None or flow.mae >= flow.baseline_mae:
        found.append(f"the flow's error of {flow.mae} is not below the last value's {flow.baseline_mae}")
    if digits.held_out_sent:
        found.append(f"{digits.held_out_sent} held-out digits were sent as examples")
    return found


def sentences(figures: Figures) -> list[str]:
    """What happened, for people."""
    digits, flow, burst = figures.services.digits, figures.services.flow, figures.burst
    when = "After all ten classes" if figures.complete else "So far"
    spared = ", though it was spared the wrong labels" if burst.events else ""
    said = [
        f"{figures.events_acknowledged:,} events were acknowledged and {figures.events_learned:,} learned, each once, "
        f"{figures.events_set_aside:,} set aside, "
        f"through {figures.versions_published:,} published versions in {figures.seconds:.0f} s; "
        f"{figures.predictions_served:,} predictions were answered meanwhile, {figures.predictions_failed:,} failed.",
        f"{when}, the service names {_share(digits.accuracy_first_classes)} of the held-out 0s and 1s "
        f"rightly, which it saw first; plain online SGD on the same events "
        f"{_share(digits.naive_accuracy_first_classes)}{spared}.",
    ]
    if flow.mae is not None and flow.baseline_mae is not None:
        said.append(
            f"The flow one hour ahead was off by {flow.mae:.3f} l/s on average; repeating the last value by "
            f"{flow.baseline_mae:.3f} l/s ({1 - flow.mae / flow.baseline_mae:+.0%} gained)."
        )
    if burst.events:
        said.append(_burst_sentence(burst))
    if figures.base.trained:
        said.append(_base_sentence(figures.base))
    for restart in figures.restarts:
        back = (
            "it never caught up"
            if restart.caught_up_ms is None
            else f"predictions included everything acknowledged again after {restart.caught_up_ms:,.0f} ms"
        )
        said.append(f"The learner of {restart.service} was killed with SIGKILL while events arrived; {back}.")
    return said


def what_the_gate_did(burst: BurstFigures) -> str:
    """In words, empty for nothing."""
    done = []
    if burst.set_aside:
        done.append(f"set {burst.set_aside:,} of them aside")
    if burst.held:
        done.append(f"held back {burst.held:,} {'update' if burst.held == 1 else 'updates'}")
    if burst.rolled_back:
        done.append(f"rolled back {'once' if burst.rolled_back == 1 else f'{burst.rolled_back:,} times'}")
    *first, last = done or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _burst_sentence(burst: BurstFigures) -> str:
    said = f"{burst.source} sent {burst.events:,} digits with wrong labels; the gate "
    said += what_the_gate_did(burst) or "did nothing"
    if burst.accuracy_before is not None and burst.accuracy_lowest is not None and burst.accuracy_after is not None:
        said += (
            f". Right on held-out digits: {_share(burst.accuracy_before)} before, {_share(burst.accuracy_lowest)} "
            f"at the lowest, {_share(burst.accuracy_after)} after"
        )
    return f"{said}. In its words:" if burst.verdicts else f"{said}."


def _base_sentence(base: BaseFigures) -> str:
    said = f"A base was trained on {base.events:,} events in {base.seconds:.0f} s beside the stream"
    if base.promoted:
        return f"{said}, learned {base.shadow_events:,} events in shadow, and was promoted."
    return f"{said}, and was {'given up' if base.given_up else 'still in shadow at the end'}."


def table(figures: Figures) -> Table:
    """The figures that the sentences are made of; freshness: acknowledged to first visible."""
    digits, flow, fresh = figures.services.digits, figures.services.flow, figures.freshness_ms
    shown = Table(title="What was measured", title_justify="left", title_style="bold", header_style="dim")
    shown.add_column("figure")
    shown.add_column("Penstock", justify="right")
    shown.add_column("beside it", justify="right")
    shown.add_row(
        "digits: right on 0 and 1",
        _share(digits.accuracy_first_classes),
        f"{_share(digits.naive_accuracy_first_classes)} naive SGD",
    )
    shown.add_row(
        "digits: right on all ten",
        _share(digits.accuracy_all),
        f"{_share(digits.naive_accuracy_all)} naive SGD",
    )
    shown.add_row("flow: mean error, l/s", _number(flow.mae, 3), f"{_number(flow.baseline_mae, 3)} last value")
    shown.add_row("freshness p50, ms", _number(fresh.p50, 1), f"{fresh.measured:,} acknowledgements")
    shown.add_row(
        "freshness p99, ms",
        _number(fresh.p99, 1),
        f"{_number(fresh.p99_undisturbed, 1)} without burst, kill",
    )
    shown.add_row("events learned", f"{figures.events_learned:,}", f"{figures.events_acknowledged:,} acknowledged")
    shown.add_row("predictions answered", f"{figures.predictions_served:,}", f"{figures.predictions_failed:,} failed")
    shown.add_row(
        "versions published",
        f"{figures.versions_published:,}",
        f"{figures.versions_refused_or_rolled_back:,} held or rolled back",
    )
    shown.add_row(
        "wrong labels sent",
        f"{figures.burst.events:,}",
        f"{figures.burst.set_aside:,} set aside",
    )
    return shown


def print_summary(console: Console, figures: Figures) -> None:
    """Sentences, then the table."""
    if not figures.complete:
        console.print("[bold yellow]The demo was stopped before its end; what it had measured so far:[/]")
    for sentence in sentences(figures):
        console.print(Padding(Text(sentence), (0, 0, 0, 2)))
        verdicts = figures.burst.verdicts if sentence.startswith(figures.burst.source) else []
        verdicts = figures.base.reasons if sentence.startswith("A base") else verdicts
        for verdict in verdicts[:VERDICTS_SHOWN]:
            console.print(Padding(Text(verdict, style="dim"), (0, 0, 0, 6)))
    console.print()
    console.print(table(figures))


def _share(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
