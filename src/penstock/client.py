"""A small synchronous client of Penstock's HTTP interface: what the command line, the demo and users' programs call."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
import urllib3

from penstock.errors import Refused, Unreachable
from penstock.spec import Spec
from penstock.specfile.reader import read

DEFAULT_URL = "http://127.0.0.1:7717"
JSON = "application/json"
NDJSON = "application/x-ndjson"
ARROW = "application/vnd.apache.arrow.stream"

Event = Mapping[str, Any]
Body = Event | Sequence[Event] | bytes


class Aside(msgspec.Struct, frozen=True):
    """An event that is on the disk and will not be learned."""

    event: int
    """Its place in the request, from 0."""
    reason: str


class Acknowledged(msgspec.Struct, frozen=True):
    """What the server says of events that are on its disk."""

    accepted: int
    duplicates: int = 0
    """Events whose id was seen before: acknowledged, not kept again."""
    position: dict[str, int] = {}
    set_aside: int = 0
    """Events with a value that the service file calls impossible. Whether others will be set aside for their source
    is not known yet."""
    why: list[Aside] = []
    """Of the first ten of them."""


class Client:
    """Talks to one server. Safe to share between threads.

    Errors: `Unreachable` where nothing answers, `Refused` where the server says no (see its ``status``)."""

    def __init__(self, url: str | None = None, *, timeout_s: float = 30.0, connections: int = 8) -> None:
        self.url = (url or os.environ.get("PENSTOCK_URL") or DEFAULT_URL).rstrip("/")
        if "://" not in self.url:
            self.url = f"http://{self.url}"
        timeout = urllib3.Timeout(connect=min(5.0, timeout_s), read=timeout_s)
        self._pool = urllib3.PoolManager(maxsize=connections, timeout=timeout, retries=False)

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._pool.clear()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What users send --------------------------------------------------------------------------------------------------

    def examples(self, service: str, events: Body, *, media: str = ARROW, source: str | None = None) -> Acknowledged:
        """Send events with their labels, and what another system has answered (``incumbent``), if that is to be
        compared; bytes are of this media type. Returns when they are on the server's disk."""
        return self._acknowledged(f"/v1/{quote(service)}/examples", events, media, source)

    def feedback(self, service: str, answers: Body, *, media: str = NDJSON, source: str | None = None) -> Acknowledged:
        """Send labels of earlier predictions: ``{"id": ..., "label": ...}``, one or many, each with an ``incumbent`` if
        another system has answered as well. Another label under the same id, or under that of an example, corrects the
        one before; ``{"id": ..., "retract": True}`` takes it back."""
        return self._acknowledged(f"/v1/{quote(service)}/feedback", answers, media, source)

    def predict(
        self,
        service: str,
        features: Mapping[str, Any],
        *,
        id: str | None = None,
        subject: str | None = None,
        incumbent: Any = None,
    ) -> dict[str, Any]:
        """One answer: ``id``, ``version``, and ``label`` (a list of classes where a service has several together) with
        ``probabilities``, or ``mean``, ``low``, ``high`` and, where the service file asks for them, ``quantiles``.
        While it has ``apprentice_of``, the answer of the system of that name is the one to be used: what that has
        answered may be given here as ``incumbent``, or with the label."""
        said = (("id", id), ("subject", subject), ("incumbent", incumbent))
        named = {name: value for name, value in said if value is not None}
        event = {"features": features, **named}
        answer: dict[str, Any] = self.post(f"/v1/{quote(service)}/predict", event)
        return answer

    def predict_many(self, service: str, instances: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One answer for each mapping of features, in their order."""
        asked = {"instances": [{"features": features} for features in instances]}
        answers: list[dict[str, Any]] = self.post(f"/v1/{quote(service)}/predict", asked)["predictions"]
        return answers

    # What the server says ---------------------------------------------------------------------------------------------

    def services(self) -> list[dict[str, Any]]:
        """The status of every service."""
        found: list[dict[str, Any]] = self.get("/v1")["services"]
        return found

    def status(self, service: str) -> dict[str, Any]:
        """Health, counts of events, and the model that is served."""
        return self.get(f"/v1/{quote(service)}")

    def spec(self, service: str) -> Spec:
        """What the service's file says."""
        return read(self.get(f"/v1/{quote(service)}/spec"), called=f"{self.url}/v1/{service}/spec")

    def versions(self, service: str, *, limit: int = 20, before: int | None = None) -> list[dict[str, Any]]:
        """Receipts, the newest first."""
        older = "" if before is None else f"&before={before}"
        found: list[dict[str, Any]] = self.get(f"/v1/{quote(service)}/versions?limit={limit}{older}")["versions"]
        return found

    def version(self, service: str, version: int) -> dict[str, Any]:
        """The receipt that covers a version."""
        return self.get(f"/v1/{quote(service)}/versions/{version}")

    def history(self, service: str, *, limit: int = 20, kinds: Iterable[str] = ()) -> list[dict[str, Any]]:
        """What was done to a service, the newest first: facts of these kinds, such as ``held``, ``given_up`` and
        ``ordered``, or all but updates that were published."""
        chosen = "".join(f"&kind={quote(kind)}" for kind in kinds)
        found: list[dict[str, Any]] = self.get(f"/v1/{quote(service)}/history?limit={limit}{chosen}")["history"]
        return found

    def is_ready(self) -> bool:
        """Whether every service here answers predictions."""
        try:
            self.get("/health/ready")
        except (Refused, Unreachable):
            return False
        return True

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Sleep until every service answers. Raises Unreachable when the time is over."""
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if time.monotonic() > deadline:
                raise Unreachable(address=self.url, reason=f"not ready within {timeout_s:g} s")
            time.sleep(0.05)

    # The wire ---------------------------------------------------------------------------------------------------------

    def get(self, path: str) -> dict[str, Any]:
        """The JSON at this path."""
        return self._answer(self._call("GET", path, None, {}))

    def post(self, path: str, body: Body, media: str = JSON, source: str | None = None) -> dict[str, Any]:
        """The JSON that answers this body; bytes are sent as they are, under this media type."""
        if not isinstance(body, bytes):
            body, media = msgspec.json.encode(body), JSON
        headers = {"Content-Type": media}
        if source is not None:
            headers["Penstock-Source"] = source
        return self._answer(self._call("POST", path, body, headers))

    def _acknowledged(self, path: str, body: Body, media: str, source: str | None) -> Acknowledged:
        return msgspec.convert(self.post(path, body, media, source), Acknowledged)

    def _call(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool.request(method, self.url + path, body=body, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise Unreachable(address=self.url, reason=_reason(error)) from error

    def _answer(self, response: urllib3.BaseHTTPResponse) -> dict[str, Any]:
        try:
            content = msgspec.json.decode(response.data)
        except msgspec.DecodeError:
            content = None
        if not isinstance(content, dict):
            raise Unreachable(address=self.url, reason=f"it answers {response.status} with something that is not JSON")
        if response.status >= 400 and "title" in content:
            raise refusal(response.status, content)
        return content


def refusal(status: int, problem: Mapping[str, Any]) -> Refused:
    """A problem document (RFC 9457) as an error."""
    message = str(problem.get("detail") or problem.get("title") or f"The server answered {status}")
    return Refused(message, status=status, advice=str(problem.get("hint") or ""), problem=problem)


def _reason(error: BaseException) -> str:
    """The innermost cause, in words: urllib3 wraps what the system said several times."""
    while (inner := getattr(error, "reason", None) or error.__cause__) is not None and inner is not error:
        if not isinstance(inner, BaseException):
            return str(inner)
        error = inner
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).partition(": ")[2] or str(error) or type(error).__name__
