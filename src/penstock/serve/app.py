"""The ASGI application: a dictionary of paths, and for each what it answers."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from urllib.parse import parse_qs

import msgspec

from penstock import metrics
from penstock.errors import BadEvent, MethodNotAllowed, NoSuchPage, PenstockError, UnknownService
from penstock.events import Batch, Kind, Version, class_names
from penstock.facts import KINDS
from penstock.publish.notices.costs import read_costs
from penstock.publish.records.priced import Priced, priced
from penstock.publish.records.withdrawals import withdrawn_by
from penstock.serve import openapi, problems
from penstock.serve.answers import Answer
from penstock.serve.decode import Media, media_of
from penstock.serve.forms import class_name
from penstock.serve.health import health_of, is_ready
from penstock.serve.http import ClientGone, Patience, Receive, Reply, Request, Scope, Send, refusal, respond
from penstock.serve.readings import readings
from penstock.serve.served import Service
from penstock.serve.status import status_of
from penstock.specfile.writer import settings

logger = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Reply]]

VERSIONS_MAX = 1000
"""Receipts in one answer."""
DIGITS_MAX = 100
"""Of a version that is asked for; what has more is no number of anything."""


ASIDE_TOLD_MAX = 10
"""Events of a request of which it is told why they will be set aside; the others are counted."""


class _Aside(msgspec.Struct, frozen=True):
    event: int
    reason: str


class _Accepted(msgspec.Struct, frozen=True, omit_defaults=True):
    accepted: int
    duplicates: int
    position: dict[str, int]
    set_aside: int = 0
    why: list[_Aside] = []


class _Predictions(msgspec.Struct, frozen=True):
    predictions: list[Answer]


_encode = msgspec.json.Encoder().encode


class Application:
    """Answers for all services of one server worker."""

    def __init__(self, services: Mapping[str, Service], *, patience: Patience) -> None:
        self.draining = False
        """Whether the worker is about to stop: connections are then closed after their next answer."""
        self._services = services
        self._patience = patience
        self._document = _encode(openapi.document([service.spec for service in services.values()]))
        self._routes: dict[str, dict[str, Handler]] = {
            "/v1": {"GET": self._list_services},
            "/metrics": {"GET": self._metrics},
            "/health/live": {"GET": self._live},
            "/health/ready": {"GET": self._ready},
            "/openapi.json": {"GET": self._openapi},
        }
        for name, service in services.items():
            self._routes |= {
                f"/v1/{name}": {"GET": partial(self._status, service)},
                f"/v1/{name}/spec": {"GET": partial(self._spec, service)},
                f"/v1/{name}/versions": {"GET": partial(self._versions, service)},
                f"/v1/{name}/history": {"GET": partial(self._history, service)},
                f"/v1/{name}/examples": {"POST": partial(self._accept, service, Kind.EXAMPLE)},
                f"/v1/{name}/feedback": {"POST": partial(self._accept, service, Kind.FEEDBACK)},
                f"/v1/{name}/predict": {"POST": partial(self._predict, service)},
            }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        request = Request.of(scope, receive)
        try:
            reply = await self._handler(request)(request)
        except PenstockError as error:
            reply = self._refuse(request, error)
        except ClientGone:
            return
        except Exception:
            reference = uuid.uuid4().hex[:12]
            logger.exception("a request failed", extra={"path": request.path, "reference": reference})
            reply = Reply(problems.internal(reference), 500, problems.PROBLEM_TYPE.encode())
        await respond(send, reply, close=self.draining or reply.status in (408, 413))

    def _handler(self, request: Request) -> Handler:
        methods = self._routes.get(request.path) or self._version_route(request.path)
        if methods is None:
            parts = request.path.split("/")
            if len(parts) > 2 and parts[1] == "v1" and parts[2] not in self._services:
                raise UnknownService(name=parts[2], known=", ".join(self._services) or "none")
            raise NoSuchPage(path=request.path)
        method = "GET" if request.method == "HEAD" else request.method
        handler = methods.get(method)
        if handler is None:
            raise MethodNotAllowed(path=request.path, method=request.method, allowed=", ".join(methods))
        return handler

    def _version_route(self, path: str) -> dict[str, Handler] | None:
        parts = path.split("/")
        if len(parts) != 5 or parts[1] != "v1" or parts[3] != "versions" or parts[2] not in self._services:
            return None
        if not (parts[4].isascii() and parts[4].isdecimal() and len(parts[4]) <= DIGITS_MAX):
            return None
        return {"GET": partial(self._version, self._services[parts[2]], Version(int(parts[4])))}

    def _refuse(self, request: Request, error: PenstockError) -> Reply:
        parts = request.path.split("/")
        service = self._services.get(parts[2]) if len(parts) > 2 else None
        if service is not None:
            service.metrics.refused(problems.name_of(error))
        return refusal(error)

    # Events -----------------------------------------------------------------------------------------------------------

    async def _accept(self, service: Service, kind: Kind, request: Request) -> Reply:
        service.demand_open()
        body = await self._patience.read(request, service.spec.serve.body_max_bytes)
        media = media_of(request.media)
        intake = service.intake
        if media is Media.ARROW:
            batch = service.decoder.arrow(kind, body, request.received, request.source)
            service.classes.admit(class_names(batch.labels))
            impossible = _impossible(service, kind, lambda: batch)
            accepted, duplicates, end = await intake.accept_batch(kind, batch, len(body))
        else:
            events, _ = service.decoder.rows(kind, body, media)
            # What takes a label back has none.
            labels = [event.label for event in events if event.label is not None]
            if service.spec.task == "multiclass":
                service.classes.admit(map(class_name, labels))
            elif service.spec.task == "multilabel":
                service.classes.admit(class_name(name) for label in labels for name in label)
            impossible = _impossible(service, kind, lambda: service.decoder.batch(kind, events, request.received))
            accepted, duplicates, end = await intake.accept(kind, events, request.source, len(body))
        if duplicates:
            service.metrics.duplicates.inc(duplicates)
        why = [_Aside(event, reason) for event, reason in sorted(impossible.items())[:ASIDE_TOLD_MAX]]
        position = {str(intake.partition): int(end)}
        return Reply(_encode(_Accepted(accepted, duplicates, position, len(impossible), why)), 201)

    async def _predict(self, service: Service, request: Request) -> Reply:
        service.demand_open()
        body = await self._patience.read(request, service.spec.serve.body_max_bytes)
        media = media_of(request.media)
        if media is Media.ARROW:
            batch = service.decoder.arrow(Kind.PREDICTION, body, request.received, request.source)
            answered, single = await service.answers.ask_batch(batch), False
        else:
            events, single = service.decoder.rows(Kind.PREDICTION, body, media)
            answered = await service.answers.ask(events, request.source)
        headers = ((b"penstock-position", answered.position.encode()),)
        return Reply(_encode(answered.answers[0] if single else _Predictions(answered.answers)), headers=headers)

    # What is asked about ----------------------------------------------------------------------------------------------

    async def _list_services(self, request: Request) -> Reply:
        return Reply(
            _encode(
                {
                    "services": [
                        {
                            "name": name,
                            "task": service.spec.task,
                            "version": service.live.version(),
                            "health": health_of(service),
                        }
                        for name, service in self._services.items()
                    ]
                }
            )
        )

    async def _status(self, service: Service, request: Request) -> Reply:
        return Reply(_encode(status_of(service)))

    async def _spec(self, service: Service, request: Request) -> Reply:
        return Reply(_encode(settings(service.spec)))

    async def _versions(self, service: Service, request: Request) -> Reply:
        asked = parse_qs(request.query.decode("latin-1"))
        limit = _number_in(asked, "limit", 20, VERSIONS_MAX)
        before = Version(_number_in(asked, "before", 0, 2**62)) or None
        # SQLite may have to wait for the disk, which the event loop must not.
        found = await asyncio.to_thread(service.receipts.newest, limit, before)
        return Reply(_encode({"versions": found}))

    async def _history(self, service: Service, request: Request) -> Reply:
        asked = parse_qs(request.query.decode("latin-1"))
        limit = _number_in(asked, "limit", 20, VERSIONS_MAX)
        if unknown := [kind for kind in asked.get("kind", []) if kind not in KINDS]:
            raise BadEvent(f"Query parameter 'kind' should be one of {', '.join(KINDS)}, not {unknown[0]!r}")
        kinds = asked.get("kind") or [kind for kind in KINDS if kind != "published"]
        found = await asyncio.to_thread(service.receipts.facts, limit, kinds)
        return Reply(_encode({"history": found}))

    async def _version(self, service: Service, version: Version, request: Request) -> Reply:
        def found() -> Priced:
            receipts = service.receipts
            return priced(receipts.receipt(version), read_costs(service.folder), withdrawn_by(version, receipts))

        return Reply(_encode(await asyncio.to_thread(found)))

    async def _metrics(self, request: Request) -> Reply:
        found = readings(self._services.values())
        return Reply(await asyncio.to_thread(metrics.text, found), media=metrics.TEXT_TYPE.encode())

    async def _live(self, request: Request) -> Reply:
        return Reply(_encode({"status": "ok"}))

    async def _ready(self, request: Request) -> Reply:
        health = {name: health_of(service) for name, service in self._services.items()}
        waiting = [name for name, service in self._services.items() if not is_ready(service)]
        if not waiting:
            return Reply(_encode({"status": "ok", "services": health}))
        worst = f"{waiting[0]}: {health[waiting[0]].worst}"
        return Reply(_encode({"status": health[waiting[0]].status, "worst": worst, "services": health}), 503)

    async def _openapi(self, request: Request) -> Reply:
        return Reply(self._document)


def _number_in(asked: Mapping[str, list[str]], name: str, otherwise: int, most: int) -> int:
    if name not in asked:
        return otherwise
    text = asked[name][-1]
    if not (text.isascii() and text.isdecimal() and len(text) < 19 and 1 <= int(text) <= most):
        raise BadEvent(f"Query parameter {name!r} should be an integer from 1 to {most}, not {text!r}")
    return int(text)


def _impossible(service: Service, kind: Kind, columns: Callable[[], Batch]) -> dict[int, str]:
    """The places of the events that will be set aside whoever sent them, and why."""
    declared = service.declared
    if not declared.is_anything:
        return {}
    return declared.impossible_labels(columns()) if kind is Kind.FEEDBACK else declared.impossible(columns())
