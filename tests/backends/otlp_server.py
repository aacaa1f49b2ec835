"""An OTLP receiver for tests: over HTTP and over gRPC, on loopback, that checks what it gets and fails on demand.

with OTLPServer() as receiver:
    tracer = spanhook.configure({"tracing": {"backends": ["otlp"]}, "backends": {"otlp": receiver.options}})
    ...
    receiver.spans                                   # what has arrived
    receiver.answer_with(Reply(503), Reply(200))     # to the next two requests; then it is well again
"""

from __future__ import annotations

import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import otlp_contract as contract
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from otlp_wire import OTLPSpan, request_of, spans_of

from http_server import Exchange, HTTPServer

WAIT_S = 30.0
PROTOBUF = {"Content-Type": "application/x-protobuf"}


@dataclass(frozen=True)
class Reply:
    """How a request is answered: by its status alone, or otherwise.

    Attributes:
        status: of HTTP.
        rejected: how many of its spans are not taken, in an answer that is a success.
        message: why not.
        takes: whether the spans count as arrived.
        hang: no answer until the server's end or `release`.
        hang_up: the connection is closed instead.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: PROTOBUF)
    body: bytes | None = None
    rejected: int = 0
    message: str = ""
    hang: bool = False
    hang_up: bool = False

    @property
    def payload(self) -> bytes:
        """The body that is sent."""
        return _partial(self.rejected, self.message).SerializeToString() if self.body is None else self.body


@dataclass(frozen=True)
class Code:
    """How a request is answered over gRPC."""

    code: grpc.StatusCode
    details: str = ""
    trailing: tuple[tuple[str, bytes], ...] = ()


def _partial(rejected: int, message: str) -> ExportTraceServiceResponse:
    answer = ExportTraceServiceResponse()
    if rejected or message:
        answer.partial_success.rejected_spans, answer.partial_success.error_message = rejected, message
    return answer


class _Receiver:
    """What both kinds have: the spans that arrived, and the answers to come."""

    def __init__(self, *, genai: bool = True, openinference: bool = True) -> None:
        self.spans: list[OTLPSpan] = []
        self.problems: list[str] = []
        self.requests: list[tuple[Mapping[str, str], list[OTLPSpan]]] = []  # with those that were not taken
        self.on_request: Callable[[list[OTLPSpan]], Any] = lambda spans: None  # may return a Reply or a Code
        self._conventions = {"genai": genai, "openinference": openinference}
        self._answers: deque[Any] = deque()
        self._always: Any = None
        self._changed = threading.Condition()
        self._released = threading.Event()

    def answer_with(self, *answers: Any, always: Any = None) -> None:
        """Answer the next requests so, one each, and those after them with `always`; None: as a healthy one."""
        self._answers, self._always = deque(answers), always

    def release(self) -> None:
        """Let go of every request that hangs."""
        self._released.set()

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Block until something is so. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(ready, WAIT_S):
                raise TimeoutError(f"{len(self.requests)} requests, {len(self.spans)} spans")

    def _decide(self, headers: Mapping[str, str], request: ExportTraceServiceRequest) -> tuple[Any, list[OTLPSpan]]:
        spans = spans_of(request)
        with self._changed:
            self.requests.append((headers, spans))
            self._changed.notify_all()
        answer = self.on_request(spans) or (self._answers.popleft() if self._answers else self._always)
        return answer, spans

    def _take(self, spans: list[OTLPSpan]) -> None:
        with self._changed:
            self.spans += spans
            self.problems += [
                f"{span.name}: {problem}" for span in spans for problem in contract.problems(span, **self._conventions)
            ]
            self._changed.notify_all()


class OTLPServer(_Receiver, HTTPServer):
    """A receiver over HTTP, for a `with` block.

    Args:
        port: 0: a free one.
        tls: the context of a server with a certificate.
        path: where spans are taken; elsewhere there is nothing.
    """

    protocol = "http"

    def __init__(
        self, port: int = 0, *, tls: ssl.SSLContext | None = None, path: str = "/v1/traces", **conventions: bool
    ) -> None:
        _Receiver.__init__(self, **conventions)
        HTTPServer.__init__(self, port, tls)
        self._path = path
        self._scheme = "http" if tls is None else "https"

    @property
    def endpoint(self) -> str:
        """What to set as `endpoint`."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, Any]:
        """`[backends.otlp]` for this server."""
        return {"endpoint": self.endpoint, "timeout_s": 10}

    def serve(self, exchange: Exchange) -> None:
        """Answer one request. On the connection's thread."""
        if exchange.method != "POST" or exchange.path != self._path:
            exchange.reply(404, b"404 page not found", {"Content-Type": "text/plain"})
            return
        reply, spans = self._decide(exchange.headers, request_of(exchange.headers, exchange.body))
        reply = reply or Reply()
        if reply.hang:
            self._released.wait(WAIT_S)
        if reply.hang or reply.hang_up:
            exchange.hang_up()
            return
        if 200 <= reply.status < 300:
            self._take(spans[reply.rejected :])
        exchange.reply(reply.status, reply.payload, reply.headers)


