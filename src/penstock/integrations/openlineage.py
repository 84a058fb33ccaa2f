"""OpenLineage: run events for spans of versions, releases and consolidations, sent by the official client.

A fast update is no event: a hundred a second are normal. The updates between two checkpoints are one run; rollbacks,
promotions and consolidations are runs of their own. Events wait in a queue of bounded length and are sent by a thread:
the learner is never held up and never stopped, and what could not be sent or had no room is counted.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from typing import Any

from penstock.errors import ExtraMissing
from penstock.events import Range, Version
from penstock.facts import Consolidated, Fact, GivenUp
from penstock.metrics import openlineage_counter
from penstock.publish.interface import Receipt
from penstock.publish.records.receipts import merge
from penstock.spec import Spec

PRODUCER = "urn:penstock"
WAITING_MAX = 1000
"""Events that wait to be sent; at one a checkpoint that is a quarter of an hour at least."""
TIMEOUT_S = 5.0
RETRIES = 2
CLOSE_S = 3.0
"""How long the end of the learner waits for the last events to be sent."""
KEY_VARIABLE = "OPENLINEAGE_API_KEY"

logger = logging.getLogger(__name__)


class OpenLineageWitness:
    """Implements Witness for one service."""

    def __init__(self, spec: Spec, *, waiting_max: int = WAITING_MAX, close_s: float = CLOSE_S) -> None:
        """Raises ExtraMissing without the client."""
        if find_spec("openlineage") is None:
            raise ExtraMissing(what="OpenLineage", package="openlineage-python", extra="openlineage")
        self._events = _Events(spec)
        self._transport = _transport(spec.lineage.openlineage)
        self._span: Receipt | None = None
        self._waiting: queue.Queue[Callable[[], Any] | None] = queue.Queue(waiting_max)
        self._close_s = close_s
        self._share = 0.0
        """Of the traffic, what the newest told canary answers."""
        self._counted = {outcome: openlineage_counter(spec.name, outcome) for outcome in ("sent", "failed", "dropped")}
        self.counts = dict.fromkeys(self._counted, 0)
        """Events that were sent, that could not be sent, and that had no room to wait."""
        self._thread = threading.Thread(target=self._send, name="openlineage", daemon=True)
        self._thread.start()

    def published(self, receipts: Sequence[Receipt], facts: Sequence[Fact]) -> None:
        """Take note of these; returns at once."""
        for receipt in receipts:
            if receipt.cause == "update":
                self._span = receipt if self._span is None else merge(self._span, receipt)
            elif receipt.cause == "canary" and receipt.share == self._share:
                # It comes with every update; a run is its first version at each share.
                continue
            else:
                self._share = receipt.share
                self._end_span("")
                self._hand_over(partial(self._events.of_release, receipt))
        for fact in facts:
            if isinstance(fact, Consolidated | GivenUp):
                self._hand_over(partial(self._events.of_consolidation, fact))

    def checkpointed(self, version: Version, state: str) -> None:
        """The updates up to this version are a run; ``state`` is the hash of the learner's state."""
        self._end_span(state)

    def close(self) -> None:
        """Send what waits, for a few seconds at most."""
        self._end_span("")
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            # There is no hope of sending all of it in time either.
            return
        self._thread.join(self._close_s)

    def _end_span(self, state: str) -> None:
        span, self._span = self._span, None
        if span is not None:
            self._hand_over(partial(self._events.of_span, span, state))

    def _hand_over(self, make: Callable[[], Any]) -> None:
        try:
            self._waiting.put_nowait(make)
        except queue.Full:
            self._count("dropped")

    def _send(self) -> None:
        while (make := self._waiting.get()) is not None:
            try:
                self._transport.emit(make())
            except Exception as error:  # whatever the client or the other side does, learning goes on
                self._count("failed", str(error))
            else:
                self._count("sent")

    def _count(self, outcome: str, why: str = "no room to wait") -> None:
        self.counts[outcome] += 1
        self._counted[outcome].inc()
        if outcome != "sent" and self.counts[outcome].bit_count() == 1:
            # The first, second, fourth, eighth ...: a log must not be flooded by another system's outage.
            told = {"outcome": outcome, "so_far": self.counts[outcome], "why": why}
            logger.warning("OpenLineage events are not sent", extra=told)


def _transport(target: str) -> Any:
    """Where events go: to a server's ``/api/v1/lineage``, or to a file, one JSON a line."""
    from openlineage.client.transport.file import FileConfig, FileTransport
    from openlineage.client.transport.http import HttpConfig, HttpTransport

    if target.startswith("file:"):
        return FileTransport(
            FileConfig(log_file_path=target.removeprefix("file://").removeprefix("file:"), append=True)
        )
    auth = {"type": "api_key", "apiKey": os.environ[KEY_VARIABLE]} if KEY_VARIABLE in os.environ else {}
    settings = {"url": target, "timeout": TIMEOUT_S, "auth": auth, "retry": {"total": RETRIES, "connect": RETRIES}}
    return HttpTransport(HttpConfig.from_dict(settings))


