"""Delivery by OTLP: nothing lost in silence, nothing twice, and a clear word on what the receiver does wrong."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import pytest

from doubles import WAIT_S, messages, one_span

pytest.importorskip("grpc")

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from otlp_server import Code, GRPCServer, OTLPServer, Reply, traced, tracing

import spanhook
from http_server import Exchange, HTTPServer
from spanhook import Span, SpanError
from spanhook_backends.otlp import OTLPBackend
from spanhook_backends.otlp.delivery import NotDelivered

TEXT = {"Content-Type": "text/plain"}
JSON = {"Content-Type": "application/json"}
SECRET = "sk-not-to-be-seen"
UNAVAILABLE = {"http": Reply(503), "grpc": Code(grpc.StatusCode.UNAVAILABLE, "not now")}
TOO_LARGE = {"http": Reply(413), "grpc": Code(grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max (9 vs. 1)")}


@pytest.fixture(params=[OTLPServer, GRPCServer], ids=["http", "grpc"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Any]:
    with request.param() as server:
        server.protocol = request.node.callspec.id.split("-")[0]
        yield server


@pytest.fixture
def backend(receiver: Any) -> Iterator[OTLPBackend]:
    made = _backend(receiver)
    yield made
    made.shutdown(1.0)


def _backend(receiver: Any, **options: Any) -> OTLPBackend:
    return OTLPBackend(OTLPBackend.Options(**{**receiver.options, **options}))


def _spans(count: int, **more: Any) -> list[Span]:
    return [Span("a" * 32, f"{i + 1:016x}", None, "e1", "custom", f"span {i}", 1, 2, **more) for i in range(count)]


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return messages([record for record in caplog.records if record.levelno >= logging.WARNING])


def test_an_outage_loses_nothing_and_doubles_nothing(receiver: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What the receiver could not take arrives once it can; it is said when that begins and when it ends."""
    with traced(receiver) as tracer:
        receiver.answer_with(UNAVAILABLE[receiver.protocol], UNAVAILABLE[receiver.protocol])
        for _ in range(50):
            one_span(tracer)
        receiver.wait_for(lambda: len(receiver.spans) == 50)
    assert len({span.span_id for span in receiver.spans}) == 50
    began, ended = _warnings(caplog)
    assert "backend otlp: not reachable, will try again: http://" in began
    assert ended == "backend otlp: reachable again"