class GRPCServer(_Receiver):
    """A receiver over gRPC, of grpcio's own server, for a `with` block."""

    protocol = "grpc"

    def __init__(
        self, port: int = 0, *, credentials: grpc.ServerCredentials | None = None, **conventions: bool
    ) -> None:
        super().__init__(**conventions)
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="grpc-server")
        self._server = grpc.server(self._pool)
        add_TraceServiceServicer_to_server(_Servicer(self), self._server)  # type: ignore[no-untyped-call]
        address = f"127.0.0.1:{port}"
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, credentials)
        self._scheme = "http" if credentials is None else "https"

    @property
    def options(self) -> dict[str, Any]:
        """`[backends.otlp]` for this server."""
        return {"endpoint": f"{self._scheme}://localhost:{self.port}", "protocol": "grpc", "timeout_s": 10}

    def __enter__(self) -> GRPCServer:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._server.stop(0).wait(WAIT_S)
        self._pool.shutdown()

    def export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:
        """Answer one request. On a thread of the pool."""
        answer, spans = self._decide(dict(context.invocation_metadata()), request)
        if isinstance(answer, Code):
            context.set_trailing_metadata(answer.trailing)
            context.abort(answer.code, answer.details)
        reply = answer or Reply()
        if reply.hang:
            self._released.wait(WAIT_S)
            context.abort(grpc.StatusCode.UNAVAILABLE, "hung")
        self._take(spans[reply.rejected :])
        return _partial(reply.rejected, reply.message)


class _Servicer(TraceServiceServicer):  # type: ignore[misc]
    def __init__(self, receiver: GRPCServer) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:
        return self._receiver.export(request, context)


@contextmanager
def tracing(receiver: Any, *, section: dict[str, Any] | None = None, **options: Any) -> Iterator[Any]:
    """A tracer whose only backend is `otlp`, to this receiver; `section` is more of `[tracing]`."""
    import spanhook

    tracer = spanhook.configure(
        {
            "tracing": {"backends": ["otlp"], **(section or {})},
            "backends": {"otlp": {**receiver.options, **options}},
        }
    )
    try:
        yield tracer
    finally:
        tracer.shutdown(WAIT_S)


@contextmanager
def traced(receiver: Any, **more: Any) -> Iterator[Any]:
    """The same; when the block ends, everything has arrived, and it was as the conventions want it."""
    with tracing(receiver, **more) as tracer:
        yield tracer
        assert tracer.flush(WAIT_S)
    assert receiver.problems == []
    counted = tracer.stats()
    assert counted.errors == {}
    assert counted.backends["otlp"].delivered == counted.backends["otlp"].accepted