class _Events:
    """Run events of one service, as the client's own classes."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._namespace = spec.lineage.namespace

    def of_span(self, span: Receipt, state: str) -> Any:
        """The updates from behind one checkpoint to the next."""
        return self._of_versions("learn", span, state)

    def of_release(self, receipt: Receipt) -> Any:
        """A start, a rollback, a promotion, or a share of the traffic that a canary answers."""
        return self._of_versions("release", receipt, "")

    def of_consolidation(self, fact: Consolidated | GivenUp) -> Any:
        """A base that was trained, or a candidate that was given up."""
        about: dict[str, Any] = {"number": fact.number, "base": fact.base}
        if isinstance(fact, Consolidated):
            about |= {"trained": fact.trained, "cause": fact.cause}
        else:
            about |= {"reason": fact.reason}
        state = "COMPLETE" if isinstance(fact, Consolidated) else "ABORT"
        outputs = [self._versioned("base", fact.base)] if fact.base else []
        return self._event("consolidate", fact.number, fact.at, about, [self._log(())], outputs, state)

    def _of_versions(self, job: str, receipt: Receipt, state: str) -> Any:
        outputs = [self._versioned("model", str(receipt.version)), self._predictions(str(receipt.version))]
        inputs = [self._log(receipt.ranges)] if receipt.ranges else []
        return self._event(job, receipt.version, receipt.time, _about(receipt, state), inputs, outputs)

    def _event(
        self,
        job: str,
        number: int,
        at: float,
        about: dict[str, Any],
        inputs: list[Any],
        outputs: list[Any],
        state: str = "COMPLETE",
    ) -> Any:
        from openlineage.client.event_v2 import Job, Run, RunEvent, RunState
        from openlineage.client.facet_v2 import job_type_job
        from openlineage.client.uuid import generate_static_uuid

        when = datetime.fromtimestamp(at, UTC)
        name = f"{self._spec.name}.{job}"
        # The same run has the same id, however often it is told of.
        run_id = str(generate_static_uuid(when, f"{self._namespace}/{name}/{number}/{state}".encode()))
        kind = job_type_job.JobTypeJobFacet(processingType="STREAMING", integration="PENSTOCK", jobType=job.upper())
        return RunEvent(
            eventType=RunState[state],
            eventTime=when.isoformat(),
            producer=PRODUCER,
            run=Run(runId=run_id, facets={"penstock": _facet("RunFacet", **about)}),
            job=Job(namespace=self._namespace, name=name, facets={"jobType": kind}),
            inputs=inputs,
            outputs=outputs,
        )

    def _versioned(self, what: str, version: str) -> Any:
        from openlineage.client.event_v2 import OutputDataset
        from openlineage.client.facet_v2 import dataset_version_dataset

        facet = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version)
        return OutputDataset(namespace=self._namespace, name=f"{self._spec.name}.{what}", facets={"version": facet})

    def _log(self, ranges: Sequence[Range]) -> Any:
        """The service's log, and which of its events were read."""
        from openlineage.client.event_v2 import InputDataset
        from openlineage.client.facet_v2 import schema_dataset

        fields = [
            schema_dataset.SchemaDatasetFacetFields(name=name, type=feature.type)
            for name, feature in self._spec.features.items()
        ]
        fields.append(schema_dataset.SchemaDatasetFacetFields(name=self._spec.label.name, type=self._spec.task))
        told = [{"partition": partition, "from": start, "to": stop} for partition, start, stop in ranges]
        offsets = {"penstock_offsets": _facet("InputDatasetFacet", ranges=told)} if told else {}
        return InputDataset(
            namespace=self._namespace,
            name=self._log_name,
            facets={"schema": schema_dataset.SchemaDatasetFacet(fields=fields)},
            inputFacets=offsets,
        )

    def _predictions(self, version: str) -> Any:
        """What the version answers: the one column that comes of others, of all features."""
        from openlineage.client.event_v2 import OutputDataset
        from openlineage.client.facet_v2 import column_lineage_dataset as columns
        from openlineage.client.facet_v2 import schema_dataset

        how = columns.Transformation(type="DIRECT", subtype="TRANSFORMATION", description=f"version {version}")
        inputs = [
            columns.InputField(namespace=self._namespace, name=self._log_name, field=name, transformations=[how])
            for name in self._spec.features
        ]
        label = self._spec.label.name
        lineage = columns.ColumnLineageDatasetFacet(fields={label: columns.Fields(inputFields=inputs)})
        schema = schema_dataset.SchemaDatasetFacet(
            fields=[schema_dataset.SchemaDatasetFacetFields(name=label, type=self._spec.task)]
        )
        facets = {"schema": schema, "columnLineage": lineage}
        return OutputDataset(namespace=self._namespace, name=f"{self._spec.name}.predictions", facets=facets)

    @property
    def _log_name(self) -> str:
        return f"{self._spec.name}.log"


def _about(receipt: Receipt, state: str) -> dict[str, Any]:
    """What only Penstock knows of a run."""
    return {
        "firstVersion": receipt.parent + 1,
        "version": receipt.version,
        "parent": receipt.parent,
        "cause": receipt.cause,
        "restores": receipt.restores,
        "events": receipt.events,
        "verdict": receipt.verdict,
        "base": receipt.base or None,
        "weights": receipt.weights or None,
        "state": state or None,
        "environment": receipt.environment or None,
    }


def _facet(kind: str, **values: Any) -> Any:
    """A facet of our own; the client keeps what is none of its business as it is."""
    from openlineage.client.generated import base

    made = getattr(base, kind)(producer=PRODUCER)
    return made.with_additional_properties(**values)