def test_nobody_listens_at_first(caplog: pytest.LogCaptureFixture) -> None:
    """A receiver that starts after the program gets everything."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    tracer = spanhook.configure(
        {"tracing": {"backends": ["otlp"]}, "backends": {"otlp": {"endpoint": f"http://127.0.0.1:{port}"}}}
    )
    one_span(tracer)
    assert not tracer.flush(0.3)
    with OTLPServer(port) as receiver:
        receiver.wait_for(lambda: len(receiver.spans) == 1)
        tracer.shutdown(WAIT_S)
    assert "Connection refused" in _warnings(caplog)[0]


@pytest.mark.parametrize(
    ("answer", "after_s"),
    [
        (Reply(503), None),
        (Reply(502), None),
        (Reply(504), None),
        (Reply(408), None),
        (Reply(429), None),
        (Reply(429, {"Retry-After": "7"}), 7.0),
        (Reply(503, {"Retry-After": "0"}), 0.0),
        (Reply(429, {"Retry-After": "soon"}), None),
        (Reply(429, {"Retry-After": formatdate(1_700_000_000, usegmt=True)}), 0.0),
        (Reply(hang_up=True), None),
        (Reply(hang=True), None),
    ],
    ids=str,
)
def test_what_passes_is_tried_again(answer: Reply, after_s: float | None) -> None:
    """Not taken now: the core offers it again, when the receiver wants it."""
    with OTLPServer() as receiver:
        receiver.answer_with(always=answer)
        backend = _backend(receiver, timeout_s=0.3 if answer.hang else 10)
        with pytest.raises(spanhook.RetryLater, match="http://127") as raised:
            backend.emit(_spans(2))
        assert raised.value.after_s == after_s
        asked = len(receiver.requests)
        receiver.answer_with()
        backend.emit(_spans(2))
        backend.shutdown(1.0)
    assert asked == (2 if answer.hang_up else 1)  # a connection that breaks is tried once more
    assert len(receiver.spans) == 2


@pytest.mark.parametrize(
    ("code", "trailing", "after_s"),
    [
        ("UNAVAILABLE", None, None),
        ("DEADLINE_EXCEEDED", None, None),
        ("CANCELLED", None, None),
        ("ABORTED", None, None),
        ("DATA_LOSS", None, None),
        ("OUT_OF_RANGE", None, None),
        ("UNAVAILABLE", RetryInfo(retry_delay=Duration(seconds=3, nanos=500_000_000)), 3.5),
        ("RESOURCE_EXHAUSTED", RetryInfo(retry_delay=Duration(seconds=2)), 2.0),
    ],
)
def test_what_passes_is_tried_again_over_grpc(code: str, trailing: Any, after_s: float | None) -> None:
    """The codes that OTLP's specification names, and the time that the receiver asks for."""
    sent = () if trailing is None else (("google.rpc.retryinfo-bin", trailing.SerializeToString()),)
    with GRPCServer() as receiver:
        receiver.answer_with(Code(grpc.StatusCode[code], "busy", sent))
        backend = _backend(receiver)
        with pytest.raises(spanhook.RetryLater, match=f"answered {code}: busy") as raised:
            backend.emit(_spans(2))
        assert raised.value.after_s == after_s
        backend.emit(_spans(2))
        backend.shutdown(1.0)
    assert (len(receiver.requests), len(receiver.spans)) == (2, 2)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Reply(400), "answered 400 Bad Request"),
        (Reply(401), "answered 401 Unauthorized; check headers under [backends.otlp], or OTEL_EXPORTER_OTLP_HEADERS"),
        (Reply(403, TEXT, b"no such\r\nproject"), "403 Forbidden: no such project; check headers"),
        (Reply(404), "404 Not Found: there is no OTLP receiver at this address; check endpoint under [backends.otlp]"),
        (Reply(405), "there is no OTLP receiver at this address"),
        (Reply(415), "there is no OTLP receiver at this address"),
        (
            Reply(307, {"Location": "https://else.example/v1?key=x"}),
            "a redirect to https://else.example/v1; check endpoint",
        ),
        (Reply(302), "a redirect to nowhere"),
        (
            Reply(500, body=Status(code=13, message="disk full").SerializeToString()),
            "500 Internal Server Error: disk full",
        ),
        (Reply(422, JSON, b'{"detail": "bad spans"}'), f"422 {HTTPStatus(422).phrase}: bad spans"),
        (Reply(499, JSON, b"["), "answered 499"),
        (Reply(200, {"Content-Type": "text/html"}, b"<html>"), "an answer of type text/html that is none of OTLP's"),
        (Reply(200, body=b"hello"), "an answer of type application/x-protobuf that is none of OTLP's"),
        (Reply(200, JSON, b"hello"), "an answer of type application/json that is none of OTLP's"),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_what_does_not_pass_is_said_and_counted(answer: Reply, said: str, caplog: pytest.LogCaptureFixture) -> None:
    """What, where, and what to do, once; no second attempt, and every span counted as failed."""
    with OTLPServer() as receiver:
        receiver.answer_with(always=answer)
        with tracing(receiver) as tracer:
            for _ in range(3):
                one_span(tracer)
                assert not tracer.flush(WAIT_S)
            counted = tracer.stats().backends["otlp"]
        assert (counted.failed, counted.delivered, counted.queued) == (3, 0, 0)
        assert len(receiver.requests) == 3
        warning, summary = _warnings(caplog)
        assert summary == "not delivered: backend otlp: 3 failed"
        assert warning.startswith("backend otlp: emit failed; the program goes on (logged once): NotDelivered: ")
        assert said in warning
        assert f"{receiver.endpoint}/v1/traces" in warning


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("UNAUTHENTICATED", "answered UNAUTHENTICATED: no; check headers under [backends.otlp]"),
        ("PERMISSION_DENIED", "answered PERMISSION_DENIED: no; check headers"),
        ("UNIMPLEMENTED", "there is no OTLP receiver for gRPC at this address; check endpoint under [backends.otlp]"),
        ("INVALID_ARGUMENT", "answered INVALID_ARGUMENT: no"),
        ("INTERNAL", "answered INTERNAL: no"),
    ],
)
def test_what_does_not_pass_is_said_and_counted_over_grpc(
    code: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The same for the codes that OTLP's specification does not let one repeat."""
    with GRPCServer() as receiver:
        receiver.answer_with(always=Code(grpc.StatusCode[code], "no"))
        with tracing(receiver) as tracer:
            for _ in range(3):
                one_span(tracer)
                assert not tracer.flush(WAIT_S)
            assert tracer.stats().backends["otlp"].failed == 3
        assert len(receiver.requests) == 3
    warning, summary = _warnings(caplog)
    assert summary == "not delivered: backend otlp: 3 failed"
    assert said in warning


def test_a_partial_success_counts_what_was_rejected(receiver: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With the receiver's own words; the rest counts as delivered, and nothing is sent again."""
    receiver.answer_with(Reply(rejected=2, message="too old"))
    with tracing(receiver) as tracer:
        for _ in range(5):
            one_span(tracer)
        assert not tracer.flush(WAIT_S)
        counted = tracer.stats().backends["otlp"]
    requests = len(receiver.requests)
    assert (counted.failed, counted.delivered) == (2, 3)
    assert len(receiver.spans) == 3
    assert requests == 1
    warning, _ = _warnings(caplog)
    assert "2 of 5 spans not delivered: http://" in warning
    assert "rejected spans: too old" in warning


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        (Reply(200, JSON, b'{"partialSuccess": {"rejectedSpans": "2"}}'), 2),
        (Reply(200, {"Content-Type": "application/json; charset=utf-8"}, b"{}"), 0),
        (Reply(200, JSON, b'{"partialSuccess": {"rejectedSpans": 99}}'), 5),
        (Reply(200, message="a warning only"), 0),
        (Reply(202, {}, b""), 0),
        (Reply(204, {}, b""), 0),
    ],
    ids=str,
)
def test_successes_of_all_forms(answer: Reply, failed: int) -> None:
    """JSON where protobuf was asked for, a warning without a loss, an empty body."""
    with OTLPServer() as receiver:
        receiver.answer_with(always=answer)
        backend = _backend(receiver)
        if failed == 0:
            backend.emit(_spans(5))
        elif failed == 5:
            with pytest.raises(NotDelivered):
                backend.emit(_spans(5))
        else:
            with pytest.raises(spanhook.PartlyFailed) as raised:
                backend.emit(_spans(5))
            assert raised.value.failed == failed
        backend.shutdown(1.0)


