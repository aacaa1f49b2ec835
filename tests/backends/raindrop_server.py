"""Raindrop for tests and for trying things out: a server on loopback that takes what Raindrop takes and nothing else.

with RaindropServer() as raindrop:
    tracer = spanhook.configure({"tracing": {"backends": ["raindrop"]}, "backends": {"raindrop": raindrop.options}})
    ...
    raindrop.events, raindrop.identities, raindrop.signals, raindrop.spans   # what has arrived
    raindrop.fault(status=500)                                               # from now on

`python tests/backends/raindrop_server.py --port 8080` prints what arrives, a line of JSON each.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import raindrop_contract as contract
from raindrop_spans import OTLPSpan, spans_of

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


class RaindropServer:
    """Raindrop on a free port of 127.0.0.1, for a `with` block. Any number of threads may call it.

    `problems` has a line for everything in a request that Raindrop would refuse; such a request is answered 400.
    """

    def __init__(self, port: int = 0, key: str = KEY) -> None:
        self.key = key
        self.requests: list[Request] = []
        self.problems: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.identities: list[dict[str, Any]] = []
        self.signals: list[dict[str, Any]] = []
        self.spans: list[OTLPSpan] = []
        self.on_arrival: Callable[[str, Any], None] = lambda what, item: None
        self._fault: Fault | None = None
        self._released = threading.Event()
        self._changed = threading.Condition()
        self._http = _HTTPServer(("127.0.0.1", port), functools.partial(_Handler, self))
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def endpoint(self) -> str:
        """What to set as `endpoint`."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1/"

    @property
    def options(self) -> dict[str, Any]:
        """`[backends.raindrop]` for this server."""
        return {"api_key": self.key, "endpoint": self.endpoint, "app_git": False}

    def __enter__(self) -> RaindropServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

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
            found = spans_of(headers, body)
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


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._connections: dict[threading.Thread, socket.socket] = {}

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self._connections[threading.current_thread()] = request
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.pop(threading.current_thread(), None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a client that went away is no error of the server
            super().handle_error(request, client_address)

    def server_close(self) -> None:
        super().server_close()
        for thread, connection in list(self._connections.items()):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, owner: RaindropServer, *args: Any) -> None:
        self.owner = owner
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        status = self.owner.answer(self.path, headers, body)
        if status is None:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


def main() -> None:
    """Print what arrives, until interrupted."""
    parser = argparse.ArgumentParser(description="A Raindrop that checks and prints what it gets.")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--key", default=KEY, help="the api_key that it takes")
    arguments = parser.parse_args()

    def show(kind: str, item: Any) -> None:
        print(json.dumps({kind: asdict(item) if isinstance(item, OTLPSpan) else item}), flush=True)

    with RaindropServer(arguments.port, arguments.key) as server:
        server.on_arrival = show
        print(f"endpoint = {server.endpoint!r}, api_key = {server.key!r}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        print("\n".join(server.problems))


if __name__ == "__main__":
    main()
