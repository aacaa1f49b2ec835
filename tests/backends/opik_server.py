"""A stand-in for Opik's server that checks what it is sent: on loopback, with Opik's own contract.

with OpikServer() as server:
    client = opik.Opik(host=server.url, api_key=server.api_key, workspace=server.workspace)
    ...
    server.trace("answer").spans        # what a user would see, merged by id
    assert not server.refused           # nothing broke the contract

A request that breaks the contract is answered 400, as Opik does, and stands in `refused` with the reason. On demand it
answers with another status, hangs, or breaks the connection: `server.fail(...)`.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import opik_contract
from opik_contract import Body, Refusal

from http_server import Exchange, HTTPServer

API_KEY = "opik-test-key"
WORKSPACE = "test-workspace"
HOLD_LIMIT_S = 60.0

Trouble = Literal["hang", "break"]


@dataclass(slots=True)
class Request:
    """One request as it came in; `items` are its traces, spans or scores."""

    method: str
    path: str
    headers: dict[str, str]
    items: list[Body]
    status: int = 0


@dataclass(slots=True)
class Trace:
    """A trace as Opik would show it: its own fields, its spans in the order of their start, its scores by name."""

    fields: Body
    spans: list[Body] = field(default_factory=list)
    scores: dict[str, Body] = field(default_factory=dict)

    def span(self, name: str) -> Body:
        """The one span of this name."""
        (found,) = [span for span in self.spans if span["name"] == name]
        return found

    def tree(self) -> list[str]:
        """The spans as indented `type name` lines; one whose parent never came is marked."""
        by_id = {span["id"]: span for span in self.spans}
        lines = []
        for span in self.spans:
            depth, parent = 0, span.get("parent_span_id")
            while parent in by_id:
                depth, parent = depth + 1, by_id[parent].get("parent_span_id")
            lines.append(f"{'  ' * depth}{span['type']} {span['name']}{' (orphan)' if parent else ''}")
        return lines


class OpikServer(HTTPServer):
    """A server on a free port of 127.0.0.1, for a `with` block. Every connection has a daemon thread that ends with it.

    Args:
        api_key: what `Authorization` must be; None: no key is asked for, as with a server of one's own.
        workspace: what `Comet-Workspace` must be.
        port: a port of your choice, to come back on after an outage.
    """

    def __init__(self, api_key: str | None = API_KEY, workspace: str = WORKSPACE, port: int = 0) -> None:
        super().__init__(port)
        self.api_key = api_key
        self.workspace = workspace
        self.requests: list[Request] = []
        self.refused: list[str] = []
        self.pings = 0
        self.on_arrival: Callable[[str, Any], None] = lambda what, item: None
        self._records: dict[str, dict[str, Body]] = {"traces": {}, "spans": {}}
        self._scores: dict[str, list[Body]] = {"traces": [], "spans": []}
        self._troubles: list[Callable[[Request], int | Trouble | None]] = []
        self._changed = threading.Condition()
        self._closing = threading.Event()

    @property
    def url(self) -> str:
        """What Opik's SDK calls its host."""
        return f"http://127.0.0.1:{self.port}/api/"

    @contextmanager
    def fail(self, how: int | Trouble, path: str = "/private/", times: int = sys.maxsize) -> Iterator[None]:
        """Answer otherwise during a `with` block: with a status, never ("hang"), or with a broken connection ("break").

        Args:
            how: what to do with a request.
            path: only with requests whose path contains this; without pings, unless it is empty.
            times: only with so many of them.
        """
        left = [times]

        def trouble(request: Request) -> int | Trouble | None:
            if path not in request.path or left[0] <= 0:
                return None
            left[0] -= 1
            return how

        self._troubles.append(trouble)
        try:
            yield
        finally:
            self._troubles.remove(trouble)
            with self._changed:
                self._changed.notify_all()

    def wait_for(self, condition: Callable[[OpikServer], Any], timeout_s: float = 30.0) -> None:
        """Block until `condition(server)` holds. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self), timeout_s):
                raise TimeoutError(f"not so within {timeout_s} s; refused: {self.refused}")

    @property
    def traces(self) -> list[Trace]:
        """Every trace that was created, in the order of their start."""
        with self._changed:
            traces = {i: Trace(body) for i, body in self._records["traces"].items() if "start_time" in body}
            for span in self._records["spans"].values():
                if "start_time" in span and span["trace_id"] in traces:
                    traces[span["trace_id"]].spans.append(span)
            for score in self._scores["traces"]:
                if score["id"] in traces:
                    traces[score["id"]].scores[score["name"]] = score
        for trace in traces.values():
            trace.spans.sort(key=lambda span: span["start_time"])
        return sorted(traces.values(), key=lambda trace: trace.fields["start_time"])

    @property
    def lost_spans(self) -> list[Body]:
        """Spans whose trace never came."""
        with self._changed:
            return [s for s in self._records["spans"].values() if s.get("trace_id") not in self._records["traces"]]

    @property
    def scores(self) -> list[Body]:
        """Every feedback score on a trace, in the order in which they came."""
        return list(self._scores["traces"])

    @property
    def span_scores(self) -> list[Body]:
        """Every feedback score on a span."""
        return list(self._scores["spans"])

    def trace(self, name: str) -> Trace:
        """The one trace of this name."""
        (found,) = [trace for trace in self.traces if trace.fields["name"] == name]
        return found

    def take(self, request: Request, raw: bytes) -> tuple[int | Trouble, Body]:
        """Decide about one request and keep what it brings. On the connection's thread."""
        trouble = next((how for decide in self._troubles if (how := decide(request)) is not None), None)
        answer: tuple[int | Trouble, Body]
        try:
            if trouble is not None:
                answer = trouble, {"code": trouble, "message": "scripted"}
            elif request.path.endswith("/is-alive/ping"):
                self.pings += 1
                answer = 200, {"message": "Healthy Server", "healthy": True}
            else:
                opik_contract.check_headers(request.headers, self.api_key, self.workspace)
                body = json.loads(opik_contract.decompress(request.headers, raw))
                request.items = opik_contract.check_request(request.method, request.path, body)
                answer = 204, {}
        except Refusal as refusal:
            answer = refusal.status, {"code": refusal.status, "message": str(refusal)}
            self.on_arrival("refusal", f"{refusal.status} {request.method} {request.path}: {refusal}")
            if refusal.status != 401:
                self.refused.append(f"{request.method} {request.path}: {refusal}")
        request.status = answer[0] if isinstance(answer[0], int) else 0
        with self._changed:
            if not request.path.endswith("/is-alive/ping"):
                self.requests.append(request)
            if request.status == 204:
                self._keep(request)
            self._changed.notify_all()
        return answer

    def _keep(self, request: Request) -> None:
        kind = "spans" if "/spans" in request.path else "traces"
        what = "score" if request.path.endswith("/feedback-scores") else kind.removesuffix("s")
        for item in request.items:
            self.on_arrival(what, item)
        if request.path.endswith("/feedback-scores"):
            self._scores[kind] += request.items
            return
        for item in request.items:
            record = self._records[kind].setdefault(item["id"], {})
            record.update({name: value for name, value in item.items() if value is not None})

    def hold(self) -> None:
        """Keep a connection waiting until the trouble or the server ends. On the connection's thread."""
        with self._changed:
            self._changed.wait_for(lambda: not self._troubles or self._closing.is_set(), HOLD_LIMIT_S)

    def release(self) -> None:
        """Let go of every connection that waits."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()

    def serve(self, exchange: Exchange) -> None:
        """Answer one request. On the connection's thread."""
        status, body = self.take(Request(exchange.method, exchange.path, exchange.headers, []), exchange.body)
        if isinstance(status, str):
            if status == "hang":
                self.hold()
            return exchange.hang_up()
        headers = {"Content-Type": "application/json"} if status != 204 else {}
        if status == 429:
            headers["Retry-After"] = "0"
        return exchange.reply(status, b"" if status == 204 else json.dumps(body).encode(), headers)