def test_what_is_too_large_is_sent_in_parts(receiver: Any, backend: OTLPBackend) -> None:
    """In halves until it fits; a span that is refused whatever is left of it counts as failed, and only that one."""
    refusal = TOO_LARGE[receiver.protocol]
    receiver.on_request = lambda spans: (
        refusal if len(spans) > 3 or any(span.name == "span 5" for span in spans) else None
    )
    with pytest.raises(spanhook.PartlyFailed, match="1 of 9 spans not delivered") as raised:
        backend.emit(_spans(9))
    assert raised.value.failed == 1
    assert sorted(span.name for span in receiver.spans) == [f"span {i}" for i in range(9) if i != 5]


def test_a_span_that_is_too_large_alone_goes_without_its_content(receiver: Any, backend: OTLPBackend) -> None:
    """And says so; what is short stays, ids and counts and the error's type among it."""
    refusal = TOO_LARGE[receiver.protocol]
    receiver.on_request = lambda spans: refusal if len(repr(spans)) > 100_000 else None
    long = "x" * 200_000
    error = SpanError("ValueError", long, long)
    backend.emit(_spans(3, inputs={"text": long}, user_id="u1", error=error, attributes={"tier": "gold"}))
    assert len(receiver.spans) == 3
    assert receiver.problems == []
    for span in receiver.spans:
        assert span.attributes["spanhook.content_lost"] is True
        assert (span.attributes["user.id"], span.attributes["spanhook.tier"]) == ("u1", "gold")
        assert span.attributes["error.type"] == "ValueError"
        assert span.exceptions == [{"exception.type": "ValueError"}]
        assert "input.value" not in span.attributes


