"""Raindrop for tests and for trying things out: a server on loopback that takes what Raindrop takes and nothing else.

with RaindropServer() as raindrop:
    tracer = spanhook.configure({"tracing": {"backends": ["raindrop"]}, "backends": {"raindrop": raindrop.options}})
    ...
    raindrop.events, raindrop.identities, raindrop.signals, raindrop.spans   # what has arrived
    raindrop.fault(status=500)                                               # from now on
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import raindrop_contract as contract
from otlp_wire import OTLPSpan, request_of, spans_of

from http_server import Exchange, HTTPServer

KEY = "rk-test-not-a-secret"


@dataclass(frozen=True, slots=True)
class Request:
    """A request and the status that it was answered with; 0 if it was not."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    status: int


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done to requests: answer with a status, leave without an answer, or hang up."""

    status: int | None = None
    hang: bool = False
    hang_up: bool = False
    only: str = ""  # the end of the paths that it is done to
    when: Callable[[bytes], bool] = lambda body: True


class RaindropSpan(OTLPSpan):
    """A span as Raindrop reads it."""

    @property
    def kind(self) -> str:
        """task, tool or llm."""
        return str(self.attributes["traceloop.span.kind"])

    @property
    def event_id(self) -> str:
        """The event that it belongs to."""
        return str(self.attributes["traceloop.association.properties.event_id"])


class RaindropServer(HTTPServer):
    """Raindrop on a free port of 127.0.0.1, for a `with` block. Any number of threads may call it.

    `problems` has a line for everything in a request that Raindrop would refuse; such a request is answered 400.
    """

    def __init__(self, port: int = 0, key: str = KEY) -> None:
        super().__init__(port)
        self.key = key
        self.requests: list[Request] = []
        self.problems: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.identities: list[dict[str, Any]] = []
        self.signals: list[dict[str, Any]] = []
        self.spans: list[RaindropSpan] = []
        self.on_arrival: Callable[[str, Any], None] = lambda what, item: None
        self._fault: Fault | None = None
        self._released = threading.Event()
        self._changed = threading.Condition()

    @property
    def endpoint(self) -> str:
        """What to set as `endpoint`."""
        return f"http://127.0.0.1:{self.port}/v1/"

    @property
    def options(self) -> dict[str, Any]:
        """`[backends.raindrop]` for this server."""
        return {"api_key": self.key, "endpoint": self.endpoint, "app_git": False}

    def release(self) -> None:
        """Let go of every request that hangs."""
        self._released.set()

    def serve(self, exchange: Exchange) -> None:
        """Answer one request. On the connection's thread."""
        status = self.answer(exchange.path, exchange.headers, exchange.body)
        if status is None:
            exchange.hang_up()
        else:
            exchange.reply(status)

    def fault(
        self,
        status: int | None = None,
        *,
        hang: bool = False,
        hang_up: bool = False,
        only: str = "",
        when: Callable[[bytes], bool] = lambda body: True,
    ) -> None:
        """From now on answer requests with `status`, let them hang until `heal`, or hang up on them.

        `only` and `when` choose requests by the end of their path and by their body.
        """
        self._fault = Fault(status, hang, hang_up, only, when)

    def heal(self) -> None:
        """Be well again; what hangs is answered."""
        self._fault = None
        self._released.set()
        self._released = threading.Event()

    def event(self, event_id: str) -> dict[str, Any]:
        """The one event of this id, with everything that came of it. Raises ValueError if there are several."""
        (found,) = [event for event in self.events if event["event_id"] == event_id]
        return found

    def wait_for(self, ready: Callable[[RaindropServer], bool], timeout_s: float = 30.0) -> None:
        """Block until something has arrived. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: ready(self), timeout_s):
                raise TimeoutError(f"not within {timeout_s} s; {len(self.requests)} requests arrived")

    def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> int | None:
        """Decide about a request, on its connection's thread: the status, None to hang up."""
        fault = self._fault
        status: int | None = 200
        if fault is not None and path.endswith(fault.only) and fault.when(body):
            self._note(Request(path, headers, body, fault.status or 0))
            if fault.hang:
                self._released.wait()
            return None if fault.hang_up else fault.status or 503
        problems = list(self._take(path, headers, body))
        if problems == ["wrong key"]:
            status = 401
        elif problems:
            status = 400
            self.problems += [f"{path}: {problem}" for problem in problems]
        for problem in problems:
            self.on_arrival("refusal", f"{status} {path}: {problem}")
        self._note(Request(path, headers, body, status))
        return status

    def _note(self, request: Request) -> None:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    def _take(self, path: str, headers: Mapping[str, str], body: bytes) -> list[str]:
        if headers.get("authorization") != f"Bearer {self.key}":
            return ["wrong key"]
        project_id = headers.get("x-raindrop-project-id")
        if project_id is not None and not contract.PROJECT_ID.fullmatch(project_id):
            return [f"{project_id!r} is no slug of a project"]
        if path == "/v1/traces":
            found = spans_of(request_of(headers, body), RaindropSpan)
            problems = [problem for span in found for problem in contract.spans(span, project_id)]
            return problems or self._store("span", self.spans, found)
        if headers.get("content-type") != "application/json":
            return ["the body is not said to be JSON"]
        try:
            data = json.loads(body, parse_constant=_no_number)
            json.dumps(data, ensure_ascii=False).encode()  # lone surrogates
        except ValueError as error:
            return [f"the body is no JSON: {error}"]
        check, kind, stored = {
            "/v1/events/track": (contract.track, "event", self.events),
            "/v1/events/track_partial": (contract.track_partial, "event", self.events),
            "/v1/users/identify": (contract.identify, "identity", self.identities),
            "/v1/signals/track": (contract.signals, "signal", self.signals),
        }.get(path, (None, "", []))
        if check is None:
            return ["there is no such address"]
        problems = list(check(data))
        return problems or self._store(kind, stored, data if isinstance(data, list) else [data])

    def _store(self, kind: str, stored: list[Any], items: list[Any]) -> list[str]:
        with self._changed:
            for item in items:
                known = [e for e in stored if kind == "event" and e["event_id"] == item["event_id"]]
                if known:
                    _merge(known[0], item)
                else:
                    stored.append(item)
                self.on_arrival(kind, item)
        return []


def _merge(known: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(known.get(name), dict):
            _merge(known[name], value)
        else:
            known[name] = value


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
