"""What each answer of a receiver leads to: tried again, refused with a clear word, taken in part, or taken."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from typing import Any

import pytest

from doubles import WAIT_S, one_span

pytest.importorskip("grpc")

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from otlp_case import backend_of, spans_of, warnings
from otlp_server import Code, GRPCServer, OTLPServer, Reply, tracing

import spanhook
from spanhook_backends.otlp.delivery import NotDelivered

TEXT = {"Content-Type": "text/plain"}
JSON = {"Content-Type": "application/json"}
SECRET = "sk-not-to-be-seen"


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
        backend = backend_of(receiver, timeout_s=0.3 if answer.hang else 10)
        with pytest.raises(spanhook.RetryLater, match="http://127") as raised:
            backend.emit(spans_of(2))
        assert raised.value.after_s == after_s
        asked = len(receiver.requests)
        receiver.answer_with()
        backend.emit(spans_of(2))
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
    ],
)
def test_what_passes_is_tried_again_over_grpc(code: str, trailing: Any, after_s: float | None) -> None:
    """The codes that OTLP's specification names, and the time that the receiver asks for."""
    sent = () if trailing is None else (("google.rpc.retryinfo-bin", trailing.SerializeToString()),)
    with GRPCServer() as receiver:
        receiver.answer_with(Code(grpc.StatusCode[code], "busy", sent))
        backend = backend_of(receiver)
        with pytest.raises(spanhook.RetryLater, match=f"answered {code}: busy") as raised:
            backend.emit(spans_of(2))
        assert raised.value.after_s == after_s
        backend.emit(spans_of(2))
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
        warning, summary = warnings(caplog)
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
    warning, summary = warnings(caplog)
    assert summary == "not delivered: backend otlp: 3 failed"
    assert said in warning


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
    warning, _ = warnings(caplog)
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
        backend = backend_of(receiver)
        if failed == 0:
            backend.emit(spans_of(5))
        elif failed == 5:
            with pytest.raises(NotDelivered):
                backend.emit(spans_of(5))
        else:
            with pytest.raises(spanhook.PartlyFailed) as raised:
                backend.emit(spans_of(5))
            assert raised.value.failed == failed
        backend.shutdown(1.0)