def test_a_batch_that_comes_again_leaves_out_what_has_arrived(receiver: Any, backend: OTLPBackend) -> None:
    """An outage in the middle of a batch that goes in parts: no span twice, and those that failed stay counted."""
    spans = _spans(8)
    calls = iter([None, Reply(rejected=1, message="bad"), UNAVAILABLE[receiver.protocol]])
    receiver.on_request = lambda given: TOO_LARGE[receiver.protocol] if len(given) > 2 else next(calls, None)
    with pytest.raises(spanhook.RetryLater):
        backend.emit(spans)
    assert len(receiver.spans) == 3
    with pytest.raises(spanhook.PartlyFailed) as raised:
        backend.emit(spans)
    assert raised.value.failed == 1
    assert len({span.span_id for span in receiver.spans}) == len(receiver.spans) == 7
    backend.emit(spans)  # a batch of its own again
    assert len(receiver.spans) == 15


def test_large_batches_go_in_requests_that_fit(receiver: Any, backend: OTLPBackend) -> None:
    """Below the 4 MiB that a receiver for gRPC takes unless it is told otherwise."""
    backend.emit(_spans(40, inputs={"text": "x" * 100_000}))
    assert len(receiver.spans) == 40
    assert 2 < len(receiver.requests) < 20


def test_a_server_that_repeats_a_key_does_not_get_it_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The values of headers are taken out of what a server says."""
    echo = Reply(401, TEXT, f"unknown key Bearer {SECRET} and {SECRET}".encode())
    with OTLPServer() as receiver:
        receiver.answer_with(always=echo)
        with tracing(receiver, headers={"Authorization": f"Bearer {SECRET}"}) as tracer:
            one_span(tracer)
            tracer.flush(WAIT_S)
            assert receiver.requests[0][0]["authorization"] == f"Bearer {SECRET}"
    assert "unknown key *** and ***" in caplog.text
    assert SECRET not in caplog.text


def test_nobody_else_logs(receiver: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One voice speaks of delivery: Spanhook's."""
    caplog.set_level(logging.INFO, "opentelemetry")
    receiver.answer_with(UNAVAILABLE[receiver.protocol])
    with traced(receiver) as tracer:
        one_span(tracer)
        receiver.wait_for(lambda: bool(receiver.spans))
    assert {record.name for record in caplog.records} == {"spanhook"}


def test_an_instrumented_http_client_makes_no_spans_of_ours() -> None:
    """Else every request would make spans that make requests."""
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.requests")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    seen = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(seen))
    instrumentor = instrumentation.RequestsInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        with OTLPServer() as receiver, traced(receiver) as tracer:
            one_span(tracer)
    finally:
        instrumentor.uninstrument()
    assert seen.get_finished_spans() == ()


class _Trickle(HTTPServer):
    """Answers with a body without end."""

    def serve(self, exchange: Exchange) -> None:
        exchange.stream(500, {"Content-Type": "text/plain"})
        for _ in range(10_000):
            exchange.write(b"x" * 100_000)


def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    """A gigabyte from a broken server costs neither time nor memory."""
    with _Trickle() as server:
        backend = OTLPBackend(OTLPBackend.Options(endpoint=f"http://127.0.0.1:{server.port}"))
        with pytest.raises(NotDelivered, match="answered 500") as raised:
            backend.emit(_spans(1))
        backend.shutdown(1.0)
    assert len(str(raised.value)) < 500


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_worker_has_a_connection_of_its_own() -> None:
    """Parent and child send at the same time, and each span arrives once."""
    with OTLPServer() as receiver:
        with traced(receiver) as tracer:
            one_span(tracer, "before")
            assert tracer.flush(WAIT_S)
            pid = os.fork()
            if pid == 0:
                one_span(tracer, "child")
                os._exit(0 if tracer.flush(WAIT_S) else 1)
            one_span(tracer, "parent")
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert sorted(span.name for span in receiver.spans) == ["before", "child", "parent"]
